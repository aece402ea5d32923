"""From a function to a verdict: it is called on every case, and its answers are compared.

Whatever the function does, raise, write into its arguments, return something else, becomes a fault with words.
"""

import inspect
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from minirtmdet.judge.compare import Difference, describe, difference
from minirtmdet.judge.exercise import Case, Exercise
from minirtmdet.judge.waits import watch_reads

Function = Callable[..., Any]
WIDTH = 79


class Fault(NamedTuple):
    """What is wrong.

    Attributes:
        case: what was tried.
        expected: in words.
        came: in words.
        likely: the mistake, where it is known.
    """

    case: str
    expected: str
    came: str
    likely: str = ""

    def __str__(self) -> str:
        lines = {"case": self.case, "expected": self.expected, "came": self.came, "likely": self.likely}
        return "\n".join(_paragraph(f"  {title:10}", text) for title, text in lines.items() if text)


class Verdict(NamedTuple):
    """What was found out about a function.

    Attributes:
        exercise: its name.
        tried: the checks: cases, then gradients and waiting where the exercise asks for them.
        faults: those that failed, none where the answer is right.
    """

    exercise: str
    tried: Sequence[str]
    faults: Sequence[Fault]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        if self.right:
            return _paragraph(f"{self.exercise}: right. ", f"Tried: {'; '.join(self.tried)}.", "  ")
        first, *others = self.faults
        passed = f" {len(self.tried) - len(self.faults)} of {len(self.tried)} checks pass." if self.tried else ""
        parts = [f"{self.exercise}: not yet.{passed}", str(first)]
        if others:
            parts.append(_paragraph("  ", f"Wrong too: {'; '.join(fault.case for fault in others)}.", "  "))
        return "\n".join([*parts, f'  Stuck? judge.hint("{self.exercise}")'])


def _paragraph(start: str, text: str, indent: str = " " * 12) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=indent)


def judge_function(exercise: Exercise, function: Any) -> Verdict:
    """Try a function on every case of an exercise; then its gradients; then whether it waits."""
    unusable = _unusable(exercise, function)
    if unusable:
        return Verdict(exercise.name, (), [unusable])
    tried = [case.name for case in exercise.cases]
    answers = [_call(function, case.make()) for case in exercise.cases]
    judged = [_judge(exercise, case, answer) for case, answer in zip(exercise.cases, answers, strict=True)]
    faults = [fault for fault in judged if fault]
    if faults:
        first = faults[0]
        likely = _recognise(exercise, answers, judged.index(first)) or first.likely
        return Verdict(exercise.name, tried, [first._replace(likely=likely), *faults[1:]])
    if exercise.learns:
        tried.append("gradients")
        faults += _gradient_faults(exercise, function)
    if exercise.asks_nothing:
        tried.append("no wait for the device")
        faults += _waits(exercise, function)
    return Verdict(exercise.name, tried, faults)


def _unusable(exercise: Exercise, function: Any) -> Fault | None:
    """Something that cannot be called as the exercise says."""
    expected = exercise.signature
    if not callable(function):
        likely = "Give the function itself, not what it returns: its name, without parentheses."
        return Fault("the function", expected, describe(function), likely)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions of C have none
        return None
    for case in exercise.cases:
        arguments = case.make()
        try:
            signature.bind(*arguments)
        except TypeError as error:
            name = getattr(function, "__name__", "the function")
            return Fault("the signature", expected, f"{name}{signature}", f"Called as the exercise says: {error}.")
    return None


class Answer(NamedTuple):
    """What a call gave: a value, or a fault's two halves."""

    value: Any = None
    wrong: Difference | None = None


def _call(function: Function, arguments: tuple[Any, ...]) -> Answer:
    """Call a function with copies of its arguments, and look at these afterwards."""
    given = _copy(arguments)
    try:
        value = function(*given)
    except (Exception, SystemExit) as error:
        return Answer(wrong=_raised(function, error))
    names = _names(function, len(arguments))
    for name, before, after in zip(names, arguments, given, strict=True):
        if not _same(before, after):
            likely = "Work on a copy, x.clone(), or use operations without an underscore at the end of their names."
            return Answer(wrong=Difference(f"`{name}` stays as it is", f"`{name}` is changed in place", likely))
    return Answer(value)


def _copy(values: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, values)


def _same(one: Any, other: Any) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=False)
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor)]
    return all(a.shape == b.shape and torch.isclose(a, b, 0, 0, equal_nan=True).all() for a, b in tensors)


def _names(function: Function, count: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)[:count]
    except (TypeError, ValueError):
        names = []
    return names + [f"argument {i + 1}" for i in range(len(names), count)]


def _raised(function: Function, error: BaseException) -> Difference:
    """An exception, and the reader's line that it came from."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    line = f" in line {frames[-1].lineno}: {frames[-1].line}".rstrip(": ") if frames else ""
    message = str(error).partition("\n")[0]
    return Difference("an answer", f"{type(error).__name__}{line}", message)


def _judge(exercise: Exercise, case: Case, answer: Answer) -> Fault | None:
    """What is wrong with the answer to one case."""
    wrong = answer.wrong
    if wrong is None:
        arguments = case.make()
        expected = case.expected() if case.expected else exercise.solution(*arguments)
        wrong = difference(expected, answer.value, exercise.rtol, exercise.atol)
        if wrong and case.admits and _alike(expected, answer.value) and case.admits(*arguments, answer.value):
            wrong = None
    return Fault(case.name, *wrong) if wrong else None


def _alike(expected: Any, answer: Any) -> bool:
    """Whether an answer has the kind, shape and type that a rule for ties can be asked about."""
    if isinstance(expected, Tensor):
        return isinstance(answer, Tensor) and (answer.shape, answer.dtype) == (expected.shape, expected.dtype)
    return isinstance(answer, (type(expected), Tensor))


def _recognise(exercise: Exercise, answers: Sequence[Answer], first: int) -> str:
    """The mistake that gives these answers in every case; otherwise one that gives the first wrong one."""
    if answers[first].wrong:
        return ""
    in_one = ""
    for mistake in exercise.mistakes:
        theirs = [_call(mistake.answer, case.make()) for case in exercise.cases]
        same = [_agree(exercise, one, other) for one, other in zip(theirs, answers, strict=True)]
        if all(same):
            return f"This is what comes out if {mistake.words}"
        if same[first] and not in_one:
            in_one = f"In this case it is what comes out if {mistake.words}"
    return in_one


def _agree(exercise: Exercise, one: Answer, other: Answer) -> bool:
    if one.wrong or other.wrong:
        return bool(one.wrong and other.wrong)
    return difference(one.value, other.value, exercise.rtol, exercise.atol) is None


def _gradient_faults(exercise: Exercise, function: Function) -> list[Fault]:
    """The first case whose gradient differs."""
    for case in exercise.cases:
        if not case.smooth:
            continue
        expected = _gradients(exercise, exercise.solution, case)
        try:
            found = _gradients(exercise, function, case)
        except (Exception, SystemExit) as error:
            return [Fault(f"gradient, {case.name}", *_raised(function, error))]
        wrong = _of_gradients(exercise, _names(function, len(case.make())), expected, found)
        if wrong:
            likely = _recognise_gradient(exercise, case, found) or wrong.likely
            return [Fault(f"gradient, {case.name}", wrong.expected, wrong.came, likely)]
    return []


def _gradients(exercise: Exercise, function: Function, case: Case) -> list[Tensor | None]:
    """Of a weighted sum of the answer, by each argument that learns; None where it does not depend on it."""
    arguments = list(_copy(case.make()))
    leaves = [arguments[i].requires_grad_() for i in exercise.learns]
    answer = function(*arguments)
    if not answer.requires_grad:
        return [None] * len(leaves)
    weights = torch.linspace(0.5, 1.5, answer.numel()).view_as(answer)  # equal ones could hide a mix-up
    return list(torch.autograd.grad((answer * weights).sum(), leaves, allow_unused=True))


def _of_gradients(
    exercise: Exercise, names: list[str], expected: list[Tensor | None], found: list[Tensor | None]
) -> Difference | None:
    for position, right, ours in zip(exercise.learns, expected, found, strict=True):
        if right is None or not right.numel():
            continue
        if ours is None:
            likely = "Something cuts it: detach, item, no_grad, a comparison, or a new tensor made of numbers."
            return Difference(f"a gradient for `{names[position]}`", "none", likely)
        wrong = difference(right, ours, exercise.rtol, exercise.atol)
        if wrong:
            return wrong
    return None


def _recognise_gradient(exercise: Exercise, case: Case, found: list[Tensor | None]) -> str:
    """The mistake that has this gradient."""
    names = [""] * len(case.make())
    for mistake in exercise.mistakes:
        try:
            theirs = _gradients(exercise, mistake.answer, case)
        except (RuntimeError, IndexError):
            continue
        cut = any(one is None for one in theirs)
        if not cut and _of_gradients(exercise, names, theirs, found) is None:
            return f"This is what comes out if {mistake.words}"
    return ""


def _waits(exercise: Exercise, function: Function) -> list[Fault]:
    """What a function asks its device for, in the first case."""
    arguments = _copy(exercise.cases[0].make())
    with watch_reads() as seen:
        function(*arguments)
    if not seen:
        return []
    asked = ", ".join(dict.fromkeys(name.lstrip("_") for name in seen))
    likely = (
        "A Python number, or a shape, that depends on the data: a GPU has to finish before the host can go on. "
        "Use torch.where, gather, scatter or a product with a mask."
    )
    return [Fault("no wait for the device", "nothing is read on the host", f"{len(seen)} reads: {asked}", likely)]
