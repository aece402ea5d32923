"""``minirtmdet predict``: detections in images, videos, and folders that fill."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from minirtmdet.cli.loading import Device, PartialFailure, Size, checked, load, run_of, tiles_of
from minirtmdet.configs import Side
from minirtmdet.data.tile_grid import Overlap
from minirtmdet.distributed import check_alone
from minirtmdet.evaluation.thresholds import METRICS_FILE, find_choices, read_choices
from minirtmdet.files import check_not_read, check_writable, write_json
from minirtmdet.inference.detect import over_threshold
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.inference.follow import follow as follow_folders
from minirtmdet.inference.images import (
    RESULTS,
    ImageFile,
    describe,
    draw_detections,
    find_images,
    inside_image,
    predict_images,
    write_image,
)
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.tiles import Tiles
from minirtmdet.inference.video import find_videos, is_video, predict_video
from minirtmdet.messages import counted
from minirtmdet.settings import Count, Share

LINES = "predictions.jsonl"
"""Detections in images of a folder that is followed, a line for each."""


@checked
def predict(
    checkpoint: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("predictions"),
    threshold: Share | Literal["best", "per-class"] = 0.3,
    evaluation: Path | None = None,
    tiles: bool = False,
    overlap: Overlap | None = None,
    follow: bool = False,
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    input_size: Side | None = None,
    batch_size: Count = 8,
    device: Device = "auto",
) -> None:
    """Detect in images and videos: writes each with its boxes, and what was found; boxes end where the image ends.

    Of images, predictions.json tells what was found; of a video, a file of JSON lines beside it, one line per frame.
    Ctrl-C ends a video with the frames so far, in files that are whole.

    Exit code 1 where an image was broken and skipped.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's or an exported one too, or a size for its
            published weights.
        images: files, folders of images, and videos.
        out: folder to write into.
        threshold: detections that score more are kept; best: the threshold of the highest F1 in an evaluation, of all
            classes together; per-class: that of each class.
        evaluation: the folder that eval --out wrote, for these two; with --tiles, what eval --tiles wrote there comes
            first.
        tiles: look at images that are larger than the input piece by piece, at full size, for small objects; what is
            longer than the overlap is looked for in the whole image too.
        overlap: share of a tile's side that neighbours have in common, 0.25 where left out; what is no longer is whole
            in one of them.
        follow: keep looking for new images in the folders, as a camera writes them, until Ctrl-C; what is found goes
            into predictions.jsonl at once, a line per image.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        input_size: side of the square network input, in pixels; the run's, or 640, where left out.
        batch_size: images per forward pass.
        device: auto takes the GPU where there is one; openvino runs an exported file by OpenVINO, tensorrt by TensorRT,
            which nobody has tried yet.
    """
    check_alone("predict")
    if not images:
        raise ValueError("no images: name files or folders after the checkpoint")
    if threshold in ("best", "per-class") and evaluation is None:
        raise ValueError(f"--threshold {threshold} needs --evaluation, the folder that eval --out wrote")
    if evaluation is not None and not isinstance(threshold, str):
        raise ValueError(f"--evaluation {evaluation} is not read without --threshold best or per-class")
    pieces = tiles_of(tiles, overlap, batch_size)
    videos = find_videos([path for path in images if is_video(path)])
    others = [path for path in images if not is_video(path)]
    found = find_images(others) if others and not follow else []
    check_writable(out)
    outputs = [out / one.name for one in [*found, *videos]] + [_lines_of(out / one.name) for one in videos]
    folders = {one.path.parent for one in [*found, *videos]} | {path for path in images if path.is_dir()}
    check_not_read([out, *outputs], [*folders, *(one.path for one in [*found, *videos])])
    loaded = load(checkpoint, model, classes, device)
    check_not_read([out], run_of(loaded.source))
    least = _thresholds(loaded, threshold, evaluation, tiles)
    use = _Use(loaded, out, least, loaded.input_side(input_size), batch_size, pieces)
    for video in videos:
        _predict_video(use, video)
    if follow:
        _follow(use, others)
    elif found:
        _predict_images(use, found)


@dataclass(frozen=True)
class _Use:
    """What all kinds of inputs are looked at with."""

    loaded: LoadedDetector
    out: Path
    threshold: float | list[float]
    input_size: int
    batch_size: int
    tiles: Tiles | None


def _thresholds(
    loaded: LoadedDetector, threshold: float | Literal["best", "per-class"], evaluation: Path | None, tiled: bool
) -> float | list[float]:
    """The number, or the numbers of the classes, that the command line means."""
    chosen: float | list[float]
    if isinstance(threshold, str):
        assert evaluation is not None
        file = find_choices(evaluation, tiled=tiled)
        best, by_class = read_choices(file, loaded.names)
        chosen = best if threshold == "best" else by_class
        numbers = (
            [f"{best:.3f}"]
            if threshold == "best"
            else [f"{name} {one:.3f}" for name, one in zip(loaded.names, by_class, strict=True)]
        )
        other = ", measured without tiles" * (tiled and file.name == METRICS_FILE)
        print(f"threshold of {file}{other}: {', '.join(numbers)}")
    else:
        chosen = threshold
    lowest, least = chosen if isinstance(chosen, float) else min(chosen), loaded.limits.score_threshold
    if isinstance(loaded.model, OnnxDetector) and loaded.model.info.kind == "nms" and lowest < least:
        print(f"{loaded.source} holds nothing that scores {least:g} or less", file=sys.stderr)
    return chosen


def _predict_images(use: _Use, found: Sequence[ImageFile]) -> None:
    rows = [row for row in _detect(use, found) if row is not None]
    write_json(use.out / RESULTS, {"classes": use.loaded.names, "threshold": use.threshold, "images": rows})
    count = sum(len(row["detections"]) for row in rows)
    print(f"{counted(count, 'detection')} in {counted(len(rows), 'image')}, written to {use.out}")
    if bad := len(found) - len(rows):
        raise PartialFailure(f"{bad} of {len(found)} images could not be read")


def _detect(use: _Use, found: Sequence[ImageFile]) -> Iterator[dict[str, Any] | None]:
    """What is written of each image, once it is drawn; None for one that cannot be read."""
    config = use.loaded.limits_for(use.threshold)
    settings = {"input_size": use.input_size, "batch_size": use.batch_size}
    for prediction in predict_images(use.loaded.model, found, config, **settings, tiles=use.tiles):
        if prediction.image is None or prediction.detections is None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            yield None
            continue
        detections = over_threshold(inside_image(prediction.detections, prediction.image), use.threshold)
        write_image(use.out / prediction.file.name, draw_detections(prediction.image, detections, use.loaded.names))
        yield describe(prediction._replace(detections=detections), use.loaded.names)


def _predict_video(use: _Use, video: ImageFile) -> None:
    target = use.out / video.name
    result = predict_video(
        use.loaded,
        video.path,
        target,
        _lines_of(target),
        threshold=use.threshold,
        batch_size=use.batch_size,
        input_size=use.input_size,
        tiles=use.tiles,
    )
    found = f"{counted(result.detections, 'detection')} in {counted(result.frames, 'frame')}"
    print(f"{found}, written to {target} and {_lines_of(target)}")


def _follow(use: _Use, folders: Sequence[Path]) -> None:
    """Until Ctrl-C; what broken images are called is printed, and they are tried again when they change."""
    use.out.mkdir(parents=True, exist_ok=True)
    print(f"following {', '.join(map(str, folders))}, writing to {use.out}; Ctrl-C ends it", flush=True)
    with (use.out / LINES).open("a", encoding="utf-8") as lines:
        for new in follow_folders(folders, use.out):
            for row in _detect(use, new):
                if row is not None:
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                    lines.flush()


def _lines_of(video: Path) -> Path:
    return video.with_suffix(".jsonl")
