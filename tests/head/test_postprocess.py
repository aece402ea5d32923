from dataclasses import replace

import pytest
import torch
from helpers.toy import random_boxes
from parity import cases
from torch.utils._python_dispatch import TorchDispatchMode

from minirtmdet.configs import INS_PREDICT, PredictConfig
from minirtmdet.head import postprocess
from minirtmdet.head.postprocess import batched_nms, predict_by_feat, predict_instances_by_feat, stretch_masks
from minirtmdet.masks import CACHED
from minirtmdet.reference import postprocess as reference
from minirtmdet.structures import InsOutputs


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


def test_clips_to_the_image_and_rescales_to_the_image():
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


# -- masks -----------------------------------------------------------------------------------------------------------

LOGITS = cases.normal("stretch", 5, 16, 20)  # of an input of 128 x 160
SIZES = [  # original image, factors of width and height
    ((128, 160), None),
    ((120, 150), None),
    ((256, 320), (0.5, 0.5)),
    ((93, 117), (160 / 117, 127 / 93)),
    ((43, 61), (2.6, 2.6)),
    ((256, 80), (2.0, 0.5)),
]


@pytest.mark.parametrize(("shape", "factors"), SIZES)
@pytest.mark.parametrize("strip", [1, 700, 2**20])
def test_masks_equal_the_reading_lane_in_strips_of_any_height(shape, factors, strip, monkeypatch):
    monkeypatch.setattr("minirtmdet.masks.CACHED", strip)
    masks = stretch_masks(LOGITS, shape, factors, replace(INS_PREDICT, swap_mask_sides="never")).pixels()
    expected = torch.stack([reference.paste_mask(logits, shape, factors) for logits in LOGITS])
    assert masks.shape == (5, *shape)
    assert (masks != expected).sum() <= 3  # where a logit is nearly 0


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9, 1.0])
def test_a_threshold_is_one_of_the_probability(threshold):
    masks = stretch_masks(LOGITS, (128, 160), None, replace(INS_PREDICT, mask_threshold=threshold)).pixels()
    expected = torch.stack([reference.paste_mask(logits, (128, 160), None, threshold) for logits in LOGITS])
    assert (masks != expected).sum() <= 3


def test_each_side_has_its_own_factor():
    # an image of 256 x 80 that was made half as high and twice as wide; its upper half is the mask
    logits = torch.full((1, 16, 20), -1.0)
    logits[:, :8] = 1.0
    mask = stretch_masks(logits, (256, 80), (2.0, 0.5)).pixels()[0]
    assert mask.shape == (256, 80)
    assert mask[:126].all()
    assert not mask[130:].any()
    original = stretch_masks(logits, (256, 80), (2.0, 0.5), replace(INS_PREDICT, swap_mask_sides="always"))
    assert original.shape == (64, 80)


def test_a_mask_has_the_size_of_its_image_whatever_is_rounded():
    # of 100 rows the original gives 99: the tools that measure then count a mask as none, without a word
    shape, factors = (100, 27), (35 / 27, 128 / 100)
    short = stretch_masks(LOGITS, shape, factors, replace(INS_PREDICT, swap_mask_sides="always"))
    assert short.shape == (99, 27)
    for sides in ("never", "rounding"):
        assert stretch_masks(LOGITS, shape, factors, replace(INS_PREDICT, swap_mask_sides=sides)).shape == shape


def test_every_image_that_is_resized_with_its_ratio_gets_masks_of_its_size():
    for height, width in cases.integers("images", 200, 2, high=1500).tolist():
        height, width = height + 10, width + 10
        scale = min(128 / height, 160 / width)
        content = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        factors = content[1] / width, content[0] / height
        for sides in ("never", "rounding"):
            size = postprocess._stretched_size(
                (128, 160), (height, width), factors, replace(INS_PREDICT, swap_mask_sides=sides)
            )
            assert size[0] >= height
            assert size[1] >= width


@pytest.mark.parametrize("sides", ["never", "rounding", "always"])
def test_cells_and_pixels_that_are_left_out_have_no_part_in_one_another(sides):
    for height, width in (cases.integers("strips", 60, 2, high=700) + 1).tolist():
        factors = 160 / width, 128 / height
        rows = stretch_masks(LOGITS, (height, width), factors, replace(INS_PREDICT, swap_mask_sides=sides)).rows
        pixels, cells = rows.matrix.shape
        for top in range(pixels):
            bottom = min(top + 1 + top % 7, pixels)
            left_out = rows.matrix[top:bottom].clone()
            left_out[:, rows.cells(top, bottom)] = 0
            assert not left_out.any(), (height, width, top)
        for first in range(cells):
            last = min(first + first % 5, cells - 1)
            left_out = rows.matrix[:, first : last + 1].clone()
            left_out[slice(*rows.pixels(first, last))] = 0
            assert not left_out.any(), (height, width, first)


OBJECTS = torch.full((6, 16, 20), -2.0)
OBJECTS[0, 3:6, 4:9] = 1.0  # in the middle
OBJECTS[1, 0, 0] = OBJECTS[1, 15, 19] = 5.0  # two corners
OBJECTS[2, :, 19] = 0.5  # an edge
OBJECTS[3, 8, 10] = 0.01  # hardly there: smaller than a pixel when it is reduced
OBJECTS[5] = 3.0  # everywhere; the fifth is nowhere


@pytest.mark.parametrize(("shape", "factors"), [*SIZES, ((9, 7), (20.0, 14.0))])
def test_masks_of_objects_are_made_where_they_are_and_nowhere_else(shape, factors):
    masks = stretch_masks(OBJECTS, shape, factors, replace(INS_PREDICT, swap_mask_sides="never"))
    expected = torch.stack([reference.paste_mask(logits, shape, factors) for logits in OBJECTS])
    assert torch.equal(masks.pixels(), expected)


def test_no_detection_has_no_mask_of_the_images_size():
    assert stretch_masks(torch.zeros(0, 16, 20), (43, 61), (2.6, 2.6)).pixels().shape == (0, 43, 61)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor of numbers with a fraction."""

    nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.nbytes = max(self.nbytes, result.untyped_storage().nbytes())
        return result


def test_memory_is_that_of_a_strip():
    logits = cases.normal("memory", 100, 16, 20)
    with Largest() as seen:
        masks = stretch_masks(logits, (720, 900), (160 / 900, 128 / 720)).pixels()
    assert masks.shape == (100, 720, 900)
    assert seen.nbytes <= 4 * CACHED  # of 100 masks in numbers it would be 259 MB


def test_nms_on_a_processor_compares_as_many_pairs_as_a_cache_holds():
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(1500, 120, 160, generator, smallest=20)
    scores, labels = torch.rand(1500, generator=generator), torch.zeros(1500, dtype=torch.int64)
    with Largest() as seen:
        kept = batched_nms(boxes, scores, labels, 0.4, 300)
    assert len(kept) < 250  # so that every candidate is looked at
    assert seen.nbytes <= 4 * postprocess.NMS_CACHED  # with 1,024 candidates at a time 4 MiB


def test_a_mask_is_made_of_its_own_priors_kernel():
    cls_scores = [torch.full((1, 2, n, n), -20.0) for n in (8, 4, 2)]
    bbox_preds = [torch.full((1, 4, n, n), 8.0) for n in (8, 4, 2)]
    kernels = [torch.zeros(1, 169, n, n) for n in (8, 4, 2)]
    found = [(0, 0, 3, 5, 3.0), (1, 1, 2, 1, 2.0), (1, 0, 2, 1, 1.0), (2, 1, 1, 0, 0.5)]  # level, class, row, column
    for number, (level, label, row, column, logit) in enumerate(found):
        cls_scores[level][0, label, row, column] = logit
        kernels[level][0, 168, row, column] = (-1.0) ** number if label else 1.0  # all of the image, or nothing
    outputs = InsOutputs(tuple(cls_scores), tuple(bbox_preds), tuple(kernels), torch.zeros(1, 8, 8, 8))
    (detections,) = predict_instances_by_feat(outputs, [(50, 60)], img_shapes=[(64, 64)])
    assert detections.labels.tolist() == [0, 1, 0, 1]
    assert detections.masks.shape == (4, 50, 60)
    # the second and the third are two classes of one prior, which has one mask
    assert detections.masks.flatten(1).float().mean(1).tolist() == [1.0, 1.0, 1.0, 0.0]
