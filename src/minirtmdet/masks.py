"""Mask geometry: where a mask's mass lies, and the cells that it is compared on.  Masks are ``[n, H, W]``, bool."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from minirtmdet.configs import MASK_STRIDE, STRIDES


def center_of_mass(masks: Bool[Tensor, "masks height width"]) -> Float[Tensor, "masks 2"]:
    """The mean ``(x, y)`` of each mask's pixels, which count by their index: pixel 5 lies at 5.0, not at 5.5.

    An empty mask has its centre at (0, 0).  MMDetection: ``center_of_mass``, which multiplies whole masks by whole
    grids; the sums of rows and of columns say the same, exactly.

    >>> mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    >>> mask[0, 1, 2:5] = True
    >>> center_of_mass(mask).tolist()
    [[3.0, 1.0]]
    """
    columns, rows = masks.sum(1), masks.sum(2)  # [n,W], [n,H]
    count = rows.sum(1).clamp(min=1).float()
    x = (columns * torch.arange(masks.shape[2], device=masks.device)).sum(1) / count
    y = (rows * torch.arange(masks.shape[1], device=masks.device)).sum(1) / count
    return torch.stack([x, y], -1)


def subsample(masks: Bool[Tensor, "*masks height width"]) -> Bool[Tensor, "*masks _ _"]:
    """Every fourth pixel of every fourth row, from the third on: about the middle of each cell of stride 4.

    What lies between is not seen: of squares of 2 x 2 pixels three in four vanish, from 4 x 4 on none.
    MMDetection: ``[:, mask_loss_stride // 2 :: mask_loss_stride]`` on both axes.

    >>> subsample(torch.ones(1, 64, 30, dtype=torch.bool)).shape
    torch.Size([1, 16, 7])
    """
    first = MASK_STRIDE // 2
    return masks[..., first::MASK_STRIDE, first::MASK_STRIDE]


def fit_to_map(masks: Bool[Tensor, "batch boxes _ _"], size: tuple[int, int]) -> Bool[Tensor, "batch boxes _ _"]:
    """Subsampled masks of an input that the network padded right and bottom, in the size of its maps.

    Args:
        masks: as :func:`subsample` gives them.
        size: rows and columns of the mask features.

    Raises:
        ValueError: where there are no masks, or masks of an input of another size.
    """
    height, width = (side * STRIDES[0] // MASK_STRIDE for side in size)
    down, across = height - masks.shape[-2], width - masks.shape[-1]
    if masks.shape[-1] == 0:
        raise ValueError("these boxes have no masks, and RTMDet-Ins learns them: GroundTruth.from_list(..., masks=...)")
    if not (0 <= down <= STRIDES[-1] // MASK_STRIDE and 0 <= across <= STRIDES[-1] // MASK_STRIDE):
        raise ValueError(
            f"masks have {masks.shape[-2]} x {masks.shape[-1]} cells of {MASK_STRIDE} pixels, and the network's input "
            f"{height} x {width}: give masks in the size of the padded input"
        )
    return F.pad(masks, (0, across, 0, down)) if down or across else masks
