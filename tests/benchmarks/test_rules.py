import importlib
import json
import sys
from pathlib import Path

import pytest

from minirtmdet.judge import rules as judged


def test_each_rule_gets_a_row_with_all_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = importlib.import_module("rules")
    monkeypatch.setattr(judged, "STEPS", 1)
    monkeypatch.setattr(rules, "RULES", ({}, {"topk": 1}))
    monkeypatch.setattr(rules, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["rules.py", "--seeds", "0"])
    rules.main()
    record = json.loads((tmp_path / "rules.json").read_text(encoding="utf-8"))
    assert record["command"] == "python benchmarks/rules.py --seeds 0"
    official, one = (row["runs"]["0"] for row in record["rows"])
    assert one["first positives"] == 11 / 4 < official["first positives"]
