"""From a picture file to the detections in it: the whole way, in both environments.

Write what MMDetection answers, from the repository, in the reference environment::

    PYTHONPATH=tests .venv-reference/bin/python -m parity.picture
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from parity.cases import integers
from parity.fill import fill
from torch import Tensor

FIXTURE = Path(__file__).parent / "fixtures" / "picture.npz"
MODEL = {"deepen_factor": 0.167, "widen_factor": 0.25, "neck_csp_blocks": 1, "num_classes": 3, "exp_on_reg": True}


class PictureCase(NamedTuple):
    """A picture and how large the network sees it.

    The network computes in fp64: weights that are filled at random give hundreds of boxes of nearly one score, whose
    order is round-off in fp32.
    """

    picture: Tensor  # uint8 [H,W,3], BGR
    input_size: int
    score_threshold: float = 0.5


def patches(key: str, height: int, width: int) -> Tensor:
    """Squares of 8 pixels: something that a resize can blur."""
    colours = integers(key, -(-height // 8), -(-width // 8), 3, high=256)
    return colours.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width].to(torch.uint8)


CASES: dict[str, Callable[[], PictureCase]] = {
    "wide": lambda: PictureCase(patches("picture/wide", 75, 120), 96),
    "tall-enlarged": lambda: PictureCase(patches("picture/tall", 61, 23), 128),
    "square": lambda: PictureCase(patches("picture/square", 101, 101), 64),
    "fits": lambda: PictureCase(patches("picture/fits", 96, 64), 96),
}


def random_picture(seed: int) -> PictureCase:
    """A picture of any sides, made smaller or larger."""
    height, width, size = (16 + integers(f"picture{seed}", 3, high=160)).tolist()
    return PictureCase(patches(f"picture{seed}", height, width), -(-size // 32) * 32)


def original(case: PictureCase) -> dict[str, Tensor]:
    """MMDetection: the pipeline that the official configs test with, and the whole detector."""
    from mmcv.transforms import Compose
    from mmdet.registry import TRANSFORMS
    from parity.original import build_detector

    detector = fill(build_detector(MODEL)).eval().double()
    detector.bbox_head.test_cfg.score_thr = case.score_threshold
    size = (case.input_size, case.input_size)
    steps: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": size, "keep_ratio": True},
        {"type": "Pad", "size": size, "pad_val": {"img": (114, 114, 114)}},
        {"type": "PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
    ]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        packed = pipeline({"img_path": str(_write(case, folder))})
        found = detector.test_step({key: [value] for key, value in packed.items()})[0].pred_instances
    return {"boxes": found.bboxes.float(), "scores": found.scores.float(), "labels": found.labels}


def ours(case: PictureCase, clip: str = "input") -> dict[str, Tensor]:
    """The package, with boxes clipped where the original clips them or at the picture's own border."""
    from minirtmdet.configs import ModelConfig, PredictConfig
    from minirtmdet.detector import build_detector
    from minirtmdet.inference.images import find_images, predict_images

    detector = fill(build_detector(ModelConfig(**MODEL))).double()  # type: ignore[arg-type]
    config = PredictConfig(case.score_threshold, clip=clip)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        pictures = find_images([_write(case, folder)])
        (found,) = predict_images(detector, pictures, config, input_size=case.input_size)
    assert found.detections is not None
    boxes, scores, labels = found.detections
    return {"boxes": boxes.float(), "scores": scores.float(), "labels": labels}


def _write(case: PictureCase, folder: str) -> Path:
    path = Path(folder) / "picture.png"
    cv2.imwrite(str(path), case.picture.numpy())
    return path


def main() -> None:
    """Record every case."""
    from parity.original import quiet

    quiet()
    torch.set_num_threads(1)
    answers = {f"{name}/{field}": v.numpy() for name, make in CASES.items() for field, v in original(make()).items()}
    np.savez_compressed(FIXTURE, **answers)
    print(
        f"{FIXTURE.name}: {FIXTURE.stat().st_size} bytes, {[len(v) for k, v in answers.items() if 'score' in k]} boxes"
    )


if __name__ == "__main__":
    main()
