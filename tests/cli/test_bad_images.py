"""Every command that prepares data, with every kind of bad image: listed, or refused before anything is written."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.commands import Output, fails
from helpers.tiny_sets import box_entry, image_entry, write_set

from minirtmdet.cli import main

BAD = "002.png"
VOC = (
    "<annotation><size><width>40</width><height>30</height></size><object><name>cat</name><bndbox><xmin>3</xmin>"
    "<ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
)
PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))[1].tobytes()
KINDS = {
    "missing": None,
    "truncated": PNG[: len(PNG) // 2],
    "no image": b"This is no image." * 9,
    "empty": b"",
    "another size": cv2.imencode(".png", np.zeros((31, 40, 3), np.uint8))[1].tobytes(),
}
WRITING = {
    "split": ["split", "all.json", "--images", "images", "--out", "out", "--val", "0.5"],
    "split similar": ["split", "all.json", "--images", "images", "--out", "out", "--val", "0.5", "--group", "similar"],
    "convert COCO": ["convert", "all.json", "--images", "images", "--out", "out/all.json"],
    "convert VOC": ["convert", "labels", "--images", "images", "--out", "out/all.json"],
    "tile": ["tile", "all.json", "--images", "images", "--out", "out", "--size", "32"],
}
SHOW = ["show", "all.json", "--images", "images", "--out", "out/sheet.png"]
LISTING = {
    "check": ["check", "all.json", "--images", "images", "--input-size", "64"],
    "show": SHOW,
    "show augmented": [*SHOW, "--augment", "recipe"],
}


@pytest.fixture
def four_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``all.json`` and ``labels`` of four images in ``images``, in the folder where the test runs."""
    monkeypatch.chdir(tmp_path)
    images, boxes = [image_entry(i) for i in range(1, 5)], [box_entry(i, i, [2, 2, 18, 18]) for i in range(1, 5)]
    write_set(tmp_path, images, boxes, name="all", folder="images")
    Path("labels").mkdir()
    for entry in images:
        Path("labels", entry["file_name"]).with_suffix(".xml").write_text(VOC)


def spoil(content: bytes | None) -> None:
    path = Path("images", BAD)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", WRITING)
def test_what_writes_refuses_a_bad_image_or_leaves_it_out(four_images: None, capsys: Output, command: str, kind: str):
    if command == "convert VOC":
        pytest.importorskip("globox", reason="labels of other formats are read by globox, of the extra 'convert'")
    spoil(KINDS[kind])
    before = files()
    message = fails(capsys, "data", *WRITING[command])
    assert Path(BAD).stem in message
    assert "(--bad-images skip) leaves them out" in message
    assert message.count("\n") == 1
    assert files() == before
    assert not Path("out").exists()
    assert main(["data", *WRITING[command], "--bad-images", "skip"]) == 0
    printed = capsys.readouterr()
    assert "1 of 4 images" in printed.out + printed.err
    assert Path(BAD).stem in printed.out + printed.err
    content = [json.loads(path.read_text()) for path in Path("out").glob("*.json")]
    names = {entry.get("tile_of", entry["file_name"]) for part in content for entry in part["images"]}
    assert names == {"001.png", "003.png", "004.png"}
    for part in content:
        assert {entry["image_id"] for entry in part["annotations"]} == {entry["id"] for entry in part["images"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", LISTING)
def test_what_looks_names_a_bad_image_and_goes_on(four_images: None, capsys: Output, command: str, kind: str):
    spoil(KINDS[kind])
    assert main(["data", *LISTING[command]]) == 0
    printed = capsys.readouterr()
    (line,) = (line for line in (printed.out + printed.err).splitlines() if BAD in line)
    assert "1 of 4 images left out: " in line
    assert "bad-images" not in line
    if command != "check":
        assert cv2.imread("out/sheet.png") is not None


def test_an_image_that_is_damaged_in_its_middle_is_met_when_it_is_decoded(four_images: None, capsys: Output):
    """By its first and its last bytes it is whole."""
    place = len(PNG) // 3
    spoil(PNG[:place] + bytes(byte ^ 255 for byte in PNG[place : place + 400]) + PNG[place + 400 :])
    before = files()
    message = fails(capsys, "data", *WRITING["tile"])
    assert f"{BAD} cannot be decoded" in message
    assert "(--bad-images skip) leaves them out" in message
    assert files() == before
    assert main(["data", *WRITING["tile"], "--bad-images", "skip"]) == 0
    assert "  ! 1 of 4 images left out: " in capsys.readouterr().out
    assert not list(Path("out/all").glob("002*"))
    for command in ("show", "show augmented"):
        assert main(["data", *LISTING[command]]) == 0
        assert f"warning: an image is left out: images/{BAD} cannot be decoded" in capsys.readouterr().err


def test_nothing_but_bad_images_is_one_line(four_images: None, capsys: Output):
    for path in Path("images").iterdir():
        path.write_bytes(b"no image")
    for words in [*WRITING.values(), LISTING["show"]]:
        skip = ["--bad-images", "skip"] if words in WRITING.values() else []
        message = fails(capsys, "data", *words, *skip)
        assert "4 of 4 images " in message
        assert "images/001.png cannot be decoded" in message
        assert message.count("\n") == 1
    Path("elsewhere").mkdir()
    for command in ("split", "tile"):
        for skip in ([], ["--bad-images", "skip"]):
            words = [word.replace("images", "elsewhere") if word == "images" else word for word in WRITING[command]]
            message = fails(capsys, "data", *words, *skip)
            assert "4 of 4 images" in message or "4 of the 4 images" in message
            assert "skip) leaves" not in message or command == "tile"
    assert main(["data", *LISTING["check"]]) == 1
    assert "all: cannot be used\n  ! all.json: 4 of 4 images left out" in capsys.readouterr().out
    assert not Path("out").exists()


def test_names_that_lead_out_of_the_folder_are_told_what_these_commands_can_do(four_images: None, capsys: Output):
    content = json.loads(Path("all.json").read_text())
    content["images"][0]["file_name"] = "../001.png"
    Path("all.json").write_text(json.dumps(content))
    for command in (WRITING["tile"], LISTING["show"]):
        message = fails(capsys, "data", *command)
        assert "1 files outside of images: ../001.png; give the folder that has them all with --images\n" in message
