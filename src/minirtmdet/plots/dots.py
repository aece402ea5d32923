"""Priors as dots and rings, and the part of an image that a panel shows: what figures of the head share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from minirtmdet.plots.canvas import INK, halo, level_style, points_per_pixel, to_numpy

if TYPE_CHECKING:
    import matplotlib.axes


def draw_dots(
    ax: "matplotlib.axes.Axes", points: Tensor, where: np.ndarray, color: str, areas: np.ndarray, label: str
) -> None:
    """The priors of one box, in the shape of their levels.

    Coarse levels are below, over all boxes: their priors lie where finer ones do.
    """
    xy, strides = to_numpy(points[:, :2]), to_numpy(points[:, 2])
    for stride in np.unique(strides[where]):
        on_level = where & (strides == stride)
        marker = level_style(stride)[1]
        style: dict[str, Any] = {"marker": marker, "edgecolors": "white", "linewidths": 0.7, "clip_on": False}
        x, y = xy[on_level].T
        ax.scatter(x, y, s=areas[on_level], color=color, label=label, zorder=3 - 1e-3 * stride, **style)


def disc_shares(chosen: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Widths of dots by box: of several boxes at one prior, each has a smaller disc that lies on the one before it.

    >>> [share.tolist() for share in disc_shares([np.array([True, True]), np.array([False, True])])]
    [[1.0, 1.0], [1.0, 0.5]]
    """
    counts = np.cumsum(chosen, axis=0)  # [boxes, priors]
    return [np.minimum(1, 1 - (count - 1) / counts[-1].clip(min=1)) for count in counts]


def draw_ring(ax: "matplotlib.axes.Axes", xy: np.ndarray, label: str, area: float = 90.0) -> None:
    """Rings around points ``[2]`` or ``[n, 2]``."""
    style: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.4, "clip_on": False}
    ax.scatter(xy[..., 0], xy[..., 1], s=area, label=label, path_effects=halo(3.0), zorder=4, **style)


def dot_area(ax: "matplotlib.axes.Axes", points: Tensor) -> float:
    """Area of the largest dots: those of the finest level just fit their cells."""
    cell = float(points[:, 2].min()) * points_per_pixel(ax) if len(points) else 10.0
    return float(np.clip(cell, 4, 10)) ** 2


def square_around(box: np.ndarray, margin: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the square around a box."""
    (x, y), reach = (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) / 2 + margin
    return float(x - reach), float(x + reach), float(y + reach), float(y - reach)


def union(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """The smallest ``xyxy`` box around all of them; sides may be in the wrong order."""
    corners = np.concatenate([np.reshape(box, (2, 2)) for box in boxes])
    return np.concatenate([corners.min(0), corners.max(0)])
