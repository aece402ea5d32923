"""Tiles are held to a detector that is never wrong: it finds every rectangle of one colour that it is shown."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from helpers.weights import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet import build_detector
from minirtmdet.configs import INS_PREDICT, PredictConfig
from minirtmdet.data.tile_grid import Tile, tile_grid
from minirtmdet.inference.detect import detect
from minirtmdet.inference.tiles import JoinedMasks, Tiles, detect_in_tiles, merge
from minirtmdet.structures import Detections

SIZE = 64
GREY = 114


class Oracle:
    """Finds rectangles: the class is the colour, the score grows with the area."""

    device = torch.device("cpu")

    def __init__(self, *, masks: bool = False) -> None:
        self.batches: list[int] = []
        self.masks = masks

    def predict(self, images, config=PredictConfig(), img_shapes=None, scale_factors=None) -> list[Detections]:
        self.batches.append(len(images))
        triples = zip(images.permute(0, 2, 3, 1).numpy()[..., 0], img_shapes, scale_factors, strict=True)
        return [self.look(pixels, shape, scale) for pixels, shape, scale in triples]

    def look(self, pixels: np.ndarray, shape: tuple[int, int], scale: tuple[float, float]) -> Detections:
        rows = []
        for label in (0, 1):
            count, parts, stats, _ = cv2.connectedComponentsWithStats((pixels == 200 + label).astype(np.uint8))
            rows += [
                ([x, y, x + w, y + h], label, area, parts == i)
                for i, (x, y, w, h, area) in enumerate(stats[1:count].tolist(), 1)
            ]
        rows.sort(key=lambda row: -row[2])
        masks = None
        if self.masks:
            height, width = shape
            size = round(width / scale[0]), round(height / scale[1])
            seen = [cv2.resize(row[3][:height, :width].astype(np.uint8), size, interpolation=0) > 0 for row in rows]
            masks = torch.from_numpy(np.stack(seen)) if seen else torch.zeros(0, *size[::-1], dtype=torch.bool)
        boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4) / torch.tensor([*scale, *scale])
        scores = torch.tensor([0.1 + 0.9 * min(row[2] / SIZE**2, 1) for row in rows])
        return Detections(boxes.float(), scores.float(), torch.tensor([row[1] for row in rows]).long(), masks)


def scene(width: int, height: int, things: list[tuple[tuple[int, int, int, int], int]]) -> np.ndarray:
    image = np.full((height, width, 3), GREY, np.uint8)
    for (x1, y1, x2, y2), label in things:
        image[y1:y2, x1:x2] = 200 + label
    return image


def as_set(found: Detections) -> set[tuple]:
    return {(*box, label) for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [
        (64, 64, 16, [0]),
        (40, 64, 16, [0]),
        (65, 64, 16, [0, 1]),
        (112, 64, 16, [0, 48]),
        (113, 64, 16, [0, 24, 49]),
        (128, 64, 0, [0, 64]),
    ],
)
def test_tiles_cover_an_image_and_overlap_enough(length: int, size: int, overlap: int, expected: list[int]):
    for width, height in ((length, 30), (30, length)):
        grid = tile_grid(width, height, size, overlap)
        starts = [tile.left if width == length else tile.top for tile in grid]
        assert starts == expected
    assert grid[-1].bottom == length
    assert all(b.top - a.top <= size - overlap for a, b in pairwise(grid))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_small_objects_are_found_as_in_the_whole_image(data: st.DataObject):
    """Exactly: the same boxes and classes, each once, wherever tiles cut."""
    overlap = data.draw(st.sampled_from([0.25, 0.5]))
    side = int(overlap * SIZE)
    width, height = (data.draw(st.integers(SIZE, 4 * SIZE)) for _ in range(2))
    things = []
    for left in range(0, width - side, side + 3):  # one thing in each cell, none touching another
        for top in range(0, height - side, side + 3):
            if data.draw(st.booleans()):
                w, h = (data.draw(st.integers(1, side)) for _ in range(2))
                things.append(((left, top, left + w, top + h), data.draw(st.integers(0, 1))))
    found = detect_in_tiles(
        Oracle(), scene(width, height, things), input_size=SIZE, tiles=Tiles(overlap=overlap, whole=False)
    )
    assert as_set(found) == {(*map(float, box), label) for box, label in things}
    assert len(found.scores) == len(things)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_long_objects_are_joined_from_what_each_tile_sees():
    things = [((10, 10, 190, 40), 0), ((10, 60, 40, 150), 1), ((60, 60, 180, 170), 0)]
    image = scene(200, 180, things)
    joined = detect_in_tiles(Oracle(), image, input_size=SIZE, tiles=Tiles(whole=False))
    assert as_set(joined) == {(*map(float, box), label) for box, label in things[:2]} | {(60.0, 60.0, 180.0, 170.0, 0)}
    # without an overlap there is nothing to compare, and pieces stay pieces
    image = scene(3 * SIZE, 3 * SIZE, things)
    pieces = detect_in_tiles(Oracle(), image, input_size=SIZE, tiles=Tiles(overlap=0.0, whole=False))
    assert len(pieces.scores) > len(things)


def test_the_whole_image_gives_what_is_longer_than_the_overlap():
    things = [((0, 0, 200, 180), 0), ((20, 20, 28, 28), 1)]
    model = Oracle()
    found = detect_in_tiles(model, scene(200, 180, things), input_size=SIZE, tiles=Tiles(batch_size=3))
    assert len(found.scores) == 2
    torch.testing.assert_close(found.boxes[found.labels == 1], torch.tensor([[20.0, 20.0, 28.0, 28.0]]))
    torch.testing.assert_close(found.boxes[found.labels == 0], torch.tensor([[0.0, 0.0, 200.0, 180.0]]), atol=4, rtol=0)
    assert model.batches == [3, 3, 3, 3, 3, 1, 1]  # at most three tiles together, then the whole image


def test_an_image_that_fits_is_looked_at_once():
    model = Oracle()
    found = detect_in_tiles(model, scene(64, 50, [((10, 10, 30, 40), 1)]), input_size=SIZE)
    assert as_set(found) == {(10.0, 10.0, 30.0, 40.0, 1)}
    assert model.batches == [1]


A, B = Tile(0, 0, 60, 40), Tile(40, 0, 100, 40)


def found(*rows: tuple[tuple[float, float, float, float], float]) -> Detections:
    boxes = torch.tensor([box for box, _ in rows]).reshape(-1, 4).float()
    return Detections(boxes, torch.tensor([score for _, score in rows]).float(), torch.zeros(len(rows)).long())


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        # a whole box and what the other tile sees of it
        ([((30, 5, 55, 35), 0.5)], [((40, 5, 55, 35), 0.9)], [(30, 5, 55, 35)]),
        # a neighbour that the other tile sees whole is another object, however near
        ([((20, 5, 43, 35), 0.9)], [((43, 5, 66, 35), 0.8)], [(20, 5, 43, 35), (43, 5, 66, 35)]),
        # of two in a row the second begins where the first ends, close to the border of its tile
        ([((10, 5, 42, 35), 0.9)], [((41, 5, 90, 35), 0.8)], [(10, 5, 42, 35), (41, 5, 90, 35)]),
        # halves that meet at other heights belong to two objects
        ([((20, 0, 60, 18), 0.9)], [((40, 22, 90, 40), 0.8)], [(20, 0, 60, 18), (40, 22, 90, 40)]),
        # two in one tile are two: only the better fit is joined
        (
            [((20, 5, 60, 35), 0.9), ((25, 12, 60, 40), 0.8)],
            [((40, 5, 90, 35), 0.7)],
            [(20, 5, 90, 35), (25, 12, 60, 40)],
        ),
        # the same whole box twice
        ([((42, 5, 57, 35), 0.9)], [((42, 6, 57, 35), 0.8)], [(42, 5, 57, 35)]),
        ([], [], []),
        ([], [((40, 5, 90, 35), 0.7)], [(40, 5, 90, 35)]),
    ],
)
def test_what_two_tiles_saw_becomes_one_set(left: list, right: list, expected: list):
    merged = merge([(A, found(*left)), (B, found(*right))], (40, 100), 1.0, 0.65)
    assert [tuple(box) for box in merged.boxes.tolist()] == expected


def test_many_boxes_are_compared_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """With the same result."""
    random = torch.Generator().manual_seed(0)
    tiles = tile_grid(200, 180, SIZE, 16)
    seen = []
    for tile in tiles:
        corner = torch.rand(40, 2, generator=random) * 40
        boxes = torch.cat([corner, (corner + 8 + 30 * torch.rand(40, 2, generator=random)).clamp(max=SIZE)], 1)
        origin = torch.tensor([tile.left, tile.top] * 2)
        seen.append((tile, Detections(boxes + origin, torch.rand(40, generator=random), torch.arange(40) % 2)))
    expected = merge(seen, (180, 200), 1.0, 0.65)
    monkeypatch.setattr("minirtmdet.inference.tiles.PAIRS", 100)
    found = merge(seen, (180, 200), 1.0, 0.65)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert 100 < len(found.scores) < 40 * len(tiles)


def test_classes_are_merged_apart():
    one, other = found(((20, 5, 60, 35), 0.9)), found(((40, 5, 90, 35), 0.8))
    merged = merge([(A, one), (B, Detections(other.boxes, other.scores, torch.tensor([1])))], (40, 100), 1.0, 0.65)
    assert as_set(merged) == {(20.0, 5.0, 60.0, 35.0, 0), (40.0, 5.0, 90.0, 35.0, 1)}


def of_each(found: Detections) -> dict[tuple, np.ndarray]:
    """The pixels of each box."""
    assert found.masks is not None
    return dict(zip((tuple(box) for box in found.boxes.tolist()), found.masks.numpy(), strict=True))


def test_masks_are_put_together_from_what_each_tile_sees():
    """Of objects within a tile, of those that two or four tiles see, and of what the whole image alone shows."""
    things = [((10, 10, 20, 25), 0), ((50, 10, 190, 40), 0), ((40, 60, 70, 150), 1), ((90, 60, 180, 170), 0)]
    image = scene(200, 180, things)
    # no rectangles: a part of each is taken out
    image[10:30, 100:120] = image[60:80, 90:110] = image[150:170, 140:180] = GREY
    for whole in (False, True):
        found = detect_in_tiles(Oracle(masks=True), image, input_size=SIZE, tiles=Tiles(whole=whole))
        assert len(found.scores) == len(things)
        # what is picked, and in blocks, is the same
        parts = [found.pick(rows) for rows in (torch.tensor([2, 0]), torch.arange(4) > 2, slice(1, 3), slice(0, 0))]
        assert all(isinstance(part.stored_masks, JoinedMasks) for part in parts)
        blocks = [torch.cat([part.masks[:0], *part.mask_blocks()]) for part in parts]
        masks = of_each(found)
        for block, rows in zip(blocks, ([2, 0], [3], [1, 2], []), strict=True):
            torch.testing.assert_close(block, found.masks[rows])
        for box, label in things[:1] if whole else things:
            x1, y1, x2, y2 = box
            expected = np.zeros((180, 200), bool)
            expected[y1:y2, x1:x2] = image[y1:y2, x1:x2, 0] == 200 + label
            np.testing.assert_array_equal(masks[box], expected)


def test_masks_of_a_network_are_those_of_its_tiles():
    """Logits stay logits until they are asked for, as in one image."""
    torch.manual_seed(0)
    model = build_detector(replace(SMALL, masks=True)).eval()
    image = np.random.default_rng(0).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    config = replace(INS_PREDICT, score_threshold=0.0, max_per_image=5)
    found = detect_in_tiles(model, image, config, input_size=SIZE, tiles=Tiles(whole=False))
    assert isinstance(found.stored_masks, JoinedMasks)
    known = {}
    for x in (0, 36):
        (one,) = detect(model, [np.ascontiguousarray(image[:, x : x + SIZE])], config, input_size=SIZE)
        boxes = one.boxes + torch.tensor([x, 0, x, 0])
        known |= {(x, *box): mask for box, mask in zip(boxes.tolist(), one.masks, strict=True)}
    alone = [(i, pieces[0].tile.left) for i, pieces in enumerate(found.stored_masks.pieces) if len(pieces) == 1]
    assert alone
    for i, x in alone:
        expected = known[x, *found.boxes[i].tolist()]
        torch.testing.assert_close(found.masks[i, :, x : x + SIZE], expected)
        assert found.masks[i].sum() == expected.sum()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"tiles\.overlap is 1\.0: expected a number from 0 to 0\.9"):
        Tiles(overlap=1.0)
    with pytest.raises(ValueError, match=r"tiles\.batch_size is 0"):
        Tiles(batch_size=0)
