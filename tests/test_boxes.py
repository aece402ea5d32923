import pytest
import torch
from helpers.toy import unchecked

from minirtmdet.boxes import aligned_overlaps, bbox_overlaps, box_area, points_inside

A = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]])
B = torch.tensor([[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 24.0, 24.0], [0.0, 0.0, 10.0, 10.0]])


def test_pairwise_values_by_hand():
    # A0 with B0: 50 of 150; hull 15 x 10 = 150, no empty share.  A0 with B1: hull 24 x 24, union 116.
    iou = torch.tensor([[50 / 150, 0, 1], [0, 0, 16 / 100]])
    torch.testing.assert_close(bbox_overlaps(A, B), iou)
    iof = torch.tensor([[0.5, 0, 1], [0, 0, 1]])
    torch.testing.assert_close(bbox_overlaps(A, B, "iof"), iof)
    giou = torch.tensor(
        [[1 / 3, -(576 - 116) / 576, 1.0], [-(150 - 116) / 150, -(576 - 32) / 576, 0.16]],
    )
    torch.testing.assert_close(bbox_overlaps(A, B, "giou"), giou)


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_aligned_is_the_diagonal_of_pairwise_and_batches_agree(mode):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 3, 7, 2, generator=generator) * 50
    boxes1 = torch.cat([corner, corner + 1 + torch.rand(2, 3, 7, 2, generator=generator) * 40], -1)
    boxes2 = boxes1.flip(2) + 3
    pairwise = bbox_overlaps(boxes1, boxes2, mode)
    assert pairwise.shape == (2, 3, 7, 7)
    assert torch.equal(pairwise.diagonal(dim1=-2, dim2=-1), aligned_overlaps(boxes1, boxes2, mode))
    assert torch.equal(pairwise[1, 2], bbox_overlaps(boxes1[1, 2], boxes2[1, 2], mode))


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_empty_sets(mode):
    none = torch.empty(0, 4)
    assert bbox_overlaps(none, A, mode).shape == (0, 2)
    assert bbox_overlaps(A, none, mode).shape == (2, 0)
    assert aligned_overlaps(none, none, mode).shape == (0,)


def test_boxes_without_area_overlap_nothing():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    for mode in ("iou", "iof"):
        assert bbox_overlaps(point, point, mode).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    # 300 x 300 = 90000 is infinite in fp16
    box = torch.tensor([0.0, 0.0, 300.0, 300.0], dtype=dtype)
    overlap = aligned_overlaps(box, box)
    assert overlap.dtype == torch.float32
    assert overlap.item() == 1


def test_double_precision_stays_double():
    assert aligned_overlaps(A.double(), A).dtype == torch.float64


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="unknown overlap mode 'diou': expected 'iou', 'iof' or 'giou'"):
        unchecked(aligned_overlaps)(A, A, "diou")


def test_area_is_negative_for_one_inverted_side():
    assert box_area(torch.tensor([[0.0, 0, 3, 2], [3.0, 0, 0, 2], [3.0, 2, 0, 0]])).tolist() == [6, -6, 6]


def test_points_on_the_border_are_outside():
    points = torch.tensor([[8.0, 8.0], [9.0, 9.0], [16.0, 9.0], [9.0, 16.0], [15.9, 15.9]])
    box = torch.tensor([[8.0, 8.0, 16.0, 16.0]])
    assert points_inside(points, box).tolist() == [[False, True, False, False, True]]


def test_doubly_inverted_boxes_exceed_one_unless_clamped():
    inverted = torch.tensor([6.0, 6.0, 4.0, 4.0])  # "area" 4
    target = torch.tensor([0.0, 0.0, 1.0, 1.0])
    # union 4 + 1 - 0, hull from (0, 0) to (4, 4): 16, GIoU = 0 - (16 - 5) / 16
    assert aligned_overlaps(inverted, target, "giou").item() == pytest.approx(-11 / 16)
    inverted = torch.tensor([30.0, 30.0, 0.5, 0.5])  # "area" 870.25, hull 1 x 1
    assert aligned_overlaps(inverted, target, "giou").item() > 800
    clamped = aligned_overlaps(inverted, target, "giou", clamp_inverted=True).item()
    assert -1 <= clamped <= 1
