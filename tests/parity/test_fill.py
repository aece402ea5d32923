"""Weights that follow from names: two programs hold the same network only where they make the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from parity.fill import value_for
from parity.record import checksum

SHAPES = {"conv.weight": (8, 4, 3, 3), "conv.bias": (40,), "bn.running_mean": (40,), "bn.running_var": (40,)}


def checksums() -> list[str]:
    """One for each kind of entry that has values."""
    return [str(checksum(value_for(key, torch.Size(shape)))) for key, shape in SHAPES.items()]


def test_weights_are_the_same_without_vector_instructions() -> None:
    """torch.randn's were not: their last bits came from other code, and batch statistics enlarged them."""
    plain = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(Path(__file__).parents[1])}
    found = subprocess.run([sys.executable, __file__], env=plain, check=True, capture_output=True, text=True)
    assert found.stdout.split() == checksums()


def test_weights_keep_the_size_of_what_goes_through() -> None:
    weight = value_for("conv.weight", torch.Size((64, 64, 3, 3)))
    assert abs(float(weight.std()) * 24 - 1) < 0.02
    variance = value_for("bn.running_var", torch.Size((1000,)))
    assert 0.5 <= float(variance.min()) < 0.51
    assert 1.49 < float(variance.max()) <= 1.5
    assert value_for("bn.num_batches_tracked", torch.Size(())).item() == 0


if __name__ == "__main__":
    print(*checksums())
