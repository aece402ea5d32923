"""Both lanes against MMDetection: every case of ``cases.py``, with the answers that ``record.py`` wrote."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import cases, ours, ours_instances
from parity.compare import TOLERANCE, differences, settle_masks, shorten_alike
from parity.record import FIXTURES, KINDS, checksum
from parity.ties import compare_assignments
from torch import Tensor

LANES = {
    "racing": ours.RACING | ours_instances.RACING,
    "reading": ours.READING | ours_instances.READING,
}
ALL = [
    pytest.param(lane, kind, name, id=f"{lane}-{kind}-{name}")
    for lane, table in LANES.items()
    for kind in table
    if kind in KINDS
    for name in KINDS[kind]
]


@cache
def fixture(kind: str) -> dict[str, Tensor]:
    """Arrays of one file; NumPy is only asked for arrays, never for pickled objects."""
    with np.load(FIXTURES / f"{kind}.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "versions"}


def expected(kind: str, name: str, case: Any) -> dict[str, Tensor]:
    """What MMDetection answered, after a check that it was asked the same."""
    prefix = f"{name}/"
    fields = {key.removeprefix(prefix): v for key, v in fixture(kind).items() if key.startswith(prefix)}
    assert int(fields.pop("inputs")) == checksum(case), "these are not the recorded inputs: run parity.record again"
    return fields


@pytest.mark.parametrize(("lane", "kind", "name"), ALL)
def test_answers_as_mmdetection(lane: str, kind: str, name: str) -> None:
    case = KINDS[kind][name]()
    theirs = expected(kind, name, case)
    answer = LANES[lane][kind](case)
    if kind == "assign":
        verdict = compare_assignments(case, answer["gt_inds"], theirs["gt_inds"].long())
        assert not verdict.mistakes, f"(image, prior) that differ and are no ties: {verdict.mistakes}"
        for image, prior in verdict.ties:
            for field, value in answer.items():
                value[image, prior] = theirs[field][image, prior]
    answer, theirs = settle_masks(answer, theirs)
    measured = differences(shorten_alike(answer, list(theirs)), theirs)
    worst = {field: d.largest for field, d in measured.items() if d.largest > TOLERANCE}
    assert not worst, f"largest difference over largest value: {worst}"


def test_fixtures_cover_what_they_should() -> None:
    assert len(fixture("assign")) >= 25 * 4
    assert set(cases.TARGETS) <= set(cases.SCENES)
    for kind, makers in KINDS.items():
        recorded = {key.removesuffix("/inputs") for key in fixture(kind) if key.endswith("/inputs")}
        assert recorded == set(makers), f"{kind}.npz: run parity.record again"


def test_fixtures_stay_small() -> None:
    assert sum(path.stat().st_size for path in Path(FIXTURES).iterdir()) < 3_000_000


def test_fixtures_say_what_wrote_them() -> None:
    with np.load(FIXTURES / "assign.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["versions"]))["mmdet"] == "3.3.0"
