"""Figures that set several assigners side by side: where their positives lie, on which level, and how they change."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    LINE_STYLES,
    MUTED,
    Image,
    box_color,
    draw_box,
    halo,
    image_size,
    ink_on,
    level_style,
    new_figure,
    points_per_pixel,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import disc_shares, draw_ring
from minirtmdet.plots.grids import named, real_boxes
from minirtmdet.structures import GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_KEYS = 6
"""Boxes that a legend names, and its entries per row."""


@styled
def answers(
    image: Image,
    gt_inds: Mapping[str, Int[Tensor, " places"]],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    names: Sequence[str] | None = None,
    follow: int | None = None,
    columns: int = 2,
) -> "matplotlib.figure.Figure":
    """The positives of several assigners on one image: colour says which box, shape which level.

    Args:
        image: the image.
        gt_inds: what each assigner says, by its name: ``i + 1`` for box ``i``; one a prior, or as many as there are
            anchors at each prior.  A prior is drawn where any of its anchors has a box; where they have several, as a
            disc for each.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: of a batch of one, or its boxes.
        names: what each box shows.
        follow: index of a prior to ring.
        columns: images per row.

    Raises:
        ValueError: where there is no assigner, or a box has no name.
    """
    if not gt_inds:
        raise ValueError("there is no answer: give the gt_inds of at least one assigner")
    boxes = real_boxes(ground_truth)
    called = named(boxes, names)
    height, width = image_size(image)
    title = "Which priors learn which box? Above each image: how many there are, box by box"
    figure, axes = sheet(title, len(gt_inds), columns, height / width)
    for ax, (name, inds) in zip(axes, gt_inds.items(), strict=True):
        show_image(ax, image, opacity=0.6)
        for g, box in boxes.items():
            draw_box(ax, box, box_color(g))
        ax.set_title(f"{name}: {' + '.join(str(int((inds == g + 1).sum())) for g in boxes)}")
    keys = _keys(called, np.unique(to_numpy(points[:, 2])))
    figure.legend(handles=keys, loc="outside lower right", ncols=min(len(keys), MOST_KEYS))
    figure.draw_without_rendering()
    side = float(np.clip(4 * points_per_pixel(axes[0]), 3.5, 8))
    for ax, inds in zip(axes, gt_inds.values(), strict=True):
        of_anchors = to_numpy(inds).reshape(len(points), -1)
        _draw_answers(ax, points, {g: (of_anchors == g + 1).any(1) for g in boxes}, side)
        if follow is not None:
            draw_ring(ax, to_numpy(points[follow, :2]), "follow", 2.8 * side**2)
    return figure


def _keys(called: Mapping[int, str], strides: np.ndarray) -> list[Any]:
    """What colours and shapes mean, of the first boxes."""
    from matplotlib.lines import Line2D

    looks = [(name, box_color(g), "o") for g, name in list(called.items())[:MOST_KEYS]]
    looks += [(f"stride {s:g}", MUTED, level_style(s)[1]) for s in strides]
    return [Line2D([], [], ls="", marker=marker, color=color, label=name) for name, color, marker in looks]


def _draw_answers(
    ax: "matplotlib.axes.Axes", points: Tensor, positives: Mapping[int, Bool[np.ndarray, " priors"]], side: float
) -> None:
    """The positives of one assigner, by box."""
    xy, strides = to_numpy(points[:, :2]), to_numpy(points[:, 2])
    shares = disc_shares(list(positives.values()))
    # coarse levels below: their priors lie where finer ones do
    for stride in np.unique(strides)[::-1]:
        size = side * (1 + 0.6 * np.log2(stride / strides.min()))
        style: dict[str, Any] = {"marker": level_style(stride)[1], "edgecolors": "white", "linewidths": 0.8}
        for (g, mine), share in zip(positives.items(), shares, strict=True):
            x, y = xy[where := mine & (strides == stride)].T
            label, areas = f"box {g}, stride {stride:g}", (size * share[where]) ** 2
            ax.scatter(x, y, s=areas, color=box_color(g), label=label, clip_on=False, zorder=3, **style)


@styled
def level_bars(
    title: str,
    counts: Mapping[str, Mapping[str, Sequence[int]]],
    strides: Sequence[int],
    *,
    xlabel: str = "positives",
) -> "matplotlib.figure.Figure":
    """How many positives lie on each level: a panel for each key, a bar for each of its rows.

    Args:
        title: a sentence above the image.
        counts: positives on each level, by panel and row.
        strides: of the levels.
        xlabel: what is counted.
    """
    from matplotlib.patches import Patch

    rows = max(len(bars) for bars in counts.values())
    figure = new_figure(title, 0.95 + 0.27 * rows)
    axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for ax, (panel, bars) in zip(axes, counts.items(), strict=True):
        most = max(max(map(sum, bars.values())), 1)
        for row, parts in enumerate(bars.values()):
            start = 0
            for stride, part in zip(strides, parts, strict=True):
                color, _ = level_style(stride)
                ax.barh(row, part, left=start, color=color, height=0.72)
                if part > 0.11 * most:
                    ax.text(start + part / 2, row, str(part), ha="center", va="center", size=8, color=ink_on(color))
                start += part
            if start == 0:
                ax.text(0.02 * most, row, "none", va="center", size=8, color=MUTED)
        ax.set(title=panel, xlabel=xlabel, xlim=(0, 1.04 * most), ylim=(rows - 0.4, -0.6))
        ax.set_yticks(range(len(bars)), list(bars))
        ax.grid(axis="y", visible=False)
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    keys = [Patch(color=level_style(s)[0], label=f"stride {s}") for s in strides]
    figure.legend(handles=keys, loc="outside lower right", ncols=len(keys))
    return figure


@styled
def courses(
    title: str, counts: Mapping[str, Mapping[str, Sequence[int]]], moments: Sequence[str]
) -> "matplotlib.figure.Figure":
    """How numbers of positives change: a panel for each key, a line for each of its rows, named at its end.

    Args:
        title: a sentence above the image.
        counts: a number at each moment, by panel and row.
        moments: what to call them.
    """
    figure = new_figure(title, 2.3)
    axes = figure.subplots(1, len(counts), squeeze=False)[0]
    names = list(dict.fromkeys(name for rows in counts.values() for name in rows))
    for ax, (panel, rows) in zip(axes, counts.items(), strict=True):
        for name, course in rows.items():
            i = names.index(name)
            style = {"color": box_color(i), "ls": LINE_STYLES[i % len(LINE_STYLES)], "lw": 1.8}
            ax.plot(range(len(moments)), course, label=name, path_effects=halo(3.0), **style)
        most = max((max(course) for course in rows.values()), default=0)
        ax.set(title=panel, ylim=(0, 1.08 * most + 1), xlim=(-0.3, len(moments) - 0.7))
        ax.set_xticks(range(len(moments)), moments, rotation=60, ha="right", rotation_mode="anchor")
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("positives")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=len(names), handlelength=3)
    return figure
