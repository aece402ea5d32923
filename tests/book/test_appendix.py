"""The appendix: every line names a test that exists, every recorded answer has its place, the table is complete."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from parity import ours, ours_instances
from parity.live import KINDS
from parity.record_errata import ERRATA
from parity.test_fixtures import ALL

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "book").glob("*.md")) + sorted((ROOT / "book").glob("*.ipynb"))


@cache
def source_of_tests(file: str) -> dict[str, str]:
    """The source of each test of a file under ``tests/``, decorators included."""
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    lines = source.splitlines()
    return {
        node.name: "\n".join(lines[min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1 : node.end_lineno])
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named_tests(text: str) -> list[str]:
    return re.findall(r"\{test\}`([^`]+)`", text)


def sections(page: str) -> dict[str, str]:
    """The text under each heading of the third level."""
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    parts = re.split(r"^(#{1,3}) (.+)$", text, flags=re.MULTILINE)
    return {
        title: body for level, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True) if level == "###"
    }


def exists(test: str) -> bool:
    match = re.fullmatch(r"(.+\.py)::(\w+)(?:\[(.+)\])?", test)
    if match is None or not (ROOT / "tests" / match[1]).is_file():
        return False
    source, case = source_of_tests(match[1]).get(match[2]), match[3]
    if source is None or case is None:
        return source is not None
    return f'"{case}"' in source or ("parametrize" in source and case in {parameters.id for parameters in ALL})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in named_tests(page.read_text(encoding="utf-8")) if not exists(name)] == []


def test_a_test_that_is_gone_would_be_noticed() -> None:
    assert exists("parity/test_errata.py::test_a_changed_step_is_another_assignment[no valid flags]")
    assert not exists("parity/test_errata.py::test_a_changed_step_is_another_assignment[no such flags]")
    assert not exists("parity/test_errata.py::test_nothing")
    assert not exists("test_nowhere.py::test_nothing")
    assert not exists("parity/test_fixtures.py::test_answers_as_mmdetection[racing-assign-nowhere]")


@pytest.mark.parametrize("page", ["errata", "side_by_side"])
def test_every_line_is_held_by_a_test(page: str) -> None:
    assert len(sections(page)) > 15
    assert [title for title, body in sections(page).items() if not named_tests(body)] == []


def test_every_erratum_says_what_happens_here() -> None:
    assert [title for title, body in sections("errata").items() if "\nHere\n: " not in body] == []


def test_every_recorded_answer_is_shown_once() -> None:
    shown = re.findall(r"```\{erratum\} (\w+)", (ROOT / "book" / "errata.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(ERRATA)


def test_the_table_is_of_a_whole_run_without_differences() -> None:
    table = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text(encoding="utf-8"))
    lanes = {
        "racing": ours.RACING | ours_instances.RACING,
        "reading": ours.READING | ours_instances.READING,
    }
    expected = [(kind, lane) for kind in KINDS for lane, steps in lanes.items() if kind in steps]
    assert [(row["kind"], row["lane"]) for row in table["rows"]] == expected
    for row in table["rows"]:
        kind = KINDS[row["kind"]]
        assert (row["cases"], row["what"], row["tolerance"]) == (kind.count, kind.what, kind.tolerance)
        assert row["numbers"] > 0
        assert row["failed"] == []
    assert table["reference"]["mmdet"] == "3.3.0"
