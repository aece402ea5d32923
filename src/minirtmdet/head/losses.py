"""The two losses of the head, unreduced, and their normalisation."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.structures import LossTerms, Targets


class QualityFocalLoss:
    """Focal loss with a soft label (Generalized Focal Loss, eq. 2; MMDetection: ``QualityFocalLoss``).

    ``BCE(s, t) * |t - sigmoid(s)| ** beta``, where the target ``t`` is the IoU for the prior's class and 0 for
    all others; summed over the classes.

    Args:
        beta: how little a prior counts that is already right.
        loss_weight: factor on the result.
    """

    def __init__(self, beta: float = 2.0, loss_weight: float = 1.0) -> None:
        self.beta = beta
        self.loss_weight = loss_weight

    def __call__(
        self,
        cls_scores: Float[Tensor, "*batch classes"],
        labels: Int[Tensor, "*batch"],
        quality: Float[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch"]:
        """Loss of each prior.

        Args:
            cls_scores: logits.
            labels: class index; anything from the number of classes on is background.
            quality: soft label of the positives, 0..1; not read on background.
        """
        num_classes = cls_scores.shape[-1]
        background = F.softplus(cls_scores) * cls_scores.sigmoid().pow(self.beta)
        logit = cls_scores.gather(-1, labels.clamp(max=num_classes - 1)[..., None])[..., 0]
        probability = logit.sigmoid()
        as_background = F.softplus(logit) * probability.pow(self.beta)
        as_positive = (F.softplus(logit) - logit * quality) * (quality - probability).abs().pow(self.beta)
        swap = torch.where(labels < num_classes, as_positive - as_background, 0)
        return (background.sum(-1) + swap) * self.loss_weight


class GIoULoss:
    """One minus the generalized IoU (MMDetection: ``GIoULoss``): it has a slope where boxes do not touch.

    Args:
        eps: the smallest denominator, in square pixels.
        loss_weight: factor on the result.
        clamp_inverted: give a predicted box with swapped sides no area, so that the loss stays in 0..2.
    """

    def __init__(self, eps: float = 1e-6, loss_weight: float = 1.0, clamp_inverted: bool = False) -> None:
        self.eps = eps
        self.loss_weight = loss_weight
        self.clamp_inverted = clamp_inverted

    def __call__(
        self, bboxes: Float[Tensor, "*batch 4"], bbox_targets: Float[Tensor, "*batch 4"]
    ) -> Float[Tensor, "*batch"]:
        """Loss of each pair of ``xyxy`` boxes: 0 where they are equal, towards 2 where they are far apart."""
        overlaps = aligned_overlaps(bboxes, bbox_targets, "giou", self.eps, self.clamp_inverted)
        return (1 - overlaps) * self.loss_weight


def loss_terms(
    cls_scores: Float[Tensor, "batch priors classes"],
    bboxes: Float[Tensor, "batch priors 4"],
    targets: Targets,
    loss_cls: QualityFocalLoss,
    loss_bbox: GIoULoss,
) -> LossTerms:
    """Both losses of every prior (MMDetection: ``RTMDetHead.loss_by_feat_single``).

    Args:
        cls_scores: logits.
        bboxes: predicted ``xyxy`` in pixels.
        targets: from the assignment; constants to the gradient.
        loss_cls: the class loss.
        loss_bbox: the box loss.
    """
    positive = targets.labels < cls_scores.shape[-1]  # [B,N]
    # a masked loss still has the gradient 0 * inf = NaN of what it hides: hide the box before the loss instead
    bboxes = torch.where(positive[..., None], bboxes, 0)
    return LossTerms(
        cls=loss_cls(cls_scores, targets.labels, targets.assign_metrics) * targets.label_weights,
        bbox=loss_bbox(bboxes, targets.bbox_targets) * targets.assign_metrics * positive,
        iou_sum=targets.assign_metrics.sum(),
    )


def normalise(terms: LossTerms, iou_sum: Float[Tensor, ""]) -> dict[str, Float[Tensor, ""]]:
    """Sum both losses and divide by the sum of the positives' IoUs, or by 1 where that is less.

    Args:
        terms: of this process.
        iou_sum: of this process, or its mean over processes; apart from the terms, so that it is the one number
            that processes exchange.

    MMDetection: ``cls_avg_factor`` and ``bbox_avg_factor``, which are the same sum.
    """
    divisor = iou_sum.clamp(min=1)
    return {"loss_cls": terms.cls.sum() / divisor, "loss_bbox": terms.bbox.sum() / divisor}
