"""Data sets as COCO JSON: one file that names pictures, boxes and categories, beside a folder of pictures."""

import json
import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from minirtmdet.configs import DataConfig
from minirtmdet.data.augment import Sample

SHOWN = 3
"""Examples that a message about many boxes or pictures names."""
SUSPICIOUS = 0.1
"""Share of the boxes over the border that makes their format doubtful."""


class Split(NamedTuple):
    """Where one part of a data set lies.

    Attributes:
        json_file: its annotations.
        images: the folder that the JSON's file names start from.
    """

    json_file: Path
    images: Path


class CocoDataset:
    """A COCO JSON data set; picture ``index`` is the JSON's ``index``-th usable one.

    Boxes are cut at the border of their picture.  Crowds (``iscrowd``) and annotations with ``ignore`` set become
    ignore regions.  Pictures without boxes stay: they teach background.

    Args:
        json_file: the annotations.
        images: folder that the JSON's file names start from.
        bad_boxes: what to do with boxes that have no area, lie outside their picture, are not four finite
            numbers, or name a picture or category that the file does not have: ``drop`` them with one warning
            that counts them, or ``raise``.
        bad_images: what to do with pictures that are missing, broken, or of another size than the JSON says:
            ``raise`` (missing ones at once, others when loaded) or ``skip`` them with one warning that counts
            them, for which every picture is decoded once here.
        categories: names of the classes in the order of their labels; boxes of other categories are left out.
            All categories in the order of their ids where not given, as COCO numbers them.  (MMDetection keeps
            the order of the file even where names are given.)

    Attributes:
        json_file: the annotations.
        images: the folder of the pictures.
        bad_images: as given; whoever loads pictures later keeps to it.
        classes: name of each label.
        category_ids: the JSON's category id of each label.
        image_ids: the JSON's id of each picture.
        other_boxes: how many boxes each category has that ``categories`` leaves out.

    Raises:
        FileNotFoundError: for a JSON, folder or picture that is not there.
        ValueError: naming the file and the key for a JSON that is not COCO's; naming file, annotation and box,
            or file and picture, where the settings say so.
    """

    def __init__(
        self,
        json_file: Path,
        images: Path,
        *,
        bad_boxes: Literal["drop", "raise"] = "drop",
        bad_images: Literal["skip", "raise"] = "raise",
        categories: Sequence[str] | None = None,
    ) -> None:
        self.json_file, self.images, self.bad_images = json_file, images, bad_images
        content = _read_json(json_file)
        self.classes, self.category_ids = self._read_categories(content["categories"], categories)
        self._read_images(content["images"])
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        self._read_annotations(content["annotations"], names, bad_boxes)
        if bad_images == "skip":
            self._skip_bad_images()
        else:
            self._raise_for_missing_images()

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, index: int) -> Sample:
        """Picture ``index`` as it is in its file, with its boxes.

        Raises:
            IndexError: where there is no such picture.
            FileNotFoundError: naming the picture that is missing.
            ValueError: naming the picture that cannot be decoded, or whose size is not the JSON's.
        """
        index = range(len(self))[index]
        path = self._path(index)
        image = self._read_pixels(index)
        rows = slice(self._first_box[index], self._first_box[index + 1])
        size = (image.shape[0], image.shape[1])
        return Sample(
            image=image,
            boxes=self._boxes[rows],
            labels=self._labels[rows],
            ignore=self._ignore[rows],
            image_id=self.image_ids[index],
            path=path,
            original_size=size,
            img_shape=size,
        )

    def count_boxes(self) -> dict[str, int]:
        """How many boxes each class has; without ignore regions."""
        counts = np.bincount(self._labels[~self._ignore], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def _path(self, index: int) -> Path:
        return self.images / self._file_names[index]

    def _read_pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        path = self._path(index)
        image = read_image(path)
        expected, found = self._sizes[index], image.shape[:2]
        if found != expected:
            hint = " (after its EXIF orientation was applied?)" if found == expected[::-1] else ""
            raise ValueError(
                f"{path} is {found[1]} x {found[0]} pixels{hint}, but {self.json_file} says "
                f"{expected[1]} x {expected[0]}: its boxes cannot be trusted"
            )
        return image

    def _get(self, entry: Any, key: str, kind: type, where: str) -> Any:
        """``entry[key]``, or a ValueError that says which file, entry and key is wrong."""
        if not isinstance(entry, dict) or key not in entry:
            raise ValueError(f"{self.json_file}: {where} has no key {key!r}, which COCO JSON needs")
        value = entry[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{self.json_file}: {where} has {key!r}: {value!r}, expected {kind.__name__}")
        return value

    def _read_categories(
        self, entries: list[Any], names: Sequence[str] | None
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        found = sorted(
            (self._get(entry, "id", int, f"category {i}"), self._get(entry, "name", str, f"category {i}"))
            for i, entry in enumerate(entries)
        )
        _raise_for_repeats([category_id for category_id, _ in found], f"{self.json_file}: category id")
        if names is None:
            return tuple(name for _, name in found), tuple(category_id for category_id, _ in found)
        # a list a name: some exporters write two categories of one name
        ids = defaultdict(list)
        for category_id, name in found:
            ids[name].append(category_id)
        unknown = [name for name in names if name not in ids]
        if unknown:
            raise ValueError(
                f"{self.json_file} has no category {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(repr(name) for _, name in found)} (a class that no picture shows is listed too)"
            )
        repeated = next((name for name in names if list(names).count(name) > len(ids[name])), None)
        if repeated is not None:
            raise ValueError(f"category {repeated!r} is asked for more often than {self.json_file} has it")
        return tuple(names), tuple(ids[name].pop(0) for name in names)

    def _read_images(self, entries: list[Any]) -> None:
        if not entries:
            raise ValueError(f"{self.json_file} names no picture: its list 'images' is empty")
        self.image_ids = tuple(self._get(entry, "id", int, f"image {i}") for i, entry in enumerate(entries))
        _raise_for_repeats(self.image_ids, f"{self.json_file}: image id")
        where = [f"image {image_id}" for image_id in self.image_ids]
        self._file_names = [self._get(e, "file_name", str, w) for e, w in zip(entries, where, strict=True)]
        self._sizes = [
            (self._get(e, "height", int, w), self._get(e, "width", int, w)) for e, w in zip(entries, where, strict=True)
        ]

    def _read_annotations(self, entries: list[Any], names: dict[int, str], bad_boxes: str) -> None:
        """Keep the good boxes of all pictures in flat arrays, sorted by picture.

        Arrays, because worker processes share their memory; a list of objects would be copied into each.
        """
        rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        kept, boxes, bad, others = [], [], [], Counter[str]()
        for i, entry in enumerate(entries):
            where = f"annotation {entry['id']}" if isinstance(entry, dict) and "id" in entry else f"annotation no. {i}"
            image_id = self._get(entry, "image_id", int, where)
            category_id = self._get(entry, "category_id", int, where)
            box = self._get(entry, "bbox", list, where)
            if image_id not in rows:
                bad.append(f"{where}, box {box}, names image {image_id}, which the file does not have")
            elif category_id not in names:
                bad.append(f"{where}, box {box}, names category {category_id}, which the file does not have")
            elif category_id not in labels:
                others[names[category_id]] += 1
            else:
                row = rows[image_id]
                if problem := _box_problem(box, self._sizes[row]):
                    bad.append(f"{where}, box {box} of {self._file_names[row]}, {problem}")
                else:
                    ignore = bool(entry.get("iscrowd") or entry.get("ignore"))
                    kept.append((row, labels[category_id], ignore))
                    boxes.append(box)
        if bad and bad_boxes == "raise":
            raise ValueError(f"{self.json_file}: {bad[0]}; bad_boxes='drop' leaves such boxes out")
        if bad:
            _warn(f"{self.json_file}: {len(bad)} of {len(entries)} boxes left out: {_shorten(bad, '; ')}")
        columns = np.array(kept, dtype=np.int64).reshape(-1, 3)
        order = np.argsort(columns[:, 0], kind="stable")
        columns = columns[order]
        xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)[order]
        sizes = np.array(self._sizes)[columns[:, 0]]
        if doubt := _doubt(xyxy, sizes):
            if bad_boxes == "raise":
                raise ValueError(f"{self.json_file}: {doubt}")
            _warn(f"{self.json_file}: {doubt}")
        xyxy[:, 2:] += xyxy[:, :2]
        self.other_boxes = dict(others)
        self._boxes = np.clip(xyxy, 0, sizes[:, [1, 0, 1, 0]]).astype(np.float32)
        self._labels = columns[:, 1].copy()
        self._ignore = columns[:, 2].astype(bool)
        self._first_box = np.searchsorted(columns[:, 0], np.arange(len(rows) + 1))

    def _raise_for_missing_images(self) -> None:
        missing = [name for name in self._file_names if not os.path.isfile(self.images / name)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self)} pictures of {self.json_file} are not in {self.images}: "
                f"{_shorten(missing)}; give the folder that has them, or bad_images='skip'"
            )

    def _skip_bad_images(self) -> None:
        with ThreadPoolExecutor() as pool:
            problems = list(pool.map(self._problem, range(len(self))))
        good = [index for index, problem in enumerate(problems) if problem is None]
        bad = [problem for problem in problems if problem is not None]
        if not bad:
            return
        message = f"{self.json_file}: {len(bad)} of {len(self)} pictures left out: {_shorten(bad, '; ')}"
        if not good:
            raise ValueError(message)
        _warn(message)
        rows = [np.arange(self._first_box[i], self._first_box[i + 1]) for i in good]
        keep = np.concatenate(rows)
        self._boxes, self._labels, self._ignore = self._boxes[keep], self._labels[keep], self._ignore[keep]
        self._first_box = np.cumsum([0, *map(len, rows)])
        self.image_ids = tuple(self.image_ids[i] for i in good)
        self._file_names = [self._file_names[i] for i in good]
        self._sizes = [self._sizes[i] for i in good]

    def _problem(self, index: int) -> str | None:
        try:
            self._read_pixels(index)
        except (OSError, ValueError) as error:
            return str(error)
        return None


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of a picture as BGR, whatever its file holds: grey is repeated, transparency is dropped.

    The EXIF orientation is applied, as MMDetection's ``LoadImageFromFile`` and every viewer do.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming the file that is empty, cut off or no picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such picture")
    # the bytes are read here because cv2.imread cannot open every Unicode path, and shows a cut JPEG as half grey
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if not len(content):
        raise ValueError(f"{path} is empty (0 bytes), not a picture")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"{path} cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError(f"{path} cannot be decoded: it is cut off, or no picture that OpenCV reads")
    return image


def resolve_splits(config: DataConfig) -> tuple[Split, Split]:
    """Where to train and where to evaluate: files named in the settings first, then what ``root`` holds.

    Annotations are looked for as ``train.json``, ``annotations/train.json``,
    ``annotations/instances_train*.json`` and ``train/_annotations.coco.json``; for evaluation with ``val``, then
    ``valid``, then ``test`` in place of ``train``.  The folder of the pictures is the first of ``train``,
    ``images/train``, ``images``, the root and the JSON's own folder that holds a picture of the JSON; the name of
    the JSON itself comes before ``train``: ``train2017`` for ``instances_train2017.json``.  Without any root or
    file the embedded scenes are used, and made if need be.

    Raises:
        FileNotFoundError: saying what was looked for.
        ValueError: where several files could be meant.
    """
    root = config.root
    if root is None and not (config.train_json and config.val_json):
        if config.train_json or config.val_json:
            missing = "val_json" if config.train_json else "train_json"
            raise ValueError(f"data.{missing} is not given, nor a data.root to look for it: give one of them")
        from minirtmdet.data.scenes import make_scenes

        root = make_scenes(config.scenes)
    train = _resolve(root, ("train",), config.train_json, config.train_images, "train")
    return train, resolve_val(replace(config, root=root))


def resolve_val(config: DataConfig) -> Split:
    """Where to evaluate, for data that need have nothing to train on; else as :func:`resolve_splits`."""
    if config.root is None and config.val_json is None:
        return resolve_splits(config)[1]
    return _resolve(config.root, ("val", "valid", "test"), config.val_json, config.val_images, "val")


def _resolve(root: Path | None, names: tuple[str, ...], json_file: Path | None, images: Path | None, key: str) -> Split:
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"data.root {root}: there is no such folder")
    if json_file is not None and not json_file.is_file():
        raise FileNotFoundError(f"data.{key}_json {json_file}: there is no such file")
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"data.{key}_images {images}: there is no such folder")
    if json_file is None:
        assert root is not None
        json_file, name = _find_json(root, names, key)
        names = (name,)
    return Split(json_file, images or _find_images(root, json_file, names, key))


def _find_json(root: Path, names: tuple[str, ...], key: str) -> tuple[Path, str]:
    """The annotations of the first split that has any, and the split's name."""
    patterns = ("{}.json", "annotations/{}.json", "annotations/instances_{}*.json", "{}/_annotations.coco.json")
    for name in names:
        for pattern in patterns:
            found = sorted(root.glob(pattern.format(name)))
            if len(found) > 1:
                raise ValueError(
                    f"{root} has {', '.join(str(path.relative_to(root)) for path in found)}: "
                    f"say which one with data.{key}_json"
                )
            if found:
                return found[0], name
    tried = ", ".join(pattern.format(name) for name in names for pattern in patterns)
    purpose = "train" if key == "train" else "evaluate"
    raise FileNotFoundError(f"{root} has no annotations to {purpose} on (looked for {tried}): give data.{key}_json")


def _find_images(root: Path | None, json_file: Path, names: tuple[str, ...], key: str) -> Path:
    """The first likely folder that holds one of the JSON's first pictures."""
    base = root or json_file.parent
    names = (json_file.stem.removeprefix("instances_"), *names)
    folders = [base / part / name for name in names for part in ("", "images")]
    folders = list(dict.fromkeys([*folders, base / "images", base, json_file.parent]))
    files = list(islice(_file_names(json_file), 20))
    for folder in folders:
        if any((folder / file).is_file() for file in files):
            return folder
    if not files:
        raise ValueError(f"{json_file} names no picture (no key 'file_name'): is it COCO JSON?")
    raise FileNotFoundError(
        f"the pictures of {json_file} are not found ({files[0]} is not in "
        f"{', '.join(map(str, folders))}): give data.{key}_images"
    )


def _file_names(json_file: Path) -> Iterator[str]:
    """The pictures' file names in the order of the JSON, found without parsing what may be gigabytes."""
    for match in re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', json_file.read_bytes()):
        yield json.loads(match[1])


def _read_json(json_file: Path) -> dict[str, Any]:
    if not json_file.is_file():
        raise FileNotFoundError(f"{json_file}: there is no such file")
    try:
        content = json.loads(json_file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{json_file} is not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{json_file} has no key {key!r}, which COCO JSON needs")
        if not isinstance(content[key], list):
            raise ValueError(f"{json_file}: {key!r} is a {type(content[key]).__name__}, expected a list")
    return content


def _box_problem(box: list[Any], size: tuple[int, int]) -> str | None:
    """What is wrong with a box (x, y, width, height) in a picture of (height, width), if anything."""
    if len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return "is not four numbers"
    if not all(map(math.isfinite, box)):
        return "is not finite"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "has a negative size"
    if width == 0 or height == 0:
        return "has no area"
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, size[1]), min(y + height, size[0])
    if x1 >= x2 or y1 >= y2:
        return f"lies outside its picture of {size[1]} x {size[0]} pixels"
    # in single precision, as it will be kept
    if np.float32(x1) == np.float32(x2) or np.float32(y1) == np.float32(y2):
        return "has no area"
    return None


def _doubt(boxes: Float[np.ndarray, "boxes 4"], sizes: Int[np.ndarray, "boxes 2"]) -> str | None:
    """What boxes look like that should be (x, y, width, height) in pictures of (height, width), if not that.

    Labels of real pictures stick out of them now and then; another format shows in many boxes at once.
    """
    if not len(boxes):
        return None
    if boxes.max() <= 1:
        return (
            f"all {len(boxes)} boxes lie within one pixel: they look like shares of the picture, as YOLO has them, "
            "where COCO has pixels"
        )
    first, second, border = boxes[:, :2], boxes[:, 2:], sizes[:, ::-1] + 1  # a pixel for rounding
    outside = int((first + second > border).any(1).sum())
    if outside <= SUSPICIOUS * len(boxes):
        return None
    for name, low, high in (
        ("corners (x1, y1, x2, y2)", first, second),
        ("centres (x, y, width, height)", first - second / 2, first + second / 2),
    ):
        if (low >= -1).all() and (high > low).all() and (high <= border).all():
            return (
                f"{outside} of {len(boxes)} boxes reach over the border of their picture, and as {name} none would: "
                "COCO has the left upper corner, width and height"
            )
    return None


def _raise_for_repeats(ids: Sequence[int], what: str) -> None:
    seen: set[int] = set()
    for value in ids:
        if value in seen:
            raise ValueError(f"{what} {value} is given twice")
        seen.add(value)


def _shorten(items: Sequence[str], separator: str = ", ") -> str:
    rest = len(items) - SHOWN
    return separator.join(items[:SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
