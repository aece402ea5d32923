import pytest
import torch

from minirtmdet.boxes import bbox_overlaps, points_inside
from minirtmdet.data.example import CROWD_STEPS, CROWDS, PRIOR, SIZE, STEP, STEPS, example, recorded_maps
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.reference import assignment as reading


def test_boxes_are_those_of_the_pixels_and_always_the_same():
    first, second = example(), example()
    assert first.boxes.tolist() == [[13, 39, 108, 121], [66, 92, 142, 125], [122, 26, 142, 46]]
    assert [first.names[i] for i in first.labels] == ["panda", "car", "tennis ball"]
    assert (first.image == second.image).all()
    assert first.images.shape == (1, 3, SIZE, SIZE)
    assert first.ground_truth.mask.sum() == 3


def test_masks_are_what_can_be_seen_of_each_object():
    scene = example()
    assert scene.masks.sum(0).max() == 1  # the car hides a part of the panda
    for mask, box in zip(scene.masks, scene.boxes, strict=True):
        y, x = mask.nonzero().unbind(1)
        assert [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1] == box.tolist()
    assert scene.ground_truth.masks.numel() == 0


def test_some_priors_lie_in_two_boxes_and_each_box_holds_some():
    scene = example()
    sizes = [(SIZE // stride, SIZE // stride) for stride in (8, 16, 32)]
    levels = MlvlPointGenerator().grid_priors(sizes)
    inside = [points_inside(level[:, :2], scene.boxes) for level in levels]  # [3,N] a level
    assert [[int(n) for n in level.sum(1)] for level in inside] == [
        [12 * 11, 9 * 4, 2 * 2],
        [6 * 5, 4 * 2, 1],
        [3 * 2, 2 * 1, 1],
    ]
    assert all((level.sum(0) == 2).any() for level in inside[:2])
    overlaps = bbox_overlaps(scene.boxes, scene.boxes)
    assert 0.1 < overlaps[0, 1] < 0.3
    assert overlaps[2, :2].max() == 0


@pytest.mark.parametrize("step", [*STEPS, None])
def test_maps_have_a_cell_for_every_prior(step):
    maps = recorded_maps(step)
    for channels, levels in zip((16, 4), maps, strict=True):
        assert [tuple(level.shape) for level in levels] == [(1, channels, side, side) for side in (20, 10, 5)]
        assert all(level.isfinite().all() and level.dtype == torch.float32 for level in levels)
    assert all((level > 0).all() for level in maps.bbox_preds)  # exponentiated distances


def test_the_prior_that_the_book_follows():
    scene, loss = example(), RTMDetLoss(16)
    priors = torch.cat(loss.prior_generator.grid_priors([(20, 20), (10, 10), (5, 5)]))
    assert priors[PRIOR].tolist() == [96, 112, 8, 8]
    assert points_inside(priors[PRIOR : PRIOR + 1, :2], scene.boxes)[:, 0].tolist() == [True, True, False]
    owners = [int(loss.assign(*recorded_maps(step), scene.ground_truth).gt_inds[0, PRIOR]) for step in STEPS]
    assert owners == [0, 0, 0, 2, 2, 2, 2, 2, 2]
    assert STEP in STEPS


def test_the_run_ends_with_a_detector():
    scene = example()
    best = predict_by_feat(*recorded_maps())[0]
    assert best.labels[0] == scene.labels[1]
    assert bbox_overlaps(best.boxes[:1], scene.boxes[1:2]) > 0.8


def test_a_step_that_was_not_recorded_is_named():
    with pytest.raises(ValueError, match=r"step 7 of example was not recorded: expected one of \(0, 10"):
        recorded_maps(7)


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_overlap_and_were_recorded(name: str):
    scene = CROWDS[name]()
    overlaps = bbox_overlaps(scene.boxes, scene.boxes).fill_diagonal_(0)
    assert (overlaps.amax(1) > 0.05).all()
    for step in CROWD_STEPS:
        maps = recorded_maps(step, name)
        assert [tuple(level.shape) for level in maps.cls_scores] == [(1, 16, side, side) for side in (20, 10, 5)]
        assert all((level > 0).all() for level in maps.bbox_preds)
    with pytest.raises(ValueError, match=rf"step 0 of {name} was not recorded: expected one of \(50, 400\)"):
        recorded_maps(0, name)


def test_a_scene_that_was_not_recorded_is_named():
    with pytest.raises(ValueError, match="scene 'queue' was not recorded: expected example, faces, jam"):
        recorded_maps(50, "queue")


@pytest.mark.parametrize(("name", "step", "without"), [("faces", 400, 0), ("jam", 50, 1)])
def test_in_a_crowd_class_and_centre_choose_among_boxes_that_fit_equally_well(name: str, step: int, without: int):
    """What the chapter on costs says of both: a fifth of the positives change, and their IoU hardly does."""
    scene = CROWDS[name]()
    logits, boxes, priors = (t.squeeze(0) for t in RTMDetLoss(16).flatten(*recorded_maps(step, name))[:3])
    where = reading.candidates(priors, scene.boxes)
    ious = bbox_overlaps(boxes[where], scene.boxes)
    centers = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    parts = [reading.class_cost(logits[where], scene.labels, ious), reading.center_cost(priors[where], centers)]

    def choose(cost: torch.Tensor) -> torch.Tensor:
        return reading.resolve_conflicts(reading.choose(cost, reading.dynamic_k(ious)), cost)

    by_iou = 3 * reading.iou_cost(ious)
    full, other = choose(by_iou + parts[0] + parts[1]), choose(by_iou + parts[1 - without])
    assert (full & ~other).sum() > 0.2 * full.sum()
    assert (ious[full].mean() - ious[other].mean()).abs() < 0.03
