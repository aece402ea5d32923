"""Write the few of MMDetection's recorded answers that the judge compares with, and that users have without the tests.

    PYTHONPATH=tests python -m parity.record_judge

Takes them from the fixtures, so MMDetection is not needed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import cases
from parity.record import FIXTURES
from safetensors.torch import save_file
from torch import Tensor

RECORD = Path(__file__).parents[2] / "src" / "minirtmdet" / "judge" / "mmdetection.safetensors"


def answer(kind: str, name: str, field: str) -> Tensor:
    """One array of a fixture."""
    with np.load(FIXTURES / f"{kind}.npz", allow_pickle=False) as arrays:
        return torch.from_numpy(arrays[f"{name}/{field}"])


def grid_priors() -> tuple[Any, ...]:
    """The finest level of a tall image, with offset 0.5."""
    case = cases.PRIORS["tall-centre"]()
    height, width = case.featmap_sizes[0]
    return height, width, 8, case.offset, answer("priors", "tall-centre", "priors")[: height * width]


def valid_flags() -> tuple[Any, ...]:
    """The finest level of a padded image whose sides are no multiples of 8."""
    case = cases.PRIORS["padded-not-divisible"]()
    height, width = case.featmap_sizes[0]
    flags = answer("priors", "padded-not-divisible", "flags")[: height * width]
    return height, width, 8, torch.tensor([case.pad_shape]), flags.bool()[None]


def distance2bbox() -> tuple[Any, ...]:
    """Distances of either sign."""
    case = cases.CODER["decode"]()
    return case.points, case.values, answer("coder", "decode", "values")


def quality_focal_loss() -> tuple[Any, ...]:
    """Of positives; the recorded loss has weights, which are taken out again where they are not 0."""
    case = cases.FOCAL["all-positive"]()
    counts = case.weight > 0
    loss = answer("focal", "all-positive", "loss")[counts] / case.weight[counts]
    return case.pred[counts], case.labels[counts], case.scores[counts], case.beta, loss


def giou_loss() -> tuple[Any, ...]:
    """Of boxes that are apart, without their weights."""
    case = cases.GIOU["apart"]()
    return case.pred, case.target, answer("giou", "apart", "loss") / case.weight / case.loss_weight


def learning_rate() -> tuple[Any, ...]:
    """A step on the cosine."""
    run = json.loads((FIXTURES / "engine.json").read_text(encoding="utf-8"))["lr"]
    step, total = 60, run["epochs"] * run["epoch_length"]
    return step, total, run["lr"], run["warmup"], 1e-5, 0.05, run["rates"][step]


RECORDED: tuple[Callable[[], tuple[Any, ...]], ...] = (
    grid_priors, valid_flags, distance2bbox, quality_focal_loss, giou_loss, learning_rate,
)  # fmt: skip
"""Each gives the arguments of the exercise of its name, then the answer."""


def record() -> dict[str, Tensor]:
    """All of them, by exercise and place."""
    rows = {made.__name__: made() for made in RECORDED}
    return {
        f"{name}/{place}": value.contiguous() if isinstance(value, Tensor) else torch.tensor(value, dtype=_kind(value))
        for name, values in rows.items()
        for place, value in enumerate(values)
    }


def _kind(value: float) -> torch.dtype:
    return torch.float64 if isinstance(value, float) else torch.int64


if __name__ == "__main__":
    save_file(record(), RECORD)
    print(f"{RECORD.name}: {RECORD.stat().st_size:,} bytes")
