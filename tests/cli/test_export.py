import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from helpers.commands import CLASSES, MODEL, Output, fails
from helpers.tiny_sets import box_entry, image_entry, write_set
from helpers.toy import unchecked

from minirtmdet import build_detector
from minirtmdet.cli import main
from minirtmdet.cli.export import _compare
from minirtmdet.configs import DataConfig, PredictConfig, TrainConfig
from minirtmdet.inference.exported import KEY
from minirtmdet.weights.checkpoint import read_checkpoint, save_checkpoint

# Tracing a network takes longer than all that is asked of the file: one of each kind serves every test.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose detector finds boxes as wide as the input, that reach to its end."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_detector(MODEL)
    for level, conv in enumerate(model.bbox_head.rtm_reg):
        torch.nn.init.zeros_(conv.weight)
        conv.bias.data = torch.tensor([8.0, 1.5, 8.0, 8.0]).div(2**level).log()
    # scores that differ: without statistics of their own the norms would let next to nothing of an image through, every
    # score would be that of the bias, and of equal scores each way of suppressing keeps another box
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8))
    for conv in model.bbox_head.rtm_cls:
        torch.nn.init.normal_(conv.weight, std=0.005)
    config = TrainConfig(model=MODEL, data=DataConfig(input_size=96))
    save_checkpoint(folder / "best.pt", model.state_dict(), config, CLASSES)
    return folder


@pytest.fixture(scope="module")
def said(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """raw.onnx and nms.onnx of the run, for 64 pixels where it has 96, and what the command printed of each."""
    folder, limits = tmp_path_factory.mktemp("exported"), ["--score-threshold", "0.002", "--max-per-image", "290"]
    printed = {}
    for name, words in {"raw.onnx": [], "nms.onnx": ["--nms", *limits]}.items():
        with redirect_stdout(io.StringIO()) as lines:
            assert main(["export", str(run), "--out", str(folder / name), "--input-size", "64", *words]) == 0
        printed[folder / name] = lines.getvalue()
    return printed


@pytest.fixture(scope="module")
def exported(said: dict[Path, str]) -> Path:
    """The folder of both."""
    return next(iter(said)).parent


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", ["raw", "nms"])
def test_an_exported_file_predicts_and_evaluates_as_its_run(
    exported: Path, run: Path, data: Path, tmp_path: Path, capsys: Output, kind: str
):
    file = exported / f"{kind}.onnx"
    found = {}
    for source in (run, file):
        args = ["--out", str(tmp_path / source.name), "--threshold", "0.009", "--device", "cpu", "--input-size", "64"]
        assert main(["predict", str(source), str(data / "val"), *args]) == 0
        found[source] = json.loads((tmp_path / source.name / "predictions.json").read_text())
    ours, theirs = found[file], found[run]
    assert ours["classes"] == theirs["classes"] == CLASSES
    for image, expected in zip(ours["images"], theirs["images"], strict=True):
        assert {k: v for k, v in image.items() if k != "detections"} == {
            k: v for k, v in expected.items() if k != "detections"
        }
        assert expected["detections"]
        scores = [row["score"] for row in expected["detections"]]
        assert [row["score"] for row in image["detections"]] == pytest.approx(scores, abs=1e-4)
        assert all(row["class"] == CLASSES[row["label"]] for row in image["detections"])
    capsys.readouterr()
    assert main(["eval", str(file), "--data.root", str(data), "--out", str(tmp_path / "eval"), "--device", "cpu"]) == 0
    assert "3 images of" in capsys.readouterr().out
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


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("clip", ["content", "input"])
def test_torch_raw_and_nms_agree_in_ap(exported: Path, run: Path, tmp_path: Path, clip: str):
    """On wide images, beside which a third of the input is padding, and a detector whose boxes reach into it."""
    images = [image_entry(i, 64, 42) for i in range(1, 5)]
    boxes = [box_entry(i, i, [0.0, 26.0 - i, 64.0, 16.0 + i]) for i in range(1, 5)]
    root = tmp_path / "wide"
    write_set(root, images, boxes, [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)], name="val")
    found = read_checkpoint(run / "best.pt")
    config = replace(found.config, predict=PredictConfig(clip=clip), data=DataConfig(input_size=64))
    save_checkpoint(tmp_path / "best.pt", found.state_dict, config, CLASSES)
    for name in ("raw.onnx", "nms.onnx"):
        set_clip(exported / name, tmp_path / name, clip)
    sources = [tmp_path / "best.pt", tmp_path / "raw.onnx", tmp_path / "nms.onnx"]
    numbers = []
    for source in sources:
        out = tmp_path / f"out-{source.stem}"
        args = ["eval", str(source), "--data.root", str(root), "--out", str(out), "--device", "cpu"]
        assert main(args) == 0
        numbers.append(json.loads((out / "metrics.json").read_text())["metrics"])
        ends = [row["bbox"][1] + row["bbox"][3] for row in json.loads((out / "detections.json").read_text())]
        assert max(ends) <= 42 if clip == "content" else max(ends) > 42
    assert numbers[0]["AP"] > 0.05 or clip == "input"
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], abs=1e-6)


def set_clip(source: Path, target: Path, clip: str) -> None:
    """A copy of an exported file that says this of where boxes end: it stands beside the graph, not in it."""
    content = onnx.load(source)
    (entry,) = (entry for entry in content.metadata_props if entry.key == KEY)
    about = json.loads(entry.value)
    about["predict"]["clip"] = clip
    entry.value = json.dumps(about)
    onnx.save(content, target)


def test_export_says_what_it_compared(said: dict[Path, str], run: Path, data: Path, tmp_path: Path, capsys: Output):
    file, printed = next(iter(said.items()))
    assert f"written: {file}, ONNX of {run.name}, 3 classes, 64 px, all priors" in printed
    compared = re.search(r"compared with torch on a scene: (\d+) detections, their scores at most (\S+) apart", printed)
    assert int(compared[1]) > 3
    assert float(compared[2]) < 1e-4
    assert "ends with .onnx" in fails(capsys, "export", run, "--out", tmp_path / "a.pt")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    assert "b.onnx is no ONNX file" in fails(capsys, "predict", tmp_path / "b.onnx", data / "val")


def test_masks_are_compared_too():
    torch.manual_seed(0)
    model = build_detector(replace(MODEL, masks=True))
    info = SimpleNamespace(input_size=64, predict=PredictConfig(score_threshold=0.0, max_per_image=5))
    said = unchecked(_compare)(model, SimpleNamespace(info=info, predict=model.predict))
    assert said == (
        "compared with torch on a scene: 5 detections, their scores at most 0 apart, 0 pixels of their masks different"
    )
