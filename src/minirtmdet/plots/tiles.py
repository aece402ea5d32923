"""Figures of large images: what an input sees of one, and how tiles lie in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import UInt8

from minirtmdet.data.augment import fit
from minirtmdet.data.tile_grid import Tile
from minirtmdet.plots.canvas import BOXES, INK, bare, draw_box, new_figure, panels, show_image, styled

if TYPE_CHECKING:
    import matplotlib.figure


@styled
def resized_or_tile(image: UInt8[np.ndarray, "_ _ 3"], tile: Tile) -> "matplotlib.figure.Figure":
    """A large image, what is left of it when it is resized to an input of the tile's size, and the tile.

    Args:
        image: BGR pixels.
        tile: a square piece of it, which is outlined.
    """
    height, width = image.shape[:2]
    side = tile.right - tile.left
    new_height, new_width = fit((height, width), side)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    lost = f"the image keeps one pixel in {(width / new_width) ** 2:.0f}"
    title = f"Resized to {side} px, {lost}; a tile keeps all of its own"
    figure, axes = panels(title, 1, 3, height / width)
    pieces = (image, resized, image[tile.top : tile.bottom, tile.left : tile.right])
    names = (f"the image, {width} x {height}", f"resized, {new_width} x {new_height}", f"a tile, {side} x {side}")
    for ax, piece, name in zip(axes.flat, pieces, names, strict=True):
        show_image(ax, np.ascontiguousarray(piece))
        ax.set_title(name)
    draw_box(axes.flat[0], np.array(tile), BOXES[1])
    return figure


@styled
def tile_layout(tiles: Sequence[Tile], *, names: bool = True) -> "matplotlib.figure.Figure":
    """How tiles lie in an image: darker where several of them look.

    Args:
        tiles: of one image.
        names: number them in their middles, from 1.
    """
    from matplotlib.patches import Rectangle

    width, height = max(tile.right for tile in tiles), max(tile.bottom for tile in tiles)
    title = f"{len(tiles)} tiles cover {width} x {height} pixels; darker strips are seen more than once"
    figure = new_figure(title, 3.0)
    ax = figure.subplots()
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    bare(ax)
    for number, (left, top, right, bottom) in enumerate(tiles, 1):
        size = (right - left, bottom - top)
        ax.add_patch(Rectangle((left, top), *size, facecolor=BOXES[0], alpha=0.25, edgecolor="none"))
        ax.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=BOXES[0], linewidth=1.0))
        if names:
            ax.text((left + right) / 2, (top + bottom) / 2, str(number), ha="center", va="center", color=INK, size=9)
    return figure
