import math

import pytest
import torch

from minirtmdet.boxes import aligned_overlaps
from minirtmdet.head.losses import GIoULoss, QualityFocalLoss, loss_terms, normalise
from minirtmdet.reference import losses as reference
from minirtmdet.structures import LossTerms, Targets


def test_quality_focal_loss_by_hand():
    # logits 0: BCE is log 2 whatever the target.  Background: (1/2)^2 a class.  Target 1: |1 - 1/2|^2.  Target 1/2: 0.
    logits = torch.zeros(3, 4)
    loss = QualityFocalLoss()(logits, torch.tensor([4, 0, 3]), torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(loss, math.log(2) * torch.tensor([4 / 4, 3 / 4 + 1 / 4, 3 / 4]))


def test_quality_focal_loss_settings():
    logits = torch.zeros(1, 1)
    label, quality = torch.tensor([1]), torch.tensor([0.0])
    assert QualityFocalLoss(beta=3.0)(logits, label, quality).item() == pytest.approx(math.log(2) / 8)
    assert QualityFocalLoss(loss_weight=5.0)(logits, label, quality).item() == pytest.approx(5 * math.log(2) / 4)


def test_quality_focal_loss_is_least_at_its_target():
    logits = torch.linspace(-6, 6, 1201)[:, None]
    quality = torch.full((1201,), 0.75)
    best = QualityFocalLoss()(logits, torch.zeros(1201, dtype=torch.int64), quality).argmin()
    assert logits[best].sigmoid().item() == pytest.approx(0.75, abs=0.01)


def test_quality_focal_loss_equals_the_reading_lane_with_gradients():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 7, generator=generator) * 8
    labels = torch.randint(8, (500,), generator=generator)
    quality = torch.rand(500, generator=generator)
    gradients, losses = [], []
    for function in (QualityFocalLoss(), reference.quality_focal_loss):
        x = logits.clone().requires_grad_()
        losses.append(function(x, labels, quality))
        losses[-1].sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 3.0])
def test_the_slope_of_quality_focal_loss_is_its_derivative(beta):
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(2, 9, 4, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.randint(5, (2, 9), generator=generator)
    quality = torch.rand(2, 9, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: QualityFocalLoss(beta, 3.0)(x, labels, quality), logits)


def test_quality_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = QualityFocalLoss()(logits, torch.tensor([0, 2]), torch.tensor([1.0, 0.0]))
    loss.sum().backward()
    assert loss.tolist() == [0, 1e4]
    assert logits.grad.tolist() == [[0, 0], [0, 1]]


def test_giou_loss_by_hand_and_equals_the_reading_lane():
    box = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]])
    target = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [5.0, 0, 15, 10]])
    # equal: 0.  A gap of 10 in a hull of 300: 1 + 1/3.  Half overlap: 1 - 1/3.
    torch.testing.assert_close(GIoULoss()(box, target), torch.tensor([0, 4 / 3, 2 / 3]))
    assert torch.equal(GIoULoss()(box, target), reference.giou_loss(box, target))
    assert torch.equal(GIoULoss(loss_weight=2.0)(box, target), 2 * (1 - aligned_overlaps(box, target, "giou")))


def targets_of(labels, metrics, boxes, weights=None):
    labels, metrics = torch.tensor([labels]), torch.tensor([metrics])
    weights = torch.ones_like(metrics) if weights is None else torch.tensor([weights])
    return Targets(labels, weights, torch.tensor([boxes], dtype=torch.float32), metrics)


def test_terms_weigh_boxes_by_iou_and_hide_background():
    targets = targets_of([1, 0], [0.0, 0.5], [[0] * 4, [0, 0, 10, 10]], [1.0, 1.0])
    boxes = torch.tensor([[[1.0, 2, 3, 4], [20.0, 0, 30, 10]]])
    terms = loss_terms(torch.zeros(1, 2, 1), boxes, targets, QualityFocalLoss(), GIoULoss(loss_weight=2.0))
    torch.testing.assert_close(terms.bbox, torch.tensor([[0, 2 * 0.5 * 4 / 3]]))
    torch.testing.assert_close(terms.cls, math.log(2) * torch.tensor([[0.25, 0.0]]))
    assert terms.iou_sum == 0.5


def test_label_weight_zero_silences_the_class_loss():
    targets = targets_of([1, 1], [0.0, 0.0], [[0] * 4] * 2, [1.0, 0.0])
    terms = loss_terms(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4), targets, QualityFocalLoss(), GIoULoss())
    assert terms.cls[0, 0] > 0
    assert terms.cls[0, 1] == 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_bad_box_on_background_spoils_nothing(bad):
    targets = targets_of([1, 0], [0.0, 0.5], [[0] * 4, [0, 0, 10, 10]])
    boxes = torch.tensor([[[bad, 2, 3, 4], [0.0, 0, 9, 10]]], requires_grad=True)
    terms = loss_terms(torch.zeros(1, 2, 1), boxes, targets, QualityFocalLoss(), GIoULoss())
    terms.bbox.sum().backward()
    assert terms.bbox.isfinite().all()
    assert boxes.grad[0, 0].tolist() == [0] * 4
    assert boxes.grad[0, 1].isfinite().all()
    assert boxes.grad[0, 1, 2] < 0


def test_no_positive_at_all_gives_zero_and_a_zero_gradient():
    targets = targets_of([1, 1], [0.0, 0.0], [[0] * 4] * 2)
    boxes = torch.rand(1, 2, 4, requires_grad=True)
    terms = loss_terms(torch.zeros(1, 2, 1), boxes, targets, QualityFocalLoss(), GIoULoss())
    loss = normalise(terms, terms.iou_sum)["loss_bbox"]
    loss.backward()
    assert loss == 0
    assert (boxes.grad == 0).all()


def test_normalise_divides_by_the_iou_sum_but_not_by_less_than_one():
    terms = LossTerms(torch.tensor([[3.0, 1.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor(0.25))
    assert normalise(terms, terms.iou_sum) == {"loss_cls": 4, "loss_bbox": 2}
    assert normalise(terms, torch.tensor(8.0)) == {"loss_cls": 0.5, "loss_bbox": 0.25}
