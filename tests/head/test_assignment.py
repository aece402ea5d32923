import math

import pytest
import torch
from helpers.toy import grid, random_batch

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.head import assignment
from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.reference import assignment as reference
from minirtmdet.structures import GroundTruth

ASSIGNER = DynamicSoftLabelAssigner()


def one_image(boxes, labels=None, **kwargs):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return GroundTruth.from_list([boxes], [labels], **kwargs)


def predictions(priors, classes=3, reach=1.0):
    """Logits of 0 and boxes that reach ``reach`` strides to every side of each prior."""
    x, y, stride, _ = priors.unbind(-1)
    boxes = torch.stack([x - reach * stride, y - reach * stride, x + reach * stride, y + reach * stride], -1)
    return torch.zeros(1, len(priors), classes), boxes[None]


def test_class_cost_by_hand():
    # logits 0: sigmoid 1/2, BCE log 2 for every class and target.  Own class: |t - 1/2|^2, two others: 1/4 each.
    cost = assignment.class_cost(torch.zeros(1, 2, 3), torch.tensor([[1]]), torch.tensor([[[0.5, 1.0]]]))
    expected = [math.log(2) * (2 / 4 + 0), math.log(2) * (2 / 4 + 1 / 4)]
    torch.testing.assert_close(cost[0, 0], torch.tensor(expected))


def test_iou_cost_by_hand():
    costs = assignment.iou_cost(torch.tensor([1.0, math.exp(-1), 0.0]))
    torch.testing.assert_close(costs, torch.tensor([0.0, 1.0, -math.log(1e-7)]), atol=1e-6, rtol=1e-6)


def test_center_cost_by_hand():
    # 3-4-5: 40 px are 5 strides of 8 and 1.25 of 32
    priors = torch.tensor([[24.0, 32.0, 8, 8], [24.0, 32.0, 32, 32]])
    cost = assignment.center_cost(priors, torch.zeros(1, 1, 2), radius=3.0)
    torch.testing.assert_close(cost[0, 0], torch.tensor([10.0**2, 10**-1.75]))


def test_center_cost_stays_finite_far_away():
    priors = torch.tensor([[8000.0, 0.0, 8, 8]])
    assert assignment.center_cost(priors, torch.zeros(1, 1, 2), 3.0).isfinite().all()


def test_dynamic_k_sums_ious_rounds_down_and_is_at_least_one():
    ious = torch.zeros(1, 3, 20)
    ious[0, 0, :] = 0.5  # the 13 best sum to 6.5
    ious[0, 1, :3] = torch.tensor([0.9, 0.9, 0.3])  # 2.1
    ious[0, 2, 0] = 0.2
    assert assignment.dynamic_k(ious, 13).tolist() == [[6, 2, 1]]
    assert assignment.dynamic_k(ious[..., :4], 13).tolist() == [[2, 2, 1]]  # fewer priors than topk


def test_match_gives_a_conflict_to_the_cheapest_of_all_boxes():
    inf = math.inf
    cost = torch.tensor([[[1.0, 2.0, 9.0, inf], [0.5, 3.0, 9.0, inf], [0.4, 9.0, 4.0, inf]]])
    owner, positive = assignment.match(cost, torch.tensor([[2, 2, 1]]), topk=3)
    # prior 0 was chosen by all three and goes to box 2, prior 1 to box 0; box 1 loses everything
    assert owner[0, :2].tolist() == [2, 0]
    assert positive.tolist() == [[True, True, False, False]]


def test_match_lets_a_box_that_did_not_choose_win_a_conflict():
    # boxes 0 and 1 choose prior 0; box 2 chooses prior 1, but prior 0 costs it less than the other two
    cost = torch.tensor([[[2.0, 9.0], [3.0, 9.0], [1.0, 0.5]]])
    owner, positive = assignment.match(cost, torch.tensor([[1, 1, 1]]), topk=2)
    assert owner.tolist() == [[2, 2]]
    assert positive.all()


def test_perfect_predictions_are_positives_near_the_centre():
    priors = grid()
    gt = one_image([[8, 8, 56, 56]], [2])
    logits = torch.full((1, len(priors), 3), -5.0)
    logits[..., 2] = 5.0
    boxes = gt.boxes[:, :1].expand(1, len(priors), 4)
    result = ASSIGNER.assign(logits, boxes, priors, gt)
    positives = result.gt_inds[0] > 0
    assert positives.sum() == 13  # thirteen IoUs of 1 sum to 13
    assert result.max_overlaps[0, positives].tolist() == [1] * 13
    assert set(result.labels[0, positives].tolist()) == {2}
    distance = ((priors[positives, :2] - 32).square().sum(-1).sqrt() / priors[positives, 2]).max()
    assert distance < 3


def test_background_values():
    priors = grid()
    logits, boxes = predictions(priors)
    result = ASSIGNER.assign(logits, boxes, priors, one_image([[8, 8, 24, 24]]))
    background = result.gt_inds[0] == 0
    assert background.sum() > 70
    assert (result.max_overlaps[0, background] == 0).all()
    assert (result.labels[0, background] == -1).all()


def test_a_box_without_a_prior_inside_wins_a_far_one():
    priors = grid()
    gt = one_image([[4, 4, 28, 28], [41, 41, 47, 47]])
    logits, boxes = predictions(priors, reach=0.0)
    at_16 = (priors[:, :2] == 16).all(-1)
    first = at_16 & (priors[:, 2] == 8)
    boxes[0, first] = gt.boxes[0, 0]  # box 0 wants this prior and, with a sum of IoUs of 1, no other
    result = ASSIGNER.assign(logits, boxes, priors, gt)
    assert (result.gt_inds[0] == 1).nonzero().tolist() == first.nonzero().tolist()
    # candidates are the priors inside ANY box: of those, (16, 16) is 2.5 strides of 16 from box 1's centre
    assert (result.gt_inds[0] == 2).nonzero().tolist() == (at_16 & (priors[:, 2] == 16)).nonzero().tolist()
    assert result.max_overlaps[0, result.gt_inds[0] == 2].item() == 0


def test_a_prior_on_the_border_is_no_candidate():
    priors = grid()
    gt = one_image([[8, 8, 16, 16]])  # corners of stride-8 priors all lie on its border
    logits, boxes = predictions(priors)
    result = ASSIGNER.assign(logits, boxes, priors, gt)
    assert (result.gt_inds == 0).all()


def test_identical_boxes_share_no_prior():
    priors = grid()
    gt = one_image([[8, 8, 56, 56]] * 2, [0, 1])
    logits, boxes = predictions(priors)
    result = ASSIGNER.assign(logits, boxes, priors, gt)
    assert set(result.gt_inds[0].tolist()) <= {0, 1, 2}
    assert (result.gt_inds[0] > 0).sum() >= 1


def test_empty_image_empty_batch_and_single_box():
    priors = grid()
    logits, boxes = predictions(priors)
    result = ASSIGNER.assign(logits, boxes, priors, one_image([]))
    assert (result.gt_inds == 0).all()
    assert (result.max_overlaps == 0).all()
    none = ASSIGNER.assign(logits[:0], boxes[:0], priors, GroundTruth.from_list([], []))
    assert none.gt_inds.shape == (0, len(priors))
    tight = GroundTruth(*(field[:, :1] for field in one_image([[8, 8, 56, 56]])))  # G = 1, no padding
    assert (ASSIGNER.assign(logits, boxes, priors, tight).gt_inds > 0).sum() >= 1


def test_no_valid_prior_is_an_image_without_positives():
    priors = grid()
    logits, boxes = predictions(priors)
    valid = torch.zeros(1, len(priors), dtype=torch.bool)
    result = ASSIGNER.assign(logits, boxes, priors, one_image([[8, 8, 56, 56]]), valid)
    assert (result.gt_inds == -1).all()
    assert (result.max_overlaps == 0).all()


def test_invalid_priors_take_no_part():
    logits, boxes, priors, gt = random_batch([6], seed=3)
    valid = priors[None, :, 0] < 40
    result = ASSIGNER.assign(logits, boxes, priors, gt, valid)
    assert (result.gt_inds[~valid] == -1).all()
    kept = valid[0]
    alone = ASSIGNER.assign(logits[:, kept], boxes[:, kept], priors[kept], gt)
    assert torch.equal(result.gt_inds[:, kept], alone.gt_inds)


def test_ignored_region_takes_no_part_but_does_not_steal_positives():
    priors = grid()
    logits, boxes = predictions(priors)
    plain = ASSIGNER.assign(logits, boxes, priors, one_image([[4, 4, 30, 30]]))
    gt = GroundTruth.from_list(
        [torch.tensor([[4.0, 4, 30, 30], [4.0, 4, 60, 60]])],
        [torch.tensor([0, 0])],
        ignore=[torch.tensor([False, True])],
    )
    assert torch.equal(ASSIGNER.assign(logits, boxes, priors, gt).gt_inds, plain.gt_inds)  # as in the original
    result = DynamicSoftLabelAssigner(ignore_regions=True).assign(logits, boxes, priors, gt)
    assert torch.equal(result.gt_inds > 0, plain.gt_inds > 0)
    inside = ((priors[:, :2] > 4) & (priors[:, :2] < 60)).all(-1)
    assert (result.gt_inds[0, inside & (plain.gt_inds[0] <= 0)] == -1).all()
    assert (result.gt_inds[0, ~inside] == 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_reading_lane_equals_racing_lane(seed):
    counts = [[1, 0, 7], [20, 3, 300], [0, 0, 0], [5, 5, 5]][seed % 4]
    height, width = [(64, 64), (96, 160), (160, 32)][seed % 3]
    logits, boxes, priors, gt = random_batch(counts, [1, 5, 80][seed % 3], height, width, seed)
    racing = ASSIGNER.assign(logits, boxes, priors, gt)
    for image, count in enumerate(counts):
        reading = reference.assign(
            logits[image], boxes[image], priors, gt.boxes[image, :count], gt.labels[image, :count]
        )
        assert torch.equal(racing.gt_inds[image], reading.gt_inds)
        torch.testing.assert_close(racing.max_overlaps[image], reading.max_overlaps)
        assert torch.equal(racing.labels[image], reading.labels)


def test_closed_class_cost_equals_the_sum_over_classes():
    logits, boxes, _, gt = random_batch([40], classes=80, height=96, width=96, seed=5)
    logits = logits * 4  # logits to about 30, where a difference of large numbers would show
    ious = bbox_overlaps(gt.boxes[0, :40], boxes[0])  # [G,N]
    closed = assignment.class_cost(logits, gt.labels[:, :40], ious[None])[0]
    exact = reference.class_cost(logits[0].double(), gt.labels[0, :40], ious.T.double()).T
    assert ((closed - exact).abs() / exact).max() < 1e-6


def test_single_image_equals_its_place_in_a_batch():
    logits, boxes, priors, gt = random_batch([3, 17, 60], seed=1)
    together = ASSIGNER.assign(logits, boxes, priors, gt)
    for image in range(3):
        alone = ASSIGNER.assign(logits[image : image + 1], boxes[image : image + 1], priors, gt.image(image))
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(one[0], many[image])


def test_more_padding_changes_nothing():
    logits, boxes, priors, gt = random_batch([5], seed=2)
    padded = GroundTruth(*(torch.cat([f, torch.zeros(1, 9, *f.shape[2:], dtype=f.dtype)], 1) for f in gt))
    for one, other in zip(
        ASSIGNER.assign(logits, boxes, priors, gt), ASSIGNER.assign(logits, boxes, priors, padded), strict=True
    ):
        assert torch.equal(one, other)


def test_deterministic():
    logits, boxes, priors, gt = random_batch([50, 50], seed=4)
    first = ASSIGNER.assign(logits, boxes, priors, gt)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, ASSIGNER.assign(logits, boxes, priors, gt), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    logits, boxes, priors, gt = random_batch([5], seed=6)
    low = ASSIGNER.assign(logits.to(dtype), boxes.to(dtype), priors, gt)
    same = ASSIGNER.assign(logits.to(dtype).to(torch.float64), boxes.to(dtype).to(torch.float64), priors, gt)
    assert low.max_overlaps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(low.gt_inds, same.gt_inds)


def test_no_gradient_flows_through():
    logits, boxes, priors, gt = random_batch([5], seed=7)
    result = ASSIGNER.assign(logits.requires_grad_(), boxes.requires_grad_(), priors, gt)
    assert not result.max_overlaps.requires_grad


def test_centres_of_masks_move_the_positives():
    priors = grid()
    logits, boxes = predictions(priors)
    box = torch.tensor([[1.0, 1.0, 63.0, 63.0]])
    label = torch.tensor([0])
    middle = ASSIGNER.assign(logits, boxes, priors, GroundTruth.from_list([box], [label]))
    corner = ASSIGNER.assign(
        logits, boxes, priors, GroundTruth.from_list([box], [label], centers=[torch.tensor([[12.0, 12.0]])])
    )
    where = [priors[result.gt_inds[0] > 0, :2].mean() for result in (middle, corner)]
    assert where[1] < where[0]


def test_nearest_prior_fallback_keeps_an_empty_box_at_home():
    priors = grid()
    gt = one_image([[4, 4, 28, 28], [41, 41, 47, 47]])
    logits, boxes = predictions(priors, reach=0.0)
    first = (priors[:, :3] == torch.tensor([16.0, 16.0, 8.0])).all(-1)
    boxes[0, first] = gt.boxes[0, 0]
    original = ASSIGNER.assign(logits, boxes, priors, gt)
    assert priors[original.gt_inds[0] == 2, :3].tolist() == [[16, 16, 16]]
    corrected = DynamicSoftLabelAssigner(nearest_prior_fallback=True).assign(logits, boxes, priors, gt)
    # (40, 40) and (48, 48) are equally near to (44, 44), on two levels: the first of the finest level wins
    assert priors[corrected.gt_inds[0] == 2, :3].tolist() == [[40, 40, 8]]
    assert torch.equal(corrected.gt_inds == 1, original.gt_inds == 1)


def test_nearest_prior_fallback_changes_nothing_where_every_box_holds_a_prior():
    logits, boxes, priors, _ = random_batch([10], seed=8)
    big = GroundTruth.from_list([torch.tensor([[2.0, 2, 30, 40], [10.0, 20, 60, 60]])], [torch.tensor([0, 1])])
    for one, other in zip(
        ASSIGNER.assign(logits, boxes, priors, big),
        DynamicSoftLabelAssigner(nearest_prior_fallback=True).assign(logits, boxes, priors, big),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_nearest_prior_fallback_without_any_valid_prior():
    priors = grid()
    logits, boxes = predictions(priors)
    valid = torch.zeros(1, len(priors), dtype=torch.bool)
    assigner = DynamicSoftLabelAssigner(nearest_prior_fallback=True)
    assert (assigner.assign(logits, boxes, priors, one_image([[41, 41, 47, 47]]), valid).gt_inds == -1).all()


def test_candidates_come_first_and_in_order():
    candidates = torch.zeros(3, 10, dtype=torch.bool)
    candidates[0, [0, 3, 9]] = True
    candidates[1, 1] = True
    index = assignment.candidate_index(candidates)
    assert index.tolist() == [[0, 3, 9], [1, 0, 0], [0, 0, 0]]  # filled up with a prior that is none
    candidates[2, :8] = True
    assert assignment.candidate_index(candidates) is None
    assert assignment.candidate_index(candidates[:0]) is None
    assert assignment.candidate_index(torch.zeros(3, 10, dtype=torch.bool, device="meta")) is None  # as on a GPU


def test_some_priors_of_each_image_or_all():
    values = torch.arange(12.0).view(2, 3, 2)
    assert assignment.at(None, values).tolist() == values.tolist()
    assert assignment.at(torch.tensor([[2], [0]]), values).tolist() == [[[4, 5]], [[6, 7]]]
    assert assignment.at(torch.tensor([[2], [0]]), values[:1]).tolist() == [[[4, 5]], [[0, 1]]]


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("counts", [[7, 0, 1], [1], [0, 0], [30, 3]])
def test_candidates_alone_are_assigned_as_among_all(monkeypatch, counts, fallback):
    logits, boxes, priors, gt = random_batch(counts, 80, 160, 224, seed=11)
    half = (gt.boxes[..., 2:] - gt.boxes[..., :2]) / 8  # boxes a quarter as wide and high: few candidates
    gt = gt._replace(boxes=torch.cat([gt.centers - half, gt.centers + half], -1))
    assigner = DynamicSoftLabelAssigner(nearest_prior_fallback=fallback, ignore_regions=True)
    valid = priors[:, 0].expand(len(counts), -1) < 200
    assert assignment.candidate_index(assigner.candidates(priors, gt.boxes, gt, valid)).shape[1] < len(priors) / 2
    for given in (None, assignment.background_loss(logits)):
        found = assigner.assign(logits, boxes, priors, gt, valid, given)
        with monkeypatch.context() as patch:
            patch.setattr(assignment, "candidate_index", lambda candidates: None)
            expected = assigner.assign(logits, boxes, priors, gt, valid, given)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("block", [1, 500, 2**40])
def test_the_size_of_blocks_changes_nothing(monkeypatch, block):
    logits, boxes, priors, gt = random_batch([30, 2], seed=9)
    expected = ASSIGNER.assign(logits, boxes, priors, gt)
    monkeypatch.setattr(assignment, "BLOCK", block)
    for one, other in zip(expected, ASSIGNER.assign(logits, boxes, priors, gt), strict=True):
        assert torch.equal(one, other)


def test_blocks_cover_all_rows_once():
    row = torch.zeros(2, assignment.BLOCK // 8)
    rows = list(range(10))
    cut = [rows[block] for block in assignment.blocks(10, row)]
    assert cut == [rows[0:4], rows[4:8], rows[8:10]]
    assert assignment.blocks(0, row) == []
    assert len(assignment.blocks(10, row.to("meta"))) == 1  # as on a GPU


def test_activations_equal_torch_and_stay_finite():
    logits = torch.tensor([-1e4, -200.0, -87.0, -20.0, -3.0, 0.0, 3.0, 20.0, 1e4])
    probability, softplus = assignment.activations(logits)
    torch.testing.assert_close(probability, logits.sigmoid(), atol=1e-30, rtol=1e-6)
    torch.testing.assert_close(softplus, torch.nn.functional.softplus(logits), atol=1e-5, rtol=1e-6)
    assert (assignment.background_loss(logits[None, :, None])[0, :3] == 0).all()


def test_logits_and_boxes_of_background_spoil_no_assignment():
    logits, boxes, priors, _ = random_batch([5], seed=10)
    gt = one_image([[4, 4, 30, 30]])
    expected = ASSIGNER.assign(logits, boxes, priors, gt)
    boxes[0, (priors[:, 0] > 40)] = math.inf
    for one, other in zip(expected, ASSIGNER.assign(logits, boxes, priors, gt), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("device", "boxes", "expected"), [("cpu", 3, 3), ("meta", 32, 1), ("meta", 768, 7)])
def test_boxes_are_worked_on_in_blocks_that_fit_the_device(device: str, boxes: int, expected: int):
    """32 images of 640 pixels: a GPU takes 124 boxes at a time, 128 MiB, and a core one."""
    made = assignment.blocks(boxes, torch.empty(32, 8_400, device=device))
    assert len(made) == expected
    rows = [row for block in made for row in range(*block.indices(boxes))]
    assert rows == list(range(boxes))
