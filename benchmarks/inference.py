"""Detection on a processor, from images to boxes, in every form of a detector, beside MMDetection's own path.

    python benchmarks/inference.py --reference .venv-reference/bin/python
    python benchmarks/inference.py --only mini

Two detectors: tiny at 640 px and that of the preset mini-160 at 160 px, with one image (latency) and with eight
(throughput).  All of it counts, from BGR pixels of 480 x 640 to detections in these pixels: resizing, padding and
normalising, the network, suppression.  ``deploy.py`` has the AP of a trained run in these forms and in 8 bits.

Weights are random.  Their last convolutions are scaled so that about as many scores are over the threshold, and boxes
about as large, as in a trained detector, since suppression takes its time by them.  The published limits hold for all:
scores over 0.001, 300 detections.  Each form has a process of its own; they take turns, run by run, with the same
number of threads and an allocator that keeps what it was given.  Loading, compiling and warming up are not timed.

Before anything is timed all forms detect in the same images, and their detections are compared: class, score and
corners, these within 1e-4 of the largest.  One in a hundred may be missing, where rounding decided in another way.
MMDetection's suppression is not counted: the reference environment has in Python what mmcv has compiled.  Writes
``benchmarks/results/inference.json`` and prints a table.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from head import HERE, KEEP_MEMORY, TESTS, Side, alternate, new_record, read_options, spread, write_record
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np

    from minirtmdet.detector import RTMDet

RESULT = HERE / "results" / "inference.json"
TOLERANCE = 1e-4
TURNED = 0.01
"""Share of the detections that rounding may decide in another way: two scores that are nearly equal, two boxes whose
overlap is nearly the threshold."""


class Row(NamedTuple):
    """One part of the table: detector, side of its input and images at a time."""

    name: str
    case: str


ROWS = (
    Row("tiny, 640 px, 1 image", "tiny 640 1"),
    Row("tiny, 640 px, 8 images", "tiny 640 8"),
    Row("mini, 160 px, 1 image", "mini 160 1"),
    Row("mini, 160 px, 8 images", "mini 160 8"),
)
SIDES = {"tiny": 640, "mini": 160}
"""Of each detector's input, in pixels."""
LOGITS = {"tiny": (-13.4, 2.5), "mini": (-4.7, 1.05)}
"""Mean and standard deviation of each class's logits.  Some 3,000 of tiny's 672,000 scores are then over the threshold,
and most of mini's 8,400, as after its short training, of which these two are."""
DISTANCES = {"tiny": (3.0, 1.0), "mini": (0.6, 0.4)}
"""The same of distances in strides; mini's are exponentiated."""


class FormSide(Side):
    """A worker that holds one form of the detectors."""

    worker = "inference_worker.py"


def write_models(folder: Path, names: set[str]) -> None:
    """The weights of each detector, and the files that are exported from it."""
    from minirtmdet.inference.export import export_onnx

    for name in names:
        model, size = detector(name), SIDES[name]
        torch.save({"config": asdict(model.config), "state_dict": model.state_dict()}, folder / f"{name}.pt")
        export_onnx(model, folder / f"{name}.onnx", input_size=size)
        export_onnx(model, folder / f"{name}-nms.onnx", input_size=size, nms=True)


def detector(name: str) -> "RTMDet":
    """One of the two, which answers as if it had been trained."""
    from inference_worker import photos

    from minirtmdet.configs import MODELS
    from minirtmdet.presets import PRESETS

    config = {"tiny": MODELS["tiny"], "mini": PRESETS["mini-160"].model}[name]
    return as_if_trained(config, photos(1), SIDES[name], LOGITS[name], DISTANCES[name])


@torch.no_grad()
def as_if_trained(
    config: Any,
    images: Sequence["np.ndarray"],
    size: int,
    logits: tuple[float, float],
    distances: tuple[float, float],
) -> "RTMDet":
    """A detector of random weights whose logits and distances in strides have these means and standard deviations."""
    from parity.fill import fill

    from minirtmdet.detector import RTMDet
    from minirtmdet.inference.detect import detect

    model = RTMDet(config).eval()
    fill(model)
    wanted = ((model.bbox_head.rtm_cls, logits), (model.bbox_head.rtm_reg, distances))
    hooks = [conv.register_forward_hook(partial(settle, wanted=w)) for convs, w in wanted for conv in convs]
    detect(model, images, input_size=size)
    for hook in hooks:
        hook.remove()
    return model


def settle(conv: nn.Conv2d, _: Any, output: Tensor, wanted: tuple[float, float]) -> None:
    """Change a convolution so that each of its outputs will have this mean and standard deviation."""
    assert conv.bias is not None
    mean, deviation = output.mean((0, 2, 3)), output.std((0, 2, 3))
    factor = wanted[1] / deviation
    conv.weight *= factor.view(-1, 1, 1, 1)
    conv.bias.sub_(mean).mul_(factor).add_(wanted[0])


def check(case: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> int:
    """Compare the detections of two forms; how many of either the other one has not.

    Raises:
        AssertionError: where these are more than rounding may decide.
    """
    fields = ("boxes", "scores", "labels")
    images = zip(*(one[field].split(one["count"].tolist()) for one in (ours, theirs) for field in fields), strict=True)
    turned = sum(missing(image[:3], image[3:]) for image in images)
    every = len(ours["scores"]) + len(theirs["scores"])
    assert turned <= TURNED * every, f"{case}: {turned} of {every} detections have no counterpart"
    return turned


def missing(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> int:
    """Detections of an image, as boxes, scores and labels, without a counterpart on the other side."""
    (boxes, scores, labels), (their_boxes, their_scores, their_labels) = ours, theirs
    if not len(scores) or not len(their_scores):
        return len(scores) + len(their_scores)
    near = (boxes[:, None] - their_boxes).abs().amax(-1) <= TOLERANCE * their_boxes.max()
    near &= (scores[:, None] - their_scores).abs() <= TOLERANCE * their_scores.max()
    near &= labels[:, None] == their_labels
    alone = ~near.any(1) & ~ties_with_last(scores), ~near.any(0) & ~ties_with_last(their_scores)
    return sum(int(side.sum()) for side in alone)


def ties_with_last(scores: Tensor) -> Tensor:
    """Which scores are the last place's, where all places are taken: rounding decides which of these get one.

    Padding is one colour, so that priors in it have the same score.
    """
    from inference_worker import LIMIT

    full = len(scores) == LIMIT
    return (scores <= scores.min() + TOLERANCE) & full


def row_of(row: Row, sides: Sequence[Side], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The times of all forms."""
    theirs, *others = (side.answer(row.case, folder=str(folder)) for side in sides)
    pairs = zip(sides[1:], others, strict=True)
    turned = {side.name: check(f"{row.case}, {side.name}", ours, theirs) for side, ours in pairs}
    images = len(theirs["count"])
    forms: dict[str, Any] = {}
    for side, one in zip(sides, alternate(list(sides), options.repeats, options.budget), strict=True):
        times = spread(one["seconds"])
        forms[side.name] = {
            **times,
            "network_ms": round(1000 * statistics.median(one["part"]), 3),
            "images_per_s": round(1000 * images / times["median_ms"], 2),
        }
    first = forms[sides[0].name]["median_ms"]
    for name, form in forms.items():
        form["ratio"] = round(first / form["median_ms"], 2)
        form["turned"] = turned.get(name, 0)
    return {**row._asdict(), "images": images, "detections": int(theirs["count"].sum()), "forms": forms}


def table(record: dict[str, Any]) -> str:
    """The rows of a record, to read."""
    lines = []
    for row in record["rows"]:
        lines += ["", f"{row['name']:<28}{'ms':>9}{'network':>10}{'images/s':>10}{'of MMDetection':>16}"]
        for name, form in row["forms"].items():
            times = f"{form['median_ms']:>9.1f}{form['network_ms']:>10.1f}{form['images_per_s']:>10.1f}"
            lines.append(f"  {name:<26}{times}{form['ratio']:>15.2f}x")
    return "\n".join(lines[1:])


def chosen_forms() -> list[str]:
    """Names of the forms that can be run here; what is left out is said."""
    from inference_worker import FORMS

    if find_spec("openvino") is None:
        print("left out: OpenVINO, which is not installed: pip install openvino", file=sys.stderr)
        return [name for name in FORMS if name != "OpenVINO"]
    return list(FORMS)


def main() -> int:
    """Compare, time, print, record."""
    options = read_options(__doc__, repeats=5, budget=10.0)
    sys.path[:0] = [str(TESTS), str(HERE)]
    forms = chosen_forms()
    record = new_record("inference.py", options.threads)
    record["versions"] |= {name: version(name) for name in ("onnxruntime", "openvino") if find_spec(name)}
    rows = [row for row in ROWS if options.only in row.name]
    with tempfile.TemporaryDirectory() as temporary:
        folder, sides = Path(temporary), []
        write_models(folder, {row.case.split()[0] for row in rows})
        try:
            for name in forms:
                python = options.reference if name == "MMDetection" else sys.executable
                sides.append(FormSide(python, name, options.threads, folder, KEEP_MEMORY))
            record["versions"]["original"] = sides[0].ask(versions=1)
            for row in rows:
                record["rows"].append(row_of(row, sides, options, folder))
                print(table({"rows": record["rows"][-1:]}), "\n", flush=True)
        finally:
            for side in sides:
                side.close()
    if not options.only:
        write_record(RESULT, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
