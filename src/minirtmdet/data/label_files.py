"""Readers of other label formats: from a folder or a file to the labels of each image, one clear line for each fault.

A box's numbers are taken apart by globox; what stands around them (which image is meant, how large it is, what the
numbers of classes mean) is settled here, where messages can name file and object.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from minirtmdet.data.coco_json import read_categories
from minirtmdet.data.image_folder import ImageFolder
from minirtmdet.messages import shorten

ROUNDING = 0.01
"""How far shares of an image may lie beyond 0 and 1: exporters round."""
FORMATS = "VOC, YOLO, CVAT, LabelMe, VIA, Open Images, COCO JSON"
"""What is read, for messages."""
NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", "_darknet.labels", "labels.txt")
"""Where YOLO sets keep the names of their classes, beside the labels or above them."""

Format = Literal["voc", "yolo", "cvat", "labelme", "via", "openimages"]


class LabelledBox(NamedTuple):
    """A box of a label file.

    Attributes:
        label: name or number of its class, as the file writes it.
        box: ``xyxy`` in pixels, or shares of the image where the format has these.
        where: what messages call it.
    """

    label: str
    box: tuple[float, float, float, float]
    where: str


class ImageLabels(NamedTuple):
    """The labels of one image.

    Attributes:
        image: its file name as the labels have it, which may lie elsewhere or end otherwise.
        source: what messages call the labels.
        size: (height, width) as the labels say; None where they do not, or say 0.
        boxes: of the image.
        relative: whether boxes are shares of the image.
        others: what else the labels hold and boxes cannot, counted.
    """

    image: str
    source: str
    size: tuple[int, int] | None
    boxes: list[LabelledBox]
    relative: bool = False
    others: Mapping[str, int] = MappingProxyType({})


def read_labels(
    labels: Path, format: Format, images: ImageFolder, class_names: Sequence[str] | None
) -> Iterator[ImageLabels]:
    """The labels of each image that a folder or a file has labels of.

    Args:
        labels: a folder of label files, with all that lies below it (VOC, YOLO, LabelMe), or one file.
        format: of the labels.
        images: that are labelled.
        class_names: what the class numbers of YOLO mean.

    Raises:
        FileNotFoundError: where there is no label file.
        ValueError: naming file and object that cannot be read.
        ModuleNotFoundError: where globox is not installed, saying how to install it.
    """
    readers: dict[Format, Callable[[Path, ImageFolder, Sequence[str]], Iterator[ImageLabels]]] = {
        "voc": _read_voc,
        "yolo": _read_yolo,
        "cvat": _read_cvat,
        "labelme": _read_labelme,
        "via": _read_via,
        "openimages": _read_openimages,
    }
    yield from readers[format](labels, images, class_names or ())


def guess_format(labels: Path) -> Format | Literal["coco"] | None:
    """The format of a folder or a file of labels, by the first file that looks like one."""
    paths = sorted(labels.rglob("*")) if labels.is_dir() else [labels]
    for path in paths:
        if not path.is_file():
            continue
        with path.open("rb") as file:
            start = file.read(4000)
        match path.suffix.lower():
            case ".xml" if b"<annotations" in start:
                return "cvat"
            case ".xml" if b"<annotation" in start:
                return "voc"
            case ".txt" if re.match(rb"\s*\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*$", start.split(b"\n")[0]):
                return "yolo"
            case ".csv" if b"ImageID" in start:
                return "openimages"
            case ".json":
                if (found := _guess_json(path)) is not None:
                    return found
    return None


def _guess_json(path: Path) -> Format | Literal["coco"] | None:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    if {"images", "annotations"} <= content.keys():
        return "coco"
    if {"shapes", "imagePath"} <= content.keys():
        return "labelme"
    entries = content.get("_via_img_metadata", content)
    first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
    return "via" if isinstance(first, dict) and {"filename", "regions"} <= first.keys() else None


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes in the order of their numbers: a line each, ``names`` of a YAML, or categories of a COCO JSON.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that cannot be read or has no names, or numbers that are not 0, 1, 2, ...
        ModuleNotFoundError: where PyYAML is needed and not installed, saying how to install it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of class names")
    names: Any
    if path.suffix.lower() == ".json":
        entries = _json(path).get("categories", [])
        names = [category.name for category in read_categories({"categories": entries}, str(path))]
    elif path.suffix.lower() in (".yaml", ".yml"):
        content = _yaml(path)
        names = content.get("names") if isinstance(content, dict) else None
    else:
        names = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"{path}: 'names' has the numbers {sorted(names)}: expected 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} names no classes: expected a name a line, 'names' of a YAML, or COCO's categories")
    return tuple(map(str, names))


def find_class_names(labels: Path) -> Path | None:
    """The file of class names of a YOLO set: among its labels, or in one of the three folders above them."""
    for folder in (labels, *labels.absolute().parents[:3]):
        for name in NAME_FILES:
            if (folder / name).is_file():
                return folder / name
    return None


# -------------------------------------------------------------------------------------------- formats


def _read_voc(labels: Path, images: ImageFolder, _: Sequence[str]) -> Iterator[ImageLabels]:
    BoundingBox = _bounding_box()
    for path in _files(labels, ".xml"):
        root = _xml(path)
        size = root.find("size")
        boxes = []
        for number, node in enumerate(root.iter("object"), 1):
            where = f"{path}, object {number} ({node.findtext('name')})"
            boxes.append(_taken(lambda node=node: BoundingBox.from_xml(node), where))  # type: ignore[misc]
        # by the name of the label file first: many say the name that their image had before
        own = path.with_suffix("").relative_to(labels if labels.is_dir() else path.parent).as_posix()
        image = own if own in images else root.findtext("filename") or own
        height, width = (None, None) if size is None else (size.findtext("height"), size.findtext("width"))
        yield ImageLabels(image, str(path), _size(height, width), boxes)


def _read_yolo(labels: Path, images: ImageFolder, class_names: Sequence[str]) -> Iterator[ImageLabels]:
    BoundingBox = _bounding_box()
    problems: dict[str, str] = {}
    for path in _files(labels, ".txt"):
        # lists of images, and the two README files of a Roboflow export, are no labels
        if path.name in (*NAME_FILES, "train.txt", "val.txt", "test.txt") or path.name.startswith("README."):
            continue
        boxes = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                label, polygon = _check_yolo(line.split(), where, class_names)
            except ValueError as error:
                problems[where] = str(error)
                continue
            read = BoundingBox.from_yolo_seg if polygon else BoundingBox.from_yolo_v5
            # in shares of an image of one pixel, which is what the size of the real one is multiplied with later
            box = _taken(lambda line=line, read=read: read(line, image_size=(1, 1)), where)  # type: ignore[misc]
            boxes.append(box._replace(label=label))
        own = path.with_suffix("").relative_to(labels).as_posix() if labels.is_dir() else path.stem
        yield ImageLabels(own, str(path), None, boxes, relative=True)
    if problems:
        # all of them at once: whoever mends labels by hand would otherwise start again after each line
        first, *_ = problems.values()
        # without the advice that follows a colon; the path before it may have colons too
        _, *others = [where + said[len(where) :].split(": ")[0] for where, said in problems.items()]
        raise ValueError(first + (f".  {len(others)} more: {shorten(others)}" if others else ""))


def _check_yolo(words: Sequence[str], where: str, class_names: Sequence[str]) -> tuple[str, bool]:
    """The class's name, and whether the line is a polygon."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{where}: {' '.join(words)[:40]!r} is not all numbers: is it a YOLO label?") from None
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if not polygon and len(values) not in (5, 6):
        raise ValueError(f"{where} has {len(values)} numbers: expected class, centre and size, or class and a polygon")
    if not values[0].is_integer() or not 0 <= values[0] < len(class_names):
        raise ValueError(
            f"{where} has class {words[0]}, but there are {len(class_names)} class names: numbers go from 0 to "
            f"{len(class_names) - 1}; the names are {', '.join(class_names)}"
        )
    shares = values[1:5] if not polygon else values[1:]
    for value in shares:
        if not (math.isfinite(value) and -ROUNDING <= value <= 1 + ROUNDING):
            raise ValueError(
                f"{where} has {value:g}, which is no share of the image (0 to 1): YOLO's boxes are centre and size "
                "divided by the size of the image; are these pixels?  A single slip: correct or delete the line"
            )
    return class_names[int(values[0])], polygon


def _read_cvat(labels: Path, _: ImageFolder, __: Sequence[str]) -> Iterator[ImageLabels]:
    BoundingBox = _bounding_box()
    for path in _files(labels, ".xml"):
        root = _xml(path)
        if root.find("track") is not None:
            raise ValueError(f"{path} is CVAT for video (it has tracks): export it as 'CVAT for images'")
        for image in root.iter("image"):
            name = image.get("name") or ""
            boxes = []
            for number, node in enumerate(image.iter("box"), 1):
                where = f"{path}, {name}, box {number} ({node.get('label')})"
                boxes.append(_taken(lambda node=node: BoundingBox.from_cvat(node), where))  # type: ignore[misc]
            others = Counter(node.tag for node in image if node.tag not in ("box", "tag"))
            yield ImageLabels(
                name, f"{path}, {name}", _size(image.get("height"), image.get("width")), boxes, False, others
            )


def _read_labelme(labels: Path, _: ImageFolder, __: Sequence[str]) -> Iterator[ImageLabels]:
    BoundingBox = _bounding_box()
    for path in _files(labels, ".json"):
        content = _json(path)
        if "shapes" not in content:
            raise ValueError(f"{path} has no key 'shapes', which LabelMe needs")
        boxes, others = [], Counter[str]()
        for number, shape in enumerate(content["shapes"], 1):
            kind = shape.get("shape_type", "polygon")
            where = f"{path}, shape {number} ({shape.get('label')})"
            if kind in ("rectangle", "polygon"):
                boxes.append(_taken(lambda shape=shape: BoundingBox.from_labelme(shape), where))  # type: ignore[misc]
            else:
                others[kind] += 1
        image = content.get("imagePath") or path.stem
        size = _size(content.get("imageHeight"), content.get("imageWidth"))
        yield ImageLabels(str(image), str(path), size, boxes, False, others)


def _read_via(labels: Path, _: ImageFolder, __: Sequence[str]) -> Iterator[ImageLabels]:
    BoundingBox = _bounding_box()
    for path in _files(labels, ".json"):
        content = _json(path)
        for entry in content.get("_via_img_metadata", content).values():
            boxes, others = [], Counter[str]()
            regions = entry["regions"]
            for number, region in enumerate(regions.values() if isinstance(regions, dict) else regions, 1):
                where = f"{path}, {entry['filename']}, region {number}"
                if (kind := region["shape_attributes"]["name"]) != "rect":
                    others[kind] += 1
                    continue
                attributes = region["region_attributes"]
                if len(attributes) != 1:
                    raise ValueError(f"{where} has the attributes {sorted(attributes)}: expected one, its class")
                key = next(iter(attributes))
                read = lambda region=region, key=key: BoundingBox.from_via_json(region, label_key=key)  # noqa: E731
                boxes.append(_taken(read, where))
            yield ImageLabels(entry["filename"], f"{path}, {entry['filename']}", None, boxes, False, others)


def _read_openimages(labels: Path, _: ImageFolder, __: Sequence[str]) -> Iterator[ImageLabels]:
    found: dict[str, list[LabelledBox]] = {}
    for path in _files(labels, ".csv"):
        for number, row in enumerate(csv.DictReader(io.StringIO(_text(path), newline="")), 2):
            where = f"{path}, line {number}"
            try:
                x1, y1, x2, y2 = (float(row[key]) for key in ("XMin", "YMin", "XMax", "YMax"))
                image, label = row["ImageID"], row["LabelName"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{where} cannot be read: {error!r}") from None
            found.setdefault(image, []).append(LabelledBox(label, (x1, y1, x2, y2), where))
    for image, boxes in found.items():
        yield ImageLabels(image, f"{labels}, {image}", None, boxes, relative=True)


def _bounding_box() -> Any:
    try:
        from globox import BoundingBox
    except ModuleNotFoundError:
        raise ModuleNotFoundError("other label formats are read by globox: pip install 'minirtmdet[convert]'") from None
    return BoundingBox


def _taken(read: Callable[[], Any], where: str) -> LabelledBox:
    """The box that globox reads, whose errors name no file."""
    try:
        box = read()
    except Exception as error:  # assertions, parsing errors, whatever odd values raise
        reason = str(error).replace("`", "").rstrip(".") or type(error).__name__
        raise ValueError(f"{where} cannot be read: {reason}") from None
    return LabelledBox(str(box.label), (box.xmin, box.ymin, box.xmax, box.ymax), where)


def _files(labels: Path, ending: str) -> list[Path]:
    if labels.is_file():
        return [labels]
    found = sorted(path for path in labels.rglob(f"*{ending}") if path.is_file() and not path.name.startswith("."))
    if not found:
        other = guess_format(labels)
        advice = f"--format {other} reads what is there" if other else f"give the folder of the labels ({FORMATS})"
        raise FileNotFoundError(f"{labels} holds no {ending} file: {advice}")
    return found


def _text(path: Path) -> str:
    """A text file in UTF-8, with or without the mark that Windows puts before it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8: save it in that encoding") from None


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ModuleNotFoundError("YAML needs PyYAML: pip install 'minirtmdet[convert]', or give --classes") from None
    try:
        return yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not XML: {error}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is a {type(content).__name__}: expected an object")
    return content


def _size(height: object, width: object) -> tuple[int, int] | None:
    """What a label file says of an image's size; None where that is nothing, or 0."""
    try:
        found = int(float(str(height))), int(float(str(width)))
    except (ValueError, OverflowError):
        return None
    return found if min(found) > 0 else None
