"""Signatures of the API: types without marks, and defaults that fit a line."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from minirtmdet.configs import ModelConfig
from minirtmdet.settings import Range

pytest.importorskip("sphinx")
SHORT = runpy.run_path(str(Path(__file__).parents[2] / "book" / "_ext" / "short_signatures.py"))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Range(1, 2)], "int"),
        (Annotated[Annotated[float, Range(0, 1)], "mark"], "float"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Literal["a", "b", "c", "d", "e", "f", "g"], "str"),
    ],
)
def test_types_have_no_marks(annotation: Any, words: str) -> None:
    assert SHORT["short_type"](annotation, "smart").replace("~typing.", "") == words


def test_defaults_fit_a_line() -> None:
    short = SHORT["short_default"]
    assert short(3) == 3
    assert short(Path("runs")).name == "Path('runs')"
    assert short(ModelConfig()).name == "ModelConfig(...)"
    assert short(list(range(100))).name == "list(...)"


@dataclass
class Told:
    """Both fields are described."""

    first: int = 1
    """The first."""
    second: list[int] = field(default_factory=list)
    """The second."""


@dataclass
class Untold:
    """Fields without words."""

    first: int = 1


@pytest.mark.parametrize(("kind", "left_out"), [(Told, ("", None)), (Untold, None)])
def test_fields_that_are_described_are_not_listed_twice(kind: type, left_out: object) -> None:
    assert SHORT["leave_out_fields"](None, "class", kind.__name__, kind, None, "(first)", None) == left_out
