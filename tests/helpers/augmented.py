"""Samples for tests of augmentation, and what MMDetection's transforms made of some; ``parity/record_augment.py``."""

from pathlib import Path

import numpy as np

from minirtmdet.data.augment import Sample

RECORDED = np.load(Path(__file__).parents[1] / "parity" / "fixtures" / "augment.npz")


def make_sample(image, boxes=(), labels=None, ignore=None) -> Sample:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        image=image,
        boxes=boxes,
        labels=np.arange(len(boxes)) if labels is None else np.array(labels),
        ignore=np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore),
        image_id=7,
        path=Path("seven.png"),
        original_size=image.shape[:2],
        img_shape=image.shape[:2],
    )


def grey(height, width, value=50):
    return np.full((height, width, 3), value, dtype=np.uint8)


def recorded_sample(name: str = "") -> Sample:
    """The first recorded image, or what a transform made."""
    if not name:
        return make_sample(RECORDED["picture"], RECORDED["boxes"], [0, 1, 2], [False, True, False])
    return make_sample(*(RECORDED[f"{name}/{field}"] for field in ("image", "boxes", "labels", "ignore")))


def assert_like_mmdet(sample: Sample, name: str):
    """Pixels, boxes, labels and flags as MMDetection's."""
    assert sample.image.shape == RECORDED[f"{name}/image"].shape
    # equal to the bit with the OpenCV that made the fixture (4.11); others round colours by up to one level
    difference = sample.image.astype(int) - RECORDED[f"{name}/image"]
    assert np.abs(difference).max() <= 1
    np.testing.assert_allclose(sample.boxes, RECORDED[f"{name}/boxes"], rtol=1e-6)
    assert sample.labels.tolist() == RECORDED[f"{name}/labels"].tolist()
    assert sample.ignore.tolist() == RECORDED[f"{name}/ignore"].tolist()
    np.testing.assert_allclose(sample.scale_factor, RECORDED[f"{name}/scale_factor"], rtol=1e-6)


def painted(height, width, box, colour=(0, 255, 0)) -> Sample:
    """A rectangle on grey and its box."""
    image = grey(height, width)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = colour
    return make_sample(image, [box])
