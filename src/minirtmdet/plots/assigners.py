"""Figures that set several assigners side by side: where their positives lie, on which level, and how they change."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    MUTED,
    Image,
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
from minirtmdet.plots.dots import draw_ring
from minirtmdet.plots.grids import real_boxes
from minirtmdet.structures import GroundTruth

if TYPE_CHECKING:
    import matplotlib.figure

LINES = ("-", "--", "-.", ":")


@styled
def answers(
    image: Image,
    gt_inds: Mapping[str, Int[Tensor, " places"]],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    follow: int | None = None,
    columns: int = 2,
) -> "matplotlib.figure.Figure":
    """The positives of several assigners on one image, in the colour and shape of their level.

    Args:
        image: the image.
        gt_inds: what each assigner says, by its name: ``i + 1`` for box ``i``; one a prior, or as many as there are
            anchors at each prior.  A prior is drawn where any of its anchors has a box.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: of a batch of one, or its boxes.
        follow: index of a prior to ring.
        columns: images per row.

    Raises:
        ValueError: where there is no assigner.
    """
    from matplotlib.lines import Line2D

    if not gt_inds:
        raise ValueError("there is no answer: give the gt_inds of at least one assigner")
    boxes = real_boxes(ground_truth)
    xy, strides = to_numpy(points[:, :2]), to_numpy(points[:, 2])
    height, width = image_size(image)
    title = "Which priors learn which box? Above each image: how many there are, box by box"
    figure, axes = sheet(title, len(gt_inds), columns, height / width)
    for ax, (name, inds) in zip(axes, gt_inds.items(), strict=True):
        show_image(ax, image, opacity=0.6)
        for box in boxes.values():
            draw_box(ax, box, "white")
        ax.set_title(f"{name}: {' + '.join(str(int((inds == g + 1).sum())) for g in boxes)}")
    keys = [
        Line2D([], [], ls="", marker=level_style(s)[1], color=level_style(s)[0], label=f"stride {s:g}")
        for s in np.unique(strides)
    ]
    figure.legend(handles=keys, loc="outside lower right", ncols=len(keys))
    figure.draw_without_rendering()
    side = np.clip(4 * points_per_pixel(axes[0]), 3.5, 8)
    for ax, inds in zip(axes, gt_inds.values(), strict=True):
        positive = (to_numpy(inds).reshape(len(points), -1) > 0).any(1)
        # coarse levels below: their priors lie where finer ones do
        for stride in np.unique(strides)[::-1]:
            x, y = xy[positive & (strides == stride)].T
            color, marker = level_style(stride)
            size = (side * (1 + 0.6 * np.log2(stride / strides.min()))) ** 2
            style = {"marker": marker, "edgecolors": "white", "linewidths": 0.8, "clip_on": False, "zorder": 3}
            ax.scatter(x, y, s=size, color=color, label=f"stride {stride:g}", **style)
        if follow is not None:
            draw_ring(ax, xy[follow], "follow", 2.8 * side**2)
    return figure


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
            style = {"color": BOXES[i % len(BOXES)], "ls": LINES[i % len(LINES)], "lw": 1.8}
            ax.plot(range(len(moments)), course, label=name, path_effects=halo(3.0), **style)
        most = max((max(course) for course in rows.values()), default=0)
        ax.set(title=panel, ylim=(0, 1.08 * most + 1), xlim=(-0.3, len(moments) - 0.7))
        ax.set_xticks(range(len(moments)), moments, rotation=60, ha="right", rotation_mode="anchor")
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("positives")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=len(names), handlelength=3)
    return figure
