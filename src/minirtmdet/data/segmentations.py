"""The masks of COCO annotations: what a file may say, what is wrong with it, and how those of a whole set are kept."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from jaxtyping import Bool, Int

from minirtmdet.data.coco_json import is_number, whole_number
from minirtmdet.data.masks import Rle, compress, decode_mask, draw_polygons, encode_masks
from minirtmdet.data.shapes import Bitmap, Shapes, Source

# polygons, each x and y in turn, or RLE with compressed counts
Mask = list[list[float]] | Rle


class MaskProblem(ValueError):
    """What is wrong with a mask that cannot be used; as the end of a sentence that begins with its annotation."""


def read_mask(value: Any, size: tuple[int, int], where: str) -> Mask:
    """The ``segmentation`` of an annotation: its polygons, or RLE with compressed counts.

    Polygons of less than three points cover nothing, and are left out where others remain.

    Args:
        value: as the file has it.
        size: (height, width) of the image.
        where: what messages call the annotation, its file and its image.

    Raises:
        MaskProblem: for a mask that cannot be used.
        ValueError: for RLE of another size than its image, which is the image of something else.
    """
    if value is None:
        raise MaskProblem("has no mask")
    if isinstance(value, dict):
        return _read_rle(value, size, where)
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise MaskProblem("has a mask that is neither a list of polygons nor RLE")
    parts = [_read_polygon(part) for part in value]
    parts = [part for part in parts if len(part) >= 6] or parts
    if not parts or len(parts[0]) < 6:
        raise MaskProblem("has no polygon of three points" if parts else "has no polygon")
    height, width = size
    xs, ys = [x for part in parts for x in part[0::2]], [y for part in parts for y in part[1::2]]
    if max(xs) <= 0 or min(xs) >= width or max(ys) <= 0 or min(ys) >= height:
        raise MaskProblem(f"has a mask that lies outside its image of {width} x {height} pixels")
    if min(xs) == max(xs) or min(ys) == max(ys):
        raise MaskProblem("has a mask without area")
    return parts


def to_rle(mask: Mask, size: tuple[int, int]) -> Rle:
    """What :func:`read_mask` gives, as RLE: the pixels that the COCO tools take it for."""
    if isinstance(mask, dict):
        return mask
    pixels = draw_polygons([np.array(part, dtype=np.float64).reshape(-1, 2) for part in mask], size)
    return encode_masks(pixels[None])[0]


def _read_polygon(part: list[Any]) -> list[float]:
    """The coordinates of a polygon, x and y in turn."""
    if not all(map(is_number, part)):
        raise MaskProblem("has a polygon with something else than numbers")
    try:
        numbers = [float(value) for value in part]
    except OverflowError:  # JSON writes integers of any length
        raise MaskProblem("has a polygon that is not finite") from None
    if not all(map(math.isfinite, numbers)):
        raise MaskProblem("has a polygon that is not finite")
    if len(numbers) % 2:
        raise MaskProblem(f"has a polygon of {len(numbers)} numbers, where each point has two")
    return numbers


def _read_rle(value: dict[str, Any], size: tuple[int, int], where: str) -> Rle:
    """RLE that fills its image."""
    given = value.get("size")
    if "counts" not in value or not isinstance(given, list | tuple) or len(given) != 2:
        raise MaskProblem("has a mask in RLE without size (height, width) and counts")
    height, width = (whole_number(side) for side in given)
    if (height, width) != size:
        raise ValueError(
            f"{where} has a mask of {given[1]} x {given[0]} pixels, and its image {size[1]} x {size[0]}: masks must "
            "have the size of their image, or no pixel means what it should"
        )
    try:
        rle = compress({"size": list(size), "counts": value["counts"]})
    except ValueError as error:
        raise MaskProblem(f"has a mask that means nothing: {error}") from None
    if not coco_mask.area(rle):
        raise MaskProblem("has a mask without area")
    return rle


class MaskStore:
    """The masks of a data set in a few flat arrays.

    Arrays, because worker processes share their memory; lists of objects would be copied into each.  Vertices are kept
    in single precision, a ten-thousandth of a pixel.

    Args:
        masks: what :func:`read_mask` gave, or None where a mask is not known.
    """

    def __init__(self, masks: Sequence[Mask | None]) -> None:
        polygons = [mask if isinstance(mask, list) else [] for mask in masks]
        texts = [str(mask["counts"]).encode("ascii") if isinstance(mask, dict) else b"" for mask in masks]
        self._rows = np.arange(len(masks))
        self._first_part = _ends([len(parts) for parts in polygons])
        self._first_number = _ends([len(part) for parts in polygons for part in parts])
        self._numbers = np.fromiter((x for parts in polygons for part in parts for x in part), dtype=np.float32)
        self._first_byte = _ends([len(text) for text in texts])
        self._text = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def keep(self, rows: Int[np.ndarray, " _"]) -> None:
        """Leave out all but these, which are counted from 0 then."""
        self._rows = self._rows[rows]

    def shapes(self, rows: slice, size: tuple[int, int]) -> Shapes:
        """Some of the masks, which are those of an image of ``size`` (height, width)."""
        return Shapes.of([self._source(row, size) for row in self._rows[rows].tolist()], size)

    def _source(self, row: int, size: tuple[int, int]) -> Source:
        text = self._text[self._first_byte[row] : self._first_byte[row + 1]].tobytes()
        if text:
            return _tight(decode_mask({"size": list(size), "counts": text}))
        parts = range(self._first_part[row], self._first_part[row + 1])
        ends = [slice(self._first_number[part], self._first_number[part + 1]) for part in parts]
        return tuple(self._numbers[end].reshape(-1, 2).astype(np.float64) for end in ends)


def _ends(lengths: Sequence[int]) -> Int[np.ndarray, " _"]:
    """Where each of some pieces starts that lie one after the other, and where the last one ends."""
    return np.cumsum([0, *lengths])


def _tight(pixels: Bool[np.ndarray, "height width"]) -> Bitmap:
    """The part of a mask that holds it."""
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return Bitmap(pixels[y[0] : y[-1] + 1, x[0] : x[-1] + 1].copy(), (int(x[0]), int(y[0])))
