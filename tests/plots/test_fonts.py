"""Class names of any script: a font that has their letters, or a number in their place."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from minirtmdet import plots
from minirtmdet.inference.images import draw_detections
from minirtmdet.plots import fonts
from minirtmdet.structures import Detections

LETTER = "\U00010a00"  # Kharoshthi, a script that no common font has; a square in the font made here
NAMES = ["cat", f"{LETTER}x", "кот"]


def forget() -> None:
    for cached in (fonts.font_file, fonts._files, fonts._font, fonts._pillow_font):
        cached.cache_clear()


@pytest.fixture
def without_a_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with Matplotlib's own fonts alone."""
    own = [entry for entry in fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(fontManager, "ttflist", own)
    forget()
    yield
    forget()


@pytest.fixture
def with_a_font(without_a_font: None, tmp_path: Path) -> Iterator[None]:
    """The same with a font more, which has one letter of its own: a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in ((50, 800), (950, 800), (950, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(list(glyphs))
    builder.setupCharacterMap({ord(LETTER): "square"})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    fontManager.addfont(tmp_path / "squares.ttf")
    forget()
    return


def found() -> Detections:
    return Detections(torch.tensor([[20.0, 40.0, 180.0, 90.0]]), torch.tensor([0.9]), torch.tensor([1]))


def test_a_name_that_no_font_has_is_drawn_by_its_number(without_a_font: None):
    with pytest.warns(UserWarning, match="no installed font has all letters of '.*': it is drawn by number"):
        assert fonts.drawable(NAMES) == ["cat", "class 1", "кот"]
    assert fonts.without_lost(f"a{LETTER}b") == "a?b"


def test_a_font_that_has_the_letters_is_found(with_a_font: None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.drawable(NAMES) == NAMES
    assert fonts.families(NAMES) == [fonts.BASE, "Squares"]
    assert fonts.families(["cat", "кот"]) == [fonts.BASE]


def test_letters_without_a_shape_need_no_font(without_a_font: None):
    assert fonts.drawable(["a\u200db", "a\ufe0f", "a\nb"]) == ["a\u200db", "a\ufe0f", "a\nb"]


def squares(drawn: np.ndarray) -> int:
    """How many pixels of the label are white."""
    return int((drawn[:40] == 255).all(-1).sum())


def test_detections_are_drawn_with_the_letters(with_a_font: None):
    image = np.zeros((100, 200, 3), np.uint8)
    with_letter = squares(draw_detections(image, found(), NAMES))
    without = squares(draw_detections(image, found(), ["cat", "x", "кот"]))
    assert with_letter - without == pytest.approx(0.9 * 0.8 * 14**2, rel=0.25)  # the square at 14 pixels


def test_detections_are_drawn_with_numbers(without_a_font: None):
    image = np.zeros((100, 200, 3), np.uint8)
    with pytest.warns(UserWarning, match="drawn by number"):
        by_number = draw_detections(image, found(), NAMES)
    np.testing.assert_array_equal(by_number, draw_detections(image, found(), ["cat", "class 1", "кот"]))


FIGURES = {
    "detection_sheet": lambda: plots.detection_sheet([np.zeros((100, 200, 3), np.uint8)], [found()], NAMES),
    "precision_recall": lambda: plots.precision_recall({name: np.linspace(1, 0, 101) for name in NAMES}),
    "precision_recall_by_iou": lambda: plots.precision_recall_by_iou(np.full((10, 101, 3), 0.5), NAMES),
    "box_sizes": lambda: plots.box_sizes({name: np.full((3, 2), 9.0) for name in NAMES}, 64),
    "score_maps": lambda: plots.score_maps(
        [torch.zeros(1, 3, 2, 2)],
        torch.tensor([[x, y, 8.0, 8.0] for y in (0.0, 8.0) for x in (0.0, 8.0)]),
        {1: NAMES[1]},
    ),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_write_any_name(with_a_font: None, figure: str, tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of each letter that its font lacks
        plots.save(FIGURES[figure](), tmp_path / "a.png")


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_write_numbers_where_no_font_has_the_letters(without_a_font: None, figure: str, tmp_path: Path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        drawn = FIGURES[figure]()
        plots.save(drawn, tmp_path / "a.png")
    assert {str(one.message)[:30] for one in said} == {"no installed font has all lett"}
    texts = " ".join(text.get_text() for text in drawn.findobj(lambda artist: hasattr(artist, "get_text")))
    assert LETTER not in texts
    assert "class 1" in texts
