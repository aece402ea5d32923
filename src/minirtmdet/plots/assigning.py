"""Figures of how priors get boxes: costs, dynamic k, conflicts and the assignment."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    FAINT,
    INK,
    MUTED,
    Image,
    bare,
    box_color,
    draw_box,
    draw_labels,
    halo,
    image_size,
    level_style,
    new_figure,
    panels,
    points_per_pixel,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.dots import dot_area, draw_dots, draw_ring, square_around, union
from minirtmdet.plots.grids import gt_indices, levels, real_boxes, some
from minirtmdet.structures import AssignResult, GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

CHEAPEST, DEAREST = 0.01, 100.0
MOST_NAMED = 12


@styled
def cost_maps(
    costs: Mapping[str, Float[Tensor, "boxes priors"]],
    points: Float[Tensor, "priors 4"],
    *,
    chosen: Bool[Tensor, "boxes priors"] | None = None,
    candidates: Bool[Tensor, " priors"] | None = None,
    ground_truth: GroundTruth | Float[Tensor, "_ 4"] | None = None,
    boxes: Sequence[int] | None = None,
    margin: float | None = None,
) -> "matplotlib.figure.Figure":
    """Heat maps of each cost and of their sum, a row for each box and level.

    All maps share one logarithmic scale, so that it shows which cost decides; bright is cheap.

    Args:
        costs: the parts by name, as they are added up (weights included).
        points: ``(x, y, stride, stride)`` in pixels.
        chosen: pairs to ring.
        candidates: priors that may be chosen; the others, and infinite costs, are left blank.
        ground_truth: boxes to outline, those of the first image; rows of padding are then left out.
        boxes: which boxes to draw; the first two where left out.
        margin: show only a square around each box, this many pixels wider on each side; needs ``ground_truth``.

    Raises:
        ValueError: for a box that there is not, and for a margin without ground truth.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    grid = levels(points)
    parts = {name: to_numpy(part) for name, part in costs.items()}
    parts["sum"] = np.sum(list(parts.values()), axis=0)
    outlines = {} if ground_truth is None else real_boxes(ground_truth)
    if margin is not None and ground_truth is None:
        raise ValueError("a margin around boxes needs ground_truth, which says where they are")
    known = range(len(parts["sum"])) if ground_truth is None else list(outlines)
    drawn = some(known, boxes, 2)
    allowed = np.isfinite(parts["sum"]) & (True if candidates is None else to_numpy(candidates))

    if not drawn:
        return _nothing("There is no box, so no prior has a cost")
    title = f"What each prior would cost {_named(drawn)} of {len(known)}: bright is cheap"
    title += ", rings are chosen" if chosen is not None else ""
    aspect = grid[0].rows / grid[0].columns if margin is None else 1.0
    rows = [(g, level) for g in drawn for level in grid]
    figure, axes = panels(title, len(rows), len(parts), aspect, share=0.82, headings=False)
    norm = LogNorm(CHEAPEST, DEAREST)
    for row, (g, level) in zip(axes, rows, strict=True):
        for ax, part in zip(row, parts.values(), strict=True):
            values = np.where(allowed[g], part[g], np.nan).clip(CHEAPEST, DEAREST)
            ax.imshow(level.map(values), cmap="viridis_r", norm=norm, extent=level.extent, interpolation="nearest")
            ax.set_facecolor(FAINT)
            bare(ax)
            if g in outlines:
                draw_box(ax, outlines[g], box_color(g))
            left, right, bottom, top = level.extent if margin is None else square_around(outlines[g], margin)
            ax.set(xlim=(left, right), ylim=(bottom, top))
        row[0].set_ylabel(f"box {g}\nstride {level.stride}")
    for ax, name in zip(axes[0], parts, strict=True):
        ax.set_title(name)
    scale = ScalarMappable(norm, "viridis_r")
    figure.colorbar(scale, ax=axes, label="cost", extend="both", shrink=min(1, 3 / len(axes)), aspect=25)
    if chosen is not None:
        figure.draw_without_rendering()
        for row, (g, level) in zip(axes, rows, strict=True):
            ringed = level.points[to_numpy(chosen[g, level.where])]
            for ax in row:
                size = (0.7 * np.clip(level.stride * points_per_pixel(ax), 6, 20)) ** 2
                ax.scatter(*ringed.T, size, "none", edgecolors=BOXES[2], lw=1, path_effects=halo(2.0), label="chosen")
    return figure


@styled
def dynamic_k(
    ious: Float[Tensor, "boxes priors"],
    points: Float[Tensor, "priors 4"] | None = None,
    *,
    topk: int = 13,
    boxes: Sequence[int] | None = None,
) -> "matplotlib.figure.Figure":
    """The ``topk`` best IoUs of each box laid end to end: the whole part of the length is its number of positives.

    Args:
        ious: of each box with each prior's predicted box, 0 where the pair is impossible.
        points: ``(x, y, stride, stride)``; where given, each piece has its level's colour.
        topk: pieces per box.
        boxes: which boxes to draw; the first sixteen where left out.

    Raises:
        ValueError: for a box that there is not.
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
    ax.set_yticks(range(len(drawn)), [f"box {g}" for g in drawn])
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
    margin: float | None = None,
) -> "matplotlib.figure.Figure":
    """Priors that several boxes chose, before and after each went to one box.

    Args:
        image: the image.
        before: which priors each box chose.
        after: ``gt_inds``: ``i + 1`` for box ``i``.
        points: ``(x, y, stride, stride)`` in pixels.
        ground_truth: the boxes; of a batch, the first image's.
        margin: show only a square around the boxes that want the same priors, this many pixels wider on each side.
    """
    wanted, owners = to_numpy(before), gt_indices(after)
    contested = wanted.sum(0) > 1
    boxes = real_boxes(ground_truth)
    rivals = {g: box for g, box in boxes.items() if wanted[g, contested].any()}
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
    # the first box's disc is the largest: later ones lie on it like the rings of a target
    share = 1 - (wanted.cumsum(0) - 1) / wanted.sum(0).clip(min=1)
    for g, claimed in enumerate(wanted):
        draw_dots(left, points, claimed & seen, box_color(g), area * share[g] ** 2, f"box {g}")
        draw_dots(right, points, (owners == g + 1) & seen, box_color(g), np.full(len(points), area), f"box {g}")
    draw_ring(right, xy[contested & seen], "contested", 2 * area)
    for ax in axes[0]:
        draw_labels(ax, list(rivals.values()), [f"box {g}" for g in rivals], [box_color(g) for g in rivals])
    return figure


@styled
def assignment(
    image: Image,
    assigned: AssignResult | Int[Tensor, " priors"],
    points: Float[Tensor, "priors 4"],
    ground_truth: GroundTruth | Float[Tensor, "_ 4"],
    *,
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
    orphans = [g for g, count in counts.items() if count == 0]

    height, width = image_size(image)
    title = f"{(owners > 0).sum()} positives of {len(owners):,} priors on {len(boxes)} boxes"
    title += f"; none on {_named(orphans)}" if orphans else ""
    figure, axes = panels(title, 1, 1, height / width, share=0.76)
    ax = axes[0, 0]
    show_image(ax, image, opacity=0.7)
    for g, box in boxes.items():
        draw_box(ax, box, box_color(g))
    strides = np.unique(to_numpy(points[:, 2]))
    figure.draw_without_rendering()
    area = dot_area(ax, points)
    _legend(ax, counts, strides, area, with_ious=ious is not None)
    figure.draw_without_rendering()
    for g in boxes:
        draw_dots(ax, points, owners == g + 1, box_color(g), area * (0.1 + 0.9 * overlaps), f"box {g}")
    if len(boxes) <= MOST_NAMED:
        draw_labels(ax, list(boxes.values()), [f"box {g}" for g in boxes], [box_color(g) for g in boxes])
    if follow is not None:
        draw_ring(ax, to_numpy(points[follow, :2]), "follow", 2.4 * area)
    return figure


def _legend(
    ax: "matplotlib.axes.Axes", counts: Mapping[int, int], strides: np.ndarray, area: float, *, with_ious: bool
) -> None:
    """Positives per box, then what shape and area of a dot mean."""
    from matplotlib.lines import Line2D

    def dot(color: str, marker: str, area: float, label: str) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=color, markersize=area**0.5, label=label)

    keys = [dot(box_color(g), "o", 50.0, f"box {g}: {n} positives") for g, n in list(counts.items())[:MOST_NAMED]]
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


def _named(boxes: Sequence[int], most: int = 6) -> str:
    """Boxes in words, with the count of what is left out.

    >>> _named([3]), _named([0, 1, 2]), _named(range(300), most=2)
    ('box 3', 'boxes 0, 1 and 2', 'boxes 0, 1 and 298 more')
    """
    words = [str(g) for g in boxes[:most]]
    if len(boxes) > most:
        words.append(f"{len(boxes) - most} more")
    return f"box {words[0]}" if len(words) == 1 else f"boxes {', '.join(words[:-1])} and {words[-1]}"
