"""The judge of assignments itself: what is a tie, and a planted mistake that it must catch."""

import pytest
import torch
from parity import cases
from parity.ours import assign, read_assign
from parity.ties import admissible, choices, compare_assignments

SCENES = ["ten-boxes", "overlapping", "identical", "tied-logits", "mixed-batch", "invalid-priors", "empty-image"]


def costs(*columns: list[float]) -> torch.Tensor:
    return torch.tensor(columns).T


def owners(name: str) -> tuple[cases.Scene, torch.Tensor]:
    scene = cases.SCENES[name]()
    return scene, assign(scene)["gt_inds"]


def test_cheapest_priors_are_sure_and_nothing_is_open() -> None:
    sure, maybe = choices(costs([4.0, 1.0, 3.0, 2.0]), costs([0.5, 0.9, 0.3, 0.6]), topk=13)  # k = int(2.3)
    assert sure[:, 0].tolist() == [False, True, False, True]
    assert not maybe.any()


def test_equal_costs_at_rank_k_are_open() -> None:
    sure, maybe = choices(costs([1.0, 2.0, 2.0 + 1e-6, 3.0]), costs([0.6, 0.6, 0.6, 0.6]), topk=13)
    assert sure[:, 0].tolist() == [True, False, False, False]
    assert maybe[:, 0].tolist() == [False, True, True, False]


def test_equal_costs_above_rank_k_are_no_tie() -> None:
    sure, maybe = choices(costs([1.0, 1.0, 2.0, 3.0]), costs([0.6, 0.6, 0.6, 0.6]), topk=13)
    assert sure[:, 0].tolist() == [True, True, False, False]
    assert not maybe.any()


def test_costs_further_apart_than_the_tolerance_are_no_tie() -> None:
    _, maybe = choices(costs([1.0, 2.0, 2.0 + 5e-6, 3.0]), costs([0.6, 0.6, 0.6, 0.6]), topk=13)
    assert not maybe.any()


@pytest.mark.parametrize("total", [2 - 4e-6, 2.0, 2 + 4e-6])
def test_sum_of_ious_near_a_whole_number_leaves_the_last_rank_open(total: float) -> None:
    sure, maybe = choices(costs([1.0, 2.0, 3.0]), costs([1.0, total - 1.0, 0.0]), topk=2)
    assert sure[:, 0].tolist() == [True, False, False]
    assert maybe[:, 0].tolist() == [False, True, False]


def test_sum_of_ious_near_one_is_no_tie_since_a_box_gets_one_prior_anyway() -> None:
    sure, maybe = choices(costs([1.0, 2.0]), costs([0.5, 0.5 - 1e-6]), topk=2)
    assert sure[:, 0].tolist() == [True, False]
    assert not maybe.any()


def test_infinite_costs_are_equal() -> None:
    _, maybe = choices(costs([torch.inf, torch.inf]), costs([0.5, 0.5]), topk=2)
    assert maybe[:, 0].tolist() == [True, True]


@pytest.mark.parametrize("name", SCENES)
def test_both_lanes_give_admissible_answers(name: str) -> None:
    scene = cases.SCENES[name]()
    for lane in (assign, read_assign):
        gt_inds = lane(scene)["gt_inds"]
        for image, valid in enumerate(scene.valid):
            allowed = admissible(scene, image)
            assert allowed[valid].gather(1, gt_inds[image, valid, None]).all()


def test_scenes_without_ties_have_one_answer() -> None:
    scene = cases.SCENES["ten-boxes"]()
    assert (admissible(scene, 0).sum(1) == 1).all()


def test_symmetric_scene_has_ties() -> None:
    scene = cases.SCENES["tied-logits"]()
    assert (admissible(scene, 0).sum(1) > 1).any()


def test_equal_assignments_have_no_differences() -> None:
    scene, gt_inds = owners("mixed-batch")
    verdict = compare_assignments(scene, gt_inds, gt_inds.clone())
    assert (verdict.ties, verdict.mistakes) == ([], [])
    assert verdict.compared == gt_inds.numel()


def test_identical_boxes_of_one_class_may_be_swapped() -> None:
    scene, gt_inds = owners("identical")
    swapped = torch.where(gt_inds == 1, 2, gt_inds)
    verdict = compare_assignments(scene, gt_inds, swapped)
    assert len(verdict.ties) == int((gt_inds == 1).sum()) > 0
    assert not verdict.mistakes


@pytest.mark.parametrize("name", ["ten-boxes", "overlapping", "mixed-batch", "identical-other-class"])
@pytest.mark.parametrize("change", ["drop", "swap", "add"])
def test_planted_mistake_is_caught(name: str, change: str) -> None:
    scene, gt_inds = owners(name)
    wrong = gt_inds.clone()
    if change == "add":
        image, prior = (gt_inds == 0).nonzero()[0].tolist()
        wrong[image, prior] = 1
    else:
        image, prior = (gt_inds > 1).nonzero()[0].tolist()
        wrong[image, prior] = 0 if change == "drop" else 1
    verdict = compare_assignments(scene, wrong, gt_inds)
    assert verdict.mistakes == [(image, prior)]
    assert not verdict.ties


def test_one_cheap_prior_taken_for_another_is_caught() -> None:
    """The mistake nearest to a tie: rank k + 1 instead of rank k."""
    scene, gt_inds = owners("one-box")
    allowed = admissible(scene, 0)
    kept = (gt_inds[0] == 1).nonzero()[:, 0]
    wrong = gt_inds.clone()
    neighbour = next(p + 1 for p in kept.tolist() if gt_inds[0, p + 1] == 0 and not allowed[p + 1, 1])
    wrong[0, neighbour - 1], wrong[0, neighbour] = 0, 1
    assert compare_assignments(scene, wrong, gt_inds).mistakes == [(0, neighbour - 1), (0, neighbour)]


def test_prior_that_takes_no_part_may_not_be_given_a_box() -> None:
    scene, gt_inds = owners("invalid-priors")
    image, prior = (~scene.valid).nonzero()[0].tolist()
    wrong = gt_inds.clone()
    wrong[image, prior] = 1
    assert compare_assignments(scene, wrong, gt_inds).mistakes == [(image, prior)]
