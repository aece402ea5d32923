"""Records what MMDetection's transforms do to one small picture; run it in the reference environment.

Writes ``fixtures/augment.npz``: the picture and its boxes, and both after each transform.
"""

from pathlib import Path

import numpy as np
from mmdet.datasets.transforms import Pad, RandomCrop, RandomFlip, Resize, YOLOXHSVRandomAug
from mmdet.structures.bbox import HorizontalBoxes

SIDES = (64, 23, 11)
CORNERS = ((0, 0), (9, 4), (20, 8))
CROP = 16
GAINS = ((5, 30, 30), (-5, -30, 0), (3, 0, -17), (0, 29, 8))


def picture() -> np.ndarray:
    """Slow colour changes, where hue is well defined, with a little noise."""
    y, x = np.mgrid[0:24, 0:36]
    colours = np.stack([x * 7, y * 10, 255 - 3 * x - 5 * y], axis=-1)
    noise = np.random.default_rng(0).integers(-12, 13, colours.shape)
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def results() -> dict:
    boxes = np.array([[2.5, 3.0, 12.0, 20.0], [8.0, 1.0, 35.5, 9.0], [30.0, 20.0, 36.0, 24.0]], dtype=np.float32)
    return {
        "img": picture(),
        "img_shape": (24, 36),
        "gt_bboxes": HorizontalBoxes(boxes.copy()),
        "gt_bboxes_labels": np.array([0, 1, 2]),
        "gt_ignore_flags": np.array([False, True, False]),
    }


def main() -> None:
    recorded = {"picture": picture(), "boxes": results()["gt_bboxes"].tensor.numpy(), "crop": CROP}

    def keep(name: str, after: dict) -> None:
        recorded[f"{name}/image"] = np.ascontiguousarray(after["img"])
        recorded[f"{name}/boxes"] = after["gt_bboxes"].tensor.numpy()
        recorded[f"{name}/labels"] = after["gt_bboxes_labels"]
        recorded[f"{name}/ignore"] = after["gt_ignore_flags"]
        recorded[f"{name}/scale_factor"] = np.array(after.get("scale_factor", (1, 1)), dtype=np.float64)

    for side in SIDES:
        keep(f"resize {side}", Resize(scale=(side, side), keep_ratio=True).transform(results()))
    for x, y in CORNERS:
        transform = RandomCrop(crop_size=(CROP, CROP))
        transform._rand_offset = lambda _, offset=(y, x): offset
        keep(f"crop {x} {y}", transform.transform(results()))
    for gains in GAINS:
        transform = YOLOXHSVRandomAug()
        transform._get_hsv_gains = lambda gains=gains: np.array(gains, dtype=np.int16)
        keep(f"hsv {' '.join(map(str, gains))}", transform.transform(results()))
    keep("flip", RandomFlip(prob=1.0).transform(results()))
    keep("pad 40", Pad(size=(40, 40), pad_val={"img": (114, 114, 114)}).transform(results()))
    np.savez_compressed(Path(__file__).parent / "fixtures" / "augment.npz", **recorded)


if __name__ == "__main__":
    main()
