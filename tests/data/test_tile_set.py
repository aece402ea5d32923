"""Data sets of tiles: boxes and masks worked out by hand, nothing lost, nothing overwritten."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_random_set, write_set

from minirtmdet.configs import DataConfig
from minirtmdet.data import tile_set as module
from minirtmdet.data.augment import crop
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.masks import decode_mask, encode_masks
from minirtmdet.data.splits import Split, find_parts, resolve_splits
from minirtmdet.data.tile_set import TiledPart, TileRule, describe_tiles, tile_set

RULE = TileRule(size=64, empty=1.0)
"""Tiles of 64 pixels, 16 in common: of 112 pixels two, from 0 and from 48."""


def cut(source: Path, images: Path, out: Path, **changes: Any) -> tuple[TiledPart, dict[str, Any]]:
    part = tile_set({"train": Split(source, images)}, out, replace(RULE, **changes), progress=False)["train"]
    return part, json.loads((out / "train.json").read_text())


def rows(content: dict[str, Any]) -> list[tuple]:
    """Tile, box, and whether it is to be left alone."""
    return [(row["image_id"], row["bbox"], row["iscrowd"]) for row in content["annotations"]]


@pytest.mark.parametrize(
    ("box", "changes", "expected"),
    [
        ([10, 10, 20, 20], {}, [(1, [10, 10, 20, 20], 0)]),
        ([50, 10, 12, 20], {}, [(1, [50, 10, 12, 20], 0), (2, [2, 10, 12, 20], 0)]),
        # 24 and 32 of 40 pixels
        ([40, 10, 40, 20], {}, [(1, [40, 10, 24, 20], 0), (2, [0, 10, 32, 20], 0)]),
        ([40, 10, 40, 20], {"min_visible": 0.7}, [(1, [40, 10, 24, 20], 1), (2, [0, 10, 32, 20], 0)]),
        ([40, 10, 40, 20], {"min_visible": 0.7, "pieces": "drop"}, [(2, [0, 10, 32, 20], 0)]),
        ([40, 10, 40, 20], {"min_visible": 1.0}, [(1, [40, 10, 24, 20], 1), (2, [0, 10, 32, 20], 1)]),
        # 4 of 40
        ([60, 10, 40, 20], {}, [(1, [60, 10, 4, 20], 1), (2, [12, 10, 40, 20], 0)]),
        ([60, 10, 40, 20], {"min_visible": 0.0}, [(1, [60, 10, 4, 20], 0), (2, [12, 10, 40, 20], 0)]),
        # half a pixel is nothing; a whole object of half a pixel is one
        ([30, 10, 18.5, 20], {}, [(1, [30, 10, 18.5, 20], 0)]),
        ([30, 10, 0.5, 20], {}, [(1, [30, 10, 0.5, 20], 0)]),
        # what reaches beyond the image ends there, and is whole where the image ends
        ([100, -5, 40, 20], {}, [(2, [52, 0, 12, 15], 0)]),
    ],
)
def test_boxes_that_a_border_cuts(tmp_path: Path, box: list[float], changes: dict, expected: list[tuple]):
    source, images = write_set(tmp_path / "in", [image_entry(7, 112, 64)], [box_entry(3, 7, box, 2)])
    part, content = cut(source, images, tmp_path / "out", **changes)
    assert rows(content) == expected
    assert {row["category_id"] for row in content["annotations"]} == {2}
    assert (part.images, part.tiles, part.objects) == (1, 2, 1)
    seen = [flag for _, _, flag in expected]
    assert (part.boxes, part.pieces, part.lost) == (seen.count(0), seen.count(1), int(0 not in seen))
    assert ("1 object is shown to" in describe_tiles("train", part, RULE)) == bool(part.lost)


def test_regions_to_be_left_alone_stay_such_however_little_is_seen(tmp_path: Path):
    boxes = [box_entry(1, 1, [60, 0, 50, 64], iscrowd=1), box_entry(2, 1, [62, 0, 50, 64], ignore=1)]
    _, content = cut(*write_set(tmp_path / "in", [image_entry(1, 112, 64)], boxes), tmp_path / "out")
    flags = [(row["image_id"], row["bbox"], row["iscrowd"], row.get("ignore")) for row in content["annotations"]]
    assert flags == [
        (1, [60, 0, 4, 64], 1, None),
        (1, [62, 0, 2, 64], 0, 1),
        (2, [12, 0, 50, 64], 1, None),
        (2, [14, 0, 50, 64], 0, 1),
    ]


def test_masks_are_cut_and_decide_what_is_seen(tmp_path: Path):
    """A triangle with its tip at the left: of its box tile 1 shows 24 of 40 pixels, of itself 0.6 * 0.6 = 0.36."""
    triangle = [40.0, 30.0, 80.0, 10.0, 80.0, 50.0]
    boxes = [box_entry(1, 1, [40, 10, 40, 40], segmentation=[triangle], keypoints=[1, 2, 2], num_keypoints=1, who="me")]
    source, images = write_set(tmp_path / "in", [image_entry(1, 112, 64)], boxes)
    _, content = cut(source, images, tmp_path / "out")
    left, right = content["annotations"]
    assert (left["iscrowd"], right["iscrowd"]) == (1, 0)
    assert left["bbox"] == [40, 18, 24, 24]  # tight around what is left
    assert left["area"] == pytest.approx(24 * 24 / 2)
    assert set(zip(left["segmentation"][0][::2], left["segmentation"][0][1::2], strict=True)) == {
        (40, 30), (64, 18), (64, 42),
    }  # fmt: skip
    assert right["bbox"] == [0, 10, 32, 40]
    assert right["area"] == pytest.approx(40 * 40 / 2 - 8 * 8 / 2)
    assert right["who"] == "me"
    assert not {"keypoints", "num_keypoints"} & set(right)
    _, content = cut(source, images, tmp_path / "lower", min_visible=0.36)
    assert [row["iscrowd"] for row in content["annotations"]] == [0, 0]


def test_rle_is_cut_to_the_pixels_of_the_tile(tmp_path: Path):
    mask = np.zeros((64, 112), bool)
    mask[5:60, 20:100] = np.random.default_rng(0).random((55, 80)) < 0.7
    boxes = [box_entry(1, 1, [20, 5, 80, 55], segmentation=encode_masks(mask[None])[0])]
    _, content = cut(*write_set(tmp_path / "in", [image_entry(1, 112, 64)], boxes), tmp_path / "out")
    for row, x in zip(content["annotations"], (0, 48), strict=True):
        seen = mask[:, x : x + 64]
        np.testing.assert_array_equal(decode_mask(row["segmentation"]), seen)
        assert row["area"] == seen.sum()


def test_masks_that_cannot_be_used_leave_their_box(tmp_path: Path):
    boxes = [
        box_entry(1, 1, [10, 10, 20, 20], segmentation=[[1, 2]]),
        box_entry(2, 1, [10, 10, 20, 20], segmentation=[]),
    ]
    part, content = cut(*write_set(tmp_path / "in", [image_entry(1, 112, 64)], boxes), tmp_path / "out")
    assert [(row["bbox"], "segmentation" in row) for row in content["annotations"]] == [([10, 10, 20, 20], False)] * 2
    assert part.notes == ["1 masks cannot be used and are left out; their boxes stay"]


@pytest.mark.parametrize("masks", [False, True])
def test_a_tile_is_what_a_crop_of_the_image_is(tmp_path: Path, masks: bool):
    """Pixels, boxes and shapes, by the crop of the augmentation."""
    source, images = write_random_set(tmp_path / "in", 6, masks=masks)
    before = CocoDataset(source, images, masks=masks)
    rule = replace(RULE, size=32, min_visible=0.0)
    tile_set({"train": Split(source, images)}, tmp_path / "out", rule, progress=False)
    after = CocoDataset(tmp_path / "out/train.json", tmp_path / "out/train", masks=masks, bad_boxes="raise")
    entries = json.loads((tmp_path / "out/train.json").read_text())["images"]
    originals = {entry["file_name"]: i for i, entry in enumerate(json.loads(source.read_text())["images"])}
    assert len(after) > 30
    for i, entry in enumerate(entries):
        whole, tile = before.load(originals[entry["tile_of"]]), after.load(i)
        expected = crop(whole, (entry["tile_left"], entry["tile_top"]), 32)
        np.testing.assert_array_equal(tile.image, expected.image)
        wide = (expected.boxes[:, 2:] - expected.boxes[:, :2]).min(1) >= 1
        # masks of that set have more digits than boxes
        np.testing.assert_allclose(tile.boxes, expected.boxes[wide], atol=1e-2)
        np.testing.assert_array_equal(tile.labels, expected.labels[wide])
        np.testing.assert_array_equal(tile.ignore, expected.ignore[wide])
        if tile.shapes is not None and expected.shapes is not None:
            ours, theirs = (shapes.draw((32, 32)) for shapes in (tile.shapes, expected.shapes))
            areas = theirs.areas[wide][~tile.ignore]
            np.testing.assert_allclose(ours.areas[~tile.ignore], areas, atol=3)


def test_the_set_can_be_trained_on(tmp_path: Path):
    """As it is found by its root; ids, names and other keys."""
    images = [image_entry(i, 150, 100, f"{folder}/a.png") | {"day": i} for i, folder in ((5, "x"), (9, "y"))]
    images += [image_entry(11, 64, 50, "x/a_0_0.png"), image_entry(12, 30, 64, "b.jpg")]
    boxes = [box_entry(i, i, [10, 10, 20, 20]) for i in (5, 9, 11, 12)]
    write_set(tmp_path / "in", images, boxes)
    write_set(tmp_path / "in", images[:1], boxes[:1], name="val")
    content = json.loads((tmp_path / "in/train.json").read_text()) | {"info": {"year": 2026}}
    (tmp_path / "in/train.json").write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    made = tile_set(find_parts(tmp_path / "in"), tmp_path / "out", RULE, progress=False)
    assert {path: path.read_bytes() for path in before} == before
    assert {name: (part.images, part.tiles) for name, part in made.items()} == {"train": (4, 14), "val": (1, 6)}
    train, val = (CocoDataset(*split) for split in resolve_splits(DataConfig(root=tmp_path / "out")))
    assert (len(train), len(val)) == (14, 6)
    assert [train.load(i).image.shape[:2] for i in (0, 12, 13)] == [(64, 64), (50, 64), (64, 30)]
    content = json.loads((tmp_path / "out/train.json").read_text())
    assert content["info"] == {"year": 2026}
    names = [entry["file_name"] for entry in content["images"]]
    assert len({name.casefold() for name in names}) == 14
    assert names[0] == "x/a_0_0.png"
    assert names[12:] == ["x/a_0_0-2.png", "b.jpg"]  # that is the name of a tile now
    assert [entry["id"] for entry in content["images"]] == list(range(1, 15))
    assert [row["id"] for row in content["annotations"]] == list(range(1, 1 + len(content["annotations"])))
    first = content["images"][0]
    assert (first["day"], first["tile_of"], first["tile_left"], first["tile_top"]) == (5, "x/a.png", 0, 0)
    # what fits a tile is copied to the byte
    assert (tmp_path / "out/train/b.jpg").read_bytes() == (tmp_path / "in/train/b.jpg").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_some_of_the_empty_tiles_stay_and_all_of_those_to_evaluate(tmp_path: Path):
    """24 tiles of which two show something."""
    images, boxes = [image_entry(1, 352, 208)], [box_entry(1, 1, [10, 10, 20, 20]), box_entry(2, 1, [300, 10, 9, 9])]
    for name in ("train", "val"):
        write_set(tmp_path / "in", images, boxes, name=name)
    parts = find_parts(tmp_path / "in")
    kept = {}
    for seed, empty in ((0, 0.5), (0, 0.5), (1, 0.5), (0, 0.0)):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        made = tile_set(parts, out, replace(RULE, empty=empty, seed=seed), progress=False)
        assert (made["val"].tiles, made["val"].empty, made["val"].left_out) == (28, 26, 0)
        assert (made["train"].empty, made["train"].left_out) == (round(26 * empty), 26 - round(26 * empty))
        written = sorted(path.name for path in (out / "train").iterdir())
        assert written == sorted(entry["file_name"] for entry in json.loads((out / "train.json").read_text())["images"])
        assert kept.setdefault((seed, empty), written) == written
    assert kept[0, 0.5] != kept[1, 0.5]


def test_a_set_without_objects_is_refused_where_none_of_its_tiles_stay(tmp_path: Path):
    source, images = write_set(tmp_path / "in", [image_entry(1, 112, 64)])
    with pytest.raises(ValueError, match=r"train\.json: no tile shows an object"):
        cut(source, images, tmp_path / "out", empty=0.0)
    assert not (tmp_path / "out").exists()


def test_jpeg_stays_jpeg_and_hardly_loses(tmp_path: Path):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 112, 3), dtype=np.uint8), (0, 0), 5)
    source, images = write_set(tmp_path / "in", [image_entry(1, 112, 64, "ä.JPG"), image_entry(2, 112, 64, "b.bmp")])
    (images / "ä.JPG").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    cut(source, images, tmp_path / "out")
    made = sorted(path.name for path in (tmp_path / "out/train").iterdir())
    assert made == ["b_0_0.png", "b_48_0.png", "ä_0_0.JPG", "ä_48_0.JPG"]
    dataset = CocoDataset(tmp_path / "out/train.json", tmp_path / "out/train")
    decoded = cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_COLOR)
    assert np.abs(dataset.load(1).image.astype(int) - decoded[:, 48:]).max() < 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_call_leaves_nothing(error: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, images = write_random_set(tmp_path / "in", 4)
    write = module._write_tiles

    def interrupted(dataset: CocoDataset, folder: Path, plan: Any) -> None:
        if plan.place == 2:
            raise error("stop")
        write(dataset, folder, plan)

    monkeypatch.setattr(module, "_write_tiles", interrupted)
    with pytest.raises(error, match="stop"):
        cut(source, images, tmp_path / "out", size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_is_there_stays(tmp_path: Path):
    source, images = write_random_set(tmp_path / "in", 2)
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    for out in (tmp_path / "in", images):
        with pytest.raises(FileExistsError, match="is there already and holds something: choose another folder"):
            cut(source, images, out)
    with pytest.raises(OSError, match="is no folder"):
        cut(source, images, source)
    (tmp_path / "empty").mkdir()
    cut(source, images, tmp_path / "empty")
    assert {path: path.read_bytes() for path in before} == before


def test_bad_images_are_named_before_any_is_cut(tmp_path: Path):
    source, images = write_random_set(tmp_path / "in", 3)
    (images / "002.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"002\.png cannot be decoded"):
        cut(source, images, tmp_path / "out")
    (images / "002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 3 images .* are not in"):
        cut(source, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 100}, "size is 100: expected a multiple of 32"),
        ({"overlap": 0.95}, r"overlap is 0\.95: expected a number from 0 to 0\.9"),
        ({"min_visible": 1.5}, r"min_visible is 1\.5"),
        ({"empty": -1.0}, r"empty is -1\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict, words: str, tmp_path: Path):
    with pytest.raises(ValueError, match=words):
        cut(tmp_path / "no.json", tmp_path, tmp_path / "out", **changes)
