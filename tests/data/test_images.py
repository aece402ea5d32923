import io
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tiny_sets import box_entry, image_entry, write_set
from PIL import Image

from minirtmdet.configs import DataConfig
from minirtmdet.data import images
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.images import Expected, find_damage, inspect_image, read_header, read_image, used_bits


def photo(height: int = 300, width: int = 400) -> bytes:
    """A JPEG with structure, so that damage shows."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (9, 9), 3))[1].tobytes()


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 200 + content[middle + 200 :]


def bomb(side: int) -> bytes:
    """A PNG of ``side`` x ``side`` black pixels in a thousandth of their bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join([*(packer.compress(bytes(1 + 3 * side)) for _ in range(side)), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch):
    """Make it an error to decode anything."""

    def refuse(*_: object):
        raise AssertionError("decoded")

    monkeypatch.setattr(images.cv2, "imdecode", refuse)


def test_an_image_of_too_many_pixels_or_another_size_is_not_decoded(tmp_path: Path, undecoded: None):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(2000))
    assert path.stat().st_size < 20_000
    for look in (read_image, inspect_image):
        with pytest.raises(
            ValueError, match=r"bomb\.png has 2000 x 2000 = 4000000 pixels, more than max_pixels = 1000"
        ):
            look(path, max_pixels=1000)
        with pytest.raises(ValueError, match=r"bomb\.png is 2000 x 2000 pixels, but a\.json says 50 x 50"):
            look(path, expected=Expected((50, 50), "a.json"))


def test_a_data_set_does_not_decode_what_is_not_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    json_file, folder = write_set(tmp_path, [image_entry(1, 50, 50), image_entry(2)])
    (folder / "001.png").write_bytes(bomb(2000))
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be used: .*is 2000 x 2000 .*bad-images skip"):
        CocoDataset(json_file, folder)
    with pytest.raises(ValueError, match=r"2 of 2 .* more than max_pixels = 1000"):
        CocoDataset(json_file, folder, max_pixels=1000)


def test_the_limit_is_a_setting_and_pillows_own_is_left_alone(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(bomb(300))
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 100  # Pillow refuses more than twice as many
    try:
        assert read_image(path, max_pixels=90_000).shape == (300, 300, 3)
        assert Image.MAX_IMAGE_PIXELS == 100
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    assert DataConfig.max_pixels == 2**27


def test_a_header_is_enough_where_the_file_ends_as_it_should(tmp_path: Path, undecoded: None):
    for name, content in (("a.jpg", photo()), ("a.png", bomb(30))):
        path = tmp_path / name
        path.write_bytes(content)
        header = inspect_image(path)
        assert header is not None
        assert header.size == ((300, 400) if name == "a.jpg" else (30, 30))
        path.write_bytes(content[:-3])
        with pytest.raises(AssertionError, match="decoded"):
            inspect_image(path)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_formats_whose_end_says_nothing_are_decoded(tmp_path: Path, kind: str):
    path = tmp_path / "image"
    Image.new("RGB", (40, 30), (10, 20, 30)).save(path, kind)
    header = inspect_image(path, expected=Expected((30, 40), "a.json"))
    assert header is not None
    assert (header.size, header.kind, header.deep) == ((30, 40), kind, False)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot be decoded"):
        inspect_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("says", [(30, 40), (40, 30)])
def test_a_turned_image_is_looked_at_as_it_is_read(tmp_path: Path, kind: str, says: tuple[int, int]):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned"
    Image.new("RGB", (40, 30)).save(path, kind, exif=exif)
    size = read_image(path).shape[:2]

    def passes(look) -> bool:
        try:
            look(path, expected=Expected(says, "a.json"))
        except ValueError as error:
            assert "after its EXIF orientation" in str(error)  # noqa: PT017
            return False
        return True

    assert passes(read_image) == (size == says)
    if kind == "JPEG":
        assert size == (40, 30)
        assert passes(inspect_image) == (size == says)
    elif size == says:  # never refused though it is right
        assert passes(inspect_image)


def test_headers_of_files_that_are_none_of_pillows(tmp_path: Path):
    assert read_header(io.BytesIO(b"no image")) is None
    assert read_header(io.BytesIO(b"")) is None
    assert read_header(io.BytesIO(photo()[:50])) is None


def test_headers_are_read_in_many_threads(tmp_path: Path):
    content, found = bomb(200), []
    threads = [threading.Thread(target=lambda: found.append(read_header(io.BytesIO(content)))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {header.size for header in found} == {(200, 200)}
    assert Image.MAX_IMAGE_PIXELS is not None


# ---- damage that decoding alone finds


def test_damage_in_the_middle_is_found_by_decoding_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    content = photo()
    stray = content[:-2] + b"ab" + content[-2:]  # bytes before the end: harmless, and common
    files = {
        "good": content,
        "damaged": damaged(content),
        "stray": stray,
        "cut": content[:9000],
        "größe": content,
        "other": photo(20, 20),
    }
    paths = [tmp_path / f"{name}.jpg" for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    expected = [None] * 4 + [Expected((300, 400), "a.json")] * 2
    problems = find_damage(paths, expected=expected)
    assert capfd.readouterr().err == ""
    assert list(problems) == [1, 3, 5]
    assert problems[1] == f"{paths[1]} is damaged: Corrupt JPEG data: premature end of data segment"
    assert "cut.jpg cannot be decoded" in problems[3]
    assert "other.jpg is 20 x 20 pixels, but a.json says 400 x 300" in problems[5]
    assert list(find_damage(paths[:1], max_pixels=100)) == [0]
    assert find_damage([]) == {}


def test_many_files_are_shared_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images.os, "cpu_count", lambda: 2)
    paths = [tmp_path / f"{i}.png" for i in range(120)]
    for i, path in enumerate(paths):
        path.write_bytes(b"broken" if i in (3, 100, 119) else bomb(3))
    assert list(find_damage(paths)) == [3, 100, 119]


def test_a_process_that_ends_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "program.py"
    program.write_text("import os, sys\nprint('\\0' + '0\\n\\0' + '1', file=sys.stderr, flush=True)\nos._exit(9)\n")
    monkeypatch.setattr(images, "__file__", str(program))
    with pytest.raises(ChildProcessError, match=r"b\.png: the process that decoded it ended with 9"):
        find_damage([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"])


def test_a_data_set_checks_fully_where_asked(tmp_path: Path):
    entries = [image_entry(i, 400, 300, f"{i}.jpg") for i in (1, 2, 3)]
    json_file, folder = write_set(tmp_path, entries, [box_entry(i, i, [5, 5, 50, 50]) for i in (1, 2, 3)])
    (folder / "2.jpg").write_bytes(damaged(photo()))
    assert len(CocoDataset(json_file, folder)) == 3
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be used: .*2\.jpg is damaged: Corrupt JPEG.*skip"):
        CocoDataset(json_file, folder, check="full")
    with pytest.warns(UserWarning, match=r"1 of 3 images left out: .*2\.jpg is damaged"):
        assert CocoDataset(json_file, folder, check="full", bad_images="skip").image_ids == (1, 3)


# ---- more than 8 bits


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_16_bits_that_use_fewer_are_warned_of(tmp_path: Path, ending: str, channels: int):
    json_file, folder = write_set(tmp_path, [image_entry(1, file_name=f"a{ending}")])
    pixels = np.zeros((30, 40, channels), dtype=np.uint16)
    pixels[3, 4] = 4095
    cv2.imwrite(str(folder / f"a{ending}"), pixels)
    assert used_bits([folder / f"a{ending}"]) == 12
    with pytest.warns(UserWarning, match=rf"lowest 12 alone \(a\{ending}\).* above 15 of 255.* multiplied by 16"):
        CocoDataset(json_file, folder)


@pytest.mark.parametrize("value", [0, 40_000])
def test_images_that_use_their_16_bits_or_are_black_are_not(
    tmp_path: Path, value: int, recwarn: pytest.WarningsRecorder
):
    json_file, folder = write_set(tmp_path)
    cv2.imwrite(str(folder / "001.png"), np.full((30, 40), value, dtype=np.uint16))
    CocoDataset(json_file, folder)
    assert not recwarn.list
