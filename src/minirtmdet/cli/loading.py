"""What the commands share: a detector made ready from whatever the command line names, and numbers that are checked."""

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Literal, ParamSpec, get_type_hints

from minirtmdet.data.coco import Split
from minirtmdet.distributed import ALONE, World
from minirtmdet.inference.load import LoadedDetector, load_detector
from minirtmdet.settings import out_of_range
from minirtmdet.weights.published import OFFICIAL, download_weights, published_size, weights_path

P = ParamSpec("P")
Device = Literal["auto", "cpu", "cuda", "mps"]
Size = Literal["nano", "tiny", "s", "m", "l", "x"]
ARGUMENTS: ContextVar[Sequence[str]] = ContextVar("ARGUMENTS", default=())
"""The words of the command line that is running."""


class PartialFailure(Exception):
    """Some of the work is done, some could not be: exit code 1."""


def checked(command: Callable[P, None]) -> Callable[P, None]:
    """A command that refuses numbers out of their range before it does anything, by the names that the user typed."""
    hints, parameters = get_type_hints(command, include_extras=True), signature(command)

    @wraps(command)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> None:
        given = parameters.bind(*args, **kwargs).arguments
        for name, problem in out_of_range(hints, given):
            typed = name.removeprefix("config.").replace("_", "-")  # whose own name is empty
            raise ValueError(f"--{typed} {problem}")
        command(*args, **kwargs)

    return refusing


def load(
    path: Path, model: str | None, classes: tuple[str, ...] | None, device: str, world: World = ALONE
) -> LoadedDetector:
    """The detector that the command line names, with a line that says what it is."""
    announcefetch(published_size(path))
    loaded = load_detector(path, model=model, classes=classes, device=device, world=world)
    print(loaded.description)
    return loaded


def fetch(size: str) -> Path:
    """The published weights of a size."""
    announcefetch(size)
    return download_weights(size)


def announcefetch(size: str | None) -> None:
    """A line before anything is downloaded."""
    if size is not None and not (path := weights_path(size)).is_file():
        print(f"downloading {OFFICIAL[size].url} to {path.parent}", file=sys.stderr)


def folders_of(*splits: Split) -> list[Path]:
    """Folders that hold what a data set is made of."""
    return [folder for split in splits for folder in (split.images, split.json_file.parent)]


def run_of(checkpoint: Path) -> list[Path]:
    """The folder of the run that a checkpoint is of, whose own files have the names of outputs; else none."""
    return [checkpoint.parent] if (checkpoint.parent / "config.json").exists() else []
