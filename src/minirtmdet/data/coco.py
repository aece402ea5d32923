"""Data sets as COCO JSON: one file that names pictures, boxes and categories, beside a folder of pictures."""

import json
import os
import re
import reprlib
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from minirtmdet.configs import DataConfig
from minirtmdet.data.augment import Sample
from minirtmdet.data.coco_json import (
    Annotation,
    Category,
    read_annotations,
    read_categories,
    read_images,
    read_json,
)
from minirtmdet.data.images import Expected, Header, find_damage, inspect_image, read_image, used_bits

SHOWN = 3
"""Examples that a message about many boxes or pictures names."""
DARK_BITS = 14
"""Bits that pictures of 16 use, of which they are warned: of 255 levels these leave 63."""
LOOKED_THROUGH = 10_000
"""Files of a folder that are looked through to tell what it is."""
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
        json_file: the annotations; :mod:`minirtmdet.data.coco_json` says what its values may be.
        images: folder that the JSON's file names start from.
        bad_boxes: what to do with boxes that are missing, have no area, lie outside their picture, are not four
            finite numbers, or name a picture or category that the file does not have: ``drop`` them with one warning
            that counts them, or ``raise``.
        bad_images: what to do with pictures that are missing, broken, too large, or of another size than the JSON
            says: ``raise`` or ``skip`` them with one warning that counts them.
        check: how closely every picture is looked at here: ``headers`` reads the first and the last bytes of its
            file, ``full`` decodes it.  What passes here and fails later is for ``bad_images`` too.
        max_pixels: a picture of more is not decoded.
        outside_files: what to do with file names that are absolute or climb by ``..``, and so lead out of ``images``:
            ``raise`` or ``allow`` them.
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
        ValueError: naming the file, the entry and the key for a JSON that is not COCO's; naming file, annotation and
            box, or file and picture, where the settings say so.
    """

    def __init__(
        self,
        json_file: Path,
        images: Path,
        *,
        bad_boxes: Literal["drop", "raise"] = "drop",
        bad_images: Literal["skip", "raise"] = "raise",
        check: Literal["headers", "full"] = "headers",
        max_pixels: int = DataConfig.max_pixels,
        outside_files: Literal["raise", "allow"] = "raise",
        categories: Sequence[str] | None = None,
    ) -> None:
        self.json_file, self.images, self.bad_images, self.max_pixels = json_file, images, bad_images, max_pixels
        content = read_json(json_file)
        source = str(json_file)
        found = read_categories(content, source)
        self.classes, self.category_ids = self._choose_categories(found, categories)
        entries = read_images(content, source)
        if not entries:
            raise ValueError(f"{json_file} names no picture: its list 'images' is empty")
        self.image_ids = tuple(entry.id for entry in entries)
        self._file_names = [_local_name(images, entry.file_name) for entry in entries]
        self._sizes = [entry.size for entry in entries]
        if outside_files == "raise":
            self._raise_for_files_outside()
        names = {category.id: category.name for category in found}
        self._keep_boxes(read_annotations(content, source), names, bad_boxes)
        del content  # gigabytes, where masks are drawn, that looking at pictures does not need
        self._check_images(check)

    @classmethod
    def from_config(cls, split: Split, config: DataConfig, categories: Sequence[str] | None = None) -> "CocoDataset":
        """The data set of a split, read as the settings say; ``categories`` and errors as for the class."""
        return cls(
            *split,
            bad_boxes=config.bad_boxes,
            bad_images=config.bad_images,
            check=config.check,
            max_pixels=config.max_pixels,
            outside_files=config.outside_files,
            categories=categories,
        )

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
        size = self._sizes[index]
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
        return read_image(self._path(index), max_pixels=self.max_pixels, expected=self._expected(index))

    def _expected(self, index: int) -> Expected:
        return Expected(self._sizes[index], str(self.json_file))

    def _choose_categories(
        self, found: Sequence[Category], names: Sequence[str] | None
    ) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Name and category id of each label."""
        if names is None:
            return tuple(category.name for category in found), tuple(category.id for category in found)
        # a list a name: some exporters write two categories of one name
        ids = defaultdict(list)
        for category in found:
            ids[category.name].append(category.id)
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

    def _keep_boxes(self, annotations: Iterable[Annotation], names: dict[int, str], bad_boxes: str) -> None:
        """Keep the good boxes of all pictures in flat arrays, sorted by picture.

        Arrays, because worker processes share their memory; a list of objects would be copied into each.
        """
        rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        kept, boxes, bad, others, count = [], [], [], Counter[str](), 0
        for count, entry in enumerate(annotations, 1):  # noqa: B007
            row = rows.get(entry.image_id)
            if row is None:
                bad.append(f"{_describe(entry)}, names image {entry.image_id}, which the file does not have")
            elif entry.category_id not in names:
                bad.append(f"{_describe(entry)}, names category {entry.category_id}, which the file does not have")
            elif entry.category_id not in labels:
                others[names[entry.category_id]] += 1
            elif problem := _box_problem(entry, self._sizes[row]):
                bad.append(f"{_describe(entry)} of {self._file_names[row]}, {problem}")
            else:
                kept.append((row, labels[entry.category_id], entry.ignore))
                boxes.append(entry.box)
        if bad and bad_boxes == "raise":
            raise ValueError(f"{self.json_file}: {bad[0]}; bad_boxes='drop' leaves such boxes out")
        if bad:
            _warn(f"{self.json_file}: {len(bad)} of {count} boxes left out: {_shorten(bad, '; ')}")
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

    def _raise_for_files_outside(self) -> None:
        folder = os.path.abspath(self.images)
        outside = [name for name in self._file_names if not _is_within(os.path.join(folder, name), folder)]
        if outside:
            raise ValueError(
                f"{self.json_file} names {len(outside)} files outside of {self.images}: {_shorten(outside)}; "
                "give the folder that has them all, or outside_files='allow' (--data.outside-files allow) if you "
                "trust the file"
            )

    def _check_images(self, check: str) -> None:
        """Look at every picture before any is used: raise for the bad ones, or leave them out."""
        if self.bad_images == "raise":
            self._raise_for_missing_images()
        problems, headers = self._inspect()
        if check == "full":
            whole = [index for index in range(len(self)) if index not in problems]
            paths, expected = [self._path(i) for i in whole], [self._expected(i) for i in whole]
            damaged = find_damage(paths, max_pixels=self.max_pixels, expected=expected)
            problems |= {whole[place]: problem for place, problem in damaged.items()}
        self._warn_of_dark_images([i for i, header in headers.items() if header.deep and i not in problems][:SHOWN])
        if not problems:
            return
        shown = _shorten([problem for _, problem in sorted(problems.items())], "; ")
        if self.bad_images == "raise":
            raise ValueError(
                f"{self.json_file}: {len(problems)} of {len(self)} pictures cannot be used: {shown}; "
                "bad_images='skip' (--data.bad-images skip) leaves them out"
            )
        message = f"{self.json_file}: {len(problems)} of {len(self)} pictures left out: {shown}"
        if len(problems) == len(self):
            raise ValueError(message)
        _warn(message)
        self._leave_out(problems)

    def _inspect(self) -> tuple[dict[int, str], dict[int, Header]]:
        """What the headers of all files say: what is wrong with a picture, or its header."""

        def inspect(index: int) -> Header | str | None:
            try:
                return inspect_image(self._path(index), max_pixels=self.max_pixels, expected=self._expected(index))
            except (OSError, ValueError) as error:
                return str(error)

        with ThreadPoolExecutor() as pool:
            found = dict(enumerate(pool.map(inspect, range(len(self)))))
        problems = {index: problem for index, problem in found.items() if isinstance(problem, str)}
        return problems, {index: header for index, header in found.items() if isinstance(header, Header)}

    def _warn_of_dark_images(self, indices: Sequence[int]) -> None:
        """Warn of pictures of 16 bits that hold fewer, as many cameras and microscopes write them."""
        if not indices:
            return
        bits = used_bits([self._path(index) for index in indices])
        if 0 < bits <= DARK_BITS:
            names = _shorten([self._file_names[index] for index in indices])
            _warn(
                f"{self.json_file}: pictures hold 16 bits, but use the lowest {bits} alone ({names}); read as 8 bits "
                f"they are dark, none of their values above {(2**bits - 1) >> 8} of 255: save them again with values "
                f"multiplied by {2 ** (16 - bits)}"
            )

    def _leave_out(self, indices: Iterable[int]) -> None:
        out = set(indices)
        good = [index for index in range(len(self)) if index not in out]
        rows = [np.arange(self._first_box[i], self._first_box[i + 1]) for i in good]
        keep = np.concatenate(rows)
        self._boxes, self._labels, self._ignore = self._boxes[keep], self._labels[keep], self._ignore[keep]
        self._first_box = np.cumsum([0, *map(len, rows)])
        self.image_ids = tuple(self.image_ids[i] for i in good)
        self._file_names = [self._file_names[i] for i in good]
        self._sizes = [self._sizes[i] for i in good]

    def _raise_for_missing_images(self) -> None:
        missing = [name for name in self._file_names if not os.path.isfile(self.images / name)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self)} pictures of {self.json_file} are not in {self.images}: "
                f"{_shorten(missing)}{_hint(self.images / missing[0])}; give the folder that has them, or "
                "bad_images='skip' (--data.bad-images skip)"
            )


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
    raise FileNotFoundError(
        f"{root} has no annotations to {purpose} on (looked for {tried}): give data.{key}_json{_other_format(root)}"
    )


def _other_format(root: Path) -> str:
    """What a folder without COCO JSON seems to be, and how to convert it; nothing where it seems to be nothing."""
    files = (Path(folder) / name for folder, _, names in os.walk(root) for name in sorted(names))
    for path in islice(files, LOOKED_THROUGH):
        for name, flag, is_label in (("Pascal VOC", "pascalvoc", _is_voc), ("YOLO", "yolov5", _is_yolo)):
            if is_label(path):
                images = " --img_folder IMAGES" if flag == "yolov5" else ""
                return (
                    f".  It looks like a {name} data set ({path.relative_to(root)}), and only COCO JSON is read: "
                    "pip install globox, then for each part globox convert "
                    f"{path.parent} train.json --format {flag}{images} --save_fmt coco --coco_auto_ids; the chapter "
                    "on your own data says what to look at then"
                )
    return ""


def _is_voc(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and b"<annotation" in _first_bytes(path)


def _is_yolo(path: Path) -> bool:
    """Whether the first line is a class number and four or more shares."""
    if path.suffix.lower() != ".txt":
        return False
    return re.match(rb"\s*\d+(\s+\d*\.?\d+(e-\d+)?){4,}\s*$", _first_bytes(path).split(b"\n")[0]) is not None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)


def _find_images(root: Path | None, json_file: Path, names: tuple[str, ...], key: str) -> Path:
    """The first likely folder that holds one of the JSON's first pictures."""
    base = root or json_file.parent
    names = (json_file.stem.removeprefix("instances_"), *names)
    folders = [base / part / name for name in names for part in ("", "images")]
    folders = list(dict.fromkeys([*folders, base / "images", base, json_file.parent]))
    files = list(islice(_file_names(json_file), 20))
    for folder in folders:
        if any(os.path.isfile(folder / _local_name(folder, file)) for file in files):
            return folder
    if not files:
        raise ValueError(f"{json_file} names no picture (no key 'file_name'): is it COCO JSON?")
    hint = next(filter(None, (_hint(folder / files[0]) for folder in folders)), "")
    hint = next(filter(None, (_hint(folder / files[0]) for folder in folders)), "")
    raise FileNotFoundError(
        f"the pictures of {json_file} are not found ({files[0]} is not in "
        f"{', '.join(map(str, folders))}{hint}): give data.{key}_images"
    )


def _file_names(json_file: Path) -> Iterator[str]:
    """The pictures' file names in the order of the JSON, found without parsing what may be gigabytes."""
    for match in re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', json_file.read_bytes()):
        yield json.loads(match[1])


def _describe(entry: Annotation) -> str:
    """An annotation and its box, as messages name them."""
    return entry.name if entry.given is None else f"{entry.name}, box {reprlib.repr(entry.given)}"


def _local_name(folder: Path, name: str) -> str:
    """The file name with the separators of this system, where it is one of Windows."""
    return name.replace("\\", "/") if "\\" in name and not os.path.isfile(folder / name) else name


def _is_within(path: str, folder: str) -> bool:
    return os.path.normpath(path).startswith(os.path.join(folder, ""))


def _hint(path: Path) -> str:
    """The file that may be meant where there is no such file: the same but for its ending, or for its case."""
    if not path.parent.is_dir():
        return ""
    for found in sorted(os.listdir(path.parent)):
        if _plain(path.name) in (_plain(found), _plain(Path(found).stem)) or _plain(path.stem) == _plain(
            Path(found).stem
        ):
            return f" ({found} is there: the JSON's file_name should be that)"
    return ""


def _plain(name: str) -> str:
    """A name without what systems write in different ways: case, and the parts of a letter with an accent."""
    return unicodedata.normalize("NFC", name).casefold()


def _box_problem(entry: Annotation, size: tuple[int, int]) -> str | None:
    """What is wrong with a box (x, y, width, height) in a picture of (height, width), if anything."""
    if entry.box is None:
        return entry.problem
    x, y, width, height = entry.box
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


def _shorten(items: Sequence[str], separator: str = ", ") -> str:
    rest = len(items) - SHOWN
    return separator.join(items[:SHOWN]) + (f"{separator}and {rest} more" if rest > 0 else "")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
