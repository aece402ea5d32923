"""Mask geometry: where a mask's mass lies, the cells that it is compared on, and from logits to an image's pixels.

Masks are ``[n, H, W]``, bool.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from minirtmdet.configs import MASK_STRIDE, STRIDES

# pixels of all masks of an image that are worked on at a time: what a core's cache holds, and what keeps a GPU busy
CACHED, ROOM = 2**20, 2**26
# rows of an image that are made together: fewer take more calls, more take more cells each
STRIP = 64


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


def original_shapes(
    img_shapes: Sequence[tuple[int, int]], scale_factors: Sequence[tuple[float, float]]
) -> list[tuple[int, int]]:
    """Height and width of each image before it was resized.

    Exact for the factors that whole pixels of content make.  Of one that was asked for, where an enlarged image then
    got a part of a pixel more, the fraction is dropped; the hundredth is for the rounding of numbers.
    """
    pairs = zip(img_shapes, scale_factors, strict=True)
    return [(int(height / down + 0.01), int(width / across + 0.01)) for (height, width), (across, down) in pairs]


@runtime_checkable
class LazyMasks(Protocol):
    """Masks of one image that are made when their pixels are asked for.

    A hundred masks of an image of 12 megapixels take 1.2 GB; what they are made of takes a thousandth of that.
    """

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> "LazyMasks":
        """Some of them: a mask (bool), indices or a slice."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each mask."""
        ...

    def pixels(self) -> Bool[Tensor, "masks height width"]:
        """All of them."""
        ...


@dataclass(frozen=True)
class StretchedMasks:
    """Masks as logits at the features' stride, with what stretches them to an image.

    Stretching works on rows and on columns alike, and twice in a row is still linear: one matrix for each side does
    both, and a strip of all masks at a time is made, compared and forgotten.  A strip comes from the few rows of cells
    beneath it, so that most of its matrix is 0 and left out.  MMDetection makes two maps of numbers of the image's size
    for every detection.

    Attributes:
        logits: of each mask.
        rows: from the features' rows to the image's.
        columns: likewise.
        threshold: a pixel belongs to a mask where its logit is higher.
        density: rows of the features per row of the image.
    """

    logits: Float[Tensor, "masks rows columns"]
    rows: Float[Tensor, "height rows"]
    columns: Float[Tensor, "width columns"]
    threshold: float
    density: float

    def __len__(self) -> int:
        """How many there are."""
        return len(self.logits)

    def __getitem__(self, rows: Tensor | slice) -> "StretchedMasks":
        """Some of them, which share the matrices."""
        chosen = rows.to(self.logits.device) if isinstance(rows, Tensor) else rows
        return replace(self, logits=self.logits[chosen])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each mask."""
        return len(self.rows), len(self.columns)

    def pixels(self) -> Bool[Tensor, "masks height width"]:
        """All of them."""
        masks = torch.empty(len(self), *self.shape, dtype=torch.bool, device=self.logits.device)
        budget = CACHED if self.logits.device.type == "cpu" else ROOM
        step = min(STRIP, max(1, budget // max(1, len(self) * len(self.columns))))
        for top in range(0, len(self.rows), step):
            bottom = min(top + step, len(self.rows))
            cells = self.cells_of(top, bottom)
            strip = self.rows[top:bottom, cells] @ (self.logits[:, cells] @ self.columns.T)  # [n,strip,W]
            masks[:, top:bottom] = strip > self.threshold
        return masks

    def cells_of(self, top: int, bottom: int) -> slice:
        """Rows of the features that have a part in some rows of the image, and two or three at each end that may have.

        Both enlargements reach to the next cell, so that the matrix of an image's row is 0 for all others.
        """
        return slice(max(0, int(top * self.density) - 2), int(bottom * self.density) + 3)


def in_blocks(masks: Bool[Tensor, "masks height width"] | LazyMasks) -> Iterator[Bool[Tensor, "block height width"]]:
    """Masks in their order, a few at a time: as many as are worked on together, one at least.

    >>> [len(block) for block in in_blocks(torch.zeros(3, 1000, 1000, dtype=torch.bool))]
    [1, 1, 1]
    """
    height, width = masks.shape[-2:]
    size = max(1, CACHED // max(1, height * width))
    for start in range(0, len(masks), size):
        block = masks[start : start + size]
        yield block if isinstance(block, Tensor) else block.pixels()
