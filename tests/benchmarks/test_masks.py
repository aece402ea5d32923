"""The benchmark of masks against the original's: what of it needs no clock."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def masks() -> ModuleType:
    return importlib.import_module("masks")


def test_the_goals_are_those_that_were_set(masks: ModuleType) -> None:
    assert [row.goal for row in (*masks.TIMES, *masks.MEMORY)] == [2, 2, 5, 1, 20, 20, 10]


@pytest.mark.parametrize(("case", "name"), [("masks 64 2 3", "grad_kernels"), ("paste 48 64 64", "rows")])
def test_equal_answers_pass_and_different_ones_do_not(
    masks: ModuleType, worker: ModuleType, case: str, name: str
) -> None:
    work = worker.prepare(case, worker.Ours())
    work.run()
    answer = work.answer()
    masks.check(case, answer, {key: value.clone() for key, value in answer.items()})
    with pytest.raises(AssertionError, match=name):
        masks.check(case, answer, answer | {name: answer[name] * 1.01})


def test_there_are_a_hundred_masks_of_an_image(worker: ModuleType) -> None:
    answer = worker.prepare("paste 480 640", worker.Ours()).answer()
    assert answer["rows"].shape == (100, 480)
    assert answer["columns"].shape == (100, 640)
