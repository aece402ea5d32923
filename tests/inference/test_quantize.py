import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import onnx
import pytest
import torch
from helpers.commands import fails
from helpers.weights import CLASSES, SMALL
from parity.fill import fill

from minirtmdet import load_detector
from minirtmdet.cli import main
from minirtmdet.configs import PredictConfig
from minirtmdet.data.example import example
from minirtmdet.detector import GREY, MEAN, STD, RTMDet
from minirtmdet.inference.export import export_onnx
from minirtmdet.inference.exported import KEY, MAPS, ExportError, OnnxDetector
from minirtmdet.inference.openvino import OpenVinoDetector
from minirtmdet.inference.quantize import batches_of, quantize_onnx

SIZE = 96
READER = Path(__file__).parents[2] / "examples/read_onnx.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a detector as a raw file and as one that ends with detections."""
    folder = tmp_path_factory.mktemp("exported")
    model = fill(RTMDet(SMALL)).eval()
    with torch.no_grad():
        for conv in model.bbox_head.rtm_cls:
            conv.weight *= 15
            conv.bias.fill_(-2)
    settings = {"input_size": SIZE, "classes": CLASSES, "predict": PredictConfig(clip="content")}
    export_onnx(model, folder / "raw.onnx", **settings)
    export_onnx(model, folder / "nms.onnx", nms=True, **settings)
    (folder / "images").mkdir()
    for number in range(10):
        cv2.imwrite(str(folder / f"images/{number}.png"), np.roll(example().image[: 160 - 10 * number], 15 * number, 1))
    return folder


def batches(folder: Path, count: int = 10) -> Iterator[np.ndarray]:
    return batches_of(sorted((folder / "images").iterdir()), OnnxDetector(folder / "raw.onnx", "cpu").info, count)


@pytest.fixture(scope="module")
def int8(folder: Path) -> Path:
    quantize_onnx(folder / "raw.onnx", folder / "int8.onnx", batches(folder))
    return folder / "int8.onnx"


def test_convolutions_are_in_8_bits_but_for_the_last(folder: Path, int8: Path):
    graph = onnx.load(int8).graph
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weight = made_by.get(node.input[1])
        assert (weight is None) == ("rtm_" in node.input[1]), node.input[1]
        assert weight is None or weight.op_type == "DequantizeLinear"
    assert int8.stat().st_size < 0.75 * (folder / "raw.onnx").stat().st_size  # a network as small as this is half names


def test_what_goes_into_a_convolution_is_unsigned(int8: Path):
    """Of signed values OpenVINO rounds what comes from a concatenation to whole numbers, whatever their scale."""
    graph = onnx.load(int8).graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    types = {values[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}
    assert types == {np.dtype(np.uint8)}


def test_a_file_in_8_bits_says_so_and_finds_nearly_the_same(folder: Path, int8: Path):
    ours, theirs = OnnxDetector(int8, "cpu"), OnnxDetector(folder / "raw.onnx", "cpu")
    assert ours.info.precision == "int8"
    assert theirs.info.precision == "fp32"
    assert ours.info.describe() == "ONNX of a detector, 3 classes, 96 px, int8, all priors"
    images = torch.from_numpy(next(batches(folder)))
    one, other = ours.outputs(images), theirs.outputs(images)
    for name in MAPS:
        spread = float(other[name].std())
        assert float((one[name] - other[name]).abs().mean()) < 0.15 * spread, name


def test_every_kind_of_file_can_be_in_8_bits(folder: Path, tmp_path: Path):
    quantize_onnx(folder / "nms.onnx", tmp_path / "nms.onnx", batches(folder))
    loaded = load_detector(tmp_path / "nms.onnx", device="cpu")
    assert all(len(found) for found in loaded.predict(folder / "images", threshold=0.01))


@pytest.mark.parametrize(
    ("source", "path", "words"),
    [
        ("raw.onnx", "int8.txt", r"expected a file name that ends with \.onnx"),
        ("int8.onnx", "again.onnx", r"int8\.onnx is in int8 already"),
        ("raw.onnx", "none.onnx", r"no image to measure the ranges of .*raw\.onnx on"),
    ],
)
def test_what_cannot_be_quantised_says_why(folder: Path, int8: Path, source: str, path: str, words: str):
    with pytest.raises(ExportError, match=words):
        quantize_onnx(folder / source, folder / path, iter(()))
    assert not (folder / path).exists()


def test_images_are_taken_from_everywhere(folder: Path):
    assert [len(batch) for batch in batches(folder)] == [8, 2]
    (four,) = batches(folder, 4)
    everything = np.concatenate(list(batches(folder)))
    np.testing.assert_array_equal(four, everything[[0, 2, 5, 7]])
    assert four.dtype == np.uint8
    assert four.shape == (4, 3, SIZE, SIZE)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = ["quantize", str(folder / "raw.onnx"), str(folder / "images"), "--count", "3"]
    assert main([*args, "--out", str(tmp_path / "out.onnx")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"int8, all priors; [\d.]+ MB in place of [\d.]+\n", printed)
    assert f"python -m minirtmdet eval {tmp_path / 'out.onnx'} --data.root FOLDER" in printed
    assert OnnxDetector(tmp_path / "out.onnx", "cpu").info.precision == "int8"
    assert "is read from" in fails(capsys, *args, "--out", folder / "raw.onnx")
    (tmp_path / "empty").mkdir()
    (tmp_path / "best.pt").write_bytes(b"weights")
    for source, images, words in (
        (folder, folder / "images", "it is a folder, and a file is needed that `minirtmdet export` writes"),
        (tmp_path / "best.pt", folder / "images", "best.pt is no ONNX file that onnxruntime can run"),
        (folder / "raw.onnx", tmp_path / "empty", "empty holds no image (.avif"),
        (folder / "raw.onnx", folder / "raw.onnx", "raw.onnx cannot be decoded"),
    ):
        message = fails(capsys, "quantize", source, images, "--out", tmp_path / "new.onnx")
        assert words in message
        assert message.count("\n") == 1
    assert not (tmp_path / "new.onnx").exists()


def test_files_say_how_pixels_become_an_input_and_nothing_of_the_machine(folder: Path, int8: Path):
    for path in (folder / "raw.onnx", int8):
        model = onnx.load(path)
        said = json.loads({prop.key: prop.value for prop in model.metadata_props}[KEY])["preprocessing"]
        assert (said["color_order"], said["dtype"], said["pad_value"]) == ("BGR", "uint8", GREY)
        assert (tuple(said["mean"]), tuple(said["std"])) == (MEAN, STD)
        assert said["normalised_in_graph"]
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_the_reader_needs_neither_torch_nor_this_package(folder: Path, tmp_path: Path):
    """And gives what load_detector gives."""
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(READER.read_text()))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")])
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"json", "sys", "cv2", "numpy", "onnxruntime"}
    shutil.copy(READER, tmp_path)
    detector = load_detector(folder / "nms.onnx", device="cpu")
    for image in ("3.png", "7.png"):  # wide images, padded below
        (ours,) = detector.predict(folder / "images" / image)
        script = [sys.executable, str(tmp_path / READER.name), str(folder / "nms.onnx"), str(folder / "images" / image)]
        lines = subprocess.run(script, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
        found = [json.loads(line) for line in lines]
        assert [row[0] for row in found] == ours.names
        assert len(found) > 0
        np.testing.assert_allclose([row[1] for row in found], ours.scores, atol=1e-5)
        np.testing.assert_allclose([row[2] for row in found], ours.boxes, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nms.onnx"], "two files are needed"),
        (["nms.onnx", "nope.png"], "nope.png is missing, or no image"),
        (["raw.onnx", "images/3.png"], "raw.onnx ends with all priors: export it with --nms"),
    ],
)
def test_the_reader_says_what_is_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(READER), *words])
    with pytest.raises(SystemExit, match=said):
        runpy.run_path(str(READER), run_name="__main__")


def test_openvino_finds_the_same(folder: Path):
    pytest.importorskip("openvino")
    images = folder / "images"
    ours = load_detector(folder / "raw.onnx", device="openvino").predict(images)
    theirs = load_detector(folder / "raw.onnx", device="cpu").predict(images)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other) > 0
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)


def test_openvino_computes_8_bits_as_onnxruntime_does(folder: Path, int8: Path):
    """Both differ from single precision by the same rounding, and hardly from one another."""
    pytest.importorskip("openvino")
    images = torch.from_numpy(next(batches(folder)))
    whole = OnnxDetector(folder / "raw.onnx", "cpu").outputs(images)
    theirs, ours = OnnxDetector(int8, "cpu").outputs(images), OpenVinoDetector(int8).outputs(images)
    for name in MAPS:
        lost, lost_here = ((one[name] - whole[name]).norm() for one in (theirs, ours))
        assert lost_here < 1.5 * lost, name


def test_openvino_is_asked_for_single_precision(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """On processors that have bf16 it would compute in that, and distances have steps of half a per cent there."""
    openvino = Mock()
    monkeypatch.setitem(sys.modules, "openvino", openvino)
    OpenVinoDetector(folder / "raw.onnx")
    *_, settings = openvino.Core.return_value.compile_model.call_args.args
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"


def test_openvino_takes_raw_files_and_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ExportError, match=r"nms\.onnx ends with detections, .* export it without --nms"):
        load_detector(folder / "nms.onnx", device="openvino")
    with pytest.raises(ValueError, match="tiny is no exported file: device openvino runs what"):
        load_detector("tiny", device="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"by OpenVINO needs openvino, which is not installed: .* openvino$"):
        load_detector(folder / "raw.onnx", device="openvino")
