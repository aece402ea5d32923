"""Fonts that have every letter of a text: class names come in any script."""

import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import ImageFont

BASE = "DejaVu Sans"
"""Comes with Matplotlib, so that it is everywhere; Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian and Georgian."""


def drawable(names: Sequence[str], labels: Sequence[object] | None = None) -> list[str]:
    """Class names as they can be drawn: one that no installed font can write becomes its number.

    One warning names those that did.

    Args:
        names: of the classes.
        labels: their numbers; 0, 1, … where left out.

    >>> drawable(["cat", "кот"])
    ['cat', 'кот']
    """
    labels = range(len(names)) if labels is None else labels
    lost = [name for name in names if None in map(font_file, name)]
    if lost:
        shown = ", ".join(map(repr, lost[:3])) + ", …" * (len(lost) > 3)
        warnings.warn(
            f"no installed font has all letters of {shown}: "
            f"{'it is' if len(lost) == 1 else 'they are'} drawn by number; install a font that has them (Noto's fonts "
            "have every script)",
            stacklevel=2,
        )
    return [f"class {label}" if name in lost else name for label, name in zip(labels, names, strict=True)]


def without_lost(text: str) -> str:
    """A text with a question mark for each letter that no installed font has."""
    return "".join("?" if font_file(letter) is None else letter for letter in text)


def families(texts: Sequence[str]) -> list[str]:
    """Names of the fonts that write the texts together, for Matplotlib's ``font.family``."""
    return [BASE, *sorted({_family(file) for text in texts for file in map(font_file, text) if file} - {BASE})]


def text_width(text: str) -> int:
    """Rough width in points at a size of 8: letters take 5 on average, those of China, Japan and Korea 8.

    >>> text_width("cat"), text_width("赤")
    (15, 8)
    """
    return sum(8 if unicodedata.east_asian_width(letter) in "WF" else 5 for letter in text)


@lru_cache(maxsize=4096)
def font_file(letter: str) -> str | None:
    """The first font that has a letter, beginning with :data:`BASE`; None where no installed one has it.

    Letters without a shape of their own (spaces, joiners, marks that select a variant) count as there.
    """
    if unicodedata.category(letter) in ("Cc", "Cf", "Zs") or "\ufe00" <= letter <= "\ufe0f":
        return _files()[0]
    return next((file for file in _files() if _has(file, letter)), None)


@cache
def _files() -> list[str]:
    """Every outline font, the base first, then upright regular ones before the others."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    usable = [entry for entry in fontManager.ttflist if not _has_glyphs_as_images(entry.name)]
    usable.sort(key=lambda entry: (entry.style != "normal", entry.weight != 400, entry.name, entry.fname))
    return list(dict.fromkeys([findfont(FontProperties(BASE)), *(entry.fname for entry in usable)]))


def _has_glyphs_as_images(family: str) -> bool:
    """Whether a font has coloured images, which Matplotlib cannot draw, or boxes in place of letters."""
    return any(word in family.lower() for word in ("emoji", "lastresort", "last resort", "color"))


@lru_cache(maxsize=64)
def _font(file: str) -> "object | None":
    """A font to ask for letters; None for a file that cannot be read any more."""
    from matplotlib.ft2font import FT2Font

    try:
        return FT2Font(file)
    except (OSError, RuntimeError):
        return None


def _has(file: str, letter: str) -> bool:
    font = _font(file)
    return font is not None and font.get_char_index(ord(letter)) != 0  # type: ignore[attr-defined]


def _family(file: str) -> str:
    from matplotlib.font_manager import fontManager

    return next((entry.name for entry in fontManager.ttflist if entry.fname == file), BASE)


class Line:
    """A line of text that Pillow draws, each letter in a font that has it.

    Args:
        text: what to write; letters that no font has become question marks.
        size: height of the fonts, in pixels.

    Attributes:
        box: left, top, right and bottom of the ink, from the start of the line at its baseline, in pixels.
    """

    def __init__(self, text: str, size: int):
        self._parts: list[tuple[float, str, ImageFont.FreeTypeFont]] = []
        boxes, x = [], 0.0
        for file, letters in groupby(without_lost(text), font_file):
            assert file is not None
            part, font = "".join(letters), _pillow_font(file, size)
            self._parts.append((x, part, font))
            left, top, right, bottom = font.getbbox(part, anchor="ls")
            boxes.append((x + left, top, x + right, bottom))
            x += font.getlength(part)
        lefts, tops, rights, bottoms = zip(*boxes, strict=True) if boxes else ((0,), (0,), (0,), (0,))
        self.box = (min(lefts), min(tops), max(rights), max(bottoms))

    def draw(self, pen: Any, x: int | float, y: int | float, fill: str) -> None:
        """Write the line, by Pillow's ``ImageDraw``, with the left upper corner of its ink at a point."""
        for start, part, font in self._parts:
            pen.text((x - self.box[0] + start, y - self.box[1]), part, font=font, fill=fill, anchor="ls")


@lru_cache(maxsize=64)
def _pillow_font(file: str, size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.truetype(file, size)
