"""Shapes of objects on their way from the file to the network's input.

Whatever augmentation does to an image, it changes x and y apart from each other: ``x' = scale * x + shift``.  So
everything that was done to an object is four numbers, and a window that says what was cut off.  Vertices are moved once
and pixels drawn once, at the end; nothing is rounded in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from minirtmdet.configs import MASK_STRIDE
from minirtmdet.data.masks import draw_polygons

FIRST = MASK_STRIDE // 2
"""The first row and column of pixels that are taken for cells (:func:`minirtmdet.masks.subsample`)."""
INWARDS = 1e-6
"""How far inside a corner of the window it is asked whether an object covers it, in sides of the window."""


class Bitmap(NamedTuple):
    """The pixels of an object, and where they lie.

    Attributes:
        pixels: those of a box around it.
        corner: left upper corner of that box (x, y), in pixels of the file.
    """

    pixels: Bool[np.ndarray, "rows columns"]
    corner: tuple[int, int]


# polygons, which together are the object, in pixels of the file; no polygon where its shape is not known
Source = tuple[Float[np.ndarray, "_ 2"], ...] | Bitmap


class Drawn(NamedTuple):
    """Shapes as pixels.

    Attributes:
        cells: every fourth pixel of every fourth row, as :func:`minirtmdet.masks.subsample` takes them.
        centers: of mass, (x, y) in indices of pixels; (0, 0) of a shape without any.
        areas: in pixels.
    """

    cells: Bool[np.ndarray, "shapes _ _"]
    centers: Float32[np.ndarray, "shapes 2"]
    areas: Int[np.ndarray, " shapes"]


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes of the objects of an image.

    Attributes:
        sources: as the file has them.
        extents: the box around each of them (``xyxy``), in pixels of the file.
        scale, shift: from there to pixels of the image as it is now, (x, y) each; a negative scale is a mirror.
        window: what of the image now is not cut off from each (``xyxy``).
    """

    sources: tuple[Source, ...]
    extents: Float[np.ndarray, "shapes 4"]
    scale: Float[np.ndarray, "shapes 2"]
    shift: Float[np.ndarray, "shapes 2"]
    window: Float[np.ndarray, "shapes 4"]

    @classmethod
    def of(cls, sources: Sequence[Source], size: tuple[int, int]) -> "Shapes":
        """Shapes of an image of ``size`` (height, width) as it is in its file, cut at its border."""
        height, width = size
        return cls(
            sources=tuple(sources),
            extents=np.array([_extent(source) for source in sources], dtype=np.float64).reshape(-1, 4),
            scale=np.ones((len(sources), 2)),
            shift=np.zeros((len(sources), 2)),
            window=np.tile(np.array([0.0, 0.0, width, height]), (len(sources), 1)),
        )

    @classmethod
    def join(cls, several: Sequence["Shapes"]) -> "Shapes":
        """All in one image."""
        return cls(
            sources=tuple(source for shapes in several for source in shapes.sources),
            extents=np.concatenate([shapes.extents for shapes in several]),
            scale=np.concatenate([shapes.scale for shapes in several]),
            shift=np.concatenate([shapes.shift for shapes in several]),
            window=np.concatenate([shapes.window for shapes in several]),
        )

    def __len__(self) -> int:
        return len(self.sources)

    def scaled(self, x: int | float, y: int | float) -> "Shapes":
        """In the image stretched by ``x`` and ``y``."""
        factors = np.array([x, y])
        window = self.window * np.tile(factors, 2)
        return replace(self, scale=self.scale * factors, shift=self.shift * factors, window=window)

    def moved(self, x: int | float, y: int | float) -> "Shapes":
        """In an image in which they lie so much further right and down."""
        offset = np.array([x, y], dtype=np.float64)
        return replace(self, shift=self.shift + offset, window=self.window + np.tile(offset, 2))

    def mirrored(self, width: int) -> "Shapes":
        """In the mirror image of one of this width."""
        left, top, right, bottom = self.window.T
        scale, shift = self.scale * [-1, 1], self.shift * [-1, 1] + [width, 0]
        return replace(self, scale=scale, shift=shift, window=np.stack([width - right, top, width - left, bottom], 1))

    def cut(self, size: tuple[int, int]) -> "Shapes":
        """In the image cut to ``size`` (height, width), at its right and lower and at the left and upper border."""
        height, width = size
        return replace(self, window=np.clip(self.window, 0, [width, height, width, height]))

    def select(self, keep: Bool[np.ndarray, " shapes"]) -> "Shapes":
        """Some of them."""
        sources = tuple(self.sources[i] for i in np.flatnonzero(keep))
        return Shapes(sources, self.extents[keep], self.scale[keep], self.shift[keep], self.window[keep])

    def boxes(self, unknown: Float[np.ndarray, "shapes 4"]) -> Float[np.ndarray, "shapes 4"]:
        """The box (``xyxy``) tight around what can be seen of each shape, without area where nothing can.

        Args:
            unknown: boxes of the shapes that are not known.
        """
        ends = self.extents * np.tile(self.scale, 2) + np.tile(self.shift, 2)
        whole = np.concatenate([np.minimum(ends[:, :2], ends[:, 2:]), np.maximum(ends[:, :2], ends[:, 2:])], 1)
        low, high = np.tile(self.window[:, :2], 2), np.tile(self.window[:, 2:], 2)
        found = np.clip(whole, low, high)
        is_cut = (whole != found).any(1) & (found[:, 2:] > found[:, :2]).all(1)
        for i, source in enumerate(self.sources):
            if not isinstance(source, Bitmap) and not source:
                found[i] = unknown[i]
            elif is_cut[i]:
                found[i] = self._cut_box(i)
        return found

    def draw(self, size: tuple[int, int]) -> Drawn:
        """Every shape as pixels of an image of ``size`` (height, width), each by itself."""
        count = len(self)
        rows, columns = ((side + MASK_STRIDE - 1 - FIRST) // MASK_STRIDE for side in size)
        cells = np.zeros((count, rows, columns), dtype=bool)
        centers, areas = np.zeros((count, 2), dtype=np.float32), np.zeros(count, dtype=np.int64)
        inside = self.cut(size)
        for i, box in enumerate(inside.boxes(np.zeros((count, 4)))):
            left, top = np.floor(box[:2]).astype(int).tolist()
            right, bottom = np.ceil(box[2:]).astype(int).tolist()
            if left < right and top < bottom:
                pixels = inside._pixels(i, (left, top, right, bottom))
                areas[i] = pixels.sum()
                centers[i] = _center_of_mass(pixels, (left, top))
                _fill_cells(cells[i], pixels, (left, top))
        return Drawn(cells, centers, areas)

    def _cut_box(self, index: int) -> Float[np.ndarray, "4"]:
        """The box of a shape that the window cuts."""
        source, window = self.sources[index], self.window[index]
        if isinstance(source, Bitmap):
            return self._bitmap_box(index, source)
        low, high = window[:2], window[2:]
        found = []
        for part in self._parts(index):
            points = _with_crossings(part, window)
            ends = np.roll(points, -1, axis=0)
            middle = (points + ends) / 2
            inside = ((middle > low) & (middle < high)).all(1)
            found += [points[inside], ends[inside]]
            corners = window[[[0, 1], [2, 1], [2, 3], [0, 3]]]
            covered = _inside(part, corners + ((low + high) / 2 - corners) * INWARDS)
            found.append(corners[covered])
        seen = np.concatenate(found).clip(low, high)  # a crossing is on the line but for rounding
        return np.concatenate([seen.min(0), seen.max(0)]) if len(seen) else np.zeros(4)

    def _bitmap_box(self, index: int, source: Bitmap) -> Float[np.ndarray, "4"]:
        """The box of a bitmap that the window cuts."""
        scale, shift, window = self.scale[index], self.shift[index], self.window[index]
        ends = np.sort((window.reshape(2, 2) - shift) / scale - source.corner, axis=0)  # of the window, in its pixels
        (left, top), (right, bottom) = ends.round(6)  # a pixel that the window touches only in rounding is outside
        first = max(int(np.floor(left)), 0), max(int(np.floor(top)), 0)
        seen = source.pixels[first[1] : int(np.ceil(bottom)), first[0] : int(np.ceil(right))]
        if not seen.any():
            return np.zeros(4)
        x, y = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
        pixels = np.array([[x[0], y[0]], [x[-1] + 1, y[-1] + 1]]) + first + source.corner
        box = np.sort(pixels * scale + shift, axis=0).ravel()
        return np.clip(box, np.tile(window[:2], 2), np.tile(window[2:], 2))

    def _parts(self, index: int) -> list[Float[np.ndarray, "_ 2"]]:
        """The polygons of a shape, in the image as it is now."""
        source = self.sources[index]
        assert not isinstance(source, Bitmap)
        return [part * self.scale[index] + self.shift[index] for part in source]

    def _pixels(self, index: int, box: tuple[int, int, int, int]) -> Bool[np.ndarray, "rows columns"]:
        """A shape as pixels of a box (``xyxy``) around what can be seen of it."""
        source, window, (left, top, right, bottom) = self.sources[index], self.window[index], box
        if not isinstance(source, Bitmap):
            parts = [cut_polygon(part, window) - [left, top] for part in self._parts(index)]
            return draw_polygons(parts, (bottom - top, right - left))
        middles = [np.arange(a, b) + 0.5 for a, b in ((left, right), (top, bottom))]
        places, inside = [], []
        for axis, middle in enumerate(middles):
            place = np.floor((middle - self.shift[index, axis]) / self.scale[index, axis]).astype(int)
            place -= source.corner[axis]
            length = source.pixels.shape[1 - axis]
            inside.append((middle > window[axis]) & (middle < window[2 + axis]) & (place >= 0) & (place < length))
            places.append(place.clip(0, length - 1))
        return source.pixels[np.ix_(*places[::-1])] & inside[1][:, None] & inside[0]


def cut_polygon(polygon: Float[np.ndarray, "vertices 2"], window: Float[np.ndarray, "4"]) -> Float[np.ndarray, "_ 2"]:
    """What of a polygon lies in a window (``xyxy``), as one polygon, which may run back and forth along the border.

    MMDetection's ``PolygonMasks.translate`` moves vertices that lie outside to the border, which bends the edges that
    lead there.  So each edge first gets a vertex where it crosses a border's line: then what is bent lies outside.

    >>> triangle = np.array([[-10.0, 0.0], [10.0, 0.0], [10.0, 20.0]])
    >>> cut_polygon(triangle, np.array([0.0, 0.0, 20.0, 20.0])).tolist()
    [[0.0, 0.0], [0.0, 0.0], [10.0, 0.0], [10.0, 20.0], [0.0, 10.0]]
    """
    if (polygon >= window[:2]).all() and (polygon <= window[2:]).all():
        return polygon
    return np.clip(_with_crossings(polygon, window), window[:2], window[2:])


def without_spikes(polygon: Float[np.ndarray, "vertices 2"]) -> Float[np.ndarray, "_ 2"]:
    """The polygon without vertices at which it turns back on itself, as :func:`cut_polygon` leaves them on a border.

    >>> cut = np.array([[0.0, 3.0], [4.0, 2.0], [4.0, 0.0], [4.0, 6.0], [4.0, 4.0]])
    >>> without_spikes(cut).tolist()
    [[0.0, 3.0], [4.0, 2.0], [4.0, 4.0]]
    """
    kept: list[list[float]] = []

    def turns_back(first: int, middle: int, last: int) -> bool:
        (ax, ay), (bx, by), (cx, cy) = kept[first], kept[middle], kept[last]
        ux, uy, vx, vy = bx - ax, by - ay, cx - bx, cy - by
        return ux * vy == uy * vx and ux * vx + uy * vy <= 0

    for point in polygon.tolist():
        kept.append(point)
        while len(kept) > 2 and turns_back(-3, -2, -1):
            del kept[-2]
    while len(kept) > 2 and (turns_back(-2, -1, 0) or turns_back(-1, 0, 1)):
        del kept[-1 if turns_back(-2, -1, 0) else 0]
    return np.array(kept).reshape(-1, 2)


def _with_crossings(
    polygon: Float[np.ndarray, "vertices 2"], window: Float[np.ndarray, "4"]
) -> Float[np.ndarray, "_ 2"]:
    """The polygon with a vertex wherever an edge crosses one of the four lines that the window's sides lie on."""
    step = np.roll(polygon, -1, axis=0) - polygon
    with np.errstate(all="ignore"):  # of edges that never meet the line, or nearly so
        # how far along each edge [vertices, 4] the lines x1, y1, x2, y2 are met
        along = (window - np.tile(polygon, 2)) / np.tile(step, 2)
    along = np.sort(np.where((along > 0) & (along < 1), along, np.nan), axis=1)  # those not met come last
    along = np.concatenate([np.zeros((len(polygon), 1)), along], 1)
    points = polygon[:, None] + along[..., None] * step[:, None]
    return points[~np.isnan(along)]


def _inside(
    polygon: Float[np.ndarray, "vertices 2"], points: Float[np.ndarray, "points 2"]
) -> Bool[np.ndarray, " points"]:
    """Whether points lie in a polygon: a ray from each crosses an odd number of edges."""
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, axis=0).T
    x, y = points[:, :1], points[:, 1:]
    passes = (y1 > y) != (y2 > y)
    with np.errstate(all="ignore"):  # of level edges, or nearly so, which a ray passes by
        right = x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
    return (passes & right).sum(1) % 2 == 1


def _center_of_mass(pixels: Bool[np.ndarray, "rows columns"], corner: tuple[int, int]) -> Float32[np.ndarray, "2"]:
    """As :func:`minirtmdet.masks.center_of_mass`, to the bit, of a part of a mask whose left upper corner is given."""
    sums = [
        (pixels.sum(axis) * np.arange(start, start + pixels.shape[1 - axis])).sum() for axis, start in enumerate(corner)
    ]
    return np.array(sums, dtype=np.float32) / np.float32(max(pixels.sum(), 1))


def _fill_cells(
    cells: Bool[np.ndarray, "_ _"], pixels: Bool[np.ndarray, "rows columns"], corner: tuple[int, int]
) -> None:
    """Write those pixels of a part of a mask that are taken for cells, whose left upper corner (x, y) is given."""
    column, row = (max(-(-(start - FIRST) // MASK_STRIDE), 0) for start in corner)
    left, top = column * MASK_STRIDE + FIRST - corner[0], row * MASK_STRIDE + FIRST - corner[1]
    seen = pixels[top::MASK_STRIDE, left::MASK_STRIDE]
    cells[row : row + seen.shape[0], column : column + seen.shape[1]] = seen


def _extent(source: Source) -> Sequence[int] | Sequence[float]:
    """The box (``xyxy``) around a shape; zeros where it is not known."""
    if isinstance(source, Bitmap):
        (x, y), (rows, columns) = source.corner, source.pixels.shape
        return [x, y, x + columns, y + rows]
    if not source:
        return [0.0] * 4
    vertices = np.concatenate(source)
    return [*vertices.min(0).tolist(), *vertices.max(0).tolist()]
