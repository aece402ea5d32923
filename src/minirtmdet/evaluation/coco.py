"""COCO average precision of a detector, by a COCO evaluation library."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from jaxtyping import Float, UInt8
from tqdm import tqdm

from minirtmdet.configs import PredictConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import Annotation, read_image_ids, read_images
from minirtmdet.data.loader import Batch
from minirtmdet.data.masks import encode_stored
from minirtmdet.detector import Detector
from minirtmdet.distributed import ALONE, World
from minirtmdet.evaluation.entries import (
    SOURCE,
    fields_of,
    mask_of_result,
    read_ground_truth,
    results_that_count,
    truths_that_count,
    truths_with_masks,
)
from minirtmdet.structures import Detections, on_host

METRICS = {
    "AP": "mean over IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "of boxes below 32 x 32 pixels",
    "APm": "of boxes between",
    "APl": "of boxes from 96 x 96 pixels",
    "AR1": "recall with 1 detection per image and class",
    "AR10": "with 10",
    "AR100": "with 100",
    "ARs": "of boxes below 32 x 32 pixels",
    "ARm": "of boxes between",
    "ARl": "of boxes from 96 x 96 pixels",
}
"""The standard twelve and what they say, in the order of the COCO tools; -1 where nothing of the size is annotated."""
OF_MASKS = "mask_"
"""How the names of the twelve begin where they compare masks."""


class CocoNumbers(NamedTuple):
    """What the COCO tools compute from boxes and detections, or from masks.

    Attributes:
        metrics: the values of :data:`METRICS`.
        per_class: those of them that COCO gives for a class, one entry per category; -1 for a class without boxes.
        precision: at IoU .50, .55, ... .95 and recall 0, 0.01, ... 1, with 100 detections per image and class, for
            boxes of all sizes; -1 for a class without boxes.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, float]]
    precision: Float[np.ndarray, "10 101 classes"]


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        metrics: the values of :data:`METRICS`; of a detector that finds masks those of masks too, named ``mask_AP`` and
            so on.
        by_class: AP, AP50, AP75, APs, APm, APl and AR100 of each class by name, and likewise; -1 for what is not
            annotated.
        precision: of boxes, as in :class:`CocoNumbers`, classes in the order of ``by_class``.
        results: every detection, as the COCO results format has it; masks in RLE.
        image_ids: the images that counted.
    """

    metrics: dict[str, float]
    by_class: dict[str, dict[str, float]]
    precision: Float[np.ndarray, "10 101 classes"]
    results: list[dict[str, Any]]
    image_ids: list[int]

    @property
    def main(self) -> str:
        """The number that says which weights are best, AP of masks where there are some, else of boxes."""
        return f"{OF_MASKS}AP" if f"{OF_MASKS}AP" in self.metrics else "AP"

    @property
    def judged(self) -> bool:
        """Whether any box is annotated that counts; without one every number is -1, neither good nor bad."""
        return self.metrics["AP"] >= 0

    @property
    def per_class(self) -> dict[str, float]:
        """AP of each class by name; -1 for a class without boxes."""
        return {name: numbers["AP"] for name, numbers in self.by_class.items()}


def evaluate(
    model: Detector,
    loader: Iterable[Batch],
    dataset: CocoDataset,
    config: PredictConfig = PredictConfig(),
    *,
    progress: bool = True,
) -> dict[str, float]:
    """The standard twelve COCO numbers of a model on a data set, by the names of :data:`METRICS`.

    Those of masks stand beside them where the model finds masks; see :class:`Evaluation`.
    """
    return run_evaluation(model, loader, dataset, config, progress=progress).metrics


def run_evaluation(
    model: Detector,
    loader: Iterable[Batch],
    dataset: CocoDataset,
    config: PredictConfig = PredictConfig(),
    *,
    progress: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Detect in every image of ``loader`` and compare with the boxes of ``dataset``, and masks with its masks.

    Args:
        model: its class indices are the labels of ``dataset``.
        loader: batches of images of ``dataset``, in several processes a share each; only these are counted.
        dataset: its annotations are read from its JSON file again, so that nothing the loading dropped is missing.
        config: thresholds and limits of prediction.
        progress: show a progress bar.
        world: the processes that evaluate together; all have the numbers, process 0 alone all ``results``.

    Raises:
        ValueError: naming the image for masks of another size than it has: their AP would be 0, whatever they show.
    """

    def found() -> Iterator[tuple[int, Detections]]:
        for batch in tqdm(loader, desc="evaluating", unit="batch", leave=False, **_quiet(progress, world)):
            images = batch.to(model.device).images
            detections = on_host(model.predict(images, config, batch.img_shapes, batch.scale_factors))
            yield from zip(batch.image_ids, detections, strict=True)

    return _judge(found(), dataset, world)


def evaluate_images(
    find: Callable[[UInt8[np.ndarray, "height width 3"]], Detections],
    dataset: CocoDataset,
    *,
    progress: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Numbers of whatever looks at one image at a time at its full size, such as a detector in tiles.

    Args:
        find: from BGR pixels to detections in these pixels; its class indices are the labels of ``dataset``.
        dataset: what is looked at; an image that turns out broken is left out with a warning, where its bad images are
            skipped.
        progress: show a progress bar.
        world: the processes that evaluate together, as in :func:`run_evaluation`.

    Raises:
        FileNotFoundError, ValueError: naming an image that cannot be read; as :func:`run_evaluation`.
    """

    def found() -> Iterator[tuple[int, Detections]]:
        share = range(world.rank, len(dataset), world.size)
        for index in tqdm(share, desc="evaluating", unit="image", leave=False, **_quiet(progress, world)):
            try:
                sample = dataset.load(index)
            except (OSError, ValueError) as error:
                if dataset.bad_images == "raise":
                    raise
                warnings.warn(f"an image is left out: {error}", stacklevel=2)
                continue
            yield sample.image_id, on_host([find(sample.image)])[0]

    return _judge(found(), dataset, world)


def _quiet(progress: bool, world: World) -> dict[str, Any]:
    """What switches a progress bar off; nothing else is named: an argument would win over TQDM_DISABLE."""
    return {} if progress and world.is_writer else {"disable": True}


def _judge(found: Iterable[tuple[int, Detections]], dataset: CocoDataset, world: World) -> Evaluation:
    """Compare what was found in each image, by its id, with what the data set says."""
    results: list[dict[str, Any]] = []
    image_ids: list[int] = []
    masks = False
    for image_id, detections in found:
        image_ids.append(image_id)
        masks = masks or detections.stored_masks is not None
        results += coco_results(detections, image_id, dataset.category_ids)
    shares = world.gather((results, image_ids, masks))
    masks = any(share[2] for share in shares)
    if len(shares) > 1:
        # images in the order of the data set again, as one process would have met them
        order = {image_id: place for place, image_id in enumerate(dataset.image_ids)}
        results = sorted((row for rows, _, _ in shares for row in rows), key=lambda row: order[row["image_id"]])
        image_ids = sorted((image_id for _, ids, _ in shares for image_id in ids), key=order.__getitem__)
    numbers = None
    if world.is_writer:
        truth = read_ground_truth(dataset.json_file, masks=masks)
        numbers = coco_metrics(truth, results, dataset.category_ids, image_ids)
        if masks:
            numbers = _side_by_side(numbers, coco_metrics(truth, results, dataset.category_ids, image_ids, masks=True))
    numbers = world.broadcast(numbers)
    assert numbers is not None
    by_class = dict(zip(dataset.classes, numbers.per_class, strict=True))
    return Evaluation(numbers.metrics, by_class, numbers.precision, results, image_ids)


def _side_by_side(boxes: CocoNumbers, masks: CocoNumbers) -> CocoNumbers:
    """The numbers of boxes, and those of masks under names of their own."""

    def joined(of_boxes: dict[str, float], of_masks: dict[str, float]) -> dict[str, float]:
        return of_boxes | {f"{OF_MASKS}{name}": value for name, value in of_masks.items()}

    per_class = [joined(*pair) for pair in zip(boxes.per_class, masks.per_class, strict=True)]
    return CocoNumbers(joined(boxes.metrics, masks.metrics), per_class, boxes.precision)


def coco_results(detections: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One image's detections in the COCO results format: ``xywh``, the JSON's own category ids, masks in RLE.

    >>> found = Detections(torch.tensor([[1., 2., 4., 6.]]), torch.tensor([0.5]), torch.tensor([1]))
    >>> coco_results(found, image_id=7, category_ids=(1, 90))
    [{'image_id': 7, 'category_id': 90, 'bbox': [1.0, 2.0, 3.0, 4.0], 'score': 0.5}]
    """
    boxes = detections.boxes.double().cpu()
    sizes = boxes[:, 2:] - boxes[:, :2]
    rows = zip(
        torch.cat([boxes[:, :2], sizes], dim=1).tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    )
    results = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in rows
    ]
    for result, rle in zip(results, encode_stored(detections), strict=False):  # none from a detector of boxes alone
        result["segmentation"] = rle
    return results


def coco_metrics(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int] | None = None,
    *,
    masks: bool = False,
) -> CocoNumbers:
    """AP and AR as pycocotools computes them, for ids of any size.

    The COCO tools keep ids as double precision, which cannot tell 2^53 from 2^53 + 1, and take a box with the id 0 for
    one that nobody found.  So they are given numbers from 1 in the order of the ids.

    Args:
        ground_truth: what :func:`~minirtmdet.evaluation.entries.read_ground_truth` gives, or a dict like it; an
            annotation with ``ignore`` set is one with ``iscrowd``.
        results: detections in the COCO results format; may be empty.
        category_ids: the categories that count; classes come in this order.
        image_ids: the images that count; all where left out.
        masks: compare masks in place of boxes.  Sizes are then those of masks: for ground truth what the file says,
            or the mask's pixels where that is the area of the box.  Annotations without a mask are left out, ignore
            regions are their box then.

    Raises:
        ValueError: naming the annotation that has no box, or whose values mean nothing; naming the image for a mask of
            another size, which would match nothing.
    """
    if image_ids is None:
        image_ids = read_image_ids(ground_truth, SOURCE)
    images, categories = _numbers(image_ids), _numbers(category_ids)
    sizes = {image.id: image.size for image in read_images(ground_truth, SOURCE)} if masks else {}
    truths = truths_that_count(ground_truth, images, categories)
    pairs: Iterable[tuple[Annotation, dict[str, Any]]] = ((entry, {}) for entry in truths)
    if masks:
        pairs = truths_with_masks(truths, sizes)
    found = results_that_count(results, images, categories)
    everything = {
        "images": [
            {"id": number, **({"height": sizes[image_id][0], "width": sizes[image_id][1]} if masks else {})}
            for image_id, number in images.items()
        ],
        "categories": [{"id": number, "name": str(category_id)} for category_id, number in categories.items()],
    }
    annotations = [
        {
            **fields_of(entry),
            "id": number,
            "image_id": images[entry.image_id],
            "category_id": categories[entry.category_id],
            **mask,
        }
        for number, (entry, mask) in enumerate(pairs, 1)
    ]
    # made by hand: loadRes of the COCO tools fails where nothing was detected
    detections = [
        {
            **entry,
            "id": number,
            "image_id": images[entry["image_id"]],
            "category_id": categories[entry["category_id"]],
            "iscrowd": 0,
            **(mask_of_result(entry, sizes) if masks else {"area": entry["bbox"][2] * entry["bbox"][3]}),
        }
        for number, entry in enumerate(found, 1)
    ]
    evaluation = COCOeval_faster(
        COCO({**everything, "annotations": annotations}),
        COCO({**everything, "annotations": detections}),
        "segm" if masks else "bbox",
        print_function=lambda *_: None,  # it prints a table of its own
    )
    evaluation.params.catIds = list(categories.values())
    evaluation.params.imgIds = list(images.values())
    evaluation.run()
    order = [categories[category_id] - 1 for category_id in category_ids]
    # [IoU thresholds, recalls, categories, sizes (all, s, m, l), detection limits] and the same without recalls
    precision = np.asarray(evaluation.eval["precision"])[..., -1][:, :, order]
    recall = np.asarray(evaluation.eval["recall"])[:, :, 0, -1][:, order]
    return CocoNumbers(
        metrics=dict(zip(METRICS, map(float, evaluation.stats), strict=True)),
        per_class=[
            {
                "AP": _mean(precision[:, :, label, 0]),
                "AP50": _mean(precision[0, :, label, 0]),
                "AP75": _mean(precision[5, :, label, 0]),
                "APs": _mean(precision[:, :, label, 1]),
                "APm": _mean(precision[:, :, label, 2]),
                "APl": _mean(precision[:, :, label, 3]),
                "AR100": _mean(recall[:, label]),
            }
            for label in range(len(order))
        ],
        precision=precision[..., 0],
    )


def _numbers(ids: Iterable[int]) -> dict[int, int]:
    """A number from 1 for each id, in their order: detections of equal scores keep the order of their images."""
    return {value: number for number, value in enumerate(sorted(set(ids)), 1)}


def _mean(values: np.ndarray) -> float:
    """Of the values that are there; the COCO tools write -1 where nothing is annotated."""
    values = values[values > -1]
    return float(values.mean()) if len(values) else -1.0
