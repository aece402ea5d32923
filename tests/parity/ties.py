"""Which differences between two assignments are ties, and which are mistakes.

Two programs that add the same numbers in another order get costs that differ in the last digit.  Where two costs are
that close, either may win, and both assignments are right:

- two costs at rank k of a box, or two least costs in a conflict, within 1e-6 of each other, relatively;
- a sum of IoUs within 1e-5 of a whole number, which its truncation may take either way.

The costs are worked out here once more, from MMDetection's formula and from neither lane of the package.
From them follow, for every prior, all owners that ties allow.  An answer is admissible where its owner is one of them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from parity.cases import Scene
from torch import Tensor

COST_TOLERANCE = 1e-6
SUM_TOLERANCE = 1e-5


class Verdict(NamedTuple):
    """How two assignments of one batch compare.

    Attributes:
        compared: priors that take part.
        ties: ``(image, prior)`` whose owners differ, and ties allow both.
        mistakes: ``(image, prior)`` whose owners differ, and ties do not allow both.
    """

    compared: int
    ties: list[tuple[int, int]]
    mistakes: list[tuple[int, int]]


def compare_assignments(scene: Scene, ours: Tensor, theirs: Tensor) -> Verdict:
    """Sort the priors whose ``gt_inds`` differ into ties and mistakes.

    Args:
        scene: the inputs of both.
        ours: ``[B,N]``: ``i + 1`` for box ``i``, 0 or below for none.
        theirs: the same.
    """
    valid = scene.valid
    ties, mistakes = [], []
    for image in (ours != theirs).any(1).nonzero()[:, 0].tolist():
        allowed = admissible(scene, image)  # [N,G+1]
        for prior in (ours[image] != theirs[image]).nonzero()[:, 0].tolist():
            owners = (int(ours[image, prior]), int(theirs[image, prior]))
            tie = bool(valid[image, prior]) and all(
                0 <= o < allowed.shape[1] and bool(allowed[prior, o]) for o in owners
            )
            (ties if tie else mistakes).append((image, prior))
    return Verdict(int(valid.sum()), ties, mistakes)


def has_ties(scene: Scene) -> bool:
    """Whether any prior of the batch may end in more than one way."""
    return any(bool((admissible(scene, image).sum(1) > 1).any()) for image in range(len(scene.boxes)))


def admissible(scene: Scene, image: int) -> Tensor:
    """``[N,G+1]``: whether ties let a prior of an image end with background (column 0) or box ``i`` (``i + 1``)."""
    boxes, priors = scene.boxes[image], scene.priors
    allowed = torch.zeros(len(priors), len(boxes) + 1, dtype=torch.bool)
    inside = (priors[:, None, :2] > boxes[:, :2]) & (priors[:, None, :2] < boxes[:, 2:])  # [N,G,2]
    candidate = inside.all(-1).any(-1) & scene.valid[image]  # [N]
    allowed[~candidate, 0] = True
    if not candidate.any():
        return allowed
    allowed[candidate] = outcomes(*costs(scene, image, candidate), scene.topk)
    return allowed


def outcomes(cost: Tensor, ious: Tensor, topk: int) -> Tensor:
    """``[V,G+1]``: owners that ties allow each candidate, by costs and IoUs ``[V,G]`` of any assigner like this."""
    sure, maybe = choices(cost, ious, topk)
    outcome = torch.zeros(len(cost), cost.shape[1] + 1, dtype=torch.bool)
    outcome[:, 0] = ~sure.any(1)
    # one box alone: the only sure one, or any possible one where none is sure
    takers = sure.sum(1, keepdim=True)
    alone = torch.where(takers == 0, maybe, sure & (takers == 1))
    # several boxes: the cheapest of all boxes, whether it took the prior or not
    conflict = _close(cost, cost.amin(1, keepdim=True)) & ((sure | maybe).sum(1, keepdim=True) > 1)
    outcome[:, 1:] = alone | conflict
    return outcome


def costs(scene: Scene, image: int, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Costs and IoUs ``[V,G]`` of the candidates with each box, in fp32 as MMDetection has them.

    fp32 and its order of operations matter for the IoU: at 600 px a side of 1 px is known to 6e-5 only, alike for
    everyone who subtracts the same numbers.
    """
    logits, predicted = scene.cls_scores[image, candidate], scene.bboxes[image, candidate]
    points = scene.priors[candidate]
    cost_columns, iou_columns = [], []
    for box, label, center in zip(scene.boxes[image], scene.labels[image], scene.centers[image], strict=True):
        sides = (torch.minimum(predicted[:, 2:], box[2:]) - torch.maximum(predicted[:, :2], box[:2])).clamp(min=0)
        overlap = sides[:, 0] * sides[:, 1]
        area = (predicted[:, 2] - predicted[:, 0]) * (predicted[:, 3] - predicted[:, 1])
        box_area = (box[2] - box[0]) * (box[3] - box[1])
        iou = overlap / (area + box_area - overlap).clamp(min=1e-6)
        target = torch.zeros_like(logits)
        target[:, label] = iou
        quality = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        quality = quality * (target - logits.sigmoid()).abs().pow(2)
        distance = (points[:, :2] - center).pow(2).sum(-1).sqrt() / points[:, 2]
        centre = torch.pow(10, distance - scene.soft_center_radius)
        cost_columns.append(quality.sum(-1) - torch.log(iou + 1e-7) * scene.iou_weight + centre)
        iou_columns.append(iou)
    return torch.stack(cost_columns, 1), torch.stack(iou_columns, 1)


def choices(cost: Tensor, ious: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """``[V,G]`` twice: priors that a box takes however ties fall, and priors that it may take or leave."""
    sure, maybe = torch.zeros_like(cost, dtype=torch.bool), torch.zeros_like(cost, dtype=torch.bool)
    sums = ious.topk(min(topk, len(ious)), dim=0).values.double().sum(0)  # [G]
    for g, total in enumerate(sums.tolist()):
        least = max(int(total - SUM_TOLERANCE), 1)
        most = min(max(int(total + SUM_TOLERANCE), 1), len(cost))
        column, ordered = cost[:, g], cost[:, g].sort().values
        sure[:, g] = column <= ordered[least - 1]
        if least < len(cost):
            sure[:, g] &= ~_close(column, ordered[least])  # the first that is left out
        maybe[:, g] = ((column <= ordered[most - 1]) | _close(column, ordered[most - 1])) & ~sure[:, g]
    return sure, maybe


def _close(a: Tensor, b: Tensor) -> Tensor:
    """Equal, infinities included, or within the tolerance of costs."""
    scale = torch.maximum(a.abs(), b.abs())
    return (a == b) | ((a - b).abs() <= COST_TOLERANCE * scale) & scale.isfinite()
