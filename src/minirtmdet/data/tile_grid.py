"""Where the tiles of a large image lie, for data sets and prediction alike.

Resized to the input, a large image loses its small objects; in tiles of the input's size it keeps them.  Neighbours
overlap: an object no longer than the overlap is whole in at least one.
"""

from typing import Annotated, NamedTuple

from minirtmdet.settings import Range

# share of a tile's side that neighbours have in common at least; with more, tiles would hardly advance
Overlap = Annotated[float, Range(0, 0.9)]


class Tile(NamedTuple):
    """A piece of an image, in its pixels."""

    left: int
    top: int
    right: int
    bottom: int


def tile_grid(width: int, height: int, size: int, overlap: int) -> list[Tile]:
    """The fewest tiles of ``size`` pixels that cover an image, row by row; an image that is smaller makes one smaller.

    Args:
        width: of the image, in pixels.
        height: likewise.
        size: side of a tile.
        overlap: pixels that neighbours have in common at least; what the last one has more is spread over all.

    >>> [(tile.left, tile.right) for tile in tile_grid(1000, 300, 400, 100)]
    [(0, 400), (300, 700), (600, 1000)]
    """
    return [
        Tile(left, top, min(left + size, width), min(top + size, height))
        for top in _starts(height, size, overlap)
        for left in _starts(width, size, overlap)
    ]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    count = 1 + max(0, -(-(length - size) // (size - overlap)))
    return [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]
