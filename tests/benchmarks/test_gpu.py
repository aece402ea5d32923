"""The GPU benchmark's own code, on small inputs and without a GPU; no time is looked at."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return importlib.import_module("gpu")


def run(bench: ModuleType, part: str, out: Path) -> dict[str, Any]:
    bench.main([part, "--device", "cpu", "--tiny", "--out", str(out)])
    return json.loads(out.read_text())[part]


@pytest.mark.compile
def test_every_lane_is_measured(bench: ModuleType, tmp_path: Path):
    out = tmp_path / "gpu.json"
    assign = run(bench, "assign", out)
    assert [(row["what"], row["lane"]) for row in assign["rows"][-3:]] == [
        ("losses, batch 2", "reading"), ("losses, batch 2", "racing"), ("losses, batch 2", "compiled"),
    ]  # fmt: skip
    assert assign["rows"][-3]["reading / this"] == 1
    steps = run(bench, "step", out)["rows"]
    measured = [(row["what"], row["mode"]) for row in steps if row["what"] != "mmdet"]
    ways = ("eager, bf16", "eager, fp32", "eager, bf16, contiguous", "compiled, bf16")
    lanes = ("network alone", "racing lane")
    assert measured == [("reading lane", "eager, bf16"), *((lane, way) for way in ways for lane in lanes)]
    assert all(row["losses off by"] < 0.05 for row in steps if "losses off by" in row and "contig" not in row["mode"])
    assert bench.failures == []
    assert set(json.loads(out.read_text())) == {"assign", "step"}  # a part leaves the others alone


@pytest.mark.compile
def test_the_profile_names_every_part(bench: ModuleType, tmp_path: Path):
    rows = run(bench, "profile", tmp_path / "gpu.json")["rows"]
    parts = [row for row in rows if row["mode"] == "eager, parts"]
    names = ["backbone", "neck", "bbox_head", "targets and losses", "gradients", "AdamW", "average"]
    assert [row["what"] for row in parts] == names
    assert sum(row["share"] for row in parts) == pytest.approx(1, abs=1e-3)  # each is rounded
    assert {row["mode"] for row in rows} == {"eager, parts", "eager, kernels", "compiled, kernels"}


def test_the_real_loader_and_the_race(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where scenes are kept
    out = tmp_path / "gpu.json"
    busy = run(bench, "busy", out)
    assert busy["rows"][0]["steps"] == 2
    assert 0 <= busy["rows"][0]["busy"] <= 1
    race = run(bench, "race", out)
    assert race["tiny"]
    assert str(tmp_path) not in out.read_text()
    (row,) = race["rows"]
    assert (row["epoch"], row["images"]) == (1, 8)
    assert row["seconds"] > row["of it evaluating"] > 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("seed")


def test_a_gpu_that_is_not_there_is_said(bench: ModuleType, capsys: pytest.CaptureFixture[str]):
    import torch

    if torch.cuda.is_available():
        pytest.skip("asks for a GPU where there is none")
    with pytest.raises(SystemExit):
        bench.main(["assign"])
    assert "PyTorch finds no CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flight.sh", "wheels.sh"])
def test_the_scripts_are_ones_that_bash_reads(name: str):
    subprocess.run(["bash", "-n", SCRIPT.with_name(name)], check=True)


def test_the_flight_takes_parts_that_there_are_and_pins_that_there_are(bench: ModuleType):
    flight, wheels = (SCRIPT.with_name(name).read_text() for name in ("flight.sh", "wheels.sh"))
    parts = re.findall(r"\bgpu \d+ (\w+)", flight)
    assert parts == ["step", "race", "step", "assign", "profile", "busy"]
    assert set(parts) < set(bench.PARTS)
    (packages,) = re.findall(r"packages=\((.*)\)", wheels)
    pins = (SCRIPT.parents[1] / "requirements.txt").read_text()
    assert all(re.search(rf"^{package}==", pins, re.M) for package in packages.split())
    words = subprocess.run(["bash", SCRIPT.with_name("flight.sh"), "--fast"], capture_output=True, text=True)
    assert (words.returncode, words.stderr) == (2, "flight.sh: unknown word --fast\n")
