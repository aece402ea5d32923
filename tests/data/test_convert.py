"""Labels of other formats: the numbers by hand, and one clear line for each usual mistake."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_set
from PIL import Image

from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.convert import Conversion, check_output, convert_labels, repair_coco
from minirtmdet.data.image_folder import ImageFolder
from minirtmdet.data.label_files import find_class_names, guess_format, read_class_names
from minirtmdet.files import write_json

pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")


def write_image(path: Path, width: int = 40, height: int = 30, turned: bool = False) -> None:
    """A grey image; ``turned``: stored lying on its side, with the note that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.full((width, height, 3), 114, np.uint8)).save(path, exif=exif)
    else:
        path.write_bytes(cv2.imencode(path.suffix, np.full((height, width, 3), 114, np.uint8))[1].tobytes())


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def voc(name: str, *boxes: tuple[str, int, int, int, int], size: tuple[int, int] | None = (40, 30)) -> str:
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        "</object>"
        for label, a, b, c, d in boxes
    )
    said = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{said}{objects}</annotation>"


def labelme(name: str, *shapes: dict[str, Any], size: tuple[int, int] = (40, 30)) -> str:
    return json.dumps(
        {"imagePath": name, "imageWidth": size[0], "imageHeight": size[1], "imageData": None, "shapes": shapes}
    )


def shape(label: str, points: list[list[float]], kind: str = "rectangle") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind}


def boxes_of(conversion: Conversion) -> dict[str, list[tuple[str, list[float]]]]:
    """By file: class and box."""
    content = conversion.content
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found: dict[str, list[tuple[str, list[float]]]] = {entry["file_name"]: [] for entry in content["images"]}
    files = {entry["id"]: entry["file_name"] for entry in content["images"]}
    for entry in content["annotations"]:
        found[files[entry["image_id"]]].append((names[entry["category_id"]], entry["bbox"]))
    return found


# ----------------------------------------------------------------------- one box in every format


def as_voc(root: Path) -> Path:
    write(root / "labels/a.xml", voc("a.png", ("cell", 11, 6, 30, 15), ("cell", 1, 1, 40, 30)))
    return root / "labels"


def as_yolo(root: Path) -> Path:
    write(root / "data.yaml", "train: images\nnames:\n  0: dust\n  1: cell\n")
    # centre 20, 10, size 20 x 10; the whole image as a polygon
    write(root / "labels/a.txt", f"1 0.5 {10 / 30} 0.5 {10 / 30}\n\n1 0 0 1 0 1 1 0 1\n")
    return root / "labels"


def as_cvat(root: Path) -> Path:
    boxes = (
        '<box label="cell" xtl="10" ytl="5" xbr="30" ybr="15"/><box label="cell" xtl="0" ytl="0" xbr="40" ybr="30"/>'
    )
    points = '<polygon label="cell" points="1,1;2,2;1,2"/>'
    image = f'<image id="0" name="a.png" width="40" height="30">{boxes}{points}</image>'
    return write(root / "cvat.xml", f"<?xml version='1.0'?><annotations><version>1.1</version>{image}</annotations>")


def as_labelme(root: Path) -> Path:
    shapes = [
        shape("cell", [[30, 5], [10, 15]]),  # drawn from the right upper corner
        shape("cell", [[0, 0], [40, 0], [40, 30], [0, 30]], "polygon"),
        shape("cell", [[3, 3]], "point"),
    ]
    write(root / "labels/a.json", labelme("..\\images\\a.png", *shapes))
    return root / "labels"


def as_via(root: Path) -> Path:
    regions = [
        {
            "shape_attributes": {"name": "rect", "x": x, "y": y, "width": w, "height": h},
            "region_attributes": {"kind": "cell"},
        }
        for x, y, w, h in ((10, 5, 20, 10), (0, 0, 40, 30))
    ]
    return write(root / "via.json", json.dumps({"a.png1": {"filename": "a.png", "size": 1, "regions": regions}}))


def as_openimages(root: Path) -> Path:
    rows = [f"a,x,cell,1,0.25,0.75,{5 / 30},0.5", "a,x,cell,1,0,1,0,1"]
    return write(
        root / "boxes.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n" + "\n".join(rows) + "\n"
    )


FORMATS: dict[Any, Callable[[Path], Path]] = {
    "voc": as_voc,
    "yolo": as_yolo,
    "cvat": as_cvat,
    "labelme": as_labelme,
    "via": as_via,
    "openimages": as_openimages,
}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_two_boxes_in_every_format(tmp_path: Path, format: Any):
    write_image(tmp_path / "images/a.png")
    labels = FORMATS[format](tmp_path)
    assert guess_format(labels) == format
    conversion = convert_labels(labels, tmp_path / "images", format)
    found = boxes_of(conversion)
    assert [name for name, _ in found["a.png"]] == ["cell", "cell"]
    np.testing.assert_allclose([box for _, box in found["a.png"]], [[10, 5, 20, 10], [0, 0, 40, 30]], atol=1e-3)
    write_json(tmp_path / "out.json", conversion.content)
    dataset = CocoDataset(tmp_path / "out.json", tmp_path / "images")
    assert dataset.count_boxes()["cell"] == 2
    assert dataset.classes == (("dust", "cell") if format == "yolo" else ("cell",))


def test_what_is_no_box_is_counted(tmp_path: Path):
    write_image(tmp_path / "images/a.png")
    for format, words in (("cvat", "1 polygon"), ("labelme", "1 point")):
        notes = convert_labels(FORMATS[format](tmp_path / format), tmp_path / "images", format).notes  # type: ignore[arg-type]
        assert f"left out, since they are no boxes: {words}" in notes


# -------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("boxes", "one_based", "expected"),
    [
        ([("a", 1, 1, 40, 30)], "auto", [0, 0, 40, 30]),  # touches the end, never 0: counted from 1
        ([("a", 2, 3, 20, 10)], "auto", [2, 3, 18, 7]),  # nothing says so
        ([("a", 0, 1, 40, 30)], "auto", [0, 1, 40, 29]),  # 0 is no first pixel
        ([("a", 2, 3, 20, 10)], "yes", [1, 2, 19, 8]),
        ([("a", 1, 1, 40, 30)], "no", [1, 1, 39, 29]),
    ],
)
def test_where_voc_counts_from(tmp_path: Path, boxes: Any, one_based: Any, expected: list[float]):
    write_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.xml", voc("a.png", *boxes))
    conversion = convert_labels(tmp_path / "labels", tmp_path / "images", "voc", one_based=one_based)
    assert boxes_of(conversion)["a.png"] == [("a", expected)]
    assert any("pixels count from" in note for note in conversion.notes) == (one_based == "auto")


@pytest.mark.parametrize("size", [(0, 0), None])
def test_a_size_of_nothing_is_read_from_the_image(tmp_path: Path, size: Any):
    """globox stops at such a file without naming it, or passes the zeros on."""
    write_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.xml", voc("a.png", ("a", 2, 3, 20, 10), size=size))
    conversion = convert_labels(tmp_path / "labels", tmp_path / "images", "voc")
    (image,) = conversion.content["images"]
    assert (image["width"], image["height"]) == (40, 30)
    assert "1 label files say no size, or 0 x 0: sizes are those of the images" in conversion.notes


def test_sizes_are_those_that_viewers_show(tmp_path: Path):
    write_image(tmp_path / "images/a.jpg", 30, 40, turned=True)  # shown as 40 x 30
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "labels/classes.txt", "cell\n")
    conversion = convert_labels(tmp_path / "labels", tmp_path / "images", "yolo")
    (image,) = conversion.content["images"]
    with Image.open(tmp_path / "images/a.jpg") as stored:
        assert (image["height"], image["width"]) == stored.size
    write(tmp_path / "voc/a.xml", voc("a.jpg", ("a", 2, 3, 20, 10), size=(image["height"], image["width"])))
    with pytest.raises(
        ValueError, match=r"a\.xml was drawn on .*\(the photo lies on its side: EXIF.*would lie elsewhere"
    ):
        convert_labels(tmp_path / "voc", tmp_path / "images", "voc")


# -------------------------------------------------------------------------------- usual mistakes


def _yolo(root: Path, text: str, **files: str) -> Path:
    write_image(root / "images/a.png")
    write(root / "labels/a.txt", text)
    for name, content in ({"classes.txt": "cat\ndog\n"} | files).items():
        write(root / "labels" / name, content)
    return root / "labels"


@pytest.mark.parametrize(
    ("format", "file", "text", "problem"),
    [
        (
            "yolo",
            "a.txt",
            "0 104 88 20 30",
            r"a\.txt, line 1 has 104, which is no share of the image \(0 to 1\).*pixels\?.*correct or delete the line",
        ),
        ("yolo", "a.txt", "0 .5 .5 .1 .1\n0 .5 .5 nan .1", r"a\.txt, line 2 has nan"),
        ("yolo", "a.txt", "2 .5 .5 .1 .1", r"line 1 has class 2, but there are 2 class names: .* 0 to 1; .* cat, dog"),
        ("yolo", "a.txt", "0.5 .5 .5 .1 .1", "line 1 has class 0.5"),
        ("yolo", "a.txt", "cat .5 .5 .1 .1", r"'cat \.5 \.5 \.1 \.1' is not all numbers: is it a YOLO label\?"),
        ("yolo", "a.txt", "0 .5 .5 .1", "line 1 has 4 numbers: expected class, centre and size"),
        ("yolo", "a.txt", "0 .5 .5 -0.1 .1", r"line 1 has -0\.1, which is no share"),
        ("voc", "a.xml", "<annotation><object>", r"a\.xml is not XML"),
        (
            "voc",
            "a.xml",
            voc("a.png", ("cell", 9, 9, 3, 12)),
            r"a\.xml, object 1 \(cell\) cannot be read: xmax must be gr",
        ),
        ("voc", "a.xml", "<annotation><object><name>x</name></object></annotation>", r"object 1 \(x\) cannot be read"),
        (
            "voc",
            "a.xml",
            voc("a.png", ("c", 1, 1, 9, 9), size=(80, 60)),
            r"drawn on 80 x 60 pixels, but .*a\.png has 40 x 30",
        ),
        ("labelme", "a.json", "[1", r"a\.json is not JSON"),
        ("labelme", "a.json", "{}", r"a\.json has no key 'shapes'"),
        ("labelme", "a.json", labelme("a.png", shape("c", [[1]])), r"a\.json, shape 1 \(c\) cannot be read"),
        ("cvat", "a.xml", "<annotations><track/></annotations>", "is CVAT for video .*export it as 'CVAT for images'"),
        ("openimages", "a.csv", "ImageID,XMin\na,x\n", r"a\.csv, line 2 cannot be read"),
    ],
)
def test_mistakes_are_one_line_that_names_file_and_object(
    tmp_path: Path, format: Any, file: str, text: str, problem: str
):
    labels = _yolo(tmp_path, "") if format == "yolo" else tmp_path / "labels"
    write_image(tmp_path / "images/a.png")
    write(tmp_path / "labels" / file, text)
    with pytest.raises(ValueError, match=problem) as error:
        convert_labels(labels, tmp_path / "images", format)
    assert "\n" not in str(error.value)


def test_all_bad_lines_are_named_at_once(tmp_path: Path):
    bad = ["0 1.4 .5 .1 .1", "9 .5 .5 .1 .1", "0 .5 .5 .1", "0 9 9 9 9", "cat .5 .5 .1 .1"]
    folder = tmp_path / "cats: of two years"  # which ends no sentence
    labels = _yolo(folder, "\n".join(["0 .5 .5 .1 .1", *bad]))
    words = r"a\.txt, line 2 has 1\.4, .*\.  4 more: .*a\.txt, line 3 has class 9.*line 4 .*and 1 more"
    with pytest.raises(ValueError, match=words):
        convert_labels(labels, folder / "images", "yolo")


def test_an_export_as_roboflow_writes_it(tmp_path: Path):
    for part in ("train", "valid"):
        write_image(tmp_path / part / f"images/{part}.png")
        write(tmp_path / part / f"labels/{part}.txt", "1 .5 .5 .1 .1\n")
    write(tmp_path / "data.yaml", "train: ../train/images\nnc: 2\nnames: [cat, dog]\n")
    for name in ("README.dataset.txt", "README.roboflow.txt"):
        write(tmp_path / name, "# pets\nProvided by somebody\n")
    conversion = convert_labels(tmp_path, tmp_path, "yolo")
    assert list(boxes_of(conversion)) == ["train/images/train.png", "valid/images/valid.png"]


def test_missing_class_names(tmp_path: Path):
    labels = _yolo(tmp_path, "0 .5 .5 .1 .1\n")
    (labels / "classes.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no file with the names of classes.*give it with --names, or them with"
    ):
        convert_labels(labels, tmp_path / "images", "yolo")
    given = convert_labels(labels, tmp_path / "images", "yolo", classes=("cow", "hen"))
    assert [entry["name"] for entry in given.content["categories"]] == ["cow", "hen"]


def test_images_that_are_not_there(tmp_path: Path):
    write_image(tmp_path / "images/a.png")
    for name in ("a", "b", "c", "d", "e"):
        write(tmp_path / f"labels/{name}.xml", voc(f"{name}.png", ("x", 2, 2, 9, 9)))
    words = r"labels: 4 of 5 images are not in .*images: b\.png of .*b\.xml, .*and 1 more; give the folder"
    with pytest.raises(FileNotFoundError, match=words):
        convert_labels(tmp_path / "labels", tmp_path / "images", "voc")
    conversion = convert_labels(tmp_path / "labels", tmp_path / "images", "voc", bad_images="skip")
    assert list(boxes_of(conversion)) == ["a.png"]
    assert any("4 of 5 images are not in" in note and note.endswith("; left out") for note in conversion.notes)
    with pytest.raises(FileNotFoundError, match="there is no such folder of images"):
        convert_labels(tmp_path / "labels", tmp_path / "nowhere", "voc")
    with pytest.raises(FileNotFoundError, match="holds no image"):
        convert_labels(tmp_path / "labels", tmp_path / "labels", "voc")
    with pytest.raises(FileNotFoundError, match=r"holds no \.txt file"):
        convert_labels(tmp_path / "images", tmp_path / "images", "yolo", classes=("a",))


def test_images_without_labels(tmp_path: Path):
    labels = _yolo(tmp_path, "0 .5 .5 .1 .1\n")
    write_image(tmp_path / "images/empty.png")
    for unlabelled, files in (("auto", ["a.png", "empty.png"]), ("keep", ["a.png", "empty.png"]), ("drop", ["a.png"])):
        found = convert_labels(labels, tmp_path / "images", "yolo", unlabelled=unlabelled)  # type: ignore[arg-type]
        assert list(boxes_of(found)) == files
    write(tmp_path / "voc/a.xml", voc("a.png", ("x", 2, 2, 9, 9)))
    conversion = convert_labels(tmp_path / "voc", tmp_path / "images", "voc")
    assert list(boxes_of(conversion)) == ["a.png"]
    assert "1 image without labels left out (--unlabelled keep): empty.png" in conversion.notes


def test_a_class_that_is_not_named(tmp_path: Path):
    write_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.xml", voc("a.png", ("cow", 2, 2, 9, 9)))
    with pytest.raises(ValueError, match=r"a\.xml, object 1 \(cow\) has class 'cow', which is none of cat, dog"):
        convert_labels(tmp_path / "labels", tmp_path / "images", "voc", classes=("cat", "dog"))


def test_a_part_without_a_class_keeps_the_numbers_of_the_others(tmp_path: Path):
    """Where classes are numbered as they are met, a part that lacks one shifts the rest."""
    write_image(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.xml", voc("a.png", ("fruit", 2, 2, 9, 9)))
    train = write(
        tmp_path / "train.json", json.dumps({"categories": [{"id": 2, "name": "fruit"}, {"id": 1, "name": "ball"}]})
    )
    conversion = convert_labels(tmp_path / "labels", tmp_path / "images", "voc", names=train)
    assert conversion.content["categories"] == [{"id": 1, "name": "ball"}, {"id": 2, "name": "fruit"}]
    assert conversion.content["annotations"][0]["category_id"] == 2


def test_without_the_library_a_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_image(tmp_path / "images/a.png")
    labels = as_voc(tmp_path)
    monkeypatch.setitem(sys.modules, "globox", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'minirtmdet\[convert\]'"):
        convert_labels(labels, tmp_path / "images", "voc")


# ------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("classes.txt", "cat\n big dog \n\n", ("cat", "big dog")),
        ("data.yaml", "nc: 2\nnames: ['cat', 'big dog']\n", ("cat", "big dog")),
        ("data.yaml", "names:\n  1: big dog\n  0: cat\n", ("cat", "big dog")),
        ("data.yaml", "names:\n- cat\n- 7\n", ("cat", "7")),
        ("t.json", '{"categories": [{"id": 9, "name": "big dog"}, {"id": 2, "name": "cat"}]}', ("cat", "big dog")),
    ],
)
def test_files_of_class_names(tmp_path: Path, name: str, text: str, expected: tuple[str, ...]):
    assert read_class_names(write(tmp_path / name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("classes.txt", "\n", "names no classes"),
        ("data.yaml", "nc: 2\n", "names no classes"),
        ("data.yaml", "names:\n  1: a\n  2: b\n", r"has the numbers \[1, 2\]: expected 0, 1, 2"),
    ],
)
def test_files_without_class_names(tmp_path: Path, name: str, text: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        read_class_names(write(tmp_path / name, text))
    with pytest.raises(FileNotFoundError, match="no such file of class names"):
        read_class_names(tmp_path / "nope")


def test_class_names_are_found_beside_and_above(tmp_path: Path):
    labels = tmp_path / "set/labels/train"
    labels.mkdir(parents=True)
    above = write(tmp_path / "set/data.yaml", "names: [a]")
    assert find_class_names(labels) == above
    beside = write(labels / "classes.txt", "a")
    assert find_class_names(labels) == beside


# ------------------------------------------------------------------------------------ finding images


def test_an_image_is_found_by_what_labels_call_it(tmp_path: Path):
    for name in ("train/a.png", "val/a.png", "train/B.JPG", "train/c.1.png", "x.png"):
        write_image(tmp_path / name)
    folder = ImageFolder(tmp_path)
    for asked, expected in {
        "train/a.png": "train/a.png",
        "C:\\photos\\val\\a.png": "val/a.png",
        "val/a": "val/a.png",
        "b.jpeg": "train/B.JPG",
        "x": "x.png",
        "c.1": "train/c.1.png",
        "y.png": None,
    }.items():
        assert folder.find(asked) == expected, asked
    with pytest.raises(ValueError, match=r"a\.png could be train/a\.png or val/a\.png"):
        folder.find("a.png")


# -------------------------------------------------------------------------------------- COCO, repaired


def test_a_spoiled_coco_json_is_repaired(tmp_path: Path):
    images = [
        {"id": "img-a", "file_name": "photos\\a", "width": 0, "height": 0, "license": 3},
        {"id": "img-b", "file_name": "b.png", "width": 40.0, "height": "30"},
    ]
    for name in ("photos/a.png", "b.png"):
        write_image(tmp_path / "images" / name)
    annotations = [
        {"id": "x", "image_id": "img-b", "category_id": "c1", "bbox": None, "segmentation": [[4, 5, 14, 5, 9, 25]]},
        {"id": "y", "image_id": "img-a", "category_id": "c2", "bbox": [1, 2, 3, 4], "iscrowd": None, "score": 1},
    ]
    categories = [{"id": "c1", "name": "cat"}, {"id": "c2", "name": "dog", "color": "red"}]
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {"by": "me"}}
    conversion = repair_coco(content, tmp_path / "images", "in.json")
    write_json(tmp_path / "out.json", conversion.content)
    dataset = CocoDataset(tmp_path / "out.json", tmp_path / "images", bad_boxes="raise")
    assert dataset.load(0).boxes.tolist() == [[1, 2, 4, 6]]
    assert dataset.load(1).boxes.tolist() == [[4, 5, 14, 25]]
    assert dataset.classes == ("cat", "dog")
    fixed = conversion.content
    assert (fixed["info"], fixed["images"][0]["license"], fixed["categories"][1]["color"]) == ({"by": "me"}, 3, "red")
    assert fixed["annotations"][1]["score"] == 1
    assert conversion.notes == [
        "2 image ids are text: numbered 1, 2, 3, ...",
        "2 category ids are text: numbered 1, 2, 3, ...",
        "file names replaced with those of the folder: 1",
        "sizes that were missing or 0 x 0 taken from the images: 1",
        "boxes that were missing taken from their polygons: 1",
    ]


def test_integer_ids_stay(tmp_path: Path):
    source, folder = write_set(tmp_path, [image_entry(7), image_entry(3)], [box_entry(1, 7, [1, 1, 5, 5], 3)])
    content = json.loads(source.read_text())
    assert repair_coco(content, folder, "s").content["images"] == content["images"]
    assert repair_coco(content, folder, "s").notes == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["images"][0].update(file_name="no.png"), r"s: 1 of 1 images are not in .*: no\.png; give the f"),
        (lambda c: c["images"][0].update(width=41), "001.png is said to have 41 x 30 pixels, and has 40 x 30"),
        (
            lambda c: c["annotations"][0].update(image_id=9),
            "annotation 1 has 'image_id': 9, which the file does not have",
        ),
        (lambda c: c["categories"][0].update(id=2), "s: category id 2 is given twice"),
    ],
)
def test_what_cannot_be_repaired_is_named(tmp_path: Path, change: Callable[[Any], None], problem: str):
    source, folder = write_set(tmp_path, annotations=[box_entry(1, 1, [1, 1, 5, 5])])
    content = json.loads(source.read_text())
    change(content)
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        repair_coco(content, folder, "s")


def test_a_size_of_nothing_in_coco_json_does_not_pass(tmp_path: Path):
    """What globox writes where it was given no images."""
    source, folder = write_set(tmp_path, annotations=[box_entry(1, 1, [1, 1, 5, 5])])
    content = json.loads(source.read_text())
    content["images"][0].update(width=0, height=0)
    source.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="0 x 0"), pytest.raises(ValueError, match="40 x 30"):
        CocoDataset(source, folder)


def test_nothing_is_overwritten(tmp_path: Path):
    source, _ = write_set(tmp_path)
    with pytest.raises(ValueError, match="is read from"):
        check_output(source, [source], overwrite=True)
    mine = write(tmp_path / "mine.json", "mine")
    with pytest.raises(FileExistsError, match="is there already"):
        check_output(mine, [source])
    check_output(mine, [source], overwrite=True)
    with pytest.raises(IsADirectoryError, match=r"is a folder: name the file to write, such as .*all\.json"):
        check_output(tmp_path, [source], overwrite=True)
    assert mine.read_text() == "mine"
