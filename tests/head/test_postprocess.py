import pytest
import torch
from helpers.toy import random_boxes

from minirtmdet.configs import PredictConfig
from minirtmdet.head.postprocess import batched_nms, predict_by_feat
from minirtmdet.reference import postprocess as reference


def one_cell(logits, distances):
    """Maps of a 32 x 32 image, all silent but the one cell of the last level."""
    classes = len(logits)
    cls_scores = [torch.full((1, classes, n, n), -20.0) for n in (4, 2, 1)]
    bbox_preds = [torch.ones(1, 4, n, n) for n in (4, 2, 1)]
    cls_scores[2][0, :, 0, 0] = torch.tensor(logits)
    bbox_preds[2][0, :, 0, 0] = torch.tensor(distances)
    return cls_scores, bbox_preds


def test_a_prior_gives_one_detection_for_each_class_over_the_threshold():
    cls_scores, bbox_preds = one_cell([0.0, -1.0, 2.0], [-1.0, -2.0, 21.0, 12.0])
    (found,) = predict_by_feat(cls_scores, bbox_preds, PredictConfig(score_threshold=0.3))
    assert found.labels.tolist() == [2, 0]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 0.0]).sigmoid())
    assert found.boxes.tolist() == [[1, 2, 21, 12]] * 2


def test_threshold_is_strict():
    cls_scores, bbox_preds = one_cell([0.0], [-1.0, -2.0, 21.0, 12.0])
    assert len(predict_by_feat(cls_scores, bbox_preds, PredictConfig(score_threshold=0.5))[0].scores) == 0


def test_clips_to_the_image_and_rescales_to_the_picture():
    cls_scores, bbox_preds = one_cell([3.0], [5.0, 5.0, 40.0, 40.0])
    (found,) = predict_by_feat(cls_scores, bbox_preds, img_shapes=[(24, 32)], scale_factors=[(0.5, 2.0)])
    assert found.boxes.tolist() == [[0, 0, 64, 12]]


def test_boxes_without_area_are_dropped():
    cls_scores, bbox_preds = one_cell([3.0], [5.0, 5.0, -6.0, 40.0])
    assert len(predict_by_feat(cls_scores, bbox_preds)[0].scores) == 0


def test_candidates_are_limited_on_each_level():
    cls_scores = [torch.full((1, 1, n, n), -1.0) for n in (4, 2, 1)]
    bbox_preds = [torch.full((1, 4, n, n), 0.5) for n in (4, 2, 1)]  # one pixel each, none overlaps its level's others
    cls_scores[0][0, 0, 3, 3] = 1.0
    (found,) = predict_by_feat(cls_scores, bbox_preds, PredictConfig(nms_pre=2, nms_iou_threshold=1.0))
    assert len(found.scores) == 2 + 2 + 1
    assert found.boxes[0].tolist() == [23.5, 23.5, 24.5, 24.5]


def test_no_detection_at_all():
    cls_scores, bbox_preds = one_cell([-20.0], [1.0] * 4)
    (found,) = predict_by_feat(cls_scores, bbox_preds)
    assert found.boxes.shape == (0, 4)
    assert found.labels.dtype == torch.int64


def test_nms_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [0.0, 0, 10, 10], [20.0, 0, 30, 10], [0.0, 0, 10, 5]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.tensor([0, 0, 1, 0, 0])
    # 1 overlaps 0 by 0.9; 2 is of another class; 3 is elsewhere; 4 overlaps 0 by exactly 0.5
    assert batched_nms(boxes, scores, labels, 0.5, 300).tolist() == [0, 2, 3, 4]
    assert batched_nms(boxes, scores, labels, 0.49, 300).tolist() == [0, 2, 3]
    assert batched_nms(boxes, scores, labels, 0.5, 2).tolist() == [0, 2]


def test_nms_chain_keeps_the_third():
    # each suppresses the next, so 0 removes 1, and 2, which only 1 would have removed, stays
    boxes = torch.tensor([[0.0, 0, 10, 10], [4.0, 0, 14, 10], [8.0, 0, 18, 10], [12.0, 0, 22, 10]])
    assert batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4).long(), 0.4, 300).tolist() == [0, 2]


@pytest.mark.parametrize(("count", "limit"), [(60, 300), (600, 300), (1300, 50), (1300, 5000)])
def test_nms_equals_the_reading_lane_across_chunks(count, limit):
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(count, 120, 160, generator, smallest=20)
    scores = torch.rand(count, generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    kept = batched_nms(boxes, scores, labels, 0.5, limit)
    shifted = boxes + (labels * (boxes.max() + 1))[:, None]
    assert kept.tolist() == reference.nms(shifted, scores, labels, 0.5)[:limit]


def test_nms_of_nothing():
    empty = torch.zeros(0)
    assert batched_nms(torch.zeros(0, 4), empty, empty.long(), 0.5, 300).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_negative_coordinates_do_not_mix_classes(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(400, 60, 60, generator, smallest=20) - 50
    scores, labels = torch.rand(400, generator=generator), torch.randint(3, (400,), generator=generator)
    kept = batched_nms(boxes, scores, labels, 0.5, 300)
    assert kept.tolist() == reference.nms(boxes, scores, labels, 0.5)
    assert kept.tolist() != batched_nms(boxes, scores, labels, 0.5, 300, as_mmcv=True).tolist()


def test_clipped_boxes_are_moved_as_mmcv_moves_them():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(600, 320, 320, generator, smallest=20)
    scores, labels = torch.rand(600, generator=generator), torch.randint(80, (600,), generator=generator)
    answers = [batched_nms(boxes, scores, labels, 0.5, 300, as_mmcv=as_mmcv) for as_mmcv in (False, True)]
    assert torch.equal(*answers)


@pytest.mark.parametrize(("as_mmcv", "expected"), [(False, [0, 1]), (True, [1])])
def test_unclipped_maps_say_how_classes_are_kept_apart(as_mmcv, expected):
    cls_scores = [torch.full((1, 2, n, n), -20.0) for n in (4, 2, 1)]
    bbox_preds = [torch.ones(1, 4, n, n) for n in (4, 2, 1)]
    cls_scores[2][0, 1, 0, 0], cls_scores[1][0, 0, 0, 0] = 3.0, 2.0
    bbox_preds[2][0, :, 0, 0] = torch.tensor([17.0, 17.0, -1.0, -1.0])  # class 1 beyond the corner
    bbox_preds[1][0, :, 0, 0] = torch.tensor([0.0, 0.0, 16.0, 16.0])  # class 0 inside
    config = PredictConfig(score_threshold=0.5, nms_as_mmcv=as_mmcv)
    (found,) = predict_by_feat(cls_scores, bbox_preds, config)
    assert sorted(found.labels.tolist()) == expected
