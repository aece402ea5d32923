"""The benchmark of masks against the original's: what of it needs no clock."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def masks() -> ModuleType:
    return importlib.import_module("masks")


def test_the_goals_are_those_that_were_set(masks: ModuleType) -> None:
    assert [row.goal for row in (*masks.TIMES, *masks.MEMORY)] == [2, 2, 5, 5, 1, 1, 20, 20, 10]


@pytest.mark.parametrize(
    ("case", "name"), [("masks 64 2 3", "grad_kernels"), ("noise 48 64 64", "rows"), ("objects 48 64 64", "rows")]
)
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
    noise = worker.prepare("noise 480 640", worker.Ours()).answer()
    objects = worker.prepare("objects 480 640", worker.Ours()).answer()
    for answer in (noise, objects):
        assert answer["rows"].shape == (100, 480)
        assert answer["columns"].shape == (100, 640)
    pixels = 100 * 480 * 640
    assert 0.01 < objects["rows"].sum() / pixels < 0.1  # as much as half of their boxes
    assert noise["rows"].sum() / pixels > 0.4


def test_the_page_says_what_the_record_of_three_seeds_says() -> None:
    root = Path(__file__).parents[2]
    page = (root / "book/long_runs.md").read_text(encoding="utf-8")
    record = json.loads((root / "benchmarks/results/mini-160-ins.json").read_text(encoding="utf-8"))
    (said,) = (block for block in page.split("\n\n") if "mini-160-ins.json`" in block)
    assert len(record["runs"]) == 3
    for name in ("AP mean", "AP spread", "mask_AP mean", "mask_AP spread"):
        assert f"{record[name]:.3f}" in said, name
    assert record["mask_AP mean"] > record["AP mean"] - 0.05


def test_the_chapter_says_what_the_record_says() -> None:
    root = Path(__file__).parents[2]
    rows = {row["name"]: row for row in json.loads((root / "benchmarks/results/masks.json").read_text())["rows"]}
    cells = json.loads((root / "book/masks.ipynb").read_text(encoding="utf-8"))["cells"]
    (said,) = (text for text in map("".join, (cell["source"] for cell in cells)) if "`benchmarks/masks.py`" in text)
    time = rows["100 masks of objects, 1440 x 1920"]
    memory = rows["memory of 100 masks of noise, 1440 x 1920"]
    assert f"{time['ours']['median_ms']:.0f} ms and {memory['ours']['MiB']:.1f} MiB" in said
    assert f"{time['original']['median_ms']:.0f} ms and {memory['original']['MiB']:,.0f} MiB" in said
