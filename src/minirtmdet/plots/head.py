"""Pictures of the head's steps: priors, valid flags, costs, dynamic k, conflicts and the assignment."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.plots.canvas import (
    BOXES,
    CARD,
    FAINT,
    INK,
    MUTED,
    Image,
    Level,
    bare,
    box_color,
    draw_box,
    draw_labels,
    gt_indices,
    halo,
    image_size,
    level_style,
    levels,
    new_figure,
    panels,
    points_per_pixel,
    real_boxes,
    show_image,
    some,
    styled,
    to_numpy,
)
from minirtmdet.structures import AssignResult, GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

CHEAPEST, DEAREST = 0.01, 100.0
MOST_NAMED = 12


@styled
def priors(
    points: Float[Tensor, "priors 4"], image: Image | None = None, *, follow: int | None = None
) -> "matplotlib.figure.Figure":
    """Every prior of every level, one panel a level.

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
    figure, axes = panels(f"{len(points):,} priors ({counts}), one in each cell", 1, len(grid), height / width)
    for ax in axes[0]:
        show_image(ax, image, opacity=0.5)
    figure.draw_without_rendering()
    for ax, level in zip(axes[0], grid, strict=True):
        cell = level.stride * points_per_pixel(ax)
        if cell > 5:
            ax.vlines(np.arange(0, width + 1, level.stride), 0, height, **lines)
            ax.hlines(np.arange(0, height + 1, level.stride), 0, width, **lines)
        _grid_dots(ax, level, np.full(len(level.points), True), cell, "priors")
        title = f"stride {level.stride}: {level.rows} × {level.columns}"
        if follow is not None and level.where.start <= follow < level.where.stop:
            draw_ring(ax, level.points[follow - level.where.start], "follow")
            title += f", prior {follow} ringed"
        ax.set_title(title)
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
        flags: one an image and prior.
        points: ``(x, y, stride, stride)`` in pixels.
        pad_shapes: ``(height, width)`` of each image after its own padding, to outline.
    """
    grid = levels(points)
    height, width = image_size(images[0])
    title = f"{int(flags.sum()):,} of {flags.numel():,} priors are valid (filled) in this batch of {len(images)}"
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
    """What four distances from a prior mean: an arrow to each side and the box that they span, a panel a reading.

    Args:
        image: the picture.
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
            color = BOXES[0] if letter in "lr" else BOXES[2]
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
        view = (0.0, width, height, 0.0) if margin is None else _square(_union(around), margin)
        ax.set(xlim=view[:2], ylim=view[2:])
        draw_ring(ax, np.array([x, y]), "prior", 30.0)
    return figure


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
            left, right, bottom, top = level.extent if margin is None else _square(outlines[g], margin)
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
        topk: pieces a box.
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
        image: the picture.
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
        view, aspect = _square(_union(list(rivals.values())), margin), 1.0
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
        image: the picture.
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
    """Positives a box, then what shape and area of a dot mean."""
    from matplotlib.lines import Line2D

    def dot(color: str, marker: str, area: float, label: str) -> Line2D:
        return Line2D([], [], ls="", marker=marker, color=color, markersize=area**0.5, label=label)

    keys = [dot(box_color(g), "o", 50.0, f"box {g}: {n} positives") for g, n in list(counts.items())[:MOST_NAMED]]
    if len(counts) > MOST_NAMED:
        keys.append(dot("none", "o", 50.0, f"and {len(counts) - MOST_NAMED} boxes more"))
    keys += [dot(MUTED, level_style(s)[1], 50.0, f"stride {s:g}") for s in strides]
    keys += [dot(MUTED, "o", area * (0.1 + 0.9 * iou), f"IoU {iou:g}") for iou in (0, 0.5, 1) if with_ious]
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0, labelspacing=0.7)


def draw_dots(
    ax: "matplotlib.axes.Axes", points: Tensor, where: np.ndarray, color: str, areas: np.ndarray, label: str
) -> None:
    """The priors of one box, in the shape of their levels."""
    xy, strides = to_numpy(points[:, :2]), to_numpy(points[:, 2])
    for stride in np.unique(strides[where]):
        on_level = where & (strides == stride)
        marker = level_style(stride)[1]
        style: dict[str, Any] = {"marker": marker, "edgecolors": "white", "linewidths": 0.7, "clip_on": False}
        x, y = xy[on_level].T
        ax.scatter(x, y, s=areas[on_level], color=color, label=label, zorder=3, **style)


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


def draw_ring(ax: "matplotlib.axes.Axes", xy: np.ndarray, label: str, area: float = 90.0) -> None:
    """Rings around points ``[2]`` or ``[n, 2]``."""
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.4, "clip_on": False}
    ax.scatter(xy[..., 0], xy[..., 1], s=area, label=label, path_effects=halo(3.0), zorder=4, **style)


def dot_area(ax: "matplotlib.axes.Axes", points: Tensor) -> float:
    """Area of the largest dots: those of the finest level just fit their cells."""
    cell = float(points[:, 2].min()) * points_per_pixel(ax) if len(points) else 10.0
    return float(np.clip(cell, 4, 10)) ** 2


def _square(box: np.ndarray, margin: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the square around a box."""
    (x, y), reach = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) / 2 + margin
    return float(x - reach), float(x + reach), float(y + reach), float(y - reach)


def _union(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """The smallest ``xyxy`` box around all of them; sides may be in the wrong order."""
    corners = np.concatenate([np.reshape(box, (2, 2)) for box in boxes])
    return np.concatenate([corners.min(0), corners.max(0)])


def _paper(grid: Sequence[Level]) -> np.ndarray:
    """An empty picture as large as the finest level."""
    return np.full((grid[0].rows * grid[0].stride, grid[0].columns * grid[0].stride, 3), 225, np.uint8)


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
