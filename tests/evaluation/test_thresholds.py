"""Curves, confusions and calibration of scenes small enough to count by hand."""

import numpy as np
import pytest
import torch

from minirtmdet.evaluation.matching import Match, match_detections
from minirtmdet.evaluation.thresholds import (
    best_choice,
    calibration,
    choice_at,
    choices,
    confusion_matrix,
    count_mistakes,
    threshold_curve,
)
from minirtmdet.structures import Detections

Row = tuple[tuple[float, float, float, float], float, int]
A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (80, 80, 90, 90)
NEAR_A = (0, 0, 10, 4)  # IoU 0.4


def match(found: list[Row], true: list[tuple[tuple[float, float, float, float], int]], threshold: float = 0.0) -> Match:
    def boxes(rows: list) -> torch.Tensor:
        return torch.tensor([row[0] for row in rows]).reshape(-1, 4).float()

    detections = Detections(
        boxes(found), torch.tensor([row[1] for row in found]).float(), torch.tensor([row[2] for row in found]).long()
    )
    labels = torch.tensor([label for _, label in true]).long()
    return match_detections(detections, boxes(true), labels, torch.zeros(len(true)).bool(), score_threshold=threshold)


# by score: right, wrong, right, wrong twice at once, right; of four boxes
IMAGES = [
    ([(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.6, 1)], [(A, 0), (B, 1)]),
    ([(FAR, 0.5, 1), (B, 0.5, 0), (A, 0.2, 0)], [(A, 0), (C, 1)]),
]


def matches(threshold: float = 0.0) -> list[Match]:
    return [match(*image, threshold) for image in IMAGES]


def test_the_curve_counts_from_the_highest_score_down():
    curve = threshold_curve(matches())
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.6, 0.5, 0.2], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 5, 3 / 6])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.f1, [2 / 5, 2 / 6, 4 / 7, 4 / 9, 6 / 10])
    assert curve.boxes == 4


def test_the_curve_of_a_class_knows_no_other():
    curve = threshold_curve(matches(), 1)
    np.testing.assert_allclose(curve.scores, [0.6, 0.5], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, [1, 1 / 2])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2])
    nothing = threshold_curve(matches(), 2)
    assert (len(nothing.scores), nothing.boxes) == (0, 0)
    assert threshold_curve([]).boxes == 0


def test_the_best_threshold_lies_midway_to_the_next_score():
    overall, by_class = choices(matches(), ["a", "b", "c"], least=0.1)
    assert overall is not None
    assert overall.threshold == pytest.approx((0.2 + 0.1) / 2)
    assert overall[1:] == pytest.approx((3 / 6, 3 / 4, 6 / 10))
    # of a: 0.9 right, 0.8 wrong, 0.5 wrong, 0.2 right, of two boxes: F1 2/3, 2/4, 2/5, 4/6, and the highest of equals
    assert by_class["a"] == pytest.approx(((0.9 + 0.8) / 2, 1, 1 / 2, 2 / 3))
    assert by_class["b"] == pytest.approx(((0.6 + 0.5) / 2, 1, 1 / 2, 2 / 3))
    assert by_class["c"] is None
    assert best_choice(threshold_curve([match([(FAR, 0.9, 0)], [(A, 0)])])) is None


def test_what_a_threshold_gives_is_what_matching_at_it_gives():
    curve = threshold_curve(matches())
    for threshold in (0.0, 0.2, 0.3, 0.55, 0.85, 0.95):
        given = choice_at(curve, threshold)
        again = matches(threshold)
        hits, false = sum(int(m.hit.sum()) for m in again), sum(m.false for m in again)
        assert given.recall == pytest.approx(hits / 4)
        assert given.precision == pytest.approx(hits / (hits + false) if hits + false else 1)
        assert given.f1 == pytest.approx(2 * hits / (hits + false + 4))


def test_the_chosen_threshold_keeps_what_the_curve_says():
    """Single precision in files, double in the curve: no detection at the border changes sides."""
    overall, _ = choices(matches(), ["a", "b"])
    assert overall is not None
    kept = [(m.detections.scores.double() > overall.threshold).sum() for m in matches()]
    assert sum(int(n) for n in kept) == 6


def test_each_box_counts_once_in_its_row_and_each_detection_in_its_column():
    found = [
        (A, 0.9, 1),  # a thing of class 0, taken for 1
        (A, 0.8, 1),  # the same again: of no box
        (B, 0.7, 1),  # right
        (B, 0.6, 0),  # of a box that was found: of no box
        (FAR, 0.5, 2),  # background
        (NEAR_A, 0.4, 0),  # fits no box well enough
    ]
    one = match(found, [(A, 0), (B, 1), (C, 2)])
    matrix = confusion_matrix([one], 3)
    assert matrix.tolist() == [
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [2, 1, 1, 0],
    ]
    assert matrix[:3].sum(1).tolist() == [1, 1, 1]
    assert matrix[:, :3].sum(0).tolist() == [2, 3, 1]
    assert confusion_matrix([one, one], 3).sum() == 2 * matrix.sum()
    assert confusion_matrix([], 2).tolist() == np.zeros((3, 3)).tolist()


def test_mistakes_are_counted_by_class_and_kind():
    found = [(A, 0.9, 1), (B, 0.7, 1), (B, 0.6, 1), (FAR, 0.5, 2), (NEAR_A, 0.4, 0), (NEAR_A, 0.3, 2)]
    counts = count_mistakes([match(found, [(A, 0), (B, 1), (C, 2)])], 3)
    assert {kind: values.tolist() for kind, values in counts.items()} == {
        "class": [0, 1, 0],
        "location": [1, 0, 0],
        "both": [0, 0, 1],
        "duplicate": [0, 1, 0],
        "background": [0, 0, 1],
        "missed": [1, 0, 1],
    }


def test_calibration_weighs_each_bin_by_its_detections():
    everything = matches()
    result = calibration(everything, bins=2)
    assert result.edges.tolist() == [0, 0.5, 1]
    assert result.counts.tolist() == [1, 5]  # 0.5 belongs to the upper bin
    np.testing.assert_allclose(result.scores, [0.2, (0.9 + 0.8 + 0.6 + 0.5 + 0.5) / 5], rtol=1e-6)
    np.testing.assert_allclose(result.right, [1, 2 / 5])
    assert result.error == pytest.approx((1 * 0.8 + 5 * (0.66 - 0.4)) / 6)
    assert calibration(everything, least=0.3).counts.sum() == 5
    assert calibration([match([(A, 1.0, 0)], [(A, 0)])]).counts.tolist() == [0] * 9 + [1]
    assert calibration([]).error == 0
