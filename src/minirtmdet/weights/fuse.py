"""BatchNorm folded into its convolution, and taken out again: one function of the pixels, two ways to store it.

In evaluation BatchNorm multiplies each channel by a constant and adds another, and so can the convolution before it.
The folded form is what is deployed; MMDetection's own tools publish it too.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from minirtmdet.layers import ConvModule

Module = TypeVar("Module", bound=nn.Module)


def fuse_batch_norm(model: Module) -> Module:
    """A copy for prediction, without BatchNorms: same outputs up to rounding, fewer passes over memory.

    Convolutions that levels share become one per level, because each level's BatchNorm is another.  Load weights
    first: files of the folded form alone fit the copy.  MMEngine: ``fuse_conv_bn``.

    Args:
        model: a detector or a part of one; it stays as it is.

    Returns:
        The copy, in evaluation mode.  Its keys are those of ``model`` with ``conv.bias`` in place of ``bn.*``.

    >>> fused = fuse_batch_norm(ConvModule(3, 8, 3))
    >>> sorted(fused.state_dict()), fused.bn
    (['conv.bias', 'conv.weight'], Identity())
    """
    fused = deepcopy(model).eval()
    for module in fused.modules():
        if isinstance(module, ConvModule) and isinstance(module.bn, _BatchNorm):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity().eval()  # type: ignore[assignment]
    return fused


def is_fused(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether weights are of the folded form: convolutions that BatchNorm would follow have biases.

    >>> is_fused(ConvModule(3, 8, 3).state_dict()), is_fused(fuse_batch_norm(ConvModule(3, 8, 3)).state_dict())
    (False, True)
    """
    return any(re.search(r"(^|\.)conv\.bias$", key) for key in state_dict)


def unfuse_state_dict(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of the folded form as a model with BatchNorms holds them; other keys stay.

    A BatchNorm of mean 0, variance 1 and weight ``sqrt(1 + eps)`` passes its input through and adds its bias.

    Args:
        state_dict: weights of any form.
        model: says where BatchNorms are.
    """
    unfused = dict(state_dict)
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{name}." if name else ""
        key = f"{prefix}conv.bias"
        if isinstance(module, ConvModule) and isinstance(module.bn, _BatchNorm) and key in unfused:
            bias = unfused.pop(key)
            unfused |= {
                f"{prefix}bn.weight": torch.full_like(bias, (1 + module.bn.eps) ** 0.5),
                f"{prefix}bn.bias": bias,
                f"{prefix}bn.running_mean": torch.zeros_like(bias),
                f"{prefix}bn.running_var": torch.ones_like(bias),
                f"{prefix}bn.num_batches_tracked": torch.tensor(0),
            }
    return unfused
