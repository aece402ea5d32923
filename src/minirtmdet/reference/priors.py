"""Priors and valid flags of one level, cell by cell."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def grid_priors(
    height: int, width: int, stride: int, offset: float = 0.0, device: torch.device | str = "cpu"
) -> Float[Tensor, "cells 4"]:
    """One prior per cell, row by row: ``(x, y, stride, stride)`` in pixels.

    Args:
        height: rows of cells.
        width: columns of cells.
        stride: pixels per cell.
        offset: where the prior lies in its cell, in strides.
        device: where to put them.

    MMDetection: ``MlvlPointGenerator.single_level_grid_priors``.

    >>> grid_priors(1, 2, stride=16).tolist()
    [[0.0, 0.0, 16.0, 16.0], [16.0, 0.0, 16.0, 16.0]]
    """
    rows = []
    for row in range(height):
        for column in range(width):
            rows.append(((column + offset) * stride, (row + offset) * stride, stride, stride))  # noqa: PERF401
    return torch.tensor(rows, dtype=torch.float32, device=device).reshape(-1, 4)


def valid_flags(
    height: int, width: int, stride: int, pad_shape: tuple[int, int], device: torch.device | str = "cpu"
) -> Bool[Tensor, " cells"]:
    """Whether each cell lies in the padded image, row by row.

    Args:
        height: rows of cells.
        width: columns of cells.
        stride: pixels per cell.
        pad_shape: ``(height, width)`` of the image after its own padding, in pixels.
        device: where to put them.

    MMDetection: ``MlvlPointGenerator.valid_flags``.

    >>> valid_flags(2, 2, stride=16, pad_shape=(32, 16)).tolist()
    [True, False, True, False]
    """
    valid_rows = min(math.ceil(pad_shape[0] / stride), height)
    valid_columns = min(math.ceil(pad_shape[1] / stride), width)
    flags = torch.zeros(height, width, dtype=torch.bool, device=device)
    flags[:valid_rows, :valid_columns] = True
    return flags.reshape(-1)
