"""Operations that make the host wait for its device, seen without a device that could be waited for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = (
    "local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "item", "bincount",
    "repeat_interleave",
)  # fmt: skip
PYTHON_READS = ("tolist", "numpy", "__array__")
"""Methods of tensors that read a processor's memory without an operation, where a GPU would have to copy first."""


class HostReads(TorchDispatchMode):
    """Records the operations that would make a GPU wait; see :func:`reads_a_value`.

    Attributes:
        seen: their names, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one operation, then do it."""
        if reads_a_value(function, args):
            self.seen.append(function._schema.name.split("::")[1])
        return function(*args, **(kwargs or {}))


def reads_a_value(function: Any, args: Any) -> bool:
    """Whether an operation hands a value to Python, or makes a shape that depends on data."""
    name = function._schema.name.split("::")[1].lstrip("_")
    if name in ("index", "index_put", "index_put_", "index_put_impl_"):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name.startswith(READS)


class _PythonReads(TorchFunctionMode):
    """Records calls of :data:`PYTHON_READS`."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at one call, then make it."""
        name = getattr(function, "__name__", "")
        if name in PYTHON_READS:
            self.seen.append(name)
        before = len(self.seen)
        result = function(*args, **(kwargs or {}))
        if name == "one_hot" and len(args) + len(kwargs or {}) > 1:
            del self.seen[before:]  # on a processor alone it looks whether the classes are in range
        return result


@contextmanager
def watch_reads() -> Iterator[list[str]]:
    """The names of all reads within, operations and methods.

    >>> with watch_reads() as seen:
    ...     _ = torch.arange(3)[torch.tensor([True, False, True])], torch.arange(3).tolist()
    >>> seen
    ['index', 'tolist']
    """
    with HostReads() as reads, _PythonReads(reads.seen):
        yield reads.seen
