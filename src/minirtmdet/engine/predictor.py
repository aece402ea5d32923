"""Detections in picture files: which files, what is found, and the pictures with boxes drawn on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from minirtmdet.checkpoints import atomic_path
from minirtmdet.configs import PredictConfig
from minirtmdet.data.augment import Sample, eval_sample
from minirtmdet.data.coco import read_image
from minirtmdet.detector import Detector
from minirtmdet.plots.canvas import box_color
from minirtmdet.structures import Detections

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""What counts as a picture in a folder; a file that is named itself is tried whatever its name."""


class Picture(NamedTuple):
    """A file to look at, and the name of what is written about it.

    Attributes:
        path: the file.
        name: a relative path that no other picture of the call has.
    """

    path: Path
    name: Path


class Prediction(NamedTuple):
    """A picture and what was found in it, or why it could not be read.

    Attributes:
        picture: the file.
        image: BGR pixels, upright; None for a picture that is missing or broken.
        detections: in pixels of ``image``; None likewise.
        error: what is wrong with the file; empty where nothing is.
    """

    picture: Picture
    image: UInt8[np.ndarray, "height width 3"] | None
    detections: Detections | None
    error: str = ""


def find_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Files as they are named, folders with all pictures below them.

    Raises:
        FileNotFoundError: for a path that is not there, or a folder without pictures.
    """
    pictures: list[Picture] = []
    taken: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise FileNotFoundError(f"{path} holds no picture ({', '.join(sorted(SUFFIXES))})")
        elif path.exists():
            found = [path]
        else:
            raise FileNotFoundError(f"no picture or folder {path}")
        for file in found:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            # what JPEG would blur is written as PNG
            name = name if name.suffix.lower() in (".jpg", ".jpeg") else name.with_suffix(".png")
            stem, number = name.stem, 2
            while name in taken:
                name, number = name.with_stem(f"{stem}-{number}"), number + 1
            taken.add(name)
            pictures.append(Picture(file, name))
    return pictures


def predict_pictures(
    model: Detector,
    pictures: Sequence[Picture],
    config: PredictConfig = PredictConfig(),
    *,
    input_size: int,
    batch_size: int = 8,
) -> Iterator[Prediction]:
    """Detections of each picture, in order; one that cannot be read has an error in their place.

    Args:
        model: the detector.
        pictures: from :func:`find_pictures`.
        config: thresholds and limits.
        input_size: side of the square that pictures are resized to fit, in pixels.
        batch_size: pictures a forward pass.
    """
    for start in range(0, len(pictures), batch_size):
        samples: list[Sample | str] = []
        for picture in pictures[start : start + batch_size]:
            try:
                samples.append(_as_sample(picture.path))
            except (OSError, ValueError) as error:
                samples.append(str(error))
        inputs = [eval_sample(sample, input_size) for sample in samples if isinstance(sample, Sample)]
        found: Iterator[Detections] = iter(())
        if inputs:
            pixels = torch.from_numpy(np.stack([sample.image for sample in inputs])).permute(0, 3, 1, 2)
            shapes, scales = [sample.img_shape for sample in inputs], [sample.scale_factor for sample in inputs]
            found = iter(model.predict(pixels.to(model.device), config, shapes, scales))
        for picture, sample in zip(pictures[start : start + batch_size], samples, strict=True):
            if isinstance(sample, str):
                yield Prediction(picture, None, None, sample)
            else:
                yield Prediction(picture, sample.image, next(found))


def inside_picture(detections: Detections, image: UInt8[np.ndarray, "height width 3"]) -> Detections:
    """Boxes cut at the border of the picture, without those that lie in the padding beside it.

    >>> found = Detections(torch.tensor([[4., 4., 40., 8.], [30., 0., 40., 9.]]), torch.ones(2), torch.tensor([0, 1]))
    >>> inside_picture(found, np.zeros((20, 30, 3), np.uint8)).boxes.tolist()
    [[4.0, 4.0, 30.0, 8.0]]
    """
    height, width = image.shape[:2]
    boxes = detections.boxes.clamp(min=0).minimum(detections.boxes.new_tensor([width, height] * 2))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Detections(boxes[keep], detections.scores[keep], detections.labels[keep])


def draw_detections(
    image: UInt8[np.ndarray, "height width 3"], detections: Detections, classes: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture (BGR) with a named box for each detection, the best ones on top."""
    canvas = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(image.shape[:2]) / 400))
    font = ImageFont.load_default(7 * width)
    rows = zip(*(field.tolist() for field in detections), strict=True)
    for box, score, label in reversed(list(rows)):
        colour = ImageColor.getrgb(box_color(label))
        pen.rectangle(box, outline=colour, width=width)
        text = f"{classes[label]} {score:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        # above the box, or inside it at the upper border of the picture
        x, y = box[0], max(box[1] - (bottom - top) - 2 * width, 0)
        pen.rectangle((x, y, x + right - left + 2 * width, y + bottom - top + 2 * width), fill=colour)
        pen.text((x + width - left, y + width - top), text, font=font, fill="white")
    return np.asarray(canvas)[..., ::-1]


def write_picture(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write BGR pixels to a file, whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(temporary, quality=95)


def describe(prediction: Prediction, classes: Sequence[str]) -> dict[str, object]:
    """A prediction as plain values for JSON: boxes are ``xyxy`` in pixels of the file."""
    assert prediction.image is not None
    assert prediction.detections is not None
    rows = zip(*(field.tolist() for field in prediction.detections), strict=True)
    return {
        "file": str(prediction.picture.path),
        "width": prediction.image.shape[1],
        "height": prediction.image.shape[0],
        "detections": [
            {"class": classes[label], "label": label, "score": score, "box": box} for box, score, label in rows
        ],
    }


def _as_sample(path: Path) -> Sample:
    """A picture without boxes."""
    image = read_image(path)
    size = (image.shape[0], image.shape[1])
    return Sample(
        image=image,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        ignore=np.zeros(0, np.bool_),
        image_id=0,
        path=path,
        original_size=size,
        img_shape=size,
    )
