"""``minirtmdet eval``: the COCO numbers of a detector."""

import dataclasses
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from minirtmdet import plots
from minirtmdet.cli.loading import ARGUMENTS, Device, Size, checked, folders_of, load, run_of, tiles_of
from minirtmdet.configs import DataConfig, Side
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.splits import resolve_val
from minirtmdet.data.tile_grid import Overlap
from minirtmdet.distributed import joined
from minirtmdet.evaluation.coco import Evaluation, evaluate_images, run_evaluation
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.evaluation.matching import Match, match_images
from minirtmdet.evaluation.table import metrics_table
from minirtmdet.evaluation.thresholds import (
    METRICS_FILE,
    calibration,
    choices,
    confusion_matrix,
    count_mistakes,
    of_tiles,
    threshold_curve,
)
from minirtmdet.files import check_not_read, check_writable, write_json
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.messages import counted
from minirtmdet.settings import Count, Share, Whole

MOST = 100
"""Detections per image and class that COCO's numbers count."""


@dataclass(frozen=True)
class EvalData:
    """What to evaluate on; settings left out are those of the run."""

    root: Path | None = None
    """Folder of a COCO JSON data set."""
    val_json: Path | None = None
    """Annotations, where ``root`` does not name them."""
    val_images: Path | None = None
    """Folder of the images, where ``root`` does not name it."""
    input_size: Side | None = None
    """Side of the square network input, in pixels; 640 for files that do not say."""
    workers: Whole | None = None
    """Processes that load images beside this one."""
    bad_boxes: Literal["drop", "raise"] | None = None
    """What to do with boxes without area or outside the image."""
    bad_images: Literal["skip", "raise"] | None = None
    """What to do with a missing or broken image: leave it out with a counted warning, or stop."""
    check: Literal["headers", "full"] | None = None
    """How closely every image is looked at before the start: the first and last bytes of its file, or decoded."""
    max_pixels: Count | None = None
    """An image of more pixels is bad, and not decoded."""
    outside_files: Literal["raise", "allow"] | None = None
    """What to do with file names in the annotations that lead out of the folder of the images."""


@checked
def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    data: EvalData = EvalData(),
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    out: Path | None = None,
    threshold: Share | Literal["best"] = 0.3,
    tiles: bool = False,
    overlap: Overlap | None = None,
    worst: Count = 12,
    batch_size: Count = 16,
    device: Device = "auto",
) -> None:
    """Print the COCO numbers of a run, a checkpoint or an exported file.

    Processes that torchrun starts share the images; one of them prints and writes.  In tiles, images are read by each
    process itself, without loading processes.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's or an exported one too, or a size for its
            published weights.
        data: what to evaluate on.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        out: folder to write into: metrics.json, detections.json (COCO results), and figures: precision_recall.png,
            thresholds.png, confusion.png, mistakes.png, calibration.png and worst.png.
        threshold: for worst.png, confusions and mistakes, the score over which a detection counts; best: that of the
            highest F1.
        tiles: look at images that are larger than the input piece by piece, as predict --tiles does; what is written
            then has -tiles in its name (metrics-tiles.json, ...), beside what an evaluation without has written.
        overlap: share of a tile's side that neighbours have in common; 0.25 where left out.
        worst: images in worst.png: those of the most misses and false detections at IoU 0.5.
        batch_size: images, or tiles, per forward pass, on each process.
        device: auto takes the GPU where there is one; openvino runs an exported file by OpenVINO, tensorrt by TensorRT,
            which nobody has tried yet.
    """
    pieces = tiles_of(tiles, overlap, batch_size)
    with joined(device, "start it again") as world, redirect_stdout(sys.stdout if world.is_writer else None):
        loaded = load(checkpoint, model, classes, device, world)
        settings = _eval_data(loaded, data)
        val = resolve_val(settings)
        if out is not None:
            check_writable(out)
            check_not_read([out], [*folders_of(val), *run_of(loaded.source)])
        dataset = CocoDataset.from_config(val, settings, loaded.classes)
        if len(dataset.classes) != loaded.num_classes:
            raise ValueError(
                f"{checkpoint} predicts {loaded.num_classes} classes and does not name them, {val.json_file} has "
                f"{len(dataset.classes)}: name them with --classes"
            )
        if pieces is None:
            size = {"input_size": settings.input_size, "batch_size": batch_size, "workers": settings.workers}
            gpu = loaded.model.device.type == "cuda"
            loader = EvalLoader(dataset, **size, rank=world.rank, world_size=world.size, pin_memory=gpu)
            evaluation = run_evaluation(loaded.model, loader, dataset, loaded.limits, world=world)
        else:
            find = loaded.finder(input_size=settings.input_size, tiles=pieces)
            evaluation = evaluate_images(find, dataset, world=world)
    if not world.is_writer:
        return
    way = f", in tiles of {settings.input_size} px that overlap by {pieces.overlap:g}" if pieces else ""
    print(f"{counted(len(dataset), 'image')} of {val.json_file}{way}")
    print(metrics_table(evaluation.metrics, evaluation.by_class))
    if crowded := _count_crowded(dataset):
        print(
            f"  ! {counted(crowded, 'image has', 'images have')} more than {MOST} boxes of a class: "
            f"COCO's numbers count {MOST} detections per image and class, so that AP cannot reach 1"
        )
    if out is not None:
        about = {
            "command": shlex.join(["minirtmdet", *ARGUMENTS.get()]),
            "checkpoint": str(loaded.source),
            "data": {"json": str(val.json_file), "images": str(val.images), "num_images": len(dataset)},
            "input_size": settings.input_size,
            "tiles": None if pieces is None else {"overlap": pieces.overlap, "whole": pieces.whole},
            "predict": dataclasses.asdict(loaded.limits),
        }
        _write_evaluation(out, about, evaluation, dataset, threshold, worst, loaded.limits.score_threshold)


def _count_crowded(dataset: CocoDataset) -> int:
    """How many images have more boxes of one class than COCO's numbers count detections."""
    entries = (dataset.entry(index) for index in range(len(dataset)))
    return sum(bool((np.bincount(one.labels[~one.ignore], minlength=1) > MOST).any()) for one in entries)


def _write_evaluation(
    out: Path,
    about: dict[str, object],
    evaluation: Evaluation,
    dataset: CocoDataset,
    threshold: float | Literal["best"],
    worst: int,
    least: float,
) -> None:
    """Numbers, detections, curves, and the images that went worst."""
    truth = read_ground_truth(dataset.json_file)

    def matches_at(threshold: float) -> dict[int, Match]:
        ids = dataset.category_ids, evaluation.image_ids
        return match_images(truth, evaluation.results, *ids, score_threshold=threshold)

    everything = list(matches_at(least).values())
    best, by_class = choices(everything, dataset.classes, least)
    if threshold == "best":
        threshold = best.threshold if best else 0.3
    matches = matches_at(threshold)
    files = {entry["id"]: entry["file_name"] for entry in truth["images"]}
    rows = [
        {"file": files[image_id], "f1": match.f1, "missed": match.missed, "false": match.false}
        for image_id, match in matches.items()
    ]
    count = len(dataset.classes)
    confused = confusion_matrix(list(matches.values()), count)
    wrong = count_mistakes(list(matches.values()), count)
    calibrated = calibration(everything)
    numbers = {
        "metrics": evaluation.metrics,
        "per_class": evaluation.by_class,
        "best_threshold": best and best._asdict(),
        "best_threshold_per_class": {name: choice and choice._asdict() for name, choice in by_class.items()},
        "calibration": {name: np.asarray(values).tolist() for name, values in calibrated._asdict().items()},
        "threshold": threshold,
        "mistakes": {kind: int(values.sum()) for kind, values in wrong.items()},
        "confusion": {"rows": "true", "names": [*dataset.classes, "background"], "counts": confused.tolist()},
    }
    name = of_tiles if about["tiles"] else str
    write_json(out / name(METRICS_FILE), {**about, **numbers, "worst_first": rows})
    write_json(out / name("detections.json"), evaluation.results)
    shown = list(matches)[:worst]
    images = [dataset.load(dataset.image_ids.index(image_id)).image for image_id in shown]
    curves = {name: threshold_curve(everything, label) for label, name in enumerate(dataset.classes)}
    drawn = {
        "precision_recall.png": plots.precision_recall_by_iou(evaluation.precision, dataset.classes),
        "thresholds.png": plots.threshold_curves(threshold_curve(everything), curves, best),
        "confusion.png": plots.confusions(confused, dataset.classes),
        "mistakes.png": plots.mistake_counts(wrong, dataset.classes),
        "calibration.png": plots.reliability(calibrated),
        "worst.png": plots.worst_images(
            images, [matches[i] for i in shown], dataset.classes, [files[image_id] for image_id in shown]
        ),
    }
    figures = {name(file): figure for file, figure in drawn.items()}
    for file, figure in figures.items():
        plots.save(figure, out / file)
    if best is not None:
        print(
            f"best threshold {best.threshold:.3f}: F1 {best.f1:.3f}, precision {best.precision:.3f}, recall "
            f"{best.recall:.3f} at IoU 0.5"
        )
    print(f"written to {out}: {', '.join([name(METRICS_FILE), name('detections.json'), *figures])}")


def _eval_data(loaded: LoadedDetector, data: EvalData) -> DataConfig:
    """The run's own data, with what the command line changes.

    Data that the command line names takes the place of all of the run's: else the root of one and the images of the
    other would be mixed.
    """
    given = {key: value for key, value in dataclasses.asdict(data).items() if value is not None}
    named = {"root", "val_json", "val_images"} & set(given)
    if loaded.data is None and not named:
        raise ValueError(f"{loaded.source} does not say what to evaluate on: give --data.root")
    base = loaded.data or DataConfig()
    if named:
        base = replace(base, root=None, train_json=None, train_images=None, val_json=None, val_images=None)
    return replace(base, **{**given, "input_size": loaded.input_side(data.input_size)})
