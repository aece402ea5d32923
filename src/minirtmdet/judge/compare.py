"""How an answer differs from the right one, in words."""

import math
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Difference(NamedTuple):
    """What was expected in one place, and what came.

    Attributes:
        expected: in words.
        came: in words.
        likely: why, where the difference itself says so.
    """

    expected: str
    came: str
    likely: str = ""


def difference(expected: Any, answer: Any, rtol: float, atol: float) -> Difference | None:
    """The first difference that matters: kind, then number of parts or shape, then type, then values."""
    if answer is None and expected is not None:
        return Difference(describe(expected), "None", "The `return` is missing, or the function is still empty.")
    if isinstance(expected, Tensor):
        return _of_tensors(expected, answer, rtol, atol)
    if isinstance(expected, tuple):
        return _of_tuples(expected, answer, rtol, atol)
    if hasattr(answer, "tolist"):  # of torch or NumPy
        answer = answer.tolist()
    if isinstance(expected, list):
        same = isinstance(answer, (list, tuple)) and list(answer) == expected
        return None if same else Difference(describe(expected), describe(answer))
    if not isinstance(answer, (int, float)) or (isinstance(expected, int) and not isinstance(answer, int)):
        likely = "Divide by // to stay with whole numbers." if isinstance(answer, float) else ""
        return Difference(describe(expected), describe(answer), likely)
    close = math.isclose(answer, expected, rel_tol=rtol, abs_tol=atol if isinstance(expected, float) else 0)
    return None if close else Difference(_number(expected), _number(answer))


def _of_tuples(expected: tuple[Any, ...], answer: Any, rtol: float, atol: float) -> Difference | None:
    if not isinstance(answer, (tuple, list)) or len(answer) != len(expected):
        return Difference(f"{len(expected)} results", describe(answer))
    for number, (one, other) in enumerate(zip(expected, answer, strict=True), start=1):
        found = difference(one, other, rtol, atol)
        if found:
            return found._replace(expected=f"result {number} of {len(expected)}: {found.expected}")
    return None


def _of_tensors(expected: Tensor, answer: Any, rtol: float, atol: float) -> Difference | None:
    if not isinstance(answer, Tensor):
        return Difference(describe(expected), describe(answer), "Return a tensor: torch.stack or torch.cat makes one.")
    if answer.shape != expected.shape:
        return Difference(describe(expected), describe(answer), _reason_of_shape(expected, answer))
    if answer.dtype != expected.dtype:
        kind = str(expected.dtype).removeprefix("torch.")
        return Difference(describe(expected), describe(answer), f"The type of the numbers has to be {kind}.")
    right = torch.isclose(answer, expected, rtol=rtol, atol=atol, equal_nan=True)
    if right.all():
        return None
    gap = (answer.double() - expected.double()).abs().nan_to_num(torch.inf, torch.inf).masked_fill(right, -1)
    worst = torch.unravel_index(gap.argmax(), gap.shape) if gap.ndim else ()
    place = f" at [{', '.join(str(int(i)) for i in worst)}]" if gap.ndim else ""
    count = f" ({int((~right).sum())} of {right.numel()} differ)" if right.numel() > 1 else ""
    likely = "0 / 0 or infinity minus infinity came up on the way." if answer[worst].isnan() else ""
    return Difference(f"{_number(expected[worst].item())}{place}", f"{_number(answer[worst].item())}{count}", likely)


def _reason_of_shape(expected: Tensor, answer: Tensor) -> str:
    if answer.ndim == expected.ndim and tuple(answer.shape) in set(permutations(expected.shape)):
        return "The axes are in another order."
    if answer.numel() == expected.numel():
        return "All numbers are there, in another shape: see view, flatten or squeeze."
    if answer.shape in [expected.shape[:i] + expected.shape[i + 1 :] for i in range(1, expected.ndim)]:
        return "An axis is missing: x[:, None] makes one, so that each of these meets each of those."
    return ""


def describe(value: Any) -> str:
    """A value's kind and size."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (tuple, list)):
        if len(value) <= 8 and all(isinstance(item, (int, float, str)) for item in value):
            return str(list(value))
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, (int, float)):
        return f"{_number(value)} ({type(value).__name__})"
    return f"a {type(value).__name__}"


def _number(value: int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
