import importlib
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.runs import MODEL

from minirtmdet import build_detector
from minirtmdet.configs import TrainConfig
from minirtmdet.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "benchmarks/results").glob("fine_tuning*.json"))


@pytest.fixture
def script() -> ModuleType:
    return importlib.import_module("fine_tuning")


def test_both_starts_are_recorded_seed_by_seed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    weights = tmp_path / "w.pt"
    config = TrainConfig(name="scenes", epochs=4, model=MODEL)
    save_checkpoint(weights, build_detector(MODEL).state_dict(), config, ["a", "b", "c"], metrics={"AP": 0.71234})
    calls: list[tuple[str, int, list[str], str]] = []

    def train_once(preset: str, seed: int, rest: list[str], out: Path) -> dict[str, Any]:
        calls.append((preset, seed, rest, out.name))
        return {"seed": seed, "AP": 0.1 + 0.2 * ("--weights" in rest) + 0.01 * seed, "train_seconds": 10.0 * (seed + 1)}

    monkeypatch.setattr(script, "train_once", train_once)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    words = [
        "--weights",
        str(weights),
        "--seeds",
        "0",
        "2",
        "--keep",
        str(tmp_path / "keep"),
        "--tuned",
        "--patience 3",
    ]
    rest = ["--data.root", "/home/me/cells", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["fine_tuning.py", *words, "--", *rest])
    script.main()
    own = [*rest, "--weights", str(weights), "--patience", "3"]
    assert calls == [
        ("few-256", seed, settings, way)
        for seed in (0, 2)
        for way, settings in (("from scratch", rest), ("fine-tuned", own))
    ]
    record = json.loads((tmp_path / "fine_tuning.json").read_text())
    assert record["start"] == {"file": "w.pt", "run": "scenes", "epochs": 4, "AP": 0.7123}
    for way, mean in (("from scratch", 0.11), ("fine-tuned", 0.31)):
        assert (record[way]["AP mean"], record[way]["AP spread"], record[way]["seconds mean"]) == (mean, 0.02, 20.0)
        assert [run["seed"] for run in record[way]["runs"]] == [0, 2]
    assert str(tmp_path) not in record["command"]
    assert "/home/me" not in record["command"]
    assert shlex.split(record["command"])[:4] == ["python", "benchmarks/fine_tuning.py", "--weights", "path/to/best.pt"]
    assert "fine-tuned: AP mean 0.310, spread 0.020, 20 s" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_fine_tuning_is_not_worse_than_from_scratch_beyond_its_spread(path: Path):
    record = json.loads(path.read_text(encoding="utf-8"))
    scratch, tuned = record["from scratch"], record["fine-tuned"]
    assert tuned["AP mean"] >= scratch["AP mean"] - max(scratch["AP spread"], tuned["AP spread"])
    assert len(scratch["runs"]) == len(tuned["runs"]) >= 2


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_readme_says_what_the_record_says(path: Path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    record = json.loads(path.read_text(encoding="utf-8"))
    (said,) = (block for block in readme.split("\n\n") if f"{path.name}`" in block)
    for way in ("fine-tuned", "from scratch"):
        assert f"{record[way]['AP mean']:.3f} ({record[way]['AP spread']:.3f}" in " ".join(said.split()), way
