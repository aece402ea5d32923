"""Small COCO JSON sets, written for a test."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "hen"})

FPS = 12.5
"""Of videos."""


def image_entry(image_id: int, width: int = 40, height: int = 30, file_name: str | None = None) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name or f"{image_id:03}.png", "width": width, "height": height}


def box_entry(annotation_id: int, image_id: int, box: Any, category_id: Any = 1, **more: Any) -> dict[str, Any]:
    area = box[2] * box[3] if len(box) == 4 and None not in box else 0
    entry = {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": box, "area": area}
    return {**entry, "iscrowd": 0, **more}


def write_json(path: Path, images: Sequence[dict], annotations: Sequence[dict], categories: Sequence[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": list(images), "annotations": list(annotations), "categories": list(categories)}
    path.write_text(json.dumps(content))
    return path


def write_set(
    root: Path,
    images: Sequence[dict] | None = None,
    annotations: Sequence[dict] = (),
    categories: Sequence[dict] = CATEGORIES,
    *,
    name: str = "train",
    folder: str | None = None,
) -> tuple[Path, Path]:
    """Write ``root/name.json`` and its images in ``root/folder``; each image has its own noise.

    Returns the JSON and the folder.
    """
    images = [image_entry(1)] if images is None else images
    folder_of_images = root / (name if folder is None else folder)
    for entry in images:
        path = folder_of_images / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(entry["id"]).integers(0, 256, (entry["height"], entry["width"], 3))
        path.write_bytes(cv2.imencode(path.suffix, pixels.astype(np.uint8))[1].tobytes())
    return write_json(root / f"{name}.json", images, annotations, categories), folder_of_images


def write_random_set(
    root: Path, count: int, *, name: str = "train", seed: int = 0, masks: bool = False
) -> tuple[Path, Path]:
    """``count`` images of several sizes with none to four boxes each, some of them crowds; masks are rhombuses."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        width, height = rng.integers(30, 90, 2).tolist()
        images.append(image_entry(image_id, width, height))
        for _ in range(rng.integers(0, 5)):
            x, y = (rng.random(2) * [width - 12, height - 12]).tolist()
            w, h = (rng.random(2) * [width - x - 10, height - y - 10] + 10).tolist()
            category_id, crowd = rng.integers(1, 4).item(), int(rng.random() < 0.1)
            box = [round(v, 2) for v in (x, y, w, h)]
            rhombus = [x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2]
            more = {"segmentation": [rhombus]} if masks else {}
            annotations.append(box_entry(len(annotations) + 1, image_id, box, category_id, iscrowd=crowd, **more))
    return write_set(root, images, annotations, name=name)


def write_both_parts(root: Path, count: int, *, masks: bool = False) -> Path:
    """``count`` random images to train on and three others to evaluate on; the folder that a run is given."""
    write_random_set(root, count, masks=masks)
    write_random_set(root, 3, name="val", seed=1, masks=masks)
    return root


def three_images() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A cat of 40 x 40 pixels in each: found; found after something false; missed."""
    box, elsewhere = [10.0, 10.0, 40.0, 40.0], [60.0, 60.0, 30.0, 30.0]
    truth = {
        "images": [image_entry(i, 100, 100) for i in (1, 2, 3)],
        "annotations": [box_entry(i, i, box) for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    rows = [(1, box, 0.8), (2, elsewhere, 0.9), (2, box, 0.7)]
    return truth, [{"image_id": i, "category_id": 1, "bbox": found, "score": score} for i, found, score in rows]


def write_video(path: Path, frames: int = 10, width: int = 64, height: int = 48) -> Path:
    """Frame ``i`` is of the grey ``20 * i``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    for i in range(frames):
        writer.write(np.full((height, width, 3), 20 * i, np.uint8))
    writer.release()
    return path
