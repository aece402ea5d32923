"""Figures of how masks are made: prototypes, an instance's own convolutions and coordinates, masks over an image."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    INK,
    Image,
    bare,
    draw_masks,
    halo,
    image_size,
    new_figure,
    sheet,
    show_image,
    styled,
    to_numpy,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

DIVERGING = "RdBu_r"
"""Red is positive, blue negative, and white 0."""
MASK = BOXES[4]


@styled
def prototypes(
    mask_feat: Float[Tensor, "batch 8 height width"], *, image: Image | None = None, index: int = 0
) -> "matplotlib.figure.Figure":
    """The eight maps that all masks of an image are made of, each with its own range around 0.

    Args:
        mask_feat: the prototypes of each image.
        image: the image, to show before them.
        index: which image of the batch.
    """
    maps = to_numpy(mask_feat[index])
    count, height, width = maps.shape
    title = f"{count} prototypes of {height} × {width} cells; red is positive, blue negative"
    before = int(image is not None)
    figure, axes = sheet(title, count + before, 3 if before else 4, height / width)
    if image is not None:
        show_image(axes[0], image)
        axes[0].set_title("image")
    for number, (ax, values) in enumerate(zip(axes[before:], maps, strict=True), 1):
        _show_signed(ax, values)
        ax.set_title(f"prototype {number}")
    return figure


@styled
def kernel_matrices(kernel: Sequence[Float[Tensor, "..."]], *, title: str | None = None) -> "matplotlib.figure.Figure":
    """The three convolutions of one instance as matrices, a row for each output, with the biases beside them.

    Args:
        kernel: weights of the three, then their biases, as
            :func:`~minirtmdet.reference.dynamic.parse_kernel` gives them.
        title: what they are of, in a sentence.
    """
    parts = [to_numpy(part) for part in kernel]
    weights, biases = parts[:3], parts[3:]
    numbers = sum(part.size for part in parts)
    figure = new_figure(title or f"{numbers} numbers are three convolutions: red is positive, blue negative", 2.2)
    ratios = [part.shape[1] + 2 for part in weights]
    axes = figure.subplots(1, 3, width_ratios=ratios)
    limit = max(float(np.abs(part).max()) for part in parts) or 1.0
    inputs = [["x", "y", *map(str, range(1, weights[0].shape[1] - 1))]]
    inputs += [[str(i) for i in range(1, part.shape[1] + 1)] for part in weights[1:]]
    for number, (ax, weight, bias) in enumerate(zip(axes, weights, biases, strict=True), 1):
        gap = np.full((len(weight), 1), np.nan)
        values = np.hstack([weight, gap, bias[:, None]])
        image = ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
        ax.set(
            xticks=[*range(weight.shape[1]), weight.shape[1] + 1],
            xticklabels=[*inputs[number - 1], "b"],
            yticks=range(len(weight)),
            yticklabels=range(1, len(weight) + 1),
            title=f"{len(weight)} × {weight.shape[1]}",
        )
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_ylabel("output")
    axes[0].set_xlabel("input: coordinates, prototypes; bias")
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=25)
    return figure


@styled
def coordinates(
    maps: Mapping[str, Float[Tensor, "2 height width"]], points: Sequence[tuple[float, float]], *, stride: int = 8
) -> "matplotlib.figure.Figure":
    """The two coordinate maps of several priors, two priors per row: 0 at the prior, positive left of it and above.

    Args:
        maps: relative x and y, by what to call the prior.
        points: ``(x, y)`` of each prior in pixels, to mark.
        stride: pixels per cell.
    """
    values = {name: to_numpy(both) for name, both in maps.items()}
    height, width = next(iter(values.values())).shape[1:]
    title = "Relative coordinates: 0 at the prior, positive to its left and above it"
    figure, axes = sheet(title, 2 * len(values), 4, height / width)
    limit = max(float(np.abs(both).max()) for both in values.values())
    pairs = [(name, axis, both[row]) for name, both in values.items() for row, axis in enumerate("xy")]
    for number, (ax, (name, axis, one)) in enumerate(zip(axes, pairs, strict=True)):
        image = ax.imshow(one, cmap=DIVERGING, vmin=-limit, vmax=limit, extent=(0, width * stride, height * stride, 0))
        _mark(ax, points[number // 2])
        bare(ax)
        ax.set_title(f"{axis}, {name}")
    figure.colorbar(image, ax=axes, aspect=25)
    return figure


@styled
def masks_over(
    image: Image,
    masks: Mapping[str, Bool[Tensor, "height width"]],
    *,
    truth: Bool[Tensor, "height width"] | None = None,
    point: tuple[float, float] | None = None,
    columns: int = 3,
    title: str = "Masks over the image",
) -> "matplotlib.figure.Figure":
    """Masks over an image, a panel for each; the true one as a dashed outline.

    Args:
        image: the image.
        masks: in its pixels, by what to call them.
        truth: the true mask.
        point: ``(x, y)`` of a prior, to ring.
        columns: panels per row.
        title: what they show, in a sentence.
    """
    height, width = image_size(image)
    figure, axes = sheet(title, len(masks), columns, height / width)
    for ax, (name, mask) in zip(axes, masks.items(), strict=True):
        show_image(ax, image)
        draw_masks(ax, [to_numpy(mask)], [MASK])
        if truth is not None and bool(truth.any()):
            at = np.arange(width) + 0.5, np.arange(height) + 0.5
            ax.contour(*at, to_numpy(truth), [0.5], colors="white", linewidths=1.0, linestyles="--")
        if point is not None:
            _mark(ax, point)
        ax.set(title=name, xlim=(0, width), ylim=(height, 0))
    return figure


def _show_signed(ax: "matplotlib.axes.Axes", values: Float[np.ndarray, "height width"]) -> None:
    """A map whose 0 is white."""
    limit = float(np.abs(values).max()) or 1.0
    ax.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    bare(ax)


def _mark(ax: "matplotlib.axes.Axes", point: tuple[float, float]) -> None:
    """A ring around a prior."""
    ax.scatter(*point, 60, "none", edgecolors=BOXES[2], lw=1.4, path_effects=halo(3.0, INK), label="prior")
