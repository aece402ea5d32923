"""Numbers and figures of a finished run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minirtmdet.configs import PredictConfig
from minirtmdet.data.augment import eval_sample
from minirtmdet.data.coco import CocoDataset
from minirtmdet.detector import RTMDet
from minirtmdet.engine.runlog import NOT_JUDGED, Row
from minirtmdet.engine.state import Progress
from minirtmdet.files import write_json
from minirtmdet.structures import Detections

SHEET = 8
"""Validation images on the sheet of detections."""

# pixels (BGR), detections and true boxes of some images, in pixels of the file
Examples = tuple[list[np.ndarray], list[Detections], list[Tensor]]


def detect_evenly(
    model: RTMDet, dataset: CocoDataset, config: PredictConfig, input_size: int, count: int = SHEET
) -> Examples:
    """Some images of a data set, evenly spaced, with what a detector finds in them.

    Args:
        model: the detector.
        dataset: the images.
        config: thresholds and limits.
        input_size: side that images are resized to, in pixels.
        count: images; all where the data set has fewer.

    Returns:
        Pixels (BGR), detections and true boxes of each, in pixels of the file.
    """
    count = min(count, len(dataset))
    samples = [dataset.load(index * len(dataset) // count) for index in range(count)]
    inputs = [eval_sample(sample, input_size) for sample in samples]
    pixels = torch.from_numpy(np.stack([sample.image for sample in inputs])).permute(0, 3, 1, 2)
    detections = model.predict(
        pixels.to(model.device),
        config,
        [sample.img_shape for sample in inputs],
        [sample.scale_factor for sample in inputs],
    )
    boxes = [torch.from_numpy(sample.boxes[~sample.ignore]) for sample in samples]
    return [sample.image for sample in samples], detections, boxes


def write_numbers(
    folder: Path, progress: Progress, history: Sequence[Row], *, model: RTMDet, device: torch.device, images: int
) -> None:
    """Write ``metrics.json``, and the log as a figure, ``loss_curve.png``.

    Args:
        folder: of the run.
        progress: at its end.
        history: the rows of the log.
        model: the network.
        device: of the run.
        images: that it was trained on, each as often as it came.
    """
    from minirtmdet import plots  # not above: only the end of a run needs matplotlib

    write_json(
        folder / "metrics.json",
        {
            "metrics": progress.metrics,
            "per_class": progress.per_class,
            "best": progress.best,
            "epochs": progress.epoch,
            "steps": progress.step,
            "images_seen": images,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "device": str(device),
            "train_seconds": round(progress.seconds, 1),
        },
    )
    plots.save(plots.loss_curve(history), folder / "loss_curve.png")


def write_sheet(folder: Path, examples: Examples, classes: Sequence[str]) -> None:
    """Write what :func:`detect_evenly` found into ``detections.png``."""
    from minirtmdet import plots

    images, detections, boxes = examples
    plots.save(plots.detection_sheet(images, detections, classes, boxes), folder / "detections.png")


def describe_results(folder: Path, progress: Progress) -> str:
    """The last line of a run."""
    metrics, best = progress.metrics, progress.best
    main = "mask_AP" if "mask_AP" in metrics else "AP"
    ap = f"{main.replace('_', ' ')} {metrics[main]:.3f}" if metrics["AP"] >= 0 else NOT_JUDGED
    words = f", best {best[main]:.3f} after epoch {best['epoch']:.0f}" if best else ""
    return f"done: {ap}{words}; numbers and images are in {folder}"
