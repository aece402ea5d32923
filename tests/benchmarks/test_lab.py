"""The lab's benchmark on few frames, and what its record promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.built_site import BROWSER, SITE

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "results" / "lab.json"


def test_every_first_view_is_light() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert len(record["pages"]) == 5
    assert all(40_000 < row["bytes"] < 150_000 for row in record["pages"])
    assert record["network"]["bytes"] < 2_000_000


@pytest.mark.site
@pytest.mark.skipif(not (SITE / "_static" / "lab").exists(), reason="there is no built book: run make book")
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome found: install one, or set CHROMIUM")
def test_the_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "lab.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "lab.py"), "--frames", "3", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert {row["page"] for row in json.loads(out.read_text(encoding="utf-8"))["pages"]} == {
        "priors", "costs", "matching", "losses", "four_assigners"
    }  # fmt: skip
