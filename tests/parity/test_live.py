"""The live comparison's own judgement, without the reference environment: this package stands for both sides."""

import json
from pathlib import Path

import pytest
import torch
from parity import cases, live, original, original_instances, ours, ours_instances

Answer = dict[str, torch.Tensor]


def both(kind: str, scene: cases.Scene) -> tuple[Answer, Answer]:
    """Two equal answers, with the assignments that live.py adds."""
    answers = [ours.RACING[kind](scene) | {"gt_inds": ours.assign(scene)["gt_inds"]} for _ in range(2)]
    return answers[0], answers[1]


def first_positive(answer: Answer) -> tuple[int, int]:
    image, prior = (answer["gt_inds"] > 0).nonzero()[0].tolist()
    return image, prior


def test_every_kind_is_known_everywhere() -> None:
    kinds = live.KINDS.keys()
    assert kinds == live.RANDOM.keys() == original.ANSWERS.keys() | original_instances.ANSWERS.keys()
    lanes = (ours.RACING, ours.READING, ours_instances.RACING, ours_instances.READING)
    assert kinds == {kind for lane in lanes for kind in lane}


def test_small_shares_keep_one_case() -> None:
    assert [live.scaled(count, 0.04) for count in (2, 100, 500)] == [1, 4, 20]


@pytest.mark.parametrize("kind", ["assign", "targets", "losses"])
def test_a_tie_is_counted_and_taken_out(kind: str) -> None:
    scene = cases.SCENES["identical"]()  # three equal boxes of one class: any of them may own a prior
    mine, theirs = both(kind, scene)
    where = first_positive(mine)
    theirs["gt_inds"][where] = theirs["gt_inds"][where] % 3 + 1
    mine, theirs, ties, mistakes = live.settle_ties(kind, scene, mine, theirs)
    assert (ties, mistakes) == (1, 0)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert bool(mine) == (kind != "losses")


@pytest.mark.parametrize("kind", ["assign", "targets", "losses"])
def test_a_wrong_owner_is_a_mistake_in_every_kind(kind: str) -> None:
    scene = cases.SCENES["one-box"]()
    mine, theirs = both(kind, scene)
    theirs["gt_inds"][first_positive(mine)] = 0
    assert live.settle_ties(kind, scene, mine, theirs)[2:] == (0, 1)


def test_training_is_compared_up_to_the_first_difference() -> None:
    whole = cases.random_training(0)
    case = whole._replace(steps=whole.steps[:2])
    mine = ours.training(case)
    theirs = {name: value.clone() for name, value in mine.items()}
    assert live.settle_ties("training", case, mine, theirs)[2:] == (0, 0)
    theirs["gt_inds"][1, 0, 0] += 1
    mine, theirs, ties, mistakes = live.settle_ties("training", case, mine, theirs)
    assert (ties, mistakes) == (0, 1)
    assert {len(value) for value in (*mine.values(), *theirs.values())} == {1}


def test_the_table_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results" / "parity.json"
    rows = [live.Row("training", "racing", 3, 60, 2e-7, 1, 0, [])]
    live.record(path, 7, {"mmdet": "3.3.0"}, rows)
    table = json.loads(path.read_text())
    assert table["seed"] == 7
    assert table["rows"][0]["tolerance"] == 1e-4
    assert table["rows"][0]["ties"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["parity.json"]


@pytest.mark.parametrize(("own", "wide", "failed"), [(0.0, 0, 1), (2e-5, 1, 0), (1.0, 1, 0)])
def test_a_difference_is_measured_against_the_originals_own_round_off(own: float, wide: int, failed: int) -> None:
    theirs = ours.losses(cases.random_scene(0)) | {"gt_inds": ours.assign(cases.random_scene(0))["gt_inds"]}
    theirs["loss_cls"] = theirs["loss_cls"] * (1 + 3e-5)
    theirs["round-off/loss_cls"] = torch.tensor(own)
    row = next(live.compare("losses", 0, [theirs]))
    assert (row.wide, len(row.failed)) == (wide, failed)


def test_no_round_off_excuses_a_real_difference() -> None:
    theirs = ours.losses(cases.random_scene(0)) | {"gt_inds": ours.assign(cases.random_scene(0))["gt_inds"]}
    theirs["loss_cls"] = theirs["loss_cls"] * 1.001
    theirs["round-off/loss_cls"] = torch.tensor(1.0)
    assert next(live.compare("losses", 0, [theirs])).failed == [0]
