"""Figures of a data set before it is trained on: what is labelled, and how large."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from minirtmdet.messages import counted
from minirtmdet.plots.canvas import (
    INK,
    LEVELS,
    MUTED,
    check_labels,
    class_colors,
    draw_box,
    image_size,
    new_figure,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.images import MOST_LABELS, Annotated
from minirtmdet.plots.labels import draw_labels

if TYPE_CHECKING:
    import matplotlib.figure


@runtime_checkable
class Labelled(Annotated, Protocol):
    """An image with labelled boxes, such as :class:`minirtmdet.data.augment.Sample`."""

    @property
    def labels(self) -> Any:
        """``[n]``."""

    @property
    def ignore(self) -> Any:
        """``[n]``, true for regions that are not learned."""


@styled
def contact_sheet(
    samples: Sequence[Labelled], classes: Sequence[str], *, names: Sequence[str] | None = None, columns: int = 4
) -> "matplotlib.figure.Figure":
    """A sheet of images with their labels, to look at before anything is trained.

    Args:
        samples: the images.
        classes: name of each label.
        names: what to write above each image; its number of boxes where left out.
        columns: images per row.

    A colour is a class; ignore regions are dashed.  The first twelve boxes of an image are named.

    Raises:
        ValueError: where there is no image, the numbers differ, or a label has no name.
    """
    names = [counted(len(sample.boxes), "box", "boxes") for sample in samples] if names is None else names
    if not len(samples) or len(samples) != len(names):
        raise ValueError(f"{len(samples)} samples with {len(names)} names: give one name a sample, at least one")
    count = sum(len(sample.boxes) for sample in samples)
    aspect = float(np.median([height / width for height, width in (image_size(s.image) for s in samples)]))
    title = f"Labels: {counted(count, 'box', 'boxes')} in {counted(len(samples), 'image')}"
    figure, axes = sheet(title, len(samples), columns, aspect)
    for ax, sample, name in zip(axes, samples, names, strict=True):
        show_image(ax, sample.image)
        ax.set_title(name)
    figure.draw_without_rendering()
    palette = class_colors(classes)
    for i, (ax, sample) in enumerate(zip(axes, samples, strict=True)):
        boxes, labels = to_numpy(sample.boxes), to_numpy(sample.labels)
        check_labels(labels.tolist(), classes, f"image {i}")
        colors = [palette[label] for label in labels]
        for box, color, ignored in zip(boxes, colors, to_numpy(sample.ignore), strict=True):
            draw_box(ax, box, color, dashed=bool(ignored))
        texts = [classes[label] for label in labels]
        draw_labels(ax, boxes[:MOST_LABELS], texts[:MOST_LABELS], colors[:MOST_LABELS])
    return figure


@styled
def box_sizes(sizes: Mapping[str, Float[np.ndarray, "_ 2"]], input_size: int) -> "matplotlib.figure.Figure":
    """How large the boxes of each class are to the network, beside the strides of its levels.

    Args:
        sizes: width and height of the boxes of each class, in pixels of the network's input.
        input_size: its side.

    A dot is a box, at the square root of its area; a bar is the median of its class.

    Raises:
        ValueError: where there is no box.
    """
    sides = {name: np.sqrt(np.prod(to_numpy(size).reshape(-1, 2), axis=1)) for name, size in sizes.items()}
    everything = np.concatenate([*sides.values(), np.zeros(0)])
    if not len(everything):
        raise ValueError("there is no box to draw")
    small = int((everything < min(LEVELS)).sum())
    title = f"{counted(len(everything), 'box', 'boxes')} at {input_size} px: {small} below stride {min(LEVELS)}"
    title += f", half of them below {np.median(everything):.0f} px"
    figure = new_figure(title, 0.8 + 0.24 * len(sides))
    ax = figure.subplots()
    for stride, (color, _) in LEVELS.items():
        ax.axvline(stride, color=color, lw=1.6)
        ax.annotate(
            f"stride {stride}",
            (stride, 1),
            (3, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            size=8,
            color=INK,
        )
    for row, (side, color) in enumerate(zip(sides.values(), class_colors(list(sides)), strict=True)):
        ax.plot(side, np.full(len(side), row), "o", color=color, ms=5, alpha=0.35, mec="none")
        if len(side):
            ax.plot([np.median(side)], [row], "|", color=INK, ms=13, mew=2)
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(everything.min(), min(LEVELS)) / 1.3, input_size)
    ticks = [2**n for n in range(12) if ax.get_xlim()[0] <= 2**n <= input_size]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks(range(len(sides)), [f"{name} ({len(side)})" for name, side in sides.items()], parse_math=False)
    ax.set_ylim(len(sides) - 0.4, -0.6)
    ax.set_xlabel("square root of the area, in pixels of the input", color=MUTED)
    ax.grid(axis="y", visible=False)
    return figure
