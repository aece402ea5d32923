"""Mask geometry: where a mask's mass lies, the cells that it is compared on, and from logits to an image's pixels.

Masks are ``[n, H, W]``, bool.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

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


class Stretch(NamedTuple):
    """What stretches one side of a mask: the part that each cell has in each pixel, and which cells have one.

    Attributes:
        matrix: a pixel of a row; each row adds up to 1, and has no negative number.
        first: of each pixel the first cell that has a part in it; never before that of the pixel before.
        last: likewise the last cell.
    """

    matrix: Float[Tensor, "pixels cells"]
    first: list[int]
    last: list[int]

    def cells(self, start: int, stop: int) -> slice:
        """Those that have a part in some pixels in a row."""
        return slice(self.first[start], self.last[stop - 1] + 1)

    def pixels(self, first: int, last: int) -> tuple[int, int]:
        """From the first pixel in which cells from ``first`` to ``last`` have a part to behind the last one."""
        return bisect_left(self.last, first), bisect_right(self.first, last)


def as_stretch(matrix: Float[Tensor, "pixels cells"], device: torch.device | None = None) -> Stretch:
    """A matrix with what has a part in what; it is read on a processor, where nobody has to wait for it.

    >>> stretch = as_stretch(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    >>> stretch.cells(0, 1), stretch.cells(0, 2), stretch.pixels(1, 1)
    (slice(0, 1, None), slice(0, 2, None), (1, 3))
    """
    first, last = zip(*_ends(matrix != 0), strict=True)
    return Stretch(matrix.to(device or matrix.device), [*first], [*last])


def _ends(flags: Bool[Tensor, "rows cells"]) -> list[tuple[int, int]]:
    """The first and the last cell of each row that is true; the row's own ends where none is."""
    numbers = flags.byte()
    last = flags.shape[1] - 1 - numbers.flip(1).argmax(1)
    return [*zip(numbers.argmax(1).tolist(), last.tolist(), strict=True)]


@dataclass(frozen=True)
class StretchedMasks:
    """Masks as logits at the features' stride, with what stretches them to an image.

    Stretching works on rows and on columns alike, and twice in a row is still linear: one matrix for each side does
    both.  MMDetection makes two maps of numbers of the image's size for every detection; here a strip of rows is made,
    compared and forgotten.  It comes from the few rows of cells beneath it, so that most of its matrix is 0 and left
    out.  A pixel is a mean of cells, and where none of them is over the threshold, neither is the pixel: on a processor
    each mask is made only where its cells are over it, which are those of an object, and few.  A GPU would have to be
    asked where that is, and makes all masks at once.

    Attributes:
        logits: of each mask.
        rows: from the features' rows to the image's.
        columns: likewise.
        threshold: a pixel belongs to a mask where its logit is higher.
    """

    logits: Float[Tensor, "masks rows columns"]
    rows: Stretch
    columns: Stretch
    threshold: float

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
        return len(self.rows.first), len(self.columns.first)

    def pixels(self) -> Bool[Tensor, "masks height width"]:
        """All of them."""
        masks = torch.zeros(len(self), *self.shape, dtype=torch.bool, device=self.logits.device)
        for chosen, (top, bottom), (left, right) in self._parts():
            if left == right:  # smaller than a pixel, as some objects are in a small image
                continue
            logits, made = self.logits[chosen], masks[chosen, ..., left:right]
            across = self.columns.cells(left, right)
            columns = self.columns.matrix[left:right, across].T
            budget = CACHED if logits.device.type == "cpu" else ROOM
            step = min(STRIP, max(1, budget // made[..., 0, :].numel()))
            for start in range(top, bottom, step):
                stop = min(start + step, bottom)
                down = self.rows.cells(start, stop)
                strip = self.rows.matrix[start:stop, down] @ (logits[..., down, across] @ columns)
                torch.gt(strip, self.threshold, out=made[..., start:stop, :])
        return masks

    def _parts(self) -> Iterator[tuple[int | slice, tuple[int, int], tuple[int, int]]]:
        """Masks that are made together, and the rows and columns outside which they are empty."""
        if not len(self):
            return
        if self.logits.device.type != "cpu":
            yield slice(None), (0, self.shape[0]), (0, self.shape[1])
            return
        highest = self.logits.amax(2), self.logits.amax(1)  # of each row and of each column
        rows, columns = (_ends(side > self.threshold) for side in highest)
        for mask in (highest[0].amax(1) > self.threshold).nonzero().flatten().tolist():
            yield mask, self.rows.pixels(*rows[mask]), self.columns.pixels(*columns[mask])


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
