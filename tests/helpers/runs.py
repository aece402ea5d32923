"""Small runs, and what makes two of them the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minirtmdet.configs import DataConfig, ModelConfig, OptimConfig, TrainConfig

MODEL = ModelConfig(0.1, 0.125, 1, num_classes=3)


def make_config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """Three epochs of four steps."""
    config = TrainConfig(
        name="run",
        out=out,
        model=MODEL,
        data=DataConfig(root=data, input_size=64),
        optim=OptimConfig(lr=2e-3, base_batch=3, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=3,
        batch_size=3,
        eval_every=2,
        device="cpu",
    )
    return replace(config, **changes)


def quiet(_: str) -> None:
    """Where lines go."""


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists by dotted names."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    else:
        return {name: value}
    return {key: item for k, v in pairs for key, item in flat(v, f"{name}.{k}").items()}


def same_state(first: Path, second: Path) -> None:
    """Two last.pt are equal to the bit, clocks aside."""
    a, b = (flat(torch.load(folder / "last.pt", weights_only=True)) for folder in (first, second))
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, b[key]), key
        elif not key.endswith(("seconds", "per_second", ".minirtmdet")):
            assert value == b[key], key
