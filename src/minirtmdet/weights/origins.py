"""Which network a checkpoint's weights were trained in: what the file says of it, where it says it.

The shapes of weights show how deep and wide a network is.  They do not show whether its distances are exponentiated,
where in its cell a prior lies, or in which order it expects the colours: loaded into a network that does otherwise,
they fit, and mean something else.
"""

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirtmdet.configs import INS_MODELS, MODELS, ModelConfig
from minirtmdet.detector import MEAN, STD
from minirtmdet.weights.published import OFFICIAL

SILENT = ("exp_on_reg", "prior_offset")
"""Settings of a network that change what its weights mean, and leave no trace in their shapes or values.

``share_conv`` leaves one: levels that share have equal values, and where they differ loading says so.
"""
LONGEST = 1_000_000
"""Characters of a config's text that are parsed at most."""


@dataclass(frozen=True)
class Origin:
    """The network that weights were trained in.

    Attributes:
        source: what says so, in words.
        model: its settings; None where they are not known.
        channels: order of the colours that it was given, BGR or RGB; None where it is not known.
        mean, std: what its pixels were normalised with, in the order of ``channels``; None where it is not known.
        certain: whether the file says so itself; false for a conclusion from its shapes.
    """

    source: str
    model: ModelConfig | None = None
    channels: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    certain: bool = True


def own_origin(model: ModelConfig) -> Origin:
    """What a file of the package itself says."""
    return Origin("its own settings", model, "BGR", MEAN, STD)


def published_origin(path: Path) -> Origin | None:
    """The network of a published file, known by the digits of its checksum that its name ends with."""
    digits = re.search(r"-([0-9a-f]{8})(?![0-9a-f])", path.stem)
    for size, official in OFFICIAL.items():
        if digits and official.sha256.startswith(digits[1]):
            return Origin(f"it is the published {size} by its name", (MODELS | INS_MODELS)[size], "BGR", MEAN, STD)
    return None


def mmdet_origin(text: str) -> Origin | None:
    """What MMDetection's config says, which its files carry as the text of a Python program; nothing of it is run.

    Left out settings have MMDetection's defaults.  None for text without an RTMDet that is plain data.

    >>> text = "model = dict(type='RTMDet', backbone=dict(widen_factor=0.5), bbox_head=dict(type='RTMDetSepBNHead'))"
    >>> origin = mmdet_origin(text)
    >>> origin.model.widen_factor, origin.model.exp_on_reg, origin.model.prior_offset, origin.channels
    (0.5, False, 0.5, None)
    """
    model = _model_of(text)
    head, preprocessor = _part(model, "bbox_head"), _part(model, "data_preprocessor")
    kind = str(head.get("type")).rpartition(".")[2]
    if kind not in ("RTMDetSepBNHead", "RTMDetHead", "RTMDetInsSepBNHead"):
        return None
    swapped = preprocessor.get("bgr_to_rgb", False) or preprocessor.get("rgb_to_bgr", False)
    return Origin(
        "MMDetection's config in it",
        _network(_part(model, "backbone"), _part(model, "neck"), head, kind),
        ("RGB" if swapped else "BGR") if preprocessor else None,
        _numbers(preprocessor.get("mean")),
        _numbers(preprocessor.get("std")),
    )


def contradictions(origin: Origin, model: Mapping[str, Any], *, pixels: bool) -> list[str]:
    """What weights mean by their origin and what they would mean in a model, where that differs.

    Args:
        origin: of the weights.
        model: those of :data:`SILENT` that the model has, by name.
        pixels: whether the model normalises pixels.

    Returns:
        A sentence each, with what to do.
    """
    found = []
    for name, ours in model.items():
        theirs = ours if origin.model is None else getattr(origin.model, name)
        if theirs != ours:
            found.append(
                f"{name} is {theirs} ({origin.source}), and {ours} in the model: build it with {name}={theirs}"
            )
    if pixels and origin.channels == "RGB":
        found.append(
            f"the colours are RGB ({origin.source}), and BGR in the model: reverse the input channels of "
            "backbone.stem.0.conv.weight in the file"
        )
    order = -1 if origin.channels == "RGB" else 1
    for name, theirs, ours in (("mean", origin.mean, MEAN), ("std", origin.std, STD)):
        if pixels and theirs is not None and not _close(theirs[::order], ours):
            found.append(
                f"{name} of the pixels is {theirs} ({origin.source}), and {ours[::order]} in the model, which has no "
                "setting for it"
            )
    return found


def _model_of(text: str) -> dict[str, Any]:
    """The dictionary ``model`` of a config's text; empty where there is none."""
    if len(text) > LONGEST:
        return {}
    try:
        lines = ast.parse(text).body
        for line in lines:
            if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["model"]:
                value = _value(line.value)
                return value if isinstance(value, dict) else {}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return {}


def _value(node: ast.expr) -> Any:
    """A literal, or a call of ``dict`` with names alone, as data; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        return -number if isinstance(number, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _part(model: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = model.get(key)
    return part if isinstance(part, dict) else {}


def _network(backbone: dict[str, Any], neck: dict[str, Any], head: dict[str, Any], kind: str) -> ModelConfig | None:
    """Settings of MMDetection's classes as ours; None where a value is none that they have."""
    separate_bn = kind != "RTMDetHead"
    offset = _part(head, "anchor_generator").get("offset", 0.5)
    values = {
        "deepen_factor": backbone.get("deepen_factor", 1.0),
        "widen_factor": backbone.get("widen_factor", 1.0),
        "neck_csp_blocks": neck.get("num_csp_blocks", 3),
        "num_classes": head.get("num_classes", 80),
        "exp_on_reg": head.get("exp_on_reg", False) if separate_bn else True,
        "use_depthwise": head.get("use_depthwise", False),
        "separate_bn": separate_bn,
        "share_conv": head.get("share_conv", True),
        "stacked_convs": head.get("stacked_convs", 4),
        "pred_kernel_size": head.get("pred_kernel_size", 1 if separate_bn else 3),
        "with_objectness": head.get("with_objectness", kind != "RTMDetInsSepBNHead"),
        "prior_offset": offset,
        "masks": kind == "RTMDetInsSepBNHead",
    }
    if not all(isinstance(value, int | float) for value in values.values()):
        return None
    return ModelConfig(**{key: type(getattr(ModelConfig, key))(value) for key, value in values.items()})


def _numbers(value: object) -> tuple[float, ...] | None:
    """Three numbers, where a value is that."""
    if isinstance(value, Sequence) and len(value) == 3 and all(isinstance(item, int | float) for item in value):
        return tuple(map(float, value))
    return None


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-2) for a, b in zip(one, other, strict=True))
