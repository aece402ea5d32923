"""Figures of how priors get boxes: costs, dynamic k, conflicts and the assignment."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    INK,
    MUTED,
    Image,
    bare,
    box_color,
    draw_box,
    halo,
    image_size,
    level_style,
    new_figure,
    panels,
    points_per_pixel,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import disc_shares, dot_area, draw_dots, draw_ring, square_around, union
from minirtmdet.plots.grids import gt_indices, listed, named, real_boxes, some
from minirtmdet.plots.labels import draw_labels
from minirtmdet.structures import AssignResult, GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_NAMED = 12
CHANGES = ((MUTED, "o", 0.9), (BOXES[3], "o", 1.6), (BOXES[5], "X", 1.6))
"""Colour, marker and size of the priors that two choices have in common, that one has, and that the other has."""


@styled
def dynamic_k(
    ious: Float[Tensor, "boxes priors"],
    points: Float[Tensor, "priors 4"] | None = None,
    *,
    topk: int = 13,
    boxes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The ``topk`` best IoUs of each box laid end to end: the whole part of the length is its number of positives.

    Args:
        ious: of each box with each prior's predicted box, 0 where the pair is impossible.
        points: ``(x, y, stride, stride)``; where given, each piece has its level's colour.
        topk: pieces per box.
        boxes: which boxes to draw; the first sixteen where left out.
        names: what each box shows.

    Raises:
        ValueError: for a box that there is not, or that has no name.
    """
    from matplotlib.patches import Patch

    count, total = ious.shape
    drawn = some(range(count), boxes, 16)
    if not drawn or not total:
        return _nothing("There is no box or no prior, so there is no IoU to add up")
    best, where = ious.topk(min(topk, total), dim=1)
    pieces, sums = to_numpy(best), to_numpy(best.sum(1))
    strides = None if points is None else to_numpy(points[:, 2])
    ks = sums.astype(int).clip(min=1)

    title = f"Each box's {pieces.shape[1]} best IoUs, end to end: the sum, rounded down but at least 1, is k"
    figure = new_figure(title, 0.9 + 0.3 * len(drawn))
    ax = figure.subplots()
    for row, g in enumerate(drawn):
        starts = pieces[g].cumsum() - pieces[g]
        colors = [box_color(g)] if strides is None else [level_style(s)[0] for s in strides[to_numpy(where[g])]]
        ax.barh(row, pieces[g], left=starts, color=colors, ec="white", lw=0.8, height=0.7)
        ax.vlines(ks[g], row - 0.45, row + 0.45, color=INK, lw=2, path_effects=halo(4.0))
        ax.text(max(sums[g], ks[g]) + 0.15, row, f"sum {sums[g]:.2f}, k = {ks[g]}", va="center", size=8)
    ax.set_yticks(range(len(drawn)), list(named(drawn, names).values()))
    ax.set(xlabel="sum of IoUs", xlim=(0, 1.28 * max(sums[drawn].max(), ks[drawn].max())))
    ax.set_ylim(len(drawn) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    if strides is not None:
        keys = [Patch(color=level_style(s)[0], label=f"stride {s:g}") for s in np.unique(strides)]
        figure.legend(handles=keys, loc="outside lower right", ncols=len(keys))
    return figure


@styled
def conflict(
    image: Image,
    before: Bool[Tensor, "boxes priors"],
    after: AssignResult | Int[Tensor, " priors"],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    names: Sequence[str] | None = None,
    margin: float | None = None,
) -> "matplotlib.figure.Figure":
    """Priors that several boxes chose, before and after each went to one box.

    Args:
        image: the image.
        before: which priors each box chose.
        after: ``gt_inds``: ``i + 1`` for box ``i``.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: the boxes; of a batch, the first image's.
        names: what each box shows.
        margin: show only a square around the boxes that want the same priors, this many pixels wider on each side.
    """
    wanted, owners = to_numpy(before), gt_indices(after)
    contested = wanted.sum(0) > 1
    boxes = real_boxes(ground_truth)
    rivals = {g: box for g, box in boxes.items() if wanted[g, contested].any()}
    called = named(rivals, names)
    height, width = image_size(image)
    view, aspect = (0.0, float(width), float(height), 0.0), height / width
    if margin is not None and rivals:
        view, aspect = square_around(union(list(rivals.values())), margin), 1.0
    title = f"{contested.sum()} of {wanted.any(0).sum()} chosen priors are wanted by more than one box"
    figure, axes = panels(title, 1, 2, aspect)
    headings = ("before: a disc for each box that wants it", "after: the box of least cost keeps it")
    for ax, heading in zip(axes[0], headings, strict=True):
        show_image(ax, image, opacity=0.7)
        ax.set_title(heading)
        for g, box in boxes.items():
            draw_box(ax, box, box_color(g))
        ax.set(xlim=view[:2], ylim=view[2:])
    figure.draw_without_rendering()
    left, right = axes[0]
    area = dot_area(left, points)
    xy = to_numpy(points[:, :2])
    seen = ((xy >= [view[0], view[3]]) & (xy <= [view[1], view[2]])).all(1)
    for g, (claimed, share) in enumerate(zip(wanted, disc_shares(list(wanted)), strict=True)):
        draw_dots(left, points, claimed & seen, box_color(g), area * share**2, f"box {g}")
        draw_dots(right, points, (owners == g + 1) & seen, box_color(g), np.full(len(points), area), f"box {g}")
    draw_ring(right, xy[contested & seen], "contested", 2 * area)
    for ax in axes[0]:
        draw_labels(ax, list(rivals.values()), list(called.values()), [box_color(g) for g in rivals])
    return figure


@styled
def assignment(
    image: Image,
    assigned: AssignResult | Int[Tensor, " priors"],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
    names: Sequence[str] | None = None,
    ious: Float[Tensor, " priors"] | None = None,
    index: int = 0,
    follow: int | None = None,
) -> "matplotlib.figure.Figure":
    """The positives of one image: colour says which box, shape which level, area how large the IoU is.

    Args:
        image: the image.
        assigned: the assignment of a batch, or one image's ``gt_inds``.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: of a batch, or one image's boxes.
        names: what each box shows.
        ious: IoU of each prior; from ``assigned`` where it has them, else all dots are equal.
        index: which image of the batch.
        follow: index of a prior to ring.
    """
    owners = gt_indices(assigned, index)
    if ious is None and isinstance(assigned, AssignResult):
        ious = assigned.max_overlaps[index]
    overlaps = np.ones(len(owners)) if ious is None else to_numpy(ious)
    boxes = real_boxes(ground_truth, index)
    counts = {g: int((owners == g + 1).sum()) for g in boxes}
    called = named(boxes, names)
    orphans = [called[g] for g, count in counts.items() if count == 0]

    height, width = image_size(image)
    positives = int((owners > 0).sum())
    title = f"{positives} of {len(owners):,} priors learn{'s' * (positives == 1)} a box, the others background"
    title += f"; none learns {listed(orphans)}" if orphans else ""
    figure, axes = panels(title, 1, 1, height / width, share=0.76)
    ax = axes[0, 0]
    show_image(ax, image, opacity=0.7)
    for g, box in boxes.items():
        draw_box(ax, box, box_color(g))
    strides = np.unique(to_numpy(points[:, 2]))
    figure.draw_without_rendering()
    area = dot_area(ax, points)
    _legend(ax, counts, called, strides, area, with_ious=ious is not None)
    figure.draw_without_rendering()
    for g in boxes:
        draw_dots(ax, points, owners == g + 1, box_color(g), area * (0.1 + 0.9 * overlaps), f"box {g}")
    if len(boxes) <= MOST_NAMED:
        draw_labels(ax, list(boxes.values()), list(called.values()), [box_color(g) for g in boxes])
    if follow is not None:
        draw_ring(ax, to_numpy(points[follow, :2]), "follow", 2.4 * area)
    return figure


class Changed(NamedTuple):
    """Two choices for one image.

    Attributes:
        image: the image.
        ground_truth: its boxes.
        before, after: ``gt_inds`` of each.
    """

    image: Image
    ground_truth: GroundTruth | Float[Tensor, "_ 4"]
    before: AssignResult | Int[Tensor, " priors"]
    after: AssignResult | Int[Tensor, " priors"]


@styled
def changed_choices(
    scenes: Mapping[str, Changed],
    points: Float[Tensor, "priors 4"],
    *,
    title: str,
    ways: tuple[str, str] = ("before", "after"),
) -> "matplotlib.figure.Figure":
    """Positives that two ways to choose have in common, and those that only one of them has.

    A prior that both choose, for different boxes, is marked as one that each of them alone has.

    Args:
        scenes: images of one size with both choices, by what to call them.
        points: ``(x, y, stride, stride)`` in pixels.
        title: what the figure shows, in a sentence.
        ways: what to call both choices.

    Raises:
        ValueError: where there is no scene.
    """
    if not scenes:
        raise ValueError("there is nothing to compare: give at least one scene")
    height, width = image_size(next(iter(scenes.values())).image)
    figure, axes = sheet(title, len(scenes), 2, height / width)
    for ax, (name, scene) in zip(axes, scenes.items(), strict=True):
        show_image(ax, scene.image, opacity=0.55)
        ax.set_title(name)
        for g, box in real_boxes(scene.ground_truth).items():
            draw_box(ax, box, box_color(g), dashed=True)
    figure.draw_without_rendering()
    xy, strides = to_numpy(points[:, :2]), to_numpy(points[:, 2])
    side = points_per_pixel(axes[0]) * strides.min() / 2
    for ax, scene in zip(axes, scenes.values(), strict=True):
        before, after = gt_indices(scene.before), gt_indices(scene.after)
        same, differs = (before == after) & (before > 0), before != after
        labels = ("chosen either way", *(f"only {way}" for way in ways))
        parts = (same, differs & (before > 0), differs & (after > 0))
        for label, where, (color, marker, share) in zip(labels, parts, CHANGES, strict=True):
            style: dict[str, Any] = {"marker": marker, "edgecolors": "white", "linewidths": 0.8, "zorder": 3}
            ax.scatter(*xy[where].T, s=(share * side) ** 2, color=color, label=label, **style)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=len(CHANGES))
    return figure


def _legend(
    ax: "matplotlib.axes.Axes",
    counts: Mapping[int, int],
    called: Mapping[int, str],
    strides: np.ndarray,
    area: float,
    *,
    with_ious: bool,
) -> None:
    """Positives per box, then what shape and area of a dot mean."""
    from matplotlib.lines import Line2D

    def dot(color: str, marker: str, area: float, label: str) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=color, markersize=area**0.5, label=label)

    keys = [
        dot(box_color(g), "o", 50.0, f"{called[g]}: {n} positive{'s' * (n != 1)}")
        for g, n in list(counts.items())[:MOST_NAMED]
    ]
    if len(counts) > MOST_NAMED:
        keys.append(dot("none", "o", 50.0, f"and {len(counts) - MOST_NAMED} boxes more"))
    keys += [dot(MUTED, level_style(s)[1], 50.0, f"stride {s:g}") for s in strides]
    keys += [dot(MUTED, "o", area * (0.1 + 0.9 * iou), f"IoU {iou:g}") for iou in (0, 0.5, 1) if with_ious]
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, labelspacing=0.7)


def _nothing(title: str) -> Any:
    """A card that says in its title why there is nothing on it."""
    figure = new_figure(title, 0.3)
    bare(figure.subplots())
    return figure
