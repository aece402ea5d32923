"""Records what MMDetection's transforms do to a few small pictures; run it in the reference environment.

Writes ``fixtures/augment.npz``: the pictures and their boxes, and what each transform makes of them.
"""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from mmdet.datasets.transforms import (
    CachedMixUp,
    CachedMosaic,
    Pad,
    RandomCrop,
    RandomFlip,
    Resize,
    YOLOXHSVRandomAug,
)
from mmdet.structures.bbox import HorizontalBoxes

SIDES = (64, 23, 11)
CORNERS = ((0, 0), (9, 4), (20, 8))
CROP = 16
GAINS = ((5, 30, 30), (-5, -30, 0), (3, 0, -17), (0, 29, 8))
INPUT = 32
"""Side of the input that mosaics and MixUp are made for."""
FOUR = ((24, 36), (36, 20), (17, 17), (40, 64))
"""(height, width) of the pictures of a mosaic."""
CENTERS = ((0.5, 0.5), (1.5, 1.5), (0.83, 1.21), (1.4, 0.6))
"""Where they meet, in sides of the input."""
# side of the resized mosaic, corner of the crop, gains, whether it is mirrored, whether its partner is
STAGE1 = (
    (70, (21, 9), (3, -20, 11), True, False),
    (128, (0, 77), (0, 0, 0), False, True),
    (27, (0, 0), (-2, 9, 0), 1, 1),
)


def picture(height: int = 24, width: int = 36, seed: int = 0) -> np.ndarray:
    """Slow colour changes, where hue is well defined, with a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([x * 7, y * 10, 255 - 3 * x - 5 * y], axis=-1)
    noise = np.random.default_rng(seed).integers(-12, 13, colours.shape)
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


def one_of_four(number: int) -> dict:
    """A picture of a mosaic: two boxes, and an ignored one that reaches its far corner."""
    height, width = FOUR[number]
    boxes = np.array([[1.5, 2, 9, 7.25], [5, 0.5, 16, 16], [11, 9, width, height]], dtype=np.float32)
    return {
        "img": picture(height, width, seed=number + 1),
        "img_shape": (height, width),
        "gt_bboxes": HorizontalBoxes(boxes),
        "gt_bboxes_labels": np.arange(3) + 3 * number,
        "gt_ignore_flags": np.array([False, False, True]),
    }


def mosaic(center: tuple[float, float]) -> dict:
    """All four pictures, meeting at a point."""
    transform = CachedMosaic(img_scale=(INPUT, INPUT), pad_val=114.0)
    transform.results_cache = [one_of_four(number) for number in (1, 2, 3, 0)]
    transform.get_indexes = lambda cache: [0, 1, 2]
    # the first number says whether to do it
    with patch("mmdet.datasets.transforms.transforms.random.uniform", side_effect=[0.0, *center]):
        return transform.transform(one_of_four(0))


def unmixed(number: int) -> dict:
    """A mosaic after all of stage 1 but MixUp."""
    side, (x, y), gains, mirrored, _ = STAGE1[number]
    crop, colours = RandomCrop(crop_size=(INPUT, INPUT)), YOLOXHSVRandomAug()
    crop._rand_offset = lambda _: (y, x)
    colours._get_hsv_gains = lambda: np.array(gains, dtype=np.int16)
    after = colours.transform(crop.transform(Resize(scale=(side, side), keep_ratio=True).transform(mosaic(CENTERS[2]))))
    if mirrored:
        after = RandomFlip(prob=1.0).transform(after)
    return Pad(size=(INPUT, INPUT), pad_val={"img": (114, 114, 114)}).transform(after)


def mixed(sample: dict, partner: dict, mirrored: bool) -> dict:
    """Two samples of stage 1, blended."""
    transform = CachedMixUp(img_scale=(INPUT, INPUT), ratio_range=(1.0, 1.0), pad_val=(114, 114, 114))
    transform.results_cache = [partner, partner]
    transform.get_indexes = lambda cache: 0
    numbers = [0.0, 1.0, 1.0 if mirrored else 0.0]  # do it, scale of the partner, mirror it
    with patch("mmdet.datasets.transforms.transforms.random.uniform", side_effect=numbers):
        return transform.transform(sample)


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
    for number in range(4):
        keep(f"one of four {number}", one_of_four(number))
    for number, center in enumerate(CENTERS):
        keep(f"mosaic {number}", mosaic(center))
    for number, (*_, mirrored) in enumerate(STAGE1):
        keep(f"unmixed {number}", unmixed(number))
        keep(f"mixed {number}", mixed(unmixed(number), unmixed((number + 1) % len(STAGE1)), bool(mirrored)))
    np.savez_compressed(Path(__file__).parent / "fixtures" / "augment.npz", **recorded)


if __name__ == "__main__":
    main()
