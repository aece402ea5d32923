"""Training images per second, this package's pipeline and MMDetection's own, on one process and the same JPEG files.

    python benchmarks/data_pipeline.py --reference .venv-reference/bin/python

``make parity`` makes that environment.  Each side runs in its own process; they take turns, a few rounds, and the
medians are compared.  Writes ``benchmarks/results/data_pipeline.json``.

What is measured: the first stage of the recipe (load, mosaic, resize, crop, colours, flip, pad, MixUp) for tiny and
for s (l differs from s in its scales alone), the second stage, and what makes a batch of eight ready for the network
from samples that are made already: collate alone, and with the way to normalised floating point, here on the processor
like all the rest, while in training both packages do that on the device.  The original's samples are tensors already
(``PackDetInputs``, counted with its stages) and its collate only lists them; here collating makes the batch.

Beside that last ratio stands its limit: what it would be if nothing were done but to fill the same memory with one
number, as fp32 and as bf16, from the same allocator.  Nothing that ends in such a batch can be faster.
"""

import argparse
import copy
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).parent / "results" / "data_pipeline.json"
INPUT, BATCH = 640, 8
SIZE = (480, 640)
"""(height, width) of the images, the most frequent one of COCO."""
WARM_UP, TIMED = 60, 120
STAGES = ("tiny stage 1", "s stage 1", "s stage 2")
FLOORS = ("write fp32", "write bf16")
"""A batch filled with one number: the least that normalised pixels cost."""
MEASURES = (*STAGES, "collate", "collate and normalise")
PREPROCESS = {"mean": [103.53, 116.28, 123.675], "std": [57.375, 57.12, 58.395], "bgr_to_rgb": False}


def make_images(folder: Path, count: int) -> None:
    """Generated scenes as JPEG files with COCO JSON."""
    import cv2
    import numpy as np

    from minirtmdet.configs import ScenesConfig
    from minirtmdet.data.scenes import CLASSES, render_scene

    images, annotations = [], []
    for i in range(count):
        pixels, boxes, labels = render_scene(ScenesConfig(size=INPUT), "train", i)
        name = f"{i:04d}.jpg"
        cv2.imwrite(str(folder / name), pixels[: SIZE[0]], [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append({"id": i + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for (x1, y1, x2, y2), label in zip(np.clip(boxes, 0, SIZE[::-1] * 2).tolist(), labels.tolist(), strict=True):
            if y2 - y1 > 4:
                bbox, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
                entry = {"image_id": i + 1, "category_id": label + 1, "bbox": bbox, "area": area, "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **entry})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")


# ---------------------------------------------------------------------------------------------- the two sides

Measure = Callable[[], tuple[float, int]]
"""Seconds, and how many images they made."""


def timed(work: Callable[[], Any], images: int, times: int = 1) -> tuple[float, int]:
    """Time ``work``, which makes so many images, so many times; nothing that it makes is kept."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return time.perf_counter() - start, images * times


def ours(folder: Path) -> dict[str, Measure]:
    """This package."""
    import torch

    from minirtmdet.data.coco import CocoDataset
    from minirtmdet.data.loader import collate, epoch_order
    from minirtmdet.data.pipeline import TrainPipeline
    from minirtmdet.detector import build_detector
    from minirtmdet.presets import PRESETS

    dataset = CocoDataset(folder / "train.json", folder)
    model = build_detector("tiny", num_classes=16)

    def stage(name: str) -> Measure:
        size, _, number = name.split()
        config = PRESETS[f"rtmdet-{size}"]
        pipeline = TrainPipeline(config.augment, INPUT, 0, config.epochs)
        epoch = 0 if number == "1" else config.epochs - 1
        order = epoch_order(0, epoch, len(dataset), 100_000)
        at = 0

        def run(count: int) -> None:
            nonlocal at
            for position in range(at, at + count):
                pipeline(epoch, position, order, dataset.load)
            at += count

        run(WARM_UP)
        return lambda: timed(lambda: run(TIMED), TIMED)

    pipeline = TrainPipeline(PRESETS["rtmdet-s"].augment, INPUT, 0, 300)
    order = epoch_order(0, 0, len(dataset), len(dataset))
    samples = [pipeline(0, position, order, dataset.load) for position in range(BATCH)]

    def batch() -> Any:
        return collate(samples, 16)

    def normalised() -> torch.Tensor:
        return model.preprocess(batch().images)

    def write(dtype: torch.dtype) -> torch.Tensor:
        return torch.full((BATCH, INPUT, INPUT, 3), 1.0, dtype=dtype)

    return {name: stage(name) for name in STAGES} | {
        "collate": lambda: timed(batch, BATCH, 20),
        "collate and normalise": lambda: timed(normalised, BATCH, 10),
        "write fp32": lambda: timed(lambda: write(torch.float32), BATCH, 10),
        "write bf16": lambda: timed(lambda: write(torch.bfloat16), BATCH, 10),
    }


def original(folder: Path) -> dict[str, Measure]:
    """MMDetection, with the pipelines of its own config files."""
    import mmdet
    from mmdet.models import DetDataPreprocessor
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate

    register_all_modules()
    configs = Path(mmdet.__file__).parent / ".mim" / "configs" / "rtmdet"

    def data(size: str, key: str) -> Any:
        config = Config.fromfile(configs / f"rtmdet_{size}_8xb32-300e_coco.py")
        settings = config.train_dataloader.dataset
        classes = [entry["name"] for entry in json.loads((folder / "train.json").read_text())["categories"]]
        settings.update(data_root="", ann_file=str(folder / "train.json"), data_prefix={"img": str(folder)})
        settings.update(pipeline=config[key], metainfo={"classes": classes})
        return DATASETS.build(settings)

    def stage(name: str) -> Measure:
        size, _, number = name.split()
        dataset = data(size, "train_pipeline" if number == "1" else "train_pipeline_stage2")
        at = 0

        def run(count: int) -> None:
            nonlocal at
            for position in range(at, at + count):
                dataset[position % len(dataset)]
            at += count

        run(WARM_UP)
        return lambda: timed(lambda: run(TIMED), TIMED)

    dataset = data("s", "train_pipeline")
    samples = [dataset[i] for i in range(BATCH)]
    preprocess = DetDataPreprocessor(**PREPROCESS, batch_augments=None)
    batch = pseudo_collate(samples)

    def normalised() -> Any:
        # it writes into its samples: a fresh outer list each time, the pixels are not changed
        return preprocess({**pseudo_collate(samples), "data_samples": copy.copy(batch["data_samples"])}, training=True)

    return {name: stage(name) for name in STAGES} | {
        "collate": lambda: timed(lambda: pseudo_collate(samples), BATCH, 20),
        "collate and normalise": lambda: timed(normalised, BATCH, 10),
    }


def side(name: str, folder: Path) -> None:
    """Measure what standard input asks for, a line a measurement, until it ends."""
    import cv2
    import numpy as np
    import torch

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print would come between the answers
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  # the original draws from the global generators
    measures = {"ours": ours, "original": original}[name](folder)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"numpy": np.__version__, "opencv": cv2.__version__}
    if name == "original":
        import mmcv
        import mmdet

        versions |= {"mmdet": mmdet.__version__, "mmcv": mmcv.__version__}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measures[line.strip()]()), file=answers, flush=True)


# ------------------------------------------------------------------------------------------------ the comparison


class Side:
    """One side's process."""

    def __init__(self, python: str, name: str, folder: Path) -> None:
        # alike for both: whether the allocator gives memory back to the system decides much of such times
        allocator = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000"}
        command = [python, str(Path(__file__)), "--side", name, "--folder", str(folder)]
        environment = os.environ | allocator | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = self.answer()

    def answer(self) -> Any:
        """The next line that the process prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{shlex.join(map(str, self.process.args))} failed; see above")  # type: ignore[arg-type]
        return json.loads(line)

    def measure(self, what: str) -> float:
        """Milliseconds per image."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        seconds, images = self.answer()
        return 1000 * seconds / images


def main() -> None:
    """Measure in turns, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reference", help="Python of the environment that has MMDetection")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=("ours", "original"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.folder)
        return
    if not args.reference:
        parser.error("--reference is needed: the Python of the environment that has MMDetection")

    with TemporaryDirectory() as folder:
        make_images(Path(folder), args.images)
        sides = {
            "ours": Side(sys.executable, "ours", Path(folder)),
            "original": Side(args.reference, "original", Path(folder)),
        }
        rounds: dict[str, dict[str, list[float]]] = {what: {"ours": [], "original": []} for what in MEASURES}
        writes: dict[str, list[float]] = {what: [] for what in FLOORS}
        for _ in range(args.rounds):
            for what, times in rounds.items():
                for name, one in sides.items():
                    times[name].append(one.measure(what))
            for what, values in writes.items():
                values.append(sides["ours"].measure(what))
        for one in sides.values():
            one.process.communicate()

    results: dict[str, dict[str, Any]] = {}
    for what, times in rounds.items():
        ms = {name: round(statistics.median(values), 3) for name, values in times.items()}
        spread = {name: [round(min(values), 3), round(max(values), 3)] for name, values in times.items()}
        rate = {name: round(1000 / value, 1) for name, value in ms.items()}
        results[what] = {
            "ms_per_image": ms,
            "least_and_most": spread,
            "images_per_second": rate,
            "ratio": round(ms["original"] / ms["ours"], 2),
        }
        print(f"{what:22} ours {ms['ours']:7.2f} ms  original {ms['original']:7.2f} ms  x {results[what]['ratio']:.2f}")
    last = results["collate and normalise"]
    last["limit"] = limits = {}
    for what, values in writes.items():
        least = round(statistics.median(values), 3)
        limits[what] = {"ms_per_image": least, "ratio": round(last["ms_per_image"]["original"] / least, 2)}
        print(f"{what:22} alone {least:6.2f} ms{'':19}x {limits[what]['ratio']:.2f} at most")
    record = {
        "command": "python benchmarks/data_pipeline.py --reference .venv-reference/bin/python"
        + f" --rounds {args.rounds} --images {args.images}",
        "date": date.today().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {name: one.versions for name, one in sides.items()},
        "images": f"{args.images} generated scenes, JPEG of {SIZE[1]} x {SIZE[0]}, one process with one thread",
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
