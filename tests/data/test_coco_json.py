"""Odd values in a COCO JSON: what each is taken for, everywhere alike."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_json, write_set

from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.coco_json import read_annotations, read_images, read_json
from minirtmdet.evaluation.coco import coco_metrics
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.evaluation.matching import match_images

BOX = [5.0, 5.0, 10.0, 10.0]
INFINITE = float("inf")

# (key, value, what it is taken for); None where the file is refused, "no box" where the annotation is left out
ANNOTATION_VALUES: list[tuple[str, Any, Any]] = [
    ("iscrowd", None, False),
    ("iscrowd", 0, False),
    ("iscrowd", 0.0, False),
    ("iscrowd", False, False),
    ("iscrowd", "0", False),
    ("iscrowd", "False", False),
    ("iscrowd", 1, True),
    ("iscrowd", 1.0, True),
    ("iscrowd", True, True),
    ("iscrowd", "1", True),
    ("iscrowd", "true", True),
    ("iscrowd", 2, None),
    ("iscrowd", "", None),
    ("iscrowd", "no", None),
    ("iscrowd", [], None),
    ("ignore", None, False),
    ("ignore", "0", False),
    ("ignore", 1, True),
    ("ignore", "maybe", None),
    ("bbox", None, "no box"),
    ("bbox", [], "no box"),
    ("bbox", {}, "no box"),
    ("bbox", "5 5 10 10", "no box"),
    ("bbox", [5, 5, 10], "no box"),
    ("bbox", [5, 5, 10, "10"], "no box"),
    ("bbox", [5, 5, 10, True], "no box"),
    ("bbox", [5, 5, 10, None], "no box"),
    ("bbox", [5, 5, 10, INFINITE], "no box"),
    ("bbox", [5, 5, 10, float("nan")], "no box"),
    ("bbox", [5, 5, 10, 10**400], "no box"),
    ("image_id", 1.0, False),
    ("image_id", "1", False),
    ("image_id", "01", None),
    ("image_id", 1.5, None),
    ("image_id", True, None),
    ("image_id", None, None),
    ("image_id", [1], None),
    ("category_id", "1", False),
    ("category_id", "cat", None),
    ("id", "a17", False),
    ("id", None, False),
    ("segmentation", [[]], False),
]


@pytest.mark.parametrize(("key", "value", "meaning"), ANNOTATION_VALUES)
def test_a_value_of_an_annotation_means_one_thing_everywhere(tmp_path: Path, key: str, value: Any, meaning: Any):
    json_file, folder = write_set(tmp_path, annotations=[{**box_entry(7, 1, BOX), key: value}])
    if meaning is None:
        message = rf"train\.json: annotation 7 has '{key}': .*, expected "
        for read in (lambda: CocoDataset(json_file, folder), lambda: read_ground_truth(json_file)):
            with pytest.raises(ValueError, match=message):
                read()
        with pytest.raises(ValueError, match=rf"ground truth: annotation 7 has '{key}'"):
            coco_metrics(read_json(json_file), [], [1])
        return
    expected = [] if meaning == "no box" else [meaning]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if meaning == "no box" else "error")
        dataset = CocoDataset(json_file, folder)
    assert dataset.load(0).ignore.tolist() == expected
    truth = read_ground_truth(json_file)
    assert [entry["iscrowd"] for entry in truth["annotations"]] == expected
    match = match_images(truth, [], [1], [1])[1]
    assert match.missed == (expected == [False])
    # nothing is found: a miss where there is something to find, else nothing to say
    assert coco_metrics(truth, [], [1]).metrics["AP"] == (0.0 if expected == [False] else -1.0)


def test_an_annotation_without_a_usable_box_is_left_out_and_counted_or_raised(tmp_path: Path):
    outline = {"segmentation": [[5, 5, 9, 5, 9, 9]]}
    annotations = [{**box_entry(i, 1, BOX), **outline} for i in (1, 2, 3)]
    annotations[0]["bbox"] = None
    del annotations[1]["bbox"]
    files = write_set(tmp_path, annotations=annotations)
    with pytest.warns(UserWarning, match=r"2 of 3 boxes left out: annotation 1 of 001\.png, has no box; annotation 2 "):
        assert len(CocoDataset(*files).load(0).boxes) == 1
    with pytest.raises(ValueError, match=r"train\.json: annotation 1 of 001\.png, has no box; bad_boxes='drop'"):
        CocoDataset(*files, bad_boxes="raise")
    assert len(read_ground_truth(files[0])["annotations"]) == 1
    # who gives a dict has seen no warning
    with pytest.raises(ValueError, match="ground truth: annotation 1 has no box"):
        coco_metrics(read_json(files[0]), [], [1])


@pytest.mark.parametrize(
    ("key", "value", "meaning"),
    [
        ("id", "1", 1),
        ("id", 1.0, 1),
        ("id", 2**60, 2**60),
        ("id", -3, -3),
        ("id", "a17", None),
        ("id", "001", None),
        ("id", 2.0**60, None),  # who knows which integer it was
        ("width", 40.0, 40),
        ("width", "40", 40),
        ("width", 40.5, None),
        ("width", None, None),
        ("width", "wide", None),
        ("height", 30.0, 30),
        ("height", INFINITE, None),
        ("file_name", "001.png", "001.png"),
        ("file_name", None, None),
        ("file_name", 1, None),
        ("file_name", "a\0.png", None),
        ("file_name", "\ud800.png", None),
    ],
)
def test_values_of_an_image(tmp_path: Path, key: str, value: Any, meaning: Any):
    path = write_json(tmp_path / "a.json", [{**image_entry(1), key: value}], [], [])
    if meaning is None:
        with pytest.raises(ValueError, match=rf"a\.json: image .* has '{key}': .*, expected (a whole number|text)"):
            read_images(read_json(path), str(path))
        return
    (image,) = read_images(read_json(path), str(path))
    found = {"id": image.id, "file_name": image.file_name, "height": image.size[0], "width": image.size[1]}
    assert found[key] == meaning
    assert type(found[key]) is type(meaning)


def test_ids_as_text_say_what_to_do(tmp_path: Path):
    path = write_json(tmp_path / "a.json", [{**image_entry(1), "id": "a17"}], [], [])
    with pytest.raises(ValueError, match=r"a\.json: image 0 has 'id': 'a17', .*number the entries 1, 2, 3"):
        read_images(read_json(path), str(path))


def test_one_id_written_in_two_ways_is_one_id(tmp_path: Path):
    path = write_json(tmp_path / "a.json", [image_entry(1), {**image_entry(1), "id": "1"}], [], [])
    with pytest.raises(ValueError, match="image id 1 is given twice"):
        read_images(read_json(path), str(path))


@pytest.mark.parametrize(
    ("area", "expected"),
    [(50, 50.0), (0, 0.0), (None, 100.0), ("50", 100.0), (-1, 100.0), (float("nan"), 100.0), (INFINITE, 100.0)],
)
def test_the_area_of_a_mask_or_of_the_box(area: Any, expected: float):
    content = {"annotations": [{**box_entry(1, 1, BOX), "area": area}]}
    assert [entry.area for entry in read_annotations(content, "here")] == [expected]


@pytest.mark.parametrize("entry", [None, 7, "box", []])
def test_an_entry_that_is_no_object_is_named(entry: Any):
    with pytest.raises(ValueError, match=r"here: annotation no\. 1 has no key 'image_id'"):
        list(read_annotations({"annotations": [box_entry(1, 1, BOX), entry]}, "here"))


def test_numbers_of_numpy_count_too():
    entry = {**box_entry(1, np.int64(1), [np.float32(1), 2, np.int64(3), 4.0]), "iscrowd": np.int64(1)}
    (found,) = read_annotations({"annotations": [entry]}, "here")
    assert (found.box, found.ignore, type(found.image_id)) == ((1.0, 2.0, 3.0, 4.0), True, int)


def test_json_nested_without_end_is_no_json(tmp_path: Path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json is not JSON"):
        read_json(path)


def test_a_caller_keeps_what_he_gave():
    truth = {
        "images": [image_entry(1)],
        "annotations": [{**box_entry(0, 1, BOX), "ignore": 1}, {**box_entry(0, 1, BOX), "iscrowd": None}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5}]
    before = json.dumps([truth, results])
    coco_metrics(truth, results, [1], [1])
    match_images(truth, results, [1], [1])
    assert json.dumps([truth, results]) == before
