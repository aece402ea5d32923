"""The losses of classes and boxes, unreduced, and the normalisation of all losses."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.head.assignment import activations, blocks
from minirtmdet.structures import LossTerms, MaskTerms, Targets


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
        background: "Background | None" = None,
    ) -> Float[Tensor, "*batch"]:
        """Loss of each prior.

        Args:
            cls_scores: logits.
            labels: class index; anything from the number of classes on is background.
            quality: soft label of the positives, 0..1; not read on background.
            background: from :func:`background_of` for these logits, where the caller has it; good for one call.
        """
        cls_scores = cls_scores.to(torch.promote_types(cls_scores.dtype, quality.dtype))
        if background is None:
            background = background_of(cls_scores, self.beta)
        return FocalTerms.apply(cls_scores, labels, quality, self.beta, *background) * self.loss_weight


class Background(NamedTuple):
    """The quality focal loss of priors that are all background.

    Attributes:
        loss: of each prior, summed over the classes.
        slope: its derivative by each logit.
    """

    loss: Float[Tensor, "batch priors"]
    slope: Float[Tensor, "batch priors classes"]


@torch.no_grad()
def background_of(cls_scores: Float[Tensor, "*batch classes"], beta: float) -> Background:
    """Loss and slope towards target 0: ``b p^beta`` and ``p^beta (p + beta b (1 - p))``, made of the same factors.

    Autograd would keep several tensors as large as the logits until the way back, and read each of them again; the
    slope alone is enough.  The assigner's class cost begins with the same loss.

    Args:
        cls_scores: logits ``s``, with ``p = sigmoid(s)`` and ``b = softplus(s)``.
        beta: how little a prior counts that is already right.
    """
    loss = torch.zeros_like(cls_scores[..., 0])
    slope = torch.empty_like(cls_scores)
    for block in blocks(cls_scores.shape[-1], loss):
        probability, softplus = activations(cls_scores[..., block])
        power = probability.pow(beta)
        loss += (softplus * power).sum(-1)
        slope[..., block] = softplus.mul_(1 - probability).mul_(beta).add_(probability).mul_(power)
    return Background(loss, slope)


class FocalTerms(torch.autograd.Function):
    """:class:`QualityFocalLoss` of each prior: the background's, but for the one class of a positive."""

    @staticmethod
    def forward(
        ctx: Any, cls_scores: Tensor, labels: Tensor, quality: Tensor, beta: float, loss: Tensor, slope: Tensor
    ) -> Tensor:
        """Swap loss and slope of each positive's class; ``slope``, as large as the logits, is written into and kept."""
        last = cls_scores.shape[-1] - 1
        positive, index = labels <= last, labels.clamp(max=last)[..., None]
        logit = cls_scores.gather(-1, index)[..., 0]
        own_loss, own_slope = loss_and_slope(logit, quality, beta)
        background_loss, _ = loss_and_slope(logit, torch.zeros_like(quality), beta)
        slope.scatter_(-1, index, torch.where(positive[..., None], own_slope[..., None], slope.gather(-1, index)))
        ctx.save_for_backward(slope)
        return loss + torch.where(positive, own_loss - background_loss, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """The slope, times what follows."""
        (slope,) = ctx.saved_tensors
        return slope * gradient[..., None], None, None, None, None, None


def loss_and_slope(
    logit: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"], beta: float
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Quality focal loss of single logits, ``BCE(s, t) |sigmoid(s) - t|^beta``, and its derivative by the logit.

    By the product rule the derivative has two terms: that of the cross entropy, which is ``sigmoid(s) - t`` itself,
    times the weight, and the cross entropy times that of the weight.
    """
    probability, softplus = activations(logit)
    cross_entropy = softplus - logit * target
    gap = probability - target
    weight = gap.abs().pow(beta)
    weight_slope = beta * gap.abs().pow(beta - 1) * gap.sign() * probability * (1 - probability)
    return cross_entropy * weight, gap * weight + cross_entropy * weight_slope


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
    background: Background | None = None,
) -> LossTerms:
    """Both losses of every prior (MMDetection: ``RTMDetHead.loss_by_feat_single``).

    Args:
        cls_scores: logits.
        bboxes: predicted ``xyxy`` in pixels.
        targets: from the assignment; constants to the gradient.
        loss_cls: the class loss.
        loss_bbox: the box loss.
        background: from :func:`background_of` for these logits, where the caller has it.
    """
    positive = targets.labels < cls_scores.shape[-1]  # [B,N]
    # a masked loss still has the gradient 0 * inf = NaN of what it hides: hide the box before the loss instead
    bboxes = torch.where(positive[..., None], bboxes, 0)
    return LossTerms(
        cls=loss_cls(cls_scores, targets.labels, targets.assign_metrics, background) * targets.label_weights,
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


def normalise_masks(terms: MaskTerms, positives: Float[Tensor, ""], mask_weight: float) -> Float[Tensor, ""]:
    """The mean of the mask loss over the batch's positives, whatever their IoU, class or image.

    Args:
        terms: of this process.
        positives: of this process, or their mean over processes.
        mask_weight: factor on the result.
    """
    return terms.total / positives.clamp(min=1) * mask_weight
