"""The published checkpoints: where they are, and how one is fetched whole.

Nothing is downloaded unless :func:`download_weights` is called or the command line is given a size for a file.
"""

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from filelock import FileLock
from platformdirs import user_cache_path
from tqdm import tqdm

TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""
CHUNK = 1 << 20
_ZOO = "https://download.openmmlab.com/mmdetection/v3.0/rtmdet"
_POSE = "https://download.openmmlab.com/mmpose/v1/projects/rtmpose"


class DownloadError(OSError):
    """A file that could not be fetched whole, or is not the one that was published."""


@dataclass(frozen=True)
class OfficialWeights:
    """A published checkpoint.

    Attributes:
        url: where it is; the end of its name are the first eight digits of its SHA-256.
        sha256: its SHA-256, or the digits of it that are known.
        input_size: side of the square that it was trained and measured at, in pixels.
    """

    url: str
    sha256: str
    input_size: int = 640


# MMDetection's model zoo (configs/rtmdet/README.md); nano is MMPose's person detector, with one class
OFFICIAL: dict[str, OfficialWeights] = {
    "nano": OfficialWeights(
        f"{_POSE}/rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
        "05d8511e7b3fabc62e27d2f624179e004ad14ee63a86ca9d9d22c88f3db0eee1",
        input_size=320,
    ),
    "tiny": OfficialWeights(
        f"{_ZOO}/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth",
        "78e30dcce0c6f594eaff0d6977b84b4103688b4aff0ad1aa16008a8cc854a7fb",
    ),
    "s": OfficialWeights(
        f"{_ZOO}/rtmdet_s_8xb32-300e_coco/rtmdet_s_8xb32-300e_coco_20220905_161602-387a891e.pth",
        "387a891e157cf0ab57d76b3ffc17bf77247089d672532427930b3140f9e789d6",
    ),
    "m": OfficialWeights(
        f"{_ZOO}/rtmdet_m_8xb32-300e_coco/rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth",
        "229f527ca88498e8894a778a62a878a322b4a3ea2cae09ea537d34b7e907792b",
    ),
    "l": OfficialWeights(
        f"{_ZOO}/rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth",
        "5a0be7c4",  # of the full sum no record was found
    ),
    "x": OfficialWeights(
        f"{_ZOO}/rtmdet_x_8xb32-300e_coco/rtmdet_x_8xb32-300e_coco_20220715_230555-cc79b9ae.pth",
        "cc79b9ae0970f7f597e2aa5f81663129f3aa24e5612549b4f1a383da7fff825d",
    ),
    # of these five, as of l, no record of the full sum was found
    "ins-tiny": OfficialWeights(
        f"{_ZOO}/rtmdet-ins_tiny_8xb32-300e_coco/rtmdet-ins_tiny_8xb32-300e_coco_20221130_151727-ec670f7e.pth",
        "ec670f7e",
    ),
    "ins-s": OfficialWeights(
        f"{_ZOO}/rtmdet-ins_s_8xb32-300e_coco/rtmdet-ins_s_8xb32-300e_coco_20221121_212604-fdc5d7ec.pth",
        "fdc5d7ec",
    ),
    "ins-m": OfficialWeights(
        f"{_ZOO}/rtmdet-ins_m_8xb32-300e_coco/rtmdet-ins_m_8xb32-300e_coco_20221123_001039-6eba602e.pth",
        "6eba602e",
    ),
    "ins-l": OfficialWeights(
        f"{_ZOO}/rtmdet-ins_l_8xb32-300e_coco/rtmdet-ins_l_8xb32-300e_coco_20221124_103237-78d1d652.pth",
        "78d1d652",
    ),
    "ins-x": OfficialWeights(
        f"{_ZOO}/rtmdet-ins_x_8xb16-300e_coco/rtmdet-ins_x_8xb16-300e_coco_20221124_111313-33d4595b.pth",
        "33d4595b",
    ),
}
"""Published weights by size."""


def weights_path(size: str, folder: Path | None = None) -> Path:
    """Where :func:`download_weights` puts the file of a size.

    Raises:
        ValueError: for a size that has none.

    >>> weights_path("tiny", Path("w")).name
    'rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth'
    """
    if size not in OFFICIAL:
        raise ValueError(f"no published weights of size {size!r}: expected one of {', '.join(OFFICIAL)}")
    folder = user_cache_path("minirtmdet") / "weights" if folder is None else folder
    return folder / OFFICIAL[size].url.rpartition("/")[2]


def published_size(what: Path | str) -> str | None:
    """The size whose published weights are meant, or None; a file or a folder of that name comes first.

    >>> published_size("tiny"), published_size("tiny.pth")
    ('tiny', None)
    """
    return str(what) if str(what) in OFFICIAL and not Path(what).exists() else None


def download_weights(size: str, folder: Path | None = None) -> Path:
    """The file of a size's published weights, downloaded if it is not there yet.

    A download that stops goes on where it was when it is asked for again; several processes may ask at once.

    Args:
        size: ``nano`` (one class: person), ``tiny``, ``s``, ``m``, ``l`` or ``x`` (80 classes of COCO), or ``ins-tiny``
            to ``ins-x``, which find masks too.
        folder: where to; in the user's cache directory where left out.

    Returns:
        The file, checked against its SHA-256 whenever it is asked for; of ``l`` and those with masks only the digits
        that its name carries are known.

    Raises:
        ValueError: for another size.
        DownloadError: naming the address or the file, and what is wrong with it.
    """
    path, official = weights_path(size, folder), OFFICIAL[size]
    if path.is_file():
        _check(path, official.sha256)
    else:
        download(official.url, path, official.sha256)
    return path


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch a file to ``path``; it appears there whole and checked, or not at all.

    What has arrived of it waits in ``<path>.part``.

    Args:
        url: where it is.
        path: where to; missing folders are made.
        sha256: hexadecimal digits that its SHA-256 begins with.

    Raises:
        DownloadError: where the server, the disk or the checksum says no.
    """
    part = path.with_name(f"{path.name}.part")
    with _explained(url, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file():  # another process was faster
                return _check(path, sha256)
            _fetch(url, part)
            found = _sha256(part)
            if not found.startswith(sha256):
                part.unlink()
                raise DownloadError(
                    f"{url}: what arrived has SHA-256 {found}, expected {sha256}; it is removed, try again"
                )
            os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    """Append what is missing, or write all of it where the server does not give parts."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # nothing is missing; whether it is right, its checksum says
            return
        raise
    with response:
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True) as progress,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
            arrived = file.tell()
    if total is not None and arrived < total:
        raise ConnectionError(f"it ended after {arrived} of {total} bytes")


def _check(path: Path, sha256: str) -> None:
    """Raise a DownloadError for a file that is not the published one; it may be the user's, and stays."""
    found = _sha256(path)
    if not found.startswith(sha256):
        raise DownloadError(
            f"{path} has SHA-256 {found}, expected {sha256}: it is damaged, or not the published file. Remove it, and "
            "it is downloaded again; if it is yours, move it and give its new name in place of the size, with --model"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(url: str, part: Path) -> Iterator[None]:
    """Whatever goes wrong as one DownloadError that says where, and what to do."""
    try:
        yield
    except DownloadError:
        raise
    except HTTPError as error:
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise DownloadError(f"{url}: {reason}; try again, and it goes on where it was") from None
    except OSError as error:
        raise DownloadError(f"{error.filename or part} cannot be written: {error.strerror}") from None
