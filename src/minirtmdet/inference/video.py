"""Detections in a video: frame by frame, with no more than a batch in memory, as a video and as JSON lines."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from minirtmdet.data.file_names import unused_name
from minirtmdet.files import naming_full_disk
from minirtmdet.inference.detect import Pixels, in_batches
from minirtmdet.inference.images import VIDEOS, ImageFile, Prediction, check_named, describe
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.tiles import Tiles

USUAL_FPS = 25.0
"""Where a file does not say how fast it is."""


class VideoInfo(NamedTuple):
    """What a video says about itself.

    Attributes:
        fps: frames per second.
        frames: how many, as the file says, which need not be so; 0 where it does not.
    """

    fps: float
    frames: int


class Frame(NamedTuple):
    """One image of a video.

    Attributes:
        number: from 0.
        seconds: since the start.
        pixels: BGR, upright.
    """

    number: int
    seconds: float
    pixels: Pixels


class VideoResult(NamedTuple):
    """What was looked at and found.

    Attributes:
        frames: how many.
        detections: in all of them.
    """

    frames: int
    detections: int


def is_video(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in VIDEOS and not path.is_dir()


def find_videos(paths: Sequence[Path]) -> list[ImageFile]:
    """Each video with the name of what is written about it, ``.mp4``, which no other has.

    Raises:
        FileNotFoundError: for one that is not there.
        ValueError: for an address, with what to do.
    """
    videos: list[ImageFile] = []
    taken: set[str] = set()
    for path in paths:
        check_named(path, "video")
        videos.append(ImageFile(path, unused_name(Path(f"{path.stem}.mp4"), taken)))
    return videos


@contextmanager
def open_video(path: Path) -> Iterator[tuple[VideoInfo, Iterator[Frame]]]:
    """A video's frames, one after the other; a warning says where there are fewer than the file announces.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file without a frame that OpenCV can decode.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no video {path}")
    capture = cv2.VideoCapture(str(path))
    try:
        fps, frames = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        yield VideoInfo(fps if 0 < fps < 1000 else USUAL_FPS, max(frames, 0)), _frames(path, capture, frames)
    finally:
        capture.release()


def _frames(path: Path, capture: Any, announced: int) -> Iterator[Frame]:
    number = 0
    while True:
        there, pixels = capture.read()
        if not there:
            break
        yield Frame(number, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, pixels)
        number += 1
    if not number:
        raise ValueError(f"{path} holds no frame that OpenCV can decode: it is empty, broken, or of another kind")
    # what containers announce is an estimate
    if number < 0.95 * announced:
        warnings.warn(
            f"{path}: {number} of {announced} frames could be read; the rest is cut off or broken", stacklevel=2
        )


def predict_video(
    detector: LoadedDetector,
    path: Path,
    video: Path,
    rows: Path,
    *,
    threshold: float | Sequence[float] = 0.3,
    batch_size: int = 8,
    input_size: int | None = None,
    tiles: Tiles | None = None,
    progress: bool = True,
) -> VideoResult:
    """Detect in every frame of a video; sound is not copied.

    Interrupted (Ctrl-C), or stopped by an error, it leaves both files with the frames so far, whole and playable.

    Args:
        detector: what looks.
        path: the video.
        video: where to write it with boxes, ``.mp4``.
        rows: where to write a line of JSON for each frame: ``frame`` from 0, ``seconds``, and ``detections`` as in
            ``predictions.json``.
        threshold: as in :meth:`~minirtmdet.inference.load.LoadedDetector.predict`.
        batch_size: frames per forward pass.
        input_size: side of the square network input; the detector's own where left out.
        tiles: look at each frame piece by piece.
        progress: show a progress bar.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_video`.
        OSError: where a file cannot be written.
    """
    settings = {"threshold": threshold, "batch_size": batch_size, "input_size": input_size, "tiles": tiles}
    quiet = {} if progress else {"disable": True}
    count = found = 0
    with open_video(path) as (info, frames):
        bar = tqdm(frames, desc=path.name, total=info.frames or None, unit="frame", leave=False, **quiet)
        with _outputs(video, rows, info.fps) as write:
            for batch in in_batches(bar, batch_size):
                images = [frame.pixels for frame in batch]
                for frame, result in zip(batch, detector.predict(images, **settings), strict=True):  # type: ignore[arg-type]
                    one = Prediction(ImageFile(path, video), frame.pixels, result.detections)
                    row = {"frame": frame.number, "seconds": round(frame.seconds, 3)}
                    write(result.draw(), {**row, "detections": describe(one, detector.names)["detections"]})
                    count, found = count + 1, found + len(result)
    return VideoResult(count, found)


@contextmanager
def _outputs(video: Path, rows: Path, fps: float) -> Iterator[Any]:
    """A function that writes a frame and its row; both files have all that was written, however the block ends."""
    unfinished = video.with_name(f".{video.stem}.{os.getpid()}{video.suffix}")
    writer = lines = None

    def write(image: Pixels, row: dict[str, Any]) -> None:
        nonlocal writer, lines
        if writer is None or lines is None:  # nothing is replaced before there is something
            video.parent.mkdir(parents=True, exist_ok=True)
            size = (image.shape[1], image.shape[0])
            writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            if not writer.isOpened():
                raise OSError(f"{video} cannot be written as an .mp4 file by this OpenCV")
            lines = rows.open("w", encoding="utf-8")
        writer.write(image)
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        lines.flush()

    with naming_full_disk(rows):
        try:
            yield write
        finally:
            if lines is not None:
                lines.close()
            if writer is not None:
                writer.release()
                os.replace(unfinished, video)
