"""Changes to a picture and its boxes together: pure functions of a sample and of values drawn beforehand.

No transform holds a state or draws anything, and none writes into the pixels it is given: a decoded picture
can be shared by several samples.  All draws come from :func:`sample_rng`, so that what happens to a picture
depends on the seed, the epoch and its position in the epoch's order, and on nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, Int64, UInt8

from minirtmdet.configs import AugmentConfig

PAD_VALUE = 114
"""Grey of the padding, in every channel."""
MIN_BOX_SIZE = 1.0
"""What remains of a box is learned only if it is wider and higher than this, in pixels."""
CROP_TRIES = 10
"""Crops that are drawn to find one that shows a box."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with its boxes; every transform takes one and returns another.

    Attributes:
        image: BGR pixels.
        boxes: ``xyxy`` in pixels of ``image``; none reaches beyond the image, none is without area.
        labels: class index of each box.
        ignore: true for regions where background must not be learned (crowds).
        image_id: the picture's id in its JSON file.
        path: the picture's file.
        original_size: (height, width) of the file's pixels.
        img_shape: (height, width) of the content, padding not counted.
        scale_factor: (width, height) of the content relative to the file, crops not counted.
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


def resize(sample: Sample, side: int) -> Sample:
    """The sample as large as fits a square of ``side`` pixels, its ratio kept.

    The factors of width and height differ by the rounding to whole pixels, and boxes follow each its own.
    MMDetection: ``Resize(scale=(side, side), keep_ratio=True)``.
    """
    height, width = sample.img_shape
    factor = side / max(height, width)
    # at least one pixel: a narrow picture made small would lose its shorter side
    new_height, new_width = (max(int(length * factor + 0.5), 1) for length in (height, width))
    w_scale, h_scale = new_width / width, new_height / height
    image = cv2.resize(sample.image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    boxes = sample.boxes * np.array([w_scale, h_scale, w_scale, h_scale], dtype=np.float32)
    scale_factor = (sample.scale_factor[0] * w_scale, sample.scale_factor[1] * h_scale)
    return _with_content(sample, image, boxes, scale_factor=scale_factor)


def crop(sample: Sample, corner: tuple[int, int], side: int) -> Sample:
    """The square of ``side`` pixels whose left upper corner is ``corner`` (x, y), or what the image has of it.

    Boxes are cut at the border; those outside are dropped.  MMDetection: ``RandomCrop(crop_type='absolute')``.
    """
    x, y = corner
    image = sample.image[y : y + side, x : x + side]
    return _with_content(sample, image, sample.boxes - np.array([x, y, x, y], dtype=np.float32))


def hsv(sample: Sample, gains: tuple[int, int, int]) -> Sample:
    """Hue turned by ``gains[0]`` (of 180), saturation and value raised by the others (clipped to 0..255).

    MMDetection: ``YOLOXHSVRandomAug``; a table of 256 entries a channel gives the same bytes in less time.
    """
    levels = np.arange(256)
    hue = (levels + gains[0]) % 180
    saturation, value = (np.clip(levels + gain, 0, 255) for gain in gains[1:])
    table = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)[None]
    pixels = cv2.LUT(cv2.cvtColor(sample.image, cv2.COLOR_BGR2HSV), table)
    return replace(sample, image=cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR))


def flip(sample: Sample) -> Sample:
    """The mirror image, left and right exchanged; for samples that are not padded yet.

    MMDetection: ``RandomFlip(direction='horizontal')``.
    """
    boxes = sample.boxes.copy()
    boxes[:, 0::2] = sample.image.shape[1] - sample.boxes[:, 2::-2]
    return replace(sample, image=cv2.flip(sample.image, 1), boxes=boxes)


def pad(sample: Sample, side: int) -> Sample:
    """The sample at the left upper corner of a grey square of ``side`` pixels; boxes and ``img_shape`` stay.

    MMDetection: ``Pad(size=(side, side), pad_val=114)``.
    """
    height, width = sample.image.shape[:2]
    grey = (PAD_VALUE,) * 3
    image = cv2.copyMakeBorder(sample.image, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT, value=grey)
    return replace(sample, image=image)


def drop_small_boxes(sample: Sample, min_size: float = MIN_BOX_SIZE) -> Sample:
    """The sample without the boxes, ignored ones too, that are not wider and higher than ``min_size`` pixels.

    MMDetection: ``FilterAnnotations(min_gt_bbox_wh=(1, 1))``, which RTMDet's own recipe leaves out: slivers
    of a pixel that a crop leaves are learned there.
    """
    return _select(sample, np.all(sample.boxes[:, 2:] - sample.boxes[:, :2] > min_size, axis=1))


def eval_sample(sample: Sample, input_size: int) -> Sample:
    """What the network sees in evaluation: resized to fit the input, padded at the right and at the bottom."""
    return pad(resize(sample, input_size), input_size)


def sample_rng(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The source of every draw for the picture at ``position`` in the order of ``epoch``."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, position)))


def draw_side(rng: np.random.Generator, input_size: int, scale: tuple[float, float]) -> int:
    """A side for :func:`resize`: ``input_size`` times a factor drawn evenly from ``scale``, rounded down.

    MMDetection: ``RandomResize(scale=(input_size, input_size), ratio_range=scale)``.
    """
    return max(int(input_size * rng.uniform(*scale)), 1)


def draw_corner(rng: np.random.Generator, sample: Sample, side: int) -> tuple[int, int]:
    """A corner for :func:`crop`, drawn evenly from those that leave no part of the square empty if that can be.

    Of ten corners the first whose square shows a box is taken, or the very first if none does.  (MMDetection's
    ``RandomCrop`` draws once and gives the picture up for another one, so that pictures with few boxes are seen
    less and pictures without boxes never.)
    """
    height, width = sample.image.shape[:2]
    room = np.array([max(width - side, 0), max(height - side, 0)])
    corners = rng.integers(0, room + 1, size=(CROP_TRIES, 2))
    x, y = corners[np.argmax(_shows_box(corners, sample.boxes, side))].tolist()
    return x, y


def draw_hsv_gains(rng: np.random.Generator, deltas: tuple[int, int, int]) -> tuple[int, int, int]:
    """Gains for :func:`hsv`: each up to its delta in either direction, each left out half of the time.

    MMDetection: ``YOLOXHSVRandomAug``.
    """
    hue, saturation, value = (rng.uniform(-1, 1, 3) * deltas * rng.integers(0, 2, 3)).astype(int).tolist()
    return hue, saturation, value


@dataclass(frozen=True)
class TrainPipeline:
    """From a position in an epoch's order to a training sample.

    It is given the whole order and a way to load any picture, not one picture, so that a transform may take
    partners from positions near by and still be a pure function of (seed, epoch, position).

    Raises:
        ValueError: where a setting makes no sense, named.
    """

    config: AugmentConfig
    input_size: int
    seed: int

    def __post_init__(self) -> None:
        low, high = self.config.scale
        if not 0 < low <= high:
            raise ValueError(f"augment.scale is {self.config.scale}: expected 0 < smallest <= largest")
        if min(self.config.hsv) < 0:
            raise ValueError(f"augment.hsv is {self.config.hsv}: expected three numbers that are not negative")
        if not 0 <= self.config.flip <= 1:
            raise ValueError(f"augment.flip is {self.config.flip}: expected a probability in 0..1")
        if self.input_size < 1:
            raise ValueError(f"input_size is {self.input_size}: expected a positive number of pixels")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: expected a number that is not negative")

    def __call__(
        self, epoch: int, position: int, order: Int[np.ndarray, " positions"], load: Callable[[int], Sample]
    ) -> Sample:
        """The sample at ``position`` of the epoch, ``input_size`` pixels wide and high.

        Args:
            epoch: number of the epoch.
            position: place in ``order``.
            order: index of the picture at each position of this epoch, for all processes together.
            load: gives the picture of an index, not augmented; its pixels are not written to.

        MMDetection: the second stage of RTMDet's training pipeline.
        """
        rng = sample_rng(self.seed, epoch, position)
        sample = load(int(order[position]))
        sample = resize(sample, draw_side(rng, self.input_size, self.config.scale))
        sample = crop(sample, draw_corner(rng, sample, self.input_size), self.input_size)
        sample = hsv(sample, draw_hsv_gains(rng, self.config.hsv))
        if rng.random() < self.config.flip:
            sample = flip(sample)
        return drop_small_boxes(pad(sample, self.input_size))


def _with_content(
    sample: Sample, image: UInt8[np.ndarray, "height width 3"], boxes: Float32[np.ndarray, "boxes 4"], **changes: Any
) -> Sample:
    """The sample with other pixels: boxes are cut at the border of the image, those without area are dropped."""
    height, width = image.shape[:2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    sample = replace(sample, image=image, boxes=boxes, img_shape=(height, width), **changes)
    return _select(sample, np.all(boxes[:, 2:] > boxes[:, :2], axis=1))


def _select(sample: Sample, keep: Bool[np.ndarray, " boxes"]) -> Sample:
    return replace(sample, boxes=sample.boxes[keep], labels=sample.labels[keep], ignore=sample.ignore[keep])


def _shows_box(
    corners: Int[np.ndarray, "corners 2"], boxes: Float32[np.ndarray, "boxes 4"], side: int
) -> Bool[np.ndarray, " corners"]:
    """Whether the square at each corner overlaps a box."""
    corners = corners[:, None]
    overlaps = (boxes[None, :, :2] < corners + side) & (boxes[None, :, 2:] > corners)
    return np.any(np.all(overlaps, axis=-1), axis=-1)
