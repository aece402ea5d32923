"""Figures of tiles: which pixels, which rectangles."""

import numpy as np
from matplotlib.patches import Rectangle

from minirtmdet import plots
from minirtmdet.data.tile_grid import Tile, tile_grid

IMAGE = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)


def test_an_image_its_resized_self_and_a_tile() -> None:
    figure = plots.resized_or_tile(IMAGE, Tile(40, 10, 90, 60))
    whole, resized, tile = (ax.images[0].get_array() for ax in figure.axes)
    assert (whole.shape, resized.shape, tile.shape) == ((100, 200, 3), (25, 50, 3), (50, 50, 3))
    np.testing.assert_array_equal(tile, IMAGE[10:60, 40:90, ::-1])
    [outline] = figure.axes[0].patches
    assert (outline.get_xy(), outline.get_width(), outline.get_height()) == ((40, 10), 50, 50)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "the image, 200 x 100", "resized, 50 x 25", "a tile, 50 x 50",
    ]  # fmt: skip
    assert figure.get_suptitle() == "Resized to 50 px, the image keeps one pixel in 16; a tile keeps all of its own"


def test_each_tile_is_a_rectangle_with_its_number() -> None:
    tiles = tile_grid(200, 100, 64, 16)
    [ax] = plots.tile_layout(tiles).axes
    filled = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_fill()]
    assert [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in filled] == [
        (tile.left, tile.top, tile.right - tile.left, tile.bottom - tile.top) for tile in tiles
    ]
    assert [text.get_text() for text in ax.texts] == [str(i) for i in range(1, len(tiles) + 1)]
    assert not plots.tile_layout(tiles, names=False).axes[0].texts
