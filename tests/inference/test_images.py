import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from minirtmdet.configs import INS_PREDICT
from minirtmdet.data.masks import decode_mask
from minirtmdet.head.postprocess import stretch_masks
from minirtmdet.inference.images import ImageFile, Prediction, describe, draw_detections, find_images
from minirtmdet.masks import CACHED
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


def test_a_label_without_a_name_is_no_index_error():
    found = Detections(torch.tensor([[5.0, 5, 20, 30]]), torch.tensor([0.9]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"the image: labels 2\.\.2, but only 1 class name"):
        draw_detections(np.zeros((40, 60, 3), np.uint8), found, ["cat"])


def test_no_label_hides_another_and_none_leaves_the_image():
    """Two boxes of one object and one at the right border: each name is drawn as if its box were alone."""
    image = np.zeros((200, 200, 3), np.uint8)
    boxes = torch.tensor([[40.0, 60, 120, 120], [41.0, 61, 121, 121], [180.0, 20, 199, 40]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]))
    drawn = draw_detections(image, found, ["cat", "dog", "hen"])

    def white(image: np.ndarray) -> int:
        return int((image > 200).all(-1).sum())

    alone = [white(draw_detections(image, found.pick(torch.tensor([i])), ["cat", "dog", "hen"])) for i in range(3)]
    middle = draw_detections(image, found.pick(torch.tensor([2])), ["cat", "dog", "hen"])[:, :180]
    assert white(middle) > 10  # begins left of its box
    assert white(drawn) == sum(alone)


def quarters(height: int, width: int) -> torch.Tensor:
    """Masks of the left upper and of the right lower quarter."""
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, : height // 2, : width // 2] = masks[1, height // 2 :, width // 2 :] = True
    return masks


def test_masks_are_drawn_half_over_the_image_and_the_best_on_top():
    image = np.full((60, 80, 3), 200, np.uint8)
    boxes, scores = torch.tensor([[70.0, 2.0, 78.0, 8.0]]).repeat(2, 1), torch.tensor([0.9, 0.4])
    both = quarters(60, 80)
    both[1] |= both[0]  # the second lies below the first
    drawn = draw_detections(image, Detections(boxes, scores, torch.tensor([0, 1]), both), ["a", "b"])
    blue, orange = (np.array(colour) for colour in ((0xBB, 0x77, 0x00), (0x33, 0x77, 0xEE)))  # BGR
    assert drawn[50, 60].tolist() == (100 + orange // 2).tolist()
    assert drawn[25, 5].tolist() == ((100 + orange // 2) // 2 + blue // 2).tolist()
    assert drawn[50, 5].tolist() == [200] * 3
    assert (image == 200).all()


def test_masks_are_written_as_text_that_json_holds():
    file = ImageFile(Path("a.png"), Path("a.png"))
    found = Detections(torch.ones(2, 4), torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), quarters(6, 9))
    prediction = Prediction(file, np.zeros((6, 9, 3), np.uint8), found)
    rows = json.loads(json.dumps(describe(prediction, ["a", "b"])))["detections"]
    assert [row["class"] for row in rows] == ["b", "a"]
    for row, mask in zip(rows, quarters(6, 9), strict=True):
        assert row["segmentation"]["size"] == [6, 9]
        assert (decode_mask(row["segmentation"]) == mask.numpy()).all()
    boxes_alone = describe(prediction._replace(detections=Detections(*found)), ["a", "b"])["detections"]
    assert "segmentation" not in boxes_alone[0]


def test_memory_of_a_hundred_masks_is_that_of_a_few():
    # 1440 x 1920: as 100 maps of booleans 276 MB, and MMDetection takes ten times that
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 80), torch.linspace(-1, 1, 80), indexing="ij")
    logits = torch.linspace(0.1, 1, 100)[:, None, None] - (rows**2 + columns**2)  # discs
    masks = stretch_masks(logits, (1440, 1920), (1 / 3, 1 / 3), INS_PREDICT)
    found = Detections(torch.rand(100, 4), torch.ones(100), torch.zeros(100, dtype=torch.int64), masks)
    image = np.zeros((1440, 1920, 3), np.uint8)
    file, largest = ImageFile(Path("a"), Path("a")), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.append(result.untyped_storage().nbytes() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():  # what a first call imports stays
        describe(Prediction(file, image, found.pick(torch.tensor([0]))), ["a"])
    tracemalloc.start()  # what NumPy holds
    with Watch():
        described = describe(Prediction(file, image, found), ["a"])
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(described["detections"]) == 100
    assert max(largest) <= 5 * CACHED
    assert held < 27e6  # a tenth of the booleans
