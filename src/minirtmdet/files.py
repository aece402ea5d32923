"""Files that are written: whole or not at all, into folders that take them, and never onto what is read."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp


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


class DiskFull(OSError):
    """A file that could not be written for want of room; the message names it."""


_TEMPORARY = re.compile(r"\.\w+\.\d+\.\w+")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved onto it when the block ends well and removed when it does not.

    What ``path`` held before stays whole whenever the process is killed, and, since the new content is on the disk
    before it takes the name, whenever the machine is.

    Raises:
        DiskFull: naming ``path``.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with naming_full_disk(path):
        try:
            yield temporary
            with temporary.open("r+b") as file:  # Windows brings to the disk only what is open for writing
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it when the block ends well and removed when it does not.

    A folder of this name is therefore always whole.  An empty one that is there already is filled.

    Raises:
        OSError: where ``path`` is there by then and holds something.
        DiskFull: naming ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    making = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with naming_full_disk(path):
            yield making
        making.chmod(0o755)  # mkdtemp makes a folder that nobody else may read
        if path.is_dir():
            path.rmdir()  # an empty one
        making.rename(path)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed left of :func:`atomic_path`'s temporary files."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say which file could not be written, and what to do, where the disk is full or a limit is reached."""
    full = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota of this user is used up",
        errno.EFBIG: "it would be larger than this process may write",
    }
    try:
        yield
    except (OSError, RuntimeError) as error:
        causes: list[BaseException | None] = [error]
        while causes[-1] is not None:  # torch.save raises an error of its own while handling the disk's
            causes.append(causes[-1].__context__)
        reasons = [full[cause.errno] for cause in causes if isinstance(cause, OSError) and cause.errno in full]
        if not reasons:
            raise
        raise DiskFull(
            f"{path} could not be written: {reasons[0]}; what it held before is untouched. Make room in "
            f"{path.parent.absolute()} or choose another folder"
        ) from error


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
