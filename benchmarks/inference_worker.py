"""One form of a detector for ``inference.py``, or MMDetection, which works in the reference environment.

All forms get the same weights, or files exported from them, and the same images.  A worker reads one request a line and
answers each with one line of JSON; between two requests it does nothing, so that the others have the machine to
themselves.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from parity.picture import patches
from torch import Tensor

Answer = dict[str, Tensor]
HEIGHT, WIDTH = 480, 640
LIMIT = 300
"""Detections of an image, by the published settings."""
FILES = {"ONNX Runtime": "{}.onnx", "ONNX Runtime, NMS inside": "{}-nms.onnx", "OpenVINO": "{}.onnx"}
FORMS = ("MMDetection", "eager", "fused", "compiled", *FILES)


class Stopwatch:
    """Seconds that functions took together."""

    def __init__(self) -> None:
        self.seconds = 0.0


def time_method(owner: Any, name: str, watch: Stopwatch) -> None:
    """Put a function in the place of one, by its name, that adds up the time of its calls."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        answer = function(*args, **kwargs)
        watch.seconds += time.perf_counter() - start
        return answer

    setattr(owner, name, timed)


class Form(NamedTuple):
    """A detector that is ready.

    Attributes:
        detect: from images of any size, BGR, to boxes in their pixels, scores and labels of each.
        network: runs along while the network computes, or the file that it was exported to.
        not_counted: runs along where something works that only stands in for the real thing.
    """

    detect: Callable[[Sequence[np.ndarray]], list[tuple[Tensor, Tensor, Tensor]]]
    network: Stopwatch
    not_counted: Stopwatch


def photos(count: int) -> list[np.ndarray]:
    """Images as large as most of COCO's."""
    return [patches(f"inference/{image}", HEIGHT, WIDTH).numpy() for image in range(count)]


def original(file: Path, size: int) -> Form:
    """MMDetection: the pipeline that its configs test with, and the whole detector.

    Its non-maximum suppression is not counted: in Python it stands in for a compiled operation, which the reference
    environment lacks.
    """
    import mmcv._ext as operations
    from mmcv.transforms import Compose
    from mmdet.registry import TRANSFORMS
    from mmengine.dataset import pseudo_collate
    from parity import original as theirs

    theirs.quiet()
    saved, network, not_counted = torch.load(file, weights_only=True), Stopwatch(), Stopwatch()
    detector = theirs.build_detector(saved["config"]).eval()
    detector.load_state_dict(saved["state_dict"])
    time_method(detector.data_preprocessor, "forward", network)
    time_method(detector, "extract_feat", network)
    time_method(detector.bbox_head, "forward", network)
    operations.nms = partial(best_survivors, operations.nms)
    time_method(operations, "nms", not_counted)
    steps: list[dict[str, Any]] = [
        {"type": "mmdet.LoadImageFromNDArray"},
        {"type": "Resize", "scale": (size, size), "keep_ratio": True},
        {"type": "Pad", "size": (size, size), "pad_val": {"img": (114, 114, 114)}},
        {"type": "PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
    ]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])

    def detect(images: Sequence[np.ndarray]) -> list[tuple[Tensor, Tensor, Tensor]]:
        packed = pseudo_collate([pipeline({"img": image, "img_id": 0}) for image in images])
        with torch.no_grad():
            found = [sample.pred_instances for sample in detector.test_step(packed)]
        return [(one.bboxes, one.scores, one.labels) for one in found]

    return Form(detect, network, not_counted)


def best_survivors(nms: Callable[..., Tensor], boxes: Tensor, scores: Tensor, **settings: Any) -> Tensor:
    """The first of the boxes that suppression leaves: as many as a detector gives, or more.

    They are found best first, whatever comes after them, so that few candidates are enough; the stand-in would take
    seconds for all.
    """
    order, count = scores.argsort(descending=True, stable=True), 1024
    while True:
        best = order[:count]
        kept = best[nms(boxes[best], scores[best], **settings)]
        if len(kept) >= LIMIT or count >= len(order):
            return kept
        count *= 2


def ours(form: str, file: Path, size: int) -> Form:
    """This package, the detector in one of its forms."""
    from minirtmdet.inference import detect as package

    network = Stopwatch()
    detector = exported(form, file) if form in FILES else in_torch(form, file)
    # what a detector computes with: an exported file, or a network
    time_method(detector, "outputs" if form in FILES else "forward", network)

    def detect(images: Sequence[np.ndarray]) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [tuple(one) for one in package.detect(detector, images, input_size=size)]

    return Form(detect, network, Stopwatch())


def in_torch(form: str, file: Path) -> Any:
    """The network as it is, without BatchNorms, or such a one compiled for each number of images."""
    from minirtmdet.configs import ModelConfig
    from minirtmdet.detector import build_detector
    from minirtmdet.weights.fuse import fuse_batch_norm

    saved = torch.load(file, weights_only=True)
    detector = build_detector(ModelConfig(**saved["config"])).eval()
    detector.load_state_dict(saved["state_dict"])
    if form != "eager":
        detector = fuse_batch_norm(detector)
    if form == "compiled":
        detector.forward = torch.compile(detector.forward, dynamic=False)  # type: ignore[method-assign]
    return detector


def exported(form: str, file: Path) -> Any:
    """The exported file that lies beside the weights, run by what the form names."""
    from minirtmdet.inference.exported import OnnxDetector
    from minirtmdet.inference.openvino import OpenVinoDetector

    path = file.with_name(FILES[form].format(file.stem))
    return OpenVinoDetector(path) if form == "OpenVINO" else OnnxDetector(path, "cpu")


def answer(form: Form, images: Sequence[np.ndarray]) -> Answer:
    """How many detections each image has, and all of them."""
    found = form.detect(images)
    boxes, scores, labels = (torch.cat(field) for field in zip(*found, strict=True))
    counts = torch.tensor([len(one[1]) for one in found])
    return {"count": counts, "boxes": boxes, "scores": scores, "labels": labels}


def measure(form: Form, images: Sequence[np.ndarray], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, and those in which the network computed."""
    seconds, part = [], []
    for _ in range(repeats):
        form.network.seconds = form.not_counted.seconds = 0.0
        start = time.perf_counter()
        form.detect(images)
        seconds.append(time.perf_counter() - start - form.not_counted.seconds)
        part.append(form.network.seconds)
    return {"seconds": seconds, "part": part}


def versions(name: str) -> dict[str, Any]:
    """Versions that an answer depends on."""
    if name != "MMDetection":
        return {"torch": torch.__version__}
    from parity import original as theirs

    return theirs.versions()


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    form, images, loaded = None, photos(0), ""
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        if "case" in request:
            name, size, count = request["case"].split()
            if loaded != name:
                file, loaded = Path(request["folder"]) / f"{name}.pt", name
                form = (
                    original(file, int(size)) if options.form == "MMDetection" else ours(options.form, file, int(size))
                )
            images = photos(int(count))
            assert form is not None
            torch.save(answer(form, images), request["answer"])
        elif "repeats" in request:
            assert form is not None
            reply = measure(form, images, request["repeats"])
        elif "versions" in request:
            reply = versions(options.form)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
