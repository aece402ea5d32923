"""Masks in COCO's form: runs of pixels (RLE), and polygons drawn as the COCO tools draw them.

RLE counts pixels column by column, background first.  Compressed, the counts are one text; uncompressed, a list.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from jaxtyping import Bool, Float

Rle = dict[str, Any]
"""``size``, (height, width), and ``counts``, as JSON holds them."""


def encode_masks(masks: Bool[np.ndarray, "masks height width"]) -> list[Rle]:
    """Masks as compressed RLE, ready for JSON.

    >>> mask = np.zeros((1, 5, 7), dtype=bool)
    >>> mask[0, 1:3, 2:5] = True
    >>> encode_masks(mask)
    [{'size': [5, 7], 'counts': ';230009'}]
    """
    encoded = (coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks)
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in encoded]


def compress(rle: Rle) -> Rle:
    """The same RLE with its counts as one text, ready for JSON.

    Raises:
        ValueError: saying what is wrong with counts that mean nothing, or do not fill their size.

    >>> compress({"size": [5, 7], "counts": [11, 2, 3, 2, 3, 2, 12]})
    {'size': [5, 7], 'counts': ';230009'}
    """
    height, width = rle["size"]
    counts = rle["counts"]
    try:
        if isinstance(counts, list):
            counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        found = {"size": [height, width], "counts": counts}
        coco_mask.decode(found)  # which alone looks whether they fill it
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"its RLE cannot be read: {str(error).splitlines()[0]}") from None
    return found


def decode_mask(rle: Rle) -> Bool[np.ndarray, "height width"]:
    """The pixels of a mask in RLE, compressed or not.

    Raises:
        ValueError: as :func:`compress`.

    >>> decode_mask({"size": [2, 3], "counts": [2, 3, 1]}).astype(int)
    array([[0, 1, 1],
           [0, 1, 0]])
    """
    return coco_mask.decode(compress(rle)).astype(bool)


def draw_polygons(
    parts: Sequence[Float[np.ndarray, "vertices 2"]], size: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
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
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)
