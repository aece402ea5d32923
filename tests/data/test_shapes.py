"""Shapes: where they lie after whatever was done to their image, and the pixels and boxes that they become."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers.augmented import grey, make_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.augment import crop, eval_sample, flip, resize
from minirtmdet.data.loader import collate
from minirtmdet.data.masks import draw_polygons
from minirtmdet.data.mosaic import CachedMixUp, CachedMosaic
from minirtmdet.data.pipeline import TrainPipeline
from minirtmdet.data.shapes import Bitmap, Shapes, cut_polygon
from minirtmdet.masks import center_of_mass, subsample

EVERYWHERE = (10**6, 10**6)
L_SHAPE = np.array([[0, 0], [10, 0], [10, 30], [40, 30], [40, 40], [0, 40]], dtype=float)


def window(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def seen_through(source, box) -> Shapes:
    """One shape, cut off at a window."""
    return replace(Shapes.of([source], EVERYWHERE), window=np.array([box], dtype=float))


def boxes_of(shapes: Shapes) -> list[list[float]]:
    return shapes.boxes(np.zeros((len(shapes), 4))).tolist()


def pixels_of(shapes: Shapes, size: tuple[int, int]) -> np.ndarray:
    """The first shape at full size, by a shape of four times the size, of which every fourth pixel is kept."""
    # a cell of the shape four times as large and moved by two pixels is a pixel of the shape
    large = shapes.scaled(4, 4)
    return large.draw((4 * size[0], 4 * size[1])).cells[0]


# ---- by hand


def test_a_triangle_over_the_border_keeps_its_slope():
    """Where MMDetection's translate moves the vertex (-10, 0) to (0, 0): of 150 square pixels it then shows 100."""
    triangle = np.array([[-10.0, 0.0], [10.0, 0.0], [10.0, 20.0]])
    cut = cut_polygon(triangle, window(0, 0, 20, 20))
    assert cut.tolist() == [[0, 0], [0, 0], [10, 0], [10, 20], [0, 10]]
    x, y = cut.T
    assert abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2 == 150


def test_a_shape_inside_is_not_touched_and_one_outside_vanishes():
    assert cut_polygon(L_SHAPE, window(0, 0, 40, 40)) is L_SHAPE
    for box in ((41, 0, 50, 50), (0, 41, 50, 50), (-9, -9, 0, 50)):
        shapes = seen_through((L_SHAPE,), box)
        ((x1, y1, x2, y2),) = boxes_of(shapes)
        assert x1 == x2 or y1 == y2
        assert not shapes.draw((64, 64)).areas.any()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 40, 40), [0, 0, 40, 40]),
        ((5, 5, 60, 60), [5, 5, 40, 40]),
        ((5, -9, 30, 20), [5, 0, 10, 20]),  # a corner of the window lies in its stem
        ((2, 31, 9, 39), [2, 31, 9, 39]),  # all of the window does
        ((12, 2, 39, 28), [0, 0, 0, 0]),  # into its hollow, where its box still is
        ((10, 0, 60, 30), [0, 0, 0, 0]),  # what touches it shows nothing
        ((9, 0, 60, 31), [9, 0, 40, 31]),
    ],
)
@pytest.mark.parametrize("kind", ["polygon", "bitmap", "two polygons"])
def test_the_box_of_what_is_left(box, expected, kind):
    sources = {
        "polygon": (L_SHAPE,),
        "bitmap": Bitmap(draw_polygons([L_SHAPE], (40, 40)), (0, 0)),
        "two polygons": (
            np.array([[0, 0], [10, 0], [10, 40], [0, 40]], dtype=float),
            np.array([[10, 30], [40, 30], [40, 40], [10, 40]], dtype=float),
        ),
    }
    assert boxes_of(seen_through(sources[kind], box)) == [expected]


def test_everything_done_to_an_image_is_done_to_its_shapes():
    for source in ((L_SHAPE,), Bitmap(draw_polygons([L_SHAPE], (40, 40)), (0, 0))):
        shapes = Shapes.of([source], (50, 60)).scaled(2, 3).moved(-4, 6).mirrored(100).cut((120, 100))
        # x' = 100 - (2 x - 4), y' = 3 y + 6
        assert boxes_of(shapes) == [[24, 6, 100, 120]]
        drawn = shapes.draw((120, 100))
        expected = draw_polygons([np.stack([104 - 2 * L_SHAPE[:, 0], 3 * L_SHAPE[:, 1] + 6], 1)], (200, 200))[
            :120, :100
        ]
        assert (drawn.cells[0] == expected[2::4, 2::4]).all()
        assert drawn.areas.tolist() == [expected.sum()]


def test_an_image_ends_at_its_border_wherever_it_lies():
    """A polygon that reaches over its image shows nothing of itself in the neighbour of a mosaic."""
    over = np.array([[-20, 10], [90, 10], [90, 20], [-20, 20]], dtype=float)
    shapes = Shapes.of([(over,)], (30, 40)).scaled(0.5, 0.5).moved(10, 0)
    assert boxes_of(shapes) == [[10, 5, 30, 10]]
    assert shapes.draw((32, 64)).areas.tolist() == [20 * 5]


def test_a_shape_that_is_not_known_keeps_its_box_and_draws_nothing():
    shapes = Shapes.of([(), (L_SHAPE,)], (50, 50))
    given_boxes = np.array([[1.0, 2, 3, 4], [9, 9, 9, 9]])
    assert shapes.boxes(given_boxes).tolist() == [[1, 2, 3, 4], [0, 0, 40, 40]]
    assert shapes.draw((48, 48)).areas.tolist() == [0, 700]
    assert len(shapes.select(np.array([False, True]))) == 1
    assert Shapes.of([], (50, 50)).draw((48, 48)).cells.shape == (0, 12, 12)


# ---- against drawing all of it


@st.composite
def polygons(draw):
    """Three to nine vertices of any order: edges may cross."""
    count = draw(st.integers(3, 9))
    numbers = st.one_of(st.integers(-40, 120), st.floats(-40, 120))
    return np.array(draw(st.lists(st.tuples(numbers, numbers), min_size=count, max_size=count)), dtype=float)


@settings(max_examples=300, deadline=None)
@given(polygons(), st.integers(20, 80), st.integers(20, 80))
def test_what_a_window_shows_is_what_a_larger_image_shows_of_it(polygon, height, width):
    """But for pixels at an edge: edges are drawn on a grid of a fifth of a pixel, from where they begin."""
    everything = draw_polygons([polygon + 40], (160, 160))
    expected = everything[40 : 40 + height, 40 : 40 + width]
    shapes = seen_through((polygon,), (0, 0, width, height))
    found = np.zeros((height, width), dtype=bool)
    x1, y1, x2, y2 = boxes_of(shapes)[0]
    left, top, right, bottom = (int(v) for v in (np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)))
    if left < right and top < bottom:
        found[top:bottom, left:right] = shapes._pixels(0, (left, top, right, bottom))
    assert (found ^ expected).sum() <= 10 * len(polygon)
    drawn = shapes.draw((height, width))
    pixels = torch.from_numpy(found)[None]
    assert (drawn.cells == subsample(pixels).numpy()).all()
    assert (drawn.centers == center_of_mass(pixels).numpy()).all()
    assert drawn.areas[0] == found.sum()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(-60, 30), st.integers(-60, 30), st.integers(1, 70), st.integers(1, 70),
    st.booleans(),
)  # fmt: skip
def test_a_bitmap_moves_pixel_by_pixel(seed, x, y, height, width, mirrored):
    rng = np.random.default_rng(seed)
    bitmap = rng.random(tuple(rng.integers(1, 60, 2))) < rng.random()
    bitmap[0, 0] = bitmap[-1, -1] = True
    canvas = np.zeros((200, 200), dtype=bool)
    canvas[60 + y : 60 + y + bitmap.shape[0], 60 + x : 60 + x + bitmap.shape[1]] = bitmap
    expected = canvas[60 : 60 + height, 60 : 60 + width]
    shapes = Shapes.of([Bitmap(bitmap, (0, 0))], EVERYWHERE).moved(x, y).cut((height, width))
    if mirrored:
        expected, shapes = expected[:, ::-1], shapes.mirrored(width)
    drawn = shapes.draw((height, width))
    assert drawn.areas[0] == expected.sum()
    assert (drawn.cells[0] == expected[2::4, 2::4]).all()
    (box,) = boxes_of(shapes)
    if expected.any():
        columns, rows = np.flatnonzero(expected.any(0)), np.flatnonzero(expected.any(1))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    else:
        assert box[0] == box[2] or box[1] == box[3]


# ---- transforms of samples


def with_shape(image, source, ignore=False):
    shapes = Shapes.of([source], image.shape[:2])
    boxes = shapes.boxes(np.array([[2.0, 2, 9, 9]])).astype(np.float32)
    return replace(make_sample(image, boxes, [0], [ignore]), shapes=shapes)


def test_boxes_change_at_a_crop_alone():
    """As MMDetection's recompute_bbox: elsewhere a box that is not tight stays as it is."""
    sample = with_shape(grey(50, 60), (L_SHAPE,))
    sample = replace(sample, boxes=np.array([[0, 0, 44, 44]], dtype=np.float32))
    assert flip(resize(sample, 120)).boxes.tolist() == [[32, 0, 120, 88]]
    assert crop(sample, (0, 0), 48).boxes.tolist() == [[0, 0, 40, 40]]
    assert crop(sample, (5, 5), 20).boxes.tolist() == [[0, 0, 5, 20]]


def test_a_crop_into_the_hollow_of_an_object_drops_it_and_its_box():
    """RTMDet-Ins-tiny keeps a box of 27 x 26 there, around nothing, with an empty mask."""
    cropped = crop(with_shape(grey(50, 60), (L_SHAPE,)), (12, 2), 26)
    assert len(cropped.boxes) == len(cropped.labels) == len(cropped.shapes) == 0


def test_an_ignore_region_is_cut_like_any_box():
    cropped = crop(with_shape(grey(50, 60), (), ignore=True), (5, 5), 26)
    assert cropped.boxes.tolist() == [[0, 0, 4, 4]]
    assert cropped.ignore.tolist() == [True]


def test_a_detector_of_boxes_has_no_shapes_anywhere():
    sample = make_sample(grey(50, 60), [[0, 0, 40, 40]])
    mosaic = CachedMosaic(32, 1.0, 40)
    canvas = mosaic.mix([sample] * 4, (30, 30))
    mixed = CachedMixUp(1.0, 20).mix(canvas, canvas, True)
    for changed in (resize(sample, 30), crop(sample, (3, 3), 20), flip(sample), canvas, mixed):
        assert changed.shapes is None
    assert collate([sample], 1).ground_truth.masks.shape[2:] == (0, 0)
    assert eval_sample(with_shape(grey(50, 60), (L_SHAPE,)), 64).shapes is None


def test_shapes_follow_pixels_where_a_mosaic_rounds_them_down():
    """A square of 500 x 333 pixels in a mosaic of 640: boxes follow the factor before rounding, shapes the pixels."""
    whole = np.array([[0, 0], [333, 0], [333, 500], [0, 500]], dtype=float)
    sample = CachedMosaic(640, 1.0, 40).fit(with_shape(grey(500, 333), (whole,)))
    assert sample.img_shape == (640, 426)
    assert boxes_of(sample.shapes) == [[0, 0, 426, 640]]


def test_a_change_of_ones_own_leaves_each_box_its_shape():
    sample = with_shape(grey(64, 64), (L_SHAPE,))
    config = AugmentConfig(mosaic=0.0, mixup=0.0, scale=(1.0, 1.0), hsv=(0, 0, 0), flip=0.0)

    def twice(sample, rng):
        return replace(sample, boxes=np.tile(sample.boxes, (2, 1)), labels=np.zeros(2, int), ignore=np.zeros(2, bool))

    def run(change):
        return TrainPipeline(config, 64, 0, 300, change)(0, 0, np.zeros(1, int), lambda _: sample)

    with pytest.raises(ValueError, match=r"twice makes of .* a sample with 2 boxes without a shape each"):
        run(twice)
    mirrored = run(lambda sample, rng: flip(sample))
    assert mirrored.boxes.tolist() == boxes_of(mirrored.shapes) == [[24, 0, 64, 40]]


# ---- batches


def test_a_batch_has_masks_and_their_centres():
    sample = with_shape(grey(64, 64), (L_SHAPE,))
    truth = collate([sample, replace(sample, boxes=sample.boxes, shapes=sample.shapes.moved(8, 4))], 1).ground_truth
    full = torch.zeros(2, 64, 64, dtype=torch.bool)
    full[0, :40, :10] = full[0, 30:40, :40] = full[1, 4:44, 8:18] = full[1, 34:44, 8:48] = True
    assert truth.masks.shape == (2, 4, 16, 16)
    assert torch.equal(truth.masks[:, 0], subsample(full))
    assert not truth.masks[:, 1:].any()
    assert torch.equal(truth.centers[:, 0], center_of_mass(full))


def test_what_no_pixel_shows_is_left_out_with_its_box_and_what_no_cell_shows_stays():
    sliver = np.array([[10.6, 10], [10.9, 10], [10.9, 30], [10.6, 30]])
    between = np.array([[4, 4], [6, 4], [6, 6], [4, 6]], dtype=float)  # cells are pixels 2, 6, 10, ...
    samples = [with_shape(grey(64, 64), (source,)) for source in (sliver, between, L_SHAPE)]
    truth = collate(samples, 1).ground_truth
    assert truth.mask.sum(1).tolist() == [0, 1, 1]
    assert truth.masks.flatten(1).any(1).tolist() == [False, False, True]
    assert truth.centers[1, 0].tolist() == [4.5, 4.5]


def test_an_ignore_region_has_the_centre_of_its_box():
    sample = with_shape(grey(64, 64), (), ignore=True)
    truth = collate([sample], 1).ground_truth
    assert truth.ignore.sum() == 1
    assert truth.centers[0, 0].tolist() == [5.5, 5.5]


# ---- a painted shape and its mask stay together through any chain

# a bit a channel: on black, and half as bright on each other, every colour shows which objects are there
COLOURS = [tuple(255 * (number >> bit & 1) for bit in range(3)) for number in range(1, 8)]


def star(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A polygon around a place in the image, with dents, that may reach over its border."""
    angles = np.sort(rng.random(int(rng.integers(5, 12)))) * 2 * np.pi
    radii = rng.uniform(0.15, 0.6) * max(height, width) * rng.uniform(0.5, 1, len(angles))
    center = rng.uniform(0.2, 0.8, 2) * [width, height]
    return center + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def painted(rng: np.random.Generator, number: int):
    """A star of the number's colour on black, with its mask as a polygon or as pixels."""
    height, width = rng.integers(50, 130, 2).tolist()
    polygon = star(rng, height, width)
    inside = cut_polygon(polygon, window(0, 0, width, height))
    pixels = draw_polygons([inside], (height, width))
    image = np.zeros((height, width, 3), np.uint8)
    image[pixels] = COLOURS[number]
    source = Bitmap(pixels, (0, 0)) if number % 2 else (polygon,)
    shapes = Shapes.of([source], (height, width))
    boxes = shapes.boxes(np.zeros((1, 4))).astype(np.float32)
    return replace(make_sample(image, boxes, [number]), shapes=shapes)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), st.integers(0, 60),
    st.sampled_from([1.0, 0.0]),
)  # fmt: skip
def test_painted_shapes_stay_with_their_masks(seed, mosaic, mixup, position, flipped):
    rng = np.random.default_rng(seed)
    samples = [painted(rng, number) for number in range(len(COLOURS))]
    settings_ = {"scale": (0.5, 2.0), "hsv": (0, 0, 0), "stage2_epochs": 0, "empty_crops": "keep", "flip": flipped}
    config = AugmentConfig(mosaic=mosaic, mixup=mixup, **settings_)
    order = rng.integers(0, len(COLOURS), position + 1)
    side = 96
    after = TrainPipeline(config, side, seed, 10)(0, position, order, samples.__getitem__)
    truth = collate([after], len(COLOURS)).ground_truth
    at_cells = after.image[2::4, 2::4]
    shown = np.zeros((*at_cells.shape[:2], 3), dtype=bool)
    level = 120 if mixup else 230
    square = np.ones((3, 3), dtype=np.uint8)  # a cell on each side: interpolation blurs edges
    objects = truth.mask[0]
    for label, mask, box in zip(
        truth.labels[0, objects], truth.masks[0, objects], truth.boxes[0, objects], strict=True
    ):
        cells = mask.numpy().view(np.uint8)
        channels = np.array(COLOURS[label]) > 0
        core = cv2.erode(cells, square, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
        # all but a cell now and then at a dent too narrow for the cells around
        assert (at_cells[core][:, channels] < level).any(1).sum() <= 0.02 * core.sum() + 1
        shown |= cv2.dilate(cells, square).astype(bool)[..., None] & channels
        # the box ends where the mask does, to a cell
        rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
        if len(rows):
            x1, y1, x2, y2 = box.tolist()
            assert x1 <= 4 * columns[0] + 3
            assert y1 <= 4 * rows[0] + 3
            assert x2 >= 4 * columns[-1] + 2
            assert y2 >= 4 * rows[-1] + 2
    # what is grey throughout is padding; what no cell around shows is narrower than a cell
    stray = (at_cells >= level) & ~shown & (np.ptp(at_cells, axis=-1) > 2)[..., None]
    assert not cv2.erode(stray.any(-1).astype(np.uint8), square).any()
    assert stray.mean() < 0.02
