import numpy as np
import pytest

from minirtmdet.data import glyphs
from minirtmdet.data.glyphs import OPAQUE, glyph, sprite
from minirtmdet.data.scenes import CLASSES, DISTRACTORS, GLYPHS


def opaque(pixels):
    return pixels[..., 3] >= OPAQUE


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("size", [8, 33, 80])
def test_a_sprite_is_as_long_as_asked_and_touches_its_edges(name, size):
    pixels = sprite(GLYPHS[name][0], size, angle=17)
    assert max(pixels.shape[:2]) == size
    inside = opaque(pixels)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    # a thin outline may be covered less than half at the very edge of a small one
    slack = max(1, size // 16)
    assert rows[0] <= slack
    assert columns[0] <= slack
    assert rows[-1] >= pixels.shape[0] - 1 - slack
    assert columns[-1] >= pixels.shape[1] - 1 - slack


def test_each_class_and_each_distractor_has_its_own_image():
    emoji = [shape for shape, _ in GLYPHS.values()] + list(DISTRACTORS)
    assert len({glyph(e, 64).tobytes() for e in emoji}) == len(emoji) == len(CLASSES) + len(DISTRACTORS)


def test_glyphs_are_coloured_and_cut_to_what_is_drawn():
    apple = np.array(glyph("🍎", 128))
    assert apple[..., 3].any(0)[[0, -1]].all()
    assert apple[..., 3].any(1)[[0, -1]].all()
    red, green, blue = apple[opaque(apple)][:, :3].mean(0)
    assert red > 2 * blue
    assert red > 2 * green


def test_mirror_exchanges_left_and_right():
    np.testing.assert_array_equal(sprite("🚗", 40, mirror=True), sprite("🚗", 40)[:, ::-1])


def test_a_quarter_turn_exchanges_width_and_height():
    height, width = sprite("🚗", 64).shape[:2]
    turned = sprite("🚗", 64, angle=90).shape[:2]
    assert np.abs(np.subtract(turned, (width, height))).max() <= 1


def test_aspect_changes_width_against_height():
    shapes = {aspect: sprite("🏀", 60, aspect=aspect).shape[:2] for aspect in (50, 100, 200)}
    ratios = {aspect: width / height for aspect, (height, width) in shapes.items()}
    assert ratios[50] == pytest.approx(ratios[100] / 2, abs=0.03)
    assert ratios[200] == pytest.approx(ratios[100] * 2, abs=0.06)


def test_brightness_scales_colours_and_leaves_the_outline():
    plain, dark, bright = (sprite("🍋", 40, brightness=value) for value in (100, 50, 200))
    np.testing.assert_array_equal(dark[..., :3], plain[..., :3] // 2)
    np.testing.assert_array_equal(bright[..., :3], np.minimum(plain[..., :3].astype(int) * 2, 255))
    np.testing.assert_array_equal(dark[..., 3], plain[..., 3])


def test_blur_softens_the_outline_and_hardly_moves_it():
    sharp, soft = sprite("🎾", 60), sprite("🎾", 60, blur=20)
    between = [((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).sum() for pixels in (sharp, soft)]
    assert between[1] > 2 * between[0]
    assert opaque(soft).sum() == pytest.approx(opaque(sharp).sum(), rel=0.03)


def test_the_same_call_gives_the_same_bytes():
    changes = {"angle": -13, "mirror": True, "aspect": 90, "brightness": 80, "blur": 7}
    first = sprite("🐯", 50, **changes)
    glyph.cache_clear()
    np.testing.assert_array_equal(first, sprite("🐯", 50, **changes))


def test_a_missing_font_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs, "get_openmoji_font_data", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"glyf_colr0\.ttf: the glyph font is missing.*pip install"):
        glyphs.font_path()


def test_a_text_that_draws_nothing_is_an_error():
    with pytest.raises(ValueError, match="draws nothing for ' '"):
        glyph(" ", 32)
