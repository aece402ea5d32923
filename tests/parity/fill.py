"""Weights that follow from their names alone, so that two programs can hold the same network without a file.

Drawn as ``cases.py`` draws, not by ``torch.randn``: that one takes its logarithms and sines from other code on
processors without AVX2, so that the weights would differ there in their last bits, and batch statistics enlarge it.
Plain torch: the reference environment imports this file too.
"""

import math

import torch
from parity.cases import normal, uniform
from torch import Tensor, nn


def value_for(key: str, shape: torch.Size) -> Tensor:
    """The value of one entry of a state_dict, drawn from a hash of its name."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith(("bias", "running_mean")):
        return normal(key, *shape, std=0.1)
    if len(shape) >= 2:  # weights of convolutions and linear layers: outputs keep the size of the inputs
        return normal(key, *shape, std=1 / math.sqrt(math.prod(shape[1:])))
    return uniform(key, *shape, low=0.5, high=1.5)  # norm weights, running_var and scales


def fill(model: nn.Module) -> nn.Module:
    """Overwrite every parameter and buffer of ``model``.

    Shared tensors are listed once a name; the last name in sorted order wins, whatever the order of the modules.
    """
    state = model.state_dict()
    for key in sorted(state):
        state[key].copy_(value_for(key, state[key].shape))
    return model
