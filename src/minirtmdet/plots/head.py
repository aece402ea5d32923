"""Figures of where the head predicts: priors, valid flags, and distances from a prior."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    CARD,
    INK,
    MUTED,
    Image,
    draw_box,
    halo,
    image_size,
    level_style,
    panels,
    points_per_pixel,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import draw_ring, square_around, union
from minirtmdet.plots.grids import Level, levels

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


ROOM_FOR_TEXT = 24.0
"""Side of a cell on paper, in points, from which on its prior is labelled."""


@styled
def priors(
    points: Float[Tensor, "priors 4"], image: Image | None = None, *, follow: int | None = None
) -> "matplotlib.figure.Figure":
    """Every prior of every level, one panel per level; with index and coordinates if all levels have room for them.

    Args:
        points: ``(x, y, stride, stride)`` in pixels.
        image: what lies below them.
        follow: index of a prior to ring.
    """
    grid = levels(points)
    lines: dict[str, Any] = {"color": MUTED if image is None else "white", "lw": 0.4, "zorder": 0.5}
    image = _paper(grid) if image is None else image
    height, width = image_size(image)
    counts = " + ".join(f"{level.rows * level.columns:,}" for level in grid)
    ringed = "" if follow is None else f"; prior {follow} is ringed"
    figure, axes = panels(f"{len(points):,} priors ({counts}), one in each cell{ringed}", 1, len(grid), height / width)
    for ax in axes[0]:
        show_image(ax, image, opacity=0.5)
    figure.draw_without_rendering()
    roomy = min(level.stride for level in grid) * points_per_pixel(axes[0][0]) > ROOM_FOR_TEXT
    for ax, level in zip(axes[0], grid, strict=True):
        cell = level.stride * points_per_pixel(ax)
        if cell > 5:
            ax.vlines(np.arange(0, width + 1, level.stride), 0, height, **lines)
            ax.hlines(np.arange(0, height + 1, level.stride), 0, width, **lines)
        _grid_dots(ax, level, np.full(len(level.points), True), cell, "priors")
        if roomy:
            _label_cells(ax, level)
        if follow is not None and level.where.start <= follow < level.where.stop:
            draw_ring(ax, level.points[follow - level.where.start], "follow")
        ax.set_title(f"stride {level.stride}: {level.rows} × {level.columns}")
    return figure


@styled
def valid_flags(
    images: Sequence[Image] | Tensor,
    flags: Bool[Tensor, "batch priors"],
    points: Float[Tensor, "priors 4"],
    *,
    pad_shapes: Sequence[tuple[int, int]] | Int[Tensor, "batch 2"] | None = None,
) -> "matplotlib.figure.Figure":
    """Which priors of a padded batch count: filled where valid, hollow where not.

    Args:
        images: of one padded size.
        flags: one per image and prior.
        points: ``(x, y, stride, stride)`` in pixels.
        pad_shapes: ``(height, width)`` of each image after its own padding, to outline.
    """
    grid = levels(points)
    height, width = image_size(images[0])
    title = f"{int(flags.sum()):,} of {flags.numel():,} priors are valid (filled)"
    figure, axes = panels(title, len(images), len(grid), height / width)
    for row, image in zip(axes, images, strict=True):
        for ax in row:
            show_image(ax, image, opacity=0.5)
    figure.draw_without_rendering()
    for b, row in enumerate(axes):
        for ax, level in zip(row, grid, strict=True):
            valid = to_numpy(flags[b, level.where])
            cell = level.stride * points_per_pixel(ax)
            _grid_dots(ax, level, valid, cell, "valid")
            _grid_dots(ax, level, ~valid, cell, "not valid", hollow=True)
            if pad_shapes is not None:
                content = [0, 0, float(pad_shapes[b][1]), float(pad_shapes[b][0])]
                draw_box(ax, np.array(content), INK, dashed=True)
            ax.set_title(f"stride {level.stride}: {valid.sum():,} of {len(valid):,}")
        row[0].set_ylabel(f"image {b}")
    return figure


@styled
def distances(
    image: Image,
    point: Float[Tensor, "2"],
    readings: Mapping[str, Float[Tensor, "4"]],
    ground_truth: Float[Tensor, "4"] | None = None,
    *,
    margin: float | None = None,
) -> "matplotlib.figure.Figure":
    """What four distances from a prior mean: an arrow to each side and the box that they span, one panel per reading.

    Args:
        image: the image.
        point: ``(x, y)`` of the prior in pixels.
        readings: left, top, right and bottom distance in pixels, by what to call them.
        ground_truth: an ``xyxy`` box to compare with, dashed.
        margin: show only a square around all boxes, this many pixels wider on each side.
    """
    height, width = image_size(image)
    x, y = to_numpy(point).tolist()
    spanned = {name: [x, y, x, y] + to_numpy(reading) * [-1, -1, 1, 1] for name, reading in readings.items()}
    title = f"From the point ({x:g}, {y:g}): four arrows span a box"
    title += "; dashed: the true one" if ground_truth is not None else ""
    aspect = height / width if margin is None else 1.0
    figure, axes = panels(title, 1, len(readings), aspect, share=1.0 if len(readings) > 1 else 0.62)
    for ax, (name, reading) in zip(axes[0], readings.items(), strict=True):
        show_image(ax, image, opacity=0.6)
        ax.set_title(name)
        if ground_truth is not None:
            draw_box(ax, to_numpy(ground_truth), INK, dashed=True)
        corners = spanned[name]
        draw_box(ax, corners, BOXES[1])
        ends = {"l": (corners[0], y), "t": (x, corners[1]), "r": (corners[2], y), "b": (x, corners[3])}
        for (letter, end), length in zip(ends.items(), to_numpy(reading).tolist(), strict=True):
            color = BOXES[3] if letter in "lr" else BOXES[5]
            arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", end, (x, y), arrowprops={**arrow, "path_effects": halo(3.2)})
            middle = ((x + end[0]) / 2, (y + end[1]) / 2)
            label = {"facecolor": CARD, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
            # a negative distance points at its opposite's arrow: its label goes to the other side of the line
            offset, where = (0, 3), {"ha": "center", "va": "bottom"}
            if letter in "lr" and length < 0:
                offset, where = (0, -4), {"ha": "center", "va": "top"}
            elif letter in "tb":
                offset, where = (4, 0) if length >= 0 else (-4, 0), {"va": "center"}
                where["ha"] = "left" if length >= 0 else "right"
            text = f"{letter} {length:.0f}".replace("-", "−")
            ax.annotate(text, middle, offset, textcoords="offset points", size=9, color=color, bbox=label, **where)
        around = [*spanned.values(), *([] if ground_truth is None else [to_numpy(ground_truth)])]
        view = (0.0, width, height, 0.0) if margin is None else square_around(union(around), margin)
        ax.set(xlim=view[:2], ylim=view[2:])
        draw_ring(ax, np.array([x, y]), "prior", 30.0)
    return figure


def _label_cells(ax: "matplotlib.axes.Axes", level: Level) -> None:
    """The index of each prior beside it, and the coordinates of columns and rows along the sides, in pixels."""
    for i, xy in enumerate(level.points, level.where.start):
        ax.annotate(str(i), xy, (5, -5), textcoords="offset points", ha="left", va="top", size=9, color=INK)
    for axis, lines in ((ax.xaxis, level.points[:, 0]), (ax.yaxis, level.points[:, 1])):
        axis.set_ticks(np.unique(lines), [f"{line:g}" for line in np.unique(lines)])
    ax.set_xlabel("x in pixels")
    ax.set_ylabel("y in pixels")


def _grid_dots(
    ax: "matplotlib.axes.Axes", level: Level, where: np.ndarray, cell: float, label: str, *, hollow: bool = False
) -> None:
    """Priors of one level in its colour and shape, as large as its cells allow."""
    color, marker = level_style(level.stride)
    size = (0.45 * min(cell, 12)) ** 2
    style: dict[str, Any] = {
        "marker": marker,
        "edgecolors": INK,
        "linewidths": 0.4 if hollow else 0.2,
        "clip_on": False,
    }
    x, y = level.points[where].T
    ax.scatter(x, y, s=size, color="white" if hollow else color, label=label, **style)


def _paper(grid: Sequence[Level]) -> np.ndarray:
    """An empty image as large as the finest level."""
    return np.full((grid[0].rows * grid[0].stride, grid[0].columns * grid[0].stride, 3), 225, np.uint8)
