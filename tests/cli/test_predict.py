import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.commands import CLASSES, MODEL, Output, fails
from helpers.tiny_sets import write_video

from minirtmdet import build_detector
from minirtmdet.cli import main
from minirtmdet.configs import DataConfig, TrainConfig
from minirtmdet.data.augment import pad
from minirtmdet.data.masks import decode_mask
from minirtmdet.detector import RTMDet
from minirtmdet.inference.images import ImageFile, find_images
from minirtmdet.weights.checkpoint import save_checkpoint


def test_predict_writes_images_and_json(run: Path, data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "out"
    assert main(["predict", str(run), str(data / "val"), "--out", str(out), "--threshold", "0.001"]) == 0
    content = json.loads((out / "predictions.json").read_text())
    assert content["classes"] == CLASSES
    assert len(content["images"]) == 3
    for image in content["images"]:
        original = cv2.imread(image["file"])
        drawn = cv2.imread(str(out / Path(image["file"]).name))
        assert drawn.shape == original.shape == (image["height"], image["width"], 3)
        assert image["detections"], "a threshold below the first scores"
        assert not np.array_equal(drawn, original)
        for row in image["detections"]:
            assert row["class"] == CLASSES[row["label"]]
            assert 0.001 < row["score"] < 1
            x1, y1, x2, y2 = row["box"]
            assert 0 <= x1 <= x2 <= image["width"]
            assert 0 <= y1 <= y2 <= image["height"]
    assert f"3 images, written to {out}" in capsys.readouterr().out


def test_predict_writes_the_masks_of_a_detector_that_finds_them(data: Path, tmp_path: Path):
    torch.manual_seed(0)
    model = replace(MODEL, masks=True)
    state = build_detector(model).state_dict()
    state["bbox_head.rtm_kernel.0.bias"][168] = 1.0  # masks of the whole image
    save_checkpoint(tmp_path / "best.pt", state, TrainConfig(model=model, data=DataConfig(input_size=64)), CLASSES)
    out = tmp_path / "out"
    args = ["predict", str(tmp_path / "best.pt"), str(data / "val"), "--out", str(out), "--threshold", "0.001"]
    assert main(args) == 0
    for image in json.loads((out / "predictions.json").read_text())["images"]:
        assert image["detections"]
        for row in image["detections"]:
            assert row["segmentation"]["size"] == [image["height"], image["width"]]
            assert decode_mask(row["segmentation"]).shape == (image["height"], image["width"])
        drawn, original = cv2.imread(str(out / Path(image["file"]).name)), cv2.imread(image["file"])
        assert (drawn != original).any(-1).mean() > 0.9


def test_bad_images_are_named_skipped_and_counted(run: Path, data: Path, tmp_path: Path, capsys: Output):
    for name in ("broken.png", "empty.jpg"):
        (tmp_path / name).write_bytes(b"nothing" if name == "broken.png" else b"")
    paths = [str(data / "val/001.png"), str(tmp_path / "broken.png"), str(tmp_path / "empty.jpg")]
    assert main(["predict", str(run), *paths, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "broken.png cannot be decoded" in printed.err
    assert "empty.jpg is empty" in printed.err
    assert "2 of 3 images could not be read" in printed.err
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 1


def test_predict_with_an_official_file(data: Path, tmp_path: Path, capsys: Output):
    weights = tmp_path / "rtmdet_tiny.pth"
    meta = {"dataset_meta": {"classes": ("ape", "bee")}}
    torch.save({"state_dict": build_detector("tiny", num_classes=2).state_dict(), "meta": meta}, weights)
    image = data / "val/001.png"
    assert "does not say which model it belongs to" in fails(capsys, "predict", weights, image)
    message = fails(capsys, "predict", weights, image, "--model", "s")
    assert "expected widen_factor 0.5 (as s), 2 classes, found widen_factor 0.375 (as tiny), 2 classes" in message
    args = ["predict", str(weights), str(image), "--model", "tiny", "--out", str(tmp_path), "--input-size", "64"]
    assert main(args) == 0
    assert json.loads((tmp_path / "predictions.json").read_text())["classes"] == ["ape", "bee"]
    assert main([*args, "--classes", "x", "y"]) == 0
    assert json.loads((tmp_path / "predictions.json").read_text())["classes"] == ["x", "y"]
    assert "has 2 classes, but 1 names: x" in fails(capsys, *args, "--classes", "x")


def test_a_drawn_image_is_not_taken_for_an_input(run: Path, data: Path, tmp_path: Path, capsys: Output):
    images = tmp_path / "images"
    shutil.copytree(data / "val", images)
    (images / "scan.2024").write_bytes(b"no ending")
    args = ["predict", str(run), str(images), "--out", str(images / "predictions"), "--device", "cpu"]
    for said in ("", f", {images}/predictions, which predict wrote"):
        assert main(args) == 0
        assert f"warning: {images}: left out: 1 .2024{said}\n" in capsys.readouterr().err
        assert len(json.loads((images / "predictions/predictions.json").read_text())["images"]) == 3


def same_folder(images: Path) -> list[Path]:
    return [images, images]


def a_file_beside_it(images: Path) -> list[Path]:
    return [images / "001.png", images]


def below(images: Path) -> list[Path]:
    (images / "sub").mkdir()
    (images / "sub/mine.png").write_bytes((images / "001.png").read_bytes())
    return [images, images / "sub"]


def through_a_link(images: Path) -> list[Path]:
    (images.parent / "link").symlink_to(images)
    return [images, images.parent / "link"]


@pytest.mark.parametrize("case", [same_folder, a_file_beside_it, below, through_a_link])
def test_predict_never_writes_over_its_images(
    run: Path, data: Path, tmp_path: Path, capsys: Output, case: Callable[[Path], list[Path]]
):
    images = tmp_path / "images"
    shutil.copytree(data / "val", images)
    source, out = case(images)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    message = fails(capsys, "predict", run, source, "--out", out, "--threshold", "0.001")
    assert f"{out} is read from" in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_addresses_are_told_what_to_do_and_other_files_counted(run: Path, tmp_path: Path, capsys: Output):
    for name in ("clip.MP4", "other.txt"):
        (tmp_path / name).write_bytes(b"moving")
    for address in ("https://example.org/a.jpg", "rtsp://camera/1"):
        assert "is an address: download what is there" in fails(capsys, "predict", run, address)
    assert "holds no image (.avif, .bmp" in (message := fails(capsys, "predict", run, tmp_path))
    assert message.endswith("; left out: 1 .mp4, 1 .txt\n")


def test_a_video_becomes_a_video_and_lines(run: Path, data: Path, tmp_path: Path, capsys: Output):
    clip, out = write_video(tmp_path / "clip.MP4", 5), tmp_path / "out"
    args = ["predict", run, clip, data / "val", "--threshold", "0.001", "--device", "cpu"]
    assert main([str(arg) for arg in [*args, "--out", out]]) == 0
    assert f"frames, written to {out / 'clip.mp4'} and {out / 'clip.jsonl'}" in capsys.readouterr().out
    assert len((out / "clip.jsonl").read_text().splitlines()) == 5
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 3
    (tmp_path / "bad.mp4").write_bytes(b"moving")
    assert "bad.mp4 holds no frame that OpenCV can decode" in fails(capsys, "predict", run, tmp_path / "bad.mp4")
    assert "no video" in fails(capsys, "predict", run, tmp_path / "nope.mp4")
    # never over what is read
    (out / "clip.mp4").write_bytes(clip.read_bytes())
    message = fails(capsys, "predict", run, out / "clip.mp4", "--out", out)
    assert "is read from" in message
    assert (out / "clip.mp4").read_bytes() == clip.read_bytes()


def test_tiles_look_at_large_images_piece_by_piece(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cv2.imwrite(str(tmp_path / "large.png"), np.full((150, 200, 3), 90, np.uint8))
    batches = []
    predict = RTMDet.predict
    monkeypatch.setattr(RTMDet, "predict", lambda self, x, *a: batches.append(len(x)) or predict(self, x, *a))
    args = ["predict", run, tmp_path / "large.png", "--out", tmp_path / "out", "--device", "cpu", "--tiles"]
    assert main([str(arg) for arg in [*args, "--overlap", "0.5", "--batch-size", "10"]]) == 0
    assert batches == [10, 10, 4, 1]  # 6 x 4 tiles of 64 pixels, and the whole image
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 1


def test_the_threshold_of_an_evaluation(run: Path, data: Path, tmp_path: Path, capsys: Output):
    image, folder = data / "val/001.png", tmp_path / "evaluation"
    args = ["predict", run, image, "--out", tmp_path / "out", "--device", "cpu", "--threshold"]
    assert "--threshold best needs --evaluation, the folder" in fails(capsys, *args, "best")
    assert f"no {folder}" in fails(capsys, *args, "best", "--evaluation", folder)
    assert "is not read without --threshold best" in fails(capsys, *args, "0.3", "--evaluation", folder)
    folder.mkdir()
    write = (folder / "metrics.json").write_text
    for content, words in (
        ("{}", "says nothing of thresholds"),
        ("nothing", "says nothing of thresholds"),
        (choices(0.1, ape=None), "is of the classes ape, the detector's are cat, dog, hen"),
        (choices(None, cat=None, dog=None, hen=None), "no detection was right"),
    ):
        write(content)
        assert words in fails(capsys, *args, "best", "--evaluation", folder)
    write(choices(0.0012, cat=1.0, dog=None, hen=0.0011))
    for word, expected in (("best", 0.0012), ("per-class", [1.0, 0.0012, 0.0011])):
        assert main([str(arg) for arg in [*args, word, "--evaluation", folder]]) == 0
        content = json.loads((tmp_path / "out/predictions.json").read_text())
        assert content["threshold"] == expected
        labels = {row["label"] for row in content["images"][0]["detections"]}
        assert labels <= ({0, 1, 2} if word == "best" else {1, 2})
    assert f"threshold of {folder / 'metrics.json'}: cat 1.000, dog 0.001, hen 0.001" in capsys.readouterr().out


def choices(best: float | None, **by_class: float | None) -> str:
    def one(threshold: float | None) -> dict | None:
        return None if threshold is None else {"threshold": threshold, "precision": 1, "recall": 1, "f1": 1}

    of_classes = {name: one(threshold) for name, threshold in by_class.items()}
    return json.dumps({"best_threshold": one(best), "best_threshold_per_class": of_classes})


def test_a_folder_is_followed_until_ctrl_c(run: Path, data: Path, tmp_path: Path, capsys: Output, monkeypatch):
    def looks(folders: list[Path], out: Path) -> Iterator[list[ImageFile]]:
        assert (folders, out) == ([data / "val"], tmp_path / "out")
        yield []
        yield find_images([data / "val/001.png"])
        assert len((out / "predictions.jsonl").read_text().splitlines()) == 1  # at once
        yield [ImageFile(tmp_path / "gone.png", Path("gone.png"))]
        yield find_images([data / "val/002.png"])
        raise KeyboardInterrupt

    monkeypatch.setattr("minirtmdet.cli.predict.follow_folders", looks)
    args = ["predict", run, data / "val", "--out", tmp_path / "out", "--device", "cpu", "--follow"]
    assert main([str(arg) for arg in args]) == 130
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["001.png", "002.png"]
    assert "skipped: " in capsys.readouterr().err


def test_every_kind_of_image_in_a_folder_is_read(run: Path, tmp_path: Path, capsys: Output):
    images = tmp_path / "images"
    images.mkdir()
    pixels = np.full((40, 60, 3), 90, np.uint8)
    kinds = {"a.jfif": ".jpg", "b.gif": ".gif", "c.webp": ".webp", "d.jp2": ".jp2", "e.PNG": ".png", "f.jpe": ".jpg"}
    kinds |= {"g.avif": ".avif"} if cv2.haveImageWriter("a.avif") else {}
    for name, kind in kinds.items():
        done, content = cv2.imencode(kind, pixels)
        assert done
        (images / name).write_bytes(content.tobytes())
    (images / "h.heic").write_bytes(b"of a telephone")
    assert main(["predict", str(run), str(images), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "left out: 1 .heic" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == len(kinds)
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert drawn == [f"{Path(name).stem}.png" for name in sorted(kinds, key=str.lower)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_in_predict_says_nothing_of_training(run: Path, data: Path, tmp_path: Path, capsys: Output):
    (tmp_path / f".001.{os.getpid()}.png").symlink_to("/dev/full")
    message = fails(capsys, "predict", run, data / "val", "--out", tmp_path)
    assert f"{tmp_path / '001.png'} could not be written: the disk is full" in message
    assert "resume" not in message


def test_a_size_means_its_published_weights(
    publish: Callable[[str, RTMDet], None], data: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
):
    publish("nano", build_detector("nano", num_classes=3))
    sides = []
    monkeypatch.setattr("minirtmdet.inference.detect.eval_sample", lambda s, side: sides.append(side) or pad(s, side))
    assert main(["predict", "nano", str(data / "val/001.png"), "--device", "cpu"]) == 0
    assert sides == [96]  # the size it was trained at
    assert json.loads((tmp_path / "predictions/predictions.json").read_text())["classes"] == CLASSES
    assert main(["eval", "nano", "--data.root", str(data), "--device", "cpu"]) == 0
    assert "3 images of" in capsys.readouterr().out
    # of another size
    assert "expected widen_factor 0.5 (as s)" in fails(capsys, "eval", "nano", "--data.root", data, "--model", "s")
