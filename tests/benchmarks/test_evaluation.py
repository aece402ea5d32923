"""The benchmark of an evaluation's parts and of loading: what of it needs no clock."""

import importlib
import json
from types import ModuleType

import pytest

from minirtmdet.evaluation.coco import coco_metrics


@pytest.fixture(scope="module")
def evaluation(scripts: None) -> ModuleType:
    return importlib.import_module("evaluation")


def test_what_the_coco_tools_are_given_is_like_coco(evaluation: ModuleType) -> None:
    truth, results = evaluation.like_coco(40)
    assert len(results) == 40 * 300
    assert 5 < len(truth["annotations"]) / 40 < 10
    for entry in truth["annotations"]:
        x, y, width, height = entry["bbox"]
        assert min(x, y) >= 0
        assert min(width, height) >= 12
        assert x + width <= 640.001
        assert y + height <= 480.001
    metrics = coco_metrics(truth, results, range(1, 81)).metrics
    # each box has a detection near it, which is not exact
    assert metrics["AP50"] > 0.5
    assert metrics["AP"] < metrics["AP50"]


def test_batches_pass_through_the_watch(evaluation: ModuleType) -> None:
    class Watch:
        seconds = 0.0

    watch = Watch()
    assert list(evaluation.counted(iter("abc"), watch)) == ["a", "b", "c"]
    assert watch.seconds > 0


def test_the_record_has_every_part(evaluation: ModuleType) -> None:
    record = json.loads(evaluation.RESULT.read_text(encoding="utf-8"))
    for row in record["rows"]:
        assert list(row["share"]) == ["reading", "network", "suppression", "COCO tools", "the rest"]
        assert sum(row["share"].values()) == pytest.approx(1, abs=0.003)
    assert record["loading"].keys() == {"mini-160", "rtmdet-tiny"}
    assert evaluation.table(record).count("\n") == 13
