"""What lies behind the objects of a scene: patterns made from random integers, or crops of the user's photos.

The patterns are integer arithmetic on numpy arrays, so that a seed gives the same pixels on every platform.
"""

import colorsys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageOps

PHOTO_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# every fifth photo is kept for validation: the two splits never see the same one
VAL_EVERY = 5
# photos are kept at this many times the side of a scene: enough for crops, little enough for memory
PHOTO_SCALE = 4

Colours = Int[np.ndarray, "colours 3"]
Field = Int[np.ndarray, "size size"]
Pixels = UInt8[np.ndarray, "size size 3"]


def pattern_background(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An image of ``size`` pixels a side in RGB, of one of ``PATTERNS`` drawn from ``rng``.

    >>> pattern_background(np.random.Generator(np.random.Philox(0)), 64).shape
    (64, 64, 3)
    """
    return PATTERNS[rng.integers(len(PATTERNS))](rng, size)


def list_photos(folder: Path) -> list[Path]:
    """The photos below ``folder``, in an order that does not depend on the file system.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where it holds fewer than two photos: training and validation may not share one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of backgrounds")
    photos = [path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()]
    if len(photos) < 2:
        raise ValueError(
            f"{folder}: {len(photos)} photos found ({', '.join(PHOTO_SUFFIXES)}), at least 2 are needed, "
            "since training and validation scenes share no background"
        )
    return sorted(photos, key=lambda path: path.relative_to(folder).as_posix())


def split_photos(photos: list[Path], split: str) -> list[Path]:
    """The photos of one split: for ``val`` every fifth one, beginning with the first; the others for ``train``.

    >>> [p.name for p in split_photos([Path(f"{i}.jpg") for i in range(7)], "val")]
    ['0.jpg', '5.jpg']
    """
    return [photo for i, photo in enumerate(photos) if (i % VAL_EVERY == 0) == (split == "val")]


def photo_background(rng: np.random.Generator, size: int, photos: list[Path]) -> UInt8[np.ndarray, "size size 3"]:
    """A random square of a random photo, half to all of its shorter side, in RGB.

    Raises:
        ValueError: naming a file that is no readable image.
    """
    photo = _load_photo(photos[rng.integers(len(photos))], PHOTO_SCALE * size)
    side = int(rng.integers(-(-min(photo.size) // 2), min(photo.size), endpoint=True))
    left, top = (int(rng.integers(length - side, endpoint=True)) for length in photo.size)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if rng.integers(2):
        crop = ImageOps.mirror(crop)
    return np.array(crop)


@lru_cache(maxsize=64)
def _load_photo(path: Path, side: int) -> Image.Image:
    """The photo upright, shrunk so that its shorter side is at most ``side``."""
    try:
        with Image.open(path) as file:
            file.draft("RGB", (side, side))  # JPEG only: decode no more pixels than are needed
            photo = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise ValueError(f"{path}: cannot be read as an image ({error}): remove it from the backgrounds") from error
    return ImageOps.cover(photo, (side, side)) if min(photo.size) > side else photo


# ---- ingredients


def palette(rng: np.random.Generator, count: int) -> Int[np.ndarray, "count 3"]:
    """Colours (RGB, 0..255) around one hue or two opposite ones, of any brightness: they go together, as in a photo."""
    hue = int(rng.integers(360))
    spread = int(rng.integers(8, 50))
    opposite = 180 * int(rng.integers(4) == 0)
    colours = []
    for i in range(count):
        degrees = hue + opposite * (i % 2) + int(rng.integers(-spread, spread, endpoint=True))
        saturation, value = int(rng.integers(5, 75)), int(rng.integers(25, 100))
        colours.append(colorsys.hsv_to_rgb(degrees % 360 / 360, saturation / 100, value / 100))
    return np.array([[round(255 * channel) for channel in colour] for colour in colours])


def ramp(colours: Int[np.ndarray, "count 3"]) -> UInt8[np.ndarray, "256 3"]:
    """256 colours that run evenly through the given ones."""
    level = np.arange(256) * (len(colours) - 1)
    left = np.minimum(level // 255, len(colours) - 2)
    part = (level - left * 255)[:, None]
    return ((colours[left] * (255 - part) + colours[left + 1] * part) // 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Int[np.ndarray, "size size"]:
    """Random values in 0..255, ``cells`` of them a side, joined smoothly."""
    grid = rng.integers(256, size=(cells + 3, cells + 3), dtype=np.uint8)
    # Pillow resizes 8-bit images in fixed point, so nothing here depends on floats
    return np.asarray(
        Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=(1, 1, cells + 2, cells + 2)),
        dtype=np.int32,
    )


def fractal_noise(
    rng: np.random.Generator, size: int, cells: int = 2, octaves: int = 5
) -> Int[np.ndarray, "size size"]:
    """Octaves of smooth noise, each twice as fine and half as strong, stretched to 0..255."""
    total = np.zeros((size, size), dtype=np.int32)
    for octave in range(octaves):
        if cells << octave > size:
            break
        total += smooth_noise(rng, size, cells << octave) << (octaves - octave)
    total -= total.min()
    return total * 255 // max(1, int(total.max()))


def _grid(size: int) -> tuple[Field, Field]:
    y, x = np.mgrid[:size, :size]
    return x, y


def _pixels(rng: np.random.Generator, size: int, low: int, high: int) -> int:
    """A length drawn from ``low..high`` thousandths of the side, at least 2 pixels."""
    return max(2, int(rng.integers(low, high, endpoint=True)) * size // 1000)


def _textured(image: Int[np.ndarray, "size size 3"], rng: np.random.Generator, strength: int) -> Pixels:
    """The image, lighter and darker by fine noise of up to ``strength`` percent."""
    size = len(image)
    percent = 100 + (fractal_noise(rng, size, max(2, size // 16), 3) - 128) * strength // 128
    return np.clip(image * percent[..., None] // 100, 0, 255).astype(np.uint8)


# ---- patterns


def _clouds(rng: np.random.Generator, size: int) -> Pixels:
    noise = fractal_noise(rng, size, int(rng.integers(1, 7)), int(rng.integers(2, 7)))
    return ramp(palette(rng, int(rng.integers(2, 5))))[noise]


def _marble(rng: np.random.Generator, size: int) -> Pixels:
    bands = fractal_noise(rng, size, int(rng.integers(1, 4)), 4) * int(rng.integers(2, 7)) % 512
    return ramp(palette(rng, 3))[np.where(bands > 255, 511 - bands, bands)]


def _gradient(rng: np.random.Generator, size: int) -> Pixels:
    x, y = _grid(size)
    if rng.integers(2):
        a, b = rng.integers(-100, 100, size=2)
        level = a * x + b * y
    else:
        cx, cy = rng.integers(size, size=2)
        level = (x - cx) ** 2 + (y - cy) ** 2
    level = level - level.min()
    shade = ramp(palette(rng, int(rng.integers(2, 4))))[level * 255 // max(1, int(level.max()))]
    return _textured(shade.astype(np.int32), rng, int(rng.integers(0, 25)))


def _bricks(rng: np.random.Generator, size: int) -> Pixels:
    x, y = _grid(size)
    height = _pixels(rng, size, 60, 180)
    width = height * int(rng.integers(10, 30)) // 10
    joint = max(1, height // int(rng.integers(6, 14)))
    row = y // height
    shifted = x + row % 2 * (width // 2) + int(rng.integers(width))
    brick = palette(rng, 2)
    tint = rng.integers(70, 115, size=(size // height + 1, size // width + 3))[row, shifted // width]
    mortar = (y % height < joint) | (shifted % width < joint)
    return _textured(np.where(mortar[..., None], brick[1], brick[0] * tint[..., None] // 100), rng, 25)


def _stripes(rng: np.random.Generator, size: int) -> Pixels:
    x, y = _grid(size)
    a, b = rng.integers(-16, 17, size=2)
    colours = palette(rng, int(rng.integers(2, 5)))
    bend = smooth_noise(rng, size, int(rng.integers(1, 6))) * int(rng.integers(0, 3)) * size // 128
    band = (a * x + b * y + bend) // (16 * _pixels(rng, size, 25, 140))
    return _textured(colours[band % len(colours)], rng, int(rng.integers(0, 20)))


def _tiles(rng: np.random.Generator, size: int) -> Pixels:
    x, y = _grid(size)
    side = _pixels(rng, size, 60, 220)
    column, row = (x + int(rng.integers(side))) // side, (y + int(rng.integers(side))) // side
    colours = palette(rng, int(rng.integers(2, 6)))
    cells = size // side + 3
    if rng.integers(2):
        kind = (np.add.outer(np.arange(cells), np.arange(cells))) % len(colours)
    else:
        kind = rng.integers(len(colours), size=(cells, cells))
    return _textured(colours[kind[row, column]], rng, int(rng.integers(5, 25)))


def _stones(rng: np.random.Generator, size: int) -> Pixels:
    """Cells of the points that lie nearest to one of some seeds (a Voronoi diagram), with dark joints."""
    x, y = _grid(size)
    seeds = rng.integers(size, size=(int(rng.integers(10, 45)), 2)).tolist()
    shades = ramp(palette(rng, 3))[rng.integers(256, size=len(seeds))].astype(np.int32)
    nearest = np.zeros((size, size), dtype=np.int32)
    first = np.full((size, size), 4 * size * size)
    second = first
    for i, (cx, cy) in enumerate(seeds):
        distance = (x - cx) ** 2 + (y - cy) ** 2
        nearest[distance < first] = i
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    # between two seeds that are nearly as far as each other runs a joint
    joint = second - first < size * size // int(rng.integers(60, 400))
    stones = shades[nearest]
    return _textured(np.where(joint[..., None], stones * int(rng.integers(30, 100)) // 100, stones), rng, 20)


def _clutter(rng: np.random.Generator, size: int) -> Pixels:
    """Discs and bars of many colours, drawn small and enlarged: a shelf or a street out of focus."""
    small = max(8, size // int(rng.integers(2, 7)))
    colours = [tuple(int(c) for c in colour) for _ in range(3) for colour in palette(rng, 3)]
    image = Image.new("RGB", (small, small), colours[0])
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(15, 60))
    corners = rng.integers(-small // 4, small, size=(count, 2)).tolist()
    sides = rng.integers(2, small // 2, size=(count, 2)).tolist()
    for (left, top), (width, height) in zip(corners, sides, strict=True):
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((left, top, left + width, top + height), fill=colours[rng.integers(len(colours))])
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def _grass(rng: np.random.Generator, size: int) -> Pixels:
    """Short strokes in nearly one direction: grass, straw, fur."""
    colours = ramp(palette(rng, 3))
    image = Image.fromarray(colours[fractal_noise(rng, size, 2, 3)])
    draw = ImageDraw.Draw(image)
    length = _pixels(rng, size, 40, 150)
    lean = rng.integers(-length, length, size=2)
    count = int(rng.integers(200, 700))
    start = rng.integers(-length, size + length, size=(count, 2))
    end = start + lean + rng.integers(-length // 2 - 1, length // 2 + 1, size=(count, 2))
    for line, fill in zip(
        np.concatenate([start, end], 1).tolist(), rng.integers(256, size=count).tolist(), strict=True
    ):
        draw.line(line, fill=tuple(colours[fill].tolist()))
    return np.array(image)


PATTERNS: tuple[Callable[[np.random.Generator, int], Pixels], ...] = (
    _clouds,
    _marble,
    _gradient,
    _bricks,
    _stripes,
    _tiles,
    _stones,
    _clutter,
    _grass,
)
