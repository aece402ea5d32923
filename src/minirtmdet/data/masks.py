"""Masks in COCO's form: runs of pixels (RLE), and polygons drawn as the COCO tools draw them.

RLE counts pixels column by column, background first.  Compressed, the counts are one text; uncompressed, a list.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from jaxtyping import Bool, Float

from minirtmdet.structures import Detections

# size, (height, width), and counts, as JSON holds them
Rle = dict[str, Any]


def encode_masks(masks: Bool[np.ndarray, "masks height width"]) -> list[Rle]:
    """Masks as compressed RLE, ready for JSON.

    >>> mask = np.zeros((1, 5, 7), dtype=bool)
    >>> mask[0, 1:3, 2:5] = True
    >>> encode_masks(mask)
    [{'size': [5, 7], 'counts': ';230009'}]
    """
    encoded = (coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks)
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in encoded]


def encode_stored(detections: Detections) -> Iterator[Rle]:
    """The mask of each detection as compressed RLE, a few in memory at a time; none where they have no masks."""
    for block in detections.mask_blocks():
        yield from encode_masks(block.cpu().numpy())


def compress(rle: Rle) -> Rle:
    """The same RLE with its counts as one text, ready for JSON.

    Raises:
        ValueError: saying what is wrong with counts that mean nothing, or do not fill their size.

    >>> compress({"size": [5, 7], "counts": [11, 2, 3, 2, 3, 2, 12]})
    {'size': [5, 7], 'counts': ';230009'}
    """
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    if sum(runs) != height * width:
        raise ValueError(f"its RLE counts {sum(runs)} pixels, and {height} x {width} are {height * width}")
    found = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> Bool[np.ndarray, "height width"]:
    """The pixels of a mask in RLE, compressed or not.

    Raises:
        ValueError: as :func:`compress`.

    >>> decode_mask({"size": [2, 3], "counts": [2, 3, 1]}).astype(int)
    array([[0, 1, 1],
           [0, 1, 0]])
    """
    pixels: np.ndarray = coco_mask.decode(compress(rle))
    return pixels.astype(bool)


def draw_polygons(parts: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels of an object of one polygon or several, as the COCO tools draw them.

    Args:
        parts: polygons (x, y) in pixels; together they are the object.
        size: (height, width) of the image.

    >>> draw_polygons([np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])], (3, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    runs = coco_mask.frPyObjects([part.ravel().tolist() for part in parts], *size)
    pixels: np.ndarray = coco_mask.decode(coco_mask.merge(runs))
    return pixels.astype(bool)


def _runs(counts: Any) -> list[int]:
    """Lengths of runs, background first, of counts in either form.

    The COCO tools write what a text says without looking whether it fits: numbers of 5 bits a character, the sixth for
    those that go on; from the fourth run on as the difference to the last but one.
    """
    runs: list[int] = []
    if isinstance(counts, list):
        runs = [count for count in counts if type(count) is int]
        if len(runs) < len(counts):
            raise ValueError("its RLE has counts that are no whole numbers")
    elif isinstance(counts, str | bytes):
        value = shift = 0
        for character in counts if isinstance(counts, bytes) else counts.encode("utf-8"):
            digit = character - 48
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (digit & 16) << (shift - 4)  # the sign
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        if shift:
            raise ValueError("its RLE ends in the middle of a number")
    else:
        raise ValueError(f"its RLE has counts of type {type(counts).__name__}")
    if min(runs, default=0) < 0:
        raise ValueError(f"its RLE has a run of {min(runs)} pixels")
    return runs
