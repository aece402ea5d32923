"""The benchmark of detection in every form: what of it needs no clock."""

import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.toy import random_boxes
from helpers.weights import SMALL
from torch import Tensor

from minirtmdet.head.postprocess import batched_nms
from minirtmdet.inference.detect import detect

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("MINIRTMDET_REFERENCE", ROOT / ".venv-reference/bin/python"))
BOXES = torch.tensor([[0.0, 0, 100, 100], [20, 20, 60, 80], [5, 5, 9, 9]])
SCORES, LABELS = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def inference(scripts: None) -> ModuleType:
    return importlib.import_module("inference")


@pytest.fixture(scope="module")
def forms(scripts: None) -> ModuleType:
    return importlib.import_module("inference_worker")


@pytest.fixture(scope="module")
def weights(inference: ModuleType, forms: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector, as the benchmark writes its own."""
    model = inference.as_if_trained(SMALL, forms.photos(1), 64, (-5.0, 2.0), (1.0, 0.3))
    path = tmp_path_factory.mktemp("forms") / "small.pt"
    torch.save({"config": asdict(SMALL), "state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("ours", "turned"),
    [
        ((BOXES, SCORES, LABELS), 0),
        ((BOXES.flip(0), SCORES.flip(0), LABELS.flip(0)), 0),  # the order of equal scores says nothing
        ((BOXES + 0.009, SCORES - 8e-5, LABELS), 0),
        ((BOXES + torch.tensor([0.0, 0, 0, 0.02]), SCORES, LABELS), 6),
        ((BOXES, SCORES - 1e-4, LABELS), 6),
        ((BOXES, SCORES, torch.tensor([0, 1, 2])), 2),
        ((BOXES[:2], SCORES[:2], LABELS[:2]), 1),
        ((BOXES[:0], SCORES[:0], LABELS[:0]), 3),
    ],
    ids=["same", "order", "rounding", "corner", "score", "class", "one less", "none"],
)
def test_a_detection_has_a_counterpart_of_its_class_place_and_score(
    inference: ModuleType, ours: tuple[Tensor, Tensor, Tensor], turned: int
) -> None:
    assert inference.missing(ours, (BOXES, SCORES, LABELS)) == turned


def test_equal_scores_at_the_last_place_are_nobodys_fault(inference: ModuleType, forms: ModuleType) -> None:
    """In padding all priors score the same; rounding decides which of them are among the 300."""
    scores = torch.linspace(1.0, 0.5, forms.LIMIT)
    scores[-5:] = scores[-1]
    boxes, labels = torch.arange(forms.LIMIT * 4.0).view(-1, 4), torch.zeros(forms.LIMIT, dtype=torch.int64)
    elsewhere = boxes + torch.where(torch.arange(forms.LIMIT) >= forms.LIMIT - 5, 50.0, 0.0)[:, None]
    assert inference.missing((elsewhere, scores, labels), (boxes, scores, labels)) == 0
    assert inference.missing((boxes + 50, scores, labels), (boxes, scores, labels)) == 2 * (forms.LIMIT - 5)
    # with a place to spare, each has to be there
    assert inference.missing((elsewhere[1:], scores[1:], labels[1:]), (boxes[1:], scores[1:], labels[1:])) == 10


def test_the_record_has_every_row_and_form(inference: ModuleType, forms: ModuleType) -> None:
    record = json.loads(inference.RESULT.read_text(encoding="utf-8"))
    assert [row["name"] for row in record["rows"]] == [row.name for row in inference.ROWS]
    for row in record["rows"]:
        assert tuple(row["forms"]) == forms.FORMS
        assert all(form["turned"] <= 2 * inference.TURNED * row["detections"] for form in row["forms"].values())


def test_images_are_compared_one_by_one(inference: ModuleType) -> None:
    one = {"count": torch.tensor([2, 1]), "boxes": BOXES, "scores": SCORES, "labels": LABELS}
    assert inference.check("case", one, {name: value.clone() for name, value in one.items()}) == 0
    with pytest.raises(AssertionError, match="case: 2 of 6 detections have no counterpart"):
        inference.check("case", one, one | {"count": torch.tensor([1, 2])})


def test_a_random_detector_is_made_to_answer_as_a_trained_one(
    inference: ModuleType, forms: ModuleType, weights: Path
) -> None:
    detector = forms.in_torch("eager", weights)
    (image,) = forms.photos(1)
    seen: list[Tensor] = []
    for conv in detector.bbox_head.rtm_cls:
        conv.register_forward_hook(lambda _, __, output: seen.append(output))
    detect(detector, [image], input_size=64)
    for logits in seen:
        torch.testing.assert_close(logits.mean((0, 2, 3)), torch.full((3,), -5.0), rtol=0, atol=1e-3)
        torch.testing.assert_close(logits.std((0, 2, 3)), torch.full((3,), 2.0), rtol=0, atol=1e-3)


def test_forms_find_the_same_and_tell_the_part_of_the_network(
    inference: ModuleType, forms: ModuleType, weights: Path
) -> None:
    images = forms.photos(2)
    eager, fused = (forms.ours(form, weights, 64) for form in ("eager", "fused"))
    expected = forms.answer(eager, images)
    assert expected["count"].tolist() == pytest.approx([60, 60], abs=55)  # enough to compare
    assert inference.check("small", forms.answer(fused, images), expected) == 0
    found = forms.measure(fused, images, 2)
    assert len(found["seconds"]) == len(found["part"]) == 2
    assert all(0 < part < whole for part, whole in zip(found["part"], found["seconds"], strict=True))


def test_what_stands_in_is_not_counted(forms: ModuleType) -> None:
    network, not_counted = forms.Stopwatch(), forms.Stopwatch()

    def detect(images: object) -> list[object]:
        network.seconds, not_counted.seconds = 0.25, 1000.0
        return []

    found = forms.measure(forms.Form(detect, network, not_counted), [], 1)
    assert found["part"] == [0.25]
    assert found["seconds"][0] == pytest.approx(-1000, abs=1)


def test_the_best_survivors_are_those_of_all_candidates(forms: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = random_boxes(1500, 400, 400, torch.Generator().manual_seed(0), smallest=20)
    scores = torch.rand(1500, generator=torch.Generator().manual_seed(1))
    asked: list[int] = []

    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        asked.append(len(boxes))
        return batched_nms(boxes, scores, torch.zeros_like(scores).long(), iou_threshold, 1500)

    every = nms(boxes, scores, 0.3)
    for limit, candidates in ((100, [1024]), (1500, [1024, 1500])):
        asked.clear()
        monkeypatch.setattr(forms, "LIMIT", limit)
        found = forms.best_survivors(nms, boxes, scores, iou_threshold=0.3)
        assert len(found) > 100
        assert found[:limit].tolist() == every[: len(found)].tolist()[:limit]
        assert asked == candidates


def test_the_table_is_made_from_a_record(inference: ModuleType) -> None:
    form = {"median_ms": 200.0, "network_ms": 150.0, "images_per_s": 5.0, "ratio": 1.0}
    fast = {"median_ms": 100.0, "network_ms": 90.0, "images_per_s": 10.0, "ratio": 2.0}
    record = {"rows": [{"name": "tiny, 640 px, 1 image", "forms": {"MMDetection": form, "OpenVINO": fast}}]}
    lines = [" ".join(line.split()) for line in inference.table(record).splitlines()]
    assert lines == [
        "tiny, 640 px, 1 image ms network images/s of MMDetection",
        "MMDetection 200.0 150.0 5.0 1.00x",
        "OpenVINO 100.0 90.0 10.0 2.00x",
    ]


def test_the_record_has_every_row(inference: ModuleType, forms: ModuleType) -> None:
    if not inference.RESULT.exists():
        pytest.skip("not recorded yet: benchmarks/inference.py")
    record = json.loads(inference.RESULT.read_text(encoding="utf-8"))
    assert [row["name"] for row in record["rows"]] == [row.name for row in inference.ROWS]
    for row in record["rows"]:
        assert tuple(row["forms"]) == forms.FORMS
        assert all(form["turned"] <= 0.01 * 2 * row["detections"] for form in row["forms"].values())


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference environment, which make bench makes")
def test_mmdetection_finds_the_same(inference: ModuleType, weights: Path, tmp_path: Path) -> None:
    pythons = {"MMDetection": str(REFERENCE), "eager": sys.executable}
    sides = [inference.FormSide(python, name, 1, tmp_path, {}) for name, python in pythons.items()]
    try:
        theirs, ours = (side.answer("small 64 2", folder=str(weights.parent)) for side in sides)
        assert inference.check("small", ours, theirs) == 0
        assert sides[0].ask(repeats=1)["seconds"][0] > 0
    finally:
        for side in sides:
            side.close()
