"""The folder of a run: what lies in it, and whether a run may start or go on there."""

import os
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from minirtmdet.configs import TrainConfig, config_to_json
from minirtmdet.files import atomic_path, remove_leftovers
from minirtmdet.settings import flat_settings
from minirtmdet.weights.checkpoint import Checkpoint, read_checkpoint
from minirtmdet.weights.formats import CheckpointError

# settings that a resumed run may change, since the numbers do not depend on them
_FREE = {"name", "out", "device", "compile", "save_minutes", "resume", "overwrite", "weights", "eval_every", "patience"}
_FREE |= {"adopt_network"}  # how a run starts
_FREE |= {f"data.{name}" for name in ("bad_images", "check", "max_pixels", "outside_files")}  # images are counted
_FREE |= {"model.num_classes"}  # that of the data, whose class names are compared
_FREE |= {f"data.{name}" for name in ("root", "train_json", "train_images", "val_json", "val_images", "workers")}
# and these with another number of processes, where a step still has as many images
_SHARE = {"batch_size", "optim.accumulate", "sync_bn"}


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes: ``last.pt`` (to resume), ``best.pt``, ``config.json``, ``log.csv``, numbers and figures.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def last(self) -> Path:
        """The checkpoint to resume from, with everything that the next step depends on."""
        return self.path / "last.pt"

    @property
    def advice(self) -> str:
        """How to go on after the run was broken off."""
        if self.last.exists():
            return f"{self.last} is whole: the same command with --resume continues from it"
        return "nothing was saved yet: start the same command again"

    def stopped(self, step: int, total_steps: int) -> str:
        """What to say after Ctrl-C."""
        return (
            f"stopped after step {step} of {total_steps}, saved {self.last}: the same command with --resume continues"
        )

    def ended_early(self, patience: int) -> str:
        """What to say where the run ends since its AP does not rise any more."""
        return (
            f"ended early: {patience} evaluations brought no better AP than that of {self.path / 'best.pt'}; the same "
            "command with --resume and a larger --patience goes on"
        )

    def find_state(self, config: TrainConfig, processes: int) -> Checkpoint | None:
        """The state to continue from, where there is one and it is asked for; nothing is changed.

        Raises:
            FileExistsError: where a run lies that is neither to be continued nor to be replaced.
            ValueError: for a run with other settings, named.
        """
        if config.resume and config.overwrite:
            raise ValueError("resume and overwrite exclude each other: continue the run, or start it again")
        if not self.last.exists() or config.overwrite:
            return None
        if not config.resume:
            raise FileExistsError(
                f"{self.path} holds a run already: --resume continues it, --overwrite starts it again, "
                "--name NAME keeps both"
            )
        checkpoint = read_checkpoint(self.last)
        if checkpoint.training is None or checkpoint.config is None:
            raise CheckpointError(f"{self.last} holds weights alone: a run cannot be resumed from it")
        _check_same_settings(self.last, checkpoint.config, config, _free(checkpoint, config, processes))
        return checkpoint

    def state_of_last(self) -> tuple[int, int] | None:
        """When :attr:`last` was written and how large it is; None where there is none."""
        try:
            found = self.last.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size

    def check_unchanged(self, before: tuple[int, int] | None) -> None:
        """Make sure that nobody has trained here since :meth:`state_of_last` gave ``before``.

        Raises:
            FileExistsError: where somebody has.
        """
        if self.state_of_last() != before:
            raise FileExistsError(f"{self.path} was changed by another run while this one started: start it again")

    def prepare(self, config: TrainConfig, classes: Sequence[str], *, clear: bool) -> None:
        """Make the folder, if asked for without what an earlier run left in it, and write the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path)
        if clear:
            for name in ("last.pt", "best.pt", "metrics.json", "loss_curve.png", "detections.png"):
                (self.path / name).unlink(missing_ok=True)
            for path in self.path.glob("bad_step*.pt"):
                path.unlink()
            shutil.rmtree(self.path / "tensorboard", ignore_errors=True)
        with atomic_path(self.path / "config.json") as temporary:
            temporary.write_text(config_to_json(config, classes), encoding="utf-8")


_LOCKS: dict[str, BaseFileLock] = {}
"""The locks of this process by file: two trainers of one process, as in a notebook, share one."""


class RunLock:
    """Keeps other processes out of a run's folder; the system releases it when this process ends, killed or not.

    Args:
        folder: of the run; the lock is a file beside it.
    """

    GRACE = 10.0
    """Seconds to wait for a lock: after a run was killed, its loading processes hold it until they notice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder.with_name(f".{folder.name}.lock")
        self._release: weakref.finalize | None = None

    def acquire(self) -> None:
        """Take the lock, if it is not held already.

        Raises:
            BlockingIOError: where another process has it.
        """
        if self._release is not None and self._release.alive:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        key = os.path.abspath(self._file)
        lock = _LOCKS.setdefault(key, FileLock(key, thread_local=False))
        try:
            lock.acquire(timeout=self.GRACE)
        except Timeout:
            raise BlockingIOError(
                f"{self._folder}: another process is training there (it holds {self._file}); wait for its end, or "
                "keep both with --name NAME"
            ) from None
        except NotImplementedError:
            return  # a file system without locks
        self._release = weakref.finalize(self, _release, lock, os.getpid())

    def release(self) -> None:
        """Release it, where it is held."""
        if self._release is not None:
            self._release()


def _release(lock: BaseFileLock, process: int) -> None:
    """Release a lock that ``process`` took; a process that was forked from it has a copy, and leaves it."""
    if os.getpid() == process:
        lock.release()


@dataclass(frozen=True)
class Extent:
    """What decides, beside the settings, which steps a run is made of; ``last.pt`` holds it.

    Attributes:
        images: images to train on.
        steps_per_epoch: optimiser steps.
        processes: that train together.
    """

    images: int
    steps_per_epoch: int
    processes: int


def check_same_run(checkpoint: Checkpoint, config: TrainConfig, classes: Sequence[str], extent: Extent) -> None:
    """Make sure that what :meth:`RunFolder.find_state` found would go on with the same steps.

    Args:
        checkpoint: the state.
        config: the run now.
        classes: the data's.
        extent: of the run now.

    Raises:
        ValueError: naming what differs.
    """
    state, before = checkpoint.training, checkpoint.config
    assert state is not None
    assert before is not None
    images, steps_per_epoch, processes = extent.images, extent.steps_per_epoch, extent.processes
    if checkpoint.classes != tuple(classes):
        was, now = ", ".join(checkpoint.classes or ()), ", ".join(classes)
        raise ValueError(f"{checkpoint.path} is a run with the classes {was}; the data has {now}")
    # images that broke since may be left out, where the epochs stay as long
    fewer = config.data.bad_images == "skip" and images < state["images"]
    if state["images"] != images and not (fewer and state.get("steps_per_epoch") == steps_per_epoch):
        raise ValueError(
            f"{checkpoint.path} was trained on {state['images']} images, the data has {images}: "
            "resuming needs the same data"
        )
    then = state.get("processes", 1)
    step_then = before.batch_size * before.optim.accumulate * then
    step_now = config.batch_size * config.optim.accumulate * processes
    if then != processes and (step_then != step_now or state["steps_per_epoch"] != steps_per_epoch):
        raise ValueError(
            f"{checkpoint.path} is a run of {then} processes with {step_then} images per step, in "
            f"{state['steps_per_epoch']} steps an epoch; now {processes} with {step_now} in "
            f"{steps_per_epoch}: make them the same with --batch-size (and --optim.accumulate)"
        )


def _free(checkpoint: Checkpoint, config: TrainConfig, processes: int) -> set[str]:
    """Settings that may differ between a run and what goes on with it."""
    state, before = checkpoint.training, checkpoint.config
    assert state is not None
    assert before is not None
    free = set(_FREE)
    if state.get("processes", 1) != processes:
        free |= _SHARE
    if before.weights is not None:  # the network is that of the weights, which is settled
        free |= {name for name in flat_settings(config) if name.startswith("model.")}
    if config.auto_batch and before.auto_batch:  # its batch is what was found then
        free.add("batch_size")
    if config.epochs > before.epochs:  # the schedule is that of the longer run from here
        free.add("epochs")
    return free


def _check_same_settings(path: Path, before: TrainConfig, config: TrainConfig, free: set[str]) -> None:
    """Raise a ValueError that names the settings whose change would change the numbers of a resumed run."""
    was, now = flat_settings(before), flat_settings(config)
    changed = [f"{key} {was[key]} (now {now[key]})" for key in was if key not in free and was[key] != now[key]]
    if changed:
        raise ValueError(
            f"{path} is a run with {'; '.join(changed)}: resume it with its own settings (--epochs may grow), or start "
            "another with --name"
        )
