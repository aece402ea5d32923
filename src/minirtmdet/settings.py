"""What every dataclass of settings can do: refuse numbers out of range, be listed flat, and be read from JSON."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, as the metadata of its type; NaN and infinity are never among them.

    >>> str(Range(0, 1)), str(Range(1)), str(Range(32, multiple=32)), str(Range(above=True))
    ('a number from 0 to 1', 'at least 1', 'a multiple of 32, at least 32', 'a number above 0')
    """

    low: int | float = 0
    """The least."""
    high: int | float = math.inf
    """The largest."""
    above: bool = False
    """Only numbers above ``low``."""
    multiple: int = 0
    """Only multiples of this, where it is set."""

    def __contains__(self, value: int | float) -> bool:
        inside = self.low < value if self.above else self.low <= value
        return inside and value <= self.high and math.isfinite(value) and not (self.multiple and value % self.multiple)

    def __str__(self) -> str:
        if self.multiple:
            return f"a multiple of {self.multiple}, at least {self.low:g}"
        if self.high < math.inf:
            return f"a number from {self.low:g} to {self.high:g}"
        return f"a number above {self.low:g}" if self.above else f"at least {self.low:g}"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0)]
Factor = Annotated[float, Range(above=True)]


def flat_settings(settings: Any) -> dict[str, Any]:
    """All settings of a dataclass by their dotted names, as the command line writes them."""

    def flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(flat(asdict(settings), ""))


def out_of_range(hints: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers, in ``values`` and in the settings there, that the :class:`Range` of their type does not have.

    Args:
        hints: types by name, as ``typing.get_type_hints(..., include_extras=True)`` gives them.
        values: by the same names; None, where it is allowed, stands for a number that was left out.

    Yields:
        The dotted name of each, and what is wrong.
    """
    for name, value in values.items():
        if is_dataclass(value):
            inner = typing.get_type_hints(type(value), include_extras=True)
            yield from ((f"{name}.{key}", problem) for key, problem in out_of_range(inner, vars(value)))
        elif value is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            for number, allowed in zip(numbers, _ranges(hints.get(name)), strict=False):
                if not isinstance(number, str) and number not in allowed:  # a word may stand for a number
                    yield name, f"is {number}: expected {allowed}"


def check_settings(settings: Any, prefix: str = "") -> None:
    """Raise a ValueError for the first number of a dataclass of settings that is out of its range, by dotted name.

    >>> @dataclass
    ... class Run:
    ...     epochs: Count = 0
    >>> check_settings(Run())
    Traceback (most recent call last):
    ValueError: epochs is 0: expected at least 1
    """
    for name, problem in out_of_range(typing.get_type_hints(type(settings), include_extras=True), vars(settings)):
        raise ValueError(f"{prefix}{name} {problem}")


def _ranges(hint: Any) -> list[Range]:
    """The ranges of a type: its own, or one for each number of a tuple."""
    own = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range)]
    return own + [found for part in typing.get_args(hint) for found in _ranges(part)]


def decode(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type that a field asks for.

    Raises:
        ValueError: naming a setting that the dataclass does not have.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        if unknown := set(value) - set(hints):
            raise ValueError(f"unknown setting {name}.{min(unknown)}: was it written by a newer version?")
        return hint(**{key: decode(hints[key], item, f"{name}.{key}") for key, item in value.items()})
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else decode(options[0], value, name)
    if typing.get_origin(hint) is tuple:
        return tuple(decode(option, item, name) for option, item in zip(typing.get_args(hint), value, strict=True))
    return hint(value) if hint in (Path, float) else value
