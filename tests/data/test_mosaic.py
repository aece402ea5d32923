from collections import Counter

import numpy as np
import pytest
from helpers.augmented import RECORDED, assert_like_mmdet, grey, make_sample, painted, recorded_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet.data.augment import PAD_VALUE, flip, hsv, pad, resize_crop, sample_rng
from minirtmdet.data.mosaic import CachedMixUp, CachedMosaic, Memo

MOSAIC = CachedMosaic(input_size=32, prob=1.0, max_cached_images=40)
MIXUP = CachedMixUp(prob=1.0, max_cached_images=20)
# those of parity/record_augment.py
CENTERS = ((0.5, 0.5), (1.5, 1.5), (0.83, 1.21), (1.4, 0.6))
STAGE1 = ((70, (21, 9), (3, -20, 11), 1, 0), (128, (0, 77), (0, 0, 0), 0, 1), (27, (0, 0), (-2, 9, 0), 1, 1))


def recorded_four():
    # the original's centre is in whole pixels, rounded down
    return [recorded_sample(f"one of four {number}") for number in (0, 1, 2, 3)]


def corner(number):
    x, y = CENTERS[number]
    return int(x * 32), int(y * 32)


# ---- against MMDetection


@pytest.mark.parametrize("number", range(4))
def test_a_mosaic_is_mmdets(number):
    assert_like_mmdet(MOSAIC.mix(recorded_four(), corner(number)), f"mosaic {number}")


def unmixed(number):
    side, crop_corner, gains, mirrored, _ = STAGE1[number]
    canvas, paint = MOSAIC.lay_out([MOSAIC.fit(sample) for sample in recorded_four()], corner(2))
    sample = hsv(resize_crop(canvas, side, crop_corner, 32, paint), gains)
    return pad(flip(sample) if mirrored else sample, 32)


@pytest.mark.parametrize("number", range(3))
def test_stage_1_is_mmdets_once_all_is_drawn(number):
    sample = unmixed(number)
    np.testing.assert_array_equal(sample.labels, RECORDED[f"unmixed {number}/labels"])
    assert_like_mmdet(sample, f"unmixed {number}")
    mixed = MIXUP.mix(sample, unmixed((number + 1) % 3), bool(STAGE1[number][-1]))
    assert_like_mmdet(mixed, f"mixed {number}")
    assert mixed.img_shape == (32, 32)


# ---- a mosaic by hand


def test_four_images_meet_at_the_centre_and_keep_their_boxes():
    colours = (10, 20, 30, 40)
    four = [make_sample(grey(32, 32, c), [[0, 0, 32, 32]], [c], [c == 20]) for c in colours]
    mosaic = MOSAIC.mix(four, (20, 44))
    assert mosaic.image.shape == (64, 64, 3)
    assert mosaic.labels.tolist() == list(colours)
    assert mosaic.ignore.tolist() == [False, True, False, False]
    # the canvas cuts them, a neighbour never does
    assert mosaic.boxes.tolist() == [[0, 12, 20, 44], [20, 12, 52, 44], [0, 44, 20, 64], [20, 44, 52, 64]]
    for colour, (x1, y1, x2, y2) in zip(colours, mosaic.boxes.astype(int).tolist(), strict=True):
        assert (mosaic.image[y1:y2, x1:x2] == colour).all()
    assert (mosaic.image[:12] == PAD_VALUE).all()
    assert (mosaic.image[:, 52:] == PAD_VALUE).all()


def test_images_are_made_to_fit_and_rounded_down():
    sample = MOSAIC.fit(make_sample(grey(90, 50), [[0, 0, 50, 90]]))
    assert sample.img_shape == (32, 17)  # 17.8
    np.testing.assert_allclose(sample.boxes, [[0, 0, 50 * 32 / 90, 32]], rtol=1e-6)
    assert MOSAIC.fit(make_sample(grey(1, 200))).img_shape == (1, 32)


def test_a_part_of_a_mosaic_is_painted_like_the_whole():
    four = [MOSAIC.fit(sample) for sample in recorded_four()]
    _, paint = MOSAIC.lay_out(four, (26, 38))
    whole = paint(64, 64)
    for height, width in ((1, 1), (20, 64), (39, 27), (64, 10)):
        assert (paint(height, width) == whole[:height, :width]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(20, 90), st.integers(20, 90)), min_size=4, max_size=4),
    st.integers(16, 47),
    st.integers(16, 47),
)
def test_painted_rectangles_and_their_boxes_stay_together(sizes, x, y):
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
    four = [
        painted(height, width, (width // 4, height // 4, width - width // 4, height - height // 4), colour)
        for (height, width), colour in zip(sizes, colours, strict=True)
    ]
    mosaic = MOSAIC.mix(
        [make_sample(sample.image, sample.boxes, [number]) for number, sample in enumerate(four)], (x, y)
    )
    seen = {}
    for label, colour in enumerate(colours):
        found = np.argwhere(np.abs(mosaic.image - np.array(colour, int)).max(-1) < 60)
        if len(found):
            (y1, x1), (y2, x2) = found.min(0), found.max(0) + 1
            seen[label] = [x1, y1, x2, y2]
    for label, box in zip(mosaic.labels.tolist(), mosaic.boxes, strict=True):
        if min(box[2:] - box[:2]) > 3:
            # interpolation, and pixels that are rounded down where boxes are not
            np.testing.assert_allclose(box, seen.pop(label), atol=1.6)
        else:
            seen.pop(label, None)
    assert not seen


# ---- MixUp by hand


def test_mixup_is_half_and_half_rounded_down():
    first = make_sample(np.full((4, 4, 3), [[[10, 255, 0]]], np.uint8), [[0, 0, 2, 2]], [1])
    second = make_sample(np.full((4, 4, 3), [[[13, 255, 1]]], np.uint8), [[0, 1, 1, 4]], [2], [True])
    mixed = MIXUP.mix(first, second, mirrored=True)
    assert (mixed.image == [11, 255, 0]).all()
    assert mixed.boxes.tolist() == [[0, 0, 2, 2], [3, 1, 4, 4]]
    assert mixed.labels.tolist() == [1, 2]
    assert mixed.ignore.tolist() == [False, True]
    assert MIXUP.mix(first, second, mirrored=False).boxes.tolist() == [[0, 0, 2, 2], [0, 1, 1, 4]]


def test_every_pair_of_levels_is_blended_as_through_floats():
    a, b = (np.repeat(levels[..., None], 3, axis=-1).astype(np.uint8) for levels in np.mgrid[0:256, 0:256])
    expected = (0.5 * a.astype(np.float32) + 0.5 * b.astype(np.float32)).astype(np.uint8)
    assert (MIXUP.mix(make_sample(a), make_sample(b), mirrored=False).image == expected).all()


# ---- draws


def test_partners_come_from_the_last_positions_and_an_image_may_be_its_own():
    draws = [MOSAIC.draw(sample_rng(0, 0, i), 100) for i in range(600)]
    counts = Counter(partner for draw in draws for partner in draw.partners)
    assert set(counts) == set(range(61, 101))
    assert max(counts.values()) < 3 * min(counts.values())
    xs = [draw.center[0] for draw in draws]
    assert (min(xs), max(xs)) == (16, 47)
    assert any(draw.center[0] != draw.center[1] for draw in draws)


def test_an_epochs_first_positions_draw_from_what_is_there():
    for position in range(4):
        assert MOSAIC.draw(sample_rng(0, 0, position), position) is None
    partners = {p for i in range(200) for p in MOSAIC.draw(sample_rng(0, 0, i), 4).partners}
    assert partners == {0, 1, 2, 3, 4}
    sample = make_sample(grey(4, 4), [[0, 0, 2, 2]])
    assert MIXUP.draw(sample_rng(0, 0, 0), 0, lambda position: sample) is None
    asked = set()
    for i in range(50):
        MIXUP.draw(sample_rng(0, 0, i), 1, lambda position: asked.add(position) or sample)
    assert asked == {0, 1}


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.5, 75, 125), (1.0, 200, 200)])
def test_probabilities(prob, low, high):
    sample = make_sample(grey(4, 4), [[0, 0, 2, 2]])
    mosaic, mixup = CachedMosaic(32, prob, 40), CachedMixUp(prob, 20)
    mosaics = [mosaic.draw(sample_rng(0, 0, i), 50) for i in range(200)]
    mixed = [mixup.draw(sample_rng(0, 0, i), 50, lambda position: sample) for i in range(200)]
    assert low <= sum(draw is not None for draw in mosaics) <= high
    assert low <= sum(draw is not None for draw in mixed) <= high
    mirrored = sum(draw.mirrored for draw in mixed if draw)
    assert low * 0.3 <= mirrored <= high * 0.7


def test_mixup_looks_for_a_partner_with_boxes_and_stays_alone_without():
    empty, full = make_sample(grey(4, 4)), make_sample(grey(4, 4), [[0, 0, 2, 2]])
    partners = [
        MIXUP.draw(sample_rng(0, 0, i), 40, lambda position: full if position % 2 else empty) for i in range(50)
    ]
    # fifteen draws, half of them with boxes
    assert all(draw.partner is full for draw in partners)
    assert MIXUP.draw(sample_rng(0, 0, 0), 40, lambda position: empty) is None


# ---- what is kept


def test_a_memo_keeps_the_last_and_makes_nothing_twice():
    made = []

    def make(key):
        made.append(key)
        return make_sample(grey(2, 2, key))

    memo = Memo(2)
    for key in (1, 2, 1, 3, 2, 1):
        assert (memo.get(key, lambda key=key: make(key)).image == key).all()
    assert made == [1, 2, 3, 1]  # 1 was the oldest when 3 came, though asked for again
    assert len(memo) == 2
    with pytest.raises(ValueError, match="read-only"):
        memo.get(1, lambda: make(1)).image[0] = 0
