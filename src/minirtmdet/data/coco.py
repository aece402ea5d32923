"""Data sets as COCO JSON: one file that names images, boxes and categories, beside a folder of images.

Where the file and the folder are is found by :mod:`~minirtmdet.data.splits`, what the file's values may be is said by
:mod:`~minirtmdet.data.coco_json`.
"""

import os
import reprlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from minirtmdet.configs import DataConfig
from minirtmdet.data.augment import Sample
from minirtmdet.data.box_checks import box_problem, format_doubt
from minirtmdet.data.coco_json import (
    Annotation,
    Category,
    read_annotations,
    read_categories,
    read_images,
    read_json,
)
from minirtmdet.data.file_names import is_within, local_name, similar_file
from minirtmdet.data.image_checks import (
    BadImages,
    MissingImages,
    OutsideFiles,
    describe_bad_images,
    inspect_images,
)
from minirtmdet.data.images import Expected, read_image, used_bits
from minirtmdet.data.segmentations import Mask, MaskProblem, MaskStore, read_mask
from minirtmdet.data.splits import Split
from minirtmdet.messages import shorten

SHOWN = 3
"""Examples that a message about many boxes or images names."""
DARK_BITS = 14
"""Images of 16 bits that use no more of them than this raise a warning: of 255 levels they show 63 at most."""


class Entry(NamedTuple):
    """An image and its boxes by the annotations alone.

    Attributes:
        path: the image's file.
        size: (height, width) in pixels.
        boxes: ``xyxy`` in pixels.
        labels: class index of each box.
        ignore: true for regions where background must not be learned.
    """

    path: Path
    size: tuple[int, int]
    boxes: Float32[np.ndarray, "boxes 4"]
    labels: Int64[np.ndarray, " boxes"]
    ignore: Bool[np.ndarray, " boxes"]


class CocoDataset:
    """A COCO JSON data set; image ``index`` is the JSON's ``index``-th usable one.

    Boxes are cut at the border of their image.  Crowds (``iscrowd``) and annotations with ``ignore`` set become
    ignore regions.  Images without boxes stay: they teach background.

    Args:
        json_file: the annotations; :mod:`minirtmdet.data.coco_json` says what its values may be.
        images: folder that the JSON's file names start from.
        bad_boxes: what to do with boxes that are missing, have no area, lie outside their image, are not four
            finite numbers, or name an image or category that the file does not have: ``drop`` them with one warning
            that counts them, or ``raise``.
        bad_images: what to do with images that are missing, broken, too large, or of another size than the JSON
            says: ``raise`` or ``skip`` them with one warning that counts them.
        check: how closely every image is looked at here: ``headers`` reads the first and the last bytes of its
            file, ``full`` decodes it.  What passes here and fails later is for ``bad_images`` too.
        max_pixels: an image of more is not decoded.
        outside_files: what to do with file names that are absolute or climb by ``..``, and so lead out of ``images``:
            ``raise`` or ``allow`` them.
        masks: read the masks too.  A box whose mask is missing or cannot be used
            (:func:`~minirtmdet.data.segmentations.read_mask`) is a bad box then; ignore regions need none.
        categories: names of the classes in the order of their labels; boxes of other categories are left out.
            All categories in the order of their ids where not given, as COCO numbers them.  (MMDetection keeps
            the order of the file even where names are given.)

    Attributes:
        json_file: the annotations.
        images: the folder of the images.
        bad_images: as given; whoever loads images later keeps to it.
        classes: name of each label.
        category_ids: the JSON's category id of each label.
        image_ids: the JSON's id of each image.
        other_boxes: how many boxes each category has that ``categories`` leaves out.

    Raises:
        FileNotFoundError: for a JSON, folder or image that is not there.
        ValueError: naming the file, the entry and the key for a JSON that is not COCO's; naming file, annotation and
            box, or file and image, where the settings say so; naming file, annotation and image for a mask of another
            size than its image.
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
        masks: bool = False,
        categories: Sequence[str] | None = None,
    ) -> None:
        self.json_file, self.images, self.bad_images, self.max_pixels = json_file, images, bad_images, max_pixels
        content = read_json(json_file)
        source = str(json_file)
        found = read_categories(content, source)
        self.classes, self.category_ids = self._choose_categories(found, categories)
        entries = read_images(content, source)
        if not entries:
            raise ValueError(f"{json_file} names no image: its list 'images' is empty")
        self.image_ids = tuple(entry.id for entry in entries)
        self._file_names = [local_name(images, entry.file_name) for entry in entries]
        self._sizes = [entry.size for entry in entries]
        if outside_files == "raise":
            self._raise_for_files_outside()
        names = {category.id: category.name for category in found}
        self._keep_boxes(read_annotations(content, source), names, bad_boxes, masks)
        del content  # gigabytes, where masks are drawn, that looking at images does not need
        self._check_images(check)

    @classmethod
    def from_config(
        cls, split: Split, config: DataConfig, categories: Sequence[str] | None = None, *, masks: bool = False
    ) -> "CocoDataset":
        """The data set of a split, read as the settings say; ``categories``, ``masks`` and errors as for the class."""
        return cls(
            *split,
            bad_boxes=config.bad_boxes,
            bad_images=config.bad_images,
            check=config.check,
            max_pixels=config.max_pixels,
            outside_files=config.outside_files,
            masks=masks,
            categories=categories,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def load(self, index: int) -> Sample:
        """Image ``index`` as it is in its file, with its boxes, and their masks where these are read.

        Raises:
            IndexError: where there is no such image.
            FileNotFoundError: naming the image that is missing.
            ValueError: naming the image that cannot be decoded, or whose size is not the JSON's.
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
            shapes=None if self._masks is None else self._masks.shapes(rows, size),
        )

    def entry(self, index: int) -> Entry:
        """What the annotations say of image ``index``; its file is not read."""
        rows = slice(self._first_box[index], self._first_box[index + 1])
        return Entry(self._path(index), self._sizes[index], self._boxes[rows], self._labels[rows], self._ignore[rows])

    @property
    def has_masks(self) -> bool:
        """Whether masks are read."""
        return self._masks is not None

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
        # a list per name: some exporters write two categories of one name
        ids = defaultdict(list)
        for category in found:
            ids[category.name].append(category.id)
        unknown = [name for name in names if name not in ids]
        if unknown:
            raise ValueError(
                f"{self.json_file} has no category {', '.join(map(repr, unknown))}; "
                f"it has {', '.join(repr(name) for _, name in found)} (a class that no image shows is listed too)"
            )
        repeated = next((name for name in names if list(names).count(name) > len(ids[name])), None)
        if repeated is not None:
            raise ValueError(f"category {repeated!r} is asked for more often than {self.json_file} has it")
        return tuple(names), tuple(ids[name].pop(0) for name in names)

    def _keep_boxes(
        self, annotations: Iterable[Annotation], names: dict[int, str], bad_boxes: str, with_masks: bool
    ) -> None:
        """Keep the good boxes of all images in flat arrays, sorted by image.

        Arrays, because worker processes share their memory; a list of objects would be copied into each.
        """
        rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        kept, boxes, bad, others, count = [], [], [], Counter[str](), 0
        masks: list[Mask | None] = []
        for count, entry in enumerate(annotations, 1):  # noqa: B007
            row = rows.get(entry.image_id)
            if row is None:
                bad.append(f"{_describe(entry)}, names image {entry.image_id}, which the file does not have")
            elif entry.category_id not in names:
                bad.append(f"{_describe(entry)}, names category {entry.category_id}, which the file does not have")
            elif entry.category_id not in labels:
                others[names[entry.category_id]] += 1
            elif problem := box_problem(entry, self._sizes[row]):
                bad.append(f"{_describe(entry)} of {self._file_names[row]}, {problem}")
            elif problem := self._keep_mask(entry, row, masks) if with_masks else "":
                bad.append(f"{entry.name} of {self._file_names[row]}, {problem}")
            else:
                kept.append((row, labels[entry.category_id], entry.ignore))
                boxes.append(entry.box)
        if bad and bad_boxes == "raise":
            raise ValueError(f"{self.json_file}: {bad[0]}; bad_boxes='drop' leaves such boxes out")
        if bad:
            _warn(f"{self.json_file}: {len(bad)} of {count} boxes left out: {shorten(bad, separator='; ')}")
        columns = np.array(kept, dtype=np.int64).reshape(-1, 3)
        order = np.argsort(columns[:, 0], kind="stable")
        columns = columns[order]
        xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)[order]
        sizes = np.array(self._sizes)[columns[:, 0]]
        if doubt := format_doubt(xyxy, sizes):
            if bad_boxes == "raise":
                raise ValueError(f"{self.json_file}: {doubt}")
            _warn(f"{self.json_file}: {doubt}")
        xyxy[:, 2:] += xyxy[:, :2]
        self.other_boxes = dict(others)
        self._boxes = np.clip(xyxy, 0, sizes[:, [1, 0, 1, 0]]).astype(np.float32)
        self._labels = columns[:, 1].copy()
        self._ignore = columns[:, 2].astype(bool)
        self._first_box = np.searchsorted(columns[:, 0], np.arange(len(rows) + 1))
        self._masks = MaskStore([masks[i] for i in order]) if with_masks else None

    def _keep_mask(self, entry: Annotation, row: int, masks: list[Mask | None]) -> str:
        """Add the mask of an annotation; what is wrong with it where that cannot be done, else empty."""
        try:
            where = f"{self.json_file}: {entry.name} of {self._file_names[row]}"
            # nothing ever asks for the shape of an ignore region
            masks.append(None if entry.ignore else read_mask(entry.segmentation, self._sizes[row], where))
        except MaskProblem as problem:
            return str(problem)
        return ""

    def _raise_for_files_outside(self) -> None:
        folder = os.path.abspath(self.images)
        outside = [name for name in self._file_names if not is_within(os.path.join(folder, name), folder)]
        if outside:
            raise OutsideFiles.of(
                f"{self.json_file} names {len(outside)} files outside of {self.images}: {shorten(outside)}",
                "give the folder that has them all, or outside_files='allow' (--data.outside-files allow) if you "
                "trust the file",
            )

    def _check_images(self, check: str) -> None:
        """Look at every image before any is used: raise for the bad ones, or leave them out."""
        if self.bad_images == "raise":
            self._raise_for_missing_images()
        every = range(len(self))
        paths, expected = [self._path(i) for i in every], [self._expected(i) for i in every]
        problems, headers = inspect_images(paths, expected, max_pixels=self.max_pixels, full=check == "full")
        self._warn_of_dark_images([i for i, header in headers.items() if header.deep and i not in problems][:SHOWN])
        if not problems:
            return
        if self.bad_images == "raise":
            raise BadImages.of(
                f"{self.json_file}: {describe_bad_images(problems.values(), len(self), 'cannot be used')}",
                "bad_images='skip' (--data.bad-images skip) leaves them out",
            )
        message = f"{self.json_file}: {describe_bad_images(problems.values(), len(self), 'left out')}"
        if len(problems) == len(self):
            raise ValueError(message)
        _warn(message)
        self._leave_out(problems)

    def _warn_of_dark_images(self, indices: Sequence[int]) -> None:
        """Warn of images of 16 bits that hold fewer, as many cameras and microscopes write them."""
        if not indices:
            return
        bits = used_bits([self._path(index) for index in indices])
        if 0 < bits <= DARK_BITS:
            names = shorten([self._file_names[index] for index in indices])
            _warn(
                f"{self.json_file}: images hold 16 bits, but use the lowest {bits} alone ({names}); read as 8 bits "
                f"they are dark, none of their values above {(2**bits - 1) >> 8} of 255: save them again with values "
                f"multiplied by {2 ** (16 - bits)}"
            )

    def _leave_out(self, indices: Iterable[int]) -> None:
        out = set(indices)
        good = [index for index in range(len(self)) if index not in out]
        rows = [np.arange(self._first_box[i], self._first_box[i + 1]) for i in good]
        keep = np.concatenate(rows)
        self._boxes, self._labels, self._ignore = self._boxes[keep], self._labels[keep], self._ignore[keep]
        if self._masks is not None:
            self._masks.keep(keep)
        self._first_box = np.cumsum([0, *map(len, rows)])
        self.image_ids = tuple(self.image_ids[i] for i in good)
        self._file_names = [self._file_names[i] for i in good]
        self._sizes = [self._sizes[i] for i in good]

    def _raise_for_missing_images(self) -> None:
        missing = [name for name in self._file_names if not os.path.isfile(self.images / name)]
        if missing:
            raise MissingImages.of(
                f"{len(missing)} of the {len(self)} images of {self.json_file} are not in {self.images}: "
                f"{shorten(missing)}{similar_file(self.images / missing[0])}",
                "give the folder that has them, or bad_images='skip' (--data.bad-images skip)",
            )


def _describe(entry: Annotation) -> str:
    """An annotation and its box, as messages name them."""
    return entry.name if entry.given is None else f"{entry.name}, box {reprlib.repr(entry.given)}"


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
