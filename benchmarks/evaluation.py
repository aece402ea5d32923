"""Where an evaluation spends its time, and how many images loading processes make.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --only loading

Evaluation: of the 300 scenes that ``make train`` evaluates, by its detector at 160 px, and of 5,000 images like COCO's
validation set: 640 x 480, 80 classes, 7.3 boxes per image, 300 detections per image, by tiny at 640 px.  Weights are
random and answer as a trained detector's (``inference.py``).  Of the 5,000 images a few are read and looked at, and
their time is counted for all; the COCO tools get the detections of all, drawn around the boxes.

Loading: images per second that training gets, by the recipe of mini-160 from its scenes and by that of tiny from JPEG
files, from no loading process to as many as there are cores.  Nothing else runs meanwhile; the rounds take turns.

Writes ``benchmarks/results/evaluation.json`` and prints a table.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from head import HERE, TESTS, new_record, write_record

if TYPE_CHECKING:
    from inference_worker import Stopwatch

    from minirtmdet.data.coco import CocoDataset
    from minirtmdet.detector import RTMDet

RESULT = HERE / "results" / "evaluation.json"
SCENES, IMAGES = 300, 5000
"""Of the first evaluation, and of the second."""
LOOKED_AT = 64
"""Of the second's images, those that are read and looked at."""
CLASSES = 80
EVAL_BATCH, TRAIN_BATCH = 16, 8
"""Images at a time: as ``minirtmdet eval`` takes them, and as ``make train`` does."""
STEPS, ROUNDS = 60, 3
"""Batches that are loaded in a round, and how many rounds there are."""


# ------------------------------------------------------------------------------------------------ evaluation


def parts_of(model: "RTMDet", dataset: "CocoDataset", input_size: int) -> dict[str, float]:
    """Seconds of each part of an evaluation: reading, network, suppression, the COCO tools, and what is left."""
    from inference_worker import Stopwatch, time_method

    from minirtmdet.data.loader import EvalLoader
    from minirtmdet.evaluation import coco

    reading, network, predict, tools = (Stopwatch() for _ in range(4))
    time_method(model, "forward", network)
    time_method(model, "predict", predict)
    batches = EvalLoader(dataset, input_size=input_size, batch_size=EVAL_BATCH)
    with patch.object(coco, "coco_metrics", coco.coco_metrics):
        time_method(coco, "coco_metrics", tools)
        start = time.perf_counter()
        coco.run_evaluation(model, counted(batches, reading), dataset, progress=False)
        whole = time.perf_counter() - start
    found = {
        "reading": reading.seconds,
        "network": network.seconds,
        "suppression": predict.seconds - network.seconds,
        "COCO tools": tools.seconds,
    }
    return found | {"the rest": whole - sum(found.values())}


def counted(batches: Iterable[Any], watch: "Stopwatch") -> Iterator[Any]:
    """The batches; the time that they take goes to a watch."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        watch.seconds += time.perf_counter() - start
        if batch is None:
            return
        yield batch


def like_coco(images: int, boxes: float = 7.3, detections: int = 300) -> tuple[dict, list[dict]]:
    """Ground truth and detections in COCO's form, of images of 640 x 480.

    Sides are log-uniform from 12 to 320 px.  Of the detections, each box has one near it with a high score; the others
    lie anywhere and score little, as most do over a threshold of 0.001.
    """
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(1, images + 1):
        true = random_boxes(rng, rng.poisson(boxes))
        labels = rng.integers(1, CLASSES + 1, len(true)).tolist()
        for box, label in zip(true.tolist(), labels, strict=True):
            entry = {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **entry})
        near = true * rng.normal(1.0, 0.03, true.shape)
        found = np.concatenate((near, random_boxes(rng, detections - len(true)))).tolist()
        labels += rng.integers(1, CLASSES + 1, detections - len(true)).tolist()
        scores = [*rng.uniform(0.2, 0.9, len(true)), *rng.uniform(0.001, 0.1, detections - len(true))]
        for box, label, score in zip(found, labels, scores, strict=True):
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": float(score)})
    entries = [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(1, images + 1)]
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)]
    return {"images": entries, "annotations": annotations, "categories": categories}, results


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes ``xywh`` ``[count, 4]`` anywhere in an image."""
    sides = np.minimum(np.exp(rng.uniform(np.log(12), np.log(320), (count, 2))), (600, 440))
    return np.concatenate((rng.uniform(0, 1, (count, 2)) * ((640, 480) - sides), sides), 1)


def seconds_of_tools(images: int) -> float:
    """What the COCO tools take for so many images like COCO's."""
    from minirtmdet.evaluation.coco import coco_metrics

    truth, results = like_coco(images)
    start = time.perf_counter()
    coco_metrics(truth, results, range(1, CLASSES + 1))
    return time.perf_counter() - start


def evaluation(title: str, name: str, dataset: "CocoDataset", images: int) -> dict[str, Any]:
    """A row: seconds by part, for so many images like those of the data set, and their shares."""
    from inference import SIDES, detector

    seconds = parts_of(detector(name), dataset, SIDES[name])
    if len(dataset) != images:
        seconds = {part: one * images / len(dataset) for part, one in seconds.items()}
        seconds["COCO tools"] = seconds_of_tools(images)
    whole = sum(seconds.values())
    return {
        "name": title,
        "looked_at": len(dataset),
        "seconds": {part: round(one, 3) for part, one in seconds.items()},
        "share": {part: round(one / whole, 3) for part, one in seconds.items()},
    }


def with_classes(json_file: Path) -> None:
    """Give the data set as many categories as COCO has: those that are drawn, and others without a box."""
    content = json.loads(json_file.read_text(encoding="utf-8"))
    more = range(len(content["categories"]) + 1, CLASSES + 1)
    content["categories"] += [{"id": number, "name": f"class {number}"} for number in more]
    json_file.write_text(json.dumps(content), encoding="utf-8")


# --------------------------------------------------------------------------------------------------- loading


def loading(data: dict[str, "CocoDataset"]) -> dict[str, list[dict[str, Any]]]:
    """Images per second against loading processes, by preset."""
    counts = range((os.cpu_count() or 1) + 1)
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for preset, dataset in data.items():
            for workers in counts:
                found.setdefault((preset, workers), []).append(images_per_second(preset, dataset, workers))
    return {
        preset: [
            {"workers": workers, "images_per_s": round(statistics.median(found[preset, workers]), 1)}
            for workers in counts
        ]
        for preset in data
    }


def images_per_second(preset: str, dataset: "CocoDataset", workers: int) -> float:
    """What the loader gives after its processes have started and their queues are full."""
    from minirtmdet.data.loader import TrainLoader
    from minirtmdet.presets import PRESETS

    config = PRESETS[preset]
    settings = {"input_size": config.data.input_size, "batch_size": TRAIN_BATCH, "seed": 0, "epochs": config.epochs}
    loader = TrainLoader(dataset, config.augment, workers=workers, **settings)
    try:
        warm = 4 + 4 * workers
        epochs = -(-(warm + STEPS) // len(loader))
        batches = (batch for epoch in range(epochs) for batch in loader.epoch(epoch))
        for _ in range(warm):
            next(batches)
        start = time.perf_counter()
        for _ in range(STEPS):
            next(batches)
        return TRAIN_BATCH * STEPS / (time.perf_counter() - start)
    finally:
        loader.close()


# ------------------------------------------------------------------------------------------------ the record


def table(record: dict[str, Any]) -> str:
    """A record, to read."""
    lines = []
    for row in record["rows"]:
        lines += [
            row["name"],
            *(f"  {part:<12}{s:>9.2f} s{row['share'][part]:>7.1%}" for part, s in row["seconds"].items()),
        ]
    for preset, points in record.get("loading", {}).items():
        lines.append(
            f"images per second, {preset}: " + "  ".join(f"{p['workers']}: {p['images_per_s']}" for p in points)
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=("evaluation", "loading"), help="this part alone, without a record")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    sys.path[:0] = [str(TESTS), str(HERE)]
    torch.set_num_threads(options.threads)
    from data_pipeline import make_images

    from minirtmdet.configs import ScenesConfig
    from minirtmdet.data.coco import CocoDataset
    from minirtmdet.data.scenes import make_scenes

    record = new_record(Path(__file__).name, options.threads)
    del record["allocator"]  # as Python has it
    with TemporaryDirectory() as temporary:
        scenes, photos = Path(temporary, "scenes"), Path(temporary, "photos")
        make_scenes(ScenesConfig(train=200, val=SCENES), scenes, progress=False)
        photos.mkdir()
        make_images(photos, LOOKED_AT)
        with_classes(photos / "train.json")
        train, val = (CocoDataset(scenes / f"{part}.json", scenes / part) for part in ("train", "val"))
        large = CocoDataset(photos / "train.json", photos)
        if options.only != "loading":
            record["rows"] = [
                evaluation(f"{SCENES:,} scenes, 160 px", "mini", val, SCENES),
                evaluation(f"{IMAGES:,} images like COCO's, 640 px", "tiny", large, IMAGES),
            ]
        if options.only != "evaluation":
            record["loading"] = loading({"mini-160": train, "rtmdet-tiny": large})
    print(table(record))
    if not options.only:
        write_record(RESULT, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
