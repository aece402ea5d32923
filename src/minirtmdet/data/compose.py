"""Emoji laid on a background, and the boxes of what stays visible of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from minirtmdet.data.glyphs import OPAQUE, sprite

# Less than this percentage of an object to be seen (the rest hidden or beyond the border): it has no box.
MIN_VISIBLE = 25
# Nor has an object of which less than so many pixels can be seen in width or height.
MIN_SIDE = 3


class Thing(NamedTuple):
    """One emoji of a scene: an object of a class or a distractor.

    Attributes:
        label: class index, -1 for a distractor.
        emoji: what to draw.
        x, y: where its centre lies, in pixels.
        size: longer side in pixels.
        angle, mirror, aspect, brightness, blur: changes, as in :func:`minirtmdet.data.glyphs.sprite`.
    """

    label: int
    emoji: str
    x: int
    y: int
    size: int
    angle: int = 0
    mirror: bool = False
    aspect: int = 100
    brightness: int = 100
    blur: int = 0


class Composed(NamedTuple):
    """Things on a background.

    Attributes:
        image: RGB pixels.
        boxes: ``xyxy`` in pixels, tight around what can be seen of each object.
        labels: class indices.
        masks: what can be seen of each object.
    """

    image: UInt8[np.ndarray, "size size 3"]
    boxes: Float[np.ndarray, "boxes 4"]
    labels: Int[np.ndarray, " boxes"]
    masks: Bool[np.ndarray, "boxes size size"]


def compose(background: UInt8[np.ndarray, "size size 3"], things: list[Thing]) -> Composed:
    """Lay things on a background (RGB), and measure the boxes of those that are of a class."""
    image = background.copy()
    front = np.full(image.shape[:2], -1)  # the number of the thing that is seen at each pixel
    covered = []  # how many pixels each thing has, seen or not
    for i, thing in enumerate(things):
        pixels = sprite(thing.emoji, thing.size, thing.angle, thing.mirror, thing.aspect, thing.brightness, thing.blur)
        covered.append(int((pixels[..., 3] >= OPAQUE).sum()))
        left, top = thing.x - pixels.shape[1] // 2, thing.y - pixels.shape[0] // 2
        rows = slice(max(top, 0), max(top + pixels.shape[0], 0))
        columns = slice(max(left, 0), max(left + pixels.shape[1], 0))
        behind = image[rows, columns]
        pixels = pixels[rows.start - top :, columns.start - left :][: behind.shape[0], : behind.shape[1]]
        alpha = pixels[..., 3:].astype(np.int32)
        behind[:] = (behind * (255 - alpha) + pixels[..., :3] * alpha + 127) // 255
        front[rows, columns][pixels[..., 3] >= OPAQUE] = i
    found = [
        (box, thing.label, i)
        for i, thing in enumerate(things)
        if thing.label >= 0 and (box := visible_box(front == i, covered[i])) is not None
    ]
    boxes = np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4)
    numbers = np.array([i for _, _, i in found], dtype=np.int64)
    return Composed(
        image, boxes, np.array([label for _, label, _ in found], dtype=np.int64), front == numbers[:, None, None]
    )


def visible_box(visible: Bool[np.ndarray, "height width"], covered: int) -> tuple[int, int, int, int] | None:
    """The box (``xyxy``) around the visible pixels of an object of ``covered`` pixels in all.

    Returns:
        The box; None where less than ``MIN_VISIBLE`` percent or ``MIN_SIDE`` pixels per side can be seen.

    >>> visible = np.zeros((8, 8), dtype=bool)
    >>> visible[2:6, 1:5] = True
    >>> visible_box(visible, 16), visible_box(visible, 65)
    ((1, 2, 5, 6), None)
    """
    if 100 * int(visible.sum()) < MIN_VISIBLE * covered:
        return None
    x, y = np.flatnonzero(visible.any(0)), np.flatnonzero(visible.any(1))
    if len(x) == 0:
        return None
    box = int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
    return box if min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE else None
