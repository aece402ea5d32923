import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.commands import CLASSES, Output, fails
from helpers.tiny_sets import box_entry, image_entry, write_set

from minirtmdet import build_detector, plots
from minirtmdet.cli import main
from minirtmdet.data.coco import CocoDataset
from minirtmdet.detector import RTMDet
from minirtmdet.evaluation.coco import METRICS
from minirtmdet.structures import Detections

ROWS = [{"step": 1, "loss_cls": 1.0, "loss_bbox": 1.0}]


def test_eval_writes_what_it_found(run: Path, data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "new" / "eval"
    args = ["eval", str(run), "--out", str(out), "--threshold", "0.005", "--worst", "2", "--device", "cpu"]
    assert main(args) == 0
    content = json.loads((out / "metrics.json").read_text())
    assert content["command"] == "minirtmdet " + " ".join(args)
    assert content["checkpoint"] == str(run / "best.pt")
    assert content["data"] == {"json": str(data / "val.json"), "images": str(data / "val"), "num_images": 3}
    assert tuple(content["metrics"]) == tuple(METRICS)
    assert set(content["per_class"]) == set(CLASSES)
    assert set(content["per_class"]["cat"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"}
    worst = content["worst_first"]
    assert {row["file"] for row in worst} == {"001.png", "002.png", "003.png"}
    mistakes = [row["missed"] + row["false"] for row in worst]
    assert mistakes == sorted(mistakes, reverse=True)
    results = json.loads((out / "detections.json").read_text())
    assert sum(row["score"] > 0.005 for row in results) >= sum(row["false"] for row in worst) > 0
    assert content["threshold"] == 0.005
    assert set(content["best_threshold_per_class"]) == set(CLASSES)
    counts = np.array(content["confusion"]["counts"])
    assert counts.shape == (4, 4)
    assert counts[:3, 3].sum() + counts[:3, :3].sum() - np.trace(counts) == sum(row["missed"] for row in worst)
    assert sum(content["mistakes"].values()) == sum(row["missed"] + row["false"] for row in worst)
    assert sum(content["calibration"]["counts"]) <= len(results)
    for name in (
        *("precision_recall.png", "worst.png", "thresholds.png", "confusion.png", "mistakes.png", "calibration.png"),
    ):
        assert cv2.imread(str(out / name)).shape[1] == 1400
    assert f"written to {out}" in capsys.readouterr().out


def test_eval_finds_the_worst_images(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A detector that is right everywhere but in one image."""
    truth = CocoDataset(data / "val.json", data / "val")
    samples = iter([truth.load(i) for i in range(3)])

    def predict(self: RTMDet, images: torch.Tensor, *_: object) -> list[Detections]:
        found = []
        for sample in (next(samples) for _ in images):
            boxes = torch.from_numpy(sample.boxes[~sample.ignore])
            wrong = sample.image_id == 2
            boxes = boxes + torch.tensor([0, 0, 500.0, 500.0]) * wrong
            labels = torch.from_numpy(sample.labels[~sample.ignore])
            found.append(Detections(boxes, torch.full((len(boxes),), 0.9), labels))
        return found

    monkeypatch.setattr(RTMDet, "predict", predict)
    assert len(truth.load(1).boxes[~truth.load(1).ignore]) > 0
    shown = []
    monkeypatch.setattr("minirtmdet.plots.worst_images", lambda *args: shown.append(args) or plots.loss_curve(ROWS))
    assert main(["eval", str(run), "--out", str(tmp_path), "--worst", "1", "--device", "cpu"]) == 0
    worst = json.loads((tmp_path / "metrics.json").read_text())["worst_first"]
    count = int((~truth.load(1).ignore).sum())
    assert worst[0] == {"file": "002.png", "f1": 0.0, "missed": count, "false": count}
    assert [row["f1"] for row in worst[1:]] == [1.0, 1.0]
    [(images, matches, classes, names)] = shown
    assert names == ["002.png"]
    np.testing.assert_array_equal(images[0], truth.load(1).image)
    assert (matches[0].missed, list(classes)) == (count, CLASSES)


def test_eval_on_other_data(run: Path, tmp_path: Path, capsys: Output):
    categories = [{"id": i, "name": name} for i, name in enumerate(["hen", "owl", "dog", "cat"])]
    box = box_entry(1, 1, [1.0, 1.0, 20.0, 20.0], 3)
    json_file, folder = write_set(tmp_path / "other", [image_entry(1)], [box], categories, name="val")
    args = ["eval", str(run), "--data.val-json", str(json_file), "--data.val-images", str(folder), "--device", "cpu"]
    assert main(args) == 0
    assert f"1 image of {json_file}" in capsys.readouterr().out
    # a folder that holds nothing to train on
    assert main(["eval", str(run), "--data.root", str(tmp_path / "other"), "--device", "cpu"]) == 0
    assert f"1 image of {json_file}" in capsys.readouterr().out
    json_file, folder = write_set(tmp_path / "owls", [image_entry(1)], [], [{"id": 1, "name": "owl"}], name="val")
    message = fails(capsys, "eval", run, "--data.val-json", json_file, "--data.val-images", folder)
    assert "has no category 'cat', 'dog', 'hen'; it has 'owl'" in message


def test_eval_says_how_to_leave_out_a_broken_image_and_does_so(run: Path, tmp_path: Path, capsys: Output):
    categories = [{"id": i, "name": name} for i, name in enumerate(["hen", "dog", "cat"])]
    boxes = [box_entry(i, i, [1.0, 1.0, 20.0, 20.0], 1) for i in (1, 2)]
    json_file, folder = write_set(tmp_path, [image_entry(1), image_entry(2)], boxes, categories, name="val")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:-20])
    message = fails(capsys, "eval", run, "--data.root", tmp_path)
    assert "1 of 2 images cannot be used" in message
    assert "002.png cannot be decoded" in message
    assert "--data.bad-images skip" in message
    assert main(["eval", str(run), "--data.root", str(tmp_path), "--data.bad-images", "skip", "--device", "cpu"]) == 0
    assert f"1 image of {json_file}" in capsys.readouterr().out


def test_eval_of_weights_that_name_no_classes(data: Path, tmp_path: Path, capsys: Output):
    for num_classes in (3, 5):
        torch.save(build_detector("nano", num_classes=num_classes).state_dict(), tmp_path / f"{num_classes}.pth")
    args = ["--model", "nano", "--data.input-size", "64", "--device", "cpu"]
    assert "give --data.root" in fails(capsys, "eval", tmp_path / "3.pth", *args)
    assert main(["eval", str(tmp_path / "3.pth"), "--data.root", str(data), *args]) == 0
    message = fails(capsys, "eval", tmp_path / "5.pth", "--data.root", data, *args)
    assert "predicts 5 classes and does not name them" in message


def test_eval_can_leave_out_a_broken_image(run: Path, data: Path, tmp_path: Path, capsys: Output):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/val/002.png").write_bytes((data / "val/002.png").read_bytes()[:100])
    args = ["eval", run, "--data.root", tmp_path / "data", "--device", "cpu"]
    assert "002.png" in fails(capsys, *args)
    assert main([*map(str, args), "--data.bad-images", "skip"]) == 0
    printed = capsys.readouterr()
    assert "2 images of" in printed.out
    assert "1 of 3 images left out" in printed.err


def test_warnings_are_one_line(run: Path, tmp_path: Path, capsys: Output):
    flat = [box_entry(1, 1, [5.0, 5.0, 0.0, 10.0]), box_entry(2, 1, [5.0, 5.0, 9.0, 10.0])]
    for name in ("train", "val"):
        write_set(tmp_path, [image_entry(1)], flat, name=name)
    assert main(["eval", str(run), "--data.root", str(tmp_path), "--device", "cpu"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert line.startswith("minirtmdet: warning: ")
    assert "1 of 2 boxes left out" in line


def test_eval_in_tiles_is_what_predict_finds_in_tiles(run: Path, data: Path, tmp_path: Path, capsys: Output):
    """Beside what an evaluation without tiles has written, which stays as it was."""
    args = ["--device", "cpu"]
    out, tiles = tmp_path / "eval", ["--tiles", "--overlap", "0.5"]
    assert main(["eval", str(run), "--out", str(out), *args]) == 0
    plain = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["eval", str(run), "--out", str(out), *tiles, *args]) == 0
    printed = capsys.readouterr().out
    assert f"3 images of {data / 'val.json'}, in tiles of 64 px that overlap by 0.5\n" in printed
    written = {path.name for path in out.iterdir()} - plain.keys()
    assert written == {name.replace(".", "-tiles.") for name in plain}
    assert {name: (out / name).read_bytes() for name in plain} == plain
    assert all(name in printed for name in written)
    content = json.loads((out / "metrics-tiles.json").read_text())
    assert content["tiles"] == {"overlap": 0.5, "whole": True}
    assert json.loads(plain["metrics.json"])["tiles"] is None
    # all that the limits of the run let through, by predict
    least = ["--threshold", "0.001", "--out", str(tmp_path / "found")]
    assert main(["predict", str(run), str(data / "val"), *least, *tiles, *args]) == 0
    found = json.loads((tmp_path / "found/predictions.json").read_text())["images"]
    results = json.loads((out / "detections-tiles.json").read_text())
    ids = {entry["file_name"]: entry["id"] for entry in json.loads((data / "val.json").read_text())["images"]}
    expected = [
        {"image_id": ids[Path(image["file"]).name], "category_id": row["label"] + 1, "score": row["score"]}
        | {"bbox": [*row["box"][:2], row["box"][2] - row["box"][0], row["box"][3] - row["box"][1]]}
        for image in found
        for row in image["detections"]
    ]
    assert results == expected
    assert len(results) > 3
    assert len(results) != len(json.loads(plain["detections.json"]))
    # and the threshold of tiles is that of predict in tiles
    for name, best in (("metrics.json", 0.2), ("metrics-tiles.json", 0.4)):
        choice = {"threshold": best, "precision": 1, "recall": 1, "f1": 1}
        chosen = {"best_threshold": choice, "best_threshold_per_class": dict.fromkeys(CLASSES, choice)}
        (out / name).write_text(json.dumps(chosen))
    words = ["predict", str(run), str(data / "val"), *args, "--threshold", "best", "--evaluation", str(out)]
    for more, said in (
        ([], f"threshold of {out / 'metrics.json'}: 0.200"),
        (["--tiles"], f"threshold of {out / 'metrics-tiles.json'}: 0.400"),
        (["--tiles", "--evaluation", str(out / "metrics.json")], "metrics.json, measured without tiles: 0.200"),
    ):
        assert main([*words, "--out", str(tmp_path / "found"), *more]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize("command", ["eval", "predict"])
def test_an_overlap_without_tiles_is_refused(command: str, run: Path, data: Path, capsys: Output):
    words = [command, run, *([data / "val"] if command == "predict" else []), "--overlap", "0.5"]
    assert "--overlap 0.5 is that of tiles: add --tiles, or leave it out" in fails(capsys, *words)


def test_eval_says_where_coco_counts_too_few(run: Path, tmp_path: Path, capsys: Output):
    """Of 101 boxes of a class in one image it looks at 100 detections."""
    boxes = [box_entry(i, 1 + i // 101, [i % 10, i // 10, 20.0, 15.0], 2) for i in range(200)]
    categories = [{"id": i, "name": name} for i, name in enumerate(["hen", "dog", "cat"])]
    write_set(tmp_path, [image_entry(1), image_entry(2)], boxes, categories, name="val")
    assert main(["eval", str(run), "--data.root", str(tmp_path), "--device", "cpu"]) == 0
    assert "! 1 image has more than 100 boxes of a class" in capsys.readouterr().out
