"""``minirtmdet export``: a detector as an ONNX file."""

from dataclasses import replace
from pathlib import Path

import torch
import tyro

from minirtmdet.cli.loading import Size, checked, load
from minirtmdet.configs import Side
from minirtmdet.data.example import example
from minirtmdet.detector import RTMDet
from minirtmdet.distributed import check_alone
from minirtmdet.files import check_not_read, check_writable
from minirtmdet.inference.export import export_onnx
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.messages import counted
from minirtmdet.settings import Count, Share


@checked
def export(
    checkpoint: tyro.conf.Positional[Path],
    out: Path,
    nms: bool = False,
    input_size: Side | None = None,
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    score_threshold: Share | None = None,
    nms_pre: Count | None = None,
    nms_iou_threshold: Share | None = None,
    max_per_image: Count | None = None,
    batch_size: Count | None = None,
) -> None:
    """Write a detector as an ONNX file, which eval and predict take too.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's too, or a size for its published weights.
        out: the file, .onnx.
        nms: end with detections, and with their masks as logits where the detector finds masks; else with boxes and
            scores of all priors, and the maps that they come from.
        input_size: side of the square input, in pixels; the run's, or 640, where left out.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        score_threshold: scores at or below are dropped; the run's, as the other three, where left out.
        nms_pre: candidates kept per level, best first.
        nms_iou_threshold: of two boxes of one class that overlap more than this, the weaker one is dropped.
        max_per_image: detections kept per image.
        batch_size: images that the file takes at a time, for runtimes that need to know; any number where left out.
    """
    check_alone("export")
    check_writable(out.parent)
    loaded = load(checkpoint, model, classes, "cpu")
    check_not_read([out], [loaded.source])
    if not isinstance(loaded.model, RTMDet):
        raise ValueError(f"{checkpoint} is an exported file: export from its checkpoint")
    given = {
        "score_threshold": score_threshold,
        "nms_pre": nms_pre,
        "nms_iou_threshold": nms_iou_threshold,
        "max_per_image": max_per_image,
    }
    config = replace(loaded.limits, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    info = export_onnx(
        loaded.model,
        out,
        input_size=loaded.input_side(input_size),
        nms=nms,
        classes=loaded.classes,
        predict=config,
        preset=checkpoint.stem if checkpoint.is_file() else checkpoint.resolve().name,
        batch=batch_size,
    )
    print(f"written: {out}, {info.describe()}")
    print(_compare(loaded.model, OnnxDetector(out, "cpu")))


def _compare(model: RTMDet, exported: OnnxDetector) -> str:
    """How near the detections of an exported file are to the model's, in words."""
    size = exported.info.input_size
    image = torch.nn.functional.interpolate(example().images, (size, size))
    ours, theirs = (one.predict(image, exported.info.predict)[0] for one in (model, exported))
    if len(ours.scores) != len(theirs.scores):
        found = counted(len(theirs.scores), "detection")
        return f"compared with torch on a scene: {found} in place of {len(ours.scores)}"
    count = len(ours.scores)
    difference = float((ours.scores - theirs.scores).abs().max()) if count else 0.0
    found = counted(count, "detection")
    said = f"compared with torch on a scene: {found}, their scores at most {difference:.1g} apart"
    if model.config.masks:
        pairs = zip(ours.mask_blocks(), theirs.mask_blocks(), strict=True)
        said += f", {sum(int((a != b).sum()) for a, b in pairs)} pixels of their masks different"
    return said
