import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import MODEL, SMALL, Output, fails

from minirtmdet import build_detector
from minirtmdet.cli import main
from minirtmdet.detector import RTMDet
from minirtmdet.presets import PRESETS


@pytest.mark.usefixtures("no_figures")
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


def test_training_starts_from_published_weights(
    publish: Callable[[str, RTMDet], None], data: Path, tmp_path: Path, capsys: Output
):
    publish("s", build_detector(MODEL))
    args = ["train", "mini-160", "--name", "a", "--out", str(tmp_path), "--data.root", str(data), *SMALL]
    assert main([*args, "--epochs", "1", "--weights", "s"]) == 0
    printed = capsys.readouterr()
    assert "downloading file:" in printed.err
    assert re.search(r"cache/minirtmdet/weights/rtmdet_s\.pth: \d+ tensors loaded", printed.out)


def test_augmentation_by_name(data: Path, tmp_path: Path, capsys: Output):
    args = [
        "train",
        "few-256",
        "--name",
        "a",
        "--out",
        str(tmp_path),
        "--data.root",
        str(data),
        *SMALL,
        "--epochs",
        "1",
    ]
    assert main([*args, "--augment", "none", "--augment.flip", "0.25"]) == 0
    stored = json.loads((tmp_path / "a/config.json").read_text())["config"]["augment"]
    assert (stored["mosaic"], stored["scale"], stored["hsv"], stored["flip"]) == (0, [1, 1], [0, 0, 0], 0.25)
    assert "--augment is 'heavy': expected one of none, light, recipe" in fails(capsys, *args, "--augment=heavy")


def test_what_fine_tuning_needs_is_refused_without_it(data: Path, tmp_path: Path, capsys: Output):
    args = ["train", "few-256", "--out", tmp_path, "--data.root", data, *SMALL]
    assert "frozen_stages is 1 in a run from scratch" in fails(capsys, *args, "--optim.frozen-stages", "1")
    assert "auto_batch measures the memory of a CUDA GPU" in fails(capsys, *args, "--auto-batch")
