"""What every prior is trained towards: a class, a weight, a box and a soft label."""

import torch

from minirtmdet.structures import AssignResult, SamplingResult, Targets


def build_targets(sampling_result: SamplingResult, assign_result: AssignResult, num_classes: int) -> Targets:
    """Targets of all priors (MMDetection: ``RTMDetHead._get_targets_single``, after the sampler).

    Background has label ``num_classes``, not 0, which is a class.  Its weight is 1, since background is
    learned; the weight is 0 only for priors that take no part.
    """
    pos_mask, neg_mask, gt_bboxes = sampling_result
    return Targets(
        labels=torch.where(pos_mask, assign_result.labels, num_classes),
        label_weights=(pos_mask | neg_mask).to(assign_result.max_overlaps.dtype),
        bbox_targets=gt_bboxes,
        assign_metrics=assign_result.max_overlaps,
    )
