import numpy as np
import pytest
import torch
from helpers.tiny_sets import three_images

from minirtmdet.data.masks import encode_masks
from minirtmdet.evaluation.matching import Match, match_detections, match_images, mistakes
from minirtmdet.structures import Detections


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(rows).reshape(-1, 4)


def match(
    found: list[tuple[tuple[float, float, float, float], float, int]],
    true: list[tuple[tuple[float, float, float, float], int]],
    regions: list[tuple[tuple[float, float, float, float], int]] = (),
    **settings: float,
) -> Match:
    detections = Detections(
        boxes(*(box for box, _, _ in found)),
        torch.tensor([score for _, score, _ in found]).float(),
        torch.tensor([label for *_, label in found]).long(),
    )
    everything = [*true, *regions]
    ignore = torch.arange(len(everything)) >= len(true)
    labels = torch.tensor([label for _, label in everything]).long()
    return match_detections(detections, boxes(*(box for box, _ in everything)), labels, ignore, **settings)


A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def test_each_box_is_found_once_by_the_best_detection():
    result = match([(A, 0.5, 0), (A, 0.9, 0), (B, 0.7, 0)], [(A, 0), (B, 0)])
    torch.testing.assert_close(result.detections.scores, torch.tensor([0.9, 0.7, 0.5]))
    assert result.hit.tolist() == [True, True, False]
    assert (result.missed, result.false) == (0, 1)
    assert result.f1 == pytest.approx(4 / 5)


def test_class_overlap_and_threshold_count():
    half = (0.0, 0.0, 10.0, 5.0)  # IoU exactly 0.5
    less = (20.0, 0.0, 30.0, 4.9)
    result = match([(A, 0.9, 1), (half, 0.8, 0), (less, 0.7, 0), (B, 0.3, 0)], [(A, 0), (B, 0)])
    assert result.hit.tolist() == [False, True, False]
    assert result.found.tolist() == [True, False]
    assert len(match([(less, 0.7, 0)], [(B, 0)], iou_threshold=0.4).hit) == 1
    assert match([(less, 0.7, 0)], [(B, 0)], iou_threshold=0.4).f1 == 1


def test_a_detection_takes_the_free_box_that_it_overlaps_most():
    near = (1.0, 0.0, 11.0, 10.0)
    result = match([(A, 0.9, 0), (near, 0.8, 0)], [(near, 0), (A, 0)])
    assert result.hit.all()
    assert result.found.all()
    # both want A; the second finds the one that is left
    result = match([(A, 0.9, 0), (A, 0.8, 0)], [(near, 0), (A, 0)])
    assert result.hit.all()


def test_everything_stays_on_the_device_of_the_boxes():
    # what is made without a device lands on another one here, which does not mix with the boxes'
    with torch.device("meta"):
        detections = Detections(
            torch.tensor([A, B, A], device="cpu"),
            torch.tensor([0.9, 0.8, 0.7], device="cpu"),
            torch.tensor([0, 0, 1], device="cpu"),
        )
        true = torch.tensor([A, B], device="cpu"), torch.tensor([0, 0], device="cpu")
        result = match_detections(detections, *true, torch.tensor([False, True], device="cpu"))
        kinds = [mistake.kind for mistake in mistakes(result)]
    assert result.hit.tolist() == [True, False]
    assert (result.missed, kinds) == (0, ["class"])


def test_ignored_regions_excuse_but_count_for_nothing():
    crowd = (0.0, 0.0, 100.0, 10.0)
    result = match([(A, 0.9, 0), (B, 0.8, 0), (B, 0.7, 1), (B, 0.6, 0)], [(B, 0)], [(crowd, 0)])
    torch.testing.assert_close(result.detections.scores, torch.tensor([0.8, 0.7]))  # a hit stays a hit
    assert result.hit.tolist() == [True, False]
    assert (result.missed, result.false, len(result.boxes)) == (0, 1, 1)


def test_nothing_to_find_and_nothing_found():
    assert match([], []).f1 == 1
    assert match([], [], [(A, 0)]).f1 == 1
    assert match([(A, 0.9, 0)], []).f1 == 0
    assert match([], [(A, 0)]).f1 == 0


def test_every_kind_of_mistake_has_its_name():
    loose = (0.0, 0.0, 10.0, 4.0)  # IoU 0.4
    found = [(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0), (loose, 0.6, 0), ((20.0, 0.0, 30.0, 4.0), 0.5, 0)]
    result = mistakes(match([*found, ((50.0, 50.0, 60.0, 60.0), 0.4, 1)], [(A, 0), (B, 1)]))
    assert [mistake.kind for mistake in result] == ["duplicate", "class", "location", "both", "background"]
    assert [mistake.detection for mistake in result] == [1, 2, 3, 4, 5]
    assert [mistake.box for mistake in result] == [0, 1, 0, 1, -1]


def test_a_box_of_its_own_class_comes_before_a_better_one_of_another():
    near = (1.0, 0.0, 11.0, 10.0)
    result = mistakes(match([(near, 0.9, 0), (A, 0.8, 0)], [(near, 0), (A, 1)]))
    assert [(mistake.kind, mistake.box) for mistake in result] == [("duplicate", 0)]


def test_without_boxes_every_detection_is_of_the_background():
    assert [mistake.kind for mistake in mistakes(match([(A, 0.9, 0)], []))] == ["background"]
    assert mistakes(match([], [(A, 0)])) == []


def test_the_worst_image_comes_first():
    truth, results = three_images()
    matches = match_images(truth, results, (1,), [1, 2, 3])
    assert [(i, m.f1, m.missed, m.false) for i, m in matches.items()] == [(3, 0, 1, 0), (2, 2 / 3, 0, 1), (1, 1, 0, 0)]
    assert matches[2].detections.boxes.tolist() == [[60, 60, 90, 90], [10, 10, 50, 50]]
    # of two images where nothing is right, the one with more mistakes
    matches = match_images(truth, results, (1,), [3, 2, 1], score_threshold=0.85)
    assert list(matches) == [2, 3, 1]
    truth["annotations"][2]["iscrowd"] = 1
    assert match_images(truth, results, (1,), [3])[3].f1 == 1
    # categories that are not asked for are neither missed nor found
    assert match_images(truth, results, (7,), [2])[2].f1 == 1


def test_results_with_masks_give_matches_with_masks():
    truth, results = three_images()
    # each result has a mask of as many pixels as its score says
    masks = [np.arange(100).reshape(10, 10) < round(100 * entry["score"]) for entry in results]
    for entry, rle in zip(results, encode_masks(np.stack(masks)), strict=True):
        entry["segmentation"] = rle
    for found in match_images(truth, results, (1,), [1, 2, 3]).values():
        sizes = [int(mask.sum()) for block in found.detections.mask_blocks() for mask in block]
        assert sizes == [round(100 * score) for score in found.detections.scores.tolist()]
    del results[1]["segmentation"]
    with pytest.raises(ValueError, match=r"2 detections with 1 masks: give one a detection"):
        match_images(truth, results, (1,), [2])
