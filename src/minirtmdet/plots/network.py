"""Figures of what the network says and sees: scores on each level, what its norms hold, where a cell looks."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from minirtmdet.plots.canvas import (
    BOXES,
    FAINT,
    INK,
    LINE_STYLES,
    MUTED,
    Image,
    bare,
    box_color,
    draw_box,
    level_style,
    new_figure,
    panels,
    show_image,
    styled,
    to_grey,
    to_numpy,
)
from minirtmdet.plots.dots import draw_ring
from minirtmdet.plots.grids import levels, real_boxes
from minirtmdet.plots.training import moving_average
from minirtmdet.structures import GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MARKS = (("o", BOXES[5]), ("X", BOXES[4]), ("^", BOXES[3]))
"""Shape and colour of marked places."""
SMOOTH = 8
"""Pixels that a profile is averaged over: the cells of a level see every other pixel more."""


@styled
def score_maps(
    cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
    points: Float[Tensor, "priors 4"],
    classes: Mapping[int, str],
    *,
    image: Image | None = None,
    ground_truth: GroundTruth | Float[Tensor, "_ 4"] | None = None,
    index: int = 0,
    follow: int | None = None,
) -> "matplotlib.figure.Figure":
    """The probability of some classes at every prior, a row a class and a column a level.

    Args:
        cls_scores: logits of each level.
        points: ``(x, y, stride, stride)`` in pixels.
        classes: name by class index, of those to draw.
        image: what lies below the maps, in grey; it shows through where scores are low.
        ground_truth: boxes to outline.
        index: which image of the batch.
        follow: index of a prior to ring.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    grid = levels(points)
    scores = [to_numpy(level[index].sigmoid()) for level in cls_scores]  # [C,H,W] a level
    best = {name: max(level[c].max() for level in scores) for c, name in classes.items()}
    said = ", ".join(f"{name} {score:.2f}" for name, score in best.items())
    height = max(level.rows * level.stride for level in grid)
    width = max(level.columns * level.stride for level in grid)
    title = f"Scores on each level; the highest: {said}"
    figure, axes = panels(title, len(classes), len(grid), height / width, share=0.82)
    norm = Normalize(0, max([*best.values(), 0.1]))
    outlines = {} if ground_truth is None else real_boxes(ground_truth, index)
    for row, (c, name) in zip(axes, classes.items(), strict=True):
        for ax, level, values in zip(row, grid, scores, strict=True):
            opacity = 1.0
            if image is not None:
                show_image(ax, to_grey(image))
                opacity = np.minimum(2 * norm(values[c]), 0.9)
            ax.imshow(values[c], norm=norm, extent=level.extent, interpolation="nearest", alpha=opacity)
            bare(ax)
            for g, box in outlines.items():
                draw_box(ax, box, box_color(g))
            if follow is not None and level.where.start <= follow < level.where.stop:
                draw_ring(ax, level.points[follow - level.where.start], "follow", 60.0)
            ax.set(xlim=(0, width), ylim=(height, 0), facecolor=FAINT)
        row[0].set_ylabel(name)
    for ax, level in zip(axes[0], grid, strict=True):
        ax.set_title(f"stride {level.stride}")
    figure.colorbar(ScalarMappable(norm), ax=axes, label="score", shrink=min(1, 2 / len(axes)), aspect=25)
    return figure


@styled
def norm_statistics(norms: Mapping[int, nn.BatchNorm2d]) -> "matplotlib.figure.Figure":
    """What BatchNorms of several levels have measured, channel by channel: their running mean and deviation.

    Args:
        norms: the same layer's BatchNorm by stride; channels are drawn in the order of the first one's deviation.
    """
    means = {stride: to_numpy(norm.running_mean) for stride, norm in norms.items()}
    deviations = {stride: to_numpy(norm.running_var) ** 0.5 for stride, norm in norms.items()}
    order = np.argsort(next(iter(deviations.values())), kind="stable")
    middle = ", ".join(f"{np.median(values):.2f} at stride {stride}" for stride, values in deviations.items())
    figure = new_figure(f"What one convolution gives on {len(norms)} levels; median deviation {middle}", 2.6)
    axes = figure.subplots(1, 2)
    parts = ("running mean", means), ("running standard deviation", deviations)
    for ax, (title, values) in zip(axes, parts, strict=True):
        for stride, by_channel in values.items():
            color, marker = level_style(stride)
            ax.plot(by_channel[order], marker, color=color, ms=3.5, mec="white", mew=0.3, label=f"stride {stride}")
        ax.set(title=title, xlabel="channel, in the order of the first level's deviation")
    axes[1].set_ylim(0, None)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=len(norms))
    return figure


@styled
def influence(
    gradients: Mapping[int, Float[Tensor, "height width"]], points: Mapping[int, tuple[int | float, int | float]]
) -> "matplotlib.figure.Figure":
    """How much pixels move what a cell of each level reads, against their distance from its prior.

    Left the mean over all pixels at one distance, as a share of the largest; right the part of all influence that lies
    within a distance.  A distance is that along x or y, whichever is larger: what lies within it is a square.

    Args:
        gradients: magnitude at each pixel, by the level's stride.
        points: ``(x, y)`` of the level's prior in pixels.
    """
    rings = {stride: _rings(to_numpy(gradient), points[stride]) for stride, gradient in gradients.items()}
    halves = {stride: int((within < 0.5).sum()) + 1 for stride, (_, within) in rings.items()}
    said = ", ".join(f"{pixels} px at stride {stride}" for stride, pixels in halves.items())
    figure = new_figure(f"Half of what moves a cell lies within {said}", 2.7)
    falling, growing = figure.subplots(1, 2)
    for style, (stride, (mean, within)) in zip(cycle(LINE_STYLES), rings.items(), strict=False):
        color, _ = level_style(stride)
        look: dict[str, Any] = {"color": color, "ls": style, "lw": 1.8, "label": f"stride {stride}"}
        distance, smooth = np.arange(len(mean)) + 1, moving_average(mean, SMOOTH)
        falling.plot(distance - 0.5, smooth / smooth.max(), **look)
        growing.plot([0, *distance], [0, *within], **look)
    growing.axhline(0.5, color=MUTED, lw=0.9)
    falling.set_title("mean influence of a pixel, of the largest")
    growing.set_title("share of all influence within the distance")
    for ax in (falling, growing):
        ax.set(xlabel="pixels from the prior", xlim=(0, None), ylim=(0, 1.02))
    figure.legend(*falling.get_legend_handles_labels(), loc="outside lower right", ncols=len(rings), handlelength=3.2)
    return figure


def _rings(
    values: Float[np.ndarray, "height width"], point: tuple[int | float, int | float]
) -> tuple[Float[np.ndarray, " pixels"], Float[np.ndarray, " pixels"]]:
    """The mean influence of the pixels at each distance, and the share of all that lies no farther away."""
    away_x, away_y = (np.abs(np.arange(size) + 0.5 - at) for size, at in zip(values.shape[::-1], point, strict=True))
    ring = np.maximum(away_x, away_y[:, None]).astype(int).ravel()
    sums = np.bincount(ring, values.ravel())
    return sums / np.bincount(ring).clip(min=1), sums.cumsum() / sums.sum()


@styled
def influence_middle(
    gradient: Float[Tensor, "height width"], marks: Mapping[str, tuple[float, float]], *, start: int = 0
) -> "matplotlib.figure.Figure":
    """Where the middle of the influence on one cell is, along x and along y, and how far some points are from it.

    Args:
        gradient: magnitude at each pixel.
        marks: ``(x, y)`` of the points in pixels of the image, by what they are called.
        start: of a part of the image, its first row and column.
    """
    values = to_numpy(gradient)
    figure = new_figure("How much each column and each row of pixels moves the output of one cell", 2.7)
    axes = figure.subplots(1, 2, sharey=True)
    for i, (ax, axis) in enumerate(zip(axes, "xy", strict=True)):
        _profile(ax, axis, values.sum(i), {name: mark[i] for name, mark in marks.items()}, start)
    axes[0].set_ylabel("influence, of the largest")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(handles))
    return figure


def _profile(ax: "matplotlib.axes.Axes", axis: str, course: np.ndarray, marks: Mapping[str, float], start: int) -> None:
    """Influence along one axis of the image, with its middle and the marks as lines."""
    places = start + np.arange(len(course)) + 0.5  # of each pixel
    share = course / course.max()
    ax.fill_between(places, share, color=FAINT, edgecolor=MUTED, lw=1)
    for i, (name, place) in enumerate(marks.items()):
        marker, color = MARKS[i % len(MARKS)]
        style: dict[str, Any] = {"marker": marker, "markevery": [1], "ms": 7, "mec": "white", "clip_on": False}
        ax.plot([place, place], [0, 1.08], color=color, lw=2, label=name, **style)
    ax.axvline((places * course).sum() / course.sum(), color=INK, lw=1.4, ls="--", label="middle of the influence")
    ax.set(title=f"along {axis}", xlim=(start, start + len(course)), ylim=(0, 1.16), xlabel="pixel")
