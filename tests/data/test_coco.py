import io
import json
import pickle
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tiny_sets import CATEGORIES, box_entry, image_entry, write_json, write_set
from PIL import Image

from minirtmdet.configs import DataConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.images import read_image
from minirtmdet.data.splits import Split, resolve_splits

REAL_SETS = Path(__file__).parents[3] / "shared" / "data"


def real_set(name):
    root = REAL_SETS / name
    if not root.is_dir():
        pytest.skip(f"the real data set {name} is not at {root}")
    return root


def one_box(tmp_path, box, **settings):
    """A set of one image (40 x 30) with one box of 10 x 10 and the one in question."""
    annotations = [box_entry(10, 1, [5, 5, 10, 10]), box_entry(11, 1, box)]
    return CocoDataset(*write_set(tmp_path, annotations=annotations), **settings)


# ---- what a good set becomes


def test_a_sample_by_hand(tmp_path):
    images = [image_entry(5), image_entry(3, 20, 60)]
    annotations = [
        box_entry(1, 3, [1, 2, 10, 20], 2),
        box_entry(2, 5, [0.5, 1.5, 30, 20], 3),
        box_entry(3, 3, [0, 0, 20, 60], 1),
    ]
    json_file, folder = write_set(tmp_path, images, annotations)
    dataset = CocoDataset(json_file, folder)
    assert len(dataset) == 2
    assert dataset.image_ids == (5, 3)  # the order of the file
    assert dataset.json_file == json_file
    first, second = dataset.load(0), dataset.load(1)
    assert first.boxes.tolist() == [[0.5, 1.5, 30.5, 21.5]]
    assert first.labels.tolist() == [2]
    assert second.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 20, 60]]
    assert second.labels.tolist() == [1, 0]
    assert (second.image_id, second.path, second.original_size) == (3, folder / "003.png", (60, 20))
    assert second.img_shape == second.image.shape[:2] == (60, 20)
    assert second.scale_factor == (1.0, 1.0)
    assert (second.image == cv2.imread(str(folder / "003.png"))).all()
    with pytest.raises(IndexError):
        dataset.load(2)


def test_images_without_boxes_and_sets_without_boxes(tmp_path):
    dataset = CocoDataset(*write_set(tmp_path, [image_entry(i) for i in (1, 2, 3)], [box_entry(1, 2, [0, 0, 9, 9])]))
    assert [len(dataset.load(i).boxes) for i in range(3)] == [0, 1, 0]
    empty = CocoDataset(*write_set(tmp_path / "empty"))
    assert empty.load(0).boxes.shape == (0, 4)
    assert empty.load(0).boxes.dtype == np.float32
    assert empty.load(0).ignore.dtype == bool


def test_labels_follow_sorted_category_ids_with_gaps(tmp_path):
    categories = [{"id": 90, "name": "late"}, {"id": 7, "name": "early"}, {"id": 13, "name": "middle"}]
    annotations = [box_entry(i, 1, [0, 0, 9, 9], category_id) for i, category_id in enumerate((90, 7, 13))]
    dataset = CocoDataset(*write_set(tmp_path, annotations=annotations, categories=categories))
    assert dataset.classes == ("early", "middle", "late")
    assert dataset.category_ids == (7, 13, 90)
    assert dataset.load(0).labels.tolist() == [2, 0, 1]


def test_labels_follow_given_names_and_other_categories_are_left_out(tmp_path):
    annotations = [box_entry(i, 1, [0, 0, 9, 9], i) for i in (1, 2, 3)]
    paths = write_set(tmp_path, annotations=annotations)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = CocoDataset(*paths, categories=("hen", "cat"))
    assert dataset.classes == ("hen", "cat")
    assert dataset.category_ids == (3, 1)
    assert dataset.load(0).labels.tolist() == [1, 0]


def test_boxes_are_counted_by_class_and_what_is_left_out_by_category(tmp_path):
    annotations = [box_entry(i, 1, [5, 5, 10, 10], category_id) for i, category_id in enumerate([1, 2, 2, 3], 1)]
    files = write_set(tmp_path, annotations=[*annotations, box_entry(9, 1, [0, 0, 40, 30], 2, iscrowd=1)])
    dataset = CocoDataset(*files)
    assert dataset.count_boxes() == {"cat": 1, "dog": 2, "hen": 1}  # a crowd is no box
    assert dataset.other_boxes == {}
    dataset = CocoDataset(*files, categories=["hen"])
    assert dataset.count_boxes() == {"hen": 1}
    assert dataset.other_boxes == {"cat": 1, "dog": 3}


def test_two_categories_of_one_name_are_two_labels(tmp_path):
    categories = [{"id": 0, "name": "cell"}, {"id": 4, "name": "cell"}]
    paths = write_set(tmp_path, annotations=[box_entry(1, 1, [0, 0, 9, 9], 4)], categories=categories)
    dataset = CocoDataset(*paths)
    assert dataset.load(0).labels.tolist() == [1]
    assert CocoDataset(*paths, categories=dataset.classes).category_ids == (0, 4)


def test_unknown_and_repeated_names_are_errors(tmp_path):
    paths = write_set(tmp_path)
    with pytest.raises(ValueError, match=r"no category 'cow', 'pig'; it has 'cat', 'dog', 'hen'"):
        CocoDataset(*paths, categories=("cat", "cow", "pig"))
    with pytest.raises(ValueError, match="'cat' is asked for more often"):
        CocoDataset(*paths, categories=("cat", "cat"))


def test_crowds_and_ignored_boxes_become_ignore_regions(tmp_path):
    annotations = [
        box_entry(1, 1, [0, 0, 9, 9]),
        box_entry(2, 1, [0, 0, 30, 30], iscrowd=1, segmentation={"counts": [0], "size": [30, 40]}),
        box_entry(3, 1, [5, 5, 9, 9], ignore=1),
    ]
    del annotations[0]["iscrowd"]
    dataset = CocoDataset(*write_set(tmp_path, annotations=annotations))
    assert dataset.load(0).ignore.tolist() == [False, True, True]


def test_boxes_are_cut_at_the_border(tmp_path):
    dataset = one_box(tmp_path, [-5, 20, 100, 50])
    assert dataset.load(0).boxes.tolist() == [[5, 5, 15, 15], [0, 20, 40, 30]]


def test_a_data_set_travels_to_a_spawned_worker(tmp_path):
    dataset = one_box(tmp_path, [1, 2, 3, 4])
    again = pickle.loads(pickle.dumps(dataset))
    assert again.load(0).boxes.tolist() == dataset.load(0).boxes.tolist()


# ---- bad boxes

BAD_BOXES = {
    "zero width": ([5, 5, 0, 10], "has no area"),
    "zero height": ([5, 5, 10, 0], "has no area"),
    "vanishing width": ([30, 5, 1e-9, 10], "has no area"),
    "vanishing at the border": ([39.9999999, 5, 10, 10], "has no area"),
    "far away": ([1e39, 5, 10, 10], "lies outside"),
    "negative size": ([5, 5, -3, 10], "has a negative size"),
    "right of the image": ([40, 5, 10, 10], "lies outside its image of 40 x 30 pixels"),
    "above the image": ([5, -10, 10, 10], "lies outside"),
    "nan": ([5, float("nan"), 10, 10], "is not finite"),
    "infinite": ([5, 5, float("inf"), 10], "is not finite"),
    "three numbers": ([5, 5, 10], "is not four numbers"),
    "null": ([5, 5, None, 10], "is not four numbers"),
}


@pytest.mark.parametrize("case", BAD_BOXES)
def test_a_bad_box_is_dropped_with_a_warning_or_raised(tmp_path, case):
    box, reason = BAD_BOXES[case]
    with pytest.warns(UserWarning, match=rf"train.json: 1 of 2 boxes left out: annotation 11, .*001.png, {reason}"):
        dataset = one_box(tmp_path, box)
    assert dataset.load(0).boxes.tolist() == [[5, 5, 15, 15]]
    with pytest.raises(ValueError, match=rf"train.json: annotation 11, .*001.png, {reason}"):
        one_box(tmp_path, box, bad_boxes="raise")


def test_many_bad_boxes_make_one_warning_that_names_three(tmp_path):
    annotations = [box_entry(i, 1, [5, 5, 0, 0]) for i in range(10)]
    with pytest.warns(UserWarning, match="boxes left out") as caught:
        CocoDataset(*write_set(tmp_path, annotations=annotations))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "10 of 10 boxes" in message
    assert "annotation 2" in message
    assert "annotation 3" not in message
    assert message.endswith("and 7 more")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (box_entry(8, 99, [0, 0, 9, 9]), "names image 99, which the file does not have"),
        (box_entry(8, 1, [0, 0, 9, 9], 77), "names category 77, which the file does not have"),
    ],
)
def test_annotations_of_unknown_images_and_categories(tmp_path, entry, reason):
    paths = write_set(tmp_path, annotations=[entry])
    with pytest.warns(UserWarning, match=f"annotation 8, .*{reason}"):
        assert len(CocoDataset(*paths).load(0).boxes) == 0
    with pytest.raises(ValueError, match=f"annotation 8, .*{reason}"):
        CocoDataset(*paths, bad_boxes="raise")


# ---- bad JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ('{"images": [', "is not JSON"),
        ("[]", "has no key 'images'"),
        ('{"images": [], "categories": []}', "has no key 'annotations'"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is a dict, expected a list"),
        ('{"images": [], "annotations": [], "categories": []}', "names no image"),
    ],
)
def test_malformed_json_names_the_file(tmp_path, text, message):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken\.json.*{message}"):
        CocoDataset(path, tmp_path)


def test_missing_json_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json: there is no such file"):
        CocoDataset(tmp_path / "nowhere.json", tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"binary\.json is not JSON"):
        CocoDataset(tmp_path / "binary.json", tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("images", "id", "image 0 has no key 'id'"),
        ("images", "file_name", "image 1 has no key 'file_name'"),
        ("images", "width", "image 1 has no key 'width'"),
        ("annotations", "image_id", "annotation 4 has no key 'image_id'"),
        ("annotations", "category_id", "annotation 4 has no key 'category_id'"),
        ("categories", "id", "category 0 has no key 'id'"),
        ("categories", "name", "category 0 has no key 'name'"),
    ],
)
def test_missing_keys_name_file_entry_and_key(tmp_path, part, key, message):
    json_file, folder = write_set(tmp_path, annotations=[box_entry(4, 1, [0, 0, 9, 9])])
    content = json.loads(json_file.read_text())
    del content[part][0][key]
    json_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"train\.json: {message}, which COCO JSON needs"):
        CocoDataset(json_file, folder)


def test_wrong_kinds_and_repeated_ids(tmp_path):
    write_set(tmp_path)
    folder = tmp_path / "train"
    wide = {**image_entry(1), "width": "wide"}
    with pytest.raises(ValueError, match="image 1 has 'width': 'wide', expected a whole number"):
        CocoDataset(write_json(tmp_path / "a.json", [wide], [], []), folder)
    with pytest.raises(ValueError, match="image id 1 is given twice"):
        CocoDataset(write_json(tmp_path / "b.json", [image_entry(1), image_entry(1)], [], []), folder)
    twice = [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]
    with pytest.raises(ValueError, match="category id 2 is given twice"):
        CocoDataset(write_json(tmp_path / "c.json", [image_entry(1)], [], twice), folder)


# ---- bad images


def noise(height=30, width=40):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(kind, **options):
    file = io.BytesIO()
    Image.fromarray(noise()).save(file, kind, **options)
    return file.getvalue()


def cut(content):
    return content[: len(content) * 2 // 3]


BROKEN = {
    "cut JPEG": (cut(encoded("JPEG")), "cannot be decoded"),
    "cut progressive JPEG": (cut(encoded("JPEG", progressive=True)), "cannot be decoded"),
    "cut PNG": (cut(encoded("PNG")), "cannot be decoded"),
    "zero bytes": (b"", "is empty"),
    "text": (b"This is no image." * 9, "cannot be decoded"),
    "another size": (cv2.imencode(".png", noise(31, 40))[1].tobytes(), "is 40 x 31 pixels, but .* says 40 x 30"),
    "turned": (cv2.imencode(".png", noise(40, 30))[1].tobytes(), r"30 x 40 pixels \(after its EXIF orientation"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_an_error_when_loaded_or_skipped(tmp_path, case):
    content, message = BROKEN[case]
    annotations = [box_entry(i, i, [i, i, 10, 10]) for i in (1, 2, 3)]
    json_file, folder = write_set(tmp_path, [image_entry(i) for i in (1, 2, 3)], annotations)
    good = CocoDataset(json_file, folder)
    (folder / "002.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"002\.png.*{message}"):
        good.load(1)  # it went bad in between
    with pytest.raises(ValueError, match=rf"1 of 3 images cannot be used: .*002\.png.*{message}.*bad_images='skip'"):
        CocoDataset(json_file, folder)
    with pytest.warns(UserWarning, match=rf"train\.json: 1 of 3 images left out: .*002\.png.*{message}"):
        dataset = CocoDataset(json_file, folder, bad_images="skip")
    assert dataset.image_ids == (1, 3)
    assert dataset.load(1).boxes.tolist() == [[3, 3, 13, 13]]
    assert dataset.load(1).path.name == "003.png"


def test_missing_images_are_found_at_once(tmp_path):
    json_file, folder = write_set(tmp_path, [image_entry(i) for i in range(1, 7)])
    for i in range(1, 6):
        (folder / f"00{i}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"5 of the 6 images of .*001\.png, 002\.png, 003\.png, and 2 more"):
        CocoDataset(json_file, folder)
    with pytest.warns(UserWarning, match="5 of 6 images left out"):
        assert CocoDataset(json_file, folder, bad_images="skip").image_ids == (6,)
    (folder / "006.png").unlink()
    with pytest.raises(ValueError, match="6 of 6 images left out"):
        CocoDataset(json_file, folder, bad_images="skip")


def test_an_image_that_the_file_gives_no_size(tmp_path):
    json_file, folder = write_set(tmp_path)
    write_json(json_file, [image_entry(1, 0, 0)], [box_entry(1, 1, [1, 1, 9, 9])], CATEGORIES)
    with (
        pytest.warns(UserWarning, match="lies outside its image of 0 x 0 pixels"),
        pytest.raises(ValueError, match=r"001\.png is 40 x 30 pixels, but .*train\.json says 0 x 0"),
    ):
        CocoDataset(json_file, folder)


def test_all_settings_reach_the_data_set(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(CocoDataset, "__init__", lambda self, *split, **settings: given.update(settings, split=split))
    CocoDataset.from_config(Split(tmp_path / "a.json", tmp_path), DataConfig(), ("cat",))
    settings = {key: getattr(DataConfig(), key) for key in given.keys() - {"split", "categories", "masks"}}
    assert given == {"split": (tmp_path / "a.json", tmp_path), "categories": ("cat",), "masks": False, **settings}
    assert {*settings} == {"bad_boxes", "bad_images", "check", "max_pixels", "outside_files"}


def test_an_image_that_goes_missing_later_is_named(tmp_path):
    dataset = one_box(tmp_path, [1, 1, 9, 9])
    (tmp_path / "train" / "001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"001\.png: there is no such image"):
        dataset.load(0)


def test_skip_says_nothing_about_a_good_set(tmp_path):
    paths = write_set(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(CocoDataset(*paths, bad_images="skip")) == 1


# ---- reading images


def test_exif_orientation_is_applied(tmp_path):
    # MMDetection's LoadImageFromFile turns this image too (mmcv 2.1: shape 100 x 60)
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[:30, :50] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "phone.jpg")
    assert image.shape == (100, 60, 3)
    assert image[20, 45].tolist() == pytest.approx([0, 0, 255], abs=5)  # red, now right above, as BGR
    assert image[20, 15].max() < 5


def test_grey_transparent_palette_and_16_bit_images_become_bgr(tmp_path):
    Image.new("L", (5, 4), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (5, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    Image.new("P", (5, 4), 0).save(tmp_path / "palette.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 5), 0x4DFF, dtype=np.uint16))
    assert read_image(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]
    assert read_image(tmp_path / "clear.png")[0, 0].tolist() == [30, 20, 10]
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == [77, 77, 77]
    for name in ("grey", "clear", "palette", "deep"):
        image = read_image(tmp_path / f"{name}.png")
        assert (image.shape, image.dtype) == ((4, 5, 3), np.uint8)


# ---- real sets


def test_playing_cards():
    train, evaluation = (CocoDataset(*split) for split in resolve_splits(DataConfig(root=real_set("playing_cards"))))
    assert (len(train), len(evaluation)) == (296, 67)
    assert train.classes == evaluation.classes == ("ace", "jack", "king", "nine", "queen", "ten")
    assert sum(len(train.load(i).boxes) for i in range(0, 296, 20)) > 15
    assert evaluation.json_file.name == "test.json"


def test_bccd_has_two_boxes_without_area():
    root = real_set("bccd")
    config = DataConfig(root=root)
    with pytest.warns(UserWarning, match="boxes left out") as caught:
        train, evaluation = (CocoDataset(*split) for split in resolve_splits(config))
    assert [str(warning.message).split(": ", 1)[1] for warning in caught] == [
        "1 of 2805 boxes left out: annotation 2288, box [181.0, 329.0, 0.0, 0.0] of BloodImage_00343.jpg, has no area",
        "1 of 1138 boxes left out: annotation 887, box [504.0, 337.0, 0.0, 0.0] of BloodImage_00338.jpg, has no area",
    ]
    assert (len(train), len(evaluation)) == (205, 87)
    assert train.images == evaluation.images == root / "images"
    with pytest.raises(ValueError, match=r"annotation 2288, box .* has no area"):
        CocoDataset(*resolve_splits(config)[0], bad_boxes="raise")
