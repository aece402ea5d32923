import pytest
import torch
from toy import unchecked

from minirtmdet.structures import GroundTruth, padded_count

BOX = torch.tensor([[1.0, 2.0, 5.0, 8.0]])
LABEL = torch.tensor([3])


def make(box=BOX, label=LABEL, **kwargs):
    return GroundTruth.from_list([torch.empty(0, 4), box], [torch.empty(0, dtype=torch.int64), label], **kwargs)


def test_pads_marks_and_centres():
    gt = make()
    assert gt.boxes.shape == (2, 4, 4)
    assert gt.mask.tolist() == [[False] * 4, [True] + [False] * 3]
    assert gt.boxes[1, 0].tolist() == [1, 2, 5, 8]
    assert gt.centers[1, 0].tolist() == [3, 5]
    assert gt.labels[1].tolist() == [3] + [0] * 3
    assert not gt.ignore.any()


def test_no_box_is_ever_dropped():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(301, 1)
    gt = GroundTruth.from_list([boxes], [torch.zeros(301, dtype=torch.int64)])
    assert gt.boxes.shape[1] == 320
    assert gt.mask.sum() == 301


def test_ignored_boxes_are_not_in_the_mask_and_need_no_class():
    gt = GroundTruth.from_list(
        [BOX.repeat(2, 1)], [torch.tensor([0, 99])], ignore=[torch.tensor([False, True])], num_classes=5
    )
    assert gt.mask[0, :2].tolist() == [True, False]
    assert gt.ignore[0, :2].tolist() == [False, True]


def test_masks_bring_their_own_centres():
    gt = GroundTruth.from_list([BOX], [LABEL], centers=[torch.tensor([[2.0, 7.0]])])
    assert gt.centers[0, 0].tolist() == [2, 7]


def test_half_precision_boxes_become_fp32():
    gt = GroundTruth.from_list([BOX.half()], [LABEL])
    assert gt.boxes.dtype == torch.float32


def test_an_empty_batch_and_empty_images():
    assert GroundTruth.from_list([], []).boxes.shape == (0, 4, 4)
    gt = GroundTruth.from_list([torch.empty(0, 4)] * 2, [torch.empty(0, dtype=torch.int64)] * 2)
    assert gt.boxes.shape == (2, 4, 4)
    assert not gt.mask.any()


@pytest.mark.parametrize(
    ("box", "label", "message"),
    [
        (torch.tensor([[1.0, 2.0, 1.0, 8.0]]), LABEL, r"b\.jpg, box 0: \[1\.0, 2\.0, 1\.0, 8\.0\] has no width"),
        (torch.tensor([[5.0, 8.0, 1.0, 2.0]]), LABEL, r"b\.jpg, box 0: .* has no width or no height"),
        (torch.tensor([[1.0, 2.0, float("nan"), 8.0]]), LABEL, r"b\.jpg, box 0: .* is not finite"),
        (torch.tensor([[1.0, 2.0, float("inf"), 8.0]]), LABEL, r"b\.jpg, box 0: .* is not finite"),
        (BOX, torch.tensor([5]), r"b\.jpg, box 0: label 5 is outside 0\.\.4"),
        (BOX, torch.tensor([-1]), r"b\.jpg, box 0: label -1 is outside 0\.\.4"),
        (BOX, torch.tensor([1, 2]), r"b\.jpg: labels have shape \(2,\), expected \(1,\) for 1 boxes"),
        (BOX, torch.tensor([1.0]), r"b\.jpg: labels are torch\.float32, expected integers"),
        (BOX.long(), LABEL, r"b\.jpg: boxes are torch\.int64, expected floating point"),
    ],
)
def test_bad_boxes_name_image_and_box(box, label, message):
    with pytest.raises(ValueError, match=message):
        unchecked(GroundTruth.from_list)(
            GroundTruth,
            [torch.empty(0, 4), box],
            [torch.empty(0, dtype=torch.int64), label],
            num_classes=5,
            names=["a.jpg", "b.jpg"],
        )


def test_lists_of_different_lengths():
    with pytest.raises(ValueError, match="1 images have boxes, but 2 have labels"):
        GroundTruth.from_list([BOX], [LABEL, LABEL])


def test_sizes_grow_in_few_steps():
    sizes = {padded_count(n) for n in range(1025)}
    small = {*range(4, 33, 4), *range(32, 65, 8), *range(64, 129, 16), *range(128, 257, 32)}
    assert sizes == small | {*range(256, 513, 64), *range(512, 1025, 128)}
    assert all(n <= padded_count(n) < 1.25 * n for n in range(17, 1025))


def test_image_keeps_the_padding():
    one = make().image(1)
    assert one.boxes.shape == (1, 4, 4)
    assert one.mask.sum() == 1
