"""Which gradients of mask features hang on a value at relu's kink.

An instance's mask goes through two hidden layers with relu.  Where a hidden value is 0 but for rounding, two programs
that add the same numbers in another order may find it on either side: one passes its slope on, the other nothing, and
both are right.  The masks and losses are the same to the last digit all the same, since the value itself is 0.

The hidden values are worked out here once more, in fp64, from MMDetection's formula and from neither lane of the
package.  A kink is where one of them is no further from 0 than fp32 may move it.
"""

from typing import NamedTuple

import torch
from parity.instances import InstanceCase
from torch import Tensor

ROUNDING = 1e-6
"""How far sums of some ten numbers in fp32 may be off, of the sum of their sizes."""


class Kinks(NamedTuple):
    """Where rounding chooses a slope.

    Attributes:
        cells: ``[B,H,W]``: cells of the mask features with such a hidden value of any positive.
        priors: ``[B,N]``: positives with such a hidden value at any cell.
    """

    cells: Tensor
    priors: Tensor


def kinks(case: InstanceCase, gt_inds: Tensor) -> Kinks:
    """Find the cells and the positives whose gradients may come out in more than one way.

    Args:
        case: the inputs.
        gt_inds: ``[B,N]`` from the assignment: ``i + 1`` for box ``i``, 0 or below for none.
    """
    batch, _, height, width = case.mask_feat.shape
    found = Kinks(torch.zeros(batch, height, width, dtype=torch.bool), torch.zeros_like(gt_inds, dtype=torch.bool))
    for image, (kernels, feat) in enumerate(zip(case.kernels.double(), case.mask_feat.double(), strict=True)):
        middle = torch.tensor([width - 1, height - 1], dtype=torch.float64) * 4
        y, x = torch.meshgrid(torch.arange(height) * 8.0, torch.arange(width) * 8.0, indexing="ij")
        cells = torch.stack([x, y]).double()  # [2,H,W]
        for prior in (gt_inds[image] > 0).nonzero()[:, 0].tolist():
            at, reach = case.scene.priors[prior, :2].double(), 8 * float(case.scene.priors[prior, 2])
            channels = torch.cat([(at[:, None, None] - cells) / reach, feat])
            # a position may be counted from the map's middle: what is added then, not what is left
            far = ((at - middle).abs()[:, None, None] + (cells - middle[:, None, None]).abs()) / reach
            sizes, error = torch.cat([far, feat.abs()]), torch.zeros_like(channels)
            weight1, weight2, _, bias1, bias2, _ = kernels[prior].split([80, 64, 8, 8, 8, 1])
            for weight, bias in ((weight1.view(8, 10), bias1), (weight2.view(8, 8), bias2)):
                value = torch.einsum("oi,ihw->ohw", weight, channels) + bias[:, None, None]
                size = torch.einsum("oi,ihw->ohw", weight.abs(), sizes) + bias.abs()[:, None, None]
                error = torch.einsum("oi,ihw->ohw", weight.abs(), error) + ROUNDING * size
                near = (value.abs() <= error).any(0)
                found.cells[image] |= near
                found.priors[image, prior] |= near.any()
                channels = value.relu()
                sizes = channels
    return found


def settle_kinks(
    case: InstanceCase, mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float
) -> tuple[dict[str, Tensor], int]:
    """Our answer with those gradients taken over from the other that differ and that a kink decides; and their number.

    Args:
        case: the inputs of both.
        mine: with ``grad_mask_feat`` and ``grad_kernels``, flat.
        theirs: the same, and ``gt_inds``, which ours has to be.
        tolerance: of the largest gradient; what differs less is left alone.
    """
    feat = [answer["grad_mask_feat"].view_as(case.mask_feat) for answer in (mine, theirs)]
    levels = [_by_prior(case, answer["grad_kernels"]) for answer in (mine, theirs)]
    differ = [((a - b).abs() > tolerance * b.abs().max()).any(1) for a, b in (feat, levels)]
    if not any(bool(part.any()) for part in differ):
        return mine, 0
    found = kinks(case, theirs["gt_inds"])
    cells, priors = differ[0] & found.cells, differ[1] & found.priors
    kernels = torch.where(priors[:, None], levels[1], levels[0])
    settled = {
        "grad_mask_feat": torch.where(cells[:, None], feat[1], feat[0]).view_as(mine["grad_mask_feat"]),
        "grad_kernels": torch.cat([level.flatten() for level in case.scene.levels(kernels.mT)]),
    }
    return mine | settled, int(cells.sum() + priors.sum())


def _by_prior(case: InstanceCase, flat: Tensor) -> Tensor:
    """``[B,169,N]`` of the maps of all levels, each of which was made flat."""
    batch, _, numbers = case.kernels.shape
    areas = [height * width for height, width in case.scene.featmap_sizes]
    parts = flat.split([batch * numbers * area for area in areas])
    return torch.cat([part.view(batch, numbers, area) for part, area in zip(parts, areas, strict=True)], 2)
