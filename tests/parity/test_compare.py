"""The measure itself: largest difference over largest value."""

import pytest
import torch
from parity import cases
from parity.compare import LONGEST, difference, differences, shorten, shorten_alike

INF, NAN = torch.inf, torch.nan


@pytest.mark.parametrize(
    ("ours", "theirs", "largest"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.1], [0.0, 0.0], INF),
        ([INF, 1.0], [INF, 1.0], 0.0),
        ([-INF, 1.0], [INF, 1.0], INF),
        ([NAN, 1.0], [NAN, 1.0], 0.0),
        ([0.0, NAN], [0.0, 1.0], INF),
        ([1.0], [1.0, 1.0], INF),
        ([], [], 0.0),
    ],
)
def test_difference(ours: list[float], theirs: list[float], largest: float) -> None:
    assert difference(torch.tensor(ours), torch.tensor(theirs)).largest == largest


def test_integers_are_equal_or_not() -> None:
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 2], dtype=torch.int16)).largest == 0
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])).largest == INF
    assert difference(torch.tensor([True]), torch.tensor([False])).largest == INF


def test_names_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="other"):
        differences({"loss": torch.zeros(1)}, {"other": torch.zeros(1)})


def test_long_tensors_are_sampled_and_summed() -> None:
    value = torch.arange(1.0, 4 * LONGEST + 1)
    short = shorten({"map": value})
    assert set(short) == {"map/sample", "map/sums"}
    assert len(short["map/sample"]) <= LONGEST
    assert short["map/sums"].tolist() == [value.double().sum(), value.double().sum()]
    assert differences(shorten_alike({"map": value}, list(short)), short)["map/sample"].largest == 0


def test_a_wrong_number_outside_the_sample_shows_in_the_sums() -> None:
    value = torch.ones(4 * LONGEST)
    wrong = value.clone()
    wrong[1] = 100.0
    short = shorten({"map": value})
    assert differences(shorten_alike({"map": wrong}, list(short)), short)["map/sums"].largest > 1e-3


def test_sparse_tensors_stay_whole() -> None:
    value = torch.zeros(4 * LONGEST)
    value[::100] = 1.0
    assert shorten({"grad": value})["grad"] is not None


def test_fixture_and_answer_must_have_the_same_tensors() -> None:
    with pytest.raises(ValueError, match="record it again"):
        shorten_alike({"loss": torch.zeros(1)}, ["loss", "grad"])


def test_random_numbers_are_the_same_everywhere() -> None:
    """By hand: the third number is the hash of ``crc32("key") + 2``, computed in plain integers."""
    x = (2324736937 + 2) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D), (12, 0x297A2D39)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    x ^= x >> 15
    assert cases.hashed("key", 3)[2] == x
    assert cases.uniform("key", 3)[2] == (x >> 8) / 2**24


def test_random_numbers_are_spread() -> None:
    numbers = cases.uniform("spread", 100_000)
    assert abs(float(numbers.mean()) - 0.5) < 0.005
    assert abs(float(numbers.var()) - 1 / 12) < 0.002
    assert abs(float(cases.normal("spread", 100_000).std()) - 1.0) < 0.01
