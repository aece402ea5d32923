"""Short pieces of code are not broken over two lines, long ones and those in tables may be."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from docutils import nodes

WHOLE = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "whole_literals.py"))


@pytest.mark.parametrize(
    ("text", "table", "whole"),
    [
        ("--threshold 0.5", False, True),
        ("mini-160.json", False, True),
        ("(x, y, stride, stride)", False, True),
        ("bbox_preds", False, False),  # nothing in it can break
        ("benchmarks/results/head_construction.json", False, False),
        ("(x, y)", True, False),
    ],
)
def test_short_literals_stay_whole(text: str, table: bool, whole: bool) -> None:
    literal = nodes.literal("", text)
    place: Any = nodes.paragraph("", "Read ", literal)
    document = nodes.section("", nodes.entry("", place) if table else place)
    WHOLE["keep_whole"](None, document)
    assert ("whole" in literal["classes"]) == whole
