import numpy as np
import pytest
from helpers.tiny_sets import box_entry, write_set

from minirtmdet.data.box_checks import format_doubt
from minirtmdet.data.coco import CocoDataset

# (x, y, width, height) in an image of 40 x 30
BOXES = np.array([[2, 3, 20, 10], [24, 12, 12, 15], [30, 2, 9, 25], [1, 20, 15, 9]], dtype=float)


SIZES = np.full((4, 2), (30, 40))


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (np.hstack([BOXES[:, :2], BOXES[:, :2] + BOXES[:, 2:]]), "3 of 4 boxes .* as corners"),
        (np.hstack([BOXES[:, :2] + BOXES[:, 2:] / 2, BOXES[:, 2:]]), "3 of 4 boxes .* as centres"),
        (BOXES / [40, 30, 40, 30], "all 4 boxes lie within one pixel: they look like shares"),
    ],
)
def test_another_format_is_noticed(tmp_path, boxes, words):
    annotations = [box_entry(i, 1, box) for i, box in enumerate(boxes.tolist(), 1)]
    files = write_set(tmp_path, annotations=annotations)
    with pytest.warns(UserWarning, match=words):
        CocoDataset(*files)
    with pytest.raises(ValueError, match=f"train.json: {words}"):
        CocoDataset(*files, bad_boxes="raise")


def test_labels_that_stick_out_a_little_are_no_other_format():
    assert format_doubt(BOXES, SIZES) is None
    assert format_doubt(np.add(BOXES, [1, 1, 0, 0]), SIZES) is None  # a pixel is rounding
    assert format_doubt(BOXES[:0], SIZES[:0]) is None
    # as corners the second is impossible, as centres the third
    assert format_doubt(np.array([[20, 5, 30, 10], [20, 5, 10, 10], [2, 5, 30, 10.0]]), SIZES[:3]) is None
    # one label of many
    many = np.vstack([np.repeat(BOXES[:1], 10, 0), [[30, 10, 35, 20]]])
    assert format_doubt(many, np.full((11, 2), (30, 40))) is None
