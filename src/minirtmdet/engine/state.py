"""The state of a run: what changes from step to step, and what of it ``last.pt`` holds.

There is no random state: every draw is a function of seed, epoch and position.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minirtmdet.configs import TrainConfig
from minirtmdet.detector import RTMDet
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.runfolder import Extent
from minirtmdet.engine.runlog import Row
from minirtmdet.weights.checkpoint import Checkpoint
from minirtmdet.weights.fit import load_checkpoint

COUNTERS = ("epoch", "position", "step", "seconds", "best", "per_class")
"""Fields of :class:`Progress` that ``last.pt`` holds under their own names."""


class StepLosses(NamedTuple):
    """What a step returned, on the device.

    Attributes:
        mean: its ``TrainStep.losses``, means over processes.
        own: those of this process.
        paths: the images of this process.
    """

    mean: Float[Tensor, " losses"]
    own: Float[Tensor, " losses"]
    paths: list[str]


@dataclass
class Progress:
    """How far a run has come, and what it has found so far.

    Attributes:
        epoch: epochs done.
        position: optimiser steps done in the epoch after those.
        step: optimiser steps done in all.
        seconds: of training, evaluations not counted.
        best: epoch and numbers of the best evaluation; empty before the first.
        metrics: the numbers of the latest evaluation; empty before the first.
        per_class: AP of each class in it.
        recent: losses of the steps since the log's last row.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    best: dict[str, int | float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    per_class: dict[str, float] = field(default_factory=dict)
    recent: list[StepLosses] = field(default_factory=list)


def training_state(
    progress: Progress,
    model: RTMDet,
    optimizer: torch.optim.Optimizer,
    ema: ExpMomentumEMA[RTMDet],
    history: Sequence[Row],
    extent: Extent,
) -> dict[str, Any]:
    """What ``last.pt`` holds beside the averaged weights and the metrics: all that the next step depends on.

    Args:
        progress: how far the run has come.
        model: the network in training.
        optimizer: over its parameters.
        ema: its moving average.
        history: the rows of the log.
        extent: what a run that goes on is compared with.
    """
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema_steps": ema.steps,
        **{name: getattr(progress, name) for name in COUNTERS},
        **asdict(extent),
        "recent": [losses.mean.cpu() for losses in progress.recent],
        "recent_paths": [losses.paths for losses in progress.recent],
        "history": list(history),
    }


def restore(
    checkpoint: Checkpoint, model: RTMDet, optimizer: torch.optim.Optimizer, ema: ExpMomentumEMA[RTMDet]
) -> tuple[Progress, list[Row]]:
    """Put the state of ``last.pt`` into network, optimiser and moving average.

    Returns:
        How far the run had come, and the rows of its log.
    """
    state = checkpoint.training
    assert state is not None
    load_checkpoint(model, replace(checkpoint, state_dict=state["model"]))
    load_checkpoint(ema.module, checkpoint)
    optimizer.load_state_dict(state["optimizer"])
    ema.steps = state["ema_steps"]
    losses = [values.to(model.device) for values in state["recent"]]
    recent = [StepLosses(values, values, paths) for values, paths in zip(losses, state["recent_paths"], strict=True)]
    counters = {name: state[name] for name in COUNTERS}
    return Progress(**counters, metrics=checkpoint.metrics, recent=recent), state["history"]


def say_resumed(
    checkpoint: Checkpoint, config: TrainConfig, extent: Extent, lr: float, say: Callable[[str], None]
) -> None:
    """Say where a run goes on, and what differs from the run before.

    Args:
        checkpoint: its ``last.pt``.
        config: the settings now.
        extent: of the run now.
        lr: of the next step.
        say: prints a line.
    """
    state, before = checkpoint.training, checkpoint.config
    assert state is not None
    images, processes, then = extent.images, extent.processes, state.get("processes", 1)
    if then != processes:
        say(
            f"{processes} processes in place of {then}: the same images in every step, but each process "
            "divides them otherwise, so that numbers are no longer those of the run before to the last digit"
        )
    say(f"resuming after epoch {state['epoch']} of {config.epochs}, step {state['step']}")
    if state["images"] != images:
        say(f"{images} images to train on in place of {state['images']}, from here on")
    if before is not None and before.epochs < config.epochs:
        say(
            f"a longer run: {config.epochs} epochs in place of {before.epochs}; it goes on as that run would, "
            f"with a learning rate of {lr:.2e}"
        )


def is_stalled(rows: Sequence[Row], progress: Progress, patience: int) -> bool:
    """Whether so many evaluations in a row brought no better AP than the best one; never with a patience of 0.

    >>> rows = [{"epoch": 1, "AP": 0.2}, {"epoch": 2}, {"epoch": 3, "AP": 0.1}, {"epoch": 4, "AP": 0.2}]
    >>> [is_stalled(rows, Progress(best={"epoch": 1, "AP": 0.2}), patience) for patience in (0, 1, 2, 3)]
    [False, True, True, False]
    """
    if not progress.best or not patience:
        return False
    return sum("AP" in row and row["epoch"] > progress.best["epoch"] for row in rows) >= patience


def check_finite(model: nn.Module, step: int) -> None:
    """Make sure that the weights can be saved; the host waits for the device.

    Raises:
        FloatingPointError: where some are not finite.
    """
    norms = torch._foreach_norm([parameter.detach() for parameter in model.parameters()])
    if not torch.stack(norms).isfinite().all():
        raise FloatingPointError(f"weights are not finite after step {step}, although every loss was")
