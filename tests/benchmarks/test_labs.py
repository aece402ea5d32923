import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOY = """\
SEED = 0
from minirtmdet import plots
torch_like = SEED * 2
assert torch_like == 0
_ = plots.compare_runs(1, 2, 3)  # drawn in the book, not here
measured = {"toy": {"twice": torch_like}}
"""


@pytest.fixture
def labs():
    return importlib.import_module("labs")


def notebook(path, *sources):
    cells = [{"cell_type": "code", "id": str(i), "source": source} for i, source in enumerate(sources)]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_a_seed_goes_in_and_its_numbers_come_out(labs):
    assert labs.measure([TOY], 3) == {"toy": {"twice": 6.0}}


def test_nothing_is_run_behind_the_last_measurement(labs, tmp_path):
    path = notebook(tmp_path / "toy.ipynb", TOY, 'measured["more"] = {"one": 1}', "1 / 0")
    sources = labs.experiment(path)
    assert labs.measure(sources, 0) == {"toy": {"twice": 0.0}, "more": {"one": 1.0}}


def test_a_notebook_that_measures_nothing_is_refused(labs, tmp_path):
    with pytest.raises(SystemExit, match=r"toy\.ipynb measures nothing"):
        labs.experiment(notebook(tmp_path / "toy.ipynb", "SEED = 0"))


@pytest.mark.parametrize(
    ("change", "same"), [("== 0", True), ("  # drawn in the book, not here", True), ("* 2", False)]
)
def test_only_what_is_run_makes_a_record_stale(labs, change, same):
    other = TOY.replace(change, {"== 0": "< 9", "* 2": "* 3"}.get(change, ""))
    assert (labs.fingerprint([TOY]) == labs.fingerprint([other])) is same


@pytest.mark.parametrize("name", ["debugging", "head_construction"])
def test_the_notebooks_have_a_seed_and_a_record_of_what_they_measure(labs, name):
    sources = labs.experiment(ROOT / f"book/{name}.ipynb")
    assert sum(source.count("\nSEED = 0") + source.startswith("SEED = 0") for source in sources) == 1
    record = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    rows = [{row: set(numbers) for row, numbers in run["measured"].items()} for run in record["runs"]]
    assert len({run["seed"] for run in record["runs"]}) > 1
    assert all(row == rows[0] for row in rows)
