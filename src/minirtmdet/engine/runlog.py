"""The course of a run: rows in memory, in ``log.csv`` and, where it is installed, for TensorBoard."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minirtmdet.files import naming_full_disk

COLUMNS = ("epoch", "step", "lr", "loss", "loss_cls", "loss_bbox", "num_pos", "images_per_second")
"""What every row has: means over the steps since the row before, but the learning rate of the last step."""
METRIC_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""What the rows of evaluated epochs have besides, where any box is annotated that counts."""
MASK_COLUMNS = ("loss_mask",)
"""What every row has besides where masks are learned."""
MASK_METRIC_COLUMNS = tuple(f"mask_{name}" for name in METRIC_COLUMNS)
"""What the rows of evaluated epochs have besides then."""

NOT_JUDGED = "no AP: no box is annotated that counts"
"""What lines say in place of AP after an evaluation without any box to judge by."""

Row = dict[str, Any]


@runtime_checkable
class Logger(Protocol):
    """What takes the rows of a run: the files here, and whatever ``Trainer(loggers=[...])`` is given.

    In several processes the writer's alone are called.  An error of theirs ends the run.
    """

    def start(self, rows: Sequence[Row]) -> None:
        """Begin, with the rows of an earlier part of the run, if any; what was written beyond them is void."""

    def write(self, row: Row) -> None:
        """Take a row in; it has :data:`METRIC_COLUMNS` where there was an evaluation."""


class CsvLogger:
    """``log.csv``; absent metrics stay empty."""

    def __init__(self, path: Path, masks: bool = False) -> None:
        self._path = path
        of_masks = (MASK_COLUMNS, MASK_METRIC_COLUMNS) if masks else ((), ())
        self._columns = COLUMNS + of_masks[0] + METRIC_COLUMNS + of_masks[1]

    def start(self, rows: Sequence[Row]) -> None:
        """Write the file anew."""
        with naming_full_disk(self._path), self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, row: Row) -> None:
        """Add a row."""
        with naming_full_disk(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(row)


class TensorBoardLogger:
    """Curves for TensorBoard.

    Raises:
        ImportError: where it is not installed.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._open = folder, SummaryWriter

    def start(self, rows: Sequence[Row]) -> None:
        """Begin a file that hides what others hold beyond the rows."""
        self._board = self._open(str(self._folder), purge_step=rows[-1]["step"] + 1 if rows else None)

    def write(self, row: Row) -> None:
        """Add a point to each curve."""
        for key, value in row.items():
            if key != "step":
                name = ("metrics/" if key in METRIC_COLUMNS + MASK_METRIC_COLUMNS else "train/") + key
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()


class RunLog:
    """Takes rows and passes them on.

    Args:
        folder: where ``log.csv`` and the folder ``tensorboard`` go; None keeps the rows in memory alone.
        rows: those of an earlier part of the run; what the files hold beyond them is dropped.
        say: prints a line.
        loggers: what else takes the rows, where there is a folder.
        masks: whether masks are learned.

    Attributes:
        rows: all so far.
    """

    def __init__(
        self,
        folder: Path | None,
        rows: Sequence[Row] = (),
        say: Callable[[str], None] = print,
        loggers: Sequence[Logger] = (),
        *,
        masks: bool = False,
    ) -> None:
        self.rows: list[Row] = list(rows)
        self._loggers = [] if folder is None else [*_files(folder, say, masks), *loggers]
        for logger in self._loggers:
            logger.start(self.rows)

    def write(self, row: Row) -> None:
        """Add a row."""
        self.rows.append(row)
        for logger in self._loggers:
            logger.write(row)


def logged(metrics: Mapping[str, float]) -> Row:
    """The numbers of an evaluation that a row holds."""
    return {name: metrics[name] for name in METRIC_COLUMNS + MASK_METRIC_COLUMNS if name in metrics}


def describe(row: Row) -> str:
    """A row in words."""
    losses = ", ".join(f"{name} {row[name]:.3f}" for name in ("loss_cls", "loss_bbox", *MASK_COLUMNS) if name in row)
    words = f"{losses}, positives {row['num_pos']:.1f}, lr {row['lr']:.2e}, {row['images_per_second']:.0f} images/s"
    return words + "".join(f", {name.replace('_', ' ')} {row[name]:.3f}" for name in ("AP", "mask_AP") if name in row)


def _files(folder: Path, say: Callable[[str], None], masks: bool) -> list[Logger]:
    """What every run writes, as far as it is installed."""
    found: list[Logger] = [CsvLogger(folder / "log.csv", masks)]
    try:
        found.append(TensorBoardLogger(folder / "tensorboard"))
    except ImportError:
        say("log: log.csv alone; for TensorBoard too: pip install 'minirtmdet[tensorboard]'")
    return found
