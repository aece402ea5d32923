import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from minirtmdet.files import atomic_path, check_not_read, check_writable

ROOT = os.name == "posix" and os.geteuid() == 0


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("folder", [".", "new", "new/and/deep"])
def test_a_folder_that_can_be_written_to_stays_as_it_is(tmp_path: Path, folder: str):
    (tmp_path / "a.txt").touch()
    check_writable(tmp_path / folder)
    assert files(tmp_path) == ["a.txt"]


def a_file(folder: Path) -> Path:
    (folder / "a.txt").touch()
    return folder / "a.txt"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "deep" / "er"


def a_link_to_nothing(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "gone")
    return folder / "link" / "deep"


def without_rights(folder: Path) -> Path:
    if ROOT:
        pytest.skip("root may write everywhere")
    (folder / "locked").mkdir(mode=0o500)
    return folder / "locked" / "new"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_file, r"a\.txt is no folder"),
        (below_a_file, r"a\.txt is no folder"),
        (a_link_to_nothing, "No such file"),
        (without_rights, "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, make: Callable[[Path], Path], reason: str):
    folder = make(tmp_path)
    with pytest.raises(OSError, match=f"into {re.escape(str(folder))}: .*{reason}.*; choose another folder"):
        check_writable(folder)


def same(path: Path) -> Path:
    return path


def by_another_way(path: Path) -> Path:
    return path.parent / "sub" / ".." / path.name


def a_link(path: Path) -> Path:
    (path.parent / "sub" / "link").symlink_to(path)
    return path.parent / "sub" / "link"


def a_hard_link(path: Path) -> Path:
    (path.parent / "sub" / "hard").hardlink_to(path)
    return path.parent / "sub" / "hard"


def its_folder(path: Path) -> Path:
    return path.parent


@pytest.mark.parametrize("output", [same, by_another_way, a_link, a_hard_link, its_folder])
def test_what_is_read_is_not_written_to(tmp_path: Path, output: Callable[[Path], Path]):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "a.jpg"
    path.write_bytes(b"mine")
    written = output(path)
    with pytest.raises(ValueError, match=f"{re.escape(str(written))} is read from"):
        check_not_read([tmp_path / "new", written], [tmp_path, path, tmp_path / "gone"])


def test_other_places_may_be_written_to(tmp_path: Path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    check_not_read([tmp_path / "b.jpg", tmp_path / "c.jpg", tmp_path / "out"], [tmp_path / "a.jpg"])
    check_not_read([], [tmp_path])


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "w.pt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(tmp_path) == ["w.pt"]
    assert path.read_text() == "old"


def test_what_is_brought_to_the_disk_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows refuses any other file: ``os.fsync`` of one that is open for reading ends each save with an error."""
    written = []

    def fsync(descriptor: int) -> None:
        written.append(os.write(descriptor, b""))  # an error where it is not open for writing

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(tmp_path / "w.pt") as temporary:
        temporary.write_text("whole")
    assert written == [0]
    assert (tmp_path / "w.pt").read_text() == "whole"
