import pytest
import torch
from helpers.toy import unchecked
from parity import cases, instances

from minirtmdet.masks import center_of_mass, fit_to_map, subsample


def test_a_full_mask_has_its_centre_half_a_pixel_before_that_of_its_box():
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[0, :8, :10] = True  # the box reaches from 0 to 10 and from 0 to 8
    assert center_of_mass(mask).tolist() == [[4.5, 3.5]]


def test_an_empty_mask_has_its_centre_at_the_corner_and_no_mask_has_none():
    assert center_of_mass(torch.zeros(1, 12, 16, dtype=torch.bool)).tolist() == [[0.0, 0.0]]
    assert center_of_mass(torch.zeros(0, 12, 16, dtype=torch.bool)).shape == (0, 2)


@pytest.mark.parametrize("kind", [*instances.KINDS, "empty"])
def test_sums_of_rows_and_columns_are_those_of_all_pixels(kind):
    masks = instances.mask_of(kind, torch.tensor([3, 5, 520, 411]), (480, 640))[None]
    assert torch.equal(center_of_mass(masks), cases.mask_centers(masks))  # to the bit


@pytest.mark.parametrize(("side", "vanishing"), [(1, 15), (2, 12), (3, 7), (4, 0), (5, 0)])
def test_small_squares_can_vanish_between_the_pixels_that_count(side, vanishing):
    places = [(x, y) for x in range(16, 20) for y in range(16, 20)]
    masks = torch.zeros(16, 48, 48, dtype=torch.bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[y : y + side, x : x + side] = True
    assert (subsample(masks).sum((1, 2)) == 0).sum() == vanishing


def test_masks_of_an_input_that_the_network_pads():
    masks = torch.ones(2, 3, 50, 70, dtype=torch.bool)
    fitted = fit_to_map(subsample(masks), (8, 12))  # 64 x 96 pixels
    assert fitted.shape == (2, 3, 16, 24)
    assert fitted[..., :12, :17].all()
    assert fitted.sum() == 2 * 3 * 12 * 17
    same = subsample(torch.ones(1, 1, 64, 96, dtype=torch.bool))
    assert fit_to_map(same, (8, 12)) is same


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(1, 4, 0, 0, dtype=torch.bool), r"no masks, and RTMDet-Ins learns them: GroundTruth\.from_list"),
        (
            torch.zeros(1, 4, 17, 24, dtype=torch.bool),
            "masks have 17 x 24 cells of 4 pixels, .* 16 x 24: give masks in",
        ),
        (torch.zeros(1, 4, 16, 15, dtype=torch.bool), "masks have 16 x 15 cells .* 16 x 24"),
        (torch.zeros(1, 4, 64, 96, dtype=torch.bool), "masks have 64 x 96 cells"),
    ],
)
def test_masks_of_another_size_raise(masks, message):
    with pytest.raises(ValueError, match=message):
        unchecked(fit_to_map)(masks, (8, 12))
