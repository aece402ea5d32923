"""Figures of what the network says and sees: scores on each level, what its norms hold, where a cell looks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from minirtmdet.plots.canvas import (
    BOXES,
    FAINT,
    INK,
    MUTED,
    Image,
    bare,
    box_color,
    draw_box,
    halo,
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
from minirtmdet.structures import GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


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
    axes[0].legend(loc="best")
    return figure


@styled
def influence(
    gradient: Float[Tensor, "height width"],
    marks: Mapping[str, tuple[float, float]],
    *,
    image: Image | None = None,
) -> "matplotlib.figure.Figure":
    """How much each pixel moves an output, with some points marked.

    Args:
        gradient: magnitude at each pixel.
        marks: ``(x, y)`` in pixels, by what they are called.
        image: the image, to show beside it with the same marks; without it, the sums along columns and rows are beside.
    """
    values = to_numpy(gradient)
    height, width = values.shape
    title = "Where one cell looks: bright pixels move its output most"
    if image is None:
        figure = new_figure(title, 3.5)
        cells = figure.add_gridspec(2, 2, width_ratios=[1.2, 1])
        shown = [figure.add_subplot(cells[:, 0])]
        sums = {"x": values.sum(0), "y": values.sum(1)}
        for i, (axis, course) in enumerate(sums.items()):
            _profile(figure.add_subplot(cells[i, 1]), axis, course, {name: mark[i] for name, mark in marks.items()})
    else:
        figure, [shown] = panels(title, 1, 2, height / width, share=0.8, headings=False)
        show_image(shown[0], image)
    shown[-1].imshow(values, extent=(0, width, height, 0), interpolation="nearest")
    for ax in shown:
        for i, (name, (x, y)) in enumerate(marks.items()):
            marker, color = _mark_style(i)
            effects = halo(2.0, INK)
            ax.scatter(x, y, 60, color, marker=marker, edgecolors="white", lw=1, label=name, path_effects=effects)
        bare(ax)
    if image is not None:
        shown[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
    else:
        figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=len(marks) + 1)
    return figure


def _profile(ax: "matplotlib.axes.Axes", axis: str, course: np.ndarray, marks: Mapping[str, float]) -> None:
    """Influence along one axis of the image, with its middle and the marks as lines."""
    places = np.arange(len(course)) + 0.5  # of each pixel
    share = course / course.sum()
    ax.fill_between(places, share, color=FAINT, edgecolor=MUTED, lw=1)
    for i, (name, place) in enumerate(marks.items()):
        marker, color = _mark_style(i)
        style: dict[str, Any] = {"marker": marker, "markevery": [1], "ms": 7, "mec": "white", "clip_on": False}
        ax.plot([place, place], [0, 1.06 * share.max()], color=color, lw=2, label=name, **style)
    ax.axvline((places * share).sum(), color=INK, lw=1.4, ls="--", label="middle of the influence")
    ax.set(title=f"along {axis}", xlim=(0, len(course)), ylim=(0, None), yticks=[], xlabel="pixel")


def _mark_style(i: int) -> tuple[str, str]:
    return "oX^"[i % 3], BOXES[3:][(2, 1, 0)[i % 3]]
