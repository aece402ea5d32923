import pytest
import torch
from helpers.toy import random_batch

from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.head.targets import build_targets
from minirtmdet.reference import targets as reference
from minirtmdet.structures import AssignResult, GroundTruth

GT = GroundTruth.from_list([torch.tensor([[0.0, 0, 8, 8]])], [torch.tensor([4])])


def test_background_has_label_num_classes_and_weight_one():
    assigned = AssignResult(torch.tensor([[0, 1, -1]]), torch.tensor([[0, 0.25, 0]]), torch.tensor([[-1, 4, -1]]))
    targets = build_targets(PseudoSampler().sample(assigned, GT), assigned, num_classes=5)
    assert targets.labels.tolist() == [[5, 4, 5]]
    assert targets.label_weights.tolist() == [[1, 1, 0]]
    assert targets.bbox_targets.tolist() == [[[0] * 4, [0, 0, 8, 8], [0] * 4]]
    assert targets.assign_metrics.tolist() == [[0, 0.25, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_reading_lane_equals_racing_lane_with_padding(seed):
    counts = [4, 0, 25]
    logits, boxes, priors, gt = random_batch(counts, seed=seed)
    valid = torch.stack([priors[:, 0] < 40, priors[:, 1] < 24, torch.ones(len(priors), dtype=torch.bool)])
    assigned = DynamicSoftLabelAssigner().assign(logits, boxes, priors, gt, valid)
    racing = build_targets(PseudoSampler().sample(assigned, gt), assigned, num_classes=5)
    for image, count in enumerate(counts):
        reading = reference.get_targets(
            logits[image], boxes[image], priors, valid[image], gt.boxes[image, :count], gt.labels[image, :count]
        )
        assert torch.equal(racing.labels[image], reading.labels)
        assert torch.equal(racing.label_weights[image], reading.label_weights)
        assert torch.equal(racing.bbox_targets[image], reading.bbox_targets)
        torch.testing.assert_close(racing.assign_metrics[image], reading.assign_metrics)


def test_inputs_are_not_changed_and_a_second_call_agrees():
    logits, boxes, priors, gt = random_batch([6], seed=9)
    before = [t.clone() for t in (logits, boxes, priors, *gt)]
    results = []
    for _ in range(2):
        assigned = DynamicSoftLabelAssigner().assign(logits, boxes, priors, gt)
        results.append(build_targets(PseudoSampler().sample(assigned, gt), assigned, 5))
    assert all(torch.equal(a, b) for a, b in zip(before, (logits, boxes, priors, *gt), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
