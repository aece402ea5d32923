import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_sets import box_entry, image_entry, write_random_set, write_set

from minirtmdet import build_detector, plots
from minirtmdet.cli import main
from minirtmdet.configs import DataConfig, ModelConfig, PredictConfig, TrainConfig
from minirtmdet.data.augment import pad
from minirtmdet.data.coco import CocoDataset
from minirtmdet.detector import RTMDet
from minirtmdet.evaluation.coco import METRICS
from minirtmdet.inference.images import draw_detections, find_pictures
from minirtmdet.presets import PRESETS
from minirtmdet.structures import Detections
from minirtmdet.weights import published
from minirtmdet.weights.checkpoint import save_checkpoint
from minirtmdet.weights.published import OfficialWeights

MODEL = ModelConfig(0.1, 0.125, 1, num_classes=3)
CLASSES = ["cat", "dog", "hen"]
SMALL = ["--model.deepen-factor", "0.1", "--model.widen-factor", "0.125", "--data.input-size", "64"]
SMALL += ["--batch-size", "2", "--device", "cpu"]

ROWS = [{"step": 1, "loss_cls": 1.0, "loss_bbox": 1.0}]
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_random_set(root, 4)
    write_random_set(root, 3, name="val", seed=1)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run as far as the commands look at it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = TrainConfig(model=MODEL, data=DataConfig(root=data, input_size=64))
    metrics = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25}
    save_checkpoint(folder / "best.pt", build_detector(MODEL).state_dict(), config, CLASSES, metrics=metrics)
    return folder


def fails(capsys: Output, *args: str | Path) -> str:
    """The message of a command that must end with exit code 2 and one message."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minirtmdet: error: ")
    assert "Traceback" not in error
    return error


def test_train_then_eval_then_resume(data: Path, tmp_path: Path, capsys: Output):
    args = ["train", "mini-160", "--name", "a", "--out", str(tmp_path), "--data.root", str(data), *SMALL]
    args += ["--epochs", "1", "--optim.lr", "0.001"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "classes: 3 of the data in place of 16" in printed
    assert "epoch 1/1: loss_cls" in printed
    assert "AP50" in printed
    stored = json.loads((tmp_path / "a/config.json").read_text())
    assert stored["config"]["optim"]["lr"] == 0.001
    assert "--resume continues it" in fails(capsys, *args)
    assert main([*args, "--resume"]) == 0
    assert main(["eval", str(tmp_path / "a"), "--out", str(tmp_path / "eval"), "--device", "cpu"]) == 0
    expected = json.loads((tmp_path / "a/metrics.json").read_text())["best"]
    found = json.loads((tmp_path / "eval/metrics.json").read_text())["metrics"]
    assert found == pytest.approx({key: expected[key] for key in found}, abs=1e-9)
    printed = capsys.readouterr().out
    assert f"AP    {expected['AP']:6.3f}  mean over IoU .50 to .95" in printed
    results = json.loads((tmp_path / "eval/detections.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in results)


def test_train_alone_lists_the_presets(capsys: Output):
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    listed = capsys.readouterr().err
    assert all(name in listed for name in PRESETS)


def test_a_setting_that_is_not_there(capsys: Output):
    with pytest.raises(SystemExit) as stop:
        main(["train", "mini-160", "--optim.lrr", "3"])
    assert stop.value.code == 2
    assert "--optim.lr " in capsys.readouterr().err  # what was perhaps meant


def test_a_ctrl_c_ends_with_130(data: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minirtmdet.engine.trainer.Trainer._train_step", interrupted)
    args = ["train", "mini-160", "--out", str(tmp_path), "--data.root", str(data), *SMALL]
    assert main(args) == 130
    assert "stopped after step 0" in capsys.readouterr().out
    assert (tmp_path / "mini-160/last.pt").exists()


def test_scenes_prints_the_folder(tmp_path: Path, capsys: Output):
    root = tmp_path / "scenes"
    for _ in range(2):
        assert main(["scenes", "--train", "2", "--val", "1", "--size", "64", "--root", str(root)]) == 0
        assert capsys.readouterr().out == f"{root}\n"
    assert (root / "train.json").exists()


def test_info(run: Path, tmp_path: Path, capsys: Output):
    assert main(["info", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "best.pt: widen_factor 0.125, 3 classes" in printed
    assert "classes: cat, dog, hen" in printed
    assert "AP 0.500  AP50 0.750  AP75 0.250" in printed
    assert main(["info", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("4,896,168 parameters (backbone 2,348,700, neck 2,188,944")
    assert main(["info", "mini-160"]) == 0
    assert "160 px" in capsys.readouterr().out
    torch.save({"state_dict": build_detector("s").state_dict()}, tmp_path / "s.pth")
    assert main(["info", str(tmp_path / "s.pth")]) == 0
    assert "widen_factor 0.5 (as s), 80 classes" in capsys.readouterr().out
    presets = ", ".join(PRESETS)
    assert f"presets are {presets}, sizes nano, tiny, s, m, l, x" in fails(capsys, "info", "xxl")


# --------------------------------------------------------------------------------------------- predict


def test_predict_writes_pictures_and_json(run: Path, data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "out"
    assert main(["predict", str(run), str(data / "val"), "--out", str(out), "--threshold", "0.001"]) == 0
    content = json.loads((out / "predictions.json").read_text())
    assert content["classes"] == CLASSES
    assert len(content["pictures"]) == 3
    for picture in content["pictures"]:
        original = cv2.imread(picture["file"])
        drawn = cv2.imread(str(out / Path(picture["file"]).name))
        assert drawn.shape == original.shape == (picture["height"], picture["width"], 3)
        assert picture["detections"], "a threshold below the first scores"
        assert not np.array_equal(drawn, original)
        for row in picture["detections"]:
            assert row["class"] == CLASSES[row["label"]]
            assert 0.001 < row["score"] < 1
            x1, y1, x2, y2 = row["box"]
            assert 0 <= x1 <= x2 <= picture["width"]
            assert 0 <= y1 <= y2 <= picture["height"]
    assert f"3 pictures, written to {out}" in capsys.readouterr().out


def test_bad_pictures_are_named_skipped_and_counted(run: Path, data: Path, tmp_path: Path, capsys: Output):
    for name in ("broken.png", "empty.jpg"):
        (tmp_path / name).write_bytes(b"nothing" if name == "broken.png" else b"")
    paths = [str(data / "val/001.png"), str(tmp_path / "broken.png"), str(tmp_path / "empty.jpg")]
    assert main(["predict", str(run), *paths, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "broken.png cannot be decoded" in printed.err
    assert "empty.jpg is empty" in printed.err
    assert "2 of 3 pictures could not be read" in printed.err
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["pictures"]) == 1


def test_predict_with_an_official_file(data: Path, tmp_path: Path, capsys: Output):
    weights = tmp_path / "rtmdet_tiny.pth"
    meta = {"dataset_meta": {"classes": ("ape", "bee")}}
    torch.save({"state_dict": build_detector("tiny", num_classes=2).state_dict(), "meta": meta}, weights)
    picture = data / "val/001.png"
    assert "does not say which model it belongs to" in fails(capsys, "predict", weights, picture)
    message = fails(capsys, "predict", weights, picture, "--model", "s")
    assert "expected widen_factor 0.5 (as s), 2 classes, found widen_factor 0.375 (as tiny), 2 classes" in message
    args = ["predict", str(weights), str(picture), "--model", "tiny", "--out", str(tmp_path), "--input-size", "64"]
    assert main(args) == 0
    assert json.loads((tmp_path / "predictions.json").read_text())["classes"] == ["ape", "bee"]
    assert main([*args, "--classes", "x", "y"]) == 0
    assert json.loads((tmp_path / "predictions.json").read_text())["classes"] == ["x", "y"]
    assert "has 2 classes, but 1 names: x" in fails(capsys, *args, "--classes", "x")


def test_what_is_missing_is_named(run: Path, tmp_path: Path, capsys: Output):
    assert "no picture or folder" in fails(capsys, "predict", run, tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in fails(capsys, "predict", run, tmp_path / "empty")
    assert "name files or folders" in fails(capsys, "predict", run)
    assert "no checkpoint nope.pt" in fails(capsys, "eval", "nope.pt")
    assert "neither best.pt nor last.pt" in fails(capsys, "info", tmp_path / "empty")
    assert "no such folder" in fails(capsys, "train", "mini-160", "--out", tmp_path, "--data.root", tmp_path / "nope")


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    for name in ("a/x.png", "b/x.png", "b/deep/x.jpg", "b/notes.txt", "c/x.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_pictures([tmp_path / "a/x.png", tmp_path / "b", tmp_path / "c"])
    assert [str(picture.name) for picture in found] == ["x.png", "deep/x.jpg", "x-2.png", "x-3.png"]


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((60, 80, 3), np.uint8)
    found = Detections(torch.tensor([[20.0, 30.0, 60.0, 50.0]]), torch.tensor([0.9]), torch.tensor([1]))
    drawn = draw_detections(image, found, ["a", "é"])
    border = drawn[50, 40]
    assert border.any()
    assert (drawn[50, 20:61] == border).all()  # the lower side
    assert not drawn[40, 40].any()  # the inside
    assert not drawn[55:].any()
    assert not image.any()  # the picture itself stays


def test_a_drawn_picture_is_not_taken_for_an_input(run: Path, data: Path, tmp_path: Path, capsys: Output):
    pictures = tmp_path / "pictures"
    shutil.copytree(data / "val", pictures)
    (pictures / "scan.2024").write_bytes(b"no ending")
    args = ["predict", str(run), str(pictures), "--out", str(pictures / "predictions"), "--device", "cpu"]
    for said in ("", f", {pictures}/predictions, which predict wrote"):
        assert main(args) == 0
        assert f"warning: {pictures}: left out: 1 .2024{said}\n" in capsys.readouterr().err
        assert len(json.loads((pictures / "predictions/predictions.json").read_text())["pictures"]) == 3


def same_folder(pictures: Path) -> list[Path]:
    return [pictures, pictures]


def a_file_beside_it(pictures: Path) -> list[Path]:
    return [pictures / "001.png", pictures]


def below(pictures: Path) -> list[Path]:
    (pictures / "sub").mkdir()
    (pictures / "sub/mine.png").write_bytes((pictures / "001.png").read_bytes())
    return [pictures, pictures / "sub"]


def through_a_link(pictures: Path) -> list[Path]:
    (pictures.parent / "link").symlink_to(pictures)
    return [pictures, pictures.parent / "link"]


@pytest.mark.parametrize("case", [same_folder, a_file_beside_it, below, through_a_link])
def test_predict_never_writes_over_its_pictures(
    run: Path, data: Path, tmp_path: Path, capsys: Output, case: Callable[[Path], list[Path]]
):
    pictures = tmp_path / "pictures"
    shutil.copytree(data / "val", pictures)
    source, out = case(pictures)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    message = fails(capsys, "predict", run, source, "--out", out, "--threshold", "0.001")
    assert f"{out} is read from" in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_outputs_stay_out_of_what_is_read(run: Path, data: Path, tmp_path: Path, capsys: Output):
    (run / "config.json").write_text("{}")
    root = tmp_path / "data"
    shutil.copytree(data, root)
    weights = run / "best.pt"
    before = {path: path.read_bytes() for folder in (root, run) for path in folder.rglob("*") if path.is_file()}
    train = ["train", "mini-160", "--data.root", root, *SMALL]
    link = tmp_path / "link.onnx"
    link.symlink_to(weights)
    for args in (
        ["eval", run, "--data.root", root, "--out", run],
        ["eval", run, "--data.root", root, "--out", root],
        ["eval", run, "--data.root", root, "--out", root / "val"],
        ["predict", run, root / "val", "--out", run],
        [*train, "--out", root.parent, "--name", root.name],
        [*train, "--out", root, "--name", "train"],
        [*train, "--out", run.parent, "--name", run.name, "--overwrite", "--weights", weights],
        ["export", run, "--out", link],
    ):
        assert "is read from" in fails(capsys, *args), args
    after = {path: path.read_bytes() for folder in (root, run) for path in folder.rglob("*") if path.is_file()}
    (run / "config.json").unlink()
    assert after == before


@pytest.mark.parametrize("out", ["a file", "a file/deep"])
def test_an_output_that_cannot_be_written_is_found_at_the_start(
    run: Path, data: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, out: str
):
    monkeypatch.setattr("minirtmdet.cli.evaluate.run_evaluation", None)
    monkeypatch.setattr("minirtmdet.cli.predict.predict_pictures", None)
    monkeypatch.setattr("minirtmdet.cli.export.export_onnx", None)
    monkeypatch.setattr("minirtmdet.cli.train.Trainer", None)
    (tmp_path / "a file").write_text("mine")
    for args in (
        ["eval", run, "--out", tmp_path / out],
        ["predict", run, data / "val", "--out", tmp_path / out],
        ["export", run, "--out", tmp_path / out / "a.onnx"],
        ["train", "mini-160", "--data.root", data, "--out", tmp_path / out],
    ):
        message = fails(capsys, *args)
        assert "nothing can be written into" in message
        assert "a file is no folder; choose another folder" in message
    assert (tmp_path / "a file").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "typed", "problem"),
    [
        ("predict", "--input-size -5", "is -5: expected a multiple of 32, at least 32"),
        ("predict", "--input-size 100", "is 100: expected a multiple of 32"),
        ("predict", "--batch-size 0", "is 0: expected at least 1"),
        ("predict", "--threshold nan", "is nan: expected a number from 0 to 1"),
        ("predict", "--threshold 30", "is 30.0: expected a number from 0 to 1"),
        ("eval", "--threshold -0.1", "is -0.1: expected a number from 0 to 1"),
        ("eval", "--worst 0", "is 0: expected at least 1"),
        ("eval", "--batch-size -1", "is -1: expected at least 1"),
        ("eval", "--data.input-size 0", "is 0: expected a multiple of 32"),
        ("eval", "--data.workers -1", "is -1: expected at least 0"),
        ("export", "--input-size 31", "is 31: expected a multiple of 32"),
        ("export", "--score-threshold nan", "is nan: expected a number from 0 to 1"),
        ("export", "--nms-pre 0", "is 0: expected at least 1"),
        ("export", "--nms-iou-threshold 1.5", "is 1.5: expected a number from 0 to 1"),
        ("export", "--max-per-image 0", "is 0: expected at least 1"),
        ("scenes", "--size 63", "is 63: expected at least 64"),
        ("scenes", "--seed -1", "is -1: expected at least 0"),
        ("train", "--data.input-size 100", "is 100: expected a multiple of 32"),
        ("train", "--epochs 0", "is 0: expected at least 1"),
        ("train", "--batch-size 0", "is 0: expected at least 1"),
        ("train", "--save-minutes -1", "is -1.0: expected at least 0"),
        ("train", "--save-minutes nan", "is nan: expected at least 0"),
        ("train", "--optim.lr 0", "is 0.0: expected a number above 0"),
        ("train", "--optim.lr inf", "is inf: expected a number above 0"),
        ("train", "--optim.accumulate 0", "is 0: expected at least 1"),
        ("train", "--optim.flat-fraction 1.1", "is 1.1: expected a number from 0 to 1"),
        ("train", "--model.widen-factor 0", "is 0.0: expected a number above 0"),
        ("train", "--assigner.topk 0", "is 0: expected at least 1"),
        ("train", "--loss.beta nan", "is nan: expected at least 0"),
        ("train", "--augment.mosaic 2", "is 2.0: expected a number from 0 to 1"),
        ("train", "--augment.scale 0.5 nan", "is nan: expected a number above 0"),
        ("train", "--augment.hsv 5 -1 30", "is -1: expected at least 0"),
        ("train", "--predict.max-per-image -3", "is -3: expected at least 1"),
        ("train", "--data.scenes.train 0", "is 0: expected at least 1"),
    ],
)
def test_numbers_are_checked_where_they_are_read(
    tmp_path: Path, capsys: Output, command: str, typed: str, problem: str
):
    """Before anything else: neither checkpoint nor pictures are there."""
    words = {"train": ["mini-160", "--out", tmp_path / "out"], "scenes": [], "export": ["no.pt", "--out", "a.onnx"]}
    before = words.get(command, ["no.pt", *(["no.png"] if command == "predict" else [])])
    message = fails(capsys, command, *before, *typed.split())
    assert message.startswith(f"minirtmdet: error: {typed.split()[0]} {problem}")
    assert not list(tmp_path.iterdir())


def test_videos_and_addresses_are_told_what_to_do(run: Path, tmp_path: Path, capsys: Output):
    for name in ("clip.MP4", "other.txt"):
        (tmp_path / name).write_bytes(b"moving")
    assert "is a video: take pictures out of it first (ffmpeg -i clip.MP4" in fails(
        capsys, "predict", run, tmp_path / "clip.MP4"
    )
    for address in ("https://example.org/a.jpg", "rtsp://camera/1"):
        assert "is an address: download what is there" in fails(capsys, "predict", run, address)
    assert "holds no picture (.avif, .bmp" in (message := fails(capsys, "predict", run, tmp_path))
    assert message.endswith("; left out: 1 .mp4, 1 .txt\n")


def test_every_kind_of_picture_in_a_folder_is_read(run: Path, tmp_path: Path, capsys: Output):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    pixels = np.full((40, 60, 3), 90, np.uint8)
    kinds = {"a.jfif": ".jpg", "b.gif": ".gif", "c.webp": ".webp", "d.jp2": ".jp2", "e.PNG": ".png", "f.jpe": ".jpg"}
    kinds |= {"g.avif": ".avif"} if cv2.haveImageWriter("a.avif") else {}
    for name, kind in kinds.items():
        done, content = cv2.imencode(kind, pixels)
        assert done
        (pictures / name).write_bytes(content.tobytes())
    (pictures / "h.heic").write_bytes(b"of a telephone")
    assert main(["predict", str(run), str(pictures), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "left out: 1 .heic" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["pictures"]) == len(kinds)
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert drawn == [f"{Path(name).stem}.png" for name in sorted(kinds, key=str.lower)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.png", "b/x.png"], ["x.png", "x-2.png"]),
        (["a/x.png", "b/X.PNG"], ["x.png", "X-2.png"]),
        (["x.bmp", "x.tiff", "x.jpg"], ["x.png", "x-2.png", "x.jpg"]),
        (["scan.2024", "BloodImage_00000"], ["scan.2024.png", "BloodImage_00000.png"]),
        (["x-2.png", "a/x.png", "b/x.png"], ["x-2.png", "x.png", "x-3.png"]),
    ],
)
def test_outputs_have_names_of_their_own(tmp_path: Path, names: list[str], expected: list[str]):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(one.name) for one in find_pictures([tmp_path / name for name in names])] == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_full_disk_in_predict_says_nothing_of_training(run: Path, data: Path, tmp_path: Path, capsys: Output):
    (tmp_path / f".001.{os.getpid()}.png").symlink_to("/dev/full")
    message = fails(capsys, "predict", run, data / "val", "--out", tmp_path)
    assert f"{tmp_path / '001.png'} could not be written: the disk is full" in message
    assert "resume" not in message


# ---------------------------------------------------------------------------------------------- export


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw.onnx and nms.onnx of the run."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", str(run), "--out", str(folder / "raw.onnx")]) == 0
    limits = ["--nms", "--score-threshold", "0.002", "--max-per-image", "290"]
    assert main(["export", str(run), "--out", str(folder / "nms.onnx"), *limits]) == 0
    return folder


@pytest.mark.parametrize("kind", ["raw", "nms"])
def test_an_exported_file_predicts_and_evaluates_as_its_run(
    exported: Path, run: Path, data: Path, tmp_path: Path, capsys: Output, kind: str
):
    file = exported / f"{kind}.onnx"
    found = {}
    for source in (run, file):
        args = ["--out", str(tmp_path / source.name), "--threshold", "0.009", "--device", "cpu"]
        assert main(["predict", str(source), str(data / "val"), *args]) == 0
        found[source] = json.loads((tmp_path / source.name / "predictions.json").read_text())
    ours, theirs = found[file], found[run]
    assert ours["classes"] == theirs["classes"] == CLASSES
    for picture, expected in zip(ours["pictures"], theirs["pictures"], strict=True):
        assert {k: v for k, v in picture.items() if k != "detections"} == {
            k: v for k, v in expected.items() if k != "detections"
        }
        assert expected["detections"]
        scores = [row["score"] for row in expected["detections"]]
        assert [row["score"] for row in picture["detections"]] == pytest.approx(scores, abs=1e-4)
        assert all(row["class"] == CLASSES[row["label"]] for row in picture["detections"])
    capsys.readouterr()
    assert main(["eval", str(file), "--data.root", str(data), "--out", str(tmp_path / "eval"), "--device", "cpu"]) == 0
    assert "3 pictures of" in capsys.readouterr().out
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["input_size"] == 64
    assert "give --data.root" in fails(capsys, "eval", file)
    assert "made for 64 pixels, not for 96" in fails(capsys, "predict", file, data / "val", "--input-size", "96")
    assert "leave --model out" in fails(capsys, "predict", file, data / "val", "--model", "tiny")
    assert "has 3 classes, but 1 names" in fails(capsys, "predict", file, data / "val", "--classes", "x")
    assert "export from its checkpoint" in fails(capsys, "export", file, "--out", tmp_path / "again.onnx")
    assert main(["info", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "classes: cat, dog, hen" in printed
    assert "input images: uint8 BGR pixels [batch, 3, 64, 64]" in printed
    assert ("at most 290 detections that score more than 0.002" in printed) == (kind == "nms")


@pytest.mark.parametrize("clip", ["content", "input"])
def test_torch_raw_and_nms_agree_in_ap(tmp_path: Path, clip: str):
    """On wide pictures, of which a third of the input is padding, and a detector whose boxes reach into it."""
    pictures = [image_entry(i, 96, 64) for i in range(1, 5)]
    boxes = [box_entry(i, i, [0.0, 40.0 - i, 96.0, 24.0 + i]) for i in range(1, 5)]
    root = tmp_path / "wide"
    write_set(root, pictures, boxes, [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)], name="val")
    torch.manual_seed(0)
    model = build_detector(MODEL)
    for level, conv in enumerate(model.bbox_head.rtm_reg):
        torch.nn.init.zeros_(conv.weight)
        conv.bias.data = torch.tensor([12.0, 1.5, 12.0, 12.0]).div(2**level).log()  # as wide as the input, to its end
    for conv in model.bbox_head.rtm_cls:
        torch.nn.init.normal_(conv.weight, std=2.0)
    config = TrainConfig(model=MODEL, predict=PredictConfig(clip=clip), data=DataConfig(input_size=96))
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), config, CLASSES)
    sources = [tmp_path / "best.pt", tmp_path / "raw.onnx", tmp_path / "nms.onnx"]
    numbers = []
    for source in sources:
        if source.suffix == ".onnx":
            nms = ["--nms"] * (source.stem == "nms")
            assert main(["export", str(tmp_path / "best.pt"), "--out", str(source), *nms]) == 0
        out = tmp_path / f"out-{source.stem}"
        args = ["eval", str(source), "--data.root", str(root), "--out", str(out), "--device", "cpu"]
        assert main(args) == 0
        numbers.append(json.loads((out / "metrics.json").read_text())["metrics"])
        ends = [row["bbox"][1] + row["bbox"][3] for row in json.loads((out / "detections.json").read_text())]
        assert max(ends) <= 64 if clip == "content" else max(ends) > 64
    assert numbers[0]["AP"] > 0.05 or clip == "input"
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], abs=1e-6)


@pytest.mark.parametrize(
    "command", [["predict", "run", "pictures", "--out", "out"], ["export", "run", "--out", "out/run.onnx"]]
)
def test_predict_and_export_refuse_several_processes(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
):
    monkeypatch.chdir(tmp_path)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert main(command) == 2
    expected = f"{command[0]} works in one process, and this is number 1 of 2: start it without torchrun"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_says_what_it_compared(run: Path, data: Path, tmp_path: Path, capsys: Output):
    assert main(["export", str(run), "--out", str(tmp_path / "a.onnx"), "--input-size", "96"]) == 0
    printed = capsys.readouterr().out
    assert f"written: {tmp_path / 'a.onnx'}, ONNX of {run.name}, 3 classes, 96 px, all priors" in printed
    compared = re.search(r"compared with torch on a scene: 300 detections, their scores at most (\S+) apart", printed)
    assert float(compared[1]) < 1e-4
    assert "ends with .onnx" in fails(capsys, "export", run, "--out", tmp_path / "a.pt")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    assert "b.onnx is no ONNX file" in fails(capsys, "predict", tmp_path / "b.onnx", data / "val")


# ---------------------------------------------------------------------------------- published weights


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, RTMDet], None]:
    """Lets a file on this disk stand for the published weights of a size; the cache is a folder of the test."""
    monkeypatch.setattr(published, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.chdir(tmp_path)

    def put(size: str, model: RTMDet) -> None:
        path = tmp_path / f"rtmdet_{size}.pth"
        torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"CLASSES": CLASSES}}}, path)
        content = OfficialWeights(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()[:8], input_size=96)
        monkeypatch.setitem(published.OFFICIAL, size, content)

    return put


def test_weights_are_downloaded_after_saying_so(publish: Callable[[str, RTMDet], None], tmp_path: Path, capsys: Output):
    publish("nano", build_detector("nano", num_classes=3))
    file = tmp_path / "cache/minirtmdet/weights/rtmdet_nano.pth"
    for said in (f"downloading {tmp_path.as_uri()}/rtmdet_nano.pth to {file.parent}\n", ""):
        capsys.readouterr()
        assert main(["weights", "nano"]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{file}\n"
        assert printed.err.startswith(said)
    assert printed.err == ""


def test_a_size_means_its_published_weights(
    publish: Callable[[str, RTMDet], None], data: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
):
    publish("nano", build_detector("nano", num_classes=3))
    sides = []
    monkeypatch.setattr("minirtmdet.inference.images.eval_sample", lambda s, side: sides.append(side) or pad(s, side))
    assert main(["predict", "nano", str(data / "val/001.png"), "--device", "cpu"]) == 0
    assert sides == [96]  # the size it was trained at
    assert json.loads((tmp_path / "predictions/predictions.json").read_text())["classes"] == CLASSES
    assert main(["eval", "nano", "--data.root", str(data), "--device", "cpu"]) == 0
    assert "3 pictures of" in capsys.readouterr().out
    # of another size
    assert "expected widen_factor 0.5 (as s)" in fails(capsys, "eval", "nano", "--data.root", data, "--model", "s")


def test_training_starts_from_published_weights(
    publish: Callable[[str, RTMDet], None], data: Path, tmp_path: Path, capsys: Output
):
    publish("s", build_detector(MODEL))
    args = ["train", "mini-160", "--name", "a", "--out", str(tmp_path), "--data.root", str(data), *SMALL]
    assert main([*args, "--epochs", "1", "--weights", "s"]) == 0
    printed = capsys.readouterr()
    assert "downloading file:" in printed.err
    assert re.search(r"cache/minirtmdet/weights/rtmdet_s\.pth: \d+ tensors loaded", printed.out)


def test_what_lies_here_comes_before_what_is_published(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert "tiny holds neither best.pt nor last.pt" in fails(capsys, "eval", "tiny")


def test_a_download_that_fails_ends_with_one_line(
    publish: Callable[[str, RTMDet], None], tmp_path: Path, capsys: Output
):
    publish("s", build_detector(MODEL))
    (tmp_path / "rtmdet_s.pth").write_bytes(b"something else")
    assert main(["weights", "s"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"minirtmdet: error: {tmp_path.as_uri()}/rtmdet_s.pth: what arrived has SHA-256 ")
    (tmp_path / "rtmdet_s.pth").unlink()
    assert main(["weights", "s"]) == 2
    assert "No such file" in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ eval


def test_eval_writes_what_it_found(run: Path, data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "new" / "eval"
    args = ["eval", str(run), "--out", str(out), "--threshold", "0.005", "--worst", "2", "--device", "cpu"]
    assert main(args) == 0
    content = json.loads((out / "metrics.json").read_text())
    assert content["command"] == "minirtmdet " + " ".join(args)
    assert content["checkpoint"] == str(run / "best.pt")
    assert content["data"] == {"json": str(data / "val.json"), "images": str(data / "val"), "pictures": 3}
    assert tuple(content["metrics"]) == tuple(METRICS)
    assert set(content["per_class"]) == set(CLASSES)
    assert set(content["per_class"]["cat"]) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"}
    worst = content["worst_first"]
    assert {row["file"] for row in worst} == {"001.png", "002.png", "003.png"}
    mistakes = [row["missed"] + row["false"] for row in worst]
    assert mistakes == sorted(mistakes, reverse=True)
    results = json.loads((out / "detections.json").read_text())
    assert sum(row["score"] > 0.005 for row in results) >= sum(row["false"] for row in worst) > 0
    for name in ("precision_recall.png", "worst.png"):
        assert cv2.imread(str(out / name)).shape[1] == 1400
    assert f"written to {out}" in capsys.readouterr().out


def test_eval_finds_the_worst_pictures(run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A detector that is right everywhere but in one picture."""
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
    monkeypatch.setattr("minirtmdet.plots.worst_pictures", lambda *args: shown.append(args) or plots.loss_curve(ROWS))
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
    assert f"1 pictures of {json_file}" in capsys.readouterr().out
    # a folder that holds nothing to train on
    assert main(["eval", str(run), "--data.root", str(tmp_path / "other"), "--device", "cpu"]) == 0
    assert f"1 pictures of {json_file}" in capsys.readouterr().out
    json_file, folder = write_set(tmp_path / "owls", [image_entry(1)], [], [{"id": 1, "name": "owl"}], name="val")
    message = fails(capsys, "eval", run, "--data.val-json", json_file, "--data.val-images", folder)
    assert "has no category 'cat', 'dog', 'hen'; it has 'owl'" in message


def test_eval_says_how_to_leave_out_a_broken_image_and_does_so(run: Path, tmp_path: Path, capsys: Output):
    categories = [{"id": i, "name": name} for i, name in enumerate(["hen", "dog", "cat"])]
    boxes = [box_entry(i, i, [1.0, 1.0, 20.0, 20.0], 1) for i in (1, 2)]
    json_file, folder = write_set(tmp_path, [image_entry(1), image_entry(2)], boxes, categories, name="val")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:-20])
    message = fails(capsys, "eval", run, "--data.root", tmp_path)
    assert "1 of 2 pictures cannot be used" in message
    assert "002.png cannot be decoded" in message
    assert "--data.bad-images skip" in message
    assert main(["eval", str(run), "--data.root", str(tmp_path), "--data.bad-images", "skip", "--device", "cpu"]) == 0
    assert f"1 pictures of {json_file}" in capsys.readouterr().out


def test_eval_of_weights_that_name_no_classes(data: Path, tmp_path: Path, capsys: Output):
    for num_classes in (3, 5):
        torch.save(build_detector("nano", num_classes=num_classes).state_dict(), tmp_path / f"{num_classes}.pth")
    args = ["--model", "nano", "--data.input-size", "64", "--device", "cpu"]
    assert "give --data.root" in fails(capsys, "eval", tmp_path / "3.pth", *args)
    assert main(["eval", str(tmp_path / "3.pth"), "--data.root", str(data), *args]) == 0
    message = fails(capsys, "eval", tmp_path / "5.pth", "--data.root", data, *args)
    assert "predicts 5 classes and does not name them" in message


def test_eval_can_leave_out_a_broken_picture(run: Path, data: Path, tmp_path: Path, capsys: Output):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/val/002.png").write_bytes((data / "val/002.png").read_bytes()[:100])
    args = ["eval", run, "--data.root", tmp_path / "data", "--device", "cpu"]
    assert "002.png" in fails(capsys, *args)
    assert main([*map(str, args), "--data.bad-images", "skip"]) == 0
    printed = capsys.readouterr()
    assert "2 pictures of" in printed.out
    assert "1 of 3 pictures left out" in printed.err


def test_warnings_are_one_line(run: Path, tmp_path: Path, capsys: Output):
    flat = [box_entry(1, 1, [5.0, 5.0, 0.0, 10.0]), box_entry(2, 1, [5.0, 5.0, 9.0, 10.0])]
    for name in ("train", "val"):
        write_set(tmp_path, [image_entry(1)], flat, name=name)
    assert main(["eval", str(run), "--data.root", str(tmp_path), "--device", "cpu"]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert line.startswith("minirtmdet: warning: ")
    assert "1 of 2 boxes left out" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there(run: Path, data: Path, capsys: Output):
    assert "finds no CUDA GPU" in fails(capsys, "predict", run, data / "val", "--device", "cuda")
