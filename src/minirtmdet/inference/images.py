"""Detections in image files: which files, what is found, and the images with boxes and masks drawn on them."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw

from minirtmdet.configs import PredictConfig
from minirtmdet.data.file_names import SUFFIXES, name_of_output, unused_name
from minirtmdet.data.images import read_image
from minirtmdet.data.masks import encode_stored
from minirtmdet.detector import Detector
from minirtmdet.files import atomic_path
from minirtmdet.inference.detect import Pixels, in_batches
from minirtmdet.inference.tiles import Tiles, detect_all
from minirtmdet.plots.canvas import check_labels, class_colors
from minirtmdet.plots.fonts import Line, drawable
from minirtmdet.plots.labels import place_labels
from minirtmdet.structures import Detections

VIDEOS = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""How an address begins, once it was taken for a path."""
RESULTS = "predictions.json"
"""Detections of all images; a folder that holds it was written by ``predict``."""


class ImageFile(NamedTuple):
    """A file to look at, and the name of what is written about it.

    Attributes:
        path: the file.
        name: a relative path that no other image of the call has.
    """

    path: Path
    name: Path


class Prediction(NamedTuple):
    """An image and what was found in it, or why it could not be read.

    Attributes:
        file: where it is.
        image: BGR pixels, upright; None for an image that is missing or broken.
        detections: in pixels of ``image``; None likewise.
        error: what is wrong with the file; empty where nothing is.
    """

    file: ImageFile
    image: UInt8[np.ndarray, "height width 3"] | None
    detections: Detections | None
    error: str = ""


def find_images(paths: Sequence[Path]) -> list[ImageFile]:
    """Files as they are named, folders with all images below them.

    What an earlier call of ``predict`` wrote into such a folder is left out; a warning counts whatever is.

    Raises:
        FileNotFoundError: for a path that is not there, or a folder without images.
        ValueError: for a video or an address, with what to do.
    """
    images: list[ImageFile] = []
    taken: set[str] = set()
    for path in paths:
        for file in _images_in(path) if path.is_dir() else [_named(path)]:
            name = name_of_output(file.relative_to(path) if path.is_dir() else Path(file.name))
            images.append(ImageFile(file, unused_name(name, taken)))
    return images


def check_named(path: Path, what: str) -> None:
    """Make sure that a path that was named is there.

    Raises:
        FileNotFoundError: saying what is not there.
        ValueError: for an address, with what to do.
    """
    if ADDRESS.match(str(path)):
        raise ValueError(f"{path} is an address: download what is there, and name the file")
    if not path.exists():
        raise FileNotFoundError(f"no {what} {path}")


def _named(path: Path) -> Path:
    """A file that was named itself, or an error that says what to do instead."""
    check_named(path, "image or folder")
    if path.suffix.lower() in VIDEOS:
        raise ValueError(f"{path} is a video, not an image: `minirtmdet predict` and predict_video take it")
    return path


def _images_in(folder: Path) -> list[Path]:
    """All images below a folder, with a warning that says what else is there."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    earlier = {file.parent for file in files if file.parent != folder and _is_ours(file)}
    ours = [file for file in files if earlier.isdisjoint(file.parents)]
    others = Counter(file.suffix.lower() or "without ending" for file in ours if file.suffix.lower() not in SUFFIXES)
    left_out = [f"{count} {ending}" for ending, count in sorted(others.items())]
    left_out += [f"{one}, which predict wrote" for one in sorted(map(str, earlier))]
    said = f"left out: {', '.join(left_out)}" if left_out else ""
    images = [file for file in ours if file.suffix.lower() in SUFFIXES]
    if not images:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}){said and f'; {said}'}")
    if left_out:
        warnings.warn(f"{folder}: {said}", stacklevel=3)
    return images


def _is_ours(file: Path) -> bool:
    """Whether a file is the :data:`RESULTS` of an earlier call, by how it begins."""
    if file.name != RESULTS:
        return False
    with file.open("rb") as content:
        return content.read(20).split() == [b"{", b'"classes":', b"["]


def predict_images(
    model: Detector,
    images: Sequence[ImageFile],
    config: PredictConfig | None = None,
    *,
    input_size: int,
    batch_size: int = 8,
    tiles: Tiles | None = None,
) -> Iterator[Prediction]:
    """Detections of each image, in order; one that cannot be read has an error in their place.

    Args:
        model: the detector.
        images: from :func:`find_images`.
        config: thresholds and limits; the detector's own where left out.
        input_size: side of the square that images are resized to fit, in pixels.
        batch_size: images per forward pass.
        tiles: look at large images piece by piece.
    """
    for files in in_batches(images, batch_size):
        read: list[Pixels | str] = []
        for file in files:
            try:
                read.append(read_image(file.path))
            except (OSError, ValueError) as error:
                read.append(str(error))
        whole = [pixels for pixels in read if not isinstance(pixels, str)]
        found = iter(detect_all(model, whole, config, input_size=input_size, tiles=tiles))
        for file, pixels in zip(files, read, strict=True):
            if isinstance(pixels, str):
                yield Prediction(file, None, None, pixels)
            else:
                yield Prediction(file, pixels, next(found))


def inside_image(detections: Detections, image: UInt8[np.ndarray, "height width 3"]) -> Detections:
    """Boxes cut at the border of the image, without those that lie in the padding beside it; masks end there anyway.

    >>> found = Detections(torch.tensor([[4., 4., 40., 8.], [30., 0., 40., 9.]]), torch.ones(2), torch.tensor([0, 1]))
    >>> inside_image(found, np.zeros((20, 30, 3), np.uint8)).boxes.tolist()
    [[4.0, 4.0, 30.0, 8.0]]
    """
    height, width = image.shape[:2]
    boxes = detections.boxes.clamp(min=0).minimum(detections.boxes.new_tensor([width, height] * 2))
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Detections(boxes, detections.scores, detections.labels, detections.stored_masks).pick(keep)


def draw_detections(
    image: UInt8[np.ndarray, "height width 3"], detections: Detections, classes: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """The image (BGR) with a box for each detection and, where there are some, masks; the best ones on top.

    Labels are placed by :func:`~minirtmdet.plots.labels.place_labels`, those of the best detections first: none hides
    another, and in a crowd some are left out.

    Raises:
        ValueError: where a label has no name.
    """
    labels = detections.labels.tolist()
    check_labels(labels, classes, "the image")
    names = drawable(classes)
    palette = [ImageColor.getrgb(color) for color in class_colors(classes)]
    canvas = Image.fromarray(np.ascontiguousarray(_with_masks(image, detections, palette)[..., ::-1]))
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(image.shape[:2]) / 400))
    boxes, colours = detections.boxes.cpu().numpy(), [palette[label] for label in labels]
    for box, colour in reversed(list(zip(boxes.tolist(), colours, strict=True))):
        pen.rectangle(box, outline=colour, width=width)
    named = zip(labels, detections.scores.tolist(), strict=True)
    lines = [Line(f"{names[label]} {score:.2f}", 7 * width) for label, score in named]
    ink = np.array([line.box for line in lines], dtype=float).reshape(-1, 4)
    sizes = ink[:, 2:] - ink[:, :2] + 2 * width
    corners = place_labels(boxes, sizes, (0.0, 0.0, *map(float, image.shape[1::-1])))
    for line, size, corner, colour in zip(lines, sizes, corners, colours, strict=True):
        if corner is not None:
            pen.rectangle((*corner, corner[0] + size[0], corner[1] + size[1]), fill=colour)
            line.draw(pen, corner[0] + width, corner[1] + width, "white")
    return np.asarray(canvas)[..., ::-1]


def _with_masks(
    image: UInt8[np.ndarray, "height width 3"], detections: Detections, palette: Sequence[tuple[int, ...]]
) -> UInt8[np.ndarray, "height width 3"]:
    """The image with half of each mask's pixels in the colour of its box."""
    image = image.copy()
    worst_first = detections.pick(torch.arange(len(detections.labels)).flip(0).to(detections.labels.device))
    masks = (mask.cpu().numpy() for block in worst_first.mask_blocks() for mask in block)
    for mask, label in zip(masks, worst_first.labels.tolist(), strict=False):  # no mask from a detector of boxes alone
        colour = np.array(palette[label][::-1], np.uint8)
        image[mask] = image[mask] // 2 + colour // 2
    return image


def write_image(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write BGR pixels to a file, whole or not at all; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(temporary, quality=95)


def describe(prediction: Prediction, classes: Sequence[str]) -> dict[str, object]:
    """A prediction as plain values for JSON: boxes are ``xyxy`` in pixels of the file, masks compressed RLE of COCO."""
    assert prediction.image is not None
    assert prediction.detections is not None
    fields = zip(*(field.tolist() for field in prediction.detections), strict=True)
    rows = [{"class": classes[label], "label": label, "score": score, "box": box} for box, score, label in fields]
    # a detector of boxes alone has no masks
    for row, rle in zip(rows, encode_stored(prediction.detections), strict=False):
        row["segmentation"] = rle
    return {
        "file": str(prediction.file.path),
        "width": prediction.image.shape[1],
        "height": prediction.image.shape[0],
        "detections": rows,
    }
