import pytest
from helpers.tiny_sets import image_entry, write_json, write_set

from minirtmdet.configs import DataConfig, ScenesConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.splits import Split, resolve_splits


def layout(tmp_path, train="train", val="val", train_images="train", val_images="val"):
    write_set(tmp_path, [image_entry(1, file_name="t1.png")], name=train, folder=train_images)
    write_set(tmp_path, [image_entry(1, file_name="v1.png")], name=val, folder=val_images)
    return resolve_splits(DataConfig(root=tmp_path))


@pytest.mark.parametrize(
    ("train", "val", "train_images", "val_images"),
    [
        ("train", "val", "train", "val"),
        ("train", "test", "train", "test"),
        ("train", "valid", "train", "valid"),
        ("train", "val", "images/train", "images/val"),
        ("train", "val", "train/images", "val/images"),
        ("train", "val", "train/images", "valid/images"),
        ("train", "valid", "train/images", "valid/images"),
        ("train", "val", "images", "images"),
        ("train", "val", ".", "."),
        ("annotations/train", "annotations/val", "train", "val"),
        ("annotations/instances_train2017", "annotations/instances_val2017", "train2017", "val2017"),
        ("annotations/instances_train2017", "annotations/instances_val2017", "images/train2017", "images/val2017"),
        ("annotations/instances_train", "annotations/instances_val", "train", "val"),
        ("train/_annotations.coco", "valid/_annotations.coco", "train", "valid"),
    ],
)
def test_layouts(tmp_path, train, val, train_images, val_images):
    splits = layout(tmp_path, train, val, train_images, val_images)
    expected = [(tmp_path / f"{train}.json", train_images), (tmp_path / f"{val}.json", val_images)]
    assert [split.json_file for split in splits] == [json_file for json_file, _ in expected]
    assert [split.images.resolve() for split in splits] == [(tmp_path / folder).resolve() for _, folder in expected]
    assert len(CocoDataset(*splits[0])) == len(CocoDataset(*splits[1])) == 1


def test_val_comes_before_test(tmp_path):
    write_set(tmp_path, name="test")
    _, evaluation = layout(tmp_path)
    assert evaluation.json_file == tmp_path / "val.json"


def test_the_folder_is_found_though_the_first_image_is_missing(tmp_path):
    _, folder = write_set(tmp_path, [image_entry(1), image_entry(2)], name="train", folder="images")
    (folder / "001.png").unlink()
    write_set(tmp_path, name="val")
    assert resolve_splits(DataConfig(root=tmp_path))[0].images == folder


def test_what_is_given_wins(tmp_path):
    layout(tmp_path / "root")
    mine, images = write_set(tmp_path / "mine", name="labels", folder="images")
    config = DataConfig(root=tmp_path / "root", val_json=mine, val_images=images)
    train, evaluation = resolve_splits(config)
    assert train == Split(tmp_path / "root" / "train.json", tmp_path / "root" / "train")
    assert evaluation == Split(mine, images)


def test_files_without_a_root(tmp_path):
    mine, _ = write_set(tmp_path, name="train", folder="images")
    assert resolve_splits(DataConfig(train_json=mine, val_json=mine)) == (Split(mine, tmp_path / "images"),) * 2
    with pytest.raises(ValueError, match=r"data\.val_json is not given"):
        resolve_splits(DataConfig(train_json=mine))


def test_nothing_given_takes_the_embedded_scenes(tmp_path, monkeypatch):
    layout(tmp_path)
    asked = []
    monkeypatch.setattr("minirtmdet.data.scenes.make_scenes", lambda config: asked.append(config) or tmp_path)
    config = DataConfig(scenes=ScenesConfig(train=3))
    assert resolve_splits(config)[0].json_file == tmp_path / "train.json"
    assert asked == [config.scenes]


def test_errors_say_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.root .*nowhere: there is no such folder"):
        resolve_splits(DataConfig(root=tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"no annotations to train on \(looked for train\.json, .*instances"):
        resolve_splits(DataConfig(root=tmp_path))
    json_file, folder = write_set(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"to evaluate on \(looked for val\.json.*test\.json.*data\.val_json"):
        resolve_splits(DataConfig(root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"data\.val_json .*gone\.json: there is no such file"):
        resolve_splits(DataConfig(root=tmp_path, val_json=tmp_path / "gone.json"))
    with pytest.raises(FileNotFoundError, match=r"data\.train_images .*gone: there is no such folder"):
        resolve_splits(DataConfig(root=tmp_path, train_images=tmp_path / "gone"))
    (folder / "001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"001\.png is not in .*images.*give data\.train_images"):
        resolve_splits(DataConfig(root=tmp_path))
    write_json(json_file, [], [], [])
    with pytest.raises(
        ValueError, match=r"train\.json names no image \(its list of images is empty\): a part needs some"
    ):
        resolve_splits(DataConfig(root=tmp_path))


def test_what_is_not_divided_yet_is_told_how(tmp_path):
    """One JSON of all images; or of the training part, where val.json is asked for."""
    everything, _ = write_set(tmp_path, name="all", folder="images")
    how = rf"data split {everything} --out {tmp_path / 'parts'}$"
    with pytest.raises(FileNotFoundError, match=rf"to train on .*give data\.train_json.*{how}"):
        resolve_splits(DataConfig(root=tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"all\.json: it is a file, and a folder is needed.*{how}"):
        resolve_splits(DataConfig(root=everything))
    with pytest.raises(FileNotFoundError, match=rf"data\.val_json .*: it is a folder, and one COCO JSON.*{how}"):
        resolve_splits(DataConfig(train_json=everything, val_json=tmp_path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"labels/train/a.txt": "0 0.5 0.5 0.25 1\n"},
            r"It looks like a YOLO data set \(labels/train/a\.txt\).* data convert .*labels/train --out .*train\.json$",
        ),
        ({"a.txt": "1 .5 5e-1 0.1 0.2 0.3 0.4"}, "YOLO"),
        ({"train/a.xml": "<annotation>\n<folder>"}, r"Pascal VOC data set \(train/a\.xml\)"),
    ],
)
def test_a_set_in_another_format_is_recognised(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(FileNotFoundError, match=words):
        resolve_splits(DataConfig(root=tmp_path))


def test_other_text_is_no_data_set(tmp_path):
    for name, text in (("classes.txt", "cat\ndog\n"), ("n.txt", "1 2 3"), ("a.xml", "<svg/>"), ("e.txt", "")):
        (tmp_path / name).write_text(text)
    with pytest.raises(FileNotFoundError, match=r"give data\.train_json$"):
        resolve_splits(DataConfig(root=tmp_path))


def test_two_annotation_files_that_fit_are_a_question(tmp_path):
    for year in (2014, 2017):
        write_set(tmp_path, name=f"annotations/instances_train{year}")
    with pytest.raises(
        ValueError, match=r"instances_train2014\.json, .*2017\.json, and one of them is meant: give data\.t"
    ):
        resolve_splits(DataConfig(root=tmp_path))
