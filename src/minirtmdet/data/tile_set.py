"""A data set of large images as one of tiles, for training at full size.

What a border cuts is still an object where enough of it can be seen; of less, nobody can say what it is, and it must
not be learned as background either: it becomes a region to be left alone, as crowds are (``iscrowd``).
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from minirtmdet.configs import DataConfig, Side
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import read_images, read_json
from minirtmdet.data.file_names import name_of_output, unused_name
from minirtmdet.data.image_checks import SKIP, BadImages, note_bad_images
from minirtmdet.data.inspect import open_part
from minirtmdet.data.splits import Split
from minirtmdet.data.tile_grid import Overlap, Tile, tile_grid
from minirtmdet.data.tile_pieces import Piece, TiledObject, cut_objects, read_objects
from minirtmdet.files import atomic_folder, check_writable, write_json
from minirtmdet.messages import counted
from minirtmdet.settings import Share, Whole, check_settings

EVALUATED = ("val", "valid", "test")
"""Parts that keep all tiles: what is found where nothing is counts against a detector."""
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
    bad_images: Literal["raise", "skip"] = "raise",
    max_pixels: int = DataConfig.max_pixels,
    progress: bool = True,
) -> dict[str, TiledPart]:
    """Write a data set of tiles: ``out/train.json`` beside ``out/train`` and so on; the folder is whole or not there.

    JPEG stays JPEG (of quality 95, OpenCV's own), everything else becomes PNG; an image no larger than a tile is copied
    as it is.  Entries of images and annotations keep their other keys, but for key points.  Each tile says where it is
    from: ``tile_of``, the file name of its image, ``tile_left`` and ``tile_top``.  All images are looked at before any
    is cut.

    Args:
        parts: by name; those of :data:`EVALUATED` keep all empty tiles.
        out: a folder that is empty or not there.
        rule: sizes and shares.
        bad_images: what to do with images that are missing, broken, or of another size than the JSON says: ``raise``,
            or ``skip`` them with a warning or a note that counts them.
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
    datasets = {name: open_part(split, bad_images=bad_images, max_pixels=max_pixels) for name, split in parts.items()}
    made = {}
    with atomic_folder(out) as making:
        for name, dataset in datasets.items():
            content = read_json(dataset.json_file)
            notes: list[str] = []
            plans = _plan(dataset, content, rule, notes)
            empty = [(plan, cut) for plan in plans for cut in plan.cuts if not cut.objects]
            kept = 1.0 if name in EVALUATED else rule.empty
            chosen = np.random.default_rng(rule.seed).permutation(len(empty))[round(kept * len(empty)) :]
            for place in chosen.tolist():
                empty[place][0].cuts.remove(empty[place][1])
            plans = _write_images(dataset, plans, making / name, progress, notes)
            write_json(making / f"{name}.json", _as_coco(content, plans, dataset.json_file))
            made[name] = _count(out / f"{name}.json", plans, len(chosen), notes)
    return made


class _Cut(NamedTuple):
    """A tile and what it shows."""

    tile: Tile
    name: Path
    pieces: list[Piece]

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
    objects: list[TiledObject]
    cuts: list[_Cut]


def _plan(dataset: CocoDataset, content: dict[str, Any], rule: TileRule, notes: list[str]) -> list[_Plan]:
    """All tiles of a part, before any pixel is read."""
    objects = read_objects(dataset, content, notes)
    images = read_images(content, str(dataset.json_file))
    given = {image.id: entry for image, entry in zip(images, content["images"], strict=True)}
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
            pieces = cut_objects(own, tile, rule.min_visible)
            kept = [piece for piece in pieces if rule.pieces == "ignore" or not piece.is_rest]
            cuts.append(_Cut(tile, unused_name(of_tile, taken), kept))
        plans.append(_Plan(index, given[image_id], own, cuts))
    return plans


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


def _write_images(
    dataset: CocoDataset, plans: Sequence[_Plan], folder: Path, progress: bool, notes: list[str]
) -> list[_Plan]:
    """Write the pixels of all tiles, a few images in memory at a time; returns the plans of images that can be read."""
    quiet = {} if progress else {"disable": True}  # left to TQDM_DISABLE otherwise
    kept: list[_Plan] = []
    problems: list[str] = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            done = pool.map(partial(_write_tiles, dataset, folder), plans)
            done = tqdm(done, total=len(plans), desc=folder.name, unit="image", leave=False, **quiet)
            for plan, problem in zip(plans, done, strict=True):
                if problem and dataset.bad_images == "raise":
                    raise BadImages.of(problem, SKIP)
                if problem:
                    problems.append(problem)
                else:
                    kept.append(plan)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    notes += note_bad_images(problems, len(plans), dataset.json_file, dataset.bad_images)
    return kept


def _write_tiles(dataset: CocoDataset, folder: Path, plan: _Plan) -> str:
    """Write the tiles of an image; what is wrong with it where it cannot be decoded, and nothing is written."""
    entry = dataset.entry(plan.place)
    image = None
    for tile, name, _ in plan.cuts:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if tile[2:] == entry.size[::-1] and tile[:2] == (0, 0):
            shutil.copyfile(entry.path, path)
            continue
        if image is None:
            try:
                image = dataset.load(plan.place).image
            except (OSError, ValueError) as error:
                return str(error)
        kind = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        piece = image[tile.top : tile.bottom, tile.left : tile.right]
        # by the bytes, because cv2.imwrite cannot write every Unicode path
        path.write_bytes(cv2.imencode(kind, piece)[1].tobytes())
    return ""


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
        pieces=sum(piece.is_rest for cut in cuts for piece in cut.pieces),
        lost=sum(objects) - sum(seen),
        notes=notes,
    )


def describe_tiles(name: str, part: TiledPart, rule: TileRule) -> str:
    """What became of a part, as text."""
    little = f"less than {rule.min_visible:g} of an object"
    lines = [
        f"{name}: {counted(part.images, 'image')} in {counted(part.tiles, 'tile')} of {rule.size} px; "
        f"{counted(part.objects, 'object')} as {counted(part.boxes, 'box', 'boxes')}; "
        f"{counted(part.pieces, f'piece that shows {little} is', f'pieces that show {little} are')} left alone",
        f"  {counted(part.empty, 'tile shows', 'tiles show')} no object; "
        f"{part.left_out} more that show none are left out",
    ]
    if part.tiles + part.left_out == part.images:
        lines.append(f"  ! no image is larger than a tile of {rule.size} px: nothing was cut")
    if part.lost:
        lines.append(
            f"  ! {counted(part.lost, 'object is', 'objects are')} shown to {rule.min_visible:g} in no tile: "
            "raise --overlap or --size, or lower --min-visible"
        )
    return "\n".join([*lines, *(f"  ! {note}" for note in part.notes)])
