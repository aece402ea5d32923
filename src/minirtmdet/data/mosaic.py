"""Images made of several: four side by side, or two blended.

MMDetection takes partners from what its worker happens to have kept, so that the number of workers decides what is
seen.  Here they are the images at the last positions of the epoch's order, up to the image's own: a pure function
of seed, epoch and position.  What is kept of them (:class:`Memo`) saves work and changes nothing.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from minirtmdet.data.augment import PAD_VALUE, Paint, Sample, flip, join

CENTER_RATIO = (0.5, 1.5)
"""Where the four images of a mosaic meet, in sides of the input (``center_ratio_range``)."""
MIN_CACHED = 5
"""Positions that there must be before an image becomes a mosaic; the first four of an epoch pass as they are."""
PARTNER_TRIES = 15
"""Partners that are drawn for MixUp to find one with boxes (``max_iters``)."""

Place = tuple[int, int, int, int]


class MosaicDraw(NamedTuple):
    """What is drawn for a mosaic.

    Attributes:
        partners: position of the images at the right top, left bottom and right bottom.
        center: point (x, y) where the four meet, in pixels of the mosaic.
    """

    partners: tuple[int, int, int]
    center: tuple[int, int]


@dataclass(frozen=True)
class CachedMosaic:
    """Four images on a canvas twice as wide and high as the input.

    Args:
        input_size: side of the network's input; each image is made to fit it.
        prob: probability that an image becomes a mosaic.
        max_cached_images: how many positions partners are drawn from, the image's own among them.

    MMDetection: ``CachedMosaic``.
    """

    input_size: int
    prob: float
    max_cached_images: int

    def draw(self, rng: np.random.Generator, position: int) -> MosaicDraw | None:
        """Partners and centre for the image at ``position``; None where it passes through as it is.

        An image can be its own partner, and one partner can come twice, as in MMDetection.
        """
        window = min(position + 1, self.max_cached_images)
        if window < MIN_CACHED or rng.random() > self.prob:
            return None
        a, b, c = (position - rng.integers(0, window, 3)).tolist()
        x, y = (rng.uniform(*CENTER_RATIO, 2) * self.input_size).astype(int).tolist()
        return MosaicDraw((a, b, c), (x, y))

    def fit(self, sample: Sample) -> Sample:
        """The sample as large as fits the input.

        Pixels are rounded down, while boxes follow the factor before rounding: MMDetection's arithmetic, less than
        a pixel off at the far side.  Shapes follow the pixels.
        """
        height, width = sample.img_shape
        scale = min(self.input_size / height, self.input_size / width)
        size = max(int(height * scale), 1), max(int(width * scale), 1)
        image = sample.image
        if size != (height, width):
            image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        shapes = None if sample.shapes is None else sample.shapes.scaled(size[1] / width, size[0] / height)
        return replace(sample, image=image, boxes=sample.boxes * np.float32(scale), img_shape=size, shapes=shapes)

    def lay_out(self, samples: Sequence[Sample], center: tuple[int, int]) -> tuple[Sample, Paint]:
        """A mosaic of four samples that :meth:`fit` the input, not painted yet.

        Args:
            samples: left top, right top, left bottom, right bottom; the first gives the mosaic its name.
            center: the corner that they share (x, y).

        Returns:
            A grey canvas with the boxes of all four, and what paints its left upper part, so high and so wide.
        """
        side = 2 * self.input_size
        places = [_place(i, sample.img_shape, center, side) for i, sample in enumerate(samples)]
        grey = np.broadcast_to(np.uint8(PAD_VALUE), (side, side, 3))
        canvas = replace(samples[0], image=grey, img_shape=(side, side))
        canvas = join(canvas, samples, [corner for corner, _ in places])
        return canvas, partial(_paint, [sample.image for sample in samples], places)

    def mix(self, samples: Sequence[Sample], center: tuple[int, int]) -> Sample:
        """A mosaic of four samples, painted; see :meth:`lay_out`."""
        side = 2 * self.input_size
        canvas, paint = self.lay_out([self.fit(sample) for sample in samples], center)
        return replace(canvas, image=paint(side, side))


def _place(quarter: int, size: tuple[int, int], center: tuple[int, int], side: int) -> tuple[tuple[int, int], Place]:
    """Where the left upper corner of a quarter's image lies, and the part of the canvas that it covers (xyxy).

    MMDetection: ``Mosaic._mosaic_combine``.
    """
    height, width = size
    x = center[0] if quarter % 2 else center[0] - width
    y = center[1] if quarter >= 2 else center[1] - height
    return (x, y), (max(x, 0), max(y, 0), min(x + width, side), min(y + height, side))


def _paint(
    parts: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    places: Sequence[tuple[tuple[int, int], Place]],
    height: int,
    width: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """The left upper part of a mosaic, so high and so wide."""
    image = np.full((height, width, 3), PAD_VALUE, dtype=np.uint8)
    for part, ((x, y), (x1, y1, x2, y2)) in zip(parts, places, strict=True):
        x2, y2 = min(x2, width), min(y2, height)
        if x1 < x2 and y1 < y2:
            image[y1:y2, x1:x2] = part[y1 - y : y2 - y, x1 - x : x2 - x]
    return image


class MixUpDraw(NamedTuple):
    """What is drawn for MixUp: the other sample, and whether it is mirrored."""

    partner: Sample
    mirrored: bool


@dataclass(frozen=True)
class CachedMixUp:
    """Two samples of the input's size, half and half, with the boxes of both.

    The recipe's ``ratio_range`` is (1, 1), which is the only one here.

    Args:
        prob: probability that an image is mixed.
        max_cached_images: how many positions partners are drawn from, the image's own among them.

    MMDetection: ``CachedMixUp(ratio_range=(1.0, 1.0))``.
    """

    prob: float
    max_cached_images: int

    def draw(self, rng: np.random.Generator, position: int, get: Callable[[int], Sample]) -> MixUpDraw | None:
        """A partner for the sample at ``position``; None where it stays alone.

        Args:
            rng: where draws come from.
            position: of the sample, in the epoch's order.
            get: the sample at a position, all but mixed.
        """
        window = min(position + 1, self.max_cached_images)
        if window < 2 or rng.random() > self.prob:
            return None
        for _ in range(PARTNER_TRIES):
            partner = get(position - int(rng.integers(0, window)))
            if len(partner.boxes):
                return MixUpDraw(partner, bool(rng.random() > 0.5))
        return None

    def mix(self, sample: Sample, partner: Sample, mirrored: bool) -> Sample:
        """Both samples in one, the other one mirrored or not; its padding is mirrored with it.

        All of it is content then, as far as ``img_shape`` says.
        """
        other = flip(partner) if mirrored else partner
        # half a sum, rounded down as by MMDetection's way through floating point
        image = cv2.addWeighted(sample.image, 0.5, other.image, 0.5, -0.25)
        height, width = image.shape[:2]
        mixed = replace(sample, image=image, img_shape=(height, width))
        return join(mixed, (sample, other), ((0, 0), (0, 0)))


class Memo:
    """The samples of the keys that were made last, at most ``size`` of them.

    What is made must follow from the key alone: then it is only a matter of time whether it is found here.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._samples: dict[Hashable, Sample] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, key: Hashable, make: Callable[[], Sample]) -> Sample:
        """The sample of a key, made if it is not here; its pixels cannot be written to."""
        if key in self._samples:
            return self._samples[key]
        sample = make()
        pixels = sample.image.view()
        pixels.flags.writeable = False
        self._samples[key] = sample = replace(sample, image=pixels)
        if len(self) > self.size:
            # the oldest, however often it was used: partners are drawn from the last positions
            del self._samples[next(iter(self._samples))]
        return sample
