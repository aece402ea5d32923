"""The whole way from a picture file to detections, against what MMDetection answered."""

import numpy as np
import pytest
import torch
from parity import picture
from parity.compare import TOLERANCE, differences


def recorded(name: str) -> dict[str, torch.Tensor]:
    with np.load(picture.FIXTURE, allow_pickle=False) as arrays:
        return {field: torch.from_numpy(arrays[f"{name}/{field}"]) for field in ("boxes", "scores", "labels")}


@pytest.mark.parametrize("name", picture.CASES)
def test_a_file_gives_mmdetections_detections(name: str):
    theirs = recorded(name)
    assert len(theirs["scores"]) > 50
    measured = differences(picture.ours(picture.CASES[name]()), theirs)
    assert {field: d.largest for field, d in measured.items() if d.largest > TOLERANCE} == {}


@pytest.mark.parametrize("name", picture.CASES)
def test_boxes_leave_the_image_unless_told_otherwise(name: str):
    case = picture.CASES[name]()
    height, width, _ = case.picture.shape
    limit = torch.tensor([width, height, width, height])
    beyond = (recorded(name)["boxes"] > limit + 0.5).any()
    assert beyond == (height != width)  # MMDetection's Pad says that the padding is picture too
    boxes = picture.ours(case, clip="content")["boxes"]
    assert (boxes >= 0).all()
    assert (boxes <= limit + 1e-4).all()
