import hashlib
import json
import os
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image
from tqdm import tqdm

from minirtmdet.configs import ScenesConfig
from minirtmdet.data import glyphs, scenes
from minirtmdet.data.compose import Thing, compose, visible_box
from minirtmdet.data.scenes import CLASSES, make_scenes, plan_scene, render_scene

CONFIG = ScenesConfig()
SMALL = ScenesConfig(train=6, val=3, size=64)


def blank(value=255, size=160):
    return np.full((size, size, 3), value, np.uint8)


def ball(x, y, size, label=15):
    return Thing(label, "🏀" if label >= 0 else "🌕", x, y, size)


# ---- one scene


def test_scenes_are_images_with_boxes_and_labels():
    for size in (64, 160, 200):
        image, boxes, labels = render_scene(replace(CONFIG, size=size), "val", 2)
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert image.flags["C_CONTIGUOUS"]
        assert boxes.shape == (len(labels), 4)
        assert boxes.dtype == np.float32
        assert labels.dtype == np.int64


def test_a_scene_is_a_pure_function_of_its_arguments():
    first = [render_scene(CONFIG, "train", i) for i in range(4)]
    glyphs.glyph.cache_clear()
    # asked for in another order, in a set of another length
    again = [render_scene(replace(CONFIG, train=3, val=1), "train", i) for i in reversed(range(4))]
    for one, other in zip(first, reversed(again), strict=True):
        for field, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(field, same)


def test_seed_split_and_index_each_change_all_of_a_scene():
    scenes_of = [("train", 5, 0), ("val", 5, 0), ("train", 6, 0), ("train", 5, 1)]
    plans = [plan_scene(replace(CONFIG, seed=seed), split, index) for split, index, seed in scenes_of]
    images = [render_scene(replace(CONFIG, seed=seed), split, index)[0] for split, index, seed in scenes_of]
    for i in range(4):
        for j in range(i):
            assert plans[i] != plans[j]
            assert (images[i] != images[j]).any(-1).mean() > 0.9


def test_training_and_validation_share_no_placement_and_no_background(monkeypatch):
    places = {split: [tuple(plan_scene(CONFIG, split, i)) for i in range(200)] for split in scenes.SPLITS}
    shown = {split: {plan for plan in plans if plan} for split, plans in places.items()}
    assert not shown["train"] & shown["val"]
    assert not {thing for plan in shown["train"] for thing in plan} & {thing for plan in shown["val"] for thing in plan}
    monkeypatch.setattr(scenes, "plan_scene", lambda *_: [])
    bare = {split: {render_scene(SMALL, split, i)[0].tobytes() for i in range(40)} for split in scenes.SPLITS}
    assert len(bare["train"] | bare["val"]) == 80


def test_placement_is_the_recorded_one():
    # integers alone decide it: the same on every platform, and with every version of numpy that keeps its streams
    plans = [plan_scene(CONFIG, split, i) for split in scenes.SPLITS for i in range(50)]
    assert hashlib.sha256(repr(plans).encode()).hexdigest() == RECORDED_PLANS


def test_boxes_and_labels_are_the_recorded_ones():
    for (split, index), (boxes, labels) in RECORDED_SCENES.items():
        _, found, classes = render_scene(CONFIG, split, index)
        assert [CLASSES[label] for label in classes] == labels
        # another FreeType may move an outline by a pixel
        np.testing.assert_allclose(found, boxes, atol=1)


def test_boxes_lie_inside_and_are_tight_around_what_can_be_seen():
    checked = 0
    for index in range(25):
        things = plan_scene(CONFIG, "train", index)
        # a thing alone on black and on white tells its alpha: white minus black is 255 minus alpha
        alone = [
            255 - (compose(blank(255), [thing])[0].astype(int) - compose(blank(0), [thing])[0])[..., 0]
            for thing in things
        ]
        masks = [alpha >= 128 for alpha in alone]
        _, boxes, labels = render_scene(CONFIG, "train", index)
        kept = iter(zip(boxes.astype(int).tolist(), labels.tolist(), strict=True))
        box, label = next(kept, (None, None))
        for i, thing in enumerate(things):
            hidden = np.any(masks[i + 1 :], axis=0) if masks[i + 1 :] else np.zeros_like(masks[i])
            y, x = np.nonzero(masks[i] & ~hidden)
            if label == thing.label and len(x) and box == [x.min(), y.min(), x.max() + 1, y.max() + 1]:
                assert 0 <= box[0] < box[2] <= 160
                assert 0 <= box[1] < box[3] <= 160
                box, label = next(kept, (None, None))
                checked += 1
        assert box is None  # every box was met, in the order of the things
    assert checked > 60


def test_the_image_is_bgr(monkeypatch):
    # a red apple fills most of its own box
    monkeypatch.setattr(scenes, "plan_scene", lambda *_: [Thing(10, "🍎", 80, 80, 100)])
    image, boxes, _ = render_scene(CONFIG, "train", 0)
    x1, y1, x2, y2 = boxes[0].astype(int)
    blue, green, red = image[y1:y2, x1:x2].reshape(-1, 3).mean(0)
    assert red > 1.2 * blue
    assert red > 1.2 * green


# ---- how hard a set is


def test_objects_are_many_and_of_every_class_and_size():
    rendered = [render_scene(CONFIG, "train", i)[1:] for i in range(150)]
    labels = Counter(int(label) for _, found in rendered for label in found)
    assert set(labels) == set(range(len(CLASSES)))
    assert min(labels.values()) > max(labels.values()) / 4
    counts = Counter(len(found) for _, found in rendered)
    assert 0.05 < counts[0] / 150 < 0.3
    assert max(counts) == 6
    boxes = np.concatenate([boxes for boxes, _ in rendered])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    tiny, small, medium, large = np.histogram(sides, [0, 16, 32, 56, 81])[0] / len(sides)
    assert tiny + small + medium + large == pytest.approx(1)
    assert 0.02 < tiny < 0.1
    assert 0.04 < small < 0.2
    assert medium > 0.3
    assert large > 0.25
    assert sides.min() <= 9
    assert sides.max() >= 78
    at_border = ((boxes[:, :2] == 0) | (boxes[:, 2:] == 160)).any(1).mean()
    assert 0.03 < at_border < 0.3


def test_larger_scenes_are_the_same_in_proportion():
    small, large = (
        [thing.size / size for i in range(100) for thing in plan_scene(replace(CONFIG, size=size), "train", i)]
        for size in (160, 640)
    )
    assert np.quantile(large, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(small, [0.1, 0.5, 0.9]), rel=0.15)


def test_things_overlap_but_do_not_cover_each_other():
    plans = [plan_scene(CONFIG, "val", i) for i in range(200)]
    covers = [scenes._cover(front, back) for plan in plans for i, front in enumerate(plan) for back in plan[:i]]
    assert max(covers) <= scenes.MAX_COVER
    assert sum(cover > 10 for cover in covers) > 80
    assert any(thing.label == -1 for plan in plans for thing in plan)


def test_the_cover_of_squares():
    behind = ball(50, 50, 40)
    assert scenes._cover(ball(50, 50, 80), behind) == 100
    assert scenes._cover(ball(70, 50, 40), behind) == 50
    assert scenes._cover(ball(50, 50, 20), behind) == 25
    assert scenes._cover(ball(90, 50, 40), behind) == 0


# ---- what counts as a box


def test_an_object_that_is_seen_whole_has_the_box_of_its_pixels():
    _, boxes, labels, _ = compose(blank(), [ball(80, 60, 40)])
    assert labels.tolist() == [15]
    np.testing.assert_allclose(boxes, [[60, 40, 100, 80]], atol=1)


def test_a_box_ends_at_the_border():
    _, boxes, _, _ = compose(blank(), [ball(0, 80, 40), ball(80, 159, 40)])
    np.testing.assert_allclose(boxes, [[0, 60, 20, 100], [60, 139, 100, 160]], atol=1)
    assert boxes[0, 0] == 0
    assert boxes[1, 3] == 160


def test_an_object_that_is_mostly_cut_off_has_no_box():
    # of a disc, 25 % lie beyond a line at 0.40 of the radius from its centre
    _, kept, _, _ = compose(blank(), [ball(-20 + 13, 80, 40)])
    _, dropped, labels, _ = compose(blank(), [ball(-20 + 10, 80, 40)])
    assert len(kept) == 1
    assert kept[0, 2] < 15
    assert dropped.shape == (0, 4)
    assert labels.shape == (0,)


@pytest.mark.parametrize("place", [(-60, 80), (80, -60), (300, 80), (80, 300), (-25, -25)])
def test_an_object_outside_is_not_there(place):
    image, boxes, _, _ = compose(blank(), [ball(*place, 40)])
    assert (image == 255).all()
    assert len(boxes) == 0


def test_a_partly_hidden_object_has_the_box_of_its_visible_part():
    # the right half lies behind a disc of the same size whose left end is at x = 80
    _, boxes, labels, _ = compose(blank(), [ball(80, 80, 40), ball(100, 80, 40, label=14)])
    assert labels.tolist() == [15, 14]
    x1, y1, x2, y2 = boxes[0]
    assert (x1, y1, y2) == pytest.approx((60, 60, 100), abs=1)
    assert 88 <= x2 <= 92
    np.testing.assert_allclose(boxes[1], [80, 60, 120, 100], atol=1)


def test_the_mask_of_an_object_is_what_can_be_seen_of_it():
    behind, front = ball(80, 80, 40), ball(100, 80, 40, label=14)
    _, boxes, _, masks = compose(blank(), [behind, ball(20, 20, 30, label=-1), front])
    alone, on_top = (compose(blank(), [thing]).masks[0] for thing in (behind, front))
    assert (masks[1] == on_top).all()
    assert (masks[0] == (alone & ~on_top)).all()
    assert 0 < masks[0].sum() < alone.sum()
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int).tolist(), strict=True):
        assert np.flatnonzero(mask.any(0))[[0, -1]].tolist() == [x1, x2 - 1]
        assert np.flatnonzero(mask.any(1))[[0, -1]].tolist() == [y1, y2 - 1]
    assert compose(blank(), []).masks.shape == (0, 160, 160)


def test_a_mostly_hidden_object_has_no_box_whatever_hides_it():
    for label in (14, -1):
        _, boxes, labels, _ = compose(blank(), [ball(80, 80, 40), ball(84, 80, 40, label=label)])
        assert labels.tolist() == ([14] if label >= 0 else [])
        assert len(boxes) == len(labels)


def test_distractors_have_no_box():
    image, boxes, _, _ = compose(blank(), [ball(80, 80, 60, label=-1)])
    assert len(boxes) == 0
    assert (image != 255).any()


def test_the_least_of_an_object_that_counts():
    visible = np.zeros((20, 20), dtype=bool)
    visible[4:9, 2:12] = True  # 50 pixels
    assert visible_box(visible, 200) == (2, 4, 12, 9)  # a quarter
    assert visible_box(visible, 201) is None
    assert visible_box(np.zeros((4, 4), dtype=bool), 0) is None
    thin = np.zeros((20, 20), dtype=bool)
    thin[3:5] = True
    assert visible_box(thin, 40) is None
    thin[5] = True
    assert visible_box(thin, 60) == (0, 3, 20, 6)


def test_what_is_in_front_is_drawn_last():
    behind = Thing(0, "🐱", 80, 80, 60)
    front = Thing(10, "🍎", 80, 80, 30)
    image, _, labels, _ = compose(blank(), [behind, front])
    assert labels.tolist() == [0, 10]
    np.testing.assert_array_equal(image[80, 80], compose(blank(), [front])[0][80, 80])


# ---- the data set on disk


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_scenes(SMALL, tmp_path_factory.mktemp("made") / "set", progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_set_is_coco_json_with_its_images(made):
    names = {"train": 6, "val": 3}
    assert sorted(path.name for path in made.iterdir()) == ["train", "train.json", "val", "val.json"]
    for split, count in names.items():
        coco = json.loads((made / f"{split}.json").read_text(encoding="utf-8"))
        assert [c["id"] for c in coco["categories"]] == list(range(1, 17))
        assert tuple(c["name"] for c in coco["categories"]) == CLASSES
        assert [image["id"] for image in coco["images"]] == list(range(1, count + 1))
        assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        assert sorted(path.name for path in (made / split).iterdir()) == [i["file_name"] for i in coco["images"]]
        for index, image in enumerate(coco["images"]):
            assert (image["width"], image["height"]) == (64, 64)
            pixels, boxes, labels = render_scene(SMALL, split, index)
            stored = np.array(Image.open(made / split / image["file_name"]))
            np.testing.assert_array_equal(stored[..., ::-1], pixels)
            of_image = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
            assert [a["category_id"] - 1 for a in of_image] == labels.tolist()
            for annotation, (x1, y1, x2, y2) in zip(of_image, boxes.tolist(), strict=True):
                assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
                assert annotation["area"] == (x2 - x1) * (y2 - y1) > 0
                assert annotation["iscrowd"] == 0
                x, y, width, height = coco_mask.toBbox(annotation["segmentation"])
                assert [x, y, x + width, y + height] == [x1, y1, x2, y2]


def test_openmoji_is_credited_in_the_set(made):
    coco = json.loads((made / "train.json").read_text(encoding="utf-8"))
    assert "OpenMoji" in coco["info"]["contributor"]
    assert "CC BY-SA 4.0" in coco["info"]["contributor"]
    assert coco["licenses"][0]["url"] == "https://creativecommons.org/licenses/by-sa/4.0/"
    assert {image["license"] for image in coco["images"]} == {coco["licenses"][0]["id"]}


def test_the_same_settings_give_the_same_bytes(made, tmp_path):
    assert contents(make_scenes(SMALL, tmp_path / "again", progress=False)) == contents(made)


def test_a_made_set_is_not_made_again(made, monkeypatch):
    monkeypatch.setattr(scenes, "_write", lambda *_: pytest.fail("made twice"))
    assert make_scenes(SMALL, made, progress=False) == made


def test_by_default_it_lies_in_the_cache_named_by_its_settings(monkeypatch, tmp_path):
    monkeypatch.setattr(scenes, "user_cache_path", lambda name: tmp_path / name)
    one, other = (make_scenes(replace(SMALL, train=1, val=1, seed=seed), progress=False) for seed in (0, 1))
    assert one.parent == other.parent == tmp_path / "minirtmdet"
    assert one != other
    assert make_scenes(replace(SMALL, train=1, val=1), progress=False) == one


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_call_leaves_nothing(error, monkeypatch, tmp_path):
    write = scenes._write_scene

    def interrupted(*arguments):
        if arguments[-1] == 4:
            raise error("stop")
        return write(*arguments)

    monkeypatch.setattr(scenes, "_write_scene", interrupted)
    with pytest.raises(error, match="stop"):
        make_scenes(SMALL, tmp_path / "set", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_two_calls_at_once_make_one_set(made, tmp_path):
    results = []
    calls = [
        threading.Thread(target=lambda: results.append(make_scenes(SMALL, tmp_path / "set", progress=False)))
        for _ in range(3)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert results == [tmp_path / "set"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert contents(tmp_path / "set") == contents(made)


def test_the_slower_of_two_processes_takes_the_set_of_the_faster(monkeypatch, tmp_path):
    write = scenes._write

    def overtaken(*arguments):
        write(*arguments)
        monkeypatch.setattr(scenes, "_write", write)
        make_scenes(SMALL, tmp_path / "set", progress=False)
        (tmp_path / "set" / "mark").touch()

    monkeypatch.setattr(scenes, "_write", overtaken)
    assert make_scenes(SMALL, tmp_path / "set", progress=False) == tmp_path / "set"
    assert (tmp_path / "set" / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    make_scenes(replace(SMALL, train=1, val=1), tmp_path / "set", progress=False)
    assert (tmp_path / "set" / "train.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="permissions as on Linux and macOS")
def test_others_may_read_the_set(made):
    assert made.stat().st_mode & 0o755 == 0o755


def test_a_folder_that_holds_something_else_is_left_alone(made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else than scenes"):
        make_scenes(SMALL, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"notes\.txt: holds something else"):
        make_scenes(SMALL, tmp_path / "notes.txt", progress=False)
    with pytest.raises(ValueError, match="holds scenes of other settings"):
        make_scenes(replace(SMALL, seed=1), made, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_set_that_lost_images_is_reported(tmp_path):
    config = replace(SMALL, train=2, val=2)
    make_scenes(config, tmp_path / "set", progress=False)
    (tmp_path / "set" / "val" / "000001.png").unlink()
    with pytest.raises(ValueError, match=r"val: 1 images found, 2 expected: delete .*set to make it again"):
        make_scenes(config, tmp_path / "set", progress=False)


def test_the_progress_bar_counts_all_scenes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minirtmdet.data.scenes.tqdm", partial(tqdm, disable=False))
    make_scenes(replace(SMALL, train=2, val=1), tmp_path / "set")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3/3" in shown.err


# ---- photos of the user


@pytest.fixture
def photos(tmp_path):
    """Ten photos; those that go to validation are red, the others blue."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (120, 90), (250, 0, 0) if i % 5 == 0 else (0, 0, 250)).save(folder / f"{i}.png")
    return folder


def test_photos_become_backgrounds_and_no_split_sees_those_of_the_other(photos, tmp_path):
    config = replace(SMALL, backgrounds=photos)
    for split, channel in (("val", 2), ("train", 0)):
        for index in range(8):
            image = render_scene(config, split, index)[0]
            assert np.median(image.reshape(-1, 3), axis=0).argmax() == channel
    folder = make_scenes(config, tmp_path / "set", progress=False)
    np.testing.assert_array_equal(
        np.array(Image.open(folder / "train" / "000001.png"))[..., ::-1], render_scene(config, "train", 1)[0]
    )


def test_placement_does_not_depend_on_the_background(photos):
    assert plan_scene(replace(CONFIG, backgrounds=photos), "val", 7) == plan_scene(CONFIG, "val", 7)


def test_other_photos_are_another_set_and_moved_ones_are_not(photos, tmp_path):
    config = replace(SMALL, backgrounds=photos)
    key = scenes._key(config)
    moved = photos.rename(tmp_path / "elsewhere")
    assert scenes._key(replace(config, backgrounds=moved)) == key
    Image.new("RGB", (9, 9)).save(moved / "new.png")
    assert scenes._key(replace(config, backgrounds=moved)) != key != scenes._key(SMALL)


# ---- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 63}, r"scenes\.size is 63: expected at least 64"),
        ({"train": 0}, r"scenes\.train is 0: expected at least 1"),
        ({"val": 0}, r"scenes\.val is 0"),
        ({"seed": -1}, r"scenes\.seed is -1: expected at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_scenes(replace(SMALL, **change), tmp_path / "set", progress=False)
    with pytest.raises(ValueError, match=message):
        render_scene(replace(SMALL, **change), "train", 0)


def test_an_unknown_split_or_a_negative_index_is_an_error():
    with pytest.raises(ValueError, match="unknown split 'test': expected 'train' or 'val'"):
        render_scene(CONFIG, "test", 0)
    with pytest.raises(ValueError, match="scene -1: scenes are counted from 0"):
        render_scene(CONFIG, "train", -1)


def test_missing_backgrounds_and_a_missing_font_leave_nothing(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of backgrounds"):
        make_scenes(replace(SMALL, backgrounds=tmp_path / "nowhere"), tmp_path / "set", progress=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: 0 photos found"):
        make_scenes(replace(SMALL, backgrounds=tmp_path / "empty"), tmp_path / "set", progress=False)
    glyphs.glyph.cache_clear()
    monkeypatch.setattr(glyphs, "get_openmoji_font_data", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="the glyph font is missing"):
        make_scenes(SMALL, tmp_path / "set", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


# what the two tests of recorded values compare with; a change of the difficulty changes them, and _VERSION with them
RECORDED_PLANS = "11fbd4107e90a876ad5e7eecc5120697d6cd770eea0e126590ac4c17a51f4326"
RECORDED_SCENES: dict[tuple[str, int], tuple[list[list[int]], list[str]]] = {
    ("train", 0): (
        [[51, 42, 91, 84], [63, 109, 131, 160], [5, 87, 79, 155], [86, 25, 126, 61], [128, 83, 144, 103]],
        ["baseball", "baseball", "bear", "basketball", "tomato"],
    ),
    ("train", 7): (
        [[57, 30, 101, 87], [87, 93, 147, 156], [89, 23, 116, 58], [34, 77, 81, 136]],
        ["cat", "cat", "fox", "tiger"],
    ),
    ("val", 4): (
        [[99, 8, 152, 50], [80, 40, 121, 92], [26, 38, 64, 63], [26, 117, 83, 143], [20, 77, 54, 93]],
        ["bear", "orange", "ambulance", "ambulance", "taxi"],
    ),
}
