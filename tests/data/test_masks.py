import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirtmdet.data.masks import compress, decode_mask, draw_polygons, encode_masks


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.floats(0, 1), st.integers(0, 10_000))
def test_masks_survive_both_forms_of_rle(height: int, width: int, share: float, seed: int):
    masks = np.random.default_rng(seed).random((2, height, width)) < share
    for mask, rle in zip(masks, encode_masks(masks), strict=True):
        assert (decode_mask(rle) == mask).all()
        assert compress(rle) == rle
        # by hand: columns one after the other, background first
        column = np.concatenate([[False], mask.T.ravel()])
        ends = np.flatnonzero(np.diff(column)).tolist()
        counts = np.diff([0, *ends, height * width]).tolist()
        assert compress({"size": [height, width], "counts": counts}) == rle
        assert (decode_mask({"size": [height, width], "counts": counts}) == mask).all()


# of 5 x 7 pixels
BAD_COUNTS = {
    "nothing": ("", "counts 0 pixels, and 5 x 7 are 35"),
    "no runs": ([], "counts 0 pixels"),
    "too few": ([3, 4], "counts 7 pixels, and 5 x 7 are 35"),
    "too many": ([3, 4000], "counts 4003 pixels"),
    "far too many": ([2**40], "counts 1099511627776 pixels"),
    "negative": ([-3, 38], "has a run of -3 pixels"),
    "negative text": ("Mf2", "has a run of -3 pixels"),
    "fractions": ([3.5, 31.5], "has counts that are no whole numbers"),
    "flags": ([True] * 35, "has counts that are no whole numbers"),
    "nested": ([[35]], "has counts that are no whole numbers"),
    "cut off": ("S", "ends in the middle of a number"),
    "other letters": ("é" * 10, "ends in the middle of a number"),
    "another mask": ("zzzz", "counts 50 pixels"),
    "null": (None, "has counts of type NoneType"),
    "a number": (35, "has counts of type int"),
}


@pytest.mark.parametrize("case", BAD_COUNTS)
def test_counts_that_mean_nothing_are_refused(case: str):
    counts, reason = BAD_COUNTS[case]
    for read in (compress, decode_mask):
        with pytest.raises(ValueError, match=f"its RLE {reason}"):
            read({"size": [5, 7], "counts": counts})


@pytest.mark.parametrize(
    ("polygon", "columns", "rows"),
    [
        ([10, 20, 30, 20, 30, 50, 10, 50], (10, 29), (20, 49)),
        ([10.5, 20.5, 30.5, 20.5, 30.5, 50.5, 10.5, 50.5], (11, 30), (21, 50)),
    ],
)
def test_polygons_are_drawn_as_mmdetection_does(polygon, columns, rows):
    pixels = draw_polygons([np.array(polygon, dtype=float).reshape(-1, 2)], (60, 40))
    x, y = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    assert ((x[0], x[-1]), (y[0], y[-1])) == (columns, rows)
    assert pixels.sum() == len(x) * len(y)


def test_polygons_together_are_one_object():
    left, right = ([[x, 1.0], [x + 3, 1.0], [x + 3, 4.0], [x, 4.0]] for x in (0.0, 2.0))
    pixels = draw_polygons([np.array(left), np.array(right)], (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 0:5] = True  # where both are it is no hole
    assert (pixels == expected).all()
