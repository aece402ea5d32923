"""Masks of all positives at once against masks one by one: logits, losses, gradients, memory."""

import pytest
import torch
import torch.nn.functional as F
from parity import cases
from torch import Tensor

from minirtmdet.head import dynamic
from minirtmdet.head.dynamic import fill_slots, mask_logits, mask_terms
from minirtmdet.reference import dynamic as reading
from minirtmdet.reference import losses as reading_losses

PRIORS = cases.grid(cases.featmaps(64, 96), 0.0)
SIZE = (8, 12)


def batch(key: str = "dynamic", images: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of every prior, prototypes, and masks of three boxes an image: half of one filled, a whole one, none."""
    kernels = cases.normal(f"{key}/kernels", images, len(PRIORS), 169, std=0.3).to(dtype).requires_grad_()
    mask_feat = cases.normal(f"{key}/mask_feat", images, 8, *SIZE).to(dtype).requires_grad_()
    masks = torch.zeros(images, 3, 16, 24, dtype=torch.bool)
    masks[:, 0, 4:12, :12] = True
    masks[:, 1] = True
    return kernels, mask_feat, masks


def assignment(*owners: dict[int, int]) -> Tensor:
    """``gt_inds`` from the box of each positive, one table an image."""
    gt_inds = torch.zeros(len(owners), len(PRIORS), dtype=torch.int64)
    for row, table in zip(gt_inds, owners, strict=True):
        for prior, box in table.items():
            row[prior] = box + 1
    return gt_inds


def maps(kernels: Tensor) -> list[Tensor]:
    """``[B,N,169]`` as the network gives them, a map a level."""
    sizes = cases.featmaps(64, 96)
    parts = kernels.mT.split([rows * columns for rows, columns in sizes], 2)
    return [part.unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


OWNERS = ({3: 0, 40: 1, 41: 0, 100: 2, 124: 0}, {0: 1, 125: 1})


def read(kernels: Tensor, mask_feat: Tensor, masks: Tensor, owners: tuple[dict[int, int], ...]) -> Tensor:
    """The sum of the Dice losses, positive by positive, with autograd's gradient."""
    total = kernels.sum() * 0 + mask_feat.sum() * 0
    for image, table in enumerate(owners):
        for prior, box in table.items():
            logits = reading.mask_logits(kernels[image, prior], PRIORS[prior].to(kernels), mask_feat[image])
            total = total + reading_losses.dice_loss(reading_losses.finer(logits[None]), masks[image, box][None]).sum()
    return total


# -- the convolutions ------------------------------------------------------------------------------------------------


def test_coordinates_count_from_the_prior_in_eight_of_its_strides():
    fine = reading.relative_coordinates(torch.tensor([16.0, 8.0, 8.0, 8.0]), 3, 5)
    assert fine[0, 0].tolist() == [0.25, 0.125, 0.0, -0.125, -0.25]
    assert fine[1, :, 0].tolist() == [0.125, 0.0, -0.125]
    coarse = reading.relative_coordinates(torch.tensor([16.0, 8.0, 16.0, 16.0]), 3, 5)
    assert torch.equal(coarse, fine / 2)


def test_a_mask_by_hand():
    # the first convolution passes relative x to hidden channel 0, the second doubles it, the third takes 0.25 off
    numbers = torch.zeros(169)
    numbers[0], numbers[80], numbers[144], numbers[168] = 1.0, 2.0, 1.0, -0.25
    logits = reading.mask_logits(numbers, torch.tensor([16.0, 8.0, 8.0, 8.0]), torch.zeros(8, 1, 5))
    assert logits.tolist() == [[0.25, 0.0, -0.25, -0.25, -0.25]]


def test_folded_coordinates_give_the_same_logits():
    kernels, mask_feat, _ = batch()
    chosen = torch.arange(0, len(PRIORS), 7)
    found = mask_logits(kernels[:, chosen], PRIORS[chosen].expand(2, -1, -1), mask_feat)
    expected = torch.stack(
        [
            torch.stack([reading.mask_logits(kernels[i, prior], PRIORS[prior], mask_feat[i]) for prior in chosen])
            for i in range(2)
        ]
    )
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def test_no_instance_has_no_logits():
    _, mask_feat, _ = batch()
    assert mask_logits(torch.zeros(2, 0, 169), torch.zeros(2, 0, 4), mask_feat).shape == (2, 0, *SIZE)


# -- slots -----------------------------------------------------------------------------------------------------------


def test_positives_go_to_the_front_in_their_order():
    positive = assignment(*OWNERS) > 0
    slots = fill_slots(positive, 13 * 3)
    assert slots.priors.tolist() == [[3, 40, 41, 100, 124], [0, 125, 0, 0, 0]]
    assert slots.used.sum(1).tolist() == [5, 2]


def test_slots_have_a_fixed_number_where_a_device_would_be_waited_for(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    positive = assignment(*OWNERS) > 0
    slots = fill_slots(positive, 9)
    assert slots.priors.shape == (2, 9)
    assert slots.priors[:, :5].tolist() == [[3, 40, 41, 100, 124], [0, 125, 0, 0, 0]]
    assert slots.used.sum(1).tolist() == [5, 2]
    assert fill_slots(positive, 10_000).priors.shape[1] == len(PRIORS)


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 3 * 8 * 2 * 96, 2**20], ids=["one slot a block", "three", "all at once"])
def test_losses_and_gradients_equal_the_reading_lane_in_blocks_of_any_size(budget, monkeypatch):
    monkeypatch.setattr(dynamic, "CACHED", budget)
    kernels, mask_feat, masks = batch(dtype=torch.float64)
    terms = mask_terms(maps(kernels), mask_feat, PRIORS, assignment(*OWNERS), masks, most=39)
    found = torch.autograd.grad(terms.total * 3, (kernels, mask_feat))
    total = read(kernels, mask_feat, masks, OWNERS)
    torch.testing.assert_close(terms.total, total)
    for ours, theirs in zip(found, torch.autograd.grad(total * 3, (kernels, mask_feat)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert terms.positives == 7
    assert terms.each.shape == (2, 5)
    torch.testing.assert_close(terms.each.sum(), terms.total)
    assert not terms.each.requires_grad


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 2)])
def test_the_way_back_from_twice_the_resolution(size):
    cells = cases.normal("doubling", 3, 1, *size).requires_grad_()
    slope = cases.normal("doubling/slope", 3, 1, 2 * size[0], 2 * size[1])
    doubled = F.interpolate(cells, scale_factor=dynamic.FINER, mode="bilinear")
    expected = torch.autograd.grad(doubled, cells, slope)[0]
    found = dynamic._slope_of_doubling(dynamic._slope_of_doubling(slope[:, 0], 1), 2)
    torch.testing.assert_close(found, expected[:, 0])


def test_an_empty_mask_costs_one_whatever_is_predicted_and_teaches_nothing():
    kernels, mask_feat, masks = batch()
    terms = mask_terms(maps(kernels), mask_feat, PRIORS, assignment({40: 2}, {}), masks, most=39)
    assert terms.each.tolist() == [[1.0], [0.0]]
    assert all((grad == 0).all() for grad in torch.autograd.grad(terms.total, (kernels, mask_feat)))


def test_empty_masks_can_be_left_out():
    kernels, mask_feat, masks = batch()
    gt_inds = assignment({40: 2, 41: 0}, {})
    counted, dropped = (
        mask_terms(maps(kernels), mask_feat, PRIORS, gt_inds, masks, most=39, drop_empty=drop) for drop in (False, True)
    )
    assert (counted.positives, dropped.positives) == (2, 1)
    torch.testing.assert_close(counted.total, dropped.total + 1)


def test_without_positives_every_gradient_is_zero_and_none_is_missing(monkeypatch):
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        kernels, mask_feat, masks = batch()
        terms = mask_terms(maps(kernels), mask_feat, PRIORS, assignment({}, {}), masks, most=39)
        assert (terms.total, terms.positives) == (0, 0)
        assert all((grad == 0).all() for grad in torch.autograd.grad(terms.total, (kernels, mask_feat)))


def test_a_bad_prediction_on_background_spoils_nothing(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # with slots that nobody uses
    kernels, mask_feat, masks = batch()
    bad = kernels.detach().clone()
    bad[0, [0, 50]] = torch.tensor([[torch.nan], [torch.inf]])
    bad.requires_grad_()
    terms = mask_terms(maps(bad), mask_feat, PRIORS, assignment(*OWNERS), masks, most=39)
    grads = torch.autograd.grad(terms.total, (bad, mask_feat))
    torch.testing.assert_close(terms.total, read(kernels, mask_feat, masks, OWNERS))
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_fp32(dtype):
    kernels, mask_feat, masks = (part.detach() for part in batch())
    low = mask_terms(maps(kernels.to(dtype)), mask_feat.to(dtype), PRIORS, assignment(*OWNERS), masks, most=39)
    exact = mask_terms(
        maps(kernels.to(dtype).double()), mask_feat.to(dtype).double(), PRIORS, assignment(*OWNERS), masks, most=39
    )
    assert low.total.dtype == torch.float32
    assert low.total.item() == pytest.approx(exact.total.item(), rel=1e-6)


def test_nothing_is_learned_where_nothing_is_to_be(monkeypatch):
    kernels, mask_feat, masks = batch()
    monkeypatch.setattr(dynamic, "_slopes_of_convolutions", None)  # not called
    with torch.no_grad():
        total = mask_terms(maps(kernels), mask_feat, PRIORS, assignment(*OWNERS), masks, most=39).total
    assert not total.requires_grad
    torch.testing.assert_close(total, read(kernels, mask_feat, masks, OWNERS).detach())


@pytest.mark.parametrize("learn", [True, False])
def test_what_a_compiler_is_told_of_the_one_operation_is_true(learn: bool):
    kernels, mask_feat, masks = (part.detach() for part in batch())
    slots = fill_slots(assignment(*OWNERS) > 0, 39)
    folded = dynamic.fold(dynamic.at_priors(maps(kernels), slots.priors), PRIORS[slots.priors], SIZE)
    area = masks.sum((-2, -1)).float().gather(1, slots.priors % 3)
    channels = dynamic.shared_channels(mask_feat)
    arguments = channels, [*folded], masks.view(torch.uint8), slots.priors % 3, area, slots.used.float(), 1e-6, learn
    torch.library.opcheck(dynamic._dice_in_one, arguments, test_utils=("test_schema", "test_faketensor"))


def test_shapes_alone_are_enough():
    # meta tensors hold no values: whatever asks for one, or sends one there, raises
    kernels, mask_feat, masks = (part.detach().to("meta").requires_grad_(part.is_floating_point()) for part in batch())
    terms = mask_terms(maps(kernels), mask_feat, PRIORS.to("meta"), assignment(*OWNERS).to("meta"), masks, most=39)
    terms.total.backward()
    assert terms.each.shape == (2, 39)
    assert kernels.grad.shape == kernels.shape


def test_what_is_kept_for_the_way_back_grows_with_the_maps_or_with_the_positives_but_not_with_both():
    def numbers(rows: int, owners: tuple[dict[int, int], ...]) -> int:
        kernels, _, _ = batch()
        mask_feat = torch.zeros(2, 8, rows, 12, requires_grad=True)
        masks = torch.ones(2, 3, 2 * rows, 24, dtype=torch.bool)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            mask_terms(maps(kernels), mask_feat, PRIORS, assignment(*owners), masks, most=39)
        return sum(kept)

    few, many = ({3: 0}, {}), (dict.fromkeys(range(100), 0), {})
    growth = numbers(80, few) - numbers(8, few)
    assert growth == numbers(80, many) - numbers(8, many)
    # the original keeps 16 numbers of hidden layers for each cell and each positive, and more at twice the resolution
    assert growth == 2 * 10 * 72 * 12
