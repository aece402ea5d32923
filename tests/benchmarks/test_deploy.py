"""The table of forms that a detector is deployed in."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from helpers.tiny_sets import write_both_parts
from helpers.weights import CLASSES, SMALL, small

from minirtmdet.configs import DataConfig, TrainConfig
from minirtmdet.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("deploy")


@pytest.mark.slow
def test_each_form_gets_a_row(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_both_parts(tmp_path / "data", 3)
    (tmp_path / "run").mkdir()
    config = TrainConfig(model=SMALL, data=DataConfig(root=tmp_path / "data", input_size=64))
    save_checkpoint(tmp_path / "run/best.pt", small().state_dict(), config, CLASSES)
    words = [
        str(tmp_path / "run"),
        "--latency",
        "--rounds",
        "1",
        "--limit",
        "2",
        "--out",
        str(tmp_path / "record.json"),
    ]
    record = script.main(words)
    assert json.loads((tmp_path / "record.json").read_text()) == record
    rows = {row["form"]: row for row in record["rows"]}
    openvino = {"ONNX, OpenVINO", "int8 but the last convolutions, OpenVINO"}
    missing = openvino if importlib.util.find_spec("openvino") is None else set()
    without_ncnn = any(importlib.util.find_spec(name) is None for name in ("ncnn", "pnnx"))
    missing |= {"ncnn"} if without_ncnn else set()
    assert set(rows) == {*FORMS, "ncnn"} - missing
    assert without_ncnn or rows["ncnn"]["AP"] == pytest.approx(rows["PyTorch"]["AP"], abs=1e-3)
    assert all(row["latency"] > 0 and row["ms"] > 0 for row in rows.values())
    assert rows["PyTorch"]["latency"] == 1
    assert rows["PyTorch, fused"]["AP"] == pytest.approx(rows["PyTorch"]["AP"], abs=1e-3)
    assert rows["ONNX, all priors"]["AP"] == pytest.approx(rows["PyTorch"]["AP"], abs=1e-3)
    said = capsys.readouterr().err
    assert all(f"left out: {form}" in said for form in missing)


FORMS = (
    "PyTorch",
    "PyTorch, fused",
    "ONNX, all priors",
    "ONNX with NMS",
    "ONNX, OpenVINO",
    "int8, everything",
    "int8 but the last convolutions",
    "int8 but the head",
    "int8 but the last convolutions, with NMS",
    "int8 but the last convolutions, OpenVINO",
)


def test_the_record_says_what_the_docs_say():
    """The numbers of the chapter on deployment, to three digits."""
    file = ROOT / "benchmarks/results/deploy.json"
    rows = {row["form"]: row for row in json.loads(file.read_text(encoding="utf-8"))["rows"]}
    assert tuple(form for form in rows if form != "ncnn") == FORMS
    whole = rows["PyTorch"]["AP"]
    for form in FORMS[1:5]:
        assert rows[form]["AP"] == pytest.approx(whole, abs=1e-3), form
    assert "ncnn" not in rows or rows["ncnn"]["AP"] == pytest.approx(whole, abs=1e-3)
    lost = {form: round(whole - row["AP"], 3) for form, row in rows.items()}
    assert [lost[form] for form in FORMS[5:]] == [0.005, 0.002, 0.001, 0.002, 0.001]
    assert rows["int8 but the last convolutions"]["mb"] < rows["ONNX, all priors"]["mb"] / 3
