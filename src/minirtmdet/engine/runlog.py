"""The course of a run: rows in memory, in ``log.csv`` and, where it is installed, for TensorBoard."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minirtmdet.files import naming_full_disk

COLUMNS = ("epoch", "step", "lr", "loss", "loss_cls", "loss_bbox", "num_pos", "images_per_second")
"""What every row has: means over the steps since the row before, but the learning rate of the last step."""
METRIC_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""What the rows of evaluated epochs have besides, where any box is annotated that counts."""

NOT_JUDGED = "no AP: no box is annotated that counts"
"""What lines say in place of AP after an evaluation without any box to judge by."""

Row = dict[str, Any]


class RunLog:
    """Takes rows and passes them on.

    Args:
        folder: where ``log.csv`` and the folder ``tensorboard`` go; None keeps the rows in memory alone.
        rows: those of an earlier part of the run; what the files hold beyond them is dropped.
        say: prints a line.

    Attributes:
        rows: all so far.
    """

    def __init__(self, folder: Path | None, rows: Sequence[Row] = (), say: Callable[[str], None] = print) -> None:
        self.rows: list[Row] = list(rows)
        self._path = self._board = None
        if folder is None:
            return
        self._path = folder / "log.csv"
        with naming_full_disk(self._path), self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS + METRIC_COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        self._board = _summary_writer(folder / "tensorboard", self.rows, say)

    def write(self, row: Row) -> None:
        """Add a row; absent metrics stay empty."""
        self.rows.append(row)
        if self._path is None:
            return
        with naming_full_disk(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS + METRIC_COLUMNS).writerow(row)
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(
                        ("metrics/" if key in METRIC_COLUMNS else "train/") + key, value, row["step"]
                    )
            self._board.flush()


def describe(row: Row) -> str:
    """A row in words."""
    words = f"loss_cls {row['loss_cls']:.3f}, loss_bbox {row['loss_bbox']:.3f}, positives {row['num_pos']:.1f}"
    words += f", lr {row['lr']:.2e}, {row['images_per_second']:.0f} images/s"
    return words + (f", AP {row['AP']:.3f}" if "AP" in row else "")


def _summary_writer(folder: Path, rows: Sequence[Row], say: Callable[[str], None]) -> Any:
    """TensorBoard's writer, or None with a line that says why."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("log: log.csv alone; for TensorBoard too: pip install 'minirtmdet[tensorboard]'")
        return None
    return SummaryWriter(str(folder), purge_step=rows[-1]["step"] + 1 if rows else None)
