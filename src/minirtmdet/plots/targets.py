"""Figures of what every prior is trained towards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from minirtmdet.plots.canvas import (
    CARD,
    FAINT,
    INK,
    MUTED,
    bare,
    class_colors,
    draw_box,
    panels,
    points_per_pixel,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import draw_ring
from minirtmdet.plots.grids import Level, levels
from minirtmdet.structures import Targets

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WEIGHTS = {"label weight 1": FAINT, "label weight 0": MUTED}
NOTHING = -1


@styled
def target_maps(
    targets: Targets,
    points: Float[Tensor, "priors 4"],
    classes: Sequence[str],
    *,
    index: int = 0,
    follow: int | None = None,
) -> "matplotlib.figure.Figure":
    """The targets of one image as maps: class and box, label weight, soft label; a row per level.

    Args:
        targets: of a batch.
        points: ``(x, y, stride, stride)`` in pixels.
        classes: name of each class; what comes after them is background.
        index: which image of the batch.
        follow: index of a prior to ring.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    grid = levels(points)
    labels, weights, boxes, metrics = (to_numpy(field[index]) for field in targets)
    positive = labels < len(classes)
    present = sorted(set(labels[positive].tolist()))
    colors = dict(enumerate([*class_colors(classes), FAINT]))

    silent = (weights == 0).sum()
    title = f"{positive.sum()} of {len(labels)} priors learn a class and a box, "
    title += f"{silent} nothing, the others background" if silent else "the others background"
    figure, axes = panels(title, len(grid), 3, grid[0].rows / grid[0].columns, share=0.78, headings=False)
    label_colors = np.array([to_rgb(colors[label]) for label in labels.tolist()])  # [N,3]
    weight_colors = np.array([to_rgb(list(WEIGHTS.values())[int(weight == 0)]) for weight in weights])
    for row, level in zip(axes, grid, strict=True):
        for ax, values in zip(row, (label_colors.T, weight_colors.T), strict=False):
            ax.imshow(np.moveaxis(level.map(values), 0, -1), extent=level.extent, interpolation="nearest")
        soft = np.where(level.map(positive), level.map(metrics), np.nan)
        row[2].imshow(soft, vmin=0, vmax=1, extent=level.extent, interpolation="nearest")
        row[2].set_facecolor(FAINT)
        left, right, bottom, top = level.extent
        for ax in row:
            _rule(ax, level)
        for label, *box in sorted({(int(labels[i]), *boxes[i].tolist()) for i in positive.nonzero()[0]}):
            if (boxes[level.where][positive[level.where]] == box).all(-1).any():
                draw_box(row[0], np.array(box), colors[label], dashed=True)
        row[0].set(xlim=(left, right), ylim=(bottom, top))
        row[0].set_ylabel(f"stride {level.stride}")
    for ax, name in zip(axes[0], ("label and box target", "label weight", "soft label"), strict=True):
        ax.set_title(name)
    keys = [Patch(color=colors[label], label=classes[label]) for label in present]
    keys += [Patch(color=FAINT, label="background")]
    keys += [Patch(color=color, label=name) for name, color in WEIGHTS.items()]
    figure.legend(handles=keys, loc="outside right center")
    figure.colorbar(
        ScalarMappable(norm=None), ax=axes, label="soft label (IoU)", location="bottom", shrink=0.4, aspect=25
    )
    if follow is not None:
        figure.draw_without_rendering()
        for row, level in zip(axes, grid, strict=True):
            for ax in row:
                _ring(ax, level, follow)
    return figure


@styled
def target_changes(
    before: Targets,
    after: Targets,
    points: Float[Tensor, "priors 4"],
    classes: Sequence[str],
    *,
    index: int = 0,
    follow: int | None = None,
) -> "matplotlib.figure.Figure":
    """What each prior learns, a panel per level, with a line around the priors that learned something else before.

    Args:
        before: targets of a batch, to compare with.
        after: the targets to show, of the same batch.
        points: ``(x, y, stride, stride)`` in pixels.
        classes: name of each class; what comes after them is background.
        index: which image of the batch.
        follow: index of a prior to ring.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    grid = levels(points)
    old, new = (_learned(targets, index) for targets in (before, after))
    changed = old != new
    colors = dict(enumerate([*class_colors(classes), FAINT])) | {NOTHING: MUTED}
    names = dict(enumerate([*classes, "background"])) | {NOTHING: "nothing: label weight 0"}
    height = grid[0].rows / grid[0].columns
    title = f"What each prior learns now; outlined: the {changed.sum()} priors for which it has changed"
    figure, [axes] = panels(title, 1, len(grid), height)
    cells = np.array([to_rgb(colors[label]) for label in new.tolist()])  # [N,3]
    for ax, level in zip(axes, grid, strict=True):
        ax.imshow(np.moveaxis(level.map(cells.T), 0, -1), extent=level.extent, interpolation="nearest")
        _rule(ax, level)
        _outline(ax, level, level.map(changed))
        ax.set_title(f"stride {level.stride}: {changed[level.where].sum()} changed")
    keys = [
        Patch(color=colors[label], label=names[label]) for label in [*range(len(classes) + 1), NOTHING] if label in new
    ]
    figure.set_figheight(figure.get_figheight() + 0.25)  # the legend
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))
    if follow is not None:
        figure.draw_without_rendering()
        for ax, level in zip(axes, grid, strict=True):
            _ring(ax, level, follow)
    return figure


def _learned(targets: Targets, index: int) -> np.ndarray:
    """The label that each prior of an image learns, :data:`NOTHING` where its weight is 0."""
    labels, weights = to_numpy(targets.labels[index]), to_numpy(targets.label_weights[index])
    return np.where(weights == 0, NOTHING, labels)


def _rule(ax: "matplotlib.axes.Axes", level: Level) -> None:
    """Lines between the cells of a map."""
    left, _, _, top = level.extent
    bare(ax)
    for line in range(level.columns + 1):
        ax.axvline(left + line * level.stride, color=CARD, lw=0.4)
    for line in range(level.rows + 1):
        ax.axhline(top + line * level.stride, color=CARD, lw=0.4)


def _outline(ax: "matplotlib.axes.Axes", level: Level, cells: np.ndarray) -> None:
    """A line around the marked cells of a map, none between two of them."""
    from matplotlib.collections import LineCollection

    left, _, _, top = level.extent
    around = np.pad(cells, 1)
    across = np.argwhere(around[:, 1:-1][:-1] != around[:, 1:-1][1:])  # edges above row i, at column j
    down = np.argwhere(around[1:-1][:, :-1] != around[1:-1][:, 1:])  # edges left of column j, in row i
    edges = [((j, i), (j + 1, i)) for i, j in across] + [((j, i), (j, i + 1)) for i, j in down]
    lines = list(np.array(edges, dtype=float).reshape(-1, 2, 2) * level.stride + (left, top))
    style: dict[str, Any] = {"colors": INK, "linewidths": 1.2, "capstyle": "projecting"}
    ax.add_collection(LineCollection(lines, label="changed", zorder=3, clip_on=False, **style), autolim=False)


def _ring(ax: "matplotlib.axes.Axes", level: Level, follow: int) -> None:
    """A ring around the followed prior, on a map that has been laid out, if the prior is on its level."""
    if level.where.start <= follow < level.where.stop:
        size = (0.9 * np.clip(level.stride * points_per_pixel(ax), 6, 20)) ** 2
        draw_ring(ax, level.points[follow - level.where.start], "follow", size)
