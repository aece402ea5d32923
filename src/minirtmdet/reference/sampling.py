"""Positives and negatives of one image as indices."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.reference.assignment import Assignment


class Sampling(NamedTuple):
    """What MMDetection's ``SamplingResult`` holds, for a detector that samples nothing.

    Attributes:
        pos_inds: priors with a box.
        neg_inds: priors on background.
        pos_assigned_gt_inds: index of each positive's box, from 0.
        pos_gt_bboxes: the box of each positive.
        pos_gt_labels: the class of each positive.
    """

    pos_inds: Int[Tensor, " positives"]
    neg_inds: Int[Tensor, " negatives"]
    pos_assigned_gt_inds: Int[Tensor, " positives"]
    pos_gt_bboxes: Float[Tensor, "positives 4"]
    pos_gt_labels: Int[Tensor, " positives"]


def sample(assignment: Assignment, gt_bboxes: Float[Tensor, "boxes 4"]) -> Sampling:
    """Split an assignment (MMDetection: ``PseudoSampler.sample``)."""
    pos_inds = (assignment.gt_inds > 0).nonzero()[:, 0]
    neg_inds = (assignment.gt_inds == 0).nonzero()[:, 0]
    pos_assigned_gt_inds = assignment.gt_inds[pos_inds] - 1
    return Sampling(
        pos_inds=pos_inds,
        neg_inds=neg_inds,
        pos_assigned_gt_inds=pos_assigned_gt_inds,
        pos_gt_bboxes=gt_bboxes[pos_assigned_gt_inds],
        pos_gt_labels=assignment.labels[pos_inds],
    )
