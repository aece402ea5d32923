"""A device that is no processor, on any machine: what it does, the processor does, but its tensors are its own.

Inside :class:`Pretend` an operation that is given tensors of both devices fails as it does on a GPU, and everything for
which a GPU would make the host wait is noted, with the line that asked for it.  Values are real, so that whole
predictions, evaluations and training steps run, under autocast too.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import minirtmdet
from minirtmdet.judge.waits import reads_a_value

PACKAGE = Path(minirtmdet.__file__).parent
NAME = "pretend"


class _Backend:
    """What torch asks the module of a device."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any) -> Tensor:
    """What autocast makes of a convolution, on this device as on GPUs."""
    dtype = torch.get_autocast_dtype(NAME)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        bias = None if bias is None else bias.to(dtype)
        return torch.ops.aten.conv2d(x.to(dtype), weight.to(dtype), bias, *rest)


_libraries: list[torch.library.Library] = []


def set_up() -> torch.device:
    """The device; skips the test where torch cannot have one that is written in Python."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"torch {torch.__version__} knows no devices that are written in Python")
    if not _libraries:
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
        everything = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
        everything.fallback(torch.library.fallthrough_kernel)
        convolution = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
        convolution.impl("conv2d", _convolve)
        _libraries.extend((everything, convolution))  # what is registered lasts as long as they
    return torch.device(NAME, 0)


class PretendTensor(Tensor):
    """A tensor of the device."""

    host: Tensor
    """Where its values really are."""

    @staticmethod
    def __new__(cls, host: Tensor) -> "PretendTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        made.host = host
        return made

    def __repr__(self) -> str:
        return f"{NAME} {self.host}"

    def tolist(self) -> Any:
        """Values, which torch gives of no subclass."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} of a tensor of {NAME} outside of Pretend()")


class Pretend(TorchDispatchMode):
    """Operations on tensors of the device, and on those of the host.

    Attributes:
        device: the device.
        waits: what the host waited for, and where in the package (``head/losses.py:12``), since the last clear.
        operations: how many there were on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = set_up()
        self.waits: Counter[str] = Counter()
        self.operations = 0

    def __enter__(self) -> "Pretend":
        # torch.tensor(..., device=) then makes its tensor on the host and moves it by an operation that is seen here
        self._lift_before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lift_before)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function._schema.name.split("::")[1]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = any(isinstance(tensor, PretendTensor) for tensor in tensors)
        to_us = ours
        if kwargs.get("device") is not None:
            to_us = torch.device(kwargs["device"]).type == NAME
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        copies = name in ("_to_copy", "copy_")
        if ours and not copies and any(not isinstance(t, PretendTensor) and t.ndim for t in tensors):
            raise RuntimeError(f"{function} is given tensors of two devices, in {_place()}")
        if ours or to_us:
            self.operations += 1
            if reads_a_value(function, args) or (copies and self._waits_to_copy(name, args, kwargs, to_us)):
                self.waits[f"{name} in {_place()}"] += 1
        answer = function(*tree_map(_host, args), **tree_map(_host, kwargs))
        if name == "copy_":
            return args[0]
        if not to_us:
            return answer
        answer = tree_map(lambda leaf: PretendTensor(leaf) if isinstance(leaf, Tensor) else leaf, answer)
        return return_and_correct_aliasing(function, args, kwargs, answer)

    @staticmethod
    def _waits_to_copy(name: str, args: Any, kwargs: dict[str, Any], to_us: bool) -> bool:
        """Whether a copy crosses from one device to the other, and is not told to go on its own."""
        if name == "_to_copy":
            crosses = isinstance(args[0], PretendTensor) != to_us
            return crosses and not (to_us and kwargs.get("non_blocking"))
        target, source = args[:2]
        crosses = isinstance(target, PretendTensor) != isinstance(source, PretendTensor)
        alone = len(args) > 2 and args[2]
        return crosses and not (alone and isinstance(target, PretendTensor))


def _host(value: Any) -> Any:
    return value.host if isinstance(value, PretendTensor) else value


def _place() -> str:
    """The innermost line of the package, or of a test, that is being worked on."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parents:
            return f"{path.relative_to(PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a test"
