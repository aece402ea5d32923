"""A folder that a camera writes into: each new image once, when it is whole."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from minirtmdet.data.file_names import SUFFIXES, name_of_output, unused_name
from minirtmdet.inference.images import ImageFile

PAUSE = 1.0
"""Seconds between two looks."""


def follow(
    folders: Sequence[Path], out: Path, *, pause: float = PAUSE, wait: Callable[[float], None] = time.sleep
) -> Iterator[list[ImageFile]]:
    """What came into folders since the last look, oldest first, without end; a list may be empty.

    A file is taken when its size and time are those of the look before, and again when it changed later on.

    Args:
        folders: with all that lies below them.
        out: what is written; nothing in it is taken.
        pause: seconds between two looks.
        wait: for so many seconds.

    Raises:
        FileNotFoundError: for what is no folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder} to follow")
    before: dict[Path, tuple[int, int]] = {}
    taken: dict[Path, tuple[int, int]] = {}
    names: dict[Path, Path] = {}
    given: set[str] = set()
    while True:
        now = {path: state for folder in folders for path, state in _look(folder, out.resolve())}
        new = [path for path, state in now.items() if before.get(path) == state != taken.get(path)]
        taken = {path: state for path, state in taken.items() if path in now} | {path: now[path] for path in new}
        before = now
        new.sort(key=lambda path: (now[path][1], path))
        for path in new:
            if path not in names:
                names[path] = unused_name(_name(path, folders), given)
        yield [ImageFile(path, names[path]) for path in new]
        wait(pause)


def _look(folder: Path, out: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Images below a folder with their size and time."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and out not in path.resolve().parents:
            try:
                status = path.stat()
            except FileNotFoundError:  # taken away in between
                continue
            yield path, (status.st_size, status.st_mtime_ns)


def _name(path: Path, folders: Sequence[Path]) -> Path:
    """Of what is written: with the folder's name before its own where several are followed."""
    folder = next(folder for folder in folders if folder in path.parents)
    name = name_of_output(path.relative_to(folder))
    return name if len(folders) == 1 else Path(folder.resolve().name) / name
