"""Shapes are checked in the first calls of each test.

    pytest --jaxtyping-packages=minirtmdet,shape_checks.checked

A check takes longer than a small operation, and some tests call small functions a hundred thousand times.  What is
wrong with a function's shapes shows in its first calls, so checks end after some of them and begin anew with the next
test.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from jaxtyping import config

CHECKS = 1_000
"""Checks per test; a call has two, of what it is given and of what it returns."""
_left = CHECKS


def begin() -> None:
    """Check again, as many times as a test may."""
    global _left
    _left = CHECKS
    config.update("jaxtyping_disable", False)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``beartype``, counted: the type checker that jaxtyping is given."""
    from beartype import beartype  # not on machines that run tests without the checks

    check = beartype(function)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _left
        _left -= 1
        if _left <= 0:
            config.update("jaxtyping_disable", True)
        return check(*args, **kwargs)

    return counted
