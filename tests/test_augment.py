from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.augment import (
    PAD_VALUE,
    Sample,
    TrainPipeline,
    crop,
    draw_corner,
    draw_hsv_gains,
    draw_side,
    drop_small_boxes,
    eval_sample,
    flip,
    hsv,
    pad,
    resize,
    sample_rng,
)

RECORDED = np.load(Path(__file__).parent / "parity" / "fixtures" / "augment.npz")


def make_sample(image, boxes=(), labels=None, ignore=None) -> Sample:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Sample(
        image=image,
        boxes=boxes,
        labels=np.arange(len(boxes)) if labels is None else np.array(labels),
        ignore=np.zeros(len(boxes), dtype=bool) if ignore is None else np.array(ignore),
        image_id=7,
        path=Path("seven.png"),
        original_size=image.shape[:2],
        img_shape=image.shape[:2],
    )


def grey(height, width, value=50):
    return np.full((height, width, 3), value, dtype=np.uint8)


def recorded_sample() -> Sample:
    return make_sample(RECORDED["picture"], RECORDED["boxes"], [0, 1, 2], [False, True, False])


def assert_like_mmdet(sample: Sample, name: str):
    assert sample.image.shape == RECORDED[f"{name}/image"].shape
    # equal to the bit with the OpenCV that made the fixture (4.11); others round colours by up to one level
    difference = sample.image.astype(int) - RECORDED[f"{name}/image"]
    assert np.abs(difference).max() <= 1
    np.testing.assert_allclose(sample.boxes, RECORDED[f"{name}/boxes"], rtol=1e-6)
    assert sample.labels.tolist() == RECORDED[f"{name}/labels"].tolist()
    assert sample.ignore.tolist() == RECORDED[f"{name}/ignore"].tolist()
    np.testing.assert_allclose(sample.scale_factor, RECORDED[f"{name}/scale_factor"], rtol=1e-6)


# ---- each transform, by hand and against MMDetection


@pytest.mark.parametrize("side", [64, 23, 11])
def test_resize_is_mmdets(side):
    assert_like_mmdet(resize(recorded_sample(), side), f"resize {side}")


@pytest.mark.parametrize("corner", [(0, 0), (9, 4), (20, 8)])
def test_crop_is_mmdets(corner):
    x, y = corner
    assert_like_mmdet(crop(recorded_sample(), corner, int(RECORDED["crop"])), f"crop {x} {y}")


@pytest.mark.parametrize("gains", [(5, 30, 30), (-5, -30, 0), (3, 0, -17), (0, 29, 8)])
def test_hsv_is_mmdets(gains):
    changed = hsv(recorded_sample(), gains)
    assert_like_mmdet(changed, f"hsv {gains[0]} {gains[1]} {gains[2]}")
    assert (changed.image != RECORDED["picture"]).mean() > 0.5


def test_flip_and_pad_are_mmdets():
    assert_like_mmdet(flip(recorded_sample()), "flip")
    assert_like_mmdet(pad(recorded_sample(), 40), "pad 40")


def test_resize_rounds_to_the_nearest_pixel_and_boxes_follow_each_axis():
    sample = resize(make_sample(grey(100, 33), [[0, 0, 33, 100]]), 50)
    assert sample.image.shape == (50, 17, 3)  # 16.5 + 0.5
    assert sample.img_shape == (50, 17)
    assert sample.original_size == (100, 33)
    assert sample.scale_factor == (17 / 33, 0.5)
    np.testing.assert_allclose(sample.boxes, [[0, 0, 17, 50]], rtol=1e-6)


def test_resize_keeps_a_pixel_of_a_narrow_picture():
    assert resize(make_sample(grey(2, 200)), 20).image.shape == (1, 20, 3)


def test_two_resizes_multiply_their_scale_factors():
    sample = resize(resize(make_sample(grey(10, 20)), 40), 10)
    assert sample.scale_factor == (0.5, 0.5)


def test_crop_cuts_boxes_drops_those_outside_and_carries_labels_and_ignore():
    boxes = [[0, 0, 10, 10], [5, 5, 30, 30], [20, 20, 22, 22], [40, 40, 50, 50]]
    sample = crop(make_sample(grey(60, 60), boxes, [3, 1, 2, 0], [False, True, False, False]), (10, 10), 20)
    assert sample.image.shape == (20, 20, 3)
    # the first box ends where the crop begins
    assert sample.boxes.tolist() == [[0, 0, 20, 20], [10, 10, 12, 12]]
    assert sample.labels.tolist() == [1, 2]
    assert sample.ignore.tolist() == [True, False]


def test_crop_of_a_smaller_image_is_the_image():
    sample = make_sample(grey(10, 12), [[1, 2, 3, 4]])
    cropped = crop(sample, (0, 0), 32)
    assert cropped.image.shape == (10, 12, 3)
    assert cropped.boxes.tolist() == [[1, 2, 3, 4]]


def test_hsv_by_hand():
    blue = make_sample(np.array([[[200, 0, 0]]], dtype=np.uint8))  # hue 120, saturation 255, value 200
    assert hsv(blue, (0, 0, 30)).image.tolist() == [[[230, 0, 0]]]
    assert hsv(blue, (0, 0, 100)).image.tolist() == [[[255, 0, 0]]]
    assert hsv(blue, (-120, 0, 0)).image.tolist() == [[[0, 0, 200]]]
    red = make_sample(np.array([[[0, 0, 200]]], dtype=np.uint8))  # hue 0: below it the circle closes
    assert hsv(red, (-60, 0, 0)).image.tolist() == [[[200, 0, 0]]]
    assert blue.image.tolist() == [[[200, 0, 0]]]


def test_flip_by_hand_and_twice():
    image = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    sample = make_sample(image, [[0, 0, 2, 1]])
    mirrored = flip(sample)
    assert mirrored.boxes.tolist() == [[3, 0, 5, 1]]
    assert (mirrored.image == image[:, ::-1]).all()
    again = flip(mirrored)
    assert again.boxes.tolist() == sample.boxes.tolist()
    assert (again.image == image).all()


def test_pad_is_grey_at_the_right_and_at_the_bottom():
    sample = pad(make_sample(grey(3, 4), [[0, 0, 4, 3]]), 6)
    assert sample.image.shape == (6, 6, 3)
    assert (sample.image[:3, :4] == 50).all()
    assert (sample.image[3:] == PAD_VALUE).all()
    assert (sample.image[:, 4:] == PAD_VALUE).all()
    assert sample.img_shape == (3, 4)
    assert sample.boxes.tolist() == [[0, 0, 4, 3]]


def test_small_remains_are_dropped_where_either_side_is_not_above_a_pixel():
    boxes = [[0, 0, 1, 9], [0, 0, 9, 1], [0, 0, 1.5, 1.5], [2, 2, 2.5, 2.5]]
    sample = drop_small_boxes(make_sample(grey(10, 10), boxes, ignore=[False, False, False, True]))
    assert sample.labels.tolist() == [2]


def test_eval_sample_fits_and_pads():
    sample = eval_sample(make_sample(grey(50, 100), [[0, 0, 100, 50], [10.1, 10, 10.2, 20]]), 64)
    assert sample.image.shape == (64, 64, 3)
    assert sample.img_shape == (32, 64)
    assert sample.scale_factor == (0.64, 0.64)
    assert len(sample.boxes) == 2  # nothing is filtered in evaluation
    assert (sample.image[32:] == PAD_VALUE).all()


@pytest.mark.parametrize("transform", [lambda s: resize(s, 16), flip, lambda s: pad(s, 40), drop_small_boxes])
def test_images_without_boxes_pass(transform):
    sample = transform(make_sample(grey(20, 30)))
    assert sample.boxes.shape == (0, 4)
    assert sample.boxes.dtype == np.float32
    assert sample.labels.shape == sample.ignore.shape == (0,)


# ---- draws


def test_draws_depend_on_all_three_numbers_only():
    first = sample_rng(1, 2, 3).random(4).tolist()
    assert first == sample_rng(1, 2, 3).random(4).tolist()
    others = [sample_rng(*key).random(4).tolist() for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert all(other != first for other in others)


def test_draw_side_covers_its_range():
    sides = [draw_side(sample_rng(0, 0, i), 100, (0.5, 2.0)) for i in range(400)]
    assert 50 <= min(sides) < 55
    assert 195 < max(sides) < 200
    assert draw_side(sample_rng(0, 0, 0), 4, (0.1, 0.1)) == 1


def test_draw_hsv_gains_stay_in_range_and_are_left_out_half_of_the_time():
    gains = np.array([draw_hsv_gains(sample_rng(0, 0, i), (5, 30, 30)) for i in range(600)])
    assert (np.abs(gains).max(axis=0) == [4, 29, 29]).all()  # rounded towards 0
    assert (gains.min(axis=0) < 0).all()
    # a hue in -5..5 rounds to 0 in a fifth of the rest
    assert (gains == 0).mean(axis=0) == pytest.approx([0.6, 0.517, 0.517], abs=0.06)


def test_draw_corner_reaches_every_corner():
    sample = make_sample(grey(10, 12))
    corners = {draw_corner(sample_rng(0, 0, i), sample, 9) for i in range(200)}
    assert corners == {(x, y) for x in range(4) for y in range(2)}
    assert draw_corner(sample_rng(0, 0, 0), sample, 20) == (0, 0)


def test_draw_corner_looks_for_a_box():
    sample = make_sample(grey(40, 40), [[0, 0, 25, 25]])
    hits = [len(crop(sample, draw_corner(sample_rng(0, 0, i), sample, 10), 10).boxes) for i in range(100)]
    # a single draw would show it in 65 of 100
    assert sum(hits) == 100


# ---- the pipeline


def painted(height, width, box, colour=(0, 255, 0)):
    image = grey(height, width)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = colour
    return make_sample(image, [box], ignore=[False])


def run(sample, config=None, input_size=64, seed=0, epoch=0, position=0):
    pipeline = TrainPipeline(config or AugmentConfig(), input_size, seed)
    return pipeline(epoch, position, np.zeros(position + 1, dtype=np.int64), lambda index: sample)


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
    after = run(sample, AugmentConfig(hsv=(0, 0, 0)), input_size, seed, epoch, position)
    assert after.image.shape == (input_size, input_size, 3)
    found = np.argwhere((after.image[..., 1] > 152) & (after.image[..., 0] < 25))
    if not len(after.boxes):
        # a remain of at most one pixel, and a pixel for the interpolation
        assert not len(found) or np.ptp(found, axis=0).min() <= 1
        return
    y1, x1 = found.min(axis=0)
    y2, x2 = found.max(axis=0) + 1
    np.testing.assert_allclose(after.boxes, [[x1, y1, x2, y2]], atol=1.0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 1), st.floats(0.001, 1)), max_size=6),
    st.integers(20, 200),
    st.integers(20, 200),
    st.integers(0, 10_000),
)
def test_no_box_outside_the_image_none_small_and_columns_stay_aligned(boxes, height, width, seed):
    scale = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.array([[x, y, min(x + w, 1), min(y + h, 1)] for x, y, w, h in boxes], dtype=np.float32).reshape(-1, 4)
    ignore = np.arange(len(boxes)) % 2 == 1
    sample = make_sample(grey(height, width), boxes * scale, ignore=ignore)
    after = run(sample, AugmentConfig(scale=(0.1, 2.0)), 64, seed)
    assert (after.boxes >= 0).all()
    assert (after.boxes[:, 0::2] <= after.img_shape[1]).all()
    assert (after.boxes[:, 1::2] <= after.img_shape[0]).all()
    assert (after.boxes[:, 2:] - after.boxes[:, :2] > 1).all()
    assert len(after.boxes) == len(after.labels) == len(after.ignore)
    assert (after.ignore == ignore[after.labels]).all()


def test_the_pipeline_is_a_pure_function_and_leaves_its_picture_alone():
    sample = painted(70, 90, (10, 10, 60, 50))
    before = sample.image.copy()
    first, again = run(sample, position=5), run(sample, position=5)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.boxes.tobytes() == again.boxes.tobytes()
    assert (sample.image == before).all()
    assert run(sample, position=6).image.tobytes() != first.image.tobytes()
    assert run(sample, epoch=1, position=5).image.tobytes() != first.image.tobytes()
    assert run(sample, seed=1, position=5).image.tobytes() != first.image.tobytes()


def test_the_pipeline_flips_with_its_probability():
    sample = painted(64, 64, (0, 0, 20, 20))

    def flipped(probability):
        config = AugmentConfig(scale=(1.0, 1.0), hsv=(0, 0, 0), flip=probability)
        return sum(run(sample, config, position=i).boxes[0, 0] > 0 for i in range(100))

    assert flipped(0.0) == 0
    assert flipped(1.0) == 100
    assert 35 < flipped(0.5) < 65


def test_the_pipeline_loads_what_the_order_says():
    loaded = []

    def load(index):
        loaded.append(index)
        return painted(64, 64, (0, 0, 20, 20))

    TrainPipeline(AugmentConfig(), 64, 0)(0, 2, np.array([4, 0, 3, 1]), load)
    assert loaded == [3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AugmentConfig(scale=(2.0, 0.5)), "augment.scale"),
        (AugmentConfig(scale=(0.0, 1.0)), "augment.scale"),
        (AugmentConfig(hsv=(-1, 0, 0)), "augment.hsv"),
        (AugmentConfig(flip=1.5), "augment.flip"),
    ],
)
def test_settings_that_make_no_sense_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        TrainPipeline(config, 64, 0)


def test_sizes_and_seeds_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="input_size is 0"):
        TrainPipeline(AugmentConfig(), 0, 0)
    with pytest.raises(ValueError, match="seed is -1"):
        TrainPipeline(AugmentConfig(), 64, -1)
