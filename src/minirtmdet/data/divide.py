"""One data set into parts: by groups that stay together, with the classes alike in all of them."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from minirtmdet.data.coco_json import (
    Image,
    read_annotations,
    read_categories,
    read_image_ids,
    read_images,
    read_json,
)
from minirtmdet.data.file_names import local_name
from minirtmdet.data.image_checks import inspect_images, note_bad_images, note_missing_images
from minirtmdet.data.images import Expected
from minirtmdet.data.inspect import read_thumbnails, similar_groups
from minirtmdet.files import check_not_read, check_writable, write_json
from minirtmdet.messages import counted, shorten


class Division(NamedTuple):
    """What :func:`divide_set` wrote.

    Attributes:
        files: the annotations of each part.
        images: how many each has.
        groups: how many groups each has.
        boxes: by part and class.
        left_out: annotations that name an image which the file does not have.
        notes: what was found out on the way, a line each.
    """

    files: dict[str, Path]
    images: dict[str, int]
    groups: dict[str, int]
    boxes: dict[str, dict[str, int]]
    left_out: int
    notes: list[str]


def divide_set(
    json_file: Path,
    out: Path,
    shares: Mapping[str, float],
    *,
    images: Path,
    group: str = "",
    seed: int = 0,
    overwrite: bool = False,
    bad_images: Literal["raise", "skip"] | None = None,
) -> Division:
    """Write annotations for each part: ``out/train.json`` and so on; images stay where they are.

    Every key of the file is kept; its categories are those of every part.

    Args:
        json_file: the annotations of all images, COCO JSON.
        out: a folder.
        shares: of the images, by part; their sum is 1.
        images: the folder of the images, which are read where ``group`` is ``similar`` or ``bad_images`` is given.
        group: which images stay together: ``similar``, those that show the same, or see :func:`group_images`; each is
            on its own where empty.
        seed: of the choice among groups that fit alike.
        overwrite: write over annotations that are there, but never over ``json_file``.
        bad_images: what to do with images that are missing, broken, or of another size than the file says: ``raise``,
            or ``skip`` them with a note that counts them; where left out, nobody looks.

    Raises:
        FileExistsError: for annotations that are there already.
        FileNotFoundError, ValueError: for a file that is missing or not COCO's, shares that make no sense, images that
            cannot be used or grouped, or fewer groups than parts.
        OSError: for a folder that cannot be written into.
    """
    _check_shares(shares)
    files = {part: out / f"{part}.json" for part in shares}
    check_writable(out)
    check_not_read(files.values(), [json_file])
    there = [str(path) for path in files.values() if path.exists()]
    if there and not overwrite:
        raise FileExistsError(f"{', '.join(there)}: there already; choose another --out, or --overwrite")
    content = read_json(json_file)
    source = str(json_file)
    notes: list[str] = []
    named = set(read_image_ids(content, source))
    content["images"] = _usable(content, images, source, bad_images, notes)
    entries = read_images(content, source)
    ids = [entry.id for entry in entries]
    categories = read_categories(content, source)
    groups = _group_similar(entries, images) if group == "similar" else group_images(content["images"], group, source)
    place, column = {image_id: i for i, image_id in enumerate(ids)}, {entry.id: i for i, entry in enumerate(categories)}
    counts = np.zeros((len(ids), len(categories)), dtype=np.int64)
    found = list(read_annotations(content, source))
    rows = [(place.get(entry.image_id), column.get(entry.category_id)) for entry in found]
    for row, label in rows:
        if row is not None and label is not None:
            counts[row, label] += 1
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(groups):
        members[name].append(i)
    if len(members) < len(shares):
        raise ValueError(f"{json_file} has {len(members)} group(s) of images for {len(shares)} parts: each needs one")
    weights = np.stack([np.append(counts[own].sum(0), len(own)) for own in members.values()])
    chosen = assign_groups(weights, list(shares.values()), seed)
    part_of = {i: part for own, part in zip(members.values(), chosen.tolist(), strict=True) for i in own}
    for number, path in enumerate(files.values()):
        kept = [entry for i, entry in enumerate(content["images"]) if part_of[i] == number]
        annotations = [
            entry
            for entry, (row, _) in zip(content["annotations"], rows, strict=True)
            if row is not None and part_of[row] == number
        ]
        write_json(path, {**content, "images": kept, "annotations": annotations})
    parts = np.array([part_of[i] for i in range(len(ids))])
    names = [entry.name for entry in categories]
    return Division(
        files=files,
        images={part: int((parts == i).sum()) for i, part in enumerate(shares)},
        groups={part: int((chosen == i).sum()) for i, part in enumerate(shares)},
        boxes={
            part: dict(zip(names, counts[parts == i].sum(0).tolist(), strict=True)) for i, part in enumerate(shares)
        },
        left_out=sum(entry.image_id not in named for entry in found),
        notes=notes,
    )


def _usable(
    content: dict[str, Any], images: Path, source: str, bad_images: str | None, notes: list[str]
) -> list[dict[str, Any]]:
    """The entries of images that can be used, as far as anybody asks."""
    given: list[dict[str, Any]] = content["images"]
    if bad_images is None:
        return given
    entries = read_images(content, source)
    paths = [images / local_name(images, entry.file_name) for entry in entries]
    found = [path.is_file() for path in paths]
    there = [place for place, is_there in enumerate(found) if is_there]
    missing = [entry.file_name for entry, is_there in zip(entries, found, strict=True) if not is_there]
    notes += note_missing_images(missing, len(given), images, source, bad_images)
    expected = [Expected(entries[place].size, source) for place in there]
    problems, _ = inspect_images([paths[place] for place in there], expected)
    notes += note_bad_images(problems.values(), len(given), source, bad_images)
    return [given[place] for number, place in enumerate(there) if number not in problems]


def group_images(images: Sequence[Mapping[str, Any]], group: str, source: str) -> list[str]:
    r"""The name of the group of each image.

    Args:
        images: entries of a COCO JSON.
        group: ``folder``, of its file name; ``key:NAME``, the value of a key of its entry; ``regex:PATTERN``, what the
            pattern finds in its file name: its first group, or all of it; empty: each image is a group of its own.
        source: what messages call the file.

    Raises:
        ValueError: naming what is not one of these, an image that has no group, or a pattern that is none.

    >>> group_images([{"file_name": "a/cam1_07.png"}, {"file_name": "a/cam2_08.png"}], r"regex:cam(\d)", "s")
    ['1', '2']
    """
    kind, _, what = group.partition(":")
    find = _finders().get(kind)
    if find is None or (kind in ("key", "regex")) != bool(what):
        raise ValueError(f"group is {group!r}: expected similar, folder, key:NAME or regex:PATTERN")
    try:
        names = [find(entry, what) for entry in images]
    except re.error as error:
        raise ValueError(f"group {group}: {what!r} is no regular expression: {error}") from None
    lost = [str(entry["file_name"]) for entry, name in zip(images, names, strict=True) if name is None]
    if lost:
        raise ValueError(f"{source}: group {group} says nothing of {shorten(lost)}")
    return [str(name) for name in names]


def _group_similar(entries: Sequence[Image], images: Path) -> list[str]:
    """The name of the group of each image: that of the first that shows the same."""
    names = [entry.file_name for entry in entries]
    files = [(images / local_name(images, entry.file_name), entry.size) for entry in entries]
    for group in similar_groups(read_thumbnails(files)):
        for place in group:
            names[place] = entries[group[0]].file_name
    return names


def assign_groups(
    weights: Int64[np.ndarray, "groups classes_and_images"], shares: Sequence[float], seed: int
) -> Int64[np.ndarray, " groups"]:
    """The part of each group, such that every part has its share of each class, and of the images.

    Iterative stratification (Sechidis et al., 2011) for groups: rare classes first, and of a class the groups that
    have most of it; each goes to a part where the class is missing, and of these where most is of all that it has.

    Args:
        weights: boxes of each class in each group, and at last its images.
        shares: of each part.
        seed: of the order of groups that have as much.

    Returns:
        A part for each group; every part has one.
    """
    total = weights.sum(0).clip(min=1)
    order = np.random.default_rng(seed).permutation(len(weights))
    wanted = np.outer(shares, total)
    missing = wanted.copy()
    chosen = np.full(len(weights), -1, dtype=np.int64)
    for column in [*np.argsort(total[:-1], kind="stable"), -1]:
        of_class = order[(weights[order, column] > 0) & (chosen[order] < 0)]
        for row in of_class[np.argsort(-weights[of_class, column], kind="stable")]:
            need = missing / wanted @ (weights[row] / total)
            # the first of a class goes to the part that is to have most: what one group alone has is learned
            first = missing[:, column].sum() > total[column] - 0.5
            asks = missing[:, column] >= (missing[:, column].max() if first else min(0.5, missing[:, column].max()))
            chosen[row] = np.argmax(np.where(asks, need, -np.inf))
            missing[chosen[row]] -= weights[row]
    _fill_empty_parts(chosen, weights[:, -1], len(shares))
    return chosen


def _fill_empty_parts(chosen: Int64[np.ndarray, " groups"], images: Int64[np.ndarray, " groups"], parts: int) -> None:
    """Give a part that has nothing the smallest group of one that has several."""
    for part in range(parts):
        if not (chosen == part).any():
            counts = Counter(chosen.tolist())
            spare = [row for row in range(len(chosen)) if counts[int(chosen[row])] > 1]
            chosen[min(spare, key=lambda row: images[row])] = part


def _finders() -> dict[str, Callable[[Mapping[str, Any], str], Any]]:
    def by_pattern(entry: Mapping[str, Any], pattern: str) -> str | None:
        found = re.search(pattern, str(entry["file_name"]))
        return None if found is None else found[1] if found.re.groups else found[0]

    return {
        "": lambda entry, _: entry["file_name"],
        "folder": lambda entry, _: PurePosixPath(str(entry["file_name"]).replace("\\", "/")).parent,
        "key": lambda entry, key: entry.get(key),
        "regex": by_pattern,
    }


def _check_shares(shares: Mapping[str, float]) -> None:
    bad = [part for part, share in shares.items() if not 0 < share < 1]
    if bad or abs(sum(shares.values()) - 1) > 1e-9 or len(shares) < 2:
        words = ", ".join(f"{part} {share:g}" for part, share in shares.items())
        raise ValueError(f"shares of {words}: expected at least two numbers between 0 and 1 that sum to 1")


def describe_division(division: Division) -> str:
    """What was written, and how alike the parts are, as text."""
    parts = list(division.files)
    head = [f"{part} {counted(division.images[part], 'image')}" for part in parts]
    if division.groups != division.images:
        groups = [counted(division.groups[part], "group") for part in parts]
        head = [f"{words} of {number}" for words, number in zip(head, groups, strict=True)]
    lines = ["; ".join(head)]
    for name in division.boxes[parts[0]]:
        counts = [division.boxes[part][name] for part in parts]
        missing = [part for part, count in zip(parts, counts, strict=True) if not count]
        note = f"  ! none in {', '.join(missing)}" if missing and any(counts) else ""
        lines.append(f"  {name}: {' + '.join(map(str, counts))}{note}")
    lines += [f"  ! {note}" for note in division.notes]
    if division.left_out:
        lines.append(f"  ! left out: {counted(division.left_out, 'annotation')} of images that the file does not have")
    return "\n".join(lines)
