"""Targets of one image: compress to the valid priors, assign, fill, unmap."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from minirtmdet.configs import MASK_STRIDE
from minirtmdet.reference.assignment import Assignment, assign
from minirtmdet.reference.sampling import Sampling, sample


class ImageTargets(NamedTuple):
    """Targets of one image's priors.

    Attributes:
        labels: class index, ``C`` for background.
        label_weights: 1 where the class loss counts, 0 for priors that are not valid.
        bbox_targets: the box to predict, zeros where there is none.
        assign_metrics: IoU at assignment time, 0 on background.
    """

    labels: Int[Tensor, " priors"]
    label_weights: Float[Tensor, " priors"]
    bbox_targets: Float[Tensor, "priors 4"]
    assign_metrics: Float[Tensor, " priors"]


def fill(assignment: Assignment, sampling: Sampling, num_classes: int) -> ImageTargets:
    """Targets of the priors that took part in the assignment, background first, then the positives."""
    labels = torch.full_like(assignment.gt_inds, num_classes)  # [N]
    label_weights = torch.zeros_like(assignment.max_overlaps)  # [N]
    bbox_targets = label_weights.new_zeros(len(labels), 4)  # [N,4]
    assign_metrics = torch.zeros_like(label_weights)  # [N]

    labels[sampling.pos_inds] = sampling.pos_gt_labels
    label_weights[sampling.pos_inds] = 1.0
    label_weights[sampling.neg_inds] = 1.0
    bbox_targets[sampling.pos_inds] = sampling.pos_gt_bboxes
    assign_metrics[sampling.pos_inds] = assignment.max_overlaps[sampling.pos_inds]
    return ImageTargets(labels, label_weights, bbox_targets, assign_metrics)


def unmap(values: Shaped[Tensor, "valid *rest"], valid: Bool[Tensor, " priors"], fill_value: int = 0) -> Tensor:
    """Put the values of the valid priors back to their places among all priors (MMDetection: ``unmap``).

    >>> unmap(torch.tensor([5, 6]), torch.tensor([True, False, True]), fill_value=9).tolist()
    [5, 9, 6]
    """
    full = values.new_full((len(valid), *values.shape[1:]), fill_value)
    full[valid] = values
    return full


def get_targets(
    cls_scores: Float[Tensor, "priors classes"],
    bboxes: Float[Tensor, "priors 4"],
    priors: Float[Tensor, "priors 4"],
    valid: Bool[Tensor, " priors"],
    gt_bboxes: Float[Tensor, "boxes 4"],
    gt_labels: Int[Tensor, " boxes"],
    topk: int = 13,
    gt_centers: Float[Tensor, "boxes 2"] | None = None,
) -> ImageTargets:
    """Targets of all priors of one image (MMDetection: ``RTMDetHead._get_targets_single``).

    Args:
        cls_scores: logits.
        bboxes: predicted ``xyxy`` in pixels.
        priors: ``(x, y, stride, stride)`` in pixels.
        valid: priors that take part.
        gt_bboxes: ``xyxy`` in pixels.
        gt_labels: class of each box.
        topk: setting of the assigner.
        gt_centers: centres of mass where boxes have masks; the box centres where left out.
    """
    num_classes = cls_scores.shape[1]
    assignment = assign(cls_scores[valid], bboxes[valid], priors[valid], gt_bboxes, gt_labels, gt_centers, topk)
    targets = fill(assignment, sample(assignment, gt_bboxes), num_classes)
    return ImageTargets(
        labels=unmap(targets.labels, valid, num_classes),
        label_weights=unmap(targets.label_weights, valid),
        bbox_targets=unmap(targets.bbox_targets, valid),
        assign_metrics=unmap(targets.assign_metrics, valid),
    )


def mask_targets(
    masks: Bool[Tensor, "boxes height width"],
    pos_assigned_gt_inds: Int[Tensor, " positives"],
) -> Bool[Tensor, "positives _ _"]:
    """The mask that each positive learns, at every fourth pixel of every fourth row, from the third on.

    MMDetection: ``loss_mask_by_feat``.

    Args:
        masks: of each box, in pixels of the padded input.
        pos_assigned_gt_inds: index of each positive's box, from 0.
    """
    first = MASK_STRIDE // 2
    return masks[pos_assigned_gt_inds][:, first::MASK_STRIDE, first::MASK_STRIDE]
