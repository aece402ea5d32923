"""Entries of ground truth and of detections in COCO's form, and which of them an evaluation counts."""

from collections.abc import Container, Iterable, Iterator
from typing import Any

from minirtmdet.data.coco_json import Annotation, read_annotations, whole_number

SOURCE = "ground truth"
"""What messages call annotations that are given as a dict."""


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


def results_that_count(
    results: Iterable[dict[str, Any]], image_ids: Container[int], category_ids: Container[int]
) -> Iterator[dict[str, Any]]:
    """The detections (COCO results format) of the images and categories that count, with integers for ids."""
    for entry in results:
        image_id, category_id = whole_number(entry["image_id"]), whole_number(entry["category_id"])
        if image_id in image_ids and category_id in category_ids:
            yield {**entry, "image_id": image_id, "category_id": category_id}
