"""A data set of large images as one of tiles, for training at full size.

What a border cuts is still an object where enough of it can be seen; of less, nobody can say what it is, and it must
not be learned as background either: it becomes a region to be left alone, as crowds are (``iscrowd``).
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from minirtmdet.configs import DataConfig, Side
from minirtmdet.data.box_checks import box_problem
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import Annotation, read_annotations, read_json
from minirtmdet.data.file_names import name_of_output, unused_name
from minirtmdet.data.masks import encode_masks
from minirtmdet.data.segmentations import MaskProblem, MaskStore, read_mask
from minirtmdet.data.shapes import Bitmap, Shapes, cut_polygon, without_spikes
from minirtmdet.data.splits import Split
from minirtmdet.data.tile_grid import Overlap, Tile, tile_grid
from minirtmdet.files import atomic_folder, check_writable, write_json
from minirtmdet.settings import Share, Whole, check_settings

EVALUATED = ("val", "valid", "test")
"""Parts that keep all tiles: what is found where nothing is counts against a detector."""
MIN_SIDE = 1.0
"""Pixels of a piece's shorter side below which it is nothing that could be seen."""
THREADS = 4
"""At most; each has a large image in memory."""


@dataclass(frozen=True)
class TileRule:
    """How the images of a data set become tiles."""

    size: Side = 640
    """Side of a tile in pixels: that of the input that will be trained."""
    overlap: Overlap = 0.25
    """Share of a tile's side that neighbours have in common at least."""
    min_visible: Share = 0.5
    """Share of an object, of its mask where it has one and of its box elsewhere, that makes its piece an object."""
    pieces: Literal["ignore", "drop"] = "ignore"
    """What becomes of smaller pieces: a region to be left alone (``iscrowd``), or background."""
    empty: Share = 0.1
    """Share that is kept of the tiles without an object, in parts that are trained on."""
    seed: Whole = 0
    """Another one keeps other empty tiles."""


class TiledPart(NamedTuple):
    """What became of one part of a data set.

    Attributes:
        json_file: of the tiles.
        images: that were cut.
        tiles: that were written.
        empty: of these without an object.
        left_out: tiles without an object that were not written.
        objects: of the images, ignore regions not counted.
        boxes: of objects, in all tiles.
        pieces: regions of which too little can be seen.
        lost: objects of which no tile shows enough.
        notes: what was found out on the way, a line each.
    """

    json_file: Path
    images: int
    tiles: int
    empty: int
    left_out: int
    objects: int
    boxes: int
    pieces: int
    lost: int
    notes: list[str]


def tile_set(
    parts: Mapping[str, Split],
    out: Path,
    rule: TileRule = TileRule(),
    *,
    max_pixels: int = DataConfig.max_pixels,
    progress: bool = True,
) -> dict[str, TiledPart]:
    """Write a data set of tiles: ``out/train.json`` beside ``out/train`` and so on; the folder is whole or not there.

    JPEG stays JPEG (of quality 95, OpenCV's own), everything else becomes PNG; an image no larger than a tile is copied
    as it is.  Entries of images and annotations keep their other keys, but for key points.  Each tile says where it is
    from: ``tile_of``, the file name of its image, ``tile_left`` and ``tile_top``.  All of a part's images are looked at
    before any is cut.

    Args:
        parts: by name; those of :data:`EVALUATED` keep all empty tiles.
        out: a folder that is empty or not there.
        rule: sizes and shares.
        max_pixels: an image of more is not decoded.
        progress: show a progress bar.

    Raises:
        FileExistsError: for a folder that holds something.
        FileNotFoundError, ValueError: as :class:`~minirtmdet.data.coco.CocoDataset` has them for JSON and images; where
            no tile is left; for a number that is out of its range.
        OSError: for a folder that cannot be written into.
    """
    check_settings(rule)
    check_writable(out)
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is there already and holds something: choose another folder")
    made = {}
    with atomic_folder(out) as making:
        for name, split in parts.items():
            dataset = CocoDataset(*split, max_pixels=max_pixels)
            content = read_json(split.json_file)
            notes: list[str] = []
            plans = _plan(dataset, content, rule, notes)
            empty = [(plan, cut) for plan in plans for cut in plan.cuts if not cut.objects]
            kept = 1.0 if name in EVALUATED else rule.empty
            chosen = np.random.default_rng(rule.seed).permutation(len(empty))[round(kept * len(empty)) :]
            for place in chosen.tolist():
                empty[place][0].cuts.remove(empty[place][1])
            write_json(making / f"{name}.json", _as_coco(content, plans, split.json_file))
            _write_images(dataset, plans, making / name, progress)
            made[name] = _count(out / f"{name}.json", plans, len(chosen), notes)
    return made


# ------------------------------------------------------------------------------------------------ cutting


class _Object(NamedTuple):
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


class _Piece(NamedTuple):
    """What a tile shows of an object.

    Attributes:
        number: of the object in its image.
        is_object: whether it is enough; else it is to be left alone.
        fields: of its annotation, in pixels of the tile.
    """

    number: int
    is_object: bool
    fields: dict[str, Any]


class _Cut(NamedTuple):
    """A tile and what it shows."""

    tile: Tile
    name: Path
    pieces: list[_Piece]

    @property
    def objects(self) -> list[int]:
        """Numbers of the objects that can be seen well enough."""
        return [piece.number for piece in self.pieces if piece.is_object]


class _Plan(NamedTuple):
    """What becomes of an image.

    Attributes:
        place: in the data set.
        given: its entry.
        objects: all of it, ignore regions too.
        cuts: its tiles.
    """

    place: int
    given: dict[str, Any]
    objects: list[_Object]
    cuts: list[_Cut]


def _plan(dataset: CocoDataset, content: dict[str, Any], rule: TileRule, notes: list[str]) -> list[_Plan]:
    """All tiles of a part, before any pixel is read."""
    objects = _read_objects(dataset, content, notes)
    given = dict(zip(dataset.image_ids, content["images"], strict=True))
    taken: set[str] = set()
    plans = []
    for index, image_id in enumerate(dataset.image_ids):
        entry, own = dataset.entry(index), objects[image_id]
        height, width = entry.size
        name = Path(os.path.normpath(entry.path.relative_to(dataset.images)))
        cuts = []
        for tile in tile_grid(width, height, rule.size, int(rule.overlap * rule.size)):
            alone = tile == (0, 0, width, height)
            of_tile = name if alone else name_of_output(name.with_stem(f"{name.stem}_{tile.left}_{tile.top}"))
            cuts.append(_Cut(tile, unused_name(of_tile, taken), _cut(own, tile, rule)))
        plans.append(_Plan(index, given[image_id], own, cuts))
    return plans


def _read_objects(dataset: CocoDataset, content: dict[str, Any], notes: list[str]) -> dict[int, list[_Object]]:
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
        found[entry.image_id].append(_Object(entry, given, box, shape))
    if unusable:
        notes.append(f"{unusable} masks cannot be used and are left out; their boxes stay")
    return found


def _cut(objects: Sequence[_Object], tile: Tile, rule: TileRule) -> list[_Piece]:
    """What a tile shows of the objects of its image."""
    boxes = np.array([one.box for one in objects]).reshape(-1, 4)
    inside = np.clip(boxes, [*tile[:2]] * 2, [*tile[2:]] * 2)
    pieces = []
    for number in np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(1)).tolist():
        piece = _cut_object(objects[number], tile, number, rule)
        if piece is not None:
            pieces.append(piece)
    return pieces


def _cut_object(one: _Object, tile: Tile, number: int, rule: TileRule) -> _Piece | None:
    """What a tile shows of an object; None where that is nothing, or is to be dropped."""
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
    enough = whole or share >= rule.min_visible
    if not enough and not one.entry.ignore and rule.pieces == "drop":
        return None
    x1, y1, x2, y2 = box.tolist()
    fields: dict[str, Any] = {
        "bbox": [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)],
        "area": one.entry.area if whole else round(area, 3),
        **({"segmentation": segmentation} if segmentation is not None else {}),
        **({} if enough or one.entry.ignore else {"iscrowd": 1}),
    }
    return _Piece(number, enough and not one.entry.ignore, fields)


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


# ------------------------------------------------------------------------------------------------ writing


def _as_coco(content: dict[str, Any], plans: Sequence[_Plan], source: Path) -> dict[str, Any]:
    """The annotations of all tiles, images and annotations numbered from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for plan in plans:
        for tile, name, pieces in plan.cuts:
            origin = {"tile_of": plan.given["file_name"], "tile_left": tile.left, "tile_top": tile.top}
            size = {"width": tile.right - tile.left, "height": tile.bottom - tile.top}
            number = len(images) + 1
            images.append({**plan.given, "id": number, "file_name": name.as_posix(), **size, **origin})
            for piece in pieces:
                left = {"segmentation", "keypoints", "num_keypoints"}
                given = {key: v for key, v in plan.objects[piece.number].given.items() if key not in left}
                annotations.append({**given, "id": len(annotations) + 1, "image_id": number, **piece.fields})
    if not images:
        raise ValueError(f"{source}: no tile shows an object, and of those that show none no share is kept")
    return {**content, "images": images, "annotations": annotations}


def _write_images(dataset: CocoDataset, plans: Sequence[_Plan], folder: Path, progress: bool) -> None:
    """The pixels of all tiles, a few images in memory at a time."""
    quiet = {} if progress else {"disable": True}  # left to TQDM_DISABLE otherwise
    wanted = [plan for plan in plans if plan.cuts]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            done = pool.map(partial(_write_tiles, dataset, folder), wanted)
            for _ in tqdm(done, total=len(wanted), desc=folder.name, unit="image", leave=False, **quiet):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_tiles(dataset: CocoDataset, folder: Path, plan: _Plan) -> None:
    entry = dataset.entry(plan.place)
    image = None
    for tile, name, _ in plan.cuts:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if tile[2:] == entry.size[::-1] and tile[:2] == (0, 0):
            shutil.copyfile(entry.path, path)
            continue
        image = dataset.load(plan.place).image if image is None else image
        kind = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        piece = image[tile.top : tile.bottom, tile.left : tile.right]
        # by the bytes, because cv2.imwrite cannot write every Unicode path
        path.write_bytes(cv2.imencode(kind, piece)[1].tobytes())


def _count(json_file: Path, plans: Sequence[_Plan], left_out: int, notes: list[str]) -> TiledPart:
    cuts = [cut for plan in plans for cut in plan.cuts]
    objects = [sum(not one.entry.ignore for one in plan.objects) for plan in plans]
    seen = [len({number for cut in plan.cuts for number in cut.objects}) for plan in plans]
    return TiledPart(
        json_file=json_file,
        images=len(plans),
        tiles=len(cuts),
        empty=sum(not cut.objects for cut in cuts),
        left_out=left_out,
        objects=sum(objects),
        boxes=sum(len(cut.objects) for cut in cuts),
        pieces=sum("iscrowd" in piece.fields for cut in cuts for piece in cut.pieces),
        lost=sum(objects) - sum(seen),
        notes=notes,
    )


def describe_tiles(name: str, part: TiledPart, rule: TileRule) -> str:
    """What became of a part, as text."""
    lines = [
        f"{name}: {part.images} images in {part.tiles} tiles of {rule.size} px; {part.objects} objects as {part.boxes} "
        f"boxes; {part.pieces} pieces that show less than {rule.min_visible:g} of an object are left alone",
        f"  {part.empty} tiles show no object; {part.left_out} more that show none are left out",
    ]
    if part.lost:
        lines.append(
            f"  ! {part.lost} objects are shown to {rule.min_visible:g} in no tile: raise --overlap or --size, or "
            "lower --min-visible"
        )
    return "\n".join([*lines, *(f"  ! {note}" for note in part.notes)])
