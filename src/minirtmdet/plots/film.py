"""How the assignment of one image changes in the course of a training: a sheet that prints, and a film that moves."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    MUTED,
    WIDTH,
    Image,
    box_color,
    draw_box,
    image_size,
    level_style,
    new_figure,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import dot_area, draw_dots, draw_ring
from minirtmdet.plots.grids import gt_indices, listed, named, real_boxes
from minirtmdet.structures import AssignResult, GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

COLORS = 128


@styled
def film(
    image: Image,
    frames: Mapping[str, AssignResult | Int[Tensor, " priors"]],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    names: Sequence[str] | None = None,
    index: int = 0,
    follow: int | None = None,
    columns: int = 3,
) -> "matplotlib.figure.Figure":
    """The positives of one image at several moments, side by side; the headings count them box by box.

    Args:
        image: the image.
        frames: the assignment at each moment, by what to call the moment; of a batch, or one image's ``gt_inds``.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: of a batch, or one image's boxes.
        names: what each box shows.
        index: which image of the batch.
        follow: index of a prior to ring.
        columns: images per row.

    Raises:
        ValueError: where there is no frame, or a box has no name.
    """
    owners = _owners(frames, index)
    boxes = real_boxes(ground_truth, index)
    height, width = image_size(image)
    called = list(named(boxes, names).values())
    title = f"How many priors learn {listed(called) if called else 'a box'} in the course of a training run"
    figure, axes = sheet(title, len(frames), columns, height / width)
    for ax, (name, inds) in zip(axes, owners.items(), strict=True):
        show_image(ax, image, opacity=0.7)
        counts = [int((inds == g + 1).sum()) for g in boxes]
        ax.set_title(f"{name}: {_listed(counts)}")
    figure.draw_without_rendering()
    for ax, inds in zip(axes, owners.values(), strict=True):
        _draw_positives(ax, inds, boxes, points, follow)
    return figure


def animate(
    path: Path,
    image: Image,
    frames: Mapping[str, AssignResult | Int[Tensor, " priors"]],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    index: int = 0,
    follow: int | None = None,
    seconds: float = 1.2,
) -> Path:
    """Write the moments of :func:`film` as an animation, with the course of the number of positives beside them.

    The film begins again when it ends, after a pause on its last frame.

    Args:
        path: the ending is the format: ``.gif``, or ``.png`` for an animated PNG.
        image: the image.
        frames: as in :func:`film`.
        points: as in :func:`film`.
        ground_truth: as in :func:`film`.
        index: which image of the batch.
        follow: index of a prior to ring.
        seconds: how long each frame stays.

    Returns:
        ``path``.

    Raises:
        ValueError: where there is no frame, and for another ending.
    """
    if path.suffix not in (".gif", ".png"):
        raise ValueError(f"{path} does not end in .gif or .png: other formats do not move")
    owners = _owners(frames, index)
    boxes = real_boxes(ground_truth, index)
    counts = {g: [int((inds == g + 1).sum()) for inds in owners.values()] for g in boxes}
    drawn = [
        _pixels(_frame(image, list(owners), shown, owners[name], boxes, counts, points, follow))
        for shown, name in enumerate(owners, 1)
    ]
    # one palette for all frames, so that what does not move does not flicker
    palette = drawn[-1].quantize(COLORS)
    still, *rest = (image.quantize(palette=palette, dither=0) for image in drawn)
    durations = [round(1000 * seconds)] * len(drawn)
    durations[-1] *= 3
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        still.save(unfinished, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


@styled
def _frame(
    image: Image,
    names: list[str],
    shown: int,
    owners: np.ndarray,
    boxes: dict[int, np.ndarray],
    counts: dict[int, list[int]],
    points: Tensor,
    follow: int | None,
) -> "matplotlib.figure.Figure":
    """One frame of the film; every frame has the same layout, or the film would shake."""
    from matplotlib.lines import Line2D

    height, width = image_size(image)
    figure = new_figure(
        f"{names[shown - 1]}: {(owners > 0).sum()} positives", min(0.5 * WIDTH * height / width, 5) + 0.1
    )
    scene, chart = figure.subplots(1, 2)
    show_image(scene, image, opacity=0.7)
    moments = np.arange(len(names))
    for g, course in counts.items():
        color = box_color(g)
        chart.plot(moments[:shown], course[:shown], color=color, lw=1.8)
        chart.plot(moments[shown - 1], course[shown - 1], "o", color=color, label=f"box {g}")
    most = max((max(course) for course in counts.values()), default=0)
    chart.set(xlim=(-0.3, len(names) - 0.7), ylim=(0, 1.1 * most + 1), ylabel="positives of each box")
    chart.set_xticks(moments, names, rotation=45, ha="right", rotation_mode="anchor")
    chart.yaxis.get_major_locator().set_params(integer=True)
    keys = [
        Line2D([], [], ls="", marker=level_style(s)[1], color=MUTED, markersize=7, label=f"stride {s:g}")
        for s in np.unique(to_numpy(points[:, 2]))
    ]
    chart.legend(handles=keys, loc="upper left", title="shape of a dot", alignment="left")
    figure.draw_without_rendering()
    _draw_positives(scene, owners, boxes, points, follow)
    return figure


def _draw_positives(
    ax: "matplotlib.axes.Axes", owners: np.ndarray, boxes: dict[int, np.ndarray], points: Tensor, follow: int | None
) -> None:
    """Boxes and their positives, on an image that has been laid out."""
    area = np.full(len(points), dot_area(ax, points))
    for g, box in boxes.items():
        draw_box(ax, box, box_color(g))
        draw_dots(ax, points, owners == g + 1, box_color(g), area, f"box {g}")
    if follow is not None:
        draw_ring(ax, to_numpy(points[follow, :2]), "follow", 2.4 * area[0])


def _owners(frames: Mapping[str, AssignResult | Tensor], index: int) -> dict[str, np.ndarray]:
    if not frames:
        raise ValueError("there is no frame: a film needs at least one assignment")
    return {name: gt_indices(assigned, index) for name, assigned in frames.items()}


def _listed(counts: list[int], most: int = 6) -> str:
    """Counts of the first boxes.

    >>> _listed([8, 8, 2]), _listed([]), _listed([1] * 300, most=2)
    ('8 + 8 + 2', 'no box', '1 + 1 + …')
    """
    shown = " + ".join(map(str, counts[:most])) or "no box"
    return f"{shown} + …" if len(counts) > most else shown


def _pixels(figure: "matplotlib.figure.Figure") -> Any:
    """A figure as a Pillow image."""
    from io import BytesIO

    from PIL import Image as Pillow

    png = BytesIO()
    figure.savefig(png, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return Pillow.open(png).convert("RGB")
