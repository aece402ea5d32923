import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers.augmented import grey, make_sample, painted
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.pipeline import TrainPipeline
from minirtmdet.presets import PRESETS

PLAIN = replace(PRESETS["tiny-320"].augment, min_box_size=1.0)
FULL = AugmentConfig(scale=(0.5, 2.0))


def run(sample, config=PLAIN, input_size=64, seed=0, epoch=0, position=0, epochs=300):
    """One sample of a data set of one image."""
    pipeline = TrainPipeline(config, input_size, seed, epochs)
    return pipeline(epoch, position, np.zeros(position + 1, dtype=np.int64), lambda index: sample)


def images(count=12):
    """Images of several sizes, each of its own colour with a box or two; a crowd in every third."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        height, width = rng.integers(40, 100, 2).tolist()
        boxes = [[5, 5, 30, 25]] + ([[10, 8, 39, 39]] if number % 2 else [])
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ignore = [number % 3 == 0] * len(boxes)
        samples.append(make_sample(noise, boxes, [number] * len(boxes), ignore))
    return samples


def contents(sample):
    return [getattr(sample, name).tobytes() for name in ("image", "boxes", "labels", "ignore")]


# ---- a pure function, whatever is kept


@pytest.mark.parametrize(
    "config", [PLAIN, FULL, replace(FULL, empty_crops="keep", mixup=0.5), replace(FULL, mosaic=0.0)]
)
def test_a_sample_depends_on_seed_epoch_and_position_alone(config):
    samples = images()
    before = [sample.image.copy() for sample in samples]
    order = np.random.default_rng(1).permutation(12).repeat(5)
    one = TrainPipeline(config, 64, 3, 300)
    in_order = {position: contents(one(2, position, order, samples.__getitem__)) for position in range(60)}
    # backwards, with jumps to another epoch in between, and each from nothing
    other = TrainPipeline(config, 64, 3, 300)
    for position in range(59, -1, -1):
        assert contents(other(2, position, order, samples.__getitem__)) == in_order[position]
        other(1, position, order, samples.__getitem__)
    for position in (0, 3, 4, 30, 59):
        fresh = pickle.loads(pickle.dumps(TrainPipeline(config, 64, 3, 300)))
        assert contents(fresh(2, position, order, samples.__getitem__)) == in_order[position]
    assert all((sample.image == image).all() for sample, image in zip(samples, before, strict=True))
    assert contents(one(3, 30, order, samples.__getitem__)) != in_order[30]
    assert contents(TrainPipeline(config, 64, 4, 300)(2, 30, order, samples.__getitem__)) != in_order[30]


def test_one_after_the_other_no_image_is_loaded_twice():
    samples = [painted(64, 64, (8, 8, 56, 56)) for _ in range(100)]
    loaded = Counter()

    def load(index):
        loaded[index] += 1
        return samples[index]

    pipeline = TrainPipeline(replace(FULL, empty_crops="keep"), 64, 0, 300)
    order = np.arange(100)
    for position in range(100):
        pipeline(0, position, order, load)
    # the first four are loaded as they are, and once more to be made fit
    assert set(loaded) == set(order.tolist())
    assert {index for index, count in loaded.items() if count > 1} <= {0, 1, 2, 3}
    assert sum(loaded.values()) <= 104


@pytest.mark.parametrize(
    ("preset", "workers", "together", "decoded", "made"),
    [
        ("s", 1, 1, 1.0, 1.0),
        ("s", 4, 1, 2.1, 1.3),
        ("s", 4, 2, 1.6, 1.2),
        ("tiny", 4, 1, 1.5, 1.1),
    ],
)
def test_what_workers_make_again(preset, workers, together, decoded, made, monkeypatch):
    """What the docstring says of batches of 32 that go round, so many ``together``."""
    counts = Counter()
    make = TrainPipeline._make

    def counted(*args):
        counts["made"] += 1
        return make(*args)

    def load(index):
        counts["decoded"] += 1
        return image

    monkeypatch.setattr(TrainPipeline, "_make", counted)
    image = painted(32, 32, (4, 4, 28, 28))
    pipelines = [TrainPipeline(PRESETS[f"rtmdet-{preset}"].augment, 32, 0, 300) for _ in range(workers)]
    order = np.arange(640)
    for position in range(640):
        pipelines[position // 32 // together % workers](0, position, order, load)
    assert counts["decoded"] / 640 == pytest.approx(decoded, abs=0.1)
    assert counts["made"] / 640 == pytest.approx(made, abs=0.1)


def test_what_is_kept_is_bounded():
    samples = images(200)
    pipeline = TrainPipeline(replace(FULL, mosaic_cache=7, mixup_cache=5), 64, 0, 300)
    for position in range(200):
        pipeline(0, position, np.arange(200), samples.__getitem__)
    assert (len(pipeline._fitted), len(pipeline._unmixed)) == (12, 5)
    assert max(sample.image.nbytes for sample in pipeline._fitted._samples.values()) <= 64 * 64 * 3


def test_partners_are_images_of_the_last_positions():
    samples = [make_sample(grey(64, 64), [[0, 0, 64, 64]], [number]) for number in range(60)]
    order = np.random.default_rng(0).permutation(60)
    config = replace(FULL, mosaic_cache=6, mixup_cache=3)
    pipeline = TrainPipeline(config, 64, 0, 300)
    seen = set()
    for position in range(60):
        labels = pipeline(0, position, order, samples.__getitem__).labels
        back = [position - int(np.flatnonzero(order == label)[0]) for label in labels]
        # MixUp's partner, two positions back, has partners of its own, five further
        assert all(0 <= steps <= 7 for steps in back)
        seen.update(back)
    assert seen == set(range(8))


# ---- two stages


def test_stage_2_is_the_last_epochs_and_at_most_a_fifth_of_a_short_run():
    def start(epochs, stage2_epochs=20):
        return TrainPipeline(AugmentConfig(stage2_epochs=stage2_epochs), 64, 0, epochs).stage2_start

    assert start(300) == 280
    assert start(100) == 80
    assert start(30) == 24
    assert start(12, 3) == 9
    assert start(11) == 8
    assert start(1) == 0
    assert start(50, 0) == 50
    pipeline = TrainPipeline(AugmentConfig(), 64, 0, 300)
    assert [pipeline.stage(epoch) for epoch in (0, 279, 280, 299)] == [1, 1, 2, 2]


def test_stage_2_is_the_same_without_mosaic_and_mixup():
    samples = images()
    two = TrainPipeline(FULL, 64, 0, 300)
    one = TrainPipeline(replace(FULL, mosaic=0.0, mixup=0.0), 64, 0, 300)
    order = np.arange(12)
    for position in range(12):
        last = two(299, position, order, samples.__getitem__)
        assert contents(last) == contents(one(299, position, order, samples.__getitem__))
        assert set(last.labels.tolist()) <= {position} or last.image_id == 7


def test_a_mosaic_is_seen_at_the_scale_of_one_image():
    # four full images on 128 pixels: seen whole at a factor of 0.5, each half as wide as the input
    samples = [make_sample(grey(64, 64, number), [[0, 0, 64, 64]], [number]) for number in range(40)]
    config = AugmentConfig(mixup=0.0, scale=(0.5, 0.5), hsv=(0, 0, 0))
    sizes = []
    for seed in range(20):
        sample = TrainPipeline(config, 64, seed, 300)(0, 39, np.arange(40), samples.__getitem__)
        assert sample.img_shape == (64, 64)
        whole = sample.boxes[np.all((sample.boxes > 0) & (sample.boxes < 64), axis=1)]
        sizes.extend((whole[:, 2:] - whole[:, :2]).ravel().tolist())
    assert sizes == pytest.approx([32] * len(sizes), abs=0.01)


# ---- images without boxes


def test_a_crop_without_a_box_gives_the_image_up_for_another():
    samples = [make_sample(grey(64, 64)), painted(64, 64, (0, 0, 64, 64)), make_sample(grey(32, 32))]
    samples = [replace(sample, image_id=number) for number, sample in enumerate(samples)]
    config = AugmentConfig(mosaic=0.0, mixup=0.0, hsv=(0, 0, 0))
    order = np.array([0, 2, 1, 0])
    for position in range(4):
        sample = TrainPipeline(config, 64, 0, 300)(0, position, order, samples.__getitem__)
        assert sample.image_id == 1
        assert len(sample.boxes) == 1
    kept = TrainPipeline(replace(config, empty_crops="keep"), 64, 0, 300)
    assert [kept(0, position, order, samples.__getitem__).image_id for position in range(4)] == order.tolist()


def test_a_crop_without_a_box_is_kept_where_that_is_accepted():
    sample = painted(320, 320, (0, 0, 64, 64))  # a crop of half the side seldom shows some of it
    config = AugmentConfig(mosaic=0.0, mixup=0.0, scale=(2.0, 2.0), hsv=(0, 0, 0))
    shown = {}
    for empty_crops in ("keep", "accept"):
        pipeline = TrainPipeline(replace(config, empty_crops=empty_crops), 64, 0, 300)
        shown[empty_crops] = sum(len(pipeline(0, p, np.zeros(100, int), lambda _: sample).boxes) for p in range(100))
    assert shown["keep"] > 70
    assert 5 < shown["accept"] < 40


def test_redrawing_sees_large_objects_more_often():
    # a box of a tenth of the side, and one that fills the image
    samples = [painted(320, 320, (0, 0, 32, 32)), painted(320, 320, (0, 0, 320, 320))]
    samples = [replace(sample, image_id=number) for number, sample in enumerate(samples)]
    config = AugmentConfig(mosaic=0.0, mixup=0.0, scale=(2.0, 2.0), hsv=(0, 0, 0))
    counts = {}
    for empty_crops in ("redraw", "keep"):
        pipeline = TrainPipeline(replace(config, empty_crops=empty_crops), 64, 0, 300)
        order = np.tile([0, 1], 100)
        counts[empty_crops] = sum(pipeline(0, p, order, samples.__getitem__).image_id for p in range(200))
    assert counts["keep"] == 100
    assert counts["redraw"] > 150


def test_a_data_set_without_boxes_is_an_error_that_names_the_setting():
    with pytest.raises(ValueError, match=r"1001 crops in a row .* augment\.empty_crops='keep'"):
        run(make_sample(grey(4, 4)), AugmentConfig(), 8)
    config = AugmentConfig(empty_crops="keep")
    assert run(make_sample(grey(4, 4)), config, 8, position=9).image.shape == (8, 8, 3)


# ---- boxes


@st.composite
def painted_samples(draw):
    height, width = draw(st.integers(40, 120)), draw(st.integers(40, 120))
    x1, y1 = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
    x2, y2 = draw(st.integers(x1 + 12, width)), draw(st.integers(y1 + 12, height))
    return painted(height, width, (x1, y1, x2, y2))


@settings(max_examples=150, deadline=None)
@given(painted_samples(), st.integers(0, 2**63), st.integers(0, 1000), st.integers(0, 1000), st.integers(16, 96))
def test_a_painted_rectangle_and_its_box_stay_together(sample, seed, epoch, position, input_size):
    # no HSV, so that the rectangle can be found again by its colour
    after = run(sample, replace(PLAIN, hsv=(0, 0, 0)), input_size, seed, epoch, position, epochs=1001)
    assert after.image.shape == (input_size, input_size, 3)
    found = np.argwhere((after.image[..., 1] > 152) & (after.image[..., 0] < 25))
    if not len(after.boxes):
        # a remain of at most one pixel, and a pixel for the interpolation
        assert not len(found) or np.ptp(found, axis=0).min() <= 1
        return
    y1, x1 = found.min(axis=0)
    y2, x2 = found.max(axis=0) + 1
    np.testing.assert_allclose(after.boxes, [[x1, y1, x2, y2]], atol=1.0)


# a bit a channel: on black, and half as bright on each other, every colour shows which objects are there
COLOURS = [tuple(255 * (number >> bit & 1) for bit in range(3)) for number in range(1, 8)]
BLUR = 4
"""Pixels on either side of an edge that are not looked at."""


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]), st.integers(0, 60))
def test_painted_rectangles_stay_with_their_boxes_through_stage_1(seed, mixup, position):
    """Every pixel of an object lies in a box of its label, and every box is full of its object."""
    rng = np.random.default_rng(seed)
    samples = []
    for number, colour in enumerate(COLOURS):
        height, width = rng.integers(50, 130, 2).tolist()
        image = np.zeros((height, width, 3), np.uint8)
        x, y = int(rng.integers(0, width - 30)), int(rng.integers(0, height - 30))
        box = [x, y, x + int(rng.integers(20, width - x + 1)), y + int(rng.integers(20, height - y + 1))]
        image[box[1] : box[3], box[0] : box[2]] = colour
        samples.append(make_sample(image, [box], [number], [number == 3]))
    config = AugmentConfig(mixup=mixup, scale=(0.5, 2.0), hsv=(0, 0, 0), stage2_epochs=0)
    order = rng.integers(0, len(COLOURS), position + 1)
    after = TrainPipeline(config, 96, seed, 10)(0, position, order, samples.__getitem__)
    assert after.image.shape == (96, 96, 3)
    assert (after.boxes >= 0).all()
    assert (after.boxes <= 96).all()
    assert ((after.labels == 3) == after.ignore).all()
    shown = np.zeros((96, 96, 3), bool)
    level = 120 if mixup else 230
    inwards = np.array([BLUR, BLUR, -BLUR, -BLUR])
    for label, (x1, y1, x2, y2) in zip(after.labels, after.boxes, strict=True):
        # interpolation blurs edges, and pixels are rounded down where boxes are not
        box = np.array([x1, y1, x2, y2]).round().astype(int)
        left, top, right, bottom = np.clip(box + inwards, 0, None).tolist()
        channels = np.array(COLOURS[label]) > 0
        assert (after.image[top:bottom, left:right, channels] >= level).all()
        left, top, right, bottom = np.clip(box - inwards, 0, None).tolist()
        shown[top:bottom, left:right] |= channels
    # what is grey throughout is padding
    stray = (after.image >= level) & ~shown & (np.ptp(after.image, axis=-1) > 2)[..., None]
    assert not stray.any()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1), st.floats(0.001, 1)), max_size=6),
    st.integers(20, 200),
    st.integers(20, 200),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.booleans(),
)
def test_no_box_outside_the_image_none_small_and_columns_stay_aligned(boxes, height, width, seed, smallest, mixed):
    scale = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.array([[x, y, min(x + w, 1), min(y + h, 1)] for x, y, w, h in boxes], dtype=np.float32).reshape(-1, 4)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    ignore = np.arange(len(boxes)) % 2 == 1
    sample = make_sample(grey(height, width), boxes * scale, ignore=ignore)
    config = AugmentConfig(min_box_size=smallest, empty_crops="keep", mosaic=float(mixed), mixup=float(mixed))
    after = run(sample, config, 64, seed, position=seed % 50)
    assert (after.boxes >= 0).all()
    assert (after.boxes[:, 0::2] <= after.img_shape[1]).all()
    assert (after.boxes[:, 1::2] <= after.img_shape[0]).all()
    assert (after.boxes[:, 2:] - after.boxes[:, :2] > smallest).all()
    assert len(after.boxes) == len(after.labels) == len(after.ignore)
    assert (after.ignore == ignore[after.labels]).all()


def test_the_pipeline_flips_with_its_probability():
    sample = painted(64, 64, (0, 0, 20, 20))

    def flipped(probability):
        config = replace(PLAIN, scale=(1.0, 1.0), hsv=(0, 0, 0), flip=probability)
        return sum(run(sample, config, position=i).boxes[0, 0] > 0 for i in range(100))

    assert flipped(0.0) == 0
    assert flipped(1.0) == 100
    assert 35 < flipped(0.5) < 65


def test_the_plain_pipeline_loads_what_the_order_says_and_nothing_else():
    loaded = []

    def load(index):
        loaded.append(index)
        return painted(64, 64, (0, 0, 20, 20))

    TrainPipeline(PLAIN, 64, 0, 300)(0, 2, np.array([4, 0, 3, 1]), load)
    assert loaded == [3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AugmentConfig(scale=(2.0, 0.5)), "augment.scale"),
        (AugmentConfig(scale=(0.0, 1.0)), "augment.scale"),
        (AugmentConfig(hsv=(-1, 0, 0)), "augment.hsv"),
        (AugmentConfig(flip=1.5), "augment.flip"),
        (AugmentConfig(mosaic=-0.1), "augment.mosaic is"),
        (AugmentConfig(mixup=1.1), "augment.mixup is"),
        (AugmentConfig(mosaic_cache=4), "augment.mosaic_cache is 4: expected at least 5"),
        (AugmentConfig(mixup_cache=1), "augment.mixup_cache is 1: expected at least 2"),
        (AugmentConfig(stage2_epochs=-1), "augment.stage2_epochs"),
        (AugmentConfig(min_box_size=-1.0), "augment.min_box_size"),
    ],
)
def test_settings_that_make_no_sense_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        TrainPipeline(config, 64, 0, 1)


def test_sizes_seeds_and_lengths_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="input_size is 0"):
        TrainPipeline(AugmentConfig(), 0, 0, 1)
    with pytest.raises(ValueError, match="seed is -1"):
        TrainPipeline(AugmentConfig(), 64, -1, 1)
    with pytest.raises(ValueError, match="epochs is 0"):
        TrainPipeline(AugmentConfig(), 64, 0, 0)
