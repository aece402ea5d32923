import pickle

import numpy as np
import pytest
import torch
from helpers.toy import grid, unchecked

from minirtmdet.configs import AssignerConfig
from minirtmdet.evaluation.matching import match_detections
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.inference.images import inside_image
from minirtmdet.masks import StretchedMasks, as_stretch
from minirtmdet.reference.assignment import assign
from minirtmdet.structures import Detections, GroundTruth, on_host, padded_count

BOX = torch.tensor([[1.0, 2.0, 5.0, 8.0]])
LABEL = torch.tensor([3])


def make(box=BOX, label=LABEL, **kwargs):
    return GroundTruth.from_list([torch.empty(0, 4), box], [torch.empty(0, dtype=torch.int64), label], **kwargs)


def loss_of(ground_truth, **settings):
    """The losses of random maps of images of 64 x 64 pixels and three classes."""
    generator = torch.Generator().manual_seed(0)
    batch = len(ground_truth.boxes)
    scores, distances = (
        [
            torch.rand(batch, channels, 64 // stride, 64 // stride, generator=generator) * stride
            for stride in (8, 16, 32)
        ]
        for channels in (3, 4)
    )
    return RTMDetLoss(3, AssignerConfig(**settings))(scores, distances, ground_truth)


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


def test_the_label_of_an_ignored_box_is_never_looked_up():
    """It was, for every row: an IndexError in the class cost, and on a GPU an assertion of the device."""
    gt = GroundTruth.from_list(
        [torch.tensor([[8.0, 8.0, 40.0, 40.0], [16.0, 16.0, 60.0, 60.0]])],
        [torch.tensor([1, 99])],
        ignore=[torch.tensor([False, True])],
        num_classes=3,
    )
    assert gt.labels[0].tolist() == [1, 0, 0, 0]
    losses = loss_of(gt)
    assert losses["loss_cls"].isfinite()
    assert losses["loss_bbox"] > 0


@pytest.mark.parametrize("ignore_regions", [False, True])
@pytest.mark.parametrize("fallback", [False, True])
def test_a_batch_without_any_row_is_all_background(fallback, ignore_regions):
    empty = GroundTruth(
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.int64),
        *(torch.zeros(2, 0, dtype=torch.bool) for _ in range(2)),
        torch.zeros(2, 0, 2),
    )
    settings = {"nearest_prior_fallback": fallback, "ignore_regions": ignore_regions}
    padded = GroundTruth.from_list([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    losses = loss_of(empty, **settings)
    assert losses == loss_of(padded, **settings)
    assert losses["loss_cls"] > losses["loss_bbox"] == losses["num_pos"] == 0


def test_the_reading_lane_takes_an_image_without_boxes():
    priors, boxes = grid(), torch.zeros(84, 4)
    found = assign(torch.zeros(84, 3), boxes, priors, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert not found.gt_inds.any()


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
        (BOX, torch.tensor([1, 2]), r"b\.jpg: labels have shape \(2,\), expected \(1,\) for 1 box"),
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


# -- masks -----------------------------------------------------------------------------------------------------------


def full(n: int, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.ones(n, height, width, dtype=torch.bool)


def test_masks_are_kept_at_every_fourth_pixel_and_bring_their_centres():
    mask = torch.zeros(1, 8, 12, dtype=torch.bool)
    mask[0, 2:8, 1:4] = True
    gt = make(masks=[full(0), mask])
    assert gt.masks.shape == (2, 4, 2, 3)
    assert gt.masks[1, 0].tolist() == [[True, False, False], [True, False, False]]
    assert not gt.masks[0].any()
    assert not gt.masks[1, 1:].any()
    assert gt.centers[1, 0].tolist() == [2.0, 4.5]
    assert gt.boxes[1, 0].tolist() == [1, 2, 5, 8]  # the box is what it was given as


def test_without_masks_there_are_none_and_every_field_is_a_tensor():
    gt = make()
    assert gt.masks.shape == (2, 4, 0, 0)
    assert gt.centers[1, 0].tolist() == [3, 5]
    assert gt.to("cpu").image(1).masks.shape == (1, 4, 0, 0)


def test_centres_that_are_given_are_not_those_of_masks():
    gt = GroundTruth.from_list([BOX], [LABEL], centers=[torch.tensor([[2.0, 7.0]])], masks=[full(1)])
    assert gt.centers[0, 0].tolist() == [2, 7]


def test_an_ignored_box_has_a_mask_too():
    gt = GroundTruth.from_list([BOX], [LABEL], ignore=[torch.tensor([True])], masks=[full(1)])
    assert gt.masks[0, 0].all()
    assert not gt.mask.any()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([full(0)], "2 images have boxes, but 1 have masks: give one entry an image"),
        ([full(0), full(2)], r"b\.jpg: masks have shape \(2, 8, 12\), expected \[n, H, W\] for 1 box"),
        ([full(0), full(1)[0]], r"b\.jpg: masks have shape \(8, 12\), expected \[n, H, W\]"),
        ([full(0), full(1).float()], r"b\.jpg: masks are torch\.float32, expected bool: use masks > 0"),
        (
            [full(0), full(1, 8, 16)],
            r"b\.jpg: masks are \(8, 16\), those of a\.jpg \(8, 12\): give all masks in the size",
        ),
    ],
)
def test_bad_masks_name_the_image(masks, message):
    boxes, labels = [torch.empty(0, 4), BOX], [torch.empty(0, dtype=torch.int64), LABEL]
    with pytest.raises(ValueError, match=message):
        unchecked(GroundTruth.from_list)(GroundTruth, boxes, labels, masks=masks, names=["a.jpg", "b.jpg"])


def test_detections_are_a_tuple_of_three_with_masks_beside():
    found = Detections(BOX, torch.ones(1), LABEL)
    assert found.masks is None
    boxes, scores, labels = with_masks = Detections(BOX, torch.ones(1), LABEL, full(1))
    assert (boxes is BOX, scores.tolist(), labels is LABEL) == (True, [1.0], True)
    assert with_masks.masks is not None
    copied = pickle.loads(pickle.dumps(with_masks))
    assert torch.equal(copied.masks, with_masks.masks)
    assert isinstance(copied, Detections)


def told_apart(lazy: bool = False) -> Detections:
    """Five detections whose mask has as many pixels as their label says, best first."""
    labels = torch.tensor([3, 1, 4, 2, 5])
    boxes = torch.stack([torch.tensor([8.0 * i, 0.0, 8.0 * i + 6.0, 8.0]) for i in range(5)])
    masks = torch.arange(40).expand(5, 40).view(5, 5, 8) < labels[:, None, None]
    sides = as_stretch(torch.eye(5)), as_stretch(torch.eye(8))
    kept = StretchedMasks(masks.float(), *sides, threshold=0.5) if lazy else masks
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), labels, kept)


KEEP = torch.tensor([True, False, True, True, False])
OPERATIONS = {
    "some": lambda found: found.pick(KEEP),
    "some, by number": lambda found: found.pick(torch.tensor([4, 0])),
    "the best": lambda found: found.pick(slice(2)),
    "none": lambda found: found.pick(torch.zeros(5, dtype=torch.bool)),
    "on the host": lambda found: on_host([found, found.pick(KEEP)])[1],
    "copied to another process": lambda found: pickle.loads(pickle.dumps(found)),
    # the second and the fourth are false, and the last scores too little
    "matched": lambda found: (
        match_detections(found, found.boxes[::2], found.labels[::2], KEEP[:3] & False, score_threshold=0.55).detections
    ),
    # of the third a part, of the last two nothing lies in the image
    "inside the image": lambda found: inside_image(found, np.zeros((20, 20, 3), np.uint8)),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_loses_or_mixes_masks(name: str, lazy: bool):
    found = OPERATIONS[name](told_apart(lazy))
    places = {3: 0.0, 1: 8.0, 4: 16.0, 2: 24.0, 5: 32.0}
    assert found.boxes[:, 0].tolist() == [places[label] for label in found.labels.tolist()]
    blocks = list(found.mask_blocks())
    assert sum(map(len, blocks)) == len(found.labels)
    sizes = [int(mask.sum()) for block in blocks for mask in block]
    assert sizes == found.labels.tolist()
    assert found.masks.shape == (len(found.labels), 5, 8)
    assert found.masks.sum((1, 2)).tolist() == found.labels.tolist()


def test_masks_are_made_when_they_are_asked_for():
    found = told_apart(lazy=True)
    assert [len(block) for block in found.mask_blocks()] == [5]
    assert isinstance(found.stored_masks, StretchedMasks)
    assert found.masks is found.masks
    assert list(Detections(*told_apart()).mask_blocks()) == []
    with pytest.raises(ValueError, match="5 detections with 3 masks: give one a detection"):
        unchecked(Detections.__new__)(Detections, *told_apart(), told_apart().masks[:3])
