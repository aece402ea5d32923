"""Short pieces of code and numbers are not broken over two lines, long ones and those in tables between words."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from docutils import nodes

WHOLE = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "whole_words.py"))


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
    WHOLE["keep_code_whole"](None, document)
    assert ("whole" in literal["classes"]) == whole
    assert literal.astext() == text


@pytest.mark.parametrize(
    ("text", "table", "wholes"),
    [
        ("predict --tiles --threshold best --evaluation evaluation", False, ["--tiles", "--threshold", "--evaluation"]),
        ("minirtmdet quantize cards.onnx --out cards-int8.onnx", False, ["--out", "cards-int8.onnx"]),
        ("--assigner.ignore-regions", False, ["--assigner.ignore"]),  # too long to be whole: not after its hyphens
        ("few-256 --weights tiny", True, ["--weights"]),
        ("runs/mini-160", True, []),  # a column may be narrower than a word
        ("benchmarks/results/head_construction.json", False, []),
    ],
)
def test_long_literals_break_between_words_and_not_within_options(text: str, table: bool, wholes: list[str]) -> None:
    literal = nodes.literal("", text)
    place: Any = nodes.paragraph("", "Read ", literal)
    WHOLE["keep_code_whole"](None, nodes.section("", nodes.entry("", place) if table else place))
    assert [part.astext() for part in literal.findall(nodes.inline)] == wholes
    assert literal.astext() == text


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("an image of 1,440 × 1,920 pixels, and 1 % of it", ["1,440 × 1,920", "1 %"]),
        ("8 × 10 × 3", ["8 × 10 × 3"]),
        ("(0.36 − 0.5)² = 3 · 16.1 / 2", ["0.36 − 0.5", "3 · 16.1 / 2"]),
        ("1 + 2 + 4 + 8 + 16 + 32 + 64", []),  # longer than a line of a phone
        ("1e-3 or more, never 1e5", ["1e-3"]),
        ("boxes × classes, 30 fox-like boxes", []),
    ],
)
def test_numbers_stay_whole_and_the_text_is_the_same(text: str, whole: list[str]) -> None:
    document = nodes.section("", nodes.paragraph("", "", nodes.emphasis("", text), nodes.literal("", "1e-3")))
    WHOLE["keep_numbers_whole"](None, document)
    assert [found.astext() for found in document.findall(nodes.inline)] == whole
    assert document.astext() == text + "1e-3"
