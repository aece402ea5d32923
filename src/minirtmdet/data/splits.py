"""Where a data set lies: from the settings to the annotations and the folder of images of each part."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from minirtmdet.configs import DataConfig
from minirtmdet.data.coco_json import read_json
from minirtmdet.data.file_names import local_name, similar_file

LOOKED_THROUGH = 10_000
"""Files of a folder that are looked through to tell what it is."""


class Split(NamedTuple):
    """Where one part of a data set lies.

    Attributes:
        json_file: its annotations.
        images: the folder that the JSON's file names start from.
    """

    json_file: Path
    images: Path


def resolve_splits(config: DataConfig) -> tuple[Split, Split]:
    """Where to train and where to evaluate: files named in the settings first, then what ``root`` holds.

    Annotations are looked for as ``train.json``, ``annotations/train.json``,
    ``annotations/instances_train*.json`` and ``train/_annotations.coco.json``; for evaluation with ``val``, then
    ``valid``, then ``test`` in place of ``train``.  The folder of the images is the first of ``train``,
    ``images/train``, ``train/images``, ``images``, the root and the JSON's own folder that holds an image of the
    JSON; the name of the JSON itself comes before ``train``: ``train2017`` for ``instances_train2017.json``.  For
    ``val`` the folders of ``valid`` are looked through too.  Without any root or file the embedded scenes are used,
    and made if need be.

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
    """Where to evaluate; as :func:`resolve_splits`, for data that may have nothing to train on."""
    if config.root is None and config.val_json is None:
        return resolve_splits(config)[1]
    return _resolve(config.root, ("val", "valid", "test"), config.val_json, config.val_images, "val")


def find_parts(root: Path) -> dict[str, Split]:
    """Every part that a folder holds: ``train``, ``val``, ``valid`` and ``test``, as :func:`resolve_splits` finds them.

    Raises:
        FileNotFoundError: where the folder or images are missing, or there is no part, saying what was looked for.
        ValueError: where several files could be meant.
    """
    parts, missing = {}, None
    for name in ("train", "val", "valid", "test"):
        try:
            json_file, _ = _find_json(root, (name,), "name the COCO JSON in place of the folder")
        except FileNotFoundError as error:
            missing = missing or error
            continue
        parts[name] = Split(json_file, _find_images(root, json_file, (name,), f"name {json_file} itself, and --images"))
    if not parts and missing is not None:
        raise missing
    return parts


def find_images(json_file: Path) -> Path:
    """The folder of the images of a COCO JSON, as :func:`resolve_splits` finds it.

    Raises:
        FileNotFoundError: where there is no such file, or saying where images were looked for.
        ValueError: for a JSON that names no image.
    """
    if not json_file.is_file():
        raise FileNotFoundError(f"{json_file}: {_no_file(json_file)}")
    return _find_images(None, json_file, (), "give the folder with --images")


def _resolve(root: Path | None, names: tuple[str, ...], json_file: Path | None, images: Path | None, key: str) -> Split:
    if root is not None and not root.is_dir():
        is_file = f"it is a file, and a folder is needed{_to_divide(root)}"
        raise FileNotFoundError(f"data.root {root}: {is_file if root.is_file() else 'there is no such folder'}")
    if json_file is not None and not json_file.is_file():
        raise FileNotFoundError(f"data.{key}_json {json_file}: {_no_file(json_file)}")
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"data.{key}_images {images}: there is no such folder")
    if json_file is None:
        assert root is not None
        json_file, name = _find_json(root, names, f"give data.{key}_json")
        names = (name,)
    return Split(json_file, images or _find_images(root, json_file, names, f"give data.{key}_images"))


def _find_json(root: Path, names: tuple[str, ...], remedy: str) -> tuple[Path, str]:
    """The annotations of the first split that has any, and the split's name; ``remedy`` is what a message advises."""
    patterns = ("{}.json", "annotations/{}.json", "annotations/instances_{}*.json", "{}/_annotations.coco.json")
    for name in names:
        for pattern in patterns:
            found = sorted(root.glob(pattern.format(name)))
            if len(found) > 1:
                several = ", ".join(str(path.relative_to(root)) for path in found)
                raise ValueError(f"{root} has {several}, and one of them is meant: {remedy}")
            if found:
                return found[0], name
    tried = ", ".join(pattern.format(name) for name in names for pattern in patterns)
    purpose = "train" if names[0] == "train" else "evaluate"
    hint = _not_divided(root) or _other_format(root)
    raise FileNotFoundError(f"{root} has no annotations to {purpose} on (looked for {tried}): {remedy}{hint}")


def _no_file(path: Path) -> str:
    """Why what should be a COCO JSON is none."""
    is_folder = f"it is a folder, and one COCO JSON is needed{_not_divided(path) or _other_format(path)}"
    return is_folder if path.is_dir() else "there is no such file"


def _not_divided(root: Path) -> str:
    """A hint for messages: a COCO JSON of a folder that lacks a part; else empty."""
    for path in sorted(root.glob("*.json")):
        if re.search(rb'"(images|annotations|categories)"', _first_bytes(path)):
            return _to_divide(path)
    return ""


def _to_divide(path: Path) -> str:
    """How a COCO JSON becomes parts."""
    return f".  To divide one: python -m minirtmdet data split {path} --out {path.parent / 'parts'}"


def _find_images(root: Path | None, json_file: Path, names: tuple[str, ...], remedy: str) -> Path:
    """The first likely folder that holds one of the JSON's first images; ``remedy`` is what a message advises."""
    base = root or json_file.parent
    names = (json_file.stem.removeprefix("instances_"), *names)
    names += ("valid",) * ("val" in names)
    folders = [base / path for name in names for path in (name, f"images/{name}", f"{name}/images")]
    folders = list(dict.fromkeys([*folders, base / "images", base, json_file.parent]))
    files = list(islice(_file_names(json_file), 20))
    for folder in folders:
        if any(os.path.isfile(folder / local_name(folder, file)) for file in files):
            return folder
    if not files:
        empty = read_json(json_file)["images"] == []
        raise ValueError(
            f"{json_file} names no image ({'its list of images is empty' if empty else 'no key file_name'})"
            f"{': a part needs some' if empty else ': is it COCO JSON?'}"
        )
    hint = next(filter(None, (similar_file(folder / files[0]) for folder in folders)), "")
    raise FileNotFoundError(
        f"the images of {json_file} are not found ({files[0]} is not in {', '.join(map(str, folders))}{hint}): {remedy}"
    )


def _file_names(json_file: Path) -> Iterator[str]:
    """File names of the images in the order of the JSON, found without parsing what may be gigabytes."""
    for match in re.finditer(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', json_file.read_bytes()):
        yield json.loads(match[1])


def _other_format(root: Path) -> str:
    """A hint for messages: which format a folder without COCO JSON seems to have, and how to convert it; else empty."""
    files = (Path(folder) / name for folder, _, names in os.walk(root) for name in sorted(names))
    for path in islice(files, LOOKED_THROUGH):
        for name, is_label in (("Pascal VOC", _is_voc), ("YOLO", _is_yolo)):
            if is_label(path):
                return (
                    f".  It looks like a {name} data set ({path.relative_to(root)}), and only COCO JSON is read: for "
                    f"each part python -m minirtmdet data convert {path.parent} --out {root / 'train.json'}"
                )
    return ""


def _is_voc(path: Path) -> bool:
    """Whether a file is an annotation of Pascal VOC, by how it begins."""
    return path.suffix.lower() == ".xml" and b"<annotation" in _first_bytes(path)


def _is_yolo(path: Path) -> bool:
    """Whether the first line of a text is a class number and four or more numbers, as YOLO writes labels."""
    if path.suffix.lower() != ".txt":
        return False
    return re.match(rb"\s*\d+(\s+\d*\.?\d+(e-\d+)?){4,}\s*$", _first_bytes(path).split(b"\n")[0]) is not None


def _first_bytes(path: Path) -> bytes:
    """Enough of a file to tell its format."""
    with path.open("rb") as file:
        return file.read(1000)
