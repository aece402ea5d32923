import pytest
import torch
from helpers.toy import random_batch, unchecked
from parity import instances
from parity.ours_instances import _leaves, _truth

from minirtmdet.configs import AssignerConfig, LossConfig
from minirtmdet.head.pipeline import RTMDetInsLoss, RTMDetLoss, flatten_levels
from minirtmdet.judge.waits import HostReads
from minirtmdet.reference import losses as reference_losses
from minirtmdet.reference import targets as reference_targets
from minirtmdet.structures import GroundTruth, InsOutputs

CLASSES = 5


def maps(batch=3, height=64, width=96, seed=0, grad=False):
    """Logits and distances as three levels of maps."""
    generator = torch.Generator().manual_seed(seed)
    cls_scores, bbox_preds = [], []
    for stride in (8, 16, 32):
        shape = (height // stride, width // stride)
        cls_scores.append(torch.randn(batch, CLASSES, *shape, generator=generator) - 2)
        bbox_preds.append(torch.rand(batch, 4, *shape, generator=generator) * 3 * stride)
    if grad:
        for level in cls_scores + bbox_preds:
            level.requires_grad_()
    return cls_scores, bbox_preds


def ground_truth(counts=(4, 0, 11), seed=0):
    return random_batch(list(counts), CLASSES, 64, 96, seed)[3]


def test_flatten_is_level_major_and_row_major():
    level0 = torch.arange(6.0).view(1, 1, 2, 3)
    level1 = torch.arange(10.0, 12.0).view(1, 1, 1, 2)
    assert flatten_levels([level0, level1])[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 11]


def test_each_class_and_each_coordinate_lies_in_a_row_of_memory():
    # a compiler reads these tensors where they lie: with steps of four it takes half as long again
    logits, boxes, priors, _ = RTMDetLoss(CLASSES).flatten(*maps())
    assert [values.stride(-2) for values in (logits, boxes, priors)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(4))
def test_losses_and_gradients_equal_the_reading_lane(seed):
    counts = [(4, 0, 11), (0, 0, 0), (1, 1, 1), (40, 2, 9)][seed]
    gt = ground_truth(counts, seed)
    pad_shapes = torch.tensor([[64, 96], [40, 96], [64, 50]])
    cls_scores, bbox_preds = maps(seed=seed, grad=True)
    criterion = RTMDetLoss(CLASSES)
    racing = criterion(cls_scores, bbox_preds, gt, pad_shapes)
    racing_grad = torch.autograd.grad(racing["loss_cls"] + racing["loss_bbox"], cls_scores + bbox_preds)

    logits, boxes, priors, valid = criterion.flatten(cls_scores, bbox_preds, pad_shapes)
    targets = [
        reference_targets.get_targets(
            logits[i].detach(), boxes[i].detach(), priors, valid[i], gt.boxes[i, :n], gt.labels[i, :n]
        )
        for i, n in enumerate(counts)
    ]
    reading = reference_losses.loss_by_feat(list(logits), list(boxes), targets)
    reading_grad = torch.autograd.grad(reading["loss_cls"] + reading["loss_bbox"], cls_scores + bbox_preds)
    for key in reading:
        torch.testing.assert_close(racing[key], reading[key])
    for ours, theirs in zip(racing_grad, reading_grad, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert racing["num_pos"] == sum((t.labels < CLASSES).sum() for t in targets) / 3


def test_pad_shapes_silence_the_padding():
    cls_scores, bbox_preds = maps(1, grad=True)
    loss = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, ground_truth([3]), torch.tensor([[64, 40]]))["loss_cls"]
    gradient = torch.autograd.grad(loss, cls_scores)[0]
    assert (gradient[..., 5:] == 0).all()
    assert (gradient[..., :5] != 0).all()


def test_ignored_region_is_not_learned_as_background():
    box = torch.tensor([[0.5, 0.5, 40.0, 40.0]])
    gt = GroundTruth.from_list([box], [torch.tensor([0])], ignore=[torch.tensor([True])])
    cls_scores, bbox_preds = maps(1, grad=True)
    losses = RTMDetLoss(CLASSES, AssignerConfig(ignore_regions=True))(cls_scores, bbox_preds, gt)
    gradient = torch.autograd.grad(losses["loss_cls"], cls_scores)[0]
    assert losses["num_pos"] == 0
    assert (gradient[0, :, 1:5, 1:5] == 0).all()
    assert (gradient[0, :, 0, :] != 0).all()
    assert (gradient[0, :, :, 5:] != 0).all()


def test_allowed_border_leaves_the_grey_padding_out():
    cls_scores, bbox_preds = maps(1, grad=True)
    gt = ground_truth([3])
    bordered = RTMDetLoss(CLASSES, AssignerConfig(allowed_border=0))
    loss = bordered(cls_scores, bbox_preds, gt, img_shapes=torch.tensor([[64, 40]]))["loss_cls"]
    gradient = torch.autograd.grad(loss, cls_scores)[0]
    assert (gradient[..., 5:] == 0).all()
    assert (gradient[..., :5] != 0).all()
    with pytest.raises(ValueError, match="allowed_border is 0: give img_shapes, or set it to -1"):
        bordered(cls_scores, bbox_preds, gt)


def test_weights_scale_the_losses():
    cls_scores, bbox_preds = maps()
    gt = ground_truth()
    plain = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, gt)
    heavy = RTMDetLoss(CLASSES, loss=LossConfig(cls_weight=3.0, bbox_weight=8.0))(cls_scores, bbox_preds, gt)
    torch.testing.assert_close(heavy["loss_cls"], 3 * plain["loss_cls"])
    torch.testing.assert_close(heavy["loss_bbox"], 4 * plain["loss_bbox"])


def test_losses_are_divided_by_what_the_processes_agree_on():
    cls_scores, bbox_preds = maps()
    alone = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, ground_truth())
    together = RTMDetLoss(CLASSES, reduce_mean=lambda iou_sum: 2 * iou_sum)(cls_scores, bbox_preds, ground_truth())
    for name in ("loss_cls", "loss_bbox"):
        torch.testing.assert_close(together[name], alone[name] / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_lose_nothing_in_the_losses(dtype):
    cls_scores, bbox_preds = maps()
    cls_scores, bbox_preds = [x.to(dtype) for x in cls_scores], [x.to(dtype) for x in bbox_preds]
    gt = ground_truth()
    criterion = RTMDetLoss(CLASSES)
    low = criterion(cls_scores, bbox_preds, gt)
    exact = criterion([x.double() for x in cls_scores], [x.double() for x in bbox_preds], gt)
    for key in ("loss_cls", "loss_bbox"):
        assert low[key].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert low[key].item() == pytest.approx(exact[key].item(), rel=1e-5)


def test_order_of_images_does_not_matter():
    cls_scores, bbox_preds = maps()
    gt = ground_truth()
    flipped = GroundTruth(*(field.flip(0) for field in gt))
    one = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, gt)
    other = RTMDetLoss(CLASSES)([x.flip(0) for x in cls_scores], [x.flip(0) for x in bbox_preds], flipped)
    for key in one:
        torch.testing.assert_close(one[key], other[key])


def test_the_training_path_never_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU: shapes that stay
    cls_scores, bbox_preds = maps(grad=True)
    gt = ground_truth()
    pad_shapes = torch.tensor([[64, 96]] * 3)
    with HostReads() as reads:
        losses = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, gt, pad_shapes)
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
    assert reads.seen == []


def test_the_counter_sees_a_wait():
    with HostReads() as reads:
        x = torch.arange(3.0)
        x[x > 1]
        x.nonzero()
        float(x[0])
    assert len(reads.seen) >= 3


# -- with masks ------------------------------------------------------------------------------------------------------

INS_LOSSES = ("loss_cls", "loss_bbox", "loss_mask")


def with_masks(name="plain"):
    """Outputs and ground truth of a case with masks."""
    case = instances.LOSSES[name]()
    return _leaves(case), _truth(case)


def leaves_of(outputs):
    cls_scores, bbox_preds, kernel_preds, mask_feat = outputs
    return [*cls_scores, *bbox_preds, *kernel_preds, mask_feat]


def image_of(outputs, truth, image):
    """One image of a batch, as the batch of another process."""
    one = InsOutputs(
        *(tuple(m[image : image + 1] for m in part) for part in outputs[:3]), outputs[3][image : image + 1]
    )
    return one, truth.image(image)


def test_masks_change_nothing_for_classes_and_boxes_but_the_centres():
    outputs, truth = with_masks()
    losses = RTMDetInsLoss(instances.CLASSES)(*outputs, truth)
    without = RTMDetLoss(instances.CLASSES)(*outputs[:2], truth)
    assert losses.keys() == {*INS_LOSSES, "num_pos"}
    assert {name: losses[name] for name in without} == without
    half = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
    assert RTMDetLoss(instances.CLASSES)(*outputs[:2], truth._replace(centers=half))["loss_cls"] != without["loss_cls"]


def test_two_processes_exchange_two_numbers_at_once_and_learn_as_one():
    outputs, truth = with_masks("three-images")
    together = RTMDetInsLoss(instances.CLASSES)(*outputs, truth)
    expected = torch.autograd.grad(sum(together[name] for name in INS_LOSSES), leaves_of(outputs))

    criterion, seen = RTMDetInsLoss(instances.CLASSES), []
    criterion.reduce_mean = lambda values: seen.append(values.detach()) or values
    for image in range(3):
        criterion(*image_of(outputs, truth, image)[0], truth.image(image))
    assert [values.shape for values in seen] == [(2,)] * 3  # one exchange for each process
    mean = torch.stack(seen).mean(0)
    criterion.reduce_mean = lambda values: mean
    apart = [criterion(*image_of(outputs, truth, image)[0], truth.image(image)) for image in range(3)]
    for name in INS_LOSSES:
        torch.testing.assert_close(sum(losses[name] for losses in apart) / 3, together[name])
    total = sum(losses[name] for losses in apart for name in INS_LOSSES) / 3
    for ours, theirs in zip(torch.autograd.grad(total, leaves_of(outputs)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_process_without_positives_gives_zeros_to_every_map():
    outputs, truth = with_masks("no-instance")
    losses = RTMDetInsLoss(instances.CLASSES)(*outputs, truth)
    assert (losses["loss_mask"], losses["num_pos"]) == (0, 0)
    sum(losses[name] for name in INS_LOSSES).backward()
    assert all(leaf.grad is not None for leaf in leaves_of(outputs))
    assert all((leaf.grad == 0).all() for leaf in leaves_of(outputs)[3:])


def test_a_batch_without_a_row_for_boxes_has_no_positives():
    outputs, truth = with_masks("no-instance")
    bare = GroundTruth(*(field[:, :0] for field in truth))
    assert bare.masks.shape[1] == 0
    assert RTMDetInsLoss(instances.CLASSES)(*outputs, bare) == RTMDetInsLoss(instances.CLASSES)(*outputs, truth)


def test_the_weight_of_the_mask_loss_and_what_empty_masks_cost():
    outputs, truth = with_masks("empty-mask")
    plain, heavy, without = (
        RTMDetInsLoss(instances.CLASSES, loss=loss)(*outputs, truth)["loss_mask"]
        for loss in (LossConfig(), LossConfig(mask_weight=6.0), LossConfig(drop_empty_masks=True))
    )
    torch.testing.assert_close(heavy, 3 * plain)
    assert without < plain < 2


def test_masks_of_an_input_that_is_no_multiple_of_32_are_padded_as_it_is():
    outputs, truth = with_masks()
    cut = truth._replace(masks=truth.masks[..., :-3, :-2])
    blank = truth.masks.clone()
    blank[..., -3:, :] = False
    blank[..., -2:] = False
    criterion = RTMDetInsLoss(instances.CLASSES)
    assert criterion(*outputs, cut) == criterion(*outputs, truth._replace(masks=blank))


def test_boxes_without_masks_raise():
    outputs, truth = with_masks()
    plain = GroundTruth.from_list([truth.boxes[0, :1]] * 2, [truth.labels[0, :1]] * 2)
    with pytest.raises(ValueError, match="these boxes have no masks, and RTMDet-Ins learns them"):
        unchecked(RTMDetInsLoss.__call__)(RTMDetInsLoss(instances.CLASSES), *outputs, plain)


def test_the_training_path_with_masks_never_waits_for_the_device(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    outputs, truth = with_masks()
    pad_shapes = torch.tensor([[128, 160], [96, 128]])
    with HostReads() as reads:
        losses = RTMDetInsLoss(instances.CLASSES)(*outputs, truth, pad_shapes)
        sum(losses[name] for name in INS_LOSSES).backward()
    assert reads.seen == []
