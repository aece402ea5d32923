import os
from pathlib import Path

import pytest
from helpers.tiny_sets import image_entry, write_json, write_set

from minirtmdet.configs import DataConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.splits import Split, resolve_splits


@pytest.mark.parametrize(
    ("written", "there"), [("photo", "photo.jpg"), ("photo.png", "photo.jpg"), ("Photo.JPG", "photo.jpg")]
)
def test_a_file_that_may_be_meant_is_named(tmp_path, written, there):
    json_file, folder = write_set(tmp_path, [image_entry(1, file_name=there)])
    write_json(json_file, [image_entry(1, file_name=written)], [], [])
    said = rf"{written} \({there} is there: the JSON's file_name should be that\)"
    with pytest.raises(FileNotFoundError, match=rf"are not in .*: {said}; give the folder"):
        CocoDataset(json_file, folder)
    with pytest.raises(FileNotFoundError, match=rf"{there} is there"):
        resolve_splits(DataConfig(root=tmp_path))


def test_file_names_from_windows(tmp_path):
    write_set(tmp_path, [image_entry(1, file_name="day 1/a.png")])
    write_json(tmp_path / "train.json", [image_entry(1, file_name="day 1\\a.png")], [], [])
    (train, _) = resolve_splits(DataConfig(root=tmp_path, val_json=tmp_path / "train.json"))
    assert CocoDataset(*train).load(0).path == tmp_path / "train" / "day 1" / "a.png"
    with pytest.raises(ValueError, match=r"files outside of"):
        CocoDataset(write_json(tmp_path / "b.json", [image_entry(1, file_name="..\\a.png")], [], []), train.images)


@pytest.mark.skipif(os.sep == "\\", reason="there a backslash separates")
def test_a_backslash_in_a_name_stays_where_there_is_such_a_file(tmp_path):
    assert CocoDataset(*write_set(tmp_path, [image_entry(1, file_name="a\\b.png")])).load(0).path.name == "a\\b.png"


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "{root}/secret.png", "/etc/passwd", "../trainee/a.png"]
)
def test_file_names_do_not_lead_out_of_the_folder(tmp_path, name):
    name = name.format(root=tmp_path)
    write_set(tmp_path, [image_entry(1, file_name="secret.png")], folder=".")
    write_set(tmp_path, [image_entry(1, file_name="a.png")], folder="trainee")
    _, folder = write_set(tmp_path)
    (folder / "a").mkdir()
    json_file = write_json(tmp_path / "train.json", [image_entry(1), image_entry(2, file_name=name)], [], [])
    for settings in ({}, {"bad_images": "skip"}):
        with pytest.raises(
            ValueError, match=r"train\.json names 1 files outside of .*train: .*; .*--data\.outside-files"
        ):
            CocoDataset(json_file, folder, **settings)
    if name != "/etc/passwd":
        assert len(CocoDataset(json_file, folder, outside_files="allow").load(1).image)


@pytest.mark.parametrize("name", ["{folder}/001.png", "x/../001.png", "./001.png", "..001.png"])
def test_file_names_that_stay_in_the_folder(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folder = write_set(
        tmp_path, [image_entry(1), image_entry(2, file_name="x/a.png"), image_entry(3, file_name="..001.png")]
    )
    json_file = write_json(tmp_path / "train.json", [image_entry(1, file_name=name.format(folder=folder))], [], [])
    assert len(CocoDataset(json_file, folder)) == len(CocoDataset(json_file, Path("train"))) == 1


def test_unicode_paths(tmp_path):
    entry = image_entry(1, file_name="子/Größe né 🂡.png")
    json_file, folder = write_set(tmp_path / "Kärtchen", [entry])
    assert "\\u5b50" in json_file.read_text()  # escaped in the file
    assert CocoDataset(json_file, folder).load(0).path == folder / "子" / "Größe né 🂡.png"
    (train, _) = resolve_splits(DataConfig(root=tmp_path / "Kärtchen", val_json=json_file))
    assert train == Split(json_file, folder)
