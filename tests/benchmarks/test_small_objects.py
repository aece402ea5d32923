"""AP on small objects, resized and in tiles."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.tiny_sets import write_random_set
from helpers.weights import SMALL

from minirtmdet import build_detector, load_detector
from minirtmdet.cli import main
from minirtmdet.configs import DataConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.scenes import CLASSES
from minirtmdet.data.splits import Split
from minirtmdet.evaluation.coco import coco_metrics, coco_results
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.inference.images import inside_image
from minirtmdet.inference.tiles import Tiles, detect_in_tiles
from minirtmdet.weights.checkpoint import save_checkpoint

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
WAYS = ["resized", "tiles, overlap 0.25", "tiles, overlap 0.5", "whole, at full size"]


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("small_objects")


def write_run(folder: Path, classes: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    folder.mkdir()
    config = TrainConfig(model=SMALL, data=DataConfig(input_size=64))
    weights = build_detector(SMALL, num_classes=len(classes)).state_dict()
    save_checkpoint(folder / "best.pt", weights, config, classes)
    return folder


def test_the_same_things_are_in_images_of_every_size(script: ModuleType, tmp_path: Path):
    boxes = {}
    for cells in (1, 2):
        split = script.write_scenes(tmp_path / str(cells), 64, cells, 8)
        dataset = CocoDataset(*split, bad_boxes="raise")
        assert len(dataset) == 8 // cells**2
        assert dataset.load(0).image.shape == (64 * cells, 64 * cells, 3)
        boxes[cells] = [dataset.entry(i) for i in range(len(dataset))]
    # what no border of a scene cuts is at its place in the larger one
    first = np.concatenate([one.boxes + [64 * (i % 2), 64 * (i // 2)] * 2 for i, one in enumerate(boxes[1][:4])])
    inside = ((first % 64 > 0).all(1)).nonzero()[0]
    larger = {tuple(box) for box in boxes[2][0].boxes.tolist()}
    assert sum(tuple(box) in larger for box in first[inside].tolist()) >= 0.5 * len(inside) > 0


def test_each_way_gets_a_row(script: ModuleType, tmp_path: Path):
    run = write_run(tmp_path / "run", CLASSES)
    words = [str(run), "--cells", "1", "2", "--count", "4", "--out", str(tmp_path / "record.json")]
    record = script.main(words)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    assert [(row["longer side"], row["way"]) for row in record["rows"]] == [(s, way) for s in (64, 128) for way in WAYS]
    assert record["command"].startswith("python benchmarks/small_objects.py runs/run --cells 1 2")
    small = record["rows"][:4]
    assert all(row["AP"] == small[0]["AP"] for row in small)  # an image that fits is one tile


def test_data_of_ones_own(script: ModuleType, tmp_path: Path):
    run = write_run(tmp_path / "run", ("cat", "dog", "hen"))
    source, _ = write_random_set(tmp_path / "data", 3)
    record = script.main([str(run), "--data", str(source), "--overlap", "0.25", "--out", str(tmp_path / "record.json")])
    assert [row["way"] for row in record["rows"]] == [WAYS[0], WAYS[1], WAYS[3]]
    assert record["rows"][0]["images"] == 3
    assert str(tmp_path) not in json.dumps({**record, "command": record["command"].split("--out")[0]})


def test_rows_of_tiles_are_what_eval_says(script: ModuleType, tmp_path: Path):
    """And what both were before: detections of all images, compared by the COCO tools."""
    run, side = write_run(tmp_path / "run", ("cat", "dog", "hen")), 64
    source, images = write_random_set(tmp_path / "data", 3)
    loaded = load_detector(run, device="cpu")
    dataset = CocoDataset(source, images)
    results = []
    for sample in map(dataset.load, range(3)):
        tiled = detect_in_tiles(loaded.model, sample.image, loaded.limits, input_size=side, tiles=Tiles(0.25))
        results += coco_results(inside_image(tiled, sample.image), sample.image_id, dataset.category_ids)
    content = json.loads(source.read_text())
    # boxes that it finds, so that there is an AP
    content["annotations"] = [
        {"id": i, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3], **row}
        for i, row in enumerate(sorted(results, key=lambda row: -row["score"])[::7][:9], 1)
    ]
    source.write_text(json.dumps(content))
    expected = coco_metrics(read_ground_truth(source), results, dataset.category_ids).metrics
    assert 0 < expected["AP"] < 1
    row = script.measure(loaded, Split(source, images), side, [0.25])[1]
    assert {key: row[key] for key in script.SHOWN} == {key: expected[key] for key in script.SHOWN}
    data = ["--data.val-json", str(source), "--data.val-images", str(images)]
    assert main(["eval", str(run), *data, "--tiles", "--out", str(tmp_path / "eval"), "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "eval/metrics-tiles.json").read_text())["metrics"] == expected


def test_the_record_says_what_the_book_says():
    """Resized, small objects are lost with the size of the image; in tiles they are found as in one scene."""
    rows = json.loads((RESULTS / "small_objects.json").read_text(encoding="utf-8"))["rows"]
    found = {(row["longer side"], row["way"]): row for row in rows}
    alone = found[160, "resized"]
    for side in (320, 640, 960):
        resized, tiles = found[side, "resized"], found[side, "tiles, overlap 0.5"]
        assert tiles["AP"] > 0.9 * alone["AP"]
        assert resized["AP"] < 0.6 * alone["AP"]
        assert resized["APs"] < 0.5 * tiles["APs"]
