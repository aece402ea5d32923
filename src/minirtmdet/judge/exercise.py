"""What an exercise is made of: the answer, the cases it is tried on, usual mistakes, and hints."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args


class Case(NamedTuple):
    """One call of the reader's function.

    Attributes:
        name: what is special about it.
        make: the arguments of the call, made anew each time.
        admits: whether an answer is right, where several are; compared with the package's answer where left out.
        smooth: whether there is only one gradient here; at a corner of a minimum there are several.
        expected: an answer that was recorded; what the package computes where left out.
    """

    name: str
    make: Callable[[], tuple[Any, ...]]
    admits: Callable[..., bool] | None = None
    smooth: bool = True
    expected: Callable[[], Any] | None = None


class Mistake(NamedTuple):
    """A wrong answer that one gives easily.

    Attributes:
        words: what was done, and what is right; it completes "This is what comes out if ...".
        answer: a function that makes the mistake.
    """

    words: str
    answer: Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """A function that the reader writes.

    Attributes:
        solution: the package's own; its name, its signature and its docstring are the exercise's.
        chapter: the page that asks for it, by the name of its file.
        cases: what it is tried on.
        mistakes: what is recognised.
        hints: first a nudge, then more.
        learns: positions of the arguments that a gradient has to reach.
        asks_nothing: whether the function must not wait for a device.
        rtol: how far numbers may be off, relatively.
        atol: and absolutely.
    """

    solution: Callable[..., Any]
    chapter: str
    cases: Sequence[Case]
    mistakes: Sequence[Mistake]
    hints: Sequence[str]
    learns: Sequence[int] = ()
    asks_nothing: bool = False
    rtol: float = 1e-4
    atol: float = 1e-5

    @property
    def name(self) -> str:
        """What the exercise is called."""
        return self.solution.__name__

    @property
    def task(self) -> str:
        """What is to be computed, in a sentence."""
        return (self.solution.__doc__ or "").partition("\n")[0]

    @property
    def signature(self) -> str:
        """Names, shapes and defaults, as in ``soft_center(priors [N,4], centers [B,G,2], radius=3.0) -> [B,G,N]``."""
        signature = inspect.signature(self.solution)
        parameters = ", ".join(map(_parameter, signature.parameters.values()))
        return f"{self.name}({parameters}) -> {_kind(signature.return_annotation)}"


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.default is not parameter.empty:
        return f"{parameter.name}={parameter.default}"
    kind = _kind(parameter.annotation)
    return f"{parameter.name} {kind}" if kind.startswith("[") else parameter.name


def _kind(annotation: Any) -> str:
    """The shape of a tensor, or what Python calls a type."""
    if hasattr(annotation, "dim_str"):
        return f"[{','.join(annotation.dim_str.split())}]"
    parts = ", ".join(map(_kind, get_args(annotation)))
    if annotation.__name__ == "tuple":
        return f"({parts})"
    return f"{annotation.__name__} of {parts}" if parts else annotation.__name__
