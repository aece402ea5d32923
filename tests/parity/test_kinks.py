"""The judge of mask gradients itself: what hangs on relu's kink, and a planted mistake that it must not excuse."""

from typing import NamedTuple

import pytest
import torch
from parity import instances, ours_instances
from parity.kinks import kinks, settle_kinks
from torch import Tensor

CELL = (2, 3)


class Kinked(NamedTuple):
    """One positive, with a hidden value of 0 at one cell."""

    case: instances.InstanceCase
    gt_inds: Tensor
    prior: int


def kinked(layer: int, above: float = 0.0) -> Kinked:
    case = instances.instances("kinks", (64, 64), counts=(1,))
    gt_inds = torch.zeros(1, len(case.scene.priors), dtype=torch.int64)
    prior = 10
    gt_inds[0, prior] = 1
    kernel, feat = case.kernels[0, prior], case.mask_feat[0, :, *CELL]
    at = case.scene.priors[prior]
    channels = torch.cat([(at[:2] - torch.tensor([CELL[1], CELL[0]]) * 8) / (8 * at[2]), feat]).double()
    weight1, weight2 = kernel[:80].view(8, 10).double(), kernel[80:144].view(8, 8).double()
    bias1, bias2 = kernel[152:160], kernel[160:168]
    if layer == 1:
        bias1[0] = above - weight1[0] @ channels
    else:
        hidden = (weight1 @ channels + bias1).relu()
        bias2[0] = above - weight2[0] @ hidden
    return Kinked(case, gt_inds, prior)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_hidden_value_of_zero_opens_its_cell_and_its_positive(layer: int) -> None:
    case, gt_inds, prior = kinked(layer)
    found = kinks(case, gt_inds)
    assert found.cells[0].nonzero().tolist() == [list(CELL)]
    assert found.priors[0].nonzero().tolist() == [[prior]]


def test_a_hidden_value_that_rounding_cannot_turn_opens_nothing() -> None:
    case, gt_inds, _ = kinked(1, above=1e-4)
    assert not kinks(case, gt_inds).cells.any()


def test_what_is_not_positive_has_no_kinks() -> None:
    case, gt_inds, _ = kinked(1)
    assert not kinks(case, torch.zeros_like(gt_inds)).cells.any()


def answer(made: Kinked) -> dict[str, Tensor]:
    found = ours_instances.losses(made.case)
    return {name: found[name].clone() for name in ("grad_mask_feat", "grad_kernels")} | {"gt_inds": made.gt_inds}


def test_a_gradient_at_the_kink_is_taken_over_and_counted() -> None:
    made = kinked(1)
    theirs = answer(made)
    mine = {name: value.clone() for name, value in theirs.items()}
    mine["grad_mask_feat"].view_as(made.case.mask_feat)[0, :, *CELL] += 1.0
    settled, count = settle_kinks(made.case, mine, theirs, 1e-5)
    assert count == 1
    for name in ("grad_mask_feat", "grad_kernels"):
        assert torch.equal(settled[name], theirs[name])


def test_a_kernel_with_a_kink_is_taken_over_and_counted() -> None:
    made = kinked(2)
    theirs = answer(made)
    mine = {name: value.clone() for name, value in theirs.items()}
    # of the first level's [1,169,8,8] maps, the column of the positive
    mine["grad_kernels"][: 169 * 64].view(169, 64)[:, made.prior] += 1.0
    settled, count = settle_kinks(made.case, mine, theirs, 1e-5)
    assert count == 1
    assert torch.equal(settled["grad_kernels"], theirs["grad_kernels"])


@pytest.mark.parametrize("name", ["grad_mask_feat", "grad_kernels"])
def test_any_other_difference_stays(name: str) -> None:
    made = kinked(1)
    theirs = answer(made)
    mine = {part: value.clone() for part, value in theirs.items()}
    mine[name][0] += 1.0  # the first cell, or the first prior
    settled, count = settle_kinks(made.case, mine, theirs, 1e-5)
    assert count == 0
    assert torch.equal(settled[name], mine[name])
