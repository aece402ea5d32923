"""What figures read of the head's tensors: boxes and owners of one image, and priors as the maps of their levels."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.plots.canvas import to_numpy
from minirtmdet.structures import AssignResult, GroundTruth


def real_boxes(ground_truth: GroundTruth | Float[Tensor, "_ 4"], index: int = 0) -> dict[int, np.ndarray]:
    """The boxes that are assigned to priors, by their index; padding and ignored regions are left out."""
    if isinstance(ground_truth, GroundTruth):
        real = to_numpy(ground_truth.mask[index]).nonzero()[0]
        boxes = to_numpy(ground_truth.boxes[index])
        return {int(i): boxes[i] for i in real}
    return dict(enumerate(to_numpy(ground_truth)))


def gt_indices(assigned: AssignResult | Tensor, index: int = 0) -> np.ndarray:
    """``gt_inds`` of one image: ``i + 1`` for box ``i``, 0 for background, -1 for what is ignored."""
    inds = assigned.gt_inds if isinstance(assigned, AssignResult) else assigned
    return to_numpy(inds if inds.ndim == 1 else inds[index])


def named(boxes: Iterable[int], names: Sequence[str] | None) -> dict[int, str]:
    """What to call each box: by its name, or by its index where there are no names.

    Raises:
        ValueError: where a box has no name.

    >>> named([0, 2], None), named([0, 1], ["panda", "car"])
    ({0: 'box 0', 2: 'box 2'}, {0: 'panda', 1: 'car'})
    """
    if names is None:
        return {g: f"box {g}" for g in boxes}
    called = {}
    for g in boxes:
        if g >= len(names):
            raise ValueError(f"box {g} has no name: names has {len(names)}; give one per box, in the boxes' order")
        called[g] = names[g]
    return called


def listed(words: Sequence[str], most: int = 6) -> str:
    """Words in a sentence, with the count of what is left out.

    >>> listed(["panda"]), listed(["panda", "car", "ball"]), listed(["box"] * 300, most=2)
    ('panda', 'panda, car and ball', 'box, box and 298 more')
    """
    shown = list(words[:most])
    if len(words) > most:
        shown.append(f"{len(words) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def some(boxes: Sequence[int], chosen: Sequence[int] | None, most: int) -> list[int]:
    """Boxes to draw: the reader's choice, or the first ``most``.

    Raises:
        ValueError: for a choice that is no box.
    """
    if chosen is None:
        return list(boxes[:most])
    for i in chosen:
        if i not in boxes:
            raise ValueError(f"box {i} cannot be drawn: it is none of the {len(boxes)} boxes")
    return list(chosen)


class Level(NamedTuple):
    """One level of a grid of priors."""

    stride: int
    rows: int
    columns: int
    where: slice
    points: Float[np.ndarray, "cells 2"]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of its map in pixels, with each prior in the middle of its cell."""
        left, top = (self.points[0] - self.stride / 2).tolist()
        return left, left + self.columns * self.stride, top + self.rows * self.stride, top

    def map(self, values: Any) -> np.ndarray:
        """Values of all priors ``[..., N]`` as this level's map ``[..., rows, columns]``."""
        cells = to_numpy(values)[..., self.where]
        return cells.reshape(*cells.shape[:-1], self.rows, self.columns)


def levels(priors: Float[Tensor, "priors 4"]) -> list[Level]:
    """The levels that make up ``(x, y, stride, stride)`` priors.

    Raises:
        ValueError: where a level is not a full grid, row by row.

    >>> y, x = torch.meshgrid(torch.arange(2) * 8., torch.arange(3) * 8., indexing="ij")
    >>> [level] = levels(torch.stack([x, y, torch.full_like(x, 8), torch.full_like(x, 8)], -1).flatten(0, 1))
    >>> level.stride, level.rows, level.columns, level.extent, level.map(torch.arange(6)).tolist()
    (8, 2, 3, (-4.0, 20.0, 12.0, -4.0), [[0, 1, 2], [3, 4, 5]])
    """
    found = []
    start = 0
    for stride, count in zip(*torch.unique_consecutive(priors[:, 2], return_counts=True), strict=True):
        where = slice(start, start := start + int(count))
        points = to_numpy(priors[where, :2])
        columns = int((points[:, 1] == points[0, 1]).sum())
        rows = len(points) // columns
        grid = points[: rows * columns].reshape(rows, columns, 2)
        if (
            len(points) != rows * columns
            or (grid[:, :, 0] != grid[0, :, 0]).any()
            or (grid[:, :, 1] != grid[:, :1, 1]).any()
            or (grid[-1, -1] < grid[0, 0]).any()
        ):
            raise ValueError(f"the {len(points)} priors of stride {stride:g} are not a full grid, row by row")
        found.append(Level(int(stride), rows, columns, where, points))
    return found
