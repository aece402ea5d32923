import numpy as np
import pytest
from PIL import Image

from minirtmdet.data import backgrounds
from minirtmdet.data.backgrounds import (
    PATTERNS,
    fractal_noise,
    list_photos,
    palette,
    pattern_background,
    photo_background,
    ramp,
    smooth_noise,
    split_photos,
)


def generator(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


@pytest.fixture
def folder(tmp_path):
    """Six photos of one colour each, wide, high and small, one of them in a folder below."""
    (tmp_path / "more").mkdir()
    for i, size in enumerate([(300, 200), (200, 300), (90, 90), (64, 500), (400, 400)]):
        Image.new("RGB", size, (40 * i, 0, 255)).save(tmp_path / f"{i}.png")
    Image.new("L", (120, 100), 255).save(tmp_path / "more" / "grey.JPG")
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
@pytest.mark.parametrize("size", [64, 97, 160])
def test_patterns_are_images_of_the_asked_size_that_differ_by_seed(pattern, size):
    images = [pattern(generator(seed), size) for seed in range(8)]
    assert {(image.shape, image.dtype) for image in images} == {((size, size, 3), np.dtype(np.uint8))}
    assert len({image.tobytes() for image in images}) == len(images)
    assert all(image.std() > 1 for image in images)
    np.testing.assert_array_equal(pattern(generator(3), size), images[3])


def test_every_pattern_is_drawn(monkeypatch):
    flat = [lambda rng, size, i=i: np.full((size, size, 3), i, np.uint8) for i in range(len(PATTERNS))]
    monkeypatch.setattr(backgrounds, "PATTERNS", tuple(flat))
    drawn = {int(pattern_background(generator(seed), 64)[0, 0, 0]) for seed in range(100)}
    assert drawn == set(range(len(PATTERNS)))


def test_noise_is_the_recorded_one():
    # integers all through, so that this holds on every platform
    noise = fractal_noise(generator(1), 64)
    assert noise.min() == 0
    assert noise.max() == 255
    assert noise[::21, ::21].tolist() == [
        [151, 82, 81, 139],
        [140, 45, 141, 57],
        [38, 133, 153, 115],
        [113, 105, 119, 77],
    ]


def test_smooth_noise_joins_its_values_without_steps():
    noise = smooth_noise(generator(2), 160, 4)
    assert noise.shape == (160, 160)
    assert noise.min() >= 0
    assert noise.max() <= 255
    assert np.abs(np.diff(noise, axis=0)).max() < 20 < np.ptp(noise)


def test_ramp_runs_evenly_through_its_colours():
    colours = ramp(np.array([[0, 0, 0], [100, 0, 200], [0, 50, 0]]))
    assert colours.shape == (256, 3)
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[255].tolist() == [0, 50, 0]
    assert np.abs(colours[127].astype(int) - [100, 0, 200]).max() <= 2


def test_palettes_hold_colours():
    colours = palette(generator(0), 7)
    assert colours.shape == (7, 3)
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_photos_are_found_in_a_fixed_order_and_shared_out(folder):
    photos = list_photos(folder)
    assert [photo.name for photo in photos] == ["0.png", "1.png", "2.png", "3.png", "4.png", "grey.JPG"]
    assert [photo.name for photo in split_photos(photos, "val")] == ["0.png", "grey.JPG"]
    assert [photo.name for photo in split_photos(photos, "train")] == ["1.png", "2.png", "3.png", "4.png"]


def test_photo_backgrounds_show_each_photo_of_the_list_and_no_other(folder):
    photos = split_photos(list_photos(folder), "train")
    reds = set()
    for seed in range(30):
        image = photo_background(generator(seed), 80, photos)
        assert image.shape == (80, 80, 3)
        assert (image == image[0, 0]).all()
        reds.add(int(image[0, 0, 0]))
    assert reds == {40, 80, 120, 160}


def test_a_photo_is_taken_upright(tmp_path):
    # lying on its side in the file: the left half is red, and the tag says that left is top
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :40, 0] = 255
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=tags)
    for seed in range(10):
        crop = photo_background(generator(seed), 40, [tmp_path / "a.png"])[..., 0].astype(int)
        assert (np.diff(crop, axis=0) <= 0).all()
        assert (np.diff(crop, axis=1) == 0).all()


def test_an_empty_missing_or_single_photo_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of backgrounds"):
        list_photos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"0 photos found .* at least 2 are needed"):
        list_photos(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="1 photos found"):
        list_photos(tmp_path)


def test_a_broken_photo_is_named(tmp_path):
    Image.effect_noise((80, 80), 50).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in {"text.jpg": b"no image", "cut.png": whole[: len(whole) // 2], "empty.webp": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: cannot be read as an image"):
            photo_background(generator(0), 64, [tmp_path / name])


def test_a_photo_of_one_pixel_is_a_background_too(tmp_path):
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "one.png")
    assert (photo_background(generator(0), 64, [tmp_path / "one.png"]) == [1, 2, 3]).all()
