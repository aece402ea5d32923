"""Weights that follow from their names alone, so that two programs can hold the same network without a file.

Plain torch: the reference environment imports this file too.
"""

import math
import zlib

import torch
from torch import Tensor, nn


def value_for(key: str, shape: torch.Size) -> Tensor:
    """The value of one entry of a state_dict, drawn from a generator that its name seeds."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith(("bias", "running_mean")):
        return 0.1 * torch.randn(shape, generator=generator)
    if len(shape) >= 2:  # weights of convolutions and linear layers: outputs keep the size of the inputs
        return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
    return 0.5 + torch.rand(shape, generator=generator)  # norm weights, running_var and scales


def fill(model: nn.Module) -> nn.Module:
    """Overwrite every parameter and buffer of ``model``.

    Shared tensors are listed once a name; the last name in sorted order wins, whatever the order of the modules.
    """
    state = model.state_dict()
    for key in sorted(state):
        state[key].copy_(value_for(key, state[key].shape))
    return model
