"""The losses of a list of images, with the indices of the positives."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.configs import MASK_STRIDE
from minirtmdet.reference.dynamic import FEAT_STRIDE, mask_logits
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


def finer(logits: Float[Tensor, "masks height width"]) -> Float[Tensor, "masks _ _"]:
    """Logits at the stride that masks are compared at: four pixels, half the features'."""
    return F.interpolate(logits[:, None], scale_factor=FEAT_STRIDE // MASK_STRIDE, mode="bilinear")[:, 0]


def dice_loss(
    logits: Float[Tensor, "positives height width"], targets: Bool[Tensor, "positives height width"], eps: float = 5e-6
) -> Float[Tensor, " positives"]:
    """One minus twice the overlap over the two sizes, where sizes are sums of squares (V-Net, section 3).

    An empty target costs 1, whatever the logits, and teaches nothing.  MMDetection: ``dice_loss``.

    Args:
        logits: of each positive's mask.
        targets: of the same size.
        eps: added to both sizes, so that nothing is divided by 0.
    """
    probability = logits.sigmoid().flatten(1)
    target = targets.to(logits).flatten(1)
    overlap = (probability * target).sum(1)
    sizes = probability.square().sum(1) + eps + target.square().sum(1) + eps
    return 1 - 2 * overlap / sizes


def loss_mask(
    kernels: Sequence[Float[Tensor, "priors 169"]],
    mask_feat: Float[Tensor, "batch 8 _ _"],
    priors: Float[Tensor, "priors 4"],
    pos_inds: Sequence[Int[Tensor, " _"]],
    targets: Sequence[Bool[Tensor, "_ rows columns"]],
    mask_weight: float = 2.0,
) -> Float[Tensor, ""]:
    """The mean Dice loss over all positives of the batch, whatever their images (MMDetection: ``loss_mask_by_feat``).

    Args:
        kernels: what the kernel branch predicts at every prior, one tensor an image.
        mask_feat: the prototypes of each image.
        priors: ``(x, y, stride, stride)`` in pixels.
        pos_inds: positives of each image, as indices of all priors.
        targets: the mask of each positive, at half the stride of the features, one tensor an image.
        mask_weight: factor on the loss.

    Where no image has a positive the loss is 0, with gradients of 0 to all that it could depend on: MMDetection gives
    the kernels no gradient then, and several processes would wait for each other for ever.
    """
    total = mask_feat.sum() * 0 + sum(kernel.sum() * 0 for kernel in kernels)
    for kernel, feat, positive, target in zip(kernels, mask_feat, pos_inds, targets, strict=True):
        for index, mask in zip(positive.tolist(), target, strict=True):
            logits = mask_logits(kernel[index], priors[index], feat)
            total = total + dice_loss(finer(logits[None]), mask[None])[0]
    return total / max(sum(map(len, pos_inds)), 1) * mask_weight
