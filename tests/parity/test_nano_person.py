"""The published nano person detector: its weights, what it answers to noise, and whom it finds in a photo."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from minirtmdet import build_detector, load_checkpoint
from minirtmdet.configs import PredictConfig
from minirtmdet.data.images import read_image
from minirtmdet.data.photo import photo, photo_file, photo_maps
from minirtmdet.detector import RTMDet
from minirtmdet.inference.images import find_images, predict_images
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.fuse import fuse_batch_norm

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
FUSED = WEIGHTS / "rtmdet_nano_person_fused.npz"
PHOTO = photo_file()

pytestmark = pytest.mark.skipif(
    not FUSED.is_file(), reason="needs rtmdet_nano_person_fused.npz in ../shared/weights, not part of the repository"
)


@pytest.fixture(scope="module", params=["unfused", "fused", "fused-by-us"])
def detector(request: pytest.FixtureRequest) -> RTMDet:
    model = build_detector("nano", num_classes=1).eval()
    if request.param == "fused":
        model = fuse_batch_norm(model)
    report = load_checkpoint(model, FUSED)
    assert report.fits
    assert report.loaded == len(model.state_dict()) == (246 if request.param == "fused" else 698)
    return fuse_batch_norm(model) if request.param == "fused-by-us" else model


def test_outputs_equal_the_published_model(detector: RTMDet):
    """Well below the 1e-4 that is asked for."""
    with np.load(WEIGHTS / "golden_random640_seed0.npz") as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    noise = np.random.default_rng(0).standard_normal((1, 3, 640, 640)).astype(np.float32)
    with torch.no_grad():
        outputs = detector(torch.from_numpy(noise))
    for branch, maps in enumerate(outputs):  # class logits, then distances
        for level, output in enumerate(maps):
            expected = golden[f"rtmdet_head.{branch}.{level}"]
            assert output.shape == expected.shape
            # the same weights in double precision are up to 1.6e-5 from the record too: its own rounding
            assert (output - expected).abs().max() <= 3e-5 * expected.abs().max()


def test_no_person_in_grey(detector: RTMDet):
    detections = detector.predict(torch.full((1, 3, 320, 320), 114, dtype=torch.uint8))
    assert (detections[0].scores < 0.3).all()


# MMDetection's answer to the photo at the size of the published model, from the same weights
BOX, SCORE = [14.4463, 22.8173, 513.0339, 598.6708], 0.90128


@pytest.mark.parametrize(("clip", "right"), [("input", BOX[2]), ("content", 512.0)])
def test_finds_the_person_in_a_photo(detector: RTMDet, clip: Literal["input", "content"], right: float):
    config = PredictConfig(score_threshold=0.3, clip=clip)
    (found,) = predict_images(detector, find_images([PHOTO]), config, input_size=320)
    assert found.image is not None
    assert found.detections is not None
    assert found.image.shape == (600, 512, 3)  # MMDetection's box ends beyond it, in the grey that padded it
    # another build of the JPEG decoder gives slightly other pixels
    torch.testing.assert_close(found.detections.scores, torch.tensor([SCORE]), rtol=0, atol=1e-3)
    expected = torch.tensor([[BOX[0], BOX[1], right, BOX[3]]])
    torch.testing.assert_close(found.detections.boxes, expected, rtol=0, atol=0.5)


def test_the_record_of_the_photo_is_what_the_weights_say(detector: RTMDet):
    with torch.no_grad():
        outputs = detector(photo().images)
    for maps, recorded in zip(outputs, photo_maps(), strict=True):
        for level, expected in zip(maps, recorded, strict=True):
            # another build of the JPEG decoder gives slightly other pixels
            torch.testing.assert_close(level, expected, rtol=0, atol=0.01 * expected.abs().max().item())


def test_colours_are_read_as_bgr(detector: RTMDet):
    """Turned round, the same photo scores otherwise: the order of the channels is not left to chance."""
    pixels = torch.from_numpy(read_image(PHOTO)).permute(2, 0, 1)[None]
    config = PredictConfig(score_threshold=0.01)
    right, wrong = (detector.predict(images, config)[0].scores[0] for images in (pixels, pixels.flip(1)))
    assert abs(right - wrong) > 0.01


def test_the_file_alone_gives_a_detector_for_prediction():
    loaded = build_from_checkpoint(FUSED, model="nano", classes=["person"])
    assert loaded.model.config.num_classes == 1
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in loaded.model.modules())
