"""Labels of other formats as COCO JSON, with sizes read from the images, and COCO JSON that other programs spoiled."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from minirtmdet.data.coco_json import whole_number
from minirtmdet.data.image_checks import note_bad_images, note_missing_images
from minirtmdet.data.image_folder import ImageFolder
from minirtmdet.data.label_files import (
    Format,
    ImageLabels,
    LabelledBox,
    find_class_names,
    read_class_names,
    read_labels,
)
from minirtmdet.files import check_not_read, check_writable
from minirtmdet.messages import counted, shorten


class Conversion(NamedTuple):
    """What :func:`convert_labels` made.

    Attributes:
        content: COCO JSON.
        notes: what was found out on the way, a line each.
    """

    content: dict[str, Any]
    notes: list[str]


def check_output(out: Path, inputs: Iterable[Path], *, overwrite: bool = False) -> None:
    """Make sure that annotations can be written, and not over what is read or, without ``overwrite``, over a file.

    Raises:
        FileExistsError: for a file that is there already, without ``overwrite``.
        IsADirectoryError: for a folder.
        ValueError, OSError: for an output that is an input, or a folder that cannot be written into.
    """
    check_writable(out.parent)
    check_not_read([out], inputs)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: name the file to write, such as {out / 'all.json'}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already; choose another --out, or --overwrite")


def convert_labels(
    labels: Path,
    images: Path,
    format: Format,
    *,
    classes: Sequence[str] | None = None,
    names: Path | None = None,
    one_based: Literal["auto", "yes", "no"] = "auto",
    unlabelled: Literal["auto", "keep", "drop"] = "auto",
    bad_images: Literal["raise", "skip"] = "raise",
) -> Conversion:
    """Labels as COCO JSON.

    Images are numbered in the order of their names, classes as ``classes`` or ``names`` have them, else by the
    alphabet: for several parts of one set give them, or a class that one part lacks shifts the numbers of the others.

    Args:
        labels: a folder of label files, or one file.
        images: the folder of the images.
        format: of the labels.
        classes: their names in order; boxes of others are an error.
        names: a file that has them; looked for where YOLO needs it.
        one_based: whether the pixels of VOC count from 1: ``auto`` decides by the smallest and the largest number.
        unlabelled: images that have no label file: they stay as background, as YOLO has it, or are left out; ``auto``
            keeps those of YOLO alone.
        bad_images: what to do with labels of images that are missing, broken, or of another size than the labels say:
            ``raise``, or ``skip`` them with a note that counts them.

    Raises:
        FileNotFoundError: for images or names that are missing, naming the label file.
        ValueError: naming file and object.
    """
    folder = ImageFolder(images)
    notes: list[str] = []
    if classes is None and (names is not None or format == "yolo"):
        names = names or find_class_names(labels)
        if names is None:
            raise FileNotFoundError(
                f"{labels}: YOLO's labels are numbers, and no file with the names of classes is beside them or above "
                "(data.yaml, classes.txt, obj.names): give it with --names, or them with --classes"
            )
        classes = read_class_names(names)
        notes.append(f"class names of {names}: {', '.join(classes)}")
    found = _find_images(list(read_labels(labels, format, folder, classes)), folder, labels, bad_images, notes)
    rest = [name for name in folder.names if name not in found]
    if rest:
        keep = unlabelled == "keep" or (unlabelled == "auto" and format == "yolo")
        what = "kept as background (--unlabelled drop)" if keep else "left out (--unlabelled keep)"
        notes.append(f"{counted(len(rest), 'image')} without labels {what}: {shorten(rest)}")
        found |= {name: [] for name in rest} if keep else {}
    sizes = _read_sizes(found, folder, bad_images, notes)
    boxes = {name: _in_pixels(found[name], sizes[name]) for name in sizes}
    if format == "voc":
        boxes = _from_zero(boxes, sizes, one_based, notes)
    others = sum((Counter(labels.others) for name in sizes for labels in found[name]), Counter[str]())
    if others:
        notes.append(f"left out, since they are no boxes: {', '.join(f'{n} {kind}' for kind, n in others.items())}")
    return Conversion(_as_coco(boxes, sizes, classes), notes)


def _find_images(
    labels: Sequence[ImageLabels], folder: ImageFolder, source: Path, bad_images: str, notes: list[str]
) -> dict[str, list[ImageLabels]]:
    """The labels by the image that they belong to."""
    found: dict[str, list[ImageLabels]] = {}
    lost = []
    for entry in labels:
        try:
            name = folder.find(entry.image)
        except ValueError as error:
            raise ValueError(f"{entry.source}: {error}") from None
        if name is None:
            lost.append(f"{entry.image} of {entry.source}")
        else:
            found.setdefault(name, []).append(entry)
    notes += note_missing_images(lost, len(labels), folder.folder, source, bad_images)
    return found


def _read_sizes(
    found: dict[str, list[ImageLabels]], folder: ImageFolder, bad_images: str, notes: list[str]
) -> dict[str, tuple[int, int]]:
    """(height, width) of each image that can be used, in the order of their names."""
    sizes, problems = {}, []
    for name in sorted(found):
        try:
            sizes[name] = folder.size(name)
            for labels in found[name]:
                _check_size(labels, sizes[name], folder.folder / name)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            sizes.pop(name, None)
    notes += note_bad_images(problems, len(found), folder.folder, bad_images)
    unsaid = sum(labels.size is None and not labels.relative for name in sizes for labels in found[name])
    if unsaid:
        notes.append(f"{unsaid} label files say no size, or 0 x 0: sizes are those of the images")
    return sizes


def _check_size(labels: ImageLabels, size: tuple[int, int], image: Path) -> None:
    """Labels that say another size than their image has lie elsewhere in it."""
    height, width = size
    if labels.size is not None and labels.size != size:
        turned = " (the photo lies on its side: EXIF)" if labels.size == (width, height) else ""
        raise ValueError(
            f"{labels.source} was drawn on {labels.size[1]} x {labels.size[0]} pixels, but {image} has "
            f"{width} x {height}{turned}: its boxes would lie elsewhere"
        )


def _in_pixels(several: Sequence[ImageLabels], size: tuple[int, int]) -> list[LabelledBox]:
    height, width = size
    boxes = []
    for labels in several:
        x, y = (width, height) if labels.relative else (1, 1)
        for box in labels.boxes:
            x1, y1, x2, y2 = box.box
            boxes.append(box._replace(box=(x1 * x, y1 * y, x2 * x, y2 * y)))
    return boxes


def _from_zero(
    boxes: dict[str, list[LabelledBox]], sizes: dict[str, tuple[int, int]], one_based: str, notes: list[str]
) -> dict[str, list[LabelledBox]]:
    """VOC's first and last pixel, counted from 1, as edges: left and upper one less."""
    if one_based == "auto":
        everything = [(box.box, sizes[name]) for name, several in boxes.items() for box in several]
        least = min((min(box[:2]) for box, _ in everything), default=0)
        touches = any(box[2] == width or box[3] == height for box, (height, width) in everything)
        counts = least >= 1 and touches
        how = "yes" if counts else "no"
        reason = f"the least corner is {least:g}, and {'some' if touches else 'none'} ends with its image"
        notes.append(f"pixels count from {int(counts)}: {reason} (--one-based yes or no decides otherwise)")
        one_based = how
    if one_based == "no":
        return boxes

    def moved(entry: LabelledBox) -> LabelledBox:
        x1, y1, x2, y2 = entry.box
        return entry._replace(box=(x1 - 1, y1 - 1, x2, y2))

    return {name: [moved(entry) for entry in several] for name, several in boxes.items()}


def _as_coco(
    boxes: dict[str, list[LabelledBox]], sizes: dict[str, tuple[int, int]], classes: Sequence[str] | None
) -> dict[str, Any]:
    used = {box.label for several in boxes.values() for box in several}
    names = list(classes) if classes is not None else sorted(used)
    numbers = {name: i for i, name in enumerate(names, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, several) in enumerate(boxes.items(), 1):
        height, width = sizes[name]
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for entry in several:
            if entry.label not in numbers:
                raise ValueError(f"{entry.where} has class {entry.label!r}, which is none of {', '.join(names)}")
            x1, y1, x2, y2 = (round(value, 4) for value in entry.box)
            bbox = [x1, y1, round(x2 - x1, 4), round(y2 - y1, 4)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[entry.label],
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in numbers.items()],
    }


def repair_coco(
    content: dict[str, Any], images: Path, source: str, *, bad_images: Literal["raise", "skip"] = "raise"
) -> Conversion:
    """COCO JSON as it should be: ids that are integers, file names that are there, sizes of the images, boxes of masks.

    Every other key stays.

    Args:
        content: of the file.
        images: the folder of the images.
        source: what messages call the file.
        bad_images: as in :func:`convert_labels`.

    Raises:
        FileNotFoundError, ValueError: for what cannot be repaired, named.
    """
    folder = ImageFolder(images)
    notes: list[str] = []
    image_ids = _renumbered(content["images"], f"{source}: image", notes)
    category_ids = _renumbered(content["categories"], f"{source}: category", notes)
    names = [folder.find(str(entry["file_name"])) for entry in content["images"]]
    lost = [str(entry["file_name"]) for entry, name in zip(content["images"], names, strict=True) if name is None]
    notes += note_missing_images(lost, len(names), images, source, bad_images)
    new_images, renamed, resized, problems = [], [], [], []
    for entry, image_id, name in zip(content["images"], image_ids.values(), names, strict=True):
        if name is None:
            continue
        try:
            (height, width), said = folder.size(name), _said_size(entry)
            if said is not None and said != (height, width):
                raise ValueError(
                    f"{name} is said to have {said[1]} x {said[0]} pixels, and has {width} x {height}: "
                    "its boxes would lie elsewhere"
                )
        except (OSError, ValueError) as error:
            problems.append(str(error))
            continue
        renamed += [name] if name != entry["file_name"] else []
        resized += [name] if said is None else []
        new_images.append({**entry, "id": image_id, "file_name": name, "width": width, "height": height})
    notes += note_bad_images(problems, len(names), source, bad_images)
    kept = {entry["id"] for entry in new_images}
    new_annotations: list[dict[str, Any]] = []
    boxed = 0
    for number, entry in enumerate(content["annotations"], 1):
        where = f"{source}: annotation {entry.get('id', f'no. {number}')}"
        for key, ids in (("image_id", image_ids), ("category_id", category_ids)):
            if str(entry.get(key)) not in ids:
                raise ValueError(f"{where} has {key!r}: {entry.get(key)!r}, which the file does not have")
        if image_ids[str(entry["image_id"])] not in kept:
            continue
        box = entry.get("bbox")
        if not box and (points := _points(entry.get("segmentation"))):
            xs, ys = points[0::2], points[1::2]
            box, boxed = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], boxed + 1
        ids_of = {"image_id": image_ids[str(entry["image_id"])], "category_id": category_ids[str(entry["category_id"])]}
        fixed = {"id": len(new_annotations) + 1, **ids_of, "bbox": box, "iscrowd": entry.get("iscrowd") or 0}
        new_annotations.append({**entry, **fixed})
    for count, words in (
        (len(renamed), "file names replaced with those of the folder"),
        (len(resized), "sizes that were missing or 0 x 0 taken from the images"),
        (boxed, "boxes that were missing taken from their polygons"),
    ):
        notes += [f"{words}: {count}"] if count else []
    categories = [
        {**entry, "id": number} for entry, number in zip(content["categories"], category_ids.values(), strict=True)
    ]
    return Conversion(
        {**content, "images": new_images, "annotations": new_annotations, "categories": categories}, notes
    )


def _said_size(entry: dict[str, Any]) -> tuple[int | None, int | None] | None:
    """(height, width) as an entry says; None where it says nothing, or 0 x 0."""
    said = whole_number(entry.get("height")), whole_number(entry.get("width"))
    return None if said in ((None, None), (0, 0)) else said


def _renumbered(entries: Sequence[dict[str, Any]], what: str, notes: list[str]) -> dict[str, int]:
    """An integer for each id, by its text: its own where all are integers."""
    texts = [str(entry.get("id")) for entry in entries]
    if repeated := next((text for text, count in Counter(texts).items() if count > 1), None):
        raise ValueError(f"{what} id {repeated} is given twice, or to none")
    own = [whole_number(entry.get("id")) for entry in entries]
    if all(number is not None for number in own):
        return {text: number for text, number in zip(texts, own, strict=True) if number is not None}
    notes.append(f"{len(texts)} {what.split(': ')[-1]} ids are text: numbered 1, 2, 3, ...")
    return {text: number for number, text in enumerate(texts, 1)}


def _points(segmentation: Any) -> list[float]:
    """The corners of polygons, one after the other; none for masks."""
    if not isinstance(segmentation, list):
        return []
    return [float(value) for polygon in segmentation if isinstance(polygon, list) for value in polygon]
