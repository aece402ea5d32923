"""Both losses of a list of images, with the indices of the positives."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.reference.targets import ImageTargets


def quality_focal_loss(
    cls_scores: Float[Tensor, "priors classes"],
    labels: Int[Tensor, " priors"],
    quality: Float[Tensor, " priors"],
    beta: float = 2.0,
) -> Float[Tensor, " priors"]:
    """Background everywhere first, then the positives' own class is written over it.

    Args:
        cls_scores: logits.
        labels: class index, the number of classes for background.
        quality: soft label of each positive.
        beta: exponent of the modulating factor.

    MMDetection: ``quality_focal_loss``.
    """
    probability = cls_scores.sigmoid()
    background = F.binary_cross_entropy_with_logits(cls_scores, torch.zeros_like(cls_scores), reduction="none")
    loss = background * probability.pow(beta)  # [N,C]

    positive = (labels < cls_scores.shape[1]).nonzero()[:, 0]  # [P]
    label = labels[positive]
    own = F.binary_cross_entropy_with_logits(cls_scores[positive, label], quality[positive], reduction="none")
    loss[positive, label] = own * (quality[positive] - probability[positive, label]).abs().pow(beta)
    return loss.sum(1)


def giou_loss(
    bboxes: Float[Tensor, "positives 4"], targets: Float[Tensor, "positives 4"]
) -> Float[Tensor, " positives"]:
    """One minus the generalized IoU of each pair (MMDetection: ``giou_loss``)."""
    return 1 - aligned_overlaps(bboxes, targets, "giou")


def loss_by_feat(
    cls_scores: Sequence[Float[Tensor, "priors classes"]],
    bboxes: Sequence[Float[Tensor, "priors 4"]],
    targets: Sequence[ImageTargets],
    cls_weight: float = 1.0,
    bbox_weight: float = 2.0,
) -> dict[str, Float[Tensor, ""]]:
    """Sum both losses over the images, then divide by the sum of all soft labels, or by 1 where that is less.

    Args:
        cls_scores: logits, one tensor an image.
        bboxes: predicted ``xyxy`` in pixels, one tensor an image.
        targets: one an image.
        cls_weight: factor on the class loss.
        bbox_weight: factor on the box loss.

    MMDetection: ``RTMDetHead.loss_by_feat``.
    """
    loss_cls, loss_bbox, iou_sum = [], [], []
    for logits, boxes, target in zip(cls_scores, bboxes, targets, strict=True):
        qfl = quality_focal_loss(logits, target.labels, target.assign_metrics)
        loss_cls.append((qfl * target.label_weights).sum())
        positive = (target.labels < logits.shape[1]).nonzero()[:, 0]
        giou = giou_loss(boxes[positive], target.bbox_targets[positive])
        loss_bbox.append((giou * target.assign_metrics[positive]).sum())
        iou_sum.append(target.assign_metrics.sum())
    divisor = torch.stack(iou_sum).sum().clamp(min=1)
    return {
        "loss_cls": torch.stack(loss_cls).sum() / divisor * cls_weight,
        "loss_bbox": torch.stack(loss_bbox).sum() / divisor * bbox_weight,
    }
