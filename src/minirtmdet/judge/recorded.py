"""What MMDetection 3.3.0 itself answered to some calls, as the parity tests recorded it."""

from pathlib import Path
from typing import Any

from safetensors import safe_open

from minirtmdet.judge.exercise import Case

RECORD = Path(__file__).with_name("mmdetection.safetensors")


def recorded(name: str) -> Case:
    """The recorded call of an exercise.

    Args:
        name: of the exercise.
    """
    return Case("what MMDetection 3.3 answered", lambda: tuple(_values(name)[:-1]), expected=lambda: _values(name)[-1])


def _values(name: str) -> list[Any]:
    """Arguments in order, then the answer; numbers as numbers."""
    with safe_open(RECORD, framework="pt") as file:
        count = sum(key.startswith(f"{name}/") for key in file.keys())  # noqa: SIM118
        tensors = [file.get_tensor(f"{name}/{place}") for place in range(count)]
    return [tensor if tensor.ndim else tensor.item() for tensor in tensors]
