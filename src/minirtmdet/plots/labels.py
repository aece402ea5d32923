"""The names of boxes, placed where they can be read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minirtmdet.plots.canvas import ink_on, points_per_pixel
from minirtmdet.plots.fonts import text_width

if TYPE_CHECKING:
    import matplotlib.axes

MOST_HIDDEN = 1 / 20
"""Of a label, by a later one."""
FARTHER = 0.3
"""So much of a box may be hidden before its label moves a line away from it."""


def draw_labels(
    axes: "matplotlib.axes.Axes", boxes: Sequence[np.ndarray] | np.ndarray, texts: Sequence[str], colors: Sequence[str]
) -> None:
    """Name boxes, the first with priority, where :func:`place_labels` finds room.

    The figure must have been laid out: how much room a label takes depends on the size of the image.
    """
    pixel = points_per_pixel(axes)
    left, right = sorted(axes.get_xlim())
    top, bottom = sorted(axes.get_ylim())
    height = 11 / pixel
    sizes = [((text_width(text) + 2) / pixel, height) for text in texts]
    spots = place_labels(boxes, sizes, (left, top, right, bottom))
    for order, (spot, text, color) in enumerate(zip(spots, texts, colors, strict=True)):
        if spot is None:
            continue
        axes.text(
            spot[0] + 1 / pixel,
            spot[1] + height / 2,
            text,
            size=8,
            color=ink_on(color),
            va="center_baseline",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
            zorder=5 - order / 1000,
            clip_on=True,
            parse_math=False,  # a class may be called "$1"
        )


def place_labels(
    boxes: Sequence[np.ndarray] | np.ndarray,
    sizes: Sequence[tuple[float, float]] | np.ndarray,
    area: Sequence[float],
) -> list[tuple[float, float] | None]:
    """Left upper corner of each box's label: above, below or in the box, wherever boxes and labels are hidden least.

    The first box has priority. In a crowd a label that would hide a part of an earlier one wherever it stood has
    no corner: neither could be read.

    Args:
        boxes: left, top, right and bottom of each.
        sizes: width and height of each label.
        area: left, top, right and bottom of the image, which labels do not leave.

    >>> place_labels(np.array([[10., 20., 50., 40.]] * 2), [(30., 8.)] * 2, (0., 0., 60., 60.))
    [(10.0, 12.0), (10.0, 40.0)]
    """
    left, top, right, bottom = area
    rows = [(0, -1), (1, 0), (0, 0), (1, -1), (0, -2), (1, 1)]  # from the box's upper or lower edge, in labels
    farther = np.repeat([0, 0, 0, 0, FARTHER, FARTHER], 3)
    count = len(boxes)
    # what should stay visible: all boxes, and labels as they come
    seen = np.vstack([np.array(boxes, dtype=float).reshape(-1, 4), np.zeros((count, 4))])
    corners: list[tuple[float, float] | None] = []
    for box, (width, height) in zip(boxes, sizes, strict=True):
        x1, y1, x2, y2 = (float(edge) for edge in box)
        columns = (x1, x2 - width, (x1 + x2 - width) / 2)
        spots = np.array([(x, (y1, y2)[edge] + lines * height) for edge, lines in rows for x in columns])
        spots = np.maximum(np.minimum(spots, (right - width, bottom - height)), (left, top))
        labels = np.hstack([spots, np.add(spots, (width, height))])[:, None]  # [spots,1,4]
        # a large image has thousands of boxes, of which few lie where this label can
        low, high = labels[..., :2].min((0, 1)), labels[..., 2:].max((0, 1))
        near = np.flatnonzero(((seen[:count, :2] < high) & (seen[:count, 2:] > low)).all(1))
        others, is_label = seen[near], near >= len(boxes)
        sides = np.minimum(labels[..., 2:], others[:, 2:]) - np.maximum(labels[..., :2], others[:, :2])
        hidden = sides.clip(min=0).prod(-1) / (others[:, 2:] - others[:, :2]).prod(-1).clip(min=1e-6)  # share of each
        readable = hidden[:, is_label].max(1, initial=0) <= MOST_HIDDEN
        if not readable.any():
            corners.append(None)
            continue
        hidden[:, is_label] *= 4  # a hidden label is lost, a hidden box still has edges
        best = np.where(readable, hidden.sum(1) + farther, np.inf).argmin()
        seen[count] = labels[best, 0]
        count += 1
        corners.append((float(spots[best, 0]), float(spots[best, 1])))
    return corners
