"""What is in a data set before it is trained on: counts, sizes as the network sees them, copies, and what is wrong."""

import hashlib
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import STRIDES, DataConfig
from minirtmdet.data.augment import fit, resize_boxes
from minirtmdet.data.coco import CocoDataset, Entry
from minirtmdet.data.image_checks import SKIP, BadImages, MissingImages, OutsideFiles
from minirtmdet.data.splits import Split
from minirtmdet.messages import counted, shorten

THUMBNAIL = 16
"""Side of the thumbnails that images are compared by."""
SIMILAR = 0.96
"""Correlation of two thumbnails from which on their images count as one: a copy that was made smaller, darker and
compressed has 0.97 and more, two photos of COCO at most 0.9."""
FLAT = 2.0
"""Standard deviation of grey values below which a thumbnail shows nothing to compare."""
SAME_BOX = 0.95
"""IoU from which on two labels are one that was drawn twice."""
COMFORTABLE = 16.0
"""Side in pixels of the input that leaves a box some five priors to choose from."""
SMALLEST_SHARE = 0.1
"""Share of the boxes that may be smaller than that at a good input size."""
SHOWN = 5
"""Examples that a line names."""


def open_part(
    split: Split, *, bad_images: Literal["skip", "raise"] = "raise", max_pixels: int = DataConfig.max_pixels
) -> CocoDataset:
    """A part of a data set for the commands that prepare data, whose errors name what these can do.

    Raises:
        FileNotFoundError, ValueError: as :class:`~minirtmdet.data.coco.CocoDataset`.
    """
    try:
        return CocoDataset(*split, bad_images=bad_images, max_pixels=max_pixels)
    except OutsideFiles as error:
        raise error.instead("give the folder that has them all with --images") from None
    except MissingImages as error:
        raise error.instead(f"give the folder that has them with --images, or {SKIP}") from None
    except BadImages as error:
        raise error.instead(SKIP) from None


class ClassReport(NamedTuple):
    """One class in one part.

    Attributes:
        name: of the class.
        images: that show it.
        boxes: of it, without ignore regions.
        ignored: regions of it.
        sides: square root of each box's area, in pixels of the input.
        without_prior: boxes that hold no prior of any level.
    """

    name: str
    images: int
    boxes: int
    ignored: int
    sides: Float[np.ndarray, " boxes"]
    without_prior: int


class PartReport(NamedTuple):
    """One part of a data set.

    Attributes:
        name: of the part.
        dataset: None where it cannot be used at all.
        empty: images without a box.
        classes: in the order of their labels.
        problems: what is wrong, a line each.
    """

    name: str
    dataset: CocoDataset | None
    empty: int
    classes: list[ClassReport]
    problems: list[str]


class SetReport(NamedTuple):
    """A data set.

    Attributes:
        input_size: side of the network's input, in pixels.
        parts: its parts.
        copies: groups of images that show the same, as ``part/file``: those in several parts first.
        leaks: how many of these groups are in several parts.
        advice: the smallest good input size; None where there is no box.
    """

    input_size: int
    parts: list[PartReport]
    copies: list[list[str]]
    leaks: int
    advice: int | None

    @property
    def usable(self) -> bool:
        """Whether every part can be trained on or evaluated."""
        return all(part.dataset is not None for part in self.parts)


def inspect_set(
    parts: Mapping[str, Split], input_size: int, *, check: Literal["headers", "full"] = "headers", copies: bool = True
) -> SetReport:
    """Look at every part of a data set, and at what they have in common.

    Args:
        parts: where each lies.
        input_size: side of the network's input, in pixels.
        check: ``full`` decodes every image.
        copies: look for copies, for which every image is decoded, small.
    """
    reports = [inspect_part(name, split, input_size, check=check) for name, split in parts.items()]
    reports = _compare_classes(reports)
    groups = find_copies(reports) if copies else []
    groups.sort(key=lambda group: len({part for part, _ in group}) < 2)
    leaks = sum(len({part for part, _ in group}) > 1 for group in groups)
    names = [[f"{part}/{path.name}" for part, path in group] for group in groups]
    sides = [entry.sides for part in reports for entry in part.classes]
    advice = advise_input_size(np.concatenate(sides) / input_size) if any(map(len, sides)) else None
    return SetReport(input_size, reports, names, leaks, advice)


def inspect_part(
    name: str, split: Split, input_size: int, *, check: Literal["headers", "full"] = "headers"
) -> PartReport:
    """Look at one part; what :class:`~minirtmdet.data.coco.CocoDataset` warns of or refuses is a problem here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = CocoDataset(*split, bad_images="skip", check=check)
        except (OSError, ValueError) as error:
            return PartReport(name, None, 0, [], [str(error)])
    problems = [str(warning.message) for warning in caught]
    entries = [dataset.entry(index) for index in range(len(dataset))]
    problems += _drawn_twice(entries, dataset.classes)
    classes = _count(entries, dataset.classes, input_size)
    if absent := [entry.name for entry in classes if not entry.boxes]:
        problems.append(f"{counted(len(absent), 'class', 'classes')} without a box: {shorten(absent, SHOWN)}")
    lost = sum(entry.without_prior for entry in classes)
    if lost:
        total = sum(entry.boxes for entry in classes)
        problems.append(
            f"{lost} of {total} boxes hold no prior at {input_size} px and teach nothing useful: "
            "take a larger input, or tiles"
        )
    empty = sum(entry.ignore.all() for entry in entries)
    return PartReport(name, dataset, int(empty), classes, problems)


def holds_prior(boxes: Float[np.ndarray, "boxes 4"], offset: float = 0.0) -> Bool[np.ndarray, " boxes"]:
    """Whether each box has a prior of any level strictly inside.

    Args:
        boxes: ``xyxy``, in pixels of the input, within it.
        offset: where a prior lies in its cell, in strides.

    >>> holds_prior(np.array([[1.0, 1.0, 8.0, 9.0], [1.0, 1.0, 8.5, 9.0]])).tolist()
    [False, True]
    """
    found = np.zeros(len(boxes), dtype=bool)
    for stride in STRIDES:
        # the first prior beyond the left and the upper edge
        first = (np.floor(boxes[:, :2] / stride - offset) + 1 + offset) * stride
        found |= (first < boxes[:, 2:]).all(1)
    return found


def advise_input_size(sides: Float[np.ndarray, " boxes"]) -> int:
    """The smallest input, a multiple of 32, at which nine of ten boxes have a comfortable side.

    Args:
        sides: of all boxes, at an input of one pixel.

    >>> advise_input_size(np.array([0.05] * 9 + [0.001]))
    320
    """
    smallest = float(np.quantile(sides, SMALLEST_SHARE, method="higher"))
    return math.ceil(COMFORTABLE / smallest / STRIDES[-1]) * STRIDES[-1]


# --------------------------------------------------------------------------------------------- copies


def find_copies(parts: Sequence[PartReport]) -> list[list[tuple[str, Path]]]:
    """Groups of images that show the same: equal files, or thumbnails that hardly differ.

    What is mirrored or cut out of another image is not found.
    """
    datasets = [(part.name, part.dataset) for part in parts if part.dataset is not None]
    places = [(name, dataset.entry(index)) for name, dataset in datasets for index in range(len(dataset))]
    thumbnails = read_thumbnails([(entry.path, entry.size) for _, entry in places])
    return [[(places[i][0], places[i][1].path) for i in group] for group in similar_groups(thumbnails)]


class Thumbnail(NamedTuple):
    """What is kept of an image to compare it.

    Attributes:
        grey: its thumbnail with mean 0 and length 1; zeros where it shows nothing.
        digest: of the file.
    """

    grey: Float32[np.ndarray, " pixels"]
    digest: bytes


def read_thumbnails(images: Sequence[tuple[Path, tuple[int, int]]]) -> list[Thumbnail]:
    """The thumbnails of files, of which each stands beside its (height, width)."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_thumbnail, images))


def _thumbnail(image: tuple[Path, tuple[int, int]]) -> Thumbnail:
    path, size = image
    content = path.read_bytes()
    # JPEG has a quarter of its size for a fraction of the time
    how = cv2.IMREAD_REDUCED_GRAYSCALE_4 if min(size) >= 8 * THUMBNAIL else cv2.IMREAD_GRAYSCALE
    # OpenCV has None for what it cannot decode, but stops at an empty file
    pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), how) if content else None
    grey = np.zeros((THUMBNAIL, THUMBNAIL), dtype=np.float32)
    if pixels is not None:
        small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
        if small.std() >= FLAT:
            grey = small - small.mean()
            grey /= np.linalg.norm(grey)
    return Thumbnail(grey.ravel(), hashlib.blake2b(content, digest_size=16).digest())


def similar_groups(thumbnails: Sequence[Thumbnail], block: int = 1024) -> list[list[int]]:
    """Places of thumbnails that are alike, in groups of two and more; a chain of likenesses is one group."""
    parent = list(range(len(thumbnails)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[bytes, int] = {}
    for i, thumbnail in enumerate(thumbnails):
        parent[root(i)] = root(seen.setdefault(thumbnail.digest, i))
    grey = np.stack([thumbnail.grey for thumbnail in thumbnails]) if thumbnails else np.zeros((0, 1), np.float32)
    for start in range(0, len(grey), block):
        alike = grey[start : start + block] @ grey[start:].T >= SIMILAR
        for i, j in np.argwhere(np.triu(alike, 1)).tolist():
            parent[root(start + j)] = root(start + i)
    groups = defaultdict(list)
    for i in range(len(parent)):
        groups[root(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


# ----------------------------------------------------------------------------------------------- parts


def _count(entries: Sequence[Entry], classes: Sequence[str], input_size: int) -> list[ClassReport]:
    """Each class's images, boxes and sizes."""
    boxes = [resize_boxes(entry.boxes, entry.size, fit(entry.size, input_size)) for entry in entries]
    flat = np.concatenate([*boxes, np.zeros((0, 4), np.float32)])
    labels = np.concatenate([*(entry.labels for entry in entries), np.zeros(0, np.int64)])
    ignore = np.concatenate([*(entry.ignore for entry in entries), np.zeros(0, bool)])
    images = np.repeat(np.arange(len(entries)), [len(entry.boxes) for entry in entries])
    sides = np.sqrt((flat[:, 2:] - flat[:, :2]).prod(1, dtype=np.float64))
    lost = ~holds_prior(flat)
    found = []
    for label, name in enumerate(classes):
        own = (labels == label) & ~ignore
        found.append(
            ClassReport(
                name=name,
                images=len(np.unique(images[own])),
                boxes=int(own.sum()),
                ignored=int(((labels == label) & ignore).sum()),
                sides=sides[own],
                without_prior=int((own & lost).sum()),
            )
        )
    return found


def _drawn_twice(entries: Iterable[Entry], classes: Sequence[str]) -> list[str]:
    """Labels that lie on one another: of one class, or of two."""
    same, other = [], []
    for entry in entries:
        boxes, labels = entry.boxes[~entry.ignore], entry.labels[~entry.ignore]
        ious = bbox_overlaps(torch.from_numpy(boxes), torch.from_numpy(boxes))
        for i, j in (ious >= SAME_BOX).triu(1).nonzero().tolist():
            if labels[i] == labels[j]:
                same.append(f"{classes[labels[i]]} in {entry.path.name}")
            else:
                other.append(f"{classes[labels[i]]} and {classes[labels[j]]} in {entry.path.name}")
    found = []
    if same:
        found.append(f"{counted(len(same), 'box is', 'boxes are')} drawn twice: {shorten(same, SHOWN)}")
    if other:
        found.append(f"{counted(len(other), 'box has', 'boxes have')} two classes: {shorten(other, SHOWN)}")
    return found


def _compare_classes(parts: Sequence[PartReport]) -> list[PartReport]:
    """The parts, with a line where classes are not those of the first part that can be used."""
    usable = [part for part in parts if part.dataset is not None]
    found = []
    for part in parts:
        problems = list(part.problems)
        if usable and part.dataset is not None and part is not usable[0]:
            assert usable[0].dataset is not None
            ours, theirs = set(part.dataset.classes), set(usable[0].dataset.classes)
            for names, words in ((ours - theirs, "not in"), (theirs - ours, "only in")):
                if names:
                    count = counted(len(names), "class", "classes")
                    problems.append(f"{count} {words} {usable[0].name}: {shorten(sorted(names), SHOWN)}")
        found.append(part._replace(problems=problems))
    return found


# ---------------------------------------------------------------------------------------------- words

COLUMNS = ("class", "images", "boxes", "ignored", "least", "median", "most", "no prior")
"""Of the table of a part; least, median and most are sides at the input, in pixels."""


def table_rows(part: PartReport) -> list[tuple[str, ...]]:
    """A row of :data:`COLUMNS` for each class."""
    rows = []
    for entry in part.classes:
        sides = [f"{side:.0f}" for side in np.quantile(entry.sides, [0, 0.5, 1])] if entry.boxes else ["-"] * 3
        counts = (entry.images, entry.boxes, entry.ignored)
        rows.append((entry.name, *map(str, counts), *sides, str(entry.without_prior)))
    return rows


def describe_part(part: PartReport) -> str:
    """What a part holds, in a sentence."""
    if part.dataset is None:
        return f"{part.name}: cannot be used"
    boxes = sum(entry.boxes for entry in part.classes)
    images = f"{counted(len(part.dataset), 'image')}, {part.empty} of them without a box"
    return f"{part.name}: {images}; {counted(boxes, 'box', 'boxes')} ({part.dataset.json_file})"


def describe_whole(report: SetReport) -> list[str]:
    """What the parts have in common, a line each."""
    words = []
    if report.copies:
        count = len(report.copies)
        across = f", {report.leaks} of them in several parts, where AP measures memory" if report.leaks else ""
        words.append(f"{counted(count, 'group')} of images that show the same{across}:")
        words += [f"  {shorten(group, SHOWN)}" for group in report.copies[:SHOWN]]
        words += [f"  and {count - SHOWN} more"] if count > SHOWN else []
    if report.advice is not None:
        words.append(
            f"at --data.input-size {report.advice} nine of ten boxes have a side of {COMFORTABLE:.0f} px and more"
        )
    return words


def describe_set(report: SetReport) -> str:
    """The report as text."""
    blocks = []
    for part in report.parts:
        lines = [describe_part(part)]
        if part.dataset is not None:
            lines.append(f"  sides are square roots of areas, in pixels of an input of {report.input_size} px")
            lines += [f"  {line}" for line in _aligned([COLUMNS, *table_rows(part)])]
        blocks.append("\n".join([*lines, *(f"  ! {problem}" for problem in part.problems)]))
    return "\n\n".join([*blocks, *filter(None, ["\n".join(describe_whole(report))])])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows of a table, its first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
