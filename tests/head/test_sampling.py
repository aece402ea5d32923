import torch
from helpers.toy import random_batch

from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.reference import assignment as reference_assignment
from minirtmdet.reference import sampling as reference
from minirtmdet.structures import AssignResult, GroundTruth

GT = GroundTruth.from_list(
    [torch.tensor([[0.0, 0, 8, 8], [4.0, 4, 20, 12]])],
    [torch.tensor([1, 0])],
)


def test_splits_and_gathers_boxes():
    assigned = AssignResult(
        torch.tensor([[2, 0, -1, 1]]), torch.tensor([[0.5, 0, 0, 0.7]]), torch.tensor([[0, -1, -1, 1]])
    )
    result = PseudoSampler().sample(assigned, GT)
    assert result.pos_mask.tolist() == [[True, False, False, True]]
    assert result.neg_mask.tolist() == [[False, True, False, False]]
    assert result.gt_bboxes.tolist() == [[[4, 4, 20, 12], [0] * 4, [0] * 4, [0, 0, 8, 8]]]


def test_indices_of_the_reading_lane_are_the_masks():
    logits, boxes, priors, gt = random_batch([9], seed=1)
    racing = PseudoSampler().sample(DynamicSoftLabelAssigner().assign(logits, boxes, priors, gt), gt)
    assigned = reference_assignment.assign(logits[0], boxes[0], priors, gt.boxes[0, :9], gt.labels[0, :9])
    reading = reference.sample(assigned, gt.boxes[0, :9])
    assert torch.equal(reading.pos_inds, racing.pos_mask[0].nonzero()[:, 0])
    assert torch.equal(reading.neg_inds, racing.neg_mask[0].nonzero()[:, 0])
    assert torch.equal(reading.pos_gt_bboxes, racing.gt_bboxes[0, reading.pos_inds])
    assert len(reading.pos_inds) + len(reading.neg_inds) == len(priors)
