"""Masks as files write them: what each is taken for, and what is wrong with it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_set

from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.masks import decode_mask, draw_polygons, encode_masks
from minirtmdet.data.segmentations import MaskProblem, read_mask, to_rle

BOX = [5, 5, 10, 10]
TRIANGLE = [5, 5, 15, 5, 15, 15]
ALL = 30 * 40


def rectangle(height: int = 30, width: int = 40) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[5:15, 5:15] = True
    return mask


def with_mask(root: Path, segmentation: Any, **settings: Any) -> CocoDataset:
    """An image of 40 x 30 with a good mask and the one in question."""
    annotations = [
        {**box_entry(10, 1, [6, 6, 3, 3]), "segmentation": [[6, 6, 9, 6, 9, 9, 6, 9]]},
        {**box_entry(11, 1, BOX), "segmentation": segmentation},
    ]
    return CocoDataset(*write_set(root, annotations=annotations), masks=True, **settings)


# ---- what is read

GOOD_MASKS = {
    "a polygon": ([TRIANGLE], 45),
    "integers and fractions": ([[5, 5.0, 15, 5, 15, 15.0]], 45),
    "two polygons": ([TRIANGLE, [20, 20, 22, 20, 22, 22, 20, 22]], 49),
    "beside a polygon of two points": ([[1, 1, 2, 2], TRIANGLE], 45),
    "over the border": ([[-10, -10, 15, -10, 15, 15, -10, 15]], 225),
    "RLE": (encode_masks(rectangle()[None])[0], 100),
    "RLE of any types": ({**encode_masks(rectangle()[None])[0], "size": [30.0, "40"]}, 100),
    "uncompressed RLE": ({"size": [30, 40], "counts": [ALL - 3, 3]}, 3),
}


@pytest.mark.parametrize("case", GOOD_MASKS)
def test_a_good_mask(tmp_path: Path, case: str):
    segmentation, area = GOOD_MASKS[case]
    sample = with_mask(tmp_path, segmentation).load(0)
    assert sample.shapes is not None
    assert sample.shapes.draw((30, 40)).areas.tolist() == [9, area]
    rle = to_rle(read_mask(segmentation, (30, 40), "here"), (30, 40))
    assert decode_mask(rle).sum() == area


def test_without_masks_nothing_is_asked_of_them(tmp_path: Path):
    files = write_set(tmp_path, annotations=[{**box_entry(1, 1, BOX), "segmentation": [[1, 2, float("nan")]]}])
    sample = CocoDataset(*files).load(0)
    assert sample.boxes.tolist() == [[5, 5, 15, 15]]
    assert sample.shapes is None


# ---- what is not

BAD_MASKS = {
    "null": (None, "has no mask"),
    "no polygon": ([], "has no polygon"),
    "an empty polygon": ([[]], "has no polygon of three points"),
    "two points": ([[5, 5, 15, 15]], "has no polygon of three points"),
    "an odd number": ([[5, 5, 15, 5, 15, 15, 7]], "has a polygon of 7 numbers, where each point has two"),
    "an odd one of two": ([TRIANGLE, [5, 5, 6]], "has a polygon of 3 numbers"),
    "nan": ([[5, 5, 15, float("nan"), 15, 15]], "has a polygon that is not finite"),
    "infinite": ([[5, 5, float("inf"), 5, 15, 15]], "has a polygon that is not finite"),
    "beyond floats": ([[5, 5, 10**400, 5, 15, 15]], "has a polygon that is not finite"),
    "text": ([["5", "5", "15", "5", "15", "15"]], "has a polygon with something else than numbers"),
    "pairs": ([[[5, 5], [15, 5], [15, 15]]], "has a polygon with something else than numbers"),
    "flat": (TRIANGLE, "has a mask that is neither a list of polygons nor RLE"),
    "a word": ("mask.png", "has a mask that is neither a list of polygons nor RLE"),
    "right of the image": ([[40, 5, 50, 5, 50, 15]], "has a mask that lies outside its image of 40 x 30 pixels"),
    "above the image": ([[5, -9, 15, -9, 15, 0]], "has a mask that lies outside"),
    "a line": ([[5, 5, 10, 5, 15, 5]], "has a mask without area"),
    "no pixel": ({"size": [30, 40], "counts": [ALL]}, "has a mask without area"),
    "no size": ({"counts": [ALL]}, "has a mask in RLE without size"),
    "no counts": ({"size": [30, 40]}, "has a mask in RLE without size"),
    "counts that do not fill it": (
        {"size": [30, 40], "counts": [9]},
        "has a mask that means nothing: its RLE counts 9",
    ),
    "text that is none": ({"size": [30, 40], "counts": "S"}, "has a mask that means nothing: its RLE ends in the"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_bad_mask_is_dropped_with_its_box_and_a_warning_or_raised(tmp_path: Path, case: str):
    segmentation, reason = BAD_MASKS[case]
    with pytest.warns(UserWarning, match=rf"train.json: 1 of 2 boxes left out: annotation 11 of 001.png, {reason}"):
        dataset = with_mask(tmp_path, segmentation)
    sample = dataset.load(0)
    assert sample.boxes.tolist() == [[6, 6, 9, 9]]
    assert sample.shapes is not None
    assert len(sample.shapes) == 1
    with pytest.raises(ValueError, match=rf"train.json: annotation 11 of 001.png, {reason}"):
        with_mask(tmp_path, segmentation, bad_boxes="raise")
    with pytest.raises(MaskProblem, match=reason):
        read_mask(segmentation, (30, 40), "here")


def test_an_annotation_without_the_key_has_no_mask(tmp_path: Path):
    with pytest.warns(UserWarning, match="annotation 1 of 001.png, has no mask"):
        CocoDataset(*write_set(tmp_path, annotations=[box_entry(1, 1, BOX)]), masks=True)


@pytest.mark.parametrize("size", [(29, 40), (31, 40), (30, 39), (40, 30)])
@pytest.mark.parametrize("bad_boxes", ["drop", "raise"])
def test_a_mask_one_row_short_is_refused(tmp_path: Path, size: tuple[int, int], bad_boxes: str):
    """Whatever is done with bad boxes: what has another size shows that all masks may be those of other images."""
    (rle,) = encode_masks(rectangle(*size)[None])
    message = (
        rf"train\.json: annotation 11 of 001\.png has a mask of {size[1]} x {size[0]} pixels, and its image 40 x 30"
    )
    with pytest.raises(ValueError, match=message):
        with_mask(tmp_path, rle, bad_boxes=bad_boxes)


def test_an_ignore_region_needs_no_mask(tmp_path: Path):
    annotations = [
        {**box_entry(1, 1, BOX, iscrowd=1), "segmentation": {"size": [3, 4], "counts": [12]}},
        box_entry(2, 1, BOX, ignore=1),
    ]
    sample = CocoDataset(*write_set(tmp_path, annotations=annotations), masks=True).load(0)
    assert sample.ignore.tolist() == [True, True]
    assert sample.shapes is not None
    assert sample.shapes.sources == ((), ())


# ---- how they are kept


def test_masks_stay_with_their_boxes_and_images(tmp_path: Path):
    """Annotations in disorder, in all forms, one image left out."""
    rng = np.random.default_rng(0)
    images = [image_entry(i, 40, 30) for i in range(1, 6)]
    annotations = []
    for number in rng.permutation(20).tolist():
        x, y, w, h = (int(v) for v in (number, number // 2, 4 + number % 3, 6))
        polygon = [float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]
        pixels = draw_polygons([np.array(polygon).reshape(-1, 2)], (30, 40))
        segmentation = [polygon] if number % 2 else encode_masks(pixels[None])[0]
        annotations.append({**box_entry(number, number % 5 + 1, [x, y, w, h]), "segmentation": segmentation})
    json_file, folder = write_set(tmp_path, images, annotations)
    (folder / "002.png").unlink()
    with pytest.warns(UserWarning, match="1 of 5 images left out"):
        dataset = CocoDataset(json_file, folder, masks=True, bad_images="skip")
    for copy in (dataset, pickle.loads(pickle.dumps(dataset))):
        for index in range(4):
            sample = copy.load(index)
            assert sample.shapes is not None
            assert len(sample.boxes) == 4
            np.testing.assert_array_equal(sample.shapes.boxes(np.zeros((4, 4))), sample.boxes)
            areas = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
            assert sample.shapes.draw((30, 40)).areas.tolist() == areas.tolist()
