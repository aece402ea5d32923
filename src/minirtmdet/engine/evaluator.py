"""COCO average precision of a detector, by a COCO evaluation library."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from faster_coco_eval import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from tqdm import tqdm

from minirtmdet.checkpoints import atomic_path
from minirtmdet.configs import PredictConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import Batch
from minirtmdet.detector import RTMDet
from minirtmdet.structures import Detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The standard twelve, in the order of the COCO tools; -1 where no box of that size is annotated."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        metrics: the values of :data:`METRICS`.
        per_class: AP of each class by name; -1 for a class without boxes.
        results: every detection, as the COCO results format has it.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    results: list[dict[str, Any]]


def evaluate(
    model: RTMDet,
    loader: Iterable[Batch],
    dataset: CocoDataset,
    config: PredictConfig = PredictConfig(),
    *,
    progress: bool = True,
) -> dict[str, float]:
    """The standard twelve COCO numbers of a model on a data set, by the names of :data:`METRICS`."""
    return run_evaluation(model, loader, dataset, config, progress=progress).metrics


def run_evaluation(
    model: RTMDet,
    loader: Iterable[Batch],
    dataset: CocoDataset,
    config: PredictConfig = PredictConfig(),
    *,
    progress: bool = True,
) -> Evaluation:
    """Detect in every picture of ``loader`` and compare with the boxes of ``dataset``.

    Args:
        model: any mode; its class indices are the labels of ``dataset``.
        loader: batches of pictures of ``dataset``; only these pictures are counted.
        dataset: its annotations are read from its JSON file again, so that nothing the loading dropped is missing.
        config: thresholds and limits of prediction.
        progress: show a progress bar.
    """
    device = next(model.parameters()).device
    results: list[dict[str, Any]] = []
    image_ids: list[int] = []
    # named only to switch it off: an argument would win over TQDM_DISABLE
    quiet = {} if progress else {"disable": True}
    for batch in tqdm(loader, desc="evaluating", unit="batch", leave=False, **quiet):
        images = batch.images.to(device, non_blocking=True, memory_format=torch.channels_last)
        detections = model.predict(images, config, batch.img_shapes, batch.scale_factors)
        image_ids += batch.image_ids
        for image_id, found in zip(batch.image_ids, detections, strict=True):
            results += coco_results(found, image_id, dataset.category_ids)
    metrics, per_class = coco_metrics(read_ground_truth(dataset.json_file), results, dataset.category_ids, image_ids)
    return Evaluation(metrics, dict(zip(dataset.classes, per_class, strict=True)), results)


def coco_results(detections: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One picture's detections in the COCO results format: ``xywh``, the JSON's own category ids.

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
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in rows
    ]


def read_ground_truth(json_file: Path) -> dict[str, Any]:
    """A COCO JSON made ready for evaluation: annotations numbered from 1, areas and crowd flags filled in.

    The COCO tools take a box with the id 0 for one that nobody found.  Boxes that are not four finite numbers
    are left out, which the tools would stop at.
    """
    content = json.loads(json_file.read_bytes())
    annotations = [entry for entry in content["annotations"] if _is_box(entry.get("bbox"))]
    return {
        "images": content["images"],
        "categories": content["categories"],
        "annotations": [
            {
                **entry,
                "id": number,
                "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
                "iscrowd": int(entry.get("iscrowd", 0)),
            }
            for number, entry in enumerate(annotations, 1)
        ],
    }


def coco_metrics(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int] | None = None,
) -> tuple[dict[str, float], list[float]]:
    """AP and AR as pycocotools computes them.

    Args:
        ground_truth: what :func:`read_ground_truth` gives.
        results: detections in the COCO results format; may be empty.
        category_ids: the categories that count.
        image_ids: the pictures that count; all where left out.

    Returns:
        The values of :data:`METRICS`, and the AP of each category in the order given.
    """
    # made by hand: loadRes of the COCO tools fails where nothing was detected
    detections = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(results, 1)
    ]
    evaluation = COCOeval_faster(
        COCO(ground_truth), COCO({**ground_truth, "annotations": detections}), "bbox", print_function=_silent
    )
    evaluation.params.catIds = sorted(category_ids)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    evaluation.run()
    precision = evaluation.eval["precision"]  # [IoU thresholds, recalls, categories, areas, detection limits]
    per_class = {}
    for column, category_id in enumerate(evaluation.params.catIds):
        values = precision[:, :, column, 0, -1]
        per_class[category_id] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
    metrics = dict(zip(METRICS, map(float, evaluation.stats), strict=True))
    return metrics, [per_class[category_id] for category_id in category_ids]


def metrics_table(metrics: Mapping[str, float], per_class: Mapping[str, float]) -> str:
    """The twelve numbers and the AP of each class, best first, to print.

    >>> print(metrics_table(dict.fromkeys(METRICS, 0.5) | {"APl": -1.0}, {"cat": 0.25, "dog": 0.75, "owl": -1.0}))
       AP 0.500   AP50 0.500   AP75 0.500
      APs 0.500    APm 0.500    APl     -
      AR1 0.500   AR10 0.500  AR100 0.500
      ARs 0.500    ARm 0.500    ARl 0.500
    dog 0.750
    cat 0.250
    owl no boxes
    """
    shown = {name: "-" if value < 0 else f"{value:.3f}" for name, value in metrics.items()}
    rows = ["  ".join(f"{name:>5} {shown[name]:>5}" for name in METRICS[i : i + 3]) for i in range(0, 12, 3)]
    width = max(map(len, per_class), default=0)
    for name, value in sorted(per_class.items(), key=lambda item: -item[1]):
        rows.append(f"{name:<{width}} " + ("no boxes" if value < 0 else f"{value:.3f}"))
    return "\n".join(rows)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)


def _silent(*_: object) -> None:
    """The library prints its table through this."""
