"""The example that converts to ncnn and runs there."""

import ast
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.weights import CLASSES, SMALL
from parity.fill import fill

from minirtmdet import load_detector
from minirtmdet.configs import DataConfig, PredictConfig, TrainConfig
from minirtmdet.data.example import example as scene
from minirtmdet.detector import RTMDet
from minirtmdet.weights.checkpoint import save_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
READER, RUNNER = EXAMPLES / "read_onnx.py", EXAMPLES / "run_ncnn.py"
SIZE = 72  # the graph's input is 96


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RUNNER), run_name="run_ncnn"))


@pytest.fixture
def both() -> None:
    for name in ("ncnn", "pnnx"):
        pytest.importorskip(name, reason="the example stands on it: pip install 'minirtmdet[ncnn]'")


def write(path: Path, **changes: object) -> Path:
    """A checkpoint of a small network that finds something."""
    model = fill(RTMDet(replace(SMALL, **changes))).eval()
    with torch.no_grad():
        for conv in model.bbox_head.rtm_cls:
            conv.weight *= 15
            conv.bias.fill_(-2)
    config = TrainConfig(
        model=model.config, data=DataConfig(root=path.parent, input_size=SIZE), predict=PredictConfig(clip="content")
    )
    save_checkpoint(path, model.state_dict(), config, CLASSES)
    return path


@pytest.mark.usefixtures("both")
def test_it_finds_what_the_package_finds(example: SimpleNamespace, tmp_path: Path):
    checkpoint, folder = write(tmp_path / "best.pt"), tmp_path / "converted"
    example.convert(str(checkpoint), folder)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "converted"]
    names = ["model.json", "model.ncnn.bin", "model.ncnn.param"]
    assert sorted(file.name for file in folder.iterdir()) == names
    info = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert (info["classes"], info["input_size"]) == (list(CLASSES), SIZE)
    detector, ours = example.load(folder), load_detector(checkpoint, device="cpu")
    for image in (scene().image, scene().image[:90], scene().image[:, :50]):
        (expected,) = ours.predict(image)
        found = example.detect(detector, image)
        assert [row[0] for row in found] == expected.names
        assert len(found) > 0
        np.testing.assert_allclose([row[1] for row in found], expected.scores, atol=1e-4)
        np.testing.assert_allclose([row[2] for row in found], expected.boxes, atol=1e-2)
    assert example.detect(detector, scene().image, threshold=0.9999) == []


@pytest.mark.usefixtures("both")
def test_what_is_no_detector_of_boxes_is_refused(example: SimpleNamespace, tmp_path: Path):
    ins = write(tmp_path / "ins.pt", masks=True)
    with pytest.raises(ValueError, match=r"ins\.pt finds masks: only a detector's maps of classes and boxes"):
        example.convert(str(ins), tmp_path / "converted")
    with pytest.raises(ValueError, match="exists: name another folder"):
        example.convert(str(ins), tmp_path)
    assert list(tmp_path.iterdir()) == [ins]


def test_both_readers_resize_alike():
    """Each is a file that works alone, so they have the same function twice."""
    one, other = (
        [
            ast.dump(node)
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if getattr(node, "name", "") == "fit"
        ]
        for path in (READER, RUNNER)
    )
    assert one == other
    assert len(one) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected `convert runs/cards"),
        (["detect", "x", "nope.png"], "nope.png is missing, or no image"),
        (["detect", "x", "image.png"], r"model\.ncnn\.param is missing|ncnn is not installed"),
        (["convert", "nope", "x"], "pnnx is not installed: pip install pnnx ncnn|no checkpoint nope"),
    ],
)
def test_it_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("image.png", scene().image)
    monkeypatch.setattr(sys, "argv", [str(RUNNER), *words])
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(RUNNER), run_name="__main__")


def test_a_missing_package_is_named(example: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pnnx", None)
    with pytest.raises(ImportError, match="pnnx is not installed: pip install pnnx ncnn"):
        example.convert("x", tmp_path / "y")
