"""What is wrong with boxes that should be COCO's (x, y, width, height): with one of them, or with the format of all."""

import numpy as np
from jaxtyping import Float, Int

from minirtmdet.data.coco_json import Annotation

SUSPICIOUS = 0.1
"""Share of the boxes over the border that makes their format doubtful."""


def box_problem(entry: Annotation, size: tuple[int, int]) -> str | None:
    """What is wrong with the box of an annotation in an image of ``size`` (height, width); None where nothing is."""
    if entry.box is None:
        return entry.problem
    x, y, width, height = entry.box
    if width < 0 or height < 0:
        return "has a negative size"
    if width == 0 or height == 0:
        return "has no area"
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])
    if x1 >= x2 or y1 >= y2:
        return f"lies outside its image of {size[1]} x {size[0]} pixels"
    # sides that differ in double precision alone: boxes are kept in single precision
    if np.float32(x1) == np.float32(x2) or np.float32(y1) == np.float32(y2):
        return "has no area"
    return None


def format_doubt(boxes: Float[np.ndarray, "boxes 4"], sizes: Int[np.ndarray, "boxes 2"]) -> str | None:
    """Which other format boxes look like that should be (x, y, width, height); None where they look right.

    Labels reach over the border of their image now and then.  So a few boxes that do raise no doubt; a wrong format
    shows in many boxes at once, and in the right one none of them would.

    Args:
        boxes: as the JSON has them.
        sizes: (height, width) of the image of each.
    """
    if not len(boxes):
        return None
    if boxes.max() <= 1:
        return (
            f"all {len(boxes)} boxes lie within one pixel: they look like shares of the image, as YOLO has them, "
            "where COCO has pixels"
        )
    first, second = boxes[:, :2], boxes[:, 2:]
    border = sizes[:, ::-1] + 1  # (width, height), and a pixel for rounding
    outside = int((first + second > border).any(1).sum())
    if outside <= SUSPICIOUS * len(boxes):
        return None
    for name, low, high in (
        ("corners (x1, y1, x2, y2)", first, second),
        ("centres (x, y, width, height)", first - second / 2, first + second / 2),
    ):
        if (low >= -1).all() and (high > low).all() and (high <= border).all():
            return (
                f"{outside} of {len(boxes)} boxes reach over the border of their image, and as {name} none would: "
                "COCO has the left upper corner, width and height"
            )
    return None
