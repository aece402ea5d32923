"""File names as data sets give them: written on other systems, with another ending, or leading out of the folder."""

import os
import unicodedata
from pathlib import Path

SUFFIXES = {
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".tif", ".tiff", ".webp"),
}
"""What counts as an image in a folder; a file that is named itself is tried whatever its name."""


def local_name(folder: Path, name: str) -> str:
    """The file name with slashes where it was written on Windows, with backslashes.

    A name that exists in the folder as it is, backslashes and all, stays.
    """
    return name.replace("\\", "/") if "\\" in name and not os.path.isfile(folder / name) else name


def is_within(path: str, folder: str) -> bool:
    """Whether a path, its ``..`` resolved, lies below a folder; links are not followed."""
    return os.path.normpath(path).startswith(os.path.join(folder, ""))


def similar_file(path: Path) -> str:
    """A hint for messages about a missing file: one of its folder that differs in ending or case alone; else empty."""
    if not path.parent.is_dir():
        return ""
    for found in sorted(os.listdir(path.parent)):
        name, stem = _plain(found), _plain(Path(found).stem)
        if _plain(path.name) in (name, stem) or _plain(path.stem) == stem:
            return f" ({found} is there: the JSON's file_name should be that)"
    return ""


def unused_name(name: Path, taken: set[str]) -> Path:
    """The name, with a number behind it where an earlier one was the same; ``taken`` remembers it.

    >>> taken: set[str] = set()
    >>> [str(unused_name(Path(name), taken)) for name in ("a.png", "A.png", "a.jpg")]
    ['a.png', 'A-2.png', 'a.jpg']
    """
    given, number = name, 2
    while str(name).casefold() in taken:  # some disks take A.png and a.png for one file
        name, number = given.with_stem(f"{given.stem}-{number}"), number + 1
    taken.add(str(name).casefold())
    return name


def name_of_output(name: Path) -> Path:
    """Of what is made of an image: its own name; what JPEG would blur, and what is not written everywhere, becomes PNG.

    >>> [str(name_of_output(Path(name))) for name in ("a.JPG", "a.tif", "scan.2024")]
    ['a.JPG', 'a.png', 'scan.2024.png']
    """
    if name.suffix.lower() in (".jpg", ".jpeg"):
        return name
    # what stands behind the last dot need be no ending: scan.2024
    return name.with_suffix(".png") if name.suffix.lower() in SUFFIXES else name.with_name(f"{name.name}.png")


def _plain(name: str) -> str:
    """A name in one spelling: systems differ in case, and in whether an accent is part of its letter."""
    return unicodedata.normalize("NFC", name).casefold()
