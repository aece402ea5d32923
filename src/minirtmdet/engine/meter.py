"""Rows of the log: what the steps since the last one came to, and how long they took."""

import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.engine.runlog import Row
from minirtmdet.engine.state import Progress, StepLosses


class Meter:
    """Takes the losses of each step, and makes rows of them.

    The losses stay on the device until a row is made, many steps later, so that a step does not wait for them.

    Args:
        progress: of the run, whose ``recent`` losses and ``seconds`` are kept here.
        names: of the losses: those to add, and ``num_pos``.
        check: called with the losses that are read and their names, to raise an error where they are not finite.
    """

    def __init__(
        self,
        progress: Progress,
        names: Sequence[str],
        check: Callable[[Float[Tensor, "steps losses"], Sequence[str]], None],
    ) -> None:
        self._progress = progress
        self._names = names
        self._check = check
        self.start()

    def start(self) -> None:
        """Start the clock: what came before counts neither for the pace nor for the time left."""
        self._clock = self._started_at = time.perf_counter()
        self._started_step = self._progress.step
        self._images = 0  # since the clock was read last

    def add(self, losses: StepLosses, images: int) -> None:
        """Take a step in.

        Args:
            losses: what it returned.
            images: it was trained on, in all processes.
        """
        self._progress.recent.append(losses)
        self._images += images

    def read(self) -> Float[Tensor, "steps losses"]:
        """Losses since the last row, means over processes: the one place where the host waits for the device."""
        values = torch.stack([losses.mean for losses in self._progress.recent]).cpu().double()
        self._check(values, self._names)
        return values

    def row(self, lr: float) -> Row:
        """The log's row for the steps since the last one, which are kept until :meth:`forget`.

        Args:
            lr: the last step's learning rate.
        """
        means = dict(zip(self._names, self.read().mean(0).tolist(), strict=True))
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self._progress.seconds += elapsed
        images, self._images = self._images, 0
        return {
            "epoch": self._progress.epoch + 1,
            "step": self._progress.step,
            "lr": lr,
            "loss": sum(value for name, value in means.items() if name != "num_pos"),
            **means,
            "images_per_second": images / max(elapsed, 1e-9),
        }

    def forget(self) -> None:
        """Begin the next row: the steps of the last one are in the log."""
        self._progress.recent = []

    def skip(self) -> None:
        """Leave the time since the last row, of an evaluation, out of the next row."""
        self._clock = time.perf_counter()

    def time_left(self, total_steps: int) -> str:
        """How long the rest of a run takes at the pace since the start, evaluations included, as the end of a line."""
        step = self._progress.step
        return time_left(time.perf_counter() - self._started_at, step - self._started_step, total_steps - step)


def time_left(seconds: float, done: int, left: int) -> str:
    """How long ``left`` steps take where ``done`` took ``seconds``, as the end of a line; empty where either is none.

    >>> time_left(60.0, 100, 12_345), time_left(60.0, 100, 500), time_left(60.0, 100, 5), time_left(60.0, 100, 0)
    (', 2 h 03 min left', ', 5 min left', ', 3 s left', '')
    """
    if not done or not left:
        return ""
    minutes, rest = divmod(round(seconds / done * left), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
    return f", {words} left"
