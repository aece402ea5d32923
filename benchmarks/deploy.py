"""What a trained detector keeps in each form that it can be deployed in: AP, size, and how long an image takes.

    python benchmarks/deploy.py runs/mini-160

The run's validation images are evaluated in each form: PyTorch, as it was trained and with BatchNorm fused, ONNX by
onnxruntime and by OpenVINO where that is installed, ncnn by ``examples/run_ncnn.py`` where that and pnnx are, and in
8 bits with more and more of the head left in single precision.  Ranges are measured on 200 of its training
images.  Latency is of one image at a time on one thread, from bytes to detections: all forms in turn in one process on
the same images, in milliseconds, and as a multiple of PyTorch's.  Only with ``--latency``, since on a machine with
other work it says nothing.  Writes ``benchmarks/results/deploy.json``.
"""

import argparse
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train import RESULTS, surroundings

from minirtmdet import load_detector
from minirtmdet.configs import STRIDES, PredictConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import Batch, EvalLoader
from minirtmdet.data.splits import resolve_splits
from minirtmdet.detector import Detector
from minirtmdet.evaluation.coco import run_evaluation
from minirtmdet.files import write_json
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.inference.export import export_onnx
from minirtmdet.inference.exported import ExportError, OnnxDetector
from minirtmdet.inference.openvino import OpenVinoDetector
from minirtmdet.inference.quantize import KEPT, batches_of, quantize_onnx
from minirtmdet.structures import Detections
from minirtmdet.weights.fuse import fuse_batch_norm

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")
HEAD = ("bbox_head",)
NCNN = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "examples" / "run_ncnn.py"), run_name="run_ncnn")
)
Form = tuple[Callable[[], Detector], Path]


class NcnnDetector:
    """What the example converts, with the package's own way from maps to detections."""

    device = torch.device("cpu")

    def __init__(self, run: Path, folder: Path):
        NCNN.convert(str(run), folder)
        self.net, self.info = NCNN.load(folder, torch.get_num_threads())

    def predict(
        self,
        images: Tensor,
        config: PredictConfig | None = None,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        scale_factors: Sequence[tuple[float, float]] | None = None,
    ) -> list[Detections]:
        """As :meth:`minirtmdet.detector.RTMDet.predict`."""
        config = config or PredictConfig()
        canvases = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        each = [NCNN.maps(self.net, canvas) for canvas in canvases]
        maps = [torch.from_numpy(np.stack(level)) for level in zip(*each, strict=True)]
        whole = [tuple(images.shape[-2:])] * len(images)
        clip = whole if img_shapes is None or config.clip == "input" else img_shapes
        levels = len(STRIDES)
        return predict_by_feat(maps[:levels], maps[levels:], config, self.info["prior_offset"], clip, scale_factors)


def forms(run: Path, folder: Path, images: list[Path]) -> dict[str, Form]:
    """By name, what makes a detector of each form, and its file."""
    loaded = load_detector(run, device="cpu")
    settings: dict[str, Any] = {"input_size": loaded.input_size, "classes": loaded.classes, "predict": loaded.limits}
    raw, nms = folder / "raw.onnx", folder / "nms.onnx"
    export_onnx(loaded.model, raw, **settings)  # type: ignore[arg-type]
    export_onnx(loaded.model, nms, nms=True, **settings)  # type: ignore[arg-type]
    fused = fuse_batch_norm(loaded.model)  # type: ignore[type-var]
    weights = {"PyTorch": loaded.model, "PyTorch, fused": fused}
    for name, model in weights.items():
        torch.save(model.state_dict(), folder / f"{name}.pt")  # type: ignore[attr-defined]
    made: dict[str, Form] = {
        **{name: (lambda model=model: model, folder / f"{name}.pt") for name, model in weights.items()},  # type: ignore[misc]
        "ONNX, all priors": (lambda: OnnxDetector(raw, "cpu"), raw),
        "ONNX with NMS": (lambda: OnnxDetector(nms, "cpu"), nms),
        "ONNX, OpenVINO": (lambda: OpenVinoDetector(raw), raw),
        "ncnn": (lambda: NcnnDetector(run, folder / "ncnn"), folder / "ncnn"),
    }
    info = OnnxDetector(raw, "cpu").info
    for name, source, kept in (
        ("int8, everything", raw, ()),
        ("int8 but the last convolutions", raw, KEPT),
        ("int8 but the head", raw, HEAD),
        ("int8 but the last convolutions, with NMS", nms, KEPT),
    ):
        path = folder / f"{name}.onnx"
        quantize_onnx(source, path, batches_of(images, info, len(images)), kept=kept)
        made[name] = (lambda path=path: OnnxDetector(path, "cpu"), path)  # type: ignore[misc]
    int8 = made["int8 but the last convolutions"][1]
    return {**made, "int8 but the last convolutions, OpenVINO": (lambda: OpenVinoDetector(int8), int8)}


def latencies(detectors: dict[str, Detector], batch: Batch, rounds: int) -> dict[str, float]:
    """Milliseconds of one image, the middle one of so many rounds, in each of which every form has its turn."""
    times: dict[str, list[float]] = {name: [] for name in detectors}
    for i in range(rounds + 3):
        image = batch.images[i % len(batch.images)][None]
        for name, detector in detectors.items():
            start = time.perf_counter()
            detector.predict(image)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def main(words: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--latency", action="store_true", help="time each form too; needs a machine without other work")
    parser.add_argument("--rounds", type=int, default=100, help="of timing")
    parser.add_argument("--calibration", type=int, default=200, help="images that ranges are measured on")
    parser.add_argument("--limit", type=int, help="evaluate so many images only, to try the command")
    parser.add_argument("--out", type=Path, default=RESULTS / "deploy.json")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    loaded = load_detector(args.run, device="cpu")
    if loaded.data is None:
        raise SystemExit(f"{args.run} does not say what it was trained on: name a run's folder")
    splits = resolve_splits(loaded.data)
    train, val = (CocoDataset.from_config(split, loaded.data, loaded.classes) for split in splits)
    count = min(args.calibration, len(train))
    paths = [train.load(i * len(train) // count).path for i in range(count)]
    batches = list(EvalLoader(val, input_size=loaded.input_size, batch_size=8))[: args.limit and -(-args.limit // 8)]
    rows, detectors = [], {}
    with TemporaryDirectory() as folder:
        for name, (make, path) in forms(args.run, Path(folder), paths).items():
            try:
                detectors[name] = make()
            except (ExportError, ImportError) as error:
                print(f"left out: {name}: {error}", file=sys.stderr)
                continue
            metrics = run_evaluation(detectors[name], batches, val, loaded.limits, progress=False).metrics
            size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
            rows.append({"form": name, "mb": size / 1e6, **{key: metrics[key] for key in SHOWN}})
            print(f"{name:<42} {rows[-1]['mb']:6.2f} MB  AP {metrics['AP']:.4f}", flush=True)
        if args.latency:
            times = latencies(detectors, batches[0], args.rounds)
            for row in rows:
                row["ms"] = times[row["form"]]
                row["latency"] = row["ms"] / times["PyTorch"]
                print(f"{row['form']:<42} {row['ms']:6.1f} ms, {row['latency']:.2f} of PyTorch's")
    record = {
        "command": f"python benchmarks/deploy.py runs/{loaded.source.parent.name}{' --latency' * args.latency}",
        "about": "AP on the run's validation images; ranges of int8 measured on its training images; MB of 10^6 bytes",
        "run": loaded.source.parent.name,
        "images": sum(len(batch.image_ids) for batch in batches),
        "input_size": loaded.input_size,
        **surroundings(("onnxruntime", "openvino", "ncnn", "pnnx")),
        "rows": rows,
    }
    write_json(args.out, record)
    return record


if __name__ == "__main__":
    main()
