"""Entries of ground truth and of detections in COCO's form, and which of them an evaluation counts."""

import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from faster_coco_eval.core import mask as coco_mask

from minirtmdet.data.coco_json import (
    Annotation,
    Image,
    read_annotations,
    read_categories,
    read_images,
    read_json,
    whole_number,
)
from minirtmdet.data.masks import compress
from minirtmdet.data.segmentations import MaskProblem, read_mask, to_rle

SOURCE = "ground truth"
"""What messages call annotations that are given as a dict."""


def read_ground_truth(json_file: Path, *, masks: bool = False) -> dict[str, Any]:
    """A COCO JSON made ready for evaluation: annotations numbered from 1, areas and crowd flags filled in.

    ``iscrowd`` is 1 for annotations with ``ignore`` too.  Boxes that are missing or are not four finite numbers are
    left out, which the COCO tools would stop at.

    Args:
        json_file: what to read.
        masks: keep ``segmentation`` too, in RLE; where it cannot be used the annotation has none, and a warning counts
            these, ignore regions aside.

    Raises:
        ValueError: as for :mod:`minirtmdet.data.coco_json`; naming annotation and image for a mask of another size than
            its image.
    """
    content, source = read_json(json_file), str(json_file)
    images = {image.id: image for image in read_images(content, source)}
    boxes = (entry for entry in read_annotations(content, source) if entry.box is not None)
    annotations = [
        {
            "id": number,
            **fields_of(entry),
            **(_usable_mask(entry, images.get(entry.image_id), source) if masks else {}),
        }
        for number, entry in enumerate(boxes, 1)
    ]
    without = sum(not entry["iscrowd"] and "segmentation" not in entry for entry in annotations)
    if masks and without:
        warnings.warn(f"{json_file}: {without} of {len(annotations)} boxes have no mask to judge by", stacklevel=2)
    return {
        "images": [
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
            for image_id, file_name, (height, width) in images.values()
        ],
        "categories": [category._asdict() for category in read_categories(content, source)],
        "annotations": annotations,
    }


def truths_that_count(
    ground_truth: dict[str, Any], image_ids: Container[int], category_ids: Container[int]
) -> Iterator[Annotation]:
    """The annotations of the images and categories that count.

    Raises:
        ValueError: naming the annotation that has no box, or whose values mean nothing.
    """
    for entry in read_annotations(ground_truth, SOURCE):
        if entry.image_id in image_ids and entry.category_id in category_ids:
            if entry.box is None:
                raise ValueError(f"{SOURCE}: {entry.name} {entry.problem}: {entry.given!r}")
            yield entry


def fields_of(entry: Annotation) -> dict[str, Any]:
    """An annotation as the COCO tools read it, but for its id."""
    return {
        "image_id": entry.image_id,
        "category_id": entry.category_id,
        "bbox": list(entry.box or ()),
        "area": entry.area,
        "iscrowd": int(entry.ignore),
    }


def results_that_count(
    results: Iterable[dict[str, Any]], image_ids: Container[int], category_ids: Container[int]
) -> Iterator[dict[str, Any]]:
    """The detections (COCO results format) of the images and categories that count, with integers for ids."""
    for entry in results:
        image_id, category_id = whole_number(entry["image_id"]), whole_number(entry["category_id"])
        if image_id in image_ids and category_id in category_ids:
            yield {**entry, "image_id": image_id, "category_id": category_id}


def truths_with_masks(
    truths: Iterable[Annotation], sizes: Mapping[int, tuple[int, int]]
) -> Iterator[tuple[Annotation, dict[str, Any]]]:
    """Annotations with the fields that a comparison of masks needs; those without a mask are left out.

    Args:
        truths: the annotations.
        sizes: (height, width) of each image.

    Raises:
        ValueError: naming the annotation whose mask means nothing, or has another size than its image.
    """
    for entry in truths:
        size, given = sizes[entry.image_id], entry.segmentation
        assert entry.box is not None
        x, y, width, height = entry.box
        if given is None and entry.ignore:
            given = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if given is None:
            continue
        try:
            rle = to_rle(read_mask(given, size, f"{SOURCE}: {entry.name} of image {entry.image_id}"), size)
        except MaskProblem as problem:
            raise ValueError(f"{SOURCE}: {entry.name} {problem}") from None
        # many exporters write the area of the box, where COCO has that of the mask
        area = float(coco_mask.area(rle)) if entry.area == width * height else entry.area
        yield entry, {"segmentation": rle, "area": area}


def mask_of_result(entry: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """The fields of a detection that a comparison of masks needs.

    Raises:
        ValueError: naming the image of a detection that has no mask, or one of another size, which the COCO tools would
            silently let match nothing.
    """
    rle, (height, width) = entry.get("segmentation"), sizes[entry["image_id"]]
    if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
        raise ValueError(f"a detection in image {entry['image_id']} has no mask in RLE (size and counts)")
    if [whole_number(side) for side in rle["size"]] != [height, width]:
        raise ValueError(
            f"a detection in image {entry['image_id']} has a mask of {rle['size'][1]} x {rle['size'][0]} pixels, and "
            f"the image has {width} x {height}: masks must have the size of their image, or they match nothing"
        )
    rle = compress(rle) if isinstance(rle["counts"], list) else rle
    return {"segmentation": rle, "area": float(coco_mask.area(rle))}


def _usable_mask(entry: Annotation, image: Image | None, source: str) -> dict[str, Any]:
    """The mask of an annotation of a file in RLE, as its field ``segmentation``; nothing where it cannot be used.

    Raises:
        ValueError: naming annotation and image for a mask of another size than its image.
    """
    if image is None:
        return {}
    try:
        mask = read_mask(entry.segmentation, image.size, f"{source}: {entry.name} of {image.file_name}")
    except MaskProblem:
        return {}
    return {"segmentation": to_rle(mask, image.size)}
