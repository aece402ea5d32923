"""From a prior's 169 numbers to its mask, and to the Dice loss of it: all positives of a batch at once.

An instance's mask is three 1x1 convolutions of its own over features that its whole image shares.  Two of its ten
input channels say where a cell lies relative to the prior, and so differ from instance to instance; since they are
linear in the cell's position, what differs can move into the weights.  All instances of an image then read the same
ten channels, and their first convolutions are one product of matrices.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from minirtmdet.configs import MASK_STRIDE, PROTOTYPES, STRIDES
from minirtmdet.structures import MaskTerms

FINER = STRIDES[0] // MASK_STRIDE
"""Masks are compared on a map with so many times the rows and columns of the features."""
UNIT = 64.0
"""Pixels in which the shared coordinates are counted, so that they are of the size of features."""
# numbers of a hidden layer that are worked on at a time: what a processor's caches hold, and what a GPU has room for
CACHED, ROOM = 2**20, 2**26


class Slots(NamedTuple):
    """The positives of each image at the front of a row of fixed length.

    Attributes:
        priors: index of each positive among all priors, in ascending order; 0 where a slot is not used.
        used: whether a positive is there.
    """

    priors: Int[Tensor, "batch slots"]
    used: Bool[Tensor, "batch slots"]


def fill_slots(positive: Bool[Tensor, "batch priors"], most: int) -> Slots:
    """Give the n-th positive of each image slot n; nothing asks how many there are.

    Args:
        positive: which priors have a box.
        most: slots; there must be enough for the positives of any image.

    >>> slots = fill_slots(torch.tensor([[False, True, True], [False, False, True]]), 3)
    >>> slots.priors.tolist(), slots.used.sum(1).tolist()
    ([[1, 2], [2, 0]], [2, 1])
    """
    count = positive.sum(1, keepdim=True)
    most = min(most, positive.shape[1])
    if positive.device.type == "cpu" and not torch.compiler.is_compiling():
        most = int(count.max())  # nobody waits for a processor
    # all other priors go to one more slot, which is cut off
    slot = torch.where(positive, positive.cumsum(1) - 1, most)
    index = torch.arange(positive.shape[1], device=positive.device).expand_as(slot)
    priors = slot.new_zeros(len(slot), most + 1).scatter(1, slot, index)[:, :most]
    used = torch.arange(most, device=positive.device) < count
    return Slots(priors * used, used)


def at_priors(
    maps: Sequence[Float[Tensor, "batch channels _ _"]], priors: Int[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots channels"]:
    """What the maps of all levels hold at some priors; nothing is copied of the others.

    Args:
        maps: of each level.
        priors: indices among the priors of all levels.

    >>> at_priors([torch.arange(4.0).view(1, 1, 2, 2), torch.full((1, 1, 1, 1), 9.0)], torch.tensor([[4, 1]])).tolist()
    [[[9.0], [1.0]]]
    """
    picked = maps[0].new_zeros(())
    first = 0
    for level in maps:
        flat = level.flatten(2)  # [B,C,cells]
        cell = (priors - first).clamp(0, flat.shape[-1] - 1)[:, None]  # [B,1,K]
        picked = torch.where(priors[:, None] < first, picked, flat.gather(2, cell.expand(-1, flat.shape[1], -1)))
        first += flat.shape[-1]
    return picked.mT


class Kernels(NamedTuple):
    """The convolutions of instances, for channels that their image shares: see :func:`fold`."""

    weight1: Float[Tensor, "batch slots 8 10"]
    bias1: Float[Tensor, "batch slots 8"]
    weight2: Float[Tensor, "batch slots 8 8"]
    bias2: Float[Tensor, "batch slots 8"]
    weight3: Float[Tensor, "batch slots 1 8"]
    bias3: Float[Tensor, "batch slots 1"]


def shared_channels(mask_feat: Float[Tensor, "batch 8 height width"]) -> Float[Tensor, "batch 10 height width"]:
    """What all instances of an image read: x and y of each cell's corner from the map's middle, and the prototypes."""
    batch, _, height, width = mask_feat.shape
    x, y = (_offsets(side, mask_feat) for side in (width, height))
    xy = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return torch.cat([xy.expand(batch, 2, height, width), mask_feat], 1)


def _offsets(side: int, like: Tensor) -> Float[Tensor, " side"]:
    """Positions of so many cells from the middle between the first and the last, in :data:`UNIT`."""
    return (torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2) * (STRIDES[0] / UNIT)


def fold(
    kernels: Float[Tensor, "batch slots 169"], priors: Float[Tensor, "batch slots 4"], size: tuple[int, int]
) -> Kernels:
    """Cut each instance's numbers into its convolutions, and move its position into the first one.

    A relative coordinate is ``(prior - cell) / (8 stride)``.  With the cell's position counted from the map's middle
    in :data:`UNIT`, that is ``(prior - middle) / (8 stride) - UNIT / (8 stride) * cell``: the constant goes into the
    bias, the factor into the weights.

    Args:
        kernels: all weights, then all biases; each block of weights is ``[out, in]``, row by row.
        priors: ``(x, y, stride, stride)`` of each instance, in pixels.
        size: rows and columns of the features.
    """
    weight1, weight2, weight3, bias1, bias2, bias3 = kernels.split([80, 64, 8, 8, 8, 1], -1)
    weight1 = weight1.unflatten(-1, (8, PROTOTYPES + 2))
    reach = PROTOTYPES * priors[..., 2:]  # [B,K,2], pixels
    middle = [(side - 1) / 2 * STRIDES[0] for side in reversed(size)]
    # column by column: a tensor of these two numbers would have to be sent to the device
    offset = torch.stack([column - at for column, at in zip(priors[..., :2].unbind(-1), middle, strict=True)], -1)
    on_xy, on_features = weight1.split([2, PROTOTYPES], -1)
    bias1 = bias1 + (on_xy * (offset / reach)[..., None, :]).sum(-1)
    weight1 = torch.cat([on_xy * (-UNIT / reach)[..., None, :], on_features], -1)
    return Kernels(weight1, bias1, weight2.unflatten(-1, (8, 8)), bias2, weight3.unflatten(-1, (1, 8)), bias3)


def convolve(
    channels: Float[Tensor, "batch 10 cells"], kernels: Kernels
) -> tuple[Float[Tensor, "rows 8 cells"], Float[Tensor, "rows 8 cells"], Float[Tensor, "rows 1 cells"]]:
    """Both hidden layers and the logits of every instance, image after image in one axis.

    The first convolutions of an image are one product, the others one small product an instance.
    """
    weight1, bias1, *rest = kernels
    weight2, bias2, weight3, bias3 = (part.flatten(0, 1) for part in rest)
    hidden1 = torch.baddbmm(bias1.flatten(1)[..., None], weight1.flatten(1, 2), channels).relu_()
    hidden1 = hidden1.view(-1, 8, hidden1.shape[-1])
    hidden2 = torch.baddbmm(bias2[..., None], weight2, hidden1).relu_()
    return hidden1, hidden2, torch.baddbmm(bias3[..., None], weight3, hidden2)


def mask_logits(
    kernels: Float[Tensor, "batch slots 169"],
    priors: Float[Tensor, "batch slots 4"],
    mask_feat: Float[Tensor, "batch 8 height width"],
) -> Float[Tensor, "batch slots height width"]:
    """Masks of instances as logits at the features' stride, block by block.

    Args:
        kernels: what the kernel branch predicts at each instance's prior.
        priors: ``(x, y, stride, stride)`` of each instance, in pixels.
        mask_feat: the prototypes of each image.
    """
    batch, slots = kernels.shape[:2]
    size = (mask_feat.shape[-2], mask_feat.shape[-1])
    folded = fold(kernels, priors, size)
    channels = shared_channels(mask_feat).flatten(2)
    logits = [convolve(channels, Kernels(*(part[:, b] for part in folded)))[2] for b in _blocks(slots, channels)]
    parts = [part.view(batch, -1, *size) for part in logits]
    return torch.cat(parts, 1) if parts else mask_feat.new_zeros(batch, 0, *size)


def _blocks(slots: int, channels: Float[Tensor, "batch 10 cells"]) -> Iterator[slice]:
    """Slots of all images, so many that a hidden layer of them fits the budget; one at least."""
    budget = CACHED if channels.device.type == "cpu" else ROOM
    size = max(1, budget // (8 * len(channels) * channels.shape[-1]))
    return (slice(start, start + size) for start in range(0, slots, size))


def mask_terms(
    kernel_preds: Sequence[Float[Tensor, "batch kernel _ _"]],
    mask_feat: Float[Tensor, "batch 8 height width"],
    priors: Float[Tensor, "priors 4"],
    gt_inds: Int[Tensor, "batch priors"],
    masks: Bool[Tensor, "batch boxes rows columns"],
    most: int,
    eps: float = 5e-6,
    drop_empty: bool = False,
) -> MaskTerms:
    """Dice loss of every positive, summed (MMDetection: ``RTMDetInsHead.loss_mask_by_feat``).

    There the indices of the positives count the priors that take part, but the kernels are those of all priors: where
    one takes no part, every positive after it trains a stranger's kernel.  Here both count all.

    Args:
        kernel_preds: what the kernel branch predicts on each level.
        mask_feat: the prototypes of each image.
        priors: ``(x, y, stride, stride)`` in pixels.
        gt_inds: from the assignment.
        masks: of each box, with :data:`FINER` times the rows and columns of the features.
        most: the positives that an image can have.
        eps: added twice to the denominator.
        drop_empty: do not count positives whose mask is empty.
    """
    slots = fill_slots(gt_inds > 0, most)
    kernels = at_priors(kernel_preds, slots.priors)
    dtype = torch.promote_types(torch.promote_types(kernels.dtype, mask_feat.dtype), torch.float32)
    box = (gt_inds.gather(1, slots.priors) - 1).clamp(min=0)
    area = masks.sum((-2, -1)).gather(1, box)
    counts = (slots.used & (area > 0) if drop_empty else slots.used).to(dtype)
    # hidden before anything is computed of it: a masked loss has the gradient 0 * inf = NaN
    kernels = torch.where(slots.used[..., None], kernels.to(dtype), 0)
    folded = fold(kernels, priors.to(dtype)[slots.priors], (mask_feat.shape[-2], mask_feat.shape[-1]))
    channels = shared_channels(mask_feat.to(dtype))
    learn = torch.is_grad_enabled() and (kernels.requires_grad or mask_feat.requires_grad)
    total, each = DiceOfSlots.apply(channels, *folded, masks, box, area.to(dtype), counts, eps, learn)
    return MaskTerms(each, total, counts.sum())


class DiceOfSlots(torch.autograd.Function):
    """The sum of the slots' Dice losses, whose gradient is known before anybody asks for it: see ``_dice``."""

    @staticmethod
    def forward(ctx: Any, channels: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Sum and each slot's loss; arguments as :func:`mask_terms` makes them."""
        *kernels, masks, box, area, counts, eps, learn = arguments
        in_one = channels.device.type == "cpu" and torch.compiler.is_compiling()
        each, *slopes = (_dice_in_one if in_one else _dice)(
            # bytes, of which numbers are made five times as fast as of truth values
            channels, kernels, masks.view(torch.uint8), box, area, counts, eps, learn
        )  # fmt: skip
        ctx.mark_non_differentiable(each)
        ctx.save_for_backward(*slopes)
        return each.sum(), each

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The slopes, times what follows; none to what is not learned."""
        return (*(slope * gradient for slope in ctx.saved_tensors), *[None] * 6)


def _dice(
    channels: Float[Tensor, "batch 10 height width"],
    kernels: list[Tensor],
    masks: UInt8[Tensor, "batch boxes rows columns"],
    box: Int[Tensor, "batch slots"],
    area: Float[Tensor, "batch slots"],
    counts: Float[Tensor, "batch slots"],
    eps: float,
    learn: bool,
) -> list[Tensor]:
    """Each slot's Dice loss, and the slopes of their sum to the channels and to the kernels, in blocks of slots.

    What a mask is made of, two hidden layers and a map at twice the resolution, is some hundred times as large as
    what it is made from.  Autograd would keep all of it until the way back.  Since the sum's gradient is known but
    for one factor, it is taken while a block is at hand, and the block forgotten: memory does not grow with the
    positives, and nothing is computed twice.
    """
    size = channels.shape[-2:]
    flat = channels.flatten(2)
    image = torch.arange(len(flat), device=flat.device)[:, None]
    each = torch.zeros_like(counts)
    slopes = [torch.zeros_like(part) for part in (channels, *kernels)] if learn else []
    for block in _blocks(box.shape[1], flat):
        counted = counts[:, block]
        if flat.device.type == "cpu" and not counted.any():  # nobody waits for a processor
            continue
        chosen = Kernels(*(part[:, block] for part in kernels))
        hidden1, hidden2, logits = convolve(flat, chosen)
        finer = F.interpolate(logits.view(-1, 1, *size), scale_factor=FINER, mode="bilinear")
        probability = finer.sigmoid_().flatten(2)  # [rows,1,cells]
        target = masks[image, box[:, block]].to(flat.dtype).view_as(probability)
        overlap = torch.bmm(probability, target.mT)  # [rows,1,1]
        sizes = torch.bmm(probability, probability.mT) + eps + (area[:, block].reshape(-1, 1, 1) + eps)
        each[:, block] = (1 - 2 * overlap / sizes).view_as(counted) * counted
        if learn:
            slope = (probability * (2 * overlap / sizes)).sub_(target)
            slope = torch.ops.aten.sigmoid_backward(slope, probability)
            slope = _slope_of_doubling(_slope_of_doubling(slope.view_as(finer)[:, 0], 1), 2).flatten(1)[:, None]
            slope *= counted.reshape(-1, 1, 1) * 2 / sizes
            own, slope = _slopes_of_convolutions(slope, hidden1, hidden2, flat, chosen)
            slopes[0].view_as(flat).add_(slope)
            for whole, part in zip(slopes[1:], own, strict=True):
                whole[:, block] = part.view(len(flat), -1, *part.shape[1:])
    return [each, *slopes]


@torch.library.custom_op("minirtmdet::dice_of_slots", mutates_args=())
def _dice_in_one(
    channels: Tensor,
    kernels: Sequence[Tensor],
    masks: Tensor,
    box: Tensor,
    area: Tensor,
    counts: Tensor,
    eps: float,
    learn: bool,
) -> list[Tensor]:
    """:func:`_dice` as one operation, into which a compiler does not look.

    What it makes of the blocks takes twice as long on a processor as the calls do, and it cannot leave out those that
    hold nothing.
    """
    return _dice(channels, [*kernels], masks, box, area, counts, eps, learn)


@_dice_in_one.register_fake
def _shapes_of_dice(
    channels: Tensor, kernels: Sequence[Tensor], masks: Tensor, box: Tensor, area: Tensor, counts: Tensor, *rest: Any
) -> list[Tensor]:
    learn = rest[-1]
    return [torch.empty_like(part) for part in (counts, *((channels, *kernels) if learn else ()))]


def _slope_of_doubling(slope: Float[Tensor, "rows _ _"], side: int) -> Float[Tensor, "rows _ _"]:
    """From the slope of an axis that was made twice as long, bilinearly, to that of the axis itself.

    A cell gives three quarters to each of its two halves, and a quarter to the nearer half of each neighbour; where it
    has none, that stays its own.  PyTorch's own way back takes eight times as long on a processor.
    """
    first, second = slope.unflatten(side, (-1, 2)).unbind(side + 1)
    cells = first.shape[side]
    whole = (first + second) * 0.75
    whole.narrow(side, 1, cells - 1).add_(second.narrow(side, 0, cells - 1), alpha=0.25)
    whole.narrow(side, 0, cells - 1).add_(first.narrow(side, 1, cells - 1), alpha=0.25)
    whole.narrow(side, 0, 1).add_(first.narrow(side, 0, 1), alpha=0.25)
    whole.narrow(side, cells - 1, 1).add_(second.narrow(side, cells - 1, 1), alpha=0.25)
    return whole


def _slopes_of_convolutions(
    slope: Float[Tensor, "rows 1 cells"],
    hidden1: Float[Tensor, "rows 8 cells"],
    hidden2: Float[Tensor, "rows 8 cells"],
    channels: Float[Tensor, "batch 10 cells"],
    kernels: Kernels,
) -> tuple[list[Tensor], Float[Tensor, "batch 10 cells"]]:
    """From the slope of the logits to those of an instance's weights and biases, and of the shared channels."""
    weight1, weight2, weight3 = (
        kernels.weight1.flatten(1, 2),
        *(part.flatten(0, 1) for part in (kernels.weight2, kernels.weight3)),
    )
    own3 = torch.bmm(slope, hidden2.mT), slope.sum(-1)
    slope = torch.ops.aten.threshold_backward(weight3.mT * slope, hidden2, 0)
    own2 = torch.bmm(slope, hidden1.mT), slope.sum(-1)
    slope = torch.ops.aten.threshold_backward(torch.bmm(weight2.mT, slope), hidden1, 0)
    by_image = slope.view(len(channels), -1, slope.shape[-1])  # [B,8K,cells]
    own1 = torch.bmm(by_image, channels.mT).view(-1, 8, channels.shape[1]), slope.sum(-1)
    return [*own1, *own2, *own3], torch.bmm(weight1.mT, by_image)
