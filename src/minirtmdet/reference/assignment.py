"""The assignment of one image, step by step, on the ``V`` candidates alone.

Costs have the candidates down and the boxes across, ``[V,G]``, as MMDetection's have.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps

EPS = 1e-7
MAX_EXPONENT = 38.0


class Assignment(NamedTuple):
    """Assignment of one image.

    Attributes:
        gt_inds: 0 for background, ``i + 1`` for box ``i``.
        max_overlaps: IoU of the prior's predicted box with its box, 0 on background.
        labels: class of the box, -1 on background.
    """

    gt_inds: Int[Tensor, " priors"]
    max_overlaps: Float[Tensor, " priors"]
    labels: Int[Tensor, " priors"]


def candidates(priors: Float[Tensor, "priors 4"], gt_bboxes: Float[Tensor, "boxes 4"]) -> Bool[Tensor, " priors"]:
    """Priors strictly inside at least one box.

    >>> priors = torch.tensor([[0., 0., 8., 8.], [8., 0., 8., 8.], [8., 8., 8., 8.]])
    >>> candidates(priors, torch.tensor([[0., 0., 16., 16.]])).tolist()
    [False, False, True]
    """
    left_top = priors[:, None, :2] - gt_bboxes[None, :, :2]  # [N,G,2]
    right_bottom = gt_bboxes[None, :, 2:] - priors[:, None, :2]  # [N,G,2]
    distances = torch.cat([left_top, right_bottom], -1)  # [N,G,4]
    return (distances > 0).all(-1).any(-1)


def class_cost(
    cls_scores: Float[Tensor, "candidates classes"],
    gt_labels: Int[Tensor, " boxes"],
    ious: Float[Tensor, "candidates boxes"],
) -> Float[Tensor, "candidates boxes"]:
    """Quality focal loss of every candidate, had it this box, summed over all classes.

    Args:
        cls_scores: logits.
        gt_labels: class of each box.
        ious: of the candidates' predicted boxes with the boxes.
    """
    one_hot = F.one_hot(gt_labels, cls_scores.shape[-1]).to(ious)  # [G,C]
    soft_label = one_hot * ious[..., None]  # [V,G,C]
    logits = cls_scores[:, None].expand_as(soft_label)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, soft_label, reduction="none")
    return (cross_entropy * (soft_label - logits.sigmoid()).abs().pow(2)).sum(-1)


def iou_cost(ious: Float[Tensor, "candidates boxes"]) -> Float[Tensor, "candidates boxes"]:
    """Minus the logarithm of the IoU."""
    return -torch.log(ious + EPS)


def center_cost(
    priors: Float[Tensor, "candidates 4"], gt_centers: Float[Tensor, "boxes 2"], radius: float = 3.0
) -> Float[Tensor, "candidates boxes"]:
    """Ten to the power of (distance to the box centre in strides, minus the radius)."""
    pixels = (priors[:, None, :2] - gt_centers[None]).square().sum(-1).sqrt()  # [V,G]
    distance = pixels / priors[:, 2:3]
    return torch.pow(10, (distance - radius).clamp(max=MAX_EXPONENT))


def dynamic_k(ious: Float[Tensor, "candidates boxes"], topk: int = 13) -> Int[Tensor, " boxes"]:
    """How many priors each box gets: its ``topk`` best IoUs, summed and rounded down, at least 1."""
    best = ious.topk(min(topk, len(ious)), dim=0).values  # [k,G]
    return best.sum(0).int().clamp(min=1).long()


def choose(
    cost: Float[Tensor, "candidates boxes"], dynamic_ks: Int[Tensor, " boxes"]
) -> Bool[Tensor, "candidates boxes"]:
    """Each box takes its cheapest candidates; a candidate may be taken by several boxes."""
    matching = torch.zeros_like(cost, dtype=torch.bool)
    for box, k in enumerate(dynamic_ks.tolist()):
        cheapest = cost[:, box].topk(k, largest=False).indices
        matching[cheapest, box] = True
    return matching


def resolve_conflicts(
    matching: Bool[Tensor, "candidates boxes"], cost: Float[Tensor, "candidates boxes"]
) -> Bool[Tensor, "candidates boxes"]:
    """A candidate that several boxes took goes to the cheapest of all boxes, whether that one took it or not."""
    resolved = matching.clone()
    for candidate in (matching.sum(1) > 1).nonzero()[:, 0].tolist():
        resolved[candidate] = False
        resolved[candidate, cost[candidate].argmin()] = True
    return resolved


def background(priors: int, like: Float[Tensor, "..."]) -> Assignment:
    """So many priors, none of which learns a box; IoUs have the type of ``like``, and all lies where it does."""
    labels = torch.full((priors,), -1, device=like.device)
    return Assignment(torch.zeros_like(labels), like.new_zeros(priors), labels)


def to_all_priors(
    is_candidate: Bool[Tensor, " priors"],
    matching: Bool[Tensor, "candidates boxes"],
    ious: Float[Tensor, "candidates boxes"],
    gt_labels: Int[Tensor, " boxes"],
) -> Assignment:
    """What the candidates got, at their places among all priors; the rest is background."""
    everywhere = background(len(is_candidate), ious)
    positive = is_candidate.nonzero()[:, 0][matching.any(1)]  # [P]
    box = matching[matching.any(1)].float().argmax(1)  # [P]
    everywhere.gt_inds[positive] = box + 1
    everywhere.max_overlaps[positive] = ious[matching]
    everywhere.labels[positive] = gt_labels[box]
    return everywhere


def assign(
    cls_scores: Float[Tensor, "priors classes"],
    bboxes: Float[Tensor, "priors 4"],
    priors: Float[Tensor, "priors 4"],
    gt_bboxes: Float[Tensor, "boxes 4"],
    gt_labels: Int[Tensor, " boxes"],
    gt_centers: Float[Tensor, "boxes 2"] | None = None,
    topk: int = 13,
    iou_weight: float = 3.0,
    soft_center_radius: float = 3.0,
) -> Assignment:
    """All steps in order (MMDetection: ``DynamicSoftLabelAssigner.assign``).

    Args:
        cls_scores: logits.
        bboxes: predicted ``xyxy`` in pixels.
        priors: ``(x, y, stride, stride)`` in pixels.
        gt_bboxes: ``xyxy`` in pixels.
        gt_labels: class of each box.
        gt_centers: where the centre cost is measured from; the box centres where left out.
        topk: how many IoUs are summed to a box's number of positives.
        iou_weight: weight of the IoU cost.
        soft_center_radius: distance in strides at which the centre cost is 1.
    """
    is_candidate = candidates(priors, gt_bboxes)  # [N]
    if not is_candidate.any():
        return background(len(priors), bboxes)
    if gt_centers is None:
        gt_centers = (gt_bboxes[:, :2] + gt_bboxes[:, 2:]) / 2

    ious = bbox_overlaps(bboxes[is_candidate], gt_bboxes)  # [V,G]
    cost = (
        class_cost(cls_scores[is_candidate], gt_labels, ious)
        + iou_cost(ious) * iou_weight
        + center_cost(priors[is_candidate], gt_centers, soft_center_radius)
    )  # [V,G]
    matching = resolve_conflicts(choose(cost, dynamic_k(ious, topk)), cost)  # [V,G]
    return to_all_priors(is_candidate, matching, ious, gt_labels)
