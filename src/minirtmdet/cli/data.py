"""``minirtmdet scenes`` and ``minirtmdet data``: the embedded data set, and what comes before training on one's own."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from minirtmdet import plots
from minirtmdet.cli.loading import PartialFailure, checked
from minirtmdet.cli.report import write_report
from minirtmdet.configs import DataConfig, ScenesConfig, Side
from minirtmdet.data.augment import Sample
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import read_json
from minirtmdet.data.convert import check_output, convert_labels, repair_coco
from minirtmdet.data.divide import describe_division, divide_set
from minirtmdet.data.file_names import SUFFIXES
from minirtmdet.data.inspect import describe_set, inspect_part, inspect_set, open_part
from minirtmdet.data.label_files import FORMATS, Format, guess_format
from minirtmdet.data.loader import epoch_order, load_or_next
from minirtmdet.data.pipeline import TrainPipeline
from minirtmdet.data.scenes import make_scenes
from minirtmdet.data.splits import Split, find_images, find_parts, resolve_splits
from minirtmdet.data.tile_grid import Overlap
from minirtmdet.data.tile_set import TileRule, describe_tiles, tile_set
from minirtmdet.files import check_not_read, check_writable, write_json
from minirtmdet.messages import counted
from minirtmdet.presets import AUGMENTS
from minirtmdet.settings import Count, Share, Whole

IMAGE_FOLDERS = ("images", "JPEGImages", "Images", "img")
"""How folders of images are called beside folders of labels."""

BadImages = Literal["raise", "skip"]
PositionalPath = Annotated[Path, tyro.conf.Positional]

app = tyro.extras.SubcommandApp()


@checked
def scenes(config: Annotated[ScenesConfig, tyro.conf.arg(name="")] = ScenesConfig(), root: Path | None = None) -> None:
    """Make the embedded data set, or find it made, and print its folder.

    Args:
        config: what to make.
        root: the folder; where left out, one in your cache directory.
    """
    print(make_scenes(config, root))


@app.command
@checked
def check(
    data: PositionalPath,
    images: Path | None = None,
    input_size: Side = 640,
    full: bool = False,
    copies: bool = True,
    out: Path | None = None,
) -> None:
    """Count, measure and compare what a data set holds, and say what is wrong with it; bad images are listed.

    Args:
        data: a folder with train.json and val.json or test.json, as data.root of a training, or one COCO JSON.
        images: the folder of its images, for one JSON that does not lie beside them.
        input_size: side of the network's input that sizes are given at, in pixels.
        full: decode every image, to find those that are damaged in their middle.
        copies: look for images that show the same, within a part and across parts.
        out: folder to write report.txt, report.html and its figures into.
    """
    parts = _find_parts(data, images)
    if out is not None:
        check_writable(out)
        check_not_read([out], [folder for split in parts.values() for folder in (split.images, split.json_file.parent)])
    report = inspect_set(parts, input_size, check="full" if full else "headers", copies=copies)
    print(describe_set(report))
    if out is not None:
        write_report(report, out)
        print(f"written to {out}: report.txt, report.html")
    bad = [part.name for part in report.parts if part.dataset is None]
    if bad:
        raise PartialFailure(f"{len(bad)} of {len(report.parts)} parts cannot be used: {', '.join(bad)}")


@app.command
@checked
def split(
    data: PositionalPath,
    out: Path,
    images: Path | None = None,
    val: Share = 0.2,
    test: Share = 0.0,
    group: str = "",
    seed: Whole = 0,
    bad_images: BadImages = "raise",
    overwrite: bool = False,
) -> None:
    """Divide one COCO JSON into train.json, val.json and, where asked for, test.json; images stay where they are.

    Args:
        data: the COCO JSON.
        out: folder to write into.
        images: the folder of its images, where it does not lie beside them.
        val: share of the images to evaluate on; every class in proportion, as far as groups allow.
        test: share of the images to keep for the end.
        group: images that stay in one part, such as frames of a video: similar (those that show the same), folder (of
            the file name), key:NAME (of the image's entry), regex:PATTERN (what its first group, or all of it, finds in
            the file name).
        seed: another one divides otherwise.
        bad_images: an image that is missing, broken, or of another size than the JSON says: stop, and write nothing; or
            skip it with its boxes, and count it.
        overwrite: write over parts that are there already; never over the COCO JSON itself.
    """
    folder = _images_of(data, images)
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    settings = {"group": group, "seed": seed, "overwrite": overwrite, "bad_images": bad_images}
    division = divide_set(data, out, shares, images=folder, **settings)  # type: ignore[arg-type]
    print(describe_division(division))
    print("to train: python -m minirtmdet train few-256 " + _data_switches(out, folder))


@app.command
@checked
def convert(
    labels: PositionalPath,
    out: Path,
    images: Path | None = None,
    format: Literal["auto", "coco"] | Format = "auto",
    classes: tuple[str, ...] | None = None,
    names: Path | None = None,
    one_based: Literal["auto", "yes", "no"] = "auto",
    unlabelled: Literal["auto", "keep", "drop"] = "auto",
    bad_images: BadImages = "raise",
    overwrite: bool = False,
) -> None:
    """Turn labels of another format into COCO JSON, with sizes read from the images; one part at a time.

    Args:
        labels: a folder of label files or one file; a COCO JSON that other programs spoiled is repaired.
        out: the COCO JSON to write.
        images: the folder of the images, where it is not beside the labels.
        format: of the labels; auto looks at them.
        classes: names in order, for all parts alike; by the alphabet where left out, or as names or YOLO's file say.
        names: a file with the names in order: a name a line, a YAML with 'names', or the COCO JSON of another part.
        one_based: whether VOC counts pixels from 1; auto decides by the smallest and the largest number.
        unlabelled: images without a label file: keep them as background, as YOLO means them, or drop them.
        bad_images: an image that is missing, broken, or of another size than its labels say: stop, and write nothing;
            or skip it with its labels, and count it.
        overwrite: write over what is there; never over what is read.
    """
    if not labels.exists():
        raise FileNotFoundError(f"{labels}: there is no such file or folder")
    below = [path for path in labels.rglob("*") if path.is_file()] if labels.is_dir() else []
    found = guess_format(labels) if format == "auto" else format
    if found is None and labels.is_dir() and not below:
        raise FileNotFoundError(f"{labels} is empty: give the folder of the labels, or one file")
    if found is None:
        there = Counter(path.suffix.lower() or "without ending" for path in below or [labels])
        holds = ", ".join(f"{count} {ending}" for ending, count in sorted(there.items()))
        raise FileNotFoundError(
            f"{labels}: holds no labels of a known format ({FORMATS}), but {holds}; --format NAME says what they are"
        )
    folder = images or _images_beside(labels)
    check_output(out, [labels, *below, *([names] if names else [])], overwrite=overwrite)
    if found == "coco":
        conversion = repair_coco(read_json(labels), folder, str(labels), bad_images=bad_images)
    else:
        conversion = convert_labels(
            labels,
            folder,
            found,
            classes=classes,
            names=names,
            one_based=one_based,
            unlabelled=unlabelled,
            bad_images=bad_images,
        )
    write_json(out, conversion.content)
    made = conversion.content
    boxes = counted(len(made["annotations"]), "box", "boxes")
    print(f"{out}: {counted(len(made['images']), 'image')}, {boxes} ({found} of {labels})")
    print(f"classes: {' '.join(entry['name'] for entry in made['categories'])}")
    for note in [*conversion.notes, *inspect_part(out.stem, Split(out, folder), DataConfig.input_size).problems]:
        print(f"  ! {note}")


@app.command
@checked
def show(
    data: PositionalPath,
    out: Path,
    images: Path | None = None,
    part: str = "train",
    count: Count = 24,
    classes: tuple[str, ...] = (),
    augment: Literal["off", "none", "light", "recipe"] = "off",
    input_size: Side = 640,
    seed: Whole = 0,
) -> None:
    """Draw a contact sheet: some images with their labels, as they are, or as training sees them.

    Bad images are named, and others shown.

    Args:
        data: a folder with train.json and so on, or one COCO JSON.
        out: the image to write.
        images: the folder of the images, for one JSON that does not lie beside them.
        part: of a folder: train, val, valid or test.
        count: images to show, drawn at random.
        classes: only images that show one of these.
        augment: off shows images as they are; other words the images of a training with that augmentation.
        input_size: side of augmented images, in pixels.
        seed: another one draws other images.
    """
    parts = _find_parts(data, images)
    if data.is_file():
        part = data.stem
    if part not in parts:
        raise ValueError(f"--part is {part}: {data} has {', '.join(parts)}")
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out is {out}: expected the name of an image, such as {out.with_suffix('.png')}")
    check_writable(out.parent)
    check_not_read([out], [data, parts[part].json_file])
    dataset = open_part(parts[part], bad_images="skip")
    check_not_read([out], [dataset.entry(index).path for index in range(len(dataset))])
    samples = _draw(dataset, count, classes, augment, input_size, seed)
    plots.save(plots.contact_sheet(samples, dataset.classes, names=[sample.path.name for sample in samples]), out)
    print(f"{len(samples)} of {len(dataset)} images of {parts[part].json_file}: {out}")


@app.command
@checked
def tile(
    data: PositionalPath,
    out: Path,
    images: Path | None = None,
    size: Side = TileRule.size,
    overlap: Overlap = TileRule.overlap,
    min_visible: Share = TileRule.min_visible,
    pieces: Literal["ignore", "drop"] = TileRule.pieces,
    empty: Share = TileRule.empty,
    seed: Whole = TileRule.seed,
    bad_images: BadImages = "raise",
    max_pixels: Count = DataConfig.max_pixels,
) -> None:
    """Cut large images into tiles with their boxes and masks, as a new data set: small objects keep their size.

    Divide a set before: tiles of one image belong into one part. Each tile names its image under tile_of.

    Args:
        data: a folder with train.json and val.json or test.json, as data.root of a training, or one COCO JSON.
        out: folder to write into; it must be empty, or not there.
        images: the folder of the images, for one JSON that does not lie beside them.
        size: side of a tile, in pixels; train with this input size.
        overlap: share of a tile's side that neighbours have in common; objects that are no longer are whole in one.
        min_visible: share of an object that must be seen in a tile to be found there; of its mask, or of its box where
            it has none.
        pieces: what becomes of those that show less: ignore makes regions of them (iscrowd), which AP does not count,
            nor training with --assigner.ignore-regions; drop forgets them.
        empty: share that is kept of the tiles without an object; val, valid and test keep all of theirs.
        seed: another one keeps other empty tiles.
        bad_images: an image that is missing, broken, or of another size than the JSON says: stop, and write nothing; or
            skip it with its boxes, and count it.
        max_pixels: an image of more is not decoded.
    """
    parts = _find_parts(data, images)
    rule = TileRule(size, overlap, min_visible, pieces, empty, seed)
    made = tile_set(parts, out, rule, bad_images=bad_images, max_pixels=max_pixels)
    for name, part in made.items():
        print(describe_tiles(name, part, rule))
    if "train" in made and len(made) > 1:
        ignore = " --assigner.ignore-regions" * (pieces == "ignore" and made["train"].pieces > 0)
        print(f"to train: python -m minirtmdet train few-256 --data.root {out} --data.input-size {size}{ignore}")


def _find_parts(data: Path, images: Path | None) -> dict[str, Split]:
    """What a path means: the parts of a folder, or one JSON."""
    if data.is_file():
        return {data.stem: Split(data, _images_of(data, images))}
    if images is not None:
        raise ValueError(f"--images goes with one JSON, and {data} is a folder, in which images are found by name")
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such file or folder")
    return find_parts(data)


def _images_of(data: Path, images: Path | None) -> Path:
    """The folder of the images of one JSON: as named, or as found."""
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"--images {images}: there is no such folder")
    return find_images(data) if images is None or not data.is_file() else images


def _data_switches(out: Path, images: Path) -> str:
    """How a command line names the parts that were written: by their folder, where images are found from there."""
    config = DataConfig(root=out)
    try:
        splits = resolve_splits(config)
    except (OSError, ValueError):
        splits = None
    if splits is not None and all(found.images.resolve() == images.resolve() for found in splits):
        return f"--data.root {out}"
    return " ".join(
        f"--data.{part}-json {out / f'{part}.json'} --data.{part}-images {images}" for part in ("train", "val")
    )


def _images_beside(labels: Path) -> Path:
    """The folder of images that belongs to labels: the same, or one beside or above that is called so."""
    own = labels if labels.is_dir() else labels.parent
    swapped = [
        Path(*(name if part == "labels" else part for part in own.parts))
        for name in IMAGE_FOLDERS
        if "labels" in own.parts
    ]
    for folder in [*swapped, *(place / name for place in (own, own.parent) for name in IMAGE_FOLDERS)]:
        if folder.is_dir():
            return folder
    above = own.absolute().parent
    is_above = not any(map(_is_image, own.rglob("*"))) and any(map(_is_image, above.iterdir()))
    return own.parent if is_above else own


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _draw(
    dataset: CocoDataset, count: int, classes: tuple[str, ...], augment: str, input_size: int, seed: int
) -> list[Sample]:
    """Random images that show one of the classes, where any are named."""
    if unknown := set(classes) - set(dataset.classes):
        raise ValueError(
            f"--classes: {dataset.json_file} has no {', '.join(sorted(unknown))}: it has {dataset.classes}"
        )
    wanted = {dataset.classes.index(name) for name in classes}
    order = epoch_order(seed, 0, len(dataset), len(dataset))
    chosen = [i for i in order.tolist() if not wanted or wanted & set(dataset.entry(i).labels.tolist())]
    if not chosen:
        raise ValueError(f"{dataset.json_file} has no image that shows {' or '.join(classes)}")
    problems: list[str] = []
    if augment == "off":
        samples = list(islice(_readable(dataset, chosen, problems), count))
    else:
        pipeline = TrainPipeline(AUGMENTS[augment], input_size, seed, epochs=100)
        chosen = chosen[:count]
        # in the midst of an epoch, where there are partners for mosaics
        positions = np.resize(np.concatenate([order, chosen]), len(order) + len(chosen))
        load = partial(load_or_next, dataset, problems=problems)
        samples = [pipeline(0, len(order) + i, positions, load) for i in range(len(chosen))]
    for problem in dict.fromkeys(problems):
        warnings.warn(f"an image is left out: {problem}", stacklevel=2)
    if not samples:
        raise ValueError(f"{dataset.images}: no image can be read; {problems[-1]}")
    return samples


def _readable(dataset: CocoDataset, indices: Sequence[int], problems: list[str]) -> Iterator[Sample]:
    """Images that can be read; ``problems`` gets what is wrong with the others."""
    for index in indices:
        try:
            yield dataset.load(index)
        except (OSError, ValueError) as error:
            problems.append(str(error))
