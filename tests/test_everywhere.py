"""The run on other processors: what it chooses, what it changes, what it reports."""

import json
import sys
from pathlib import Path

import everywhere
import pytest
from everywhere import Job, Outcome, Place


def notebook(path: Path, *sources: str) -> Path:
    cells = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "source": source.splitlines(True),
            "outputs": [],
            "metadata": {},
            "execution_count": None,
        }
        for i, source in enumerate(sources)
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("asked", "there", "chosen", "skipped"),
    [
        ([], ["default", "avx2"], ["default", "avx2"], ["avx512"]),
        (["avx512", "default"], ["default", "avx2"], ["default"], ["avx512"]),
        (["other"], ["default", "avx2", "avx512"], ["avx2"], []),
        (["other"], ["default", "avx2"], ["default"], []),
        (["other"], ["default"], [], ["other"]),
    ],
)
def test_a_set_that_is_not_there_is_skipped_with_a_line(
    capsys: pytest.CaptureFixture[str], asked: list[str], there: list[str], chosen: list[str], skipped: list[str]
) -> None:
    assert everywhere.choose_sets(asked, there) == chosen
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[0] for line in lines] == [f"skipped: {name}" for name in skipped]


def test_one_line_is_another_in_a_copy_with_another_seed(tmp_path: Path) -> None:
    path = notebook(tmp_path / "a.ipynb", "x = 1\nSEED = 0  # any\n", "y = SEED\n")
    assert everywhere.takes_seed(path)
    assert not everywhere.takes_seed(notebook(tmp_path / "b.ipynb", "ANY_SEED = 0\n"))
    changed = everywhere.with_seed(everywhere.read_notebook(path), 7)
    assert everywhere.code_of(changed) == ["x = 1\nSEED = 7  # any\n", "y = SEED\n"]


def test_processes_are_told_what_they_may_use() -> None:
    found = Place("avx2", 2).environment
    expected = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"}
    assert found.items() >= expected.items()


def test_the_run_goes_on_after_a_failure_and_ends_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_bad.py").write_text("def test_a():\n    assert 1 == 2\n\ndef test_b():\n    pass\n")
    (tmp_path / "test_dead.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "test_good.py").write_text("def test_c():\n    pass\n")
    files = [str(tmp_path / f"test_{name}.py") for name in ("bad", "dead", "good")]
    monkeypatch.setattr(everywhere, "instruction_sets", lambda: ["default"])
    monkeypatch.setattr(sys, "argv", ["everywhere.py", *files, "--sets", "default", "--threads", "1"])
    assert everywhere.main() == 1
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines[lines.index("passed: test_good.py, default, threads 1") + 1 :]]
    assert table[:4] == [["default/1"], ["test_bad.py", "1"], ["test_dead.py", "1"], ["test_good.py", "."]]
    assert " ".join(table[4]).startswith("test_bad.py, default, threads 1: test_a: ")
    assert " ".join(table[5]).startswith("test_dead.py, default, threads 1: exit code 7")
    assert table[6] == ["1", "of", "3", "passed"]


def test_a_point_stands_for_passed_and_a_gap_for_not_run() -> None:
    here, there = Place("default", 1), Place("avx2", 2)
    outcomes = [
        Outcome(Job(Path("a.ipynb"), here, 0), []),
        Outcome(Job(Path("b.ipynb"), there, None), ["Cell 3: no", "Cell 4: no"]),
    ]
    assert everywhere.table(outcomes).splitlines() == [
        "         default/1 seed 0  avx2/2",
        "a.ipynb  .",
        "b.ipynb                    2",
        "b.ipynb, avx2, threads 2: Cell 3: no",
        "b.ipynb, avx2, threads 2: Cell 4: no",
    ]


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (
            "E   assert 1 == 2\nNameError: name 'x'\n[+43 more lines; full report in element text]",
            "NameError: name 'x'",
        ),
        ("AssertionError\nE  later\nAssertionError: 3 < 2\n\n", "AssertionError: 3 < 2"),
        ("cell output differs\n", "cell output differs"),
        ("", ""),
    ],
)
def test_a_long_report_is_told_by_its_error(report: str, told: str) -> None:
    assert everywhere.reason(report) == told
