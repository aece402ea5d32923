"""What breaks a run off: how it is recognised, and what is saved and said then."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.configs import TrainConfig
from minirtmdet.data.loader import TrainLoader
from minirtmdet.distributed import World
from minirtmdet.engine.interrupts import Interrupts
from minirtmdet.engine.runfolder import RunFolder
from minirtmdet.engine.state import Progress
from minirtmdet.weights.formats import save_tensors

TOGETHER = 0.5
"""Seconds in which a signal to a group of processes has reached every one of them."""


@contextmanager
def broken_off(
    interrupts: Interrupts,
    world: World,
    folder: RunFolder,
    *,
    save: Callable[[], None],
    stopped: Callable[[], None],
    memory: Callable[[], str],
) -> Iterator[None]:
    """Whatever breaks the block off, a training: save what can be saved, and say how to go on.

    Args:
        interrupts: hold Ctrl-C back while the state is saved.
        world: the processes that train together.
        folder: of the run.
        save: saves the state.
        stopped: says so after Ctrl-C, when the state is saved.
        memory: says which settings need less memory.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the state saved; also where a signal to all processes of the run came to
            a loading one first.
        torch.OutOfMemoryError: naming the settings to lower.
        ProcessLost: where another process ended.
    """
    try:
        try:
            yield
        except RuntimeError as error:
            if world.size == 1 and is_lost_worker(error):
                # between two steps, where the state is whole: a step itself is not broken off by such an end
                with interrupts.held():
                    time.sleep(TOGETHER)
                    save()
                error.add_note(folder.advice)
            raise
    except KeyboardInterrupt:
        with interrupts.held():
            save()
        stopped()
        raise
    except torch.OutOfMemoryError as error:
        raise world.explain(torch.OutOfMemoryError(f"{memory()}; {folder.advice}")) from error
    except RuntimeError as error:
        if world.size == 1:
            raise
        raise world.explain(error, folder.advice) from error


def is_lost_worker(error: RuntimeError) -> bool:
    """Whether an error says that a process that loads images has ended, or is stuck."""
    return str(error).startswith(("DataLoader worker", "DataLoader timed out"))


def memory_advice(config: TrainConfig, device: torch.device, amp_dtype: torch.dtype | None, step: int) -> str:
    """What to say where ``step`` ran out of memory: which settings need less."""
    ways = [
        f"a smaller batch_size (now {config.batch_size}; with optim.accumulate (now {config.optim.accumulate}) so "
        "many times larger a step still sees as many images)",
        f"a smaller data.input_size (now {config.data.input_size})",
    ]
    if amp_dtype is None and device.type == "cuda":
        ways.append(f"--amp bf16 (now {config.amp})")
    return f"out of memory on {device} in step {step}: try {', '.join(ways)}"


def check_losses(
    values: Float[Tensor, "steps losses"],
    names: Sequence[str],
    progress: Progress,
    folder: RunFolder,
    loader: TrainLoader,
    accumulate: int = 1,
    process: int | None = None,
) -> None:
    """Make sure that the recent losses of a run are finite.

    Args:
        values: they, means over processes, on the host.
        names: of the losses.
        progress: how far the run has come, and the losses of this process.
        folder: of the run; the batches of a step whose losses are not finite are saved there.
        loader: that they came from.
        accumulate: batches of a step.
        process: number of this process, where there are several.

    Raises:
        FloatingPointError: for the first step whose losses are not, naming its images; where another process has
            them, that process names them.
    """
    for i in (~values.isfinite().all(1)).nonzero().flatten().tolist():
        own, paths = progress.recent[i].own.cpu(), progress.recent[i].paths
        step = progress.step - len(values) + i + 1
        saved = f"{folder.last} holds an earlier state" if folder.last.exists() else "nothing was saved before"
        if own.isfinite().all():
            raise FloatingPointError(f"the loss of another process is not finite at step {step}; {saved}")
        loss = ", ".join(f"{key} {value:g}" for key, value in zip(names, own.tolist(), strict=True))
        first = (progress.position - (progress.step - step) - 1) * accumulate
        numbers = range(first, min(first + accumulate, len(loader)))
        rank = "" if process is None else f"_process{process}"
        where = _save_batches(folder.path / f"bad_step{step}{rank}.pt", loader, step, progress.epoch, numbers)
        raise FloatingPointError(
            f"the loss is not finite at step {step} ({loss}); {saved}; the images of that step, "
            f"{where}: {', '.join(paths)}"
        )


def _save_batches(path: Path, loader: TrainLoader, step: int, epoch: int, numbers: range) -> str:
    """Save the batches of a step; returns in words where they are, or why they could not be saved."""
    batches = []
    try:
        # made once more: a batch is a function of epoch and number
        for batch in (loader.batch(epoch, number) for number in numbers):
            ground_truth = batch.ground_truth._asdict()
            batches.append({"images": batch.images, "paths": batch.paths, "ground_truth": ground_truth})
        save_tensors(path, {"step": step, "epoch": epoch, "batches": batches})
    except (OSError, ValueError) as error:
        return f"not saved ({error})"
    return f"as the network saw them in {path}"
