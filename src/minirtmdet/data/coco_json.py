"""The door for COCO JSON: what stands in a file, or in a dict of the same shape, becomes checked records.

Data sets, evaluation and matching all read annotations through this module, so that a value means one thing
everywhere.  What is odd but clear is taken for what it says: ``480.0`` and ``"480"`` are 480, ``null`` is no crowd.
What is not clear is refused, with a message that names file, entry and key.  A box that cannot be used is no error
here: its record says what is wrong with it.
"""

import json
import math
import re
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

PARTS = ("images", "annotations", "categories")
"""The lists of a COCO JSON that are read."""
FLAGS = {"0": False, "false": False, "1": True, "true": True}
"""What a flag says that is written as text."""

Box = tuple[float, float, float, float]


class Category(NamedTuple):
    """A category of the file."""

    id: int
    name: str


class Image(NamedTuple):
    """An image of the file.

    Attributes:
        id: its id.
        file_name: as the file writes it.
        size: (height, width) in pixels, as the file says.
    """

    id: int
    file_name: str
    size: tuple[int, int]


class Annotation(NamedTuple):
    """An annotation of the file.

    Attributes:
        name: what messages call it.
        image_id: the image it belongs to, which the file may not have.
        category_id: its category, which the file may not have.
        box: (x, y, width, height) in pixels: four finite numbers, or None.
        problem: why there is no box; empty where there is one.
        given: the box as the file writes it.
        area: in square pixels; that of the box where the file gives none.
        ignore: whether it is a region to be left alone, neither background nor to be found: ``iscrowd`` or ``ignore``.
        segmentation: its mask as the file writes it; :mod:`~minirtmdet.data.segmentations` says what it may be.
    """

    name: str
    image_id: int
    category_id: int
    box: Box | None
    problem: str
    given: Any
    area: float
    ignore: bool
    segmentation: Any


def read_json(json_file: Path) -> dict[str, Any]:
    """The content of a COCO JSON, whose three lists are there.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: naming the file that is no JSON, or the list that is missing.
    """
    if not json_file.is_file():
        raise FileNotFoundError(f"{json_file}: there is no such file")
    try:
        content = json.loads(json_file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file} is not JSON: {error}") from error
    for key in PARTS:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"{json_file} has no key {key!r}, which COCO JSON needs")
        if not isinstance(content[key], list):
            raise ValueError(f"{json_file}: {key!r} is a {type(content[key]).__name__}, expected a list")
    return content


def read_categories(content: dict[str, Any], source: str) -> list[Category]:
    """The categories by their ids, as COCO numbers labels.

    Args:
        content: of the file.
        source: what messages call it.

    Raises:
        ValueError: naming entry and key for a value that is missing or means nothing, and for ids given twice.
    """
    found = []
    for i, entry in enumerate(content["categories"]):
        where = f"{source}: category {i}"
        found.append(Category(_id(entry, "id", where), _text(entry, "name", where)))
    _raise_for_repeats([category.id for category in found], f"{source}: category id")
    return sorted(found)


def read_images(content: dict[str, Any], source: str) -> list[Image]:
    """The images in the order of the file; arguments and errors as for :func:`read_categories`."""
    ids = read_image_ids(content, source)
    found = []
    for image_id, entry in zip(ids, content["images"], strict=True):
        where = f"{source}: image {image_id}"
        size = _whole(entry, "height", where), _whole(entry, "width", where)
        found.append(Image(image_id, _text(entry, "file_name", where), size))
    return found


def read_image_ids(content: dict[str, Any], source: str) -> list[int]:
    """The ids of the images alone; arguments and errors as for :func:`read_categories`."""
    ids = [_id(entry, "id", f"{source}: image {i}") for i, entry in enumerate(content["images"])]
    _raise_for_repeats(ids, f"{source}: image id")
    return ids


def read_annotations(content: dict[str, Any], source: str) -> Iterator[Annotation]:
    """The annotations in the order of the file, one by one; arguments and errors as for :func:`read_categories`."""
    for i, entry in enumerate(content["annotations"]):
        name = f"annotation {entry['id']}" if isinstance(entry, dict) and "id" in entry else f"annotation no. {i}"
        where = f"{source}: {name}"
        image_id, category_id = _id(entry, "image_id", where), _id(entry, "category_id", where)
        ignore = _flag(entry, "iscrowd", where) | _flag(entry, "ignore", where)
        given = entry.get("bbox")
        box, problem = _box(given)
        area = _area(entry.get("area"), box)
        yield Annotation(name, image_id, category_id, box, problem, given, area, ignore, entry.get("segmentation"))


def whole_number(value: object) -> int | None:
    """The integer that a value says without loss, or None.

    >>> [whole_number(value) for value in (7, 7.0, "7", 2**60, -1)]
    [7, 7, 7, 1152921504606846976, -1]
    >>> [whole_number(value) for value in (7.5, "07", "7.0", True, None, 1e300, float("nan"))]
    [None, None, None, None, None, None, None]
    """
    if type(value) is int:  # millions of values are: the general question takes ten times as long
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    # above 2^53 a float has lost its last digits
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,38}", value):
        return int(value)
    return None


def parse_flag(value: object) -> bool | None:
    """What a crowd flag says, or None where it says neither yes nor no.

    >>> [parse_flag(value) for value in (None, 0, 0.0, False, "0", "False")]
    [False, False, False, False, False, False]
    >>> [parse_flag(value) for value in (1, 1.0, True, "1", "true")]
    [True, True, True, True, True]
    >>> [parse_flag(value) for value in (2, -1, 0.5, "", "no", [])]
    [None, None, None, None, None, None]
    """
    if value is None or value is False:
        return False
    if isinstance(value, str):
        return FLAGS.get(value.lower())
    if isinstance(value, Real) and value in (0, 1):
        return bool(value)
    return None


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return type(value) in (int, float) or (isinstance(value, Real) and not isinstance(value, bool))


def _value(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise ValueError(f"{where} has no key {key!r}, which COCO JSON needs")
    return entry[key]


def _whole(entry: Any, key: str, where: str, advice: str = "") -> int:
    value = _value(entry, key, where)
    number = whole_number(value)
    if number is None:
        raise ValueError(f"{where} has {key!r}: {value!r}, expected a whole number{advice}")
    return number


def _id(entry: Any, key: str, where: str) -> int:
    return _whole(entry, key, where, "; ids in COCO JSON are integers: number the entries 1, 2, 3, ...")


def _text(entry: Any, key: str, where: str) -> str:
    value = _value(entry, key, where)
    if not isinstance(value, str) or "\0" in value or _has_surrogates(value):
        raise ValueError(f"{where} has {key!r}: {value!r}, expected text")
    return value


def _has_surrogates(text: str) -> bool:
    """Whether half of a character stands alone, which can be neither printed nor the name of a file."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _flag(entry: dict[str, Any], key: str, where: str) -> bool:
    value = entry.get(key)
    flag = parse_flag(value)
    if flag is None:
        raise ValueError(f"{where} has {key!r}: {value!r}, expected 0 or 1")
    return flag


def _box(value: Any) -> tuple[Box | None, str]:
    """The box, or what is wrong with it."""
    if value is None:
        return None, "has no box"
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(is_number, value)):
        return None, "is not four numbers"
    try:
        x, y, width, height = map(float, value)
    except OverflowError:  # JSON writes integers of any length
        return None, "is not finite"
    if not math.isfinite(x + y + width + height):
        return None, "is not finite"
    return (x, y, width, height), ""


def _area(value: Any, box: Box | None) -> float:
    """What the file says where that is an area (of a mask, say, less than the box's), else the box's own."""
    if is_number(value) and 0 <= value < math.inf:
        return float(value)
    return box[2] * box[3] if box else 0.0


def _raise_for_repeats(ids: list[int], what: str) -> None:
    seen: set[int] = set()
    for value in ids:
        if value in seen:
            raise ValueError(f"{what} {value} is given twice")
        seen.add(value)
