"""What the commands share: checked numbers, the detector that a command line names, and folders that are read."""

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Literal, ParamSpec, get_type_hints

from minirtmdet.data.splits import Split
from minirtmdet.distributed import ALONE, World
from minirtmdet.inference.load import LoadedDetector, load_detector
from minirtmdet.inference.tiles import Tiles
from minirtmdet.settings import out_of_range
from minirtmdet.weights.published import OFFICIAL, download_weights, published_size, weights_path

P = ParamSpec("P")
Device = Literal["auto", "cpu", "cuda", "mps", "openvino", "tensorrt"]
Size = Literal["nano", "tiny", "s", "m", "l", "x", "ins-tiny", "ins-s", "ins-m", "ins-l", "ins-x"]
ARGUMENTS: ContextVar[Sequence[str]] = ContextVar("ARGUMENTS", default=())
"""The words of the command line that is running."""


class PartialFailure(Exception):
    """Some of the work is done, some could not be: exit code 1."""


def checked(command: Callable[P, None]) -> Callable[P, None]:
    """A command that refuses numbers out of their range, by the names that the user typed, before it does anything."""
    hints, parameters = get_type_hints(command, include_extras=True), signature(command)

    @wraps(command)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> None:
        given = parameters.bind(*args, **kwargs).arguments
        for name, problem in out_of_range(hints, given):
            # the argument ``config`` has no name on the command line
            typed = name.removeprefix("config.").replace("_", "-")
            raise ValueError(f"--{typed} {problem}")
        command(*args, **kwargs)

    return refusing


def load(
    path: Path, model: str | None, classes: tuple[str, ...] | None, device: str, world: World = ALONE
) -> LoadedDetector:
    """The detector that the command line names, with a line that says what it is."""
    _announce_download(published_size(path))
    loaded = load_detector(path, model=model, classes=classes, device=device, world=world)
    print(loaded.description)
    return loaded


def fetch(size: str) -> Path:
    """The file of a size's published weights, downloaded if need be."""
    _announce_download(size)
    return download_weights(size)


def _announce_download(size: str | None) -> None:
    """A line before anything is downloaded; none where it is there already, or no size is meant."""
    if size is not None and not (path := weights_path(size)).is_file():
        print(f"downloading {OFFICIAL[size].url} to {path.parent}", file=sys.stderr)


def tiles_of(tiles: bool, overlap: float | None, batch_size: int) -> Tiles | None:
    """How the command line wants images divided; None where it does not."""
    if not tiles and overlap is not None:
        raise ValueError(f"--overlap {overlap:g} is that of tiles: add --tiles, or leave it out")
    if not tiles:
        return None
    return Tiles(batch_size=batch_size) if overlap is None else Tiles(overlap, batch_size=batch_size)


def folders_of(*splits: Split) -> list[Path]:
    """Folders that hold what a data set is made of."""
    return [folder for split in splits for folder in (split.images, split.json_file.parent)]


def run_of(checkpoint: Path) -> list[Path]:
    """The folder of the run that a checkpoint is of, if any: its own files have the names of outputs."""
    return [checkpoint.parent] if (checkpoint.parent / "config.json").exists() else []
