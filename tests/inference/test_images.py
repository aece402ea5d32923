from pathlib import Path

import numpy as np
import pytest
import torch

from minirtmdet.inference.images import draw_detections, find_images
from minirtmdet.structures import Detections


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    for name in ("a/x.png", "b/x.png", "b/deep/x.jpg", "b/notes.txt", "c/x.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "a/x.png", tmp_path / "b", tmp_path / "c"])
    assert [str(image.name) for image in found] == ["x.png", "deep/x.jpg", "x-2.png", "x-3.png"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/x.png", "b/x.png"], ["x.png", "x-2.png"]),
        (["a/x.png", "b/X.PNG"], ["x.png", "X-2.png"]),
        (["x.bmp", "x.tiff", "x.jpg"], ["x.png", "x-2.png", "x.jpg"]),
        (["scan.2024", "BloodImage_00000"], ["scan.2024.png", "BloodImage_00000.png"]),
        (["x-2.png", "a/x.png", "b/x.png"], ["x-2.png", "x.png", "x-3.png"]),
    ],
)
def test_outputs_have_names_of_their_own(tmp_path: Path, names: list[str], expected: list[str]):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(one.name) for one in find_images([tmp_path / name for name in names])] == expected


def test_boxes_are_drawn_where_they_are():
    image = np.zeros((60, 80, 3), np.uint8)
    found = Detections(torch.tensor([[20.0, 30.0, 60.0, 50.0]]), torch.tensor([0.9]), torch.tensor([1]))
    drawn = draw_detections(image, found, ["a", "é"])
    border = drawn[50, 40]
    assert border.any()
    assert (drawn[50, 20:61] == border).all()  # the lower side
    assert not drawn[40, 40].any()  # the inside
    assert not drawn[55:].any()
    assert not image.any()  # the image itself stays
