"""What tiles of a large image show of its objects: boxes and masks, whole or cut, and which pieces are objects."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from minirtmdet.data.box_checks import box_problem
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import Annotation, read_annotations
from minirtmdet.data.masks import encode_masks
from minirtmdet.data.segmentations import MaskProblem, MaskStore, read_mask
from minirtmdet.data.shapes import Bitmap, Shapes, cut_polygon, without_spikes
from minirtmdet.data.tile_grid import Tile

MIN_SIDE = 1.0
"""Pixels of a piece's shorter side below which it is nothing that could be seen."""


class TiledObject(NamedTuple):
    """An annotation that can be used.

    Attributes:
        entry: what it says.
        given: as the file has it.
        box: ``xyxy``, cut at the border of the image.
        shape: of its mask; None where none is known.
    """

    entry: Annotation
    given: dict[str, Any]
    box: Float[np.ndarray, "4"]
    shape: Shapes | None


class Piece(NamedTuple):
    """What a tile shows of an object.

    Attributes:
        number: of the object in its image.
        is_object: whether it is enough; else it is to be left alone.
        fields: of its annotation, in pixels of the tile.
    """

    number: int
    is_object: bool
    fields: dict[str, Any]

    @property
    def is_rest(self) -> bool:
        """Whether it shows too little of what is an object elsewhere."""
        return "iscrowd" in self.fields


def read_objects(dataset: CocoDataset, content: dict[str, Any], notes: list[str]) -> dict[int, list[TiledObject]]:
    """The annotations of each image; those that the data set leaves out, with a warning, are left out here too."""
    source = str(dataset.json_file)
    sizes = {image_id: dataset.entry(index).size for index, image_id in enumerate(dataset.image_ids)}
    found, unusable = defaultdict(list), 0
    for entry, given in zip(read_annotations(content, source), content["annotations"], strict=True):
        size = sizes.get(entry.image_id)
        if size is None or entry.category_id not in dataset.category_ids or box_problem(entry, size):
            continue
        assert entry.box is not None
        x, y, width, height = entry.box
        box = np.clip([x, y, x + width, y + height], 0, [size[1], size[0], size[1], size[0]])
        shape = None
        if entry.segmentation:
            try:
                mask = read_mask(entry.segmentation, size, f"{source}: {entry.name}")
                shape = MaskStore([mask]).shapes(slice(0, 1), size)
            except MaskProblem:
                unusable += 1
        found[entry.image_id].append(TiledObject(entry, given, box, shape))
    if unusable:
        notes.append(f"{unusable} masks cannot be used and are left out; their boxes stay")
    return found


def cut_objects(objects: Sequence[TiledObject], tile: Tile, min_visible: float) -> list[Piece]:
    """What a tile shows of the objects of its image.

    Args:
        objects: of the image, ignore regions too.
        tile: in its pixels.
        min_visible: share of an object that makes its piece an object; a smaller one is a region to be left alone.
    """
    boxes = np.array([one.box for one in objects]).reshape(-1, 4)
    inside = np.clip(boxes, [*tile[:2]] * 2, [*tile[2:]] * 2)
    pieces = []
    for number in np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(1)).tolist():
        piece = _cut_object(objects[number], tile, number, min_visible)
        if piece is not None:
            pieces.append(piece)
    return pieces


def _cut_object(one: TiledObject, tile: Tile, number: int, min_visible: float) -> Piece | None:
    """What a tile shows of an object; None where that is nothing."""
    whole = bool((one.box[:2] >= tile[:2]).all() and (one.box[2:] <= tile[2:]).all())
    box = np.clip(one.box, [*tile[:2]] * 2, [*tile[2:]] * 2) - [tile.left, tile.top] * 2
    area, segmentation = float((box[2:] - box[:2]).prod()), None
    share = area / float((one.box[2:] - one.box[:2]).prod())
    if one.shape is not None:
        segmentation, area, share = _cut_shape(one.shape, tile)
        if not whole:
            box = _shape_in(one.shape, tile).boxes(box[None])[0]
    if not whole and (share <= 0 or (box[2:] - box[:2]).min() < MIN_SIDE):
        return None
    enough = whole or share >= min_visible
    x1, y1, x2, y2 = box.tolist()
    fields: dict[str, Any] = {
        "bbox": [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)],
        "area": one.entry.area if whole else round(area, 3),
        **({"segmentation": segmentation} if segmentation is not None else {}),
        **({} if enough or one.entry.ignore else {"iscrowd": 1}),
    }
    return Piece(number, enough and not one.entry.ignore, fields)


def _shape_in(shape: Shapes, tile: Tile) -> Shapes:
    """A shape as a tile shows it."""
    return shape.moved(-tile.left, -tile.top).cut((tile.bottom - tile.top, tile.right - tile.left))


def _cut_shape(shape: Shapes, tile: Tile) -> tuple[Any, float, float]:
    """Of a mask in a tile: the segmentation, its area in pixels, and its share of the whole mask."""
    (source,) = shape.sources
    if isinstance(source, Bitmap):
        pixels = np.zeros((tile.bottom - tile.top, tile.right - tile.left), dtype=bool)
        left, top = source.corner[0] - tile.left, source.corner[1] - tile.top
        seen = source.pixels[max(-top, 0) :, max(-left, 0) :]
        target = pixels[max(top, 0) :, max(left, 0) :]
        rows, columns = min(len(seen), len(target)), min(seen.shape[1], target.shape[1])
        target[:rows, :columns] = seen[:rows, :columns]
        return encode_masks(pixels[None])[0], float(pixels.sum()), float(pixels.sum() / source.pixels.sum())
    window = np.array(tile, dtype=np.float64)
    parts = [without_spikes(cut_polygon(part, window)) - window[:2] for part in source]
    areas = [_polygon_area(part) for part in parts]
    kept = [part.round(3).ravel().tolist() for part, area in zip(parts, areas, strict=True) if area > 0]
    return kept, sum(areas), sum(areas) / max(sum(map(_polygon_area, source)), 1e-9)


def _polygon_area(polygon: Float[np.ndarray, "vertices 2"]) -> float:
    """In square pixels, by the shoelace formula."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
