"""Changes to an image and its boxes together: pure functions of a sample and of values drawn beforehand.

No transform holds a state or draws anything, and none writes into the pixels it is given: a decoded image
can be shared by several samples.  All draws come from :func:`sample_rng`, so that what happens to an image
depends on the seed, the epoch and its position in the epoch's order, and on nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, UInt8

from minirtmdet.data.shapes import Shapes

PAD_VALUE = 114
"""Grey of the padding, in every channel."""


Paint = Callable[[int, int], UInt8[np.ndarray, "height width 3"]]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its boxes; every transform takes one and returns another.

    Attributes:
        image: BGR pixels.
        boxes: ``xyxy`` in pixels of ``image``; none reaches beyond the image, none is without area.
        labels: class index of each box.
        ignore: true for regions where background must not be learned (crowds).
        image_id: the image's id in its JSON file.
        path: the image's file.
        original_size: (height, width) of the file's pixels.
        img_shape: (height, width) of the content, padding not counted.
        scale_factor: (width, height) of the content relative to the file, crops not counted.
        shapes: of the objects, a shape a box; None for a detector of boxes alone.
    """

    image: UInt8[np.ndarray, "height width 3"]
    boxes: Float32[np.ndarray, "boxes 4"]
    labels: Int64[np.ndarray, " boxes"]
    ignore: Bool[np.ndarray, " boxes"]
    image_id: int
    path: Path
    original_size: tuple[int, int]
    img_shape: tuple[int, int]
    scale_factor: tuple[float, float] = (1.0, 1.0)
    shapes: Shapes | None = None


def resize(sample: Sample, side: int) -> Sample:
    """The sample as large as fits a square of ``side`` pixels, its ratio kept.

    The factors of width and height differ by the rounding to whole pixels, and boxes follow each its own.
    MMDetection: ``Resize(scale=(side, side), keep_ratio=True)``.
    """
    new_height, new_width = fit(sample.img_shape, side)
    image = cv2.resize(sample.image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    boxes = resize_boxes(sample.boxes, sample.img_shape, (new_height, new_width))
    return _with_content(_scaled(sample, (new_height, new_width)), image, boxes)


def crop(sample: Sample, corner: tuple[int, int], side: int) -> Sample:
    """The square of ``side`` pixels whose left upper corner is ``corner`` (x, y), or what the image has of it.

    Boxes are cut at the border; those outside are dropped.  An object of known shape gets the box of what is left of
    that, and where nothing is left it is dropped.  MMDetection: ``RandomCrop(crop_type='absolute')``, with
    ``recompute_bbox`` where there are masks; what has nothing left of its mask gets a box without area there, which a
    filter at the end removes.
    """
    x, y = corner
    return _cropped(sample, sample.image[y : y + side, x : x + side], sample.boxes, corner)


def resize_crop(
    sample: Sample, side: int, corner: tuple[int, int], crop_side: int, paint: Paint | None = None
) -> Sample:
    """``crop(resize(sample, side), corner, crop_side)``, byte for byte, without most of the pixels that are cut off.

    What lies left of the crop and above it is resized all the same: OpenCV's interpolation cannot start between two
    pixels.  Where the recipe enlarges a mosaic most, this takes two fifths of the time.

    Args:
        sample: an image; or the grey canvas of one that ``paint`` paints.
        side: of the square that the resized image fits.
        corner: left upper corner of the crop (x, y), in the resized image.
        crop_side: of the crop.
        paint: gives the left upper part of the image, so high and so wide; the sample's own where not given.
    """
    size = fit(sample.img_shape, side)
    end = min(corner[1] + crop_side, size[0]), min(corner[0] + crop_side, size[1])
    rows, columns = _source_read(sample.img_shape, size, end)
    source = sample.image[:rows, :columns] if paint is None else paint(rows, columns)
    image = _resize_part(source, sample.img_shape, size)[corner[1] : end[0], corner[0] : end[1]]
    boxes = resize_boxes(sample.boxes, sample.img_shape, size)
    return _cropped(_scaled(sample, size), image, boxes, corner)


def hsv(sample: Sample, gains: tuple[int, int, int]) -> Sample:
    """Hue turned by ``gains[0]`` (of 180), saturation and value raised by the others (clipped to 0..255).

    MMDetection: ``YOLOXHSVRandomAug``; sums that saturate and a table of hues give the same bytes without its
    detour through 16 bits.
    """
    pixels = cv2.cvtColor(sample.image, cv2.COLOR_BGR2HSV)
    hue, saturation, value = gains
    if hue:
        table = ((np.arange(256) + hue) % 180).astype(np.uint8)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(pixels, 0), table), pixels, 0)
    # one sign at a time: sums of both are not computed in 8 bits
    gain = np.array([0.0, saturation, value, 0.0])
    if gain.max() > 0:
        pixels = cv2.add(pixels, gain.clip(min=0))
    if gain.min() < 0:
        pixels = cv2.subtract(pixels, (-gain).clip(min=0))
    return replace(sample, image=cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR))


def flip(sample: Sample) -> Sample:
    """The mirror image, left and right exchanged; for samples that are not padded yet.

    MMDetection: ``RandomFlip(direction='horizontal')``.
    """
    boxes = sample.boxes.copy()
    boxes[:, 0::2] = sample.image.shape[1] - sample.boxes[:, 2::-2]
    shapes = None if sample.shapes is None else sample.shapes.mirrored(sample.image.shape[1])
    return replace(sample, image=cv2.flip(sample.image, 1), boxes=boxes, shapes=shapes)


def pad(sample: Sample, side: int) -> Sample:
    """The sample at the left upper corner of a grey square of ``side`` pixels; boxes and ``img_shape`` stay.

    MMDetection: ``Pad(size=(side, side), pad_val=114)``.
    """
    height, width = sample.image.shape[:2]
    grey = (PAD_VALUE,) * 3
    image = cv2.copyMakeBorder(sample.image, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT, value=grey)
    return replace(sample, image=image)


def drop_small_boxes(sample: Sample, min_size: float) -> Sample:
    """The sample without the boxes, ignored ones too, that are not wider and higher than ``min_size`` pixels.

    MMDetection: ``FilterAnnotations(min_gt_bbox_wh=(1, 1))``, which RTMDet's own recipe leaves out: slivers
    of a pixel that a crop leaves are learned there.
    """
    return select(sample, np.all(sample.boxes[:, 2:] - sample.boxes[:, :2] > min_size, axis=1))


def select(sample: Sample, keep: Bool[np.ndarray, " boxes"]) -> Sample:
    """The sample with some of its boxes."""
    shapes = None if sample.shapes is None else sample.shapes.select(keep)
    return replace(
        sample, boxes=sample.boxes[keep], labels=sample.labels[keep], ignore=sample.ignore[keep], shapes=shapes
    )


def join(canvas: Sample, samples: Sequence[Sample], corners: Sequence[tuple[int, int]]) -> Sample:
    """The canvas with the boxes and shapes of several samples, cut at its border.

    Args:
        canvas: their image.
        samples: what is in it.
        corners: where the left upper corner of each lies in it (x, y).
    """
    moved = [
        sample.boxes + np.array([x, y, x, y], dtype=np.float32) for sample, (x, y) in zip(samples, corners, strict=True)
    ]
    shapes = [s.shapes.moved(x, y) for s, (x, y) in zip(samples, corners, strict=True) if s.shapes is not None]
    joined = replace(
        canvas,
        boxes=np.concatenate(moved),
        labels=np.concatenate([sample.labels for sample in samples]),
        ignore=np.concatenate([sample.ignore for sample in samples]),
        shapes=Shapes.join(shapes) if shapes else None,
    )
    return _with_content(joined, joined.image, joined.boxes)


def eval_sample(sample: Sample, input_size: int) -> Sample:
    """What the network sees in evaluation: resized to fit the input, padded at the right and at the bottom.

    Without shapes: what is found is compared with those of the file.
    """
    return pad(resize(replace(sample, shapes=None), input_size), input_size)


def sample_rng(seed: int, epoch: int, position: int, stream: int = 0) -> np.random.Generator:
    """The source of every draw of a kind (``stream``) for the image at ``position`` in the order of ``epoch``."""
    key = (stream,) if stream else ()
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, position), spawn_key=key))


def draw_side(rng: np.random.Generator, input_size: int, scale: tuple[float, float]) -> int:
    """A side for :func:`resize`: ``input_size`` times a factor drawn evenly from ``scale``, rounded down.

    MMDetection: ``RandomResize(scale=(input_size, input_size), ratio_range=scale)``.
    """
    return max(int(input_size * rng.uniform(*scale)), 1)


def draw_corner(
    rng: np.random.Generator, size: tuple[int, int], boxes: Float32[np.ndarray, "boxes 4"], side: int, tries: int = 1
) -> tuple[tuple[int, int], bool]:
    """A corner for :func:`crop`, drawn evenly from those that leave no part of the square empty if that can be.

    Args:
        rng: where draws come from.
        size: (height, width) of the image to be cropped.
        boxes: its boxes.
        side: of the crop.
        tries: corners that are drawn; the first whose square shows a box is taken, or the very first if none does.

    Returns:
        The corner (x, y), and whether its square shows a box.

    MMDetection: ``RandomCrop._rand_offset``, which tries once.
    """
    room = np.array([max(size[1] - side, 0), max(size[0] - side, 0)])
    corners = rng.integers(0, room + 1, size=(tries, 2))
    shows_box = _shows_box(corners, boxes, side)
    best = np.argmax(shows_box)
    x, y = corners[best].tolist()
    return (x, y), bool(shows_box[best])


def draw_hsv_gains(rng: np.random.Generator, deltas: tuple[int, int, int]) -> tuple[int, int, int]:
    """Gains for :func:`hsv`: each up to its delta in either direction, each left out half of the time.

    MMDetection: ``YOLOXHSVRandomAug``.
    """
    hue, saturation, value = (rng.uniform(-1, 1, 3) * deltas * rng.integers(0, 2, 3)).astype(int).tolist()
    return hue, saturation, value


def fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) of an image that :func:`resize` makes fit a square of ``side`` pixels.

    >>> fit((30, 40), 80)
    (60, 80)
    """
    factor = side / max(size)
    # at least one pixel: a narrow image made small would lose its shorter side
    height, width = (max(int(length * factor + 0.5), 1) for length in size)
    return height, width


def resize_boxes(
    boxes: Float32[np.ndarray, "boxes 4"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float32[np.ndarray, "boxes 4"]:
    """Boxes of an image of ``size`` (height, width) once it has ``new_size``."""
    factors = np.array([new_size[1] / size[1], new_size[0] / size[0]], dtype=np.float32)
    return boxes * np.tile(factors, 2)


def _scaled(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample that knows it is resized to ``size`` (height, width), with its shapes."""
    height, width = sample.img_shape
    return replace(
        sample,
        scale_factor=(sample.scale_factor[0] * size[1] / width, sample.scale_factor[1] * size[0] / height),
        shapes=None if sample.shapes is None else sample.shapes.scaled(size[1] / width, size[0] / height),
    )


def _cropped(
    sample: Sample,
    image: UInt8[np.ndarray, "height width 3"],
    boxes: Float32[np.ndarray, "boxes 4"],
    corner: tuple[int, int],
) -> Sample:
    boxes = boxes - np.array([*corner, *corner], dtype=np.float32)
    if sample.shapes is not None:
        shapes = sample.shapes.moved(-corner[0], -corner[1]).cut(image.shape[:2])
        sample, boxes = replace(sample, shapes=shapes), shapes.boxes(boxes).astype(np.float32)
    return _with_content(sample, image, boxes)


def _source_read(old: tuple[int, int], new: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    """How many of an image's first rows and columns a linear resize reads for the new pixels before ``end``.

    The new pixel ``i`` lies at ``(i + 0.5) * old / new - 0.5`` in the image, and is read from the two pixels around
    that place.  So the last new pixel, ``end - 1``, says how far the resize reads.

    Args:
        old: (height, width) of the image.
        new: (height, width) that it is resized to.
        end: row and column before which the wanted pixels lie, in the resized image.
    """
    rows, columns = (
        min(math.floor((stop - 0.5) * length / new_length - 0.5) + 2, length)
        for stop, length, new_length in zip(end, old, new, strict=True)
    )
    # A part can be so small that it keeps its size at this factor.  OpenCV copies an image whose size does not change,
    # where the whole image would be interpolated: then only the whole one will do.
    if (round(rows * (new[0] / old[0])), round(columns * (new[1] / old[1]))) == (rows, columns):
        return old
    return rows, columns


def _resize_part(
    part: UInt8[np.ndarray, "rows columns 3"], old: tuple[int, int], new: tuple[int, int]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The first rows and columns of an image, resized as in a resize of all of it from ``old`` to ``new``."""
    if part.shape[:2] == old:
        return cv2.resize(part, new[::-1], interpolation=cv2.INTER_LINEAR)
    # by the factors of the whole image: from a size OpenCV would compute those of the part, which are rounded otherwise
    return cv2.resize(part, None, fx=new[1] / old[1], fy=new[0] / old[0], interpolation=cv2.INTER_LINEAR)


def _with_content(
    sample: Sample, image: UInt8[np.ndarray, "height width 3"], boxes: Float32[np.ndarray, "boxes 4"]
) -> Sample:
    """The sample with other pixels: boxes and shapes are cut at the border of the image, boxes without area dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    shapes = None if sample.shapes is None else sample.shapes.cut((height, width))
    sample = replace(sample, image=image, boxes=boxes, img_shape=(height, width), shapes=shapes)
    return select(sample, np.all(boxes[:, 2:] > boxes[:, :2], axis=1))


def _shows_box(
    corners: Int[np.ndarray, "corners 2"], boxes: Float32[np.ndarray, "boxes 4"], side: int
) -> Bool[np.ndarray, " corners"]:
    """Whether the square at each corner overlaps a box."""
    corners = corners[:, None]
    overlaps = (boxes[None, :, :2] < corners + side) & (boxes[None, :, 2:] > corners)
    return np.any(np.all(overlaps, axis=-1), axis=-1)
