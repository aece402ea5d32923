"""The published nano person detector: its weights, and what it answers to noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minirtmdet.detector import RTMDet, build_detector

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"

pytestmark = pytest.mark.skipif(
    not (WEIGHTS / "rtmdet_nano_person_fused.npz").is_file(),
    reason="needs rtmdet_nano_person_fused.npz in ../shared/weights, which is not part of the repository",
)


def unfuse(fused: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convolutions with BatchNorm folded in, as weights of a model that still has its BatchNorms.

    A BatchNorm of mean 0, variance 1 and weight sqrt(1 + eps) passes its input through and adds its bias.
    """
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            state[f"{name}.weight"] = fused.pop(f"{name}.weight")
            if module.bias is not None:
                state[f"{name}.bias"] = fused.pop(f"{name}.bias")
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            state[f"{name}.weight"] = torch.full((channels,), (1 + module.eps) ** 0.5)
            state[f"{name}.bias"] = fused.pop(f"{name.removesuffix('bn')}conv.bias")
            state[f"{name}.running_mean"] = torch.zeros(channels)
            state[f"{name}.running_var"] = torch.ones(channels)
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return state


def load(name: str) -> dict[str, Tensor]:
    with np.load(WEIGHTS / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def detector() -> RTMDet:
    model = build_detector("nano", num_classes=1)
    fused = load("rtmdet_nano_person_fused.npz")
    model.load_state_dict(unfuse(fused, model), strict=True)
    assert not fused, f"arrays that no layer of the model took: {sorted(fused)}"
    return model.eval()


def test_outputs_equal_the_published_model(detector):
    golden = load("golden_random640_seed0.npz")
    noise = np.random.default_rng(0).standard_normal((1, 3, 640, 640)).astype(np.float32)
    with torch.no_grad():
        outputs = detector(torch.from_numpy(noise))
    for branch, maps in enumerate(outputs):  # class logits, then distances
        for level, output in enumerate(maps):
            expected = golden[f"rtmdet_head.{branch}.{level}"]
            assert output.shape == expected.shape
            # the same weights in double precision are up to 1.6e-5 from the record too: its own rounding
            assert (output - expected).abs().max() <= 3e-5 * expected.abs().max()


def test_no_person_in_grey(detector):
    detections = detector.predict(torch.full((1, 3, 320, 320), 114, dtype=torch.uint8))
    assert (detections[0].scores < 0.3).all()
