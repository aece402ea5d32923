import shutil
from pathlib import Path

import pytest
import torch
from helpers.commands import SMALL, Output, fails

from minirtmdet.cli import main


def test_what_is_missing_is_named(run: Path, tmp_path: Path, capsys: Output):
    assert "no image or folder" in fails(capsys, "predict", run, tmp_path / "a.jpg")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in fails(capsys, "predict", run, tmp_path / "empty")
    assert "name files or folders" in fails(capsys, "predict", run)
    assert "no checkpoint nope.pt" in fails(capsys, "eval", "nope.pt")
    assert "neither best.pt nor last.pt" in fails(capsys, "info", tmp_path / "empty")
    assert "no such folder" in fails(capsys, "train", "mini-160", "--out", tmp_path, "--data.root", tmp_path / "nope")


def test_what_lies_here_comes_before_what_is_published(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert "tiny holds neither best.pt nor last.pt" in fails(capsys, "eval", "tiny")


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
    monkeypatch.setattr("minirtmdet.cli.predict.predict_images", None)
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
        ("train", "--patience -1", "is -1: expected at least 0"),
        ("train", "--optim.frozen-stages 5", "is 5: expected a number from -1 to 4"),
        ("train", "--optim.frozen-stages -2", "is -2: expected a number from -1 to 4"),
        ("train", "--optim.backbone-lr-mult 0", "is 0.0: expected a number above 0"),
        ("train", "--augment light --augment.flip 7", "is 7.0: expected a number from 0 to 1"),
    ],
)
def test_numbers_are_checked_where_they_are_read(
    tmp_path: Path, capsys: Output, command: str, typed: str, problem: str
):
    """Before anything else: neither checkpoint nor images are there."""
    words = {"train": ["mini-160", "--out", tmp_path / "out"], "scenes": [], "export": ["no.pt", "--out", "a.onnx"]}
    before = words.get(command, ["no.pt", *(["no.png"] if command == "predict" else [])])
    message = fails(capsys, command, *before, *typed.split())
    name = next(word for word in reversed(typed.split()) if word.startswith("--"))
    assert message.startswith(f"minirtmdet: error: {name} {problem}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", [["predict", "run", "images", "--out", "out"], ["export", "run", "--out", "out/run.onnx"]]
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there(run: Path, data: Path, capsys: Output):
    assert "finds no CUDA GPU" in fails(capsys, "predict", run, data / "val", "--device", "cuda")
