import json
import re
import sys
from pathlib import Path

import cv2
import pytest
from helpers.commands import Output, fails
from helpers.tiny_sets import box_entry, image_entry, write_both_parts, write_random_set, write_set

from minirtmdet.cli import main
from minirtmdet.configs import DataConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.splits import resolve_splits


def test_scenes_prints_the_folder(tmp_path: Path, capsys: Output):
    root = tmp_path / "scenes"
    for _ in range(2):
        assert main(["scenes", "--train", "2", "--val", "1", "--size", "64", "--root", str(root)]) == 0
        assert capsys.readouterr().out == f"{root}\n"
    assert (root / "train.json").exists()


def test_check_prints_a_report_and_writes_a_page(data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "report"
    assert main(["data", "check", str(data), "--input-size", "64", "--full", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"train: 4 images, \d of them without a box; \d+ boxes \(.*train\.json\)", text)
    assert re.search(r"val: 3 images", text)
    assert (out / "report.txt").read_text() + f"written to {out}: report.txt, report.html\n" == text
    page = (out / "report.html").read_text()
    shown = re.findall(r'<img src="([^"]+)" alt="[^"]+"', page)
    assert shown == ["sizes-train.png", "images-train.png", "sizes-val.png", "images-val.png"]
    assert all(cv2.imread(str(out / name)) is not None for name in shown)


def test_check_of_one_file_with_odd_names(tmp_path: Path, capsys: Output):
    categories = [{"id": 1, "name": "<b>cat & dog</b>"}]
    source, folder = write_set(tmp_path / "in", annotations=[box_entry(1, 1, [5, 5, 0, 9])], categories=categories)
    out = tmp_path / "out"
    assert main(["data", "check", str(source), "--images", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "! " in text
    assert "has no area" in text
    page = (out / "report.html").read_text()
    assert "&lt;b&gt;cat &amp; dog&lt;/b&gt;" in page
    assert "<b>" not in page


def test_check_ends_with_1_where_a_part_cannot_be_used(tmp_path: Path, capsys: Output):
    write_both_parts(tmp_path, 3)
    content = json.loads((tmp_path / "val.json").read_text())
    (tmp_path / "val.json").write_text(json.dumps(content | {"annotations": [{"id": 1, "bbox": [1, 1, 2, 2]}]}))
    assert main(["data", "check", str(tmp_path), "--input-size", "64"]) == 1
    printed = capsys.readouterr()
    assert "val: cannot be used\n  ! " in printed.out
    assert "annotation 1 has no key 'image_id'" in printed.out
    assert printed.err == "minirtmdet: 1 of 2 parts cannot be used: val\n"


def test_split_says_how_to_train_on_it(tmp_path: Path, capsys: Output):
    source, folder = write_random_set(tmp_path, 12, name="all")
    assert main(["data", "split", str(source), "--out", str(tmp_path / "parts"), "--val", "0.25"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("train 9 images; val 3 images\n")
    words = text.splitlines()[-1].split()
    given = dict(zip(words[-8::2], words[-7::2], strict=True))
    for part, count in (("train", 9), ("val", 3)):
        json_file, images = Path(given[f"--data.{part}-json"]), Path(given[f"--data.{part}-images"])
        assert images == folder
        assert len(CocoDataset(json_file, images)) == count
    # beside a folder of images that is called so, the root says it all
    source, _ = write_random_set(tmp_path / "b", 4, name="images")
    assert main(["data", "split", str(source), "--out", str(tmp_path / "b"), "--val", "0.5"]) == 0
    assert capsys.readouterr().out.endswith(f"few-256 --data.root {tmp_path / 'b'}\n")


def test_convert_finds_format_images_and_names(tmp_path: Path, capsys: Output):
    pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")
    write_set(tmp_path, [image_entry(1), image_entry(2)], folder="images/train")
    (tmp_path / "train.json").unlink()
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/001.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    out = tmp_path / "train.json"
    assert main(["data", "convert", str(tmp_path / "labels/train"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{out}: 2 images, 1 box (yolo of {tmp_path / 'labels/train'})\nclasses: cat dog\n")
    assert "1 image without labels kept as background" in text
    assert "1 class without a box: cat" in text
    dataset = CocoDataset(out, tmp_path / "images/train", bad_boxes="raise")
    assert dataset.load(0).boxes.tolist() == [[10, 7.5, 30, 22.5]]


def test_convert_repairs_coco_json(tmp_path: Path, capsys: Output):
    source, folder = write_set(tmp_path, annotations=[box_entry(1, 1, [1, 1, 5, 5])])
    content = json.loads(source.read_text())
    content["images"][0] |= {"width": 0, "file_name": "001"}
    source.write_text(json.dumps(content))
    out = tmp_path / "good.json"
    words = ["data", "convert", str(source), "--images", str(folder), "--out"]
    assert "is read from" in fails(capsys, *words, source, "--overwrite")
    assert main([*words, str(out)]) == 2  # a width of 0 beside a height of 30 is no missing size
    content["images"][0]["height"] = 0
    source.write_text(json.dumps(content))
    assert main([*words, str(out)]) == 0
    assert len(CocoDataset(out, folder)) == 1
    assert "there already; choose another --out" in fails(capsys, *words, out)


def test_show_draws_labels(data: Path, tmp_path: Path, capsys: Output):
    for name, more in (
        ("plain.png", []),
        ("val.png", ["--part", "val", "--count", "2"]),
        ("trained.png", ["--augment", "recipe", "--input-size", "64", "--seed", "3"]),
    ):
        assert main(["data", "show", str(data), "--out", str(tmp_path / name), *more]) == 0
        assert cv2.imread(str(tmp_path / name)) is not None
    assert capsys.readouterr().out.splitlines()[1].startswith("2 of 3 images of ")


def test_show_of_some_classes(tmp_path: Path, capsys: Output):
    boxes = [box_entry(1, 2, [1, 1, 9, 9], 2), box_entry(2, 3, [1, 1, 9, 9], 1)]
    source, _ = write_set(tmp_path, [image_entry(i) for i in (1, 2, 3)], boxes)
    out = tmp_path / "sheet.png"
    assert main(["data", "show", str(source), "--out", str(out), "--classes", "dog"]) == 0
    assert capsys.readouterr().out.startswith("1 of 3 images")
    assert "has no cow" in fails(capsys, "data", "show", source, "--out", out, "--classes", "cow")
    assert "no image that shows hen" in fails(capsys, "data", "show", source, "--out", out, "--classes", "hen")


def test_what_is_missing_or_in_the_way_is_named(data: Path, tmp_path: Path, capsys: Output):
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    lost, folder = write_set(tmp_path / "lost")
    (folder / "001.png").unlink()
    for args, words in (
        (["check", tmp_path / "nope"], "there is no such file or folder"),
        (["check", tmp_path], "has no annotations to train on"),
        (["check", tmp_path], "name the COCO JSON in place of the folder"),
        (["check", lost], "(001.png is not in"),
        (["check", lost], "give the folder with --images"),
        (["tile", lost.parent, "--out", out], f"name {lost} itself, and --images"),
        (["check", data, "--images", data], "--images goes with one JSON"),
        (["check", data, "--out", data / "train"], "is read from"),
        (["check", data, "--input-size", "100"], "--input-size is 100: expected a multiple of 32"),
        (["split", data / "train.json", "--out", data], "train.json is read from"),
        (["split", data / "train.json", "--out", out, "--val", "1.5"], "--val is 1.5: expected a number from 0 to 1"),
        (["split", data / "train.json", "--out", out, "--val", "0"], "shares of train 1, val 0"),
        (["split", data / "train.json", "--out", out, "--group", "key:video"], "says nothing of 001.png"),
        (["convert", tmp_path / "nope", "--out", out], "there is no such file or folder"),
        (["convert", data / "train", "--out", out], "holds no labels of a known format (VOC, YOLO, CVAT"),
        (["convert", empty, "--out", out], f"{empty} is empty: give the folder of the labels, or one file\n"),
        (["convert", data / "train", "--out", out], ", but 4 .png; --format NAME says what they are"),
        (["split", data, "--out", out], "it is a folder, and one COCO JSON is needed"),
        (["split", data, "--out", out], f"data split {data / 'train.json'} --out {data / 'parts'}"),
        (["split", tmp_path / "nope.json", "--out", out], "nope.json: there is no such file"),
        (["split", data / "train.json", "--out", out, "--images", out], f"--images {out}: there is no such folder"),
        (["check", data / "train.json", "--images", out], f"--images {out}: there is no such folder"),
        (["show", data, "--out", out], f"expected the name of an image, such as {out}.png"),
        (["show", data, "--out", data / "train/001.png"], "is read from"),
        (["show", data, "--out", out.with_suffix(".png"), "--part", "test"], "--part is test:"),
        (["show", data, "--out", out, "--count", "0"], "--count is 0: expected at least 1"),
        (["tile", data, "--out", data], "is there already and holds something: choose another folder"),
        (["tile", data, "--out", out, "--size", "100"], "--size is 100: expected a multiple of 32"),
        (["tile", data, "--out", out, "--overlap", "1"], "--overlap is 1.0: expected a number from 0 to 0.9"),
        (["tile", tmp_path / "nope", "--out", out], "there is no such file or folder"),
    ):
        assert words in fails(capsys, "data", *args), args
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "content", "words", "said"),
    [
        ("classes.txt", None, "", "no file with the names of classes is beside them or above"),
        ("classes.txt", "", "", "classes.txt names no classes"),
        ("classes.txt", "cat", "", "labels/1.txt, line 1 has class 1, but there are 1 class names"),
        ("classes.txt", "caf\xe9\ndog".encode("latin-1"), "", "classes.txt is no text in UTF-8: save it"),
        ("n.yaml", "names: [cat, dog\n- x: {", "--names n.yaml", "n.yaml is not YAML: while parsing a flow sequence"),
        ("n.yaml", "- cat\n- dog", "--names n.yaml", "n.yaml names no classes"),
        ("n.json", "{", "--names n.json", "n.json is not JSON: Expecting property name"),
        ("n.json", "[1, 2]", "--names n.json", "n.json is a list: expected an object"),
        ("n.json", '{"categories": [{"name": "cat"}]}', "--names n.json", "category 0 has no key 'id'"),
        ("n.txt", "", "--names nope.txt", "nope.txt: there is no such file of class names"),
        ("labels/0.txt", "0 20 20 30 30", "", "labels/0.txt, line 1 has 20, which is no share of the image"),
        ("labels/0.txt", "0 0.5 0.5 0.5", "", "labels/0.txt, line 1 has 4 numbers"),
        ("labels/0.txt", "0,0.5,0.5,0.4,0.4", "--format yolo", "'0,0.5,0.5,0.4,0.4' is not all numbers"),
        ("labels/0.txt", "0 0.5 0.5 0.4 0.4".encode("utf-16"), "", "labels/0.txt is no text in UTF-8"),
        ("labels/0.txt", "0 0.5 0.5 0.4 0.4", "--format voc", "holds no .xml file: --format yolo reads what is there"),
        ("images/1.png", None, "", "labels: 1 of 2 images are not in images: 1 of labels/1.txt; give the folder"),
        ("images/1.png", "no image", "", "images/1.png cannot be decoded"),
        ("n.txt", "", "--images labels", "labels holds no image (.avif"),
        ("n.txt", "", "--images labels", "give the folder of the images with --images"),
    ],
)
def test_a_mistake_in_a_yolo_set_is_one_line_that_names_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    changed: str,
    content: str | bytes | None,
    words: str,
    said: str,
):
    pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")
    monkeypatch.chdir(tmp_path)
    write_yolo_set(tmp_path)
    path = tmp_path / changed
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = fails(capsys, "data", "convert", "labels", "--out", "all.json", *words.split())
    assert said in message
    assert message.count("\n") == 1
    assert not Path("all.json").exists()


@pytest.mark.parametrize("images", ["images", ".", "labels", "img"])
def test_images_are_found_where_people_put_them(tmp_path: Path, capsys: Output, images: str):
    """In a folder of their own, above the labels, among them."""
    pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")
    write_yolo_set(tmp_path)
    for path in list((tmp_path / "images").iterdir()):
        (tmp_path / images).mkdir(exist_ok=True)
        path.rename(tmp_path / images / path.name)
    if images != "images":
        (tmp_path / "images").rmdir()
    out = tmp_path / "all.json"
    assert main(["data", "convert", str(tmp_path / "labels"), "--out", str(out)]) == 0
    assert f"{out}: 2 images, 2 boxes" in capsys.readouterr().out


def test_what_windows_puts_before_a_text_is_no_part_of_it(tmp_path: Path, capsys: Output):
    pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")
    write_yolo_set(tmp_path)
    for name, content in (("classes.txt", "cat\ndog"), ("labels/0.txt", "0 0.5 0.5 0.5 0.5")):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert main(["data", "convert", str(tmp_path / "labels"), "--out", str(tmp_path / "all.json")]) == 0
    assert "classes: cat dog\n" in capsys.readouterr().out


def test_how_to_get_a_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output):
    write_yolo_set(tmp_path)
    monkeypatch.setitem(sys.modules, "globox", None)
    message = fails(capsys, "data", "convert", tmp_path / "labels", "--out", tmp_path / "all.json")
    assert "pip install 'minirtmdet[convert]'" in message


def write_yolo_set(root: Path) -> None:
    """Two images with a box each, of two classes."""
    write_set(root, [image_entry(1, file_name="0.png"), image_entry(2, file_name="1.png")], folder="images")
    (root / "train.json").unlink()
    (root / "labels").mkdir()
    for number in (0, 1):
        (root / f"labels/{number}.txt").write_text(f"{number} 0.5 0.5 0.4 0.4\n")
    (root / "classes.txt").write_text("cat\ndog\n")


def test_tile_makes_a_set_to_train_on(data: Path, tmp_path: Path, capsys: Output):
    out = tmp_path / "tiles"
    assert main(["data", "tile", str(data), "--out", str(out), "--size", "32", "--empty", "1"]) == 0
    text = capsys.readouterr().out
    assert re.match(r"train: 4 images in \d+ tiles of 32 px; \d+ objects as \d+ boxes; \d+ pieces that show less", text)
    advice = "to train: python -m minirtmdet train few-256 --data.root {} --data.input-size 32"
    # what a border leaves of an object is left alone only by a training that is told so
    assert text.endswith(advice.format(out) + " --assigner.ignore-regions\n")
    dropped = tmp_path / "dropped"
    assert main(["data", "tile", str(data), "--out", str(dropped), "--size", "32", "--pieces", "drop"]) == 0
    assert capsys.readouterr().out.endswith(advice.format(dropped) + "\n")
    for split in resolve_splits(DataConfig(root=out)):
        assert len(CocoDataset(*split, bad_boxes="raise")) > 3
    # one part alone, of a file
    assert main(["data", "tile", str(data / "val.json"), "--out", str(tmp_path / "val"), "--size", "32"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("val: 3 images in ")
    assert len(CocoDataset(tmp_path / "val/val.json", tmp_path / "val/val")) > 3
    assert main(["data", "tile", str(data / "val.json"), "--out", str(tmp_path / "same"), "--size", "96"]) == 0
    assert "  ! no image is larger than a tile of 96 px: nothing was cut\n" in capsys.readouterr().out
