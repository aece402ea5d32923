"""Large images piece by piece: square tiles at full size that overlap, and one set of detections from all of them.

Resized to the input, a large image loses its small objects.  A tile shows them as they are, but cuts what lies on its
border.  An object no longer than the overlap is whole in at least one tile; what longer objects leave in each is
joined again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.configs import PredictConfig
from minirtmdet.data.tile_grid import Overlap, Tile, tile_grid
from minirtmdet.detector import Detector
from minirtmdet.head.postprocess import batched_nms
from minirtmdet.inference.detect import Pixels, detect, in_batches
from minirtmdet.masks import LazyMasks
from minirtmdet.settings import Count, check_settings
from minirtmdet.structures import Detections, on_host

SAME_VIEW = 0.5
"""IoU from which a box that a border cuts shows the object of another tile's box: both as far as the two tiles see."""
NEAR_BORDER = 0.02
"""Share of a tile's side within which a box counts as cut by its border: what a network says of an object that goes on
beyond ends somewhat before it."""
PAIRS = 2**21
"""Pairs of boxes that are compared at a time, in some 200 MB: a photo of 48 tiles, evaluated with all that scores a
thousandth, has a hundred million."""
EVERYWHERE = (-torch.inf, -torch.inf, torch.inf, torch.inf)


@dataclass(frozen=True)
class Tiles:
    """How an image is divided.

    Attributes:
        overlap: share of a tile's side that neighbours have in common at least.
        whole: look at the whole image too, resized as without tiles, for objects longer than the overlap.
        batch_size: tiles per forward pass.

    Raises:
        ValueError: for a number that is out of its range.
    """

    overlap: Overlap = 0.25
    whole: bool = True
    batch_size: Count = 8

    def __post_init__(self) -> None:
        check_settings(self, "tiles.")


def detect_all(
    model: Detector,
    images: Sequence[Pixels],
    config: PredictConfig | None = None,
    *,
    input_size: int,
    tiles: Tiles | None = None,
) -> list[Detections]:
    """Detections of each image in its own pixels: all images in one forward pass, or one after the other in tiles."""
    if tiles is None:
        return detect(model, images, config, input_size=input_size)
    return [detect_in_tiles(model, image, config, input_size=input_size, tiles=tiles) for image in images]


def detect_in_tiles(
    model: Detector,
    image: Pixels,
    config: PredictConfig | None = None,
    *,
    input_size: int,
    tiles: Tiles = Tiles(),
) -> Detections:
    """Detections of a large image, best first; of one that fits the input, those without tiles.

    Args:
        model: the detector.
        image: BGR pixels.
        config: thresholds and limits, the published ones where left out; ``max_per_image`` is that of a tile, and
            no limit holds for all together.
        input_size: side of the square input, in pixels, and of a tile.
        tiles: how the image is divided.
    """
    height, width = image.shape[:2]
    if max(height, width) <= input_size:
        return detect(model, [image], config, input_size=input_size)[0]
    config = config or PredictConfig()
    overlap = int(tiles.overlap * input_size)
    seen = list(_in_tiles(model, image, config, input_size, overlap, tiles.batch_size))
    if tiles.whole:
        found = on_host(detect(model, [image], config, input_size=input_size))[0]
        # the others are whole in some tile, where they are seen better
        longer = (found.boxes[:, 2:] - found.boxes[:, :2]).amax(1) > overlap
        seen.append((Tile(0, 0, width, height), found.pick(longer)))
    return merge(seen, (height, width), NEAR_BORDER * input_size, config.nms_iou_threshold)


def _in_tiles(
    model: Detector, image: Pixels, config: PredictConfig, size: int, overlap: int, batch_size: int
) -> Iterator[tuple[Tile, Detections]]:
    """Each tile with what was found in it, in pixels of the image."""
    for batch in in_batches(tile_grid(image.shape[1], image.shape[0], size, overlap), batch_size):
        pieces = [np.ascontiguousarray(image[one.top : one.bottom, one.left : one.right]) for one in batch]
        found = detect(model, pieces, config, input_size=size, resize=False)
        for tile, one in zip(batch, on_host(found), strict=True):
            # what the network says beyond the tile, it says of padding
            boxes = one.boxes + one.boxes.new_tensor([tile.left, tile.top] * 2)
            boxes = _within(boxes, boxes.new_tensor(tile))
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
            yield tile, Detections(boxes, one.scores, one.labels, one.stored_masks).pick(inside)


def merge(
    seen: Sequence[tuple[Tile, Detections]], size: tuple[int, int], margin: float, iou_threshold: float
) -> Detections:
    """One set of detections, best first, from those of overlapping tiles.

    Boxes that no inner border cuts suppress each other by class, as in one image.  A box that is cut goes where a whole
    one of another tile looks the same as far as its own tile sees; those that are left are joined where two tiles see
    the same in what they have in common, until no two of one tile would be one.  A mask is what all its pieces show.

    Args:
        seen: each tile with its detections, boxes in pixels of the image and inside the tile, masks in the tile's.
        size: (height, width) of the image, whose own borders cut nothing.
        margin: a box that comes so near to an inner border, in pixels, is cut.
        iou_threshold: of whole boxes of one class that overlap more, the weaker one goes.

    >>> left, right = Tile(0, 0, 60, 40), Tile(40, 0, 100, 40)
    >>> def found(*boxes): return Detections(torch.tensor(boxes), torch.full((len(boxes),), 0.5), torch.tensor([0]))
    >>> halves = [(left, found([20.0, 5.0, 60.0, 35.0])), (right, found([40.0, 5.0, 90.0, 35.0]))]
    >>> merge(halves, (40, 100), 1.0, 0.65).boxes.tolist()
    [[20.0, 5.0, 90.0, 35.0]]
    """
    boxes, scores, labels = (torch.cat(fields) for fields in zip(*(found for _, found in seen), strict=True))
    home = torch.tensor([number for number, (_, found) in enumerate(seen) for _ in found.scores], dtype=torch.int64)
    windows = torch.tensor([tile for tile, _ in seen], dtype=boxes.dtype)[home]  # [n,4]
    views = _Views(boxes, windows, home, _is_cut(boxes, windows, size, margin))
    kept: list[int] = []
    joined: dict[int, list[int]] = {}
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        whole, parts = rows[~views.cut[rows]], rows[views.cut[rows]]
        whole = whole[_strongest(boxes[whole], scores[whole], iou_threshold)]
        shown = torch.zeros_like(parts, dtype=torch.bool)
        shown[views.same(parts, whole)[0][:, 0]] = True
        parts = parts[~shown]
        for group in _join(views, parts):
            boxes[group[0]] = torch.cat([boxes[group, :2].amin(0), boxes[group, 2:].amax(0)])
            scores[group[0]] = scores[group].max()
            joined[group[0]] = group
            whole = torch.cat([whole, parts.new_tensor(group[:1])])
        kept += whole[_strongest(boxes[whole], scores[whole], iou_threshold)].tolist()
    rows = torch.tensor(kept, dtype=torch.int64)
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    masks = None
    if any(found.stored_masks is not None for _, found in seen):
        places = [(tile, found, row) for tile, found in seen for row in range(len(found.scores))]
        groups = [joined.get(row, [row]) for row in rows.tolist()]
        masks = JoinedMasks(size, tuple(tuple(MaskPiece.of(*places[i]) for i in group) for group in groups))
    return Detections(boxes[rows], scores[rows], labels[rows], masks)


class MaskPiece(NamedTuple):
    """What a tile shows of an object.

    Attributes:
        tile: where.
        mask: in pixels of the tile, as it is kept.
    """

    tile: Tile
    mask: Bool[Tensor, "1 height width"] | LazyMasks

    @classmethod
    def of(cls, tile: Tile, found: Detections, row: int) -> "MaskPiece":
        """The mask of one detection, by itself: those that are not used leave the memory."""
        assert found.stored_masks is not None
        return cls(tile, found.stored_masks[torch.tensor([row])])


@dataclass(frozen=True)
class JoinedMasks:
    """Masks of a large image that are put together from tiles when their pixels are asked for.

    What a tile gave is kept, of detections that are left: at 640 px 26 KB each, where 12 megapixels are 12 MB.

    Attributes:
        shape: (height, width) of the image.
        pieces: of each mask; a pixel belongs to it where a piece says so.
    """

    shape: tuple[int, int]
    pieces: tuple[tuple[MaskPiece, ...], ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pieces)

    def __getitem__(self, rows: Tensor | slice) -> "JoinedMasks":
        """Some of them."""
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        return replace(self, pieces=tuple(self.pieces[row] for row in chosen.tolist()))

    def pixels(self) -> Bool[Tensor, "masks height width"]:
        """All of them, in the host's memory."""
        masks = torch.zeros(len(self), *self.shape, dtype=torch.bool)
        for mask, pieces in zip(masks, self.pieces, strict=True):
            for tile, kept in pieces:
                seen = kept if isinstance(kept, Tensor) else kept.pixels()
                mask[tile.top : tile.bottom, tile.left : tile.right] |= seen[0].cpu()
        return masks


def _strongest(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], iou_threshold: float) -> Int[Tensor, " kept"]:
    """What NMS leaves of boxes of one class."""
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold, len(scores))


def _is_cut(
    boxes: Float[Tensor, "n 4"], windows: Float[Tensor, "n 4"], size: tuple[int, int], margin: float
) -> Bool[Tensor, " n"]:
    """Which boxes come near to a border of their tile that is none of the image."""
    height, width = size
    inner = torch.cat([windows[:, :2] > 0, windows[:, 2:] < windows.new_tensor([width, height])], 1)
    return (inner & ((boxes - windows).abs() <= margin)).any(1)


class _Views(NamedTuple):
    """Boxes of all tiles, and how far each tile sees.

    Attributes:
        boxes: in pixels of the image.
        windows: the tile of each.
        home: number of that tile.
        cut: whether the tile's border cuts the box.
    """

    boxes: Float[Tensor, "n 4"]
    windows: Float[Tensor, "n 4"]
    home: Int[Tensor, " n"]
    cut: Bool[Tensor, " n"]

    def alike(self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"]) -> Float[Tensor, "rows columns"]:
        """IoU of pairs of boxes of two tiles as far as both see; 0 in one tile, where two boxes are two objects.

        Of each box counts what lies in the other's tile, where the border of that cuts the other.  One that is not
        cut ends in its tile, and what the other box has more speaks against the two being one.
        """
        limits = self.windows.where(self.cut[:, None], self.windows.new_tensor(EVERYWHERE))
        ours = _within(self.boxes[rows, None], limits[columns])  # [rows,columns,4]
        theirs = _within(self.boxes[columns], limits[rows, None])
        return aligned_overlaps(ours, theirs) * (self.home[rows, None] != self.home[columns])

    def same(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"]
    ) -> tuple[Int[Tensor, "pairs 2"], Float[Tensor, " pairs"]]:
        """Places in ``rows`` and ``columns`` of the pairs that look the same, row by row, and how much they do."""
        places, values = [rows.new_zeros(0, 2)], [self.boxes.new_zeros(0)]
        step = max(PAIRS // max(len(columns), 1), 1)
        for start in range(0, len(rows), step):
            alike = self.alike(rows[start : start + step], columns)
            pairs = (alike >= SAME_VIEW).nonzero()
            values.append(alike[pairs[:, 0], pairs[:, 1]])
            places.append(pairs + pairs.new_tensor([start, 0]))
        return torch.cat(places), torch.cat(values)


def _within(boxes: Float[Tensor, "*#batch 4"], windows: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch 4"]:
    """What of each box lies in its window; nothing where they are apart."""
    low = boxes[..., :2].maximum(windows[..., :2])
    return torch.cat([low, boxes[..., 2:].minimum(windows[..., 2:]).maximum(low)], -1)


def _join(views: _Views, parts: Int[Tensor, " parts"]) -> list[list[int]]:
    """Groups of parts that show one object, the pairs that look most alike first; each tile adds one part at most."""
    groups = {row: [row] for row in parts.tolist()}
    pairs, alike = views.same(parts, parts)
    once = pairs[:, 0] < pairs[:, 1]
    order = alike[once].argsort(descending=True, stable=True)
    for a, b in parts[pairs[once][order]].tolist():
        first, second = groups[a], groups[b]
        if {int(views.home[row]) for row in first}.isdisjoint(int(views.home[row]) for row in second):
            first += second
            groups.update(dict.fromkeys(second, first))
    return list({id(group): group for group in groups.values()}.values())
