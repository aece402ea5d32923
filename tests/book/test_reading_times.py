"""The reading time of a chapter: prose and code at their own pace, folded code not at all, exercises apart."""

import runpy
from pathlib import Path

import pytest
from docutils import nodes

TIMES = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "reading_times.py"))


def words(count: int) -> nodes.paragraph:
    return nodes.paragraph("", "word " * count)


def cell(code: str, *classes: str) -> nodes.container:
    source = nodes.container("", nodes.literal_block("", code), nb_element="cell_code_source")
    return nodes.container("", source, classes=["cell", *classes])


@pytest.mark.parametrize(
    ("node", "minutes"),
    [
        (words(200), 1),
        (words(100), 0.5),
        (cell("x = y\n" * 125), 1.5),
        (cell("x = y\n" * 125, "tag_hide-input"), 0),
        (cell("x = y\n" * 125, "tag_remove-input"), 0),
        (nodes.math("", "a " * 250), 1),
        (nodes.raw("", "word " * 200), 0),
        (nodes.comment("", "word " * 200), 0),
    ],
)
def test_prose_and_code_have_their_own_pace(node: nodes.Node, minutes: float) -> None:
    document = nodes.section("", node)
    assert TIMES["minutes"](document) == pytest.approx(minutes, abs=0.01)


def test_what_a_cell_prints_counts_and_what_a_figure_says_of_itself_does_not() -> None:
    printed = nodes.container("", nodes.literal_block("", "1 2 3 4 5 " * 50), nb_element="cell_code_output")
    assert TIMES["minutes"](printed) == 1
    forms = [nodes.container("", nodes.literal_block("", "1 " * 250), mime_type=mime) for mime in ("image/png",)]
    assert TIMES["minutes"](nodes.container("", *forms)) == 0


def test_exercises_are_counted_apart() -> None:
    chapter = nodes.section("", nodes.title("", "Chapter"), words(400))
    tasks = nodes.section("", nodes.title("", "Exercises"), words(199))
    chapter += tasks
    document = nodes.section("", chapter)
    assert TIMES["exercises"](document) == [tasks]
    assert TIMES["minutes"](tasks) == 1


class App:
    """As much of Sphinx as the hook asks for."""

    class env:
        docname = "book/chapter"

        @staticmethod
        def doc2path(name: str) -> str:
            return f"{name}.ipynb"


@pytest.mark.parametrize("typed", ["", " · Reading time: 3 minutes; your machine trains for two of them"])
def test_the_time_stands_behind_the_modules_and_replaces_a_typed_one(typed: str) -> None:
    line = nodes.paragraph("", "", nodes.Text(f"Module: x · Tests: y{typed}"))
    chapter = nodes.section("", nodes.title("", "Chapter"), line, words(393))
    chapter += nodes.section("", nodes.title("", "Exercises"), words(250))
    document = nodes.document(None, None)
    document += chapter
    TIMES["state"](App, document)
    assert line.astext() == "Module: x · Tests: y · Reading time: 2 minutes, 4 with exercises"
