"""Where outputs go: to folders that can be written to, and never onto what is read."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile


def check_writable(folder: Path) -> None:
    """Make sure that files can be written into a folder, which need not be there yet; to be called before long work.

    Raises:
        OSError: naming the folder, and what is in the way.
    """
    try:
        place = folder.absolute()
        while not place.exists() and not place.is_symlink():
            place = place.parent
        with TemporaryFile(dir=place) as file:
            file.write(b"a full disk takes no byte")
    except OSError as error:
        reason = f"{place} is no folder" if place.exists() and not place.is_dir() else error.strerror
        raise OSError(f"nothing can be written into {folder}: {reason}; choose another folder") from None


def check_not_read(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that nothing is written over what is read: files, and folders that are to hold outputs alone.

    Paths are compared by what they lead to, through links and whatever the case of their letters.

    Raises:
        ValueError: naming the first output that is an input too.
    """
    there = [path for path in outputs if path.exists()]
    if not there:
        return
    read = {_identity(path): path for path in inputs if path.exists()}
    for path in there:
        if (same := read.get(_identity(path))) is not None:
            also = "" if path == same else f" (as {same})"
            raise ValueError(
                f"{path} is read from{also}, and what is read is never written over: choose another output"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
