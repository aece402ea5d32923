"""Write the fixtures: what MMDetection answers to every case.

From the repository, in the reference environment (``tests/parity/reference_env/setup.sh``)::

    PYTHONPATH=tests .venv-reference/bin/python -m parity.record [KIND ...]

A fixture is a compressed ``.npz`` with arrays ``case/name`` and ``versions``.  Inputs are not in it: ``cases.py``
makes the same bits everywhere, and ``case/inputs`` holds their checksum.
"""

import json
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import cases, instances, original, original_instances
from parity.compare import shorten
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"

ANSWERS = original.ANSWERS | original_instances.ANSWERS
# kind -> name -> case; a whole step of training is compared live only, its gradients are too many to keep
KINDS: dict[str, Mapping[str, Callable[[], Any]]] = {
    "priors": cases.PRIORS,
    "overlaps": cases.OVERLAPS,
    "coder": cases.CODER,
    "assign": cases.SCENES,
    "max_iou": cases.RIVALS,
    "fcos": cases.RIVALS,
    "sim_ota": cases.RIVALS,
    "targets": {name: cases.SCENES[name] for name in cases.TARGETS},
    "focal": cases.FOCAL,
    "giou": cases.GIOU,
    "losses": cases.LOSSES,
    "predict": cases.PREDICT,
    "forward": cases.FORWARD,
    **instances.ALL,
}


def checksum(value: Any) -> int:
    """CRC-32 of every tensor and number in a case, in order."""
    if isinstance(value, Tensor):
        return zlib.crc32(value.contiguous().numpy().tobytes())
    if isinstance(value, (list, tuple)):
        return zlib.crc32(repr([checksum(part) for part in value]).encode())
    return zlib.crc32(repr(value).encode())


def compact(value: Tensor) -> np.ndarray:
    """An array of the smallest integer type that holds the values; fp32 stays."""
    array = value.numpy()
    if array.dtype == np.int64:
        small = array.astype(np.int16)
        return small if np.array_equal(small, array) else array
    return array


def main() -> None:
    """Record every kind of case and say what was written."""
    original.quiet()
    torch.set_num_threads(1)
    FIXTURES.mkdir(exist_ok=True)
    versions = json.dumps(original.versions())
    total = 0
    for kind, makers in KINDS.items():
        if len(sys.argv) > 1 and kind not in sys.argv[1:]:
            continue
        start = time.perf_counter()
        arrays: dict[str, np.ndarray] = {"versions": np.array(versions)}
        for name, make in makers.items():
            case = make()
            answer = shorten(ANSWERS[kind](case))
            arrays[f"{name}/inputs"] = np.array(checksum(case), dtype=np.uint32)
            arrays |= {f"{name}/{field}": compact(v) for field, v in answer.items()}
        path = FIXTURES / f"{kind}.npz"
        np.savez_compressed(path, **arrays)
        total += path.stat().st_size
        print(f"{path.name}: {len(makers)} cases, {path.stat().st_size} bytes, {time.perf_counter() - start:.1f} s")
    print(f"{total} bytes in all; {versions}")


if __name__ == "__main__":
    main()
