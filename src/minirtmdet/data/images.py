"""Image files: their pixels, and what can be known of a file before they are decoded.

A header takes a ten-thousandth of a second and tells size and orientation.  So every image is looked at before a run
starts, and none is decoded that is not what it should be: a file of some kilobytes can hold gigabytes of pixels.

Run as a program this module decodes the files that its input names, for :func:`find_damage`.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag that says which side of a photo is up; from 5 on width and height are exchanged."""
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""How a whole file ends, in the formats whose end tells."""
DAMAGE = re.compile(
    r"^(?:Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)|Premature end of JPEG|libpng error).*", re.M
)
"""What the decoders' libraries print of a damaged file; stray bytes before a JPEG's end do no harm."""

_pillow = threading.Lock()


class Expected(NamedTuple):
    """What an image should be.

    Attributes:
        size: (height, width) in pixels.
        source: the file that says so.
    """

    size: tuple[int, int]
    source: str


class Header(NamedTuple):
    """What the first bytes of a file say.

    Attributes:
        size: (height, width) in pixels, as viewers show it: after its EXIF orientation where the header has it.
        kind: the format, in Pillow's words.
        deep: whether a channel has 16 bits.
    """

    size: tuple[int, int]
    kind: str
    deep: bool


def read_image(
    path: Path, *, max_pixels: int | None = None, expected: Expected | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of an image as BGR, whatever its file holds: grey is repeated, transparency is dropped.

    The EXIF orientation is applied, as MMDetection's ``LoadImageFromFile`` and every viewer do.

    Args:
        path: the file.
        max_pixels: an image of more is not decoded; any is where not given.
        expected: what the image should be; another one is not decoded either.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming the file that is empty, cut off, no image, too large or not what is expected.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such image")
    # the bytes are read here because cv2.imread cannot open every Unicode path, and shows a cut JPEG as half grey
    with path.open("rb") as file:
        header = read_header(file)
        file.seek(0)
        if header is not None:
            _check_header(path, header, max_pixels, expected)
        content = np.frombuffer(file.read(), dtype=np.uint8)
    if not len(content):
        raise ValueError(f"{path} is empty (0 bytes), not an image")
    image = _decode(path, content, cv2.IMREAD_COLOR)
    if expected is not None:
        _check_size(path, (image.shape[0], image.shape[1]), expected)
    return image


def inspect_image(path: Path, *, max_pixels: int | None = None, expected: Expected | None = None) -> Header | None:
    """Raise what :func:`read_image` would raise, as far as the first and the last bytes of the file tell.

    A file that they leave in doubt is decoded: one that does not end as its format does, of a format whose end says
    nothing, or that Pillow does not know.  What is damaged in its middle passes; see :func:`find_damage`.

    Returns:
        The header, where Pillow knows the format.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: there is no such image")
    with path.open("rb") as file:
        file.peek(1)  # waits for the disk before read_header lets one thread in at a time
        header = read_header(file)
        is_whole = header is not None and header.kind in ENDS and _ends_with(file, ENDS[header.kind])
    if header is not None:
        _check_header(path, header, max_pixels, expected)
    if not is_whole or (header is not None and expected is not None and header.size != expected.size):
        read_image(path, max_pixels=max_pixels, expected=expected)
    return header


def read_header(file: BufferedReader | BytesIO) -> Header | None:
    """What an open file's first bytes say, or None where Pillow does not know the format; OpenCV may."""
    # Pillow's own limit knows no setting but this, and warns of attacks
    with _pillow:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image: Any = Image.open(file)
        except Exception:  # whatever parsers raise for broken files: decoding will tell
            return None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    tile = image.tile[0][3] if image.tile else ""  # how the decoder reads: "RGB;16B"
    size = (width, height) if _is_turned(image) else (height, width)
    return Header(size, image.format, ";16" in str(tile))


def find_damage(
    paths: Sequence[Path], *, max_pixels: int | None = None, expected: Sequence[Expected | None] | None = None
) -> dict[int, str]:
    """Decode files, and say what is wrong with those that are broken: the place among ``paths``, and a message.

    A JPEG damaged in its middle is decoded all the same: the library prints a line that names no file, and what it
    prints cannot be had from within.  So files are decoded by other processes, whose output is read.  Bytes that were
    changed so that they still make sense to the decoder are not noticed.

    Raises:
        ChildProcessError: naming the file that a process ended at.
    """
    tasks = [
        (i, str(path), wanted)
        for i, (path, wanted) in enumerate(zip(paths, expected or [None] * len(paths), strict=True))
    ]
    processes = max(min(os.cpu_count() or 1, len(tasks) // 50), 1)
    shares = [tasks[rank::processes] for rank in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        found = pool.map(lambda share: _decode_apart(share, max_pixels), shares)
        return dict(sorted(item for problems in found for item in problems.items()))


def used_bits(paths: Sequence[Path]) -> int:
    """How many of their 16 bits images use that have so many: 12 where no value is above 4095."""
    largest = 0
    for path in paths:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        largest = max(largest, int(_decode(path, content, cv2.IMREAD_UNCHANGED).max()))
    return largest.bit_length()


def _decode(path: Path, content: UInt8[np.ndarray, " bytes"], how: int) -> Any:
    try:
        image = cv2.imdecode(content, how)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"{path} cannot be decoded: it is cut off, or no image that OpenCV reads")
    return image


def _is_turned(image: Any) -> bool:
    """Whether EXIF exchanges width and height; what stands behind the pixels is not read."""
    if "exif" not in image.info:
        return False
    try:
        return image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # as above
        return False


def _check_header(path: Path, header: Header, max_pixels: int | None, expected: Expected | None) -> None:
    height, width = header.size
    # a header may not say that an image is turned, but JPEG's does
    if expected is not None and (header.kind == "JPEG" or sorted(header.size) != sorted(expected.size)):
        _check_size(path, header.size, expected)
    if max_pixels is not None and height * width > max_pixels:
        raise ValueError(
            f"{path} has {width} x {height} = {height * width} pixels, more than max_pixels = {max_pixels}: make it "
            "smaller, or raise max_pixels where there is the memory (3 bytes a pixel)"
        )


def _check_size(path: Path, found: tuple[int, int], expected: Expected) -> None:
    (height, width), (source_height, source_width) = found, expected.size
    if found == tuple(expected.size):
        return
    hint = " (after its EXIF orientation was applied?)" if found == (source_width, source_height) else ""
    raise ValueError(
        f"{path} is {width} x {height} pixels{hint}, but {expected.source} says {source_width} x {source_height}: "
        "its boxes cannot be trusted"
    )


def _ends_with(file: BufferedReader | BytesIO, end: bytes) -> bool:
    length = file.seek(0, os.SEEK_END)
    file.seek(max(length - len(end), 0))
    return file.read() == end


def _decode_apart(tasks: Sequence[tuple[int, str, Expected | None]], max_pixels: int | None) -> dict[int, str]:
    """Decode files in a process of its own; returns what is wrong, by the number of the file."""
    # its own folder stays off the path: a module there could hide one of the same name
    command = [sys.executable, "-P", __file__]
    done = subprocess.run(command, input=json.dumps([max_pixels, tasks]).encode(), capture_output=True, check=False)
    names = {number: path for number, path, _ in tasks}
    # a line with a number comes before whatever decoding the file of this number prints
    _, *parts = done.stderr.decode(errors="replace").split("\0")
    printed = {int(number): text for number, _, text in (part.partition("\n") for part in parts)}
    if done.returncode:
        last = names[max(printed, default=tasks[0][0])]
        raise ChildProcessError(
            f"{last}: the process that decoded it ended with {done.returncode}: {done.stderr[-300:]!r}"
        )
    problems = {int(number): problem for number, problem in json.loads(done.stdout).items()}
    for number, text in printed.items():
        if damage := DAMAGE.search(text):
            problems.setdefault(number, f"{names[number]} is damaged: {damage[0]}")
    return problems


def _decode_all(max_pixels: int | None, tasks: Sequence[tuple[int, str, Sequence[Any] | None]]) -> dict[int, str]:
    problems = {}
    for number, path, wanted in tasks:
        print(f"\0{number}", file=sys.stderr, flush=True)
        expected = None if wanted is None else Expected(tuple(wanted[0]), wanted[1])
        try:
            read_image(Path(path), max_pixels=max_pixels, expected=expected)
        except (OSError, ValueError) as error:
            problems[number] = str(error)
    return problems


if __name__ == "__main__":
    print(json.dumps(_decode_all(*json.load(sys.stdin))))
