"""Data sets in parts: whole groups, every class in each, nothing lost and nothing overwritten."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_json, write_random_set

from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.divide import Division, assign_groups, describe_division, divide_set, group_images

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def divide(source: Path, out: Path, shares: Mapping[str, float], **more: Any) -> Division:
    """Without images, which nothing but ``similar`` reads."""
    return divide_set(source, out, shares, **{"images": Path("nowhere"), **more})


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_every_entry_is_in_one_part_as_it_was(tmp_path: Path):
    source, folder = write_random_set(tmp_path, 40)
    content = read(source) | {"info": {"year": 2026}, "licenses": [{"id": 1}]}
    source.write_text(json.dumps(content))
    before = source.read_bytes()
    division = divide(source, tmp_path / "parts", SHARES)
    parts = [read(path) for path in division.files.values()]
    assert [path.name for path in division.files.values()] == ["train.json", "val.json", "test.json"]
    for key in ("images", "annotations"):
        together = [entry for part in parts for entry in part[key]]
        assert sorted(together, key=lambda entry: entry["id"]) == content[key]
    for part in parts:
        ids = {entry["id"] for entry in part["images"]}
        assert {entry["image_id"] for entry in part["annotations"]} <= ids
        assert (part["categories"], part["info"], part["licenses"]) == (
            content["categories"], content["info"], content["licenses"],
        )  # fmt: skip
    assert source.read_bytes() == before
    assert sum(len(CocoDataset(path, folder)) for path in division.files.values()) == 40


def test_the_seed_decides(tmp_path: Path):
    source, _ = write_random_set(tmp_path, 30)
    found = [
        read(divide(source, tmp_path / str(i), SHARES, seed=seed).files["val"]) for i, seed in enumerate((0, 0, 1))
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "most"), [("bccd/train", 0.02), ("playing_cards/train", 0.03)])
def test_real_sets_keep_their_classes_in_proportion(tmp_path: Path, name: str, most: float, seed: int):
    source = SHARED / f"{name}.json"
    if not source.is_file():
        pytest.skip("needs the small data sets beside the checkout")
    division = divide(source, tmp_path, SHARES, seed=seed)
    for part, share in SHARES.items():
        assert abs(division.images[part] / sum(division.images.values()) - share) < most + 0.02
        for label, count in division.boxes[part].items():
            total = sum(boxes[label] for boxes in division.boxes.values())
            assert abs(count / total - share) < most, (part, label)


def test_eighty_rare_classes_are_all_learned(tmp_path: Path):
    source = SHARED / "coco100/train.json"
    if not source.is_file():
        pytest.skip("needs the small data sets beside the checkout")
    boxes = divide(source, tmp_path, {"train": 0.8, "val": 0.2}).boxes
    assert [name for name, count in boxes["val"].items() if count and not boxes["train"][name]] == []


def entries(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"file_name": name, **more} for name in names]


@pytest.mark.parametrize(
    ("images", "group", "expected"),
    [
        (entries("a/1.png", "a/2.png", "b/1.png"), "", ["a/1.png", "a/2.png", "b/1.png"]),
        (entries("a/1.png", "a\\2.png", "b/c/1.png", "d.png"), "folder", ["a", "a", "b/c", "."]),
        ([{"file_name": "1", "video": 3}, {"file_name": "2", "video": 4}], "key:video", ["3", "4"]),
        (entries("day1_cam2_07.png", "day2_cam2_08.png"), r"regex:cam(\d)", ["2", "2"]),
        (entries("day1_cam2.png", "day2_cam2.png"), r"regex:day\d", ["day1", "day2"]),
        (entries("x:1.png"), "regex:x:.", ["x:1"]),
    ],
)
def test_groups(images: list[Mapping[str, Any]], group: str, expected: list[str]):
    assert group_images(images, group, "s.json") == expected


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ("day", "group is 'day': expected similar, folder, key:NAME or regex:PATTERN"),
        ("key:", "group is 'key:'"),
        ("folder:x", "group is 'folder:x'"),
        ("key:video", "s.json: group key:video says nothing of 0.png, 1.png, 2.png, and 2 more"),
        ("regex:(", r"group regex:\(: '\(' is no regular expression"),
        ("regex:cat", "group regex:cat says nothing of 0.png"),
    ],
)
def test_groups_that_cannot_be_made(group: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        group_images(entries(*(f"{i}.png" for i in range(5))), group, "s.json")


def test_groups_stay_whole_and_classes_alike(tmp_path: Path):
    """Twenty videos of ten frames; cats in all, hens in four."""
    images = [image_entry(10 * v + f, file_name=f"v{v:02}/{f}.png") for v in range(20) for f in range(10)]
    boxes = [
        box_entry(i, image["id"], [1, 1, 9, 9], 1 + (image["id"] // 10 < 4 and i % 2)) for i, image in enumerate(images)
    ]
    source = write_json(tmp_path / "all.json", images, boxes, [{"id": 1, "name": "cat"}, {"id": 2, "name": "hen"}])
    division = divide(source, tmp_path / "out", {"train": 0.5, "val": 0.5}, group="folder")
    videos = [{entry["file_name"].split("/")[0] for entry in read(path)["images"]} for path in division.files.values()]
    assert not videos[0] & videos[1]
    assert division.groups == {"train": 10, "val": 10}
    assert division.boxes == {part: {"cat": 90, "hen": 10} for part in ("train", "val")}
    assert describe_division(division).splitlines()[0] == "train 100 images of 10 groups; val 100 images of 10 groups"


def test_no_part_is_empty():
    weights = np.array([[100, 10], [1, 1], [0, 1]])
    for seed in range(5):
        assert set(assign_groups(weights, [0.8, 0.1, 0.1], seed).tolist()) == {0, 1, 2}


def test_a_class_that_a_part_lacks_is_said(tmp_path: Path):
    source = write_json(
        tmp_path / "a.json",
        [image_entry(i) for i in range(1, 5)],
        [
            box_entry(1, 1, [1, 1, 5, 5]),
            *(box_entry(i, i, [1, 1, 5, 5], 2) for i in range(2, 5)),
            box_entry(9, 77, [1, 1, 2, 2]),
        ],
        [{"id": 1, "name": "rare"}, {"id": 2, "name": "dog"}],
    )
    text = describe_division(divide(source, tmp_path / "out", {"train": 0.5, "val": 0.5}))
    assert "rare: 1 + 0  ! none in val" in text
    assert "! left out: 1 annotation of images that the file does not have" in text


def test_a_part_of_one_image_says_so(tmp_path: Path):
    boxes = [box_entry(i, i, [1, 1, 5, 5]) for i in (1, 2)]
    source = write_json(tmp_path / "all.json", [image_entry(i) for i in (1, 2)], boxes, [{"id": 1, "name": "cat"}])
    text = describe_division(divide(source, tmp_path / "out", {"train": 0.5, "val": 0.5}))
    assert text.splitlines()[0] == "train 1 image; val 1 image"


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"train": 1.0, "val": 0.0}, "shares of train 1, val 0: expected at least two numbers between 0 and 1"),
        ({"train": 0.5, "val": 0.2}, "that sum to 1"),
        ({"train": 0.5, "val": float("nan")}, "expected at least two"),
        ({"train": 1.0}, "expected at least two"),
    ],
)
def test_shares_that_make_no_sense(tmp_path: Path, shares: dict[str, float], words: str):
    source, _ = write_random_set(tmp_path, 3)
    with pytest.raises(ValueError, match=words):
        divide(source, tmp_path / "out", shares)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path):
    source, _ = write_random_set(tmp_path, 10)
    before = source.read_bytes()
    shares = {"train": 0.5, "val": 0.5}
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"train\.json is read from"):
            divide(source, tmp_path, shares, overwrite=overwrite)
    out = tmp_path / "out"
    divide(source, out, shares)
    mine = (out / "val.json").read_bytes()
    with pytest.raises(FileExistsError, match="there already; choose another --out, or --overwrite"):
        divide(source, out, shares, seed=1)
    assert (out / "val.json").read_bytes() == mine
    divide(source, out, shares, seed=1, overwrite=True)
    assert source.read_bytes() == before


def test_fewer_groups_than_parts(tmp_path: Path):
    source, _ = write_random_set(tmp_path, 6)
    with pytest.raises(ValueError, match=r"has 1 group\(s\) of images for 2 parts"):
        divide(source, tmp_path / "out", {"train": 0.5, "val": 0.5}, group="folder")


def test_images_that_show_the_same_stay_together(tmp_path: Path):
    if not (SHARED / "playing_cards").is_dir():
        pytest.skip("needs the small data sets beside the checkout")
    source, images = SHARED / "playing_cards/train.json", SHARED / "playing_cards/train"
    division = divide(source, tmp_path, {"train": 0.5, "val": 0.5}, group="similar", images=images)
    parts = [{entry["file_name"] for entry in read(path)["images"]} for path in division.files.values()]
    for pair in (("IMG_2464.JPG", "IMG_2465.JPG"), ("IMG_2471.JPG", "IMG_2472.JPG")):
        assert any(set(pair) <= part for part in parts)
    assert sum(division.groups.values()) == 296 - 6  # six pairs


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_decoded_is_alike_to_nothing_but_its_copies(tmp_path: Path, content: bytes):
    source, folder = write_random_set(tmp_path, 6)
    names = [entry["file_name"] for entry in read(source)["images"]]
    for name in names[:2]:
        (folder / name).write_bytes(content)
    division = divide(source, tmp_path / "parts", {"train": 0.5, "val": 0.5}, group="similar", images=folder)
    parts = [{entry["file_name"] for entry in read(path)["images"]} for path in division.files.values()]
    assert any(set(names[:2]) <= part for part in parts)
    assert sum(division.groups.values()) == 5
