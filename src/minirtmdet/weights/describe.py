"""What weights alone show of the detector that they belong to."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from minirtmdet.configs import INS_MODELS, MODELS
from minirtmdet.detector import build_detector
from minirtmdet.weights.fuse import is_fused
from minirtmdet.weights.origins import Origin


def guess_origin(state_dict: Mapping[str, Tensor]) -> Origin | None:
    """The published network that weights look like, for files that do not say where they come from."""
    size = _size(state_dict)
    if size is None:
        return None
    with torch.device("meta"):
        keys = build_detector(size).state_dict().keys()
    if not is_fused(state_dict) and keys != set(state_dict):
        return None
    return Origin(f"as in the published {size}, which the file looks like", (MODELS | INS_MODELS)[size], certain=False)


def count_classes(state_dict: Mapping[str, Tensor]) -> int | None:
    """Classes that a detector's weights predict; None where they are no detector's."""
    biases = (value for key, value in state_dict.items() if re.search(r"(^|\.)rtm_cls\.(0\.)?bias$", key))
    return next((len(bias) for bias in biases), None)


def describe_weights(state_dict: Mapping[str, Tensor]) -> str:
    """Width, size and classes of a detector as its weights show them; empty where they are no detector's.

    >>> describe_weights(build_detector("tiny").state_dict())
    'widen_factor 0.375 (as tiny), 80 classes'
    """
    parts = []
    if widen := _widen_factor(state_dict):
        size = _size(state_dict)
        parts.append(f"widen_factor {widen:g}" + (f" (as {size})" if size else ""))
    classes = count_classes(state_dict)
    if classes is not None:
        parts.append(f"{classes} class{'es' if classes > 1 else ''}")
    if is_fused(state_dict):
        parts.append("BatchNorm folded")
    return ", ".join(parts)


def _widen_factor(state_dict: Mapping[str, Tensor]) -> float | None:
    """As the stem shows it, which has 64 * widen_factor // 2 channels; None where there is none."""
    stem = next((value for key, value in state_dict.items() if key.endswith("stem.0.conv.weight")), None)
    return None if stem is None else len(stem) / 32


def _size(state_dict: Mapping[str, Tensor]) -> str | None:
    """The published size that weights look like, by their width."""
    depthwise, masks = (any(word in key for key in state_dict) for word in ("conv1.depthwise", "rtm_kernel"))
    kind = (_widen_factor(state_dict), depthwise, masks)
    known = (MODELS | INS_MODELS).items()
    return next((name for name, size in known if (size.widen_factor, size.use_depthwise, size.masks) == kind), None)
