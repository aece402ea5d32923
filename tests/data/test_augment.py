from dataclasses import replace

import numpy as np
import pytest
from helpers.augmented import assert_like_mmdet, grey, make_sample, recorded_sample
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minirtmdet.data.augment import (
    PAD_VALUE,
    crop,
    draw_corner,
    draw_hsv_gains,
    draw_side,
    drop_small_boxes,
    eval_sample,
    fit,
    flip,
    hsv,
    pad,
    resize,
    resize_crop,
    sample_rng,
)

NO_BOXES = np.zeros((0, 4), dtype=np.float32)


# ---- each transform, by hand and against MMDetection


@pytest.mark.parametrize("side", [64, 23, 11])
def test_resize_is_mmdets(side):
    assert_like_mmdet(resize(recorded_sample(), side), f"resize {side}")


@pytest.mark.parametrize("corner", [(0, 0), (9, 4), (20, 8)])
def test_crop_is_mmdets(corner):
    x, y = corner
    assert_like_mmdet(crop(recorded_sample(), corner, 16), f"crop {x} {y}")


@pytest.mark.parametrize("gains", [(5, 30, 30), (-5, -30, 0), (3, 0, -17), (0, 29, 8)])
def test_hsv_is_mmdets(gains):
    changed = hsv(recorded_sample(), gains)
    assert_like_mmdet(changed, f"hsv {gains[0]} {gains[1]} {gains[2]}")
    assert (changed.image != recorded_sample().image).mean() > 0.5


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


def test_resize_keeps_a_pixel_of_a_narrow_image():
    assert resize(make_sample(grey(2, 200)), 20).image.shape == (1, 20, 3)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 150), st.floats(0.05, 3), st.integers(1, 80), st.floats(0, 1), st.floats(0, 1)
)
@example(156, 270, 268 / 270, 74, 0.0, 0.0)  # so close to 1 that OpenCV would copy what is needed of it
@example(100, 100, 0.5, 21, 0.4, 0.1)  # OpenCV's own way for halves
def test_a_crop_of_a_resized_image_needs_no_more_than_its_pixels(height, width, factor, crop_side, x, y):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    sample = make_sample(image, [[0, 0, width, height], [width / 3, height / 4, width / 2, height]])
    side = max(int(max(height, width) * factor), 1)
    new_height, new_width = fit((height, width), side)
    corner = int(x * max(new_width - crop_side, 0)), int(y * max(new_height - crop_side, 0))
    read = []

    def paint(rows, columns):
        read.append((rows, columns))
        return image[:rows, :columns]

    whole = crop(resize(sample, side), corner, crop_side)
    for part in (
        resize_crop(sample, side, corner, crop_side),
        resize_crop(replace(sample, image=grey(height, width)), side, corner, crop_side, paint),
    ):
        assert part.image.tobytes() == whole.image.tobytes()
        assert part.boxes.tolist() == whole.boxes.tolist()
        assert (part.img_shape, part.scale_factor) == (whole.img_shape, whole.scale_factor)
        assert part.labels.tolist() == whole.labels.tolist()
    assert len(read) == 1


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
    sample = make_sample(grey(10, 10), boxes, ignore=[False, False, False, True])
    assert drop_small_boxes(sample, 1.0).labels.tolist() == [2]
    assert drop_small_boxes(sample, 0.0).labels.tolist() == [0, 1, 2, 3]


def test_eval_sample_fits_and_pads():
    sample = eval_sample(make_sample(grey(50, 100), [[0, 0, 100, 50], [10.1, 10, 10.2, 20]]), 64)
    assert sample.image.shape == (64, 64, 3)
    assert sample.img_shape == (32, 64)
    assert sample.scale_factor == (0.64, 0.64)
    assert len(sample.boxes) == 2  # nothing is filtered in evaluation
    assert (sample.image[32:] == PAD_VALUE).all()


@pytest.mark.parametrize(
    "transform", [lambda s: resize(s, 16), flip, lambda s: pad(s, 40), lambda s: drop_small_boxes(s, 1.0)]
)
def test_images_without_boxes_pass(transform):
    sample = transform(make_sample(grey(20, 30)))
    assert sample.boxes.shape == (0, 4)
    assert sample.boxes.dtype == np.float32
    assert sample.labels.shape == sample.ignore.shape == (0,)


# ---- draws


def test_draws_depend_on_these_numbers_only():
    first = sample_rng(1, 2, 3).random(4).tolist()
    assert first == sample_rng(1, 2, 3).random(4).tolist()
    others = [sample_rng(*key).random(4).tolist() for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 2, 3, 1))]
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
    corners = {draw_corner(sample_rng(0, 0, i), (10, 12), NO_BOXES, 9)[0] for i in range(200)}
    assert corners == {(x, y) for x in range(4) for y in range(2)}
    assert draw_corner(sample_rng(0, 0, 0), (10, 12), NO_BOXES, 20) == ((0, 0), False)


def test_draw_corner_looks_for_a_box_as_often_as_it_is_told():
    sample = make_sample(grey(40, 40), [[0, 0, 25, 25]])
    found = {}
    for tries in (1, 10):
        drawn = [draw_corner(sample_rng(0, 0, i), (40, 40), sample.boxes, 10, tries) for i in range(100)]
        for corner, shows_box in drawn:
            assert len(crop(sample, corner, 10).boxes) == shows_box
        found[tries] = sum(shows_box for _, shows_box in drawn)
    assert 55 < found[1] < 75  # (25 / 31) squared
    assert found[10] == 100


def test_a_box_that_ends_where_the_crop_begins_is_not_shown():
    box = np.array([[0, 0, 20, 20]], dtype=np.float32)
    drawn = [draw_corner(sample_rng(0, 0, i), (21, 60), box, 20) for i in range(200)]
    assert {corner[0] for corner, _ in drawn} == set(range(41))
    assert all(shows_box == (corner[0] < 20) for corner, shows_box in drawn)
