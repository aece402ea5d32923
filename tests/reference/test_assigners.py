"""The assigners before RTMDet's, worked out by hand; ``tests/parity`` holds them to MMDetection's own."""

import pytest
import torch

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.data.example import STEPS, example, recorded_maps
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.reference.assigners import (
    fcos_assign,
    grid_anchors,
    in_box_and_center,
    max_iou_assign,
    sim_ota_assign,
)
from minirtmdet.reference.assignment import assign

# five priors in a row and two boxes of one height; A is 16 wide, B is 32
ROW = torch.tensor([[float(x), 16, 8, 8] for x in (0, 8, 16, 24, 32)])
TWO = torch.tensor([[0.0, 8, 16, 24], [4, 8, 36, 24]])
A_AND_B = torch.tensor([0, 1])
PREDICTED = torch.tensor([[float(a), 8, b, 24] for a, b in ((-6, 10), (0, 20), (8, 28), (4, 32), (8, 36))])
PRIORS = torch.cat(MlvlPointGenerator().grid_priors([(20, 20), (10, 10), (5, 5)]))  # of an image of 160 px
NO_BOX = torch.zeros(0, 4)


def square(middle: float, side: float) -> torch.Tensor:
    return torch.tensor([[middle - side / 2, middle - side / 2, middle + side / 2, middle + side / 2]])


def on_levels(gt_inds: torch.Tensor, box: int = 0) -> list[int]:
    strides = PRIORS[:, 2].repeat_interleave(len(gt_inds) // len(PRIORS))
    return [int((gt_inds[strides == stride] == box + 1).sum()) for stride in (8, 16, 32)]


# --- max-IoU ---------------------------------------------------------------------------------------------------------


def test_anchors_are_retinanets() -> None:
    anchors = grid_anchors(torch.tensor([[80.0, 48.0, 16.0, 16.0]]))[0]
    assert anchors.shape == (9, 4)
    centers, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(centers, torch.tensor([80.0, 48.0]).expand(9, 2))
    torch.testing.assert_close(sizes.prod(-1).sqrt(), torch.tensor([64.0, 80.63495, 101.59367]).repeat(3))
    torch.testing.assert_close(sizes[:, 1] / sizes[:, 0], torch.tensor([0.5, 1.0, 2.0]).repeat_interleave(3))


def test_an_anchor_learns_the_box_that_it_overlaps_most() -> None:
    anchors = grid_anchors(ROW, scales=(2.0,), ratios=(1.0,))[:, 0]
    thirds = bbox_overlaps(TWO, anchors)
    torch.testing.assert_close(thirds[0], torch.tensor([1 / 3, 1, 1 / 3, 0, 0]))
    torch.testing.assert_close(thirds[1], torch.tensor([1 / 11, 1 / 3, 1 / 2, 1 / 2, 1 / 3]))
    assert max_iou_assign(anchors, TWO).tolist() == [0, 1, 2, 2, 0]


def test_between_the_thresholds_an_anchor_learns_nothing() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    # heights 10, widths 10, 5, 4.5, 4, 3.9: IoUs 1, 0.5, 0.45, 0.4, 0.39
    anchors = torch.tensor([[0.0, 0, width, 10] for width in (10, 5, 4.5, 4, 3.9)])
    assert max_iou_assign(anchors, box).tolist() == [1, 1, -1, -1, 0]


def test_a_box_without_a_good_anchor_gets_its_best_ones_all_of_them() -> None:
    gt_inds = max_iou_assign(grid_anchors(PRIORS).flatten(0, 1), example().boxes)
    # the ball is 20 px wide and the smallest anchors 32: IoU (20 / 32)^2 = 0.39, four times
    assert on_levels(gt_inds, box=2) == [4, 0, 0]
    assert on_levels(max_iou_assign(grid_anchors(PRIORS).flatten(0, 1), example().boxes, min_pos_iou=0.4), 2) == [0] * 3


def test_the_rescue_of_one_box_takes_an_anchor_from_another() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])
    assert max_iou_assign(anchors, boxes).tolist() == [2]
    assert max_iou_assign(anchors, boxes, min_pos_iou=0.5).tolist() == [1]


def test_a_box_that_overlaps_no_anchor_takes_them_all() -> None:
    anchors = grid_anchors(PRIORS).flatten(0, 1)
    boxes = torch.cat([example().boxes, torch.tensor([[50.0, 60, 50, 90]])])  # the last one has no width
    assert max_iou_assign(anchors, boxes).eq(4).all()
    assert torch.equal(max_iou_assign(anchors, boxes, min_pos_iou=1e-3), max_iou_assign(anchors, boxes[:3]))


# --- FCOS ------------------------------------------------------------------------------------------------------------


def test_a_point_learns_the_smallest_box_around_it() -> None:
    assert fcos_assign(ROW, TWO, center_sample_radius=None).tolist() == [0, 1, 2, 2, 2]
    # 1.5 strides are 12 px: the square around A's centre at 8 ends at the box, the one around B's at 20 from 8 to 32
    assert fcos_assign(ROW, TWO).tolist() == [0, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("side", "levels"), [(20, [9, 0, 0]), (80, [9, 0, 0]), (100, [9, 8, 0]), (140, [0, 9, 0]), (4, [1, 0, 0])]
)
def test_a_level_has_a_range_of_sizes(side: int, levels: list[int]) -> None:
    # from 80 px on, the farthest side of a 100 px box is 50 px away in the middle and over 64 from 2 cells off
    assert on_levels(fcos_assign(PRIORS, square(80, side))) == levels


def test_both_ends_of_a_range_belong_to_it() -> None:
    point = torch.tensor([[64.0, 64, 8, 8], [64, 64, 16, 16]])
    box = torch.tensor([[0.0, 40, 80, 80]])
    assert fcos_assign(point, box, center_sample_radius=None).tolist() == [1, 1]


def test_of_equal_areas_the_first_box_wins() -> None:
    boxes = torch.tensor([[0.0, 8, 20, 24], [4, 8, 24, 24]])
    one_way = fcos_assign(ROW, boxes, center_sample_radius=None)
    other_way = fcos_assign(ROW, boxes.flip(0), center_sample_radius=None)
    assert one_way.tolist() == [0, 1, 1, 0, 0]
    assert other_way.tolist() == [0, 1, 1, 0, 0]


def test_a_box_between_the_points_gets_nothing() -> None:
    assert not fcos_assign(PRIORS, torch.tensor([[3.0, 3, 7, 7]])).any()


# --- SimOTA ----------------------------------------------------------------------------------------------------------


def test_simota_counts_priors_outside_the_box() -> None:
    is_candidate, within = in_box_and_center(ROW, TWO)
    assert is_candidate.all()  # 20 px around A's centre at 8 hold (0, 16), which lies on A's border
    assert within.T.tolist() == [[False, True, False, False, False], [False, True, True, True, True]]
    scores = torch.full((5, 2), 0.5)
    result = sim_ota_assign(scores, PREDICTED, ROW, TWO, A_AND_B)
    # IoUs of A: 10/22, 16/20, 8/28, 12/32, 8/36, sum 2.14; of B: 6/42, 16/36, 20/32, 28/32, 28/32, sum 2.96
    assert result.gt_inds.tolist() == [1, 1, 0, 2, 2]
    torch.testing.assert_close(result.max_overlaps, torch.tensor([10 / 22, 0.8, 0, 0.875, 0.875]))
    assert result.labels.tolist() == [0, 0, -1, 1, 1]
    # RTMDet's candidates lie in a box: A's sum is 1.68 without the first
    assert assign(torch.zeros(5, 2), PREDICTED, ROW, TWO, A_AND_B).gt_inds.tolist() == [0, 1, 0, 2, 2]


def test_class_cost_of_simota_is_a_cross_entropy_with_a_hard_label() -> None:
    priors = torch.tensor([[8.0, 8, 8, 8], [16, 8, 8, 8]])
    boxes = torch.tensor([[0.0, 0, 24, 16]])
    predicted = boxes.expand(2, 4) + torch.tensor([[0.0, 0, 0, 0], [0, 0, 12, 0]])  # IoUs 1 and 2/3: k = 1
    # costs: -log 0.2 = 1.61 against -log 0.9 - 3 log(2/3) = 1.32
    scores = torch.tensor([[0.2], [0.9]])
    chosen = sim_ota_assign(scores, predicted, priors, boxes, torch.tensor([0]))
    assert chosen.gt_inds.tolist() == [0, 1]
    assert sim_ota_assign(scores, predicted, priors, boxes, torch.tensor([0]), cls_weight=0.0).gt_inds.tolist() == [
        1,
        0,
    ]


def test_simota_without_a_candidate_assigns_nothing() -> None:
    far = torch.tensor([[500.0, 500, 504, 504]])
    scores, bboxes = torch.full((5, 1), 0.5), PREDICTED
    result = sim_ota_assign(scores, bboxes, ROW, far, torch.tensor([0]))
    assert not result.gt_inds.any()
    assert result.labels.eq(-1).all()


# --- all of them -----------------------------------------------------------------------------------------------------


def test_an_image_without_boxes_is_all_background() -> None:
    scores, labels = torch.full((len(PRIORS), 3), 0.5), torch.zeros(0, dtype=torch.int64)
    bboxes = torch.cat([PRIORS[:, :2] - 8, PRIORS[:, :2] + 8], -1)
    for gt_inds in (
        max_iou_assign(grid_anchors(PRIORS).flatten(0, 1), NO_BOX),
        fcos_assign(PRIORS, NO_BOX),
        sim_ota_assign(scores, bboxes, PRIORS, NO_BOX, labels).gt_inds,
    ):
        assert gt_inds.eq(0).all()


def test_geometry_stands_still_and_predictions_move() -> None:
    scene, loss = example(), RTMDetLoss(num_classes=16)
    totals = set()
    for step in STEPS:
        logits, bboxes, priors = (t.squeeze(0) for t in loss.flatten(*recorded_maps(step))[:3])
        found = sim_ota_assign(logits.sigmoid(), bboxes, priors, scene.boxes, scene.labels)
        totals.add(tuple(found.gt_inds.bincount(minlength=4)[1:].tolist()))
        own_ious = bbox_overlaps(bboxes, scene.boxes).gather(1, (found.gt_inds - 1).clamp(min=0)[:, None])[:, 0]
        torch.testing.assert_close(found.max_overlaps, own_ious * (found.gt_inds > 0))
    assert (2, 3, 3) in totals
    assert (7, 8, 8) in totals
