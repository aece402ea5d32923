"""A figure of what each prior would cost a box."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from minirtmdet.plots.canvas import (
    FAINT,
    INK,
    Image,
    bare,
    box_color,
    draw_box,
    halo,
    new_figure,
    panels,
    show_image,
    styled,
    to_grey,
    to_numpy,
)
from minirtmdet.plots.dots import square_around
from minirtmdet.plots.grids import Level, levels, listed, named, real_boxes, some
from minirtmdet.structures import GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

CHEAPEST, DEAREST = 0.01, 100.0
SUM_SPAN = 10.0
"""The scale of the sum ends at so many times its least value: what costs more is never chosen."""
PARTS_COLORS, SUM_COLORS = "viridis_r", "magma_r"


@styled
def cost_maps(
    costs: Mapping[str, Float[Tensor, "boxes priors"]],
    points: Float[Tensor, "priors 4"],
    *,
    image: Image | None = None,
    chosen: Bool[Tensor, "boxes priors"] | None = None,
    candidates: Bool[Tensor, " priors"] | None = None,
    ground_truth: GroundTruth | Float[Tensor, "_ 4"] | None = None,
    boxes: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    margin: float | None = None,
) -> "matplotlib.figure.Figure":
    """Heat maps of each cost and of their sum, a row for each box and level.

    The parts share one logarithmic scale, so that it shows which cost decides; the sum has a scale of its own, so that
    the cheap priors can be told apart.  Bright is cheap.

    Args:
        costs: the parts by name, as they are added up (weights included).
        points: ``(x, y, stride, stride)`` in pixels.
        image: what lies below the maps.
        chosen: pairs whose cells are outlined.
        candidates: priors that may be chosen; the others, and infinite costs, are left blank.
        ground_truth: boxes to outline, those of the first image; rows of padding are then left out.
        boxes: which boxes to draw; the first two where left out.
        names: what each box shows.
        margin: show only a square around each box, this many pixels wider on each side; needs ``ground_truth``.

    Raises:
        ValueError: for a box that there is not or that has no name, and for a margin without ground truth.
    """
    from matplotlib.colors import LogNorm

    grid = levels(points)
    parts = {name: to_numpy(part) for name, part in costs.items()}
    parts["sum"] = np.sum(list(parts.values()), axis=0)
    outlines = {} if ground_truth is None else real_boxes(ground_truth)
    if margin is not None and ground_truth is None:
        raise ValueError("a margin around boxes needs ground_truth, which says where they are")
    known = range(len(parts["sum"])) if ground_truth is None else list(outlines)
    drawn = some(known, boxes, 2)
    if not drawn:
        figure = new_figure("There is no box, so no prior has a cost", 0.3)
        bare(figure.subplots())
        return figure
    allowed = np.isfinite(parts["sum"]) & (True if candidates is None else to_numpy(candidates))
    called = named(drawn, names)

    who = listed(list(called.values()))
    title = f"{who[0].upper()}{who[1:]}: what each prior would cost"
    title += "; outlined: the chosen priors" if chosen is not None else ""
    rows = [(g, level) for g in drawn for level in grid]
    aspect = grid[0].rows / grid[0].columns if margin is None else 1.0
    figure, axes = panels(title, len(rows), len(parts), aspect, headings=False)
    figure.set_figheight(figure.get_figheight() + 0.5)  # the scales
    least = max(CHEAPEST, min(float(parts["sum"][g][allowed[g]].min(initial=DEAREST)) for g in drawn))
    limits = dict.fromkeys(parts, (CHEAPEST, DEAREST)) | {"sum": (least, SUM_SPAN * least)}
    colors = dict.fromkeys(parts, PARTS_COLORS) | {"sum": SUM_COLORS}
    for row, (g, level) in zip(axes, rows, strict=True):
        for ax, (name, part) in zip(row, parts.items(), strict=True):
            values = np.where(allowed[g], part[g], np.nan).clip(*limits[name])
            _draw_map(ax, level, values, image, norm=LogNorm(*limits[name]), cmap=colors[name])
            if g in outlines:
                draw_box(ax, outlines[g], box_color(g))
            if chosen is not None:
                _outline_cells(ax, level, to_numpy(chosen[g, level.where]))
            left, right, bottom, top = level.extent if margin is None else square_around(outlines[g], margin)
            ax.set(xlim=(left, right), ylim=(bottom, top))
        row[0].set_ylabel(f"{called[g]}\nstride {level.stride}")
    for ax, name in zip(axes[0], parts, strict=True):
        ax.set_title(name)
    _scales(figure, axes, least)
    return figure


def _scales(figure: "matplotlib.figure.Figure", axes: np.ndarray, least: float) -> None:
    """A colour bar below the parts, and one below the sum."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    style: dict[str, Any] = {"location": "bottom", "aspect": 25}
    parts = ScalarMappable(LogNorm(CHEAPEST, DEAREST), PARTS_COLORS)
    figure.colorbar(parts, ax=axes[:, :-1], label="cost", extend="both", shrink=0.5, **style)
    ticks = [least, 3 * least, SUM_SPAN * least]
    whole = ScalarMappable(LogNorm(least, SUM_SPAN * least), SUM_COLORS)
    bar = figure.colorbar(whole, ax=axes[:, -1:], label="sum", extend="max", shrink=0.9, **style)
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()


def _draw_map(ax: "matplotlib.axes.Axes", level: Level, values: np.ndarray, image: Image | None, **style: Any) -> None:
    """Values of one level over the image in grey, if there is one."""
    ax.set_facecolor(FAINT)
    opacity = 1.0
    if image is not None:
        show_image(ax, to_grey(image), opacity=0.6)
        opacity = 0.72
    extent = level.extent
    ax.imshow(level.map(values), extent=extent, interpolation="nearest", alpha=opacity, **style)
    bare(ax)


def _outline_cells(ax: "matplotlib.axes.Axes", level: Level, where: np.ndarray) -> None:
    """The border around chosen cells of one level."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    side = level.stride
    cells = [Rectangle((x - side / 2, y - side / 2), side, side) for x, y in level.points[where]]
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.3, "path_effects": halo(2.8)}
    ax.add_collection(PatchCollection(cells, label="chosen", zorder=3, **style))
