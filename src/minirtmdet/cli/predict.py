"""``minirtmdet predict``: detections in images."""

import sys
from dataclasses import replace
from pathlib import Path

import tyro

from minirtmdet.cli.loading import Device, PartialFailure, Size, checked, load, run_of
from minirtmdet.configs import Side
from minirtmdet.distributed import check_alone
from minirtmdet.files import check_not_read, check_writable, write_json
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.inference.images import (
    RESULTS,
    describe,
    draw_detections,
    find_images,
    inside_image,
    predict_images,
    write_image,
)
from minirtmdet.settings import Count, Share


@checked
def predict(
    checkpoint: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("predictions"),
    threshold: Share = 0.3,
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    input_size: Side | None = None,
    batch_size: Count = 8,
    device: Device = "auto",
) -> None:
    """Detect in images: writes each with its boxes, and predictions.json; boxes end where the image ends.

    Exit code 1 where an image was broken and skipped.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's or an exported one too, or a size for its
            published weights.
        images: files and folders.
        out: folder to write into.
        threshold: detections that score more are kept.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        input_size: side of the square network input, in pixels; the run's, or 640, where left out.
        batch_size: images per forward pass.
        device: auto takes the GPU where there is one.
    """
    check_alone("predict")
    if not images:
        raise ValueError("no images: name files or folders after the checkpoint")
    found = find_images(images)
    check_writable(out)
    folders = {one.path.parent for one in found} | {path for path in images if path.is_dir()}
    check_not_read([out, *(out / one.name for one in found)], [*folders, *(one.path for one in found)])
    loaded = load(checkpoint, model, classes, device)
    check_not_read([out], run_of(loaded.source))
    config = replace(loaded.limits, score_threshold=threshold)
    least = loaded.limits.score_threshold
    if isinstance(loaded.model, OnnxDetector) and loaded.model.info.kind == "nms" and threshold < least:
        print(f"{checkpoint} holds nothing that scores {least:g} or less", file=sys.stderr)
    size = loaded.input_side(input_size)
    rows, count, bad = [], 0, 0
    for prediction in predict_images(loaded.model, found, config, input_size=size, batch_size=batch_size):
        if prediction.image is None or prediction.detections is None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            bad += 1
            continue
        detections = inside_image(prediction.detections, prediction.image)
        write_image(out / prediction.file.name, draw_detections(prediction.image, detections, loaded.names))
        rows.append(describe(prediction._replace(detections=detections), loaded.names))
        count += len(detections.scores)
    write_json(out / RESULTS, {"classes": loaded.names, "threshold": threshold, "images": rows})
    print(f"{count} detections in {len(rows)} images, written to {out}")
    if bad:
        raise PartialFailure(f"{bad} of {len(found)} images could not be read")
