"""The book's page of errata, line by line: what MMDetection was seen to do, and what this package does.

``fixtures/errata.json`` holds what ``parity/record_errata.py`` recorded in the reference environment.
"""

import json
import math
import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import cases, instances, ours_instances
from parity.record import FIXTURES
from parity.record_errata import ERRATA, INF, NAN, small
from torch import Tensor, nn

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import (
    MODELS,
    AssignerConfig,
    AugmentConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
)
from minirtmdet.data.augment import Sample
from minirtmdet.data.masks import decode_mask, draw_polygons
from minirtmdet.data.pipeline import TrainPipeline
from minirtmdet.detector import build_detector
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import FlatCosine
from minirtmdet.head.assignment import DynamicSoftLabelAssigner, center_cost, match
from minirtmdet.head.losses import GIoULoss, QualityFocalLoss
from minirtmdet.head.network import RTMDetInsSepBNHead
from minirtmdet.head.pipeline import RTMDetInsLoss, RTMDetLoss
from minirtmdet.head.postprocess import batched_nms, predict_by_feat, stretch_masks
from minirtmdet.head.priors import border_flags
from minirtmdet.presets import PRESETS
from minirtmdet.reference import assignment as reference
from minirtmdet.reference.losses import dice_loss
from minirtmdet.structures import GroundTruth

RECORD = json.loads((FIXTURES / "errata.json").read_text())
ORIGINAL = RECORD["answers"]
SMALL = ModelConfig(deepen_factor=0.1, widen_factor=0.125, neck_csp_blocks=1, num_classes=3)


def loss_of(
    scene: cases.Scene, truth: GroundTruth | None = None, assigner: AssignerConfig = AssignerConfig()
) -> dict[str, Tensor]:
    """Both losses of a scene, with gradients to its maps."""
    truth = truth or GroundTruth.from_list(scene.boxes, scene.labels, num_classes=scene.num_classes)
    maps = scene.levels(scene.cls_scores), scene.levels(scene.distances)
    return RTMDetLoss(scene.num_classes, assigner)(*maps, truth, torch.tensor(scene.pad_shapes))


def test_every_line_is_recorded() -> None:
    assert set(ORIGINAL) == set(ERRATA)
    assert RECORD["versions"]["mmdet"] == "3.3.0"


def test_far_prior_can_be_replaced_by_the_nearest() -> None:
    original = ORIGINAL["far_prior"]
    assert original["distance"] > 800
    assert original["iou"] == 0
    scene = cases.SCENES["far-prior"]()
    truth = GroundTruth.from_list(scene.boxes, scene.labels)
    found = {}
    for fallback in (False, True):
        assigner = DynamicSoftLabelAssigner(nearest_prior_fallback=fallback)
        result = assigner.assign(scene.cls_scores, scene.bboxes, scene.priors, truth)
        found[fallback] = scene.priors[result.gt_inds[0] == 1][:, :3].tolist()
    assert found[False] == [original["prior"]]
    assert found[True] == [[600, 600, 8]]  # 5.7 px from the centre of the box


def test_points_on_the_border_of_a_box_are_outside() -> None:
    assert ORIGINAL["points_on_the_border"]["positives of a box given as"] == {"plain tensor": 2, "HorizontalBoxes": 10}
    scene = small([[8.0, 8.0, 24.0, 24.0]])
    exact = scene.boxes[0].expand(1, len(scene.priors), 4)
    truth = GroundTruth.from_list(scene.boxes, [torch.tensor([0])])
    result = DynamicSoftLabelAssigner().assign(torch.zeros(*exact.shape[:2], 3), exact, scene.priors, truth)
    assert scene.priors[result.gt_inds[0] == 1].tolist() == [[16, 16, 8, 8], [16, 16, 16, 16]]


def test_centre_cost_stays_finite_where_the_original_overflows() -> None:
    original = ORIGINAL["centre_cost_overflow"]
    assert [math.isinf(cost) for cost in original["cost"]] == [False, False, True, True]
    priors = torch.tensor([[8.0 * away, 0.0, 8.0, 8.0] for away in original["strides away"]])
    cost = center_cost(priors, torch.zeros(1, 1, 2), radius=3.0)[0, 0]
    assert cost.isfinite().all()
    torch.testing.assert_close(cost[:2], torch.tensor(original["cost"][:2]), rtol=1e-4, atol=0)


def test_ignored_boxes_can_be_ignored() -> None:
    original = ORIGINAL["ignored_boxes"]
    assert original["without"] == original["with a crowd over the whole picture"]
    scene = small([[4.0, 4.0, 30.0, 30.0]])
    plain = loss_of(scene)
    assert plain["loss_cls"].item() == pytest.approx(sum(original["without"]), rel=1e-5)
    crowd = torch.cat([scene.boxes[0], torch.tensor([[-1.0, -1.0, 64.0, 64.0]])])
    truth = GroundTruth.from_list(
        [crowd], [torch.tensor([int(scene.labels[0]), 0])], ignore=[torch.tensor([False, True])]
    )
    with_crowd = loss_of(scene, truth)
    assert with_crowd["loss_cls"].item() == pytest.approx(
        sum(original["with a crowd over the whole picture"]), rel=1e-5
    )
    ignored = loss_of(scene, truth, AssignerConfig(ignore_regions=True))
    assert ignored["loss_cls"] < plain["loss_cls"]
    assert ignored["num_pos"] == with_crowd["num_pos"] == plain["num_pos"]


def test_border_test_reads_positions_not_strides() -> None:
    original = ORIGINAL["border_test"]
    points = original["points (x, y, stride, stride)"]
    assert points[1][:2] == [5000, 5000]
    assert original["inside a picture of 20 x 20"] == [True, True, False]
    assert border_flags(torch.tensor(points), torch.tensor([[20, 20]]), 0).tolist() == [[True, False, True]]


def test_an_image_without_valid_priors_has_no_positives() -> None:
    assert "too many values to unpack" in ORIGINAL["no_valid_prior"]["error"]
    losses = loss_of(small([[4.0, 4.0, 30.0, 30.0]], pad_shapes=[(0, 0)]))
    assert {name: value.item() for name, value in losses.items()} == {"loss_cls": 0, "loss_bbox": 0, "num_pos": 0}


def test_a_second_call_is_like_the_first() -> None:
    original = ORIGINAL["changed_arguments"]
    assert original["first call"] == "none"
    assert original["second call"].startswith("TypeError")
    scene = small([[4.0, 4.0, 30.0, 30.0]])
    truth = GroundTruth.from_list(scene.boxes, scene.labels)
    before = [field.clone() for field in truth]
    losses = [loss_of(scene, truth) for _ in range(2)]
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(before, truth, strict=True))


def test_a_bad_prediction_on_background_spoils_no_loss() -> None:
    original = ORIGINAL["level_without_positives"]["loss_bbox"]
    assert math.isnan(original[-1])
    scene = small([[4.0, 4.0, 12.0, 12.0]])
    scene.distances[0, -1, 2] = INF
    assert loss_of(scene)["loss_bbox"].item() == pytest.approx(original[0], rel=1e-5)


def test_inverted_boxes_can_be_clamped() -> None:
    original = ORIGINAL["inverted_boxes"]
    assert original["loss"] < -800
    pair = torch.tensor([[30.0, 30.0, 0.5, 0.5]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert GIoULoss()(*pair).item() == pytest.approx(original["loss"])
    assert 0 <= GIoULoss(clamp_inverted=True)(*pair).item() <= 2


def test_bad_boxes_and_labels_are_named() -> None:
    original = ORIGINAL["bad_boxes_and_labels"]
    assert [original[name] for name in ("a box with NaN", "a box without width", "logits that are NaN")] == ["none"] * 3
    assert "image" not in original["label 3 of 3 classes"]
    make = partial(GroundTruth.from_list, num_classes=3)
    for box, label, message in (
        ([4.0, NAN, 30.0, 30.0], 0, "image 0, box 0: .* is not finite"),
        ([9.0, 4.0, 9.0, 30.0], 0, "image 0, box 0: .* has no width"),
        ([4.0, 4.0, 30.0, 30.0], 3, r"image 0, box 0: label 3 is outside 0\.\.2"),
    ):
        with pytest.raises(ValueError, match=message):
            make([torch.tensor([box])], [torch.tensor([label])])


def test_losses_know_every_precision() -> None:
    original = ORIGINAL["precisions"]
    assert all(error.startswith("RuntimeError") for error in original.values())
    scene = small([[4.0, 4.0, 30.0, 30.0]])
    double = scene._replace(cls_scores=scene.cls_scores.double(), distances=scene.distances.double())
    assert loss_of(double)["loss_cls"].dtype == torch.float64
    low = QualityFocalLoss()(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0]), torch.tensor([0.5]))
    assert low.isfinite().all()


def test_sides_may_be_anything() -> None:
    original = ORIGINAL["odd_sizes"]
    assert original["64 x 96"] == "none"
    assert original["64 x 80"].startswith("RuntimeError: Sizes of tensors must match")
    cls_scores, _ = build_detector(SMALL).eval()(torch.zeros(1, 3, 64, 80))
    assert [tuple(level.shape[-2:]) for level in cls_scores] == [(8, 12), (4, 6), (2, 3)]


def test_width_and_height_are_scaled_back_each_by_its_own() -> None:
    original = ORIGINAL["rescaled_masks"]
    assert original["height and width of the picture"] == [16, 64]
    assert original["height and width of its masks"] == [16, 16]
    # the same picture, 16 px high and 64 px wide, seen as 32 x 32
    maps = [torch.full((1, 1, n, n), 3.0) for n in (4, 2, 1)], [torch.full((1, 4, n, n), 99.0) for n in (4, 2, 1)]
    (found,) = predict_by_feat(*maps, img_shapes=[(32, 32)], scale_factors=[(0.5, 2.0)])
    assert found.boxes.amax(0).tolist() == [0, 0, 64, 16]
    for sides, size in (("rounding", [16, 64]), ("never", [16, 64]), ("always", [16, 16])):
        config = PredictConfig(swap_mask_sides=sides)
        masks = stretch_masks(torch.zeros(1, 4, 4), (16, 64), (0.5, 2.0), config)
        assert list(masks.shape) == size


def test_no_mask_is_a_row_short() -> None:
    original = ORIGINAL["short_masks"]
    assert (original["picture"], original["its masks"]) == ([100, 27], [99, 27])
    case = instances.PASTE["short"]()
    for sides, height in (("rounding", 100), ("never", 100), ("always", 99)):
        answer = ours_instances.predict(case._replace(swap_mask_sides=sides))
        assert answer["mask_sizes"][0, 1:].tolist() == [height, 27]


def test_class_and_box_share_one_tower_and_no_level_shares_a_kernel() -> None:
    original = ORIGINAL["one_tower"]
    assert original["reg_convs[0] is cls_convs[0]"]
    assert not original["levels share the convolutions of the kernels"]
    head = RTMDetInsSepBNHead(3, 16).train()
    head([torch.randn(2, 16, n, n) for n in (8, 4, 2)])
    assert head.reg_convs[0] is head.cls_convs[0]
    assert head.cls_convs[0][0].bn.num_batches_tracked == original["updates of its BatchNorms in one step"] == 2
    assert head.kernel_convs[0][0].conv is not head.kernel_convs[1][0].conv


def test_every_positive_trains_its_own_kernel() -> None:
    original = ORIGINAL["strangers_kernels"]
    assert original["loss_mask"] != original["with the kernels of the positives"]
    assert original["largest gradient of a kernel that is no positive's"] > 0.001
    case = instances.LOSSES["padded"]()
    outputs = ours_instances._leaves(case)
    criterion = RTMDetInsLoss(instances.CLASSES)
    maps = *outputs, ours_instances._truth(case), torch.tensor(case.scene.pad_shapes)
    loss = criterion(*maps)["loss_mask"]
    assert loss.item() == pytest.approx(original["with the kernels of the positives"], abs=1e-4)
    grads = torch.cat([g.flatten(2).mT for g in torch.autograd.grad(loss, outputs.kernel_preds)], 1)
    positive = criterion.assign(*outputs[:2], *maps[-2:]).gt_inds > 0
    assert positive.sum() == original["positives"]
    assert (grads[positive] != 0).any(-1).all()
    assert (grads[~positive] == 0).all()


def test_an_empty_mask_is_a_constant_that_can_be_left_out() -> None:
    original = ORIGINAL["empty_masks"]
    assert original["loss"][1] == 2
    assert original["largest gradient"][1] == 0 < original["largest gradient"][0]
    logits = cases.normal("errata/dice", 2, 16, 16)
    target = torch.zeros(2, 16, 16, dtype=torch.bool)
    target[0, 4:8, 4:12] = True
    assert [round(2 * float(loss), 4) for loss in dice_loss(logits, target)] == original["loss"]
    case = instances.LOSSES["empty-mask"]()
    losses = {}
    for drop in (False, True):
        criterion = RTMDetInsLoss(instances.CLASSES, loss=LossConfig(drop_empty_masks=drop))
        losses[drop] = criterion(*ours_instances._leaves(case), ours_instances._truth(case))["loss_mask"]
    assert losses[True] < losses[False] < 2


def test_no_parameter_is_left_without_a_gradient() -> None:
    original = ORIGINAL["no_mask_gradient"]
    assert (original["parameters without a gradient"], original["of the branches"]) == (
        24,
        ["kernel_convs", "rtm_kernel"],
    )
    model = build_detector(replace(SMALL, masks=True))
    truth = GroundTruth.from_list(
        [torch.zeros(0, 4)] * 2,
        [torch.zeros(0, dtype=torch.int64)] * 2,
        masks=[torch.zeros(0, 64, 64, dtype=torch.bool)] * 2,
    )
    losses = model(torch.zeros(2, 3, 64, 64), truth)
    (losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_truth_can_be_used_again() -> None:
    original = ORIGINAL["repeated_mask_loss"]
    assert original["first call"] == "none"
    assert original["second call"].startswith("AttributeError")
    truth = GroundTruth.from_list(
        [torch.tensor([[4.0, 4.0, 28.0, 28.0]])], [torch.tensor([0])], centers=[torch.tensor([[9.0, 9.0]])]
    )
    scene = small([[4.0, 4.0, 28.0, 28.0]])
    assert loss_of(scene, truth) == loss_of(scene, truth)
    assert truth.centers[0, 0].tolist() == [9, 9]
    case = instances.LOSSES["plain"]()
    outputs, truth = ours_instances._leaves(case), ours_instances._truth(case)
    assert RTMDetInsLoss(instances.CLASSES)(*outputs, truth) == RTMDetInsLoss(instances.CLASSES)(*outputs, truth)


def test_equal_costs_have_no_order_to_rely_on() -> None:
    chosen = ORIGINAL["ties"]["the three smallest of forty zeros"]
    assert sorted(chosen) != [0, 1, 2]
    # k of the equal priors, whichever they are
    _, positive = match(torch.zeros(1, 1, 40), torch.tensor([[3]]), topk=13)
    assert positive.sum() == 3


def variant(scene: cases.Scene, change: str) -> Tensor:
    """``[N,G]``: the priors of each box when one step of the assignment of image 0 is changed."""
    logits, points, boxes, labels = scene.cls_scores[0], scene.priors, scene.boxes[0], scene.labels[0]
    ious = bbox_overlaps(scene.bboxes[0], boxes)
    class_cost = reference.class_cost(logits, labels, ious)
    if change == "class cost of the own class alone":
        own = logits[:, labels]
        class_cost = nn.functional.binary_cross_entropy_with_logits(own, ious, reduction="none")
        class_cost = class_cost * (ious - own.sigmoid()).square()
    cost = class_cost + reference.iou_cost(ious) * 3 + reference.center_cost(points, scene.centers[0])
    candidate = reference.candidates(points, boxes)
    if change != "no valid flags":
        candidate &= scene.valid[0]
    ks = reference.dynamic_k(ious if change == "k over all priors" else ious[candidate])
    chosen = torch.zeros_like(ious, dtype=torch.bool)
    chosen[candidate] = reference.resolve_conflicts(reference.choose(cost[candidate], ks), cost[candidate])
    return chosen


@pytest.mark.parametrize("change", ["class cost of the own class alone", "k over all priors", "no valid flags"])
def test_a_changed_step_is_another_assignment(change: str) -> None:
    differs = 0
    for seed in range(10):
        boxes = cases.random_boxes(f"variant{seed}", 10, (160, 160), low=12.0)
        scene = cases.scene(f"variant{seed}", (160, 160), [boxes], num_classes=20, pad_shapes=[(120, 120)])
        truth = GroundTruth.from_list(scene.boxes, scene.labels)
        ours = DynamicSoftLabelAssigner().assign(scene.cls_scores, scene.bboxes, scene.priors, truth, scene.valid)
        assert torch.equal(variant(scene, "none").any(1), ours.gt_inds[0] > 0)
        differs += not torch.equal(variant(scene, change), variant(scene, "none"))
    assert differs > 0


def test_depthwise_convolutions_can_be_shared() -> None:
    assert ORIGINAL["shared_depthwise"]["error"].startswith("AttributeError")
    head = build_detector(replace(SMALL, use_depthwise=True, share_conv=True)).bbox_head
    first, second = head.cls_convs[0][0], head.cls_convs[1][0]
    assert first.depthwise_conv.conv is second.depthwise_conv.conv
    assert first.pointwise_conv.conv is second.pointwise_conv.conv
    assert first.depthwise_conv.bn is not second.depthwise_conv.bn


def test_objectness_is_asked_for() -> None:
    original = ORIGINAL["objectness_by_default"]
    assert original["default of with_objectness"] is True
    assert ModelConfig().with_objectness is False
    counts = original["parameters of nano"]
    nano = replace(MODELS["nano"], num_classes=1)
    for with_objectness in (False, True):
        with torch.device("meta"):
            detector = build_detector(replace(nano, with_objectness=with_objectness))
        assert sum(p.numel() for p in detector.parameters()) == counts[f"with_objectness={with_objectness}"]


def test_boxes_end_with_the_image_not_with_its_padding() -> None:
    original = ORIGINAL["clipped_to_padding"]
    assert original["img_shape after Pad"] == [64, 64]
    assert original["right and lower end of boxes"] == [64, 64]
    scene = small([[4.0, 4.0, 60.0, 60.0]])
    maps = scene.levels(scene.cls_scores + 5.0), scene.levels(torch.full_like(scene.distances, 500.0))
    (found,) = predict_by_feat(*maps, img_shapes=[(40, 60)])
    assert found.boxes.amax(0).tolist() == [0, 0, 60, 40]


def test_boxes_beyond_the_corner_suppress_their_own_class_alone() -> None:
    original = ORIGINAL["negative_coordinates"]
    assert original["kept"] == {"one class": [0, 1], "two classes": [0]}
    boxes, scores = torch.tensor(original["boxes"]), torch.tensor([0.9, 0.8])
    assert not bbox_overlaps(boxes[:1], boxes[1:]).any()
    for labels in ([0, 0], [1, 0]):
        assert batched_nms(boxes, scores, torch.tensor(labels), 0.5, 300).tolist() == [0, 1]
    assert batched_nms(boxes, scores, torch.tensor([1, 0]), 0.5, 300, as_mmcv=True).tolist() == [0]


def test_a_shared_weight_can_be_averaged_once() -> None:
    original = ORIGINAL["shared_average"]
    share = 0.9 * math.exp(-2) + 0.1
    assert original["alone"] == pytest.approx(share, abs=1e-6)
    assert original["level0"] == pytest.approx(1 - (1 - share) ** 3, abs=1e-6)
    shared = nn.Linear(1, 1, bias=False)
    names = ("level0", "level1", "level2")
    model = nn.ModuleDict({**dict.fromkeys(names, shared), "alone": nn.Linear(1, 1, bias=False)})
    averages = {once: ExpMomentumEMA(model, momentum=0.1, ramp=1, shared_once=once) for once in (False, True)}
    for weight in (0.0, 1.0):
        for parameter in model.parameters():
            nn.init.constant_(parameter, weight)
        for average in averages.values():
            average.update(model)
    found = {once: average.module.state_dict() for once, average in averages.items()}
    assert found[False]["alone.weight"].item() == pytest.approx(original["alone"], abs=1e-6)
    assert found[False]["level0.weight"].item() == pytest.approx(original["level0"], abs=1e-6)
    assert {round(float(value), 6) for value in found[True].values()} == {original["alone"]}


def test_the_cosine_can_be_kept_from_rising_again() -> None:
    original = {int(re.match(r"\d+", name)[0]): rates for name, rates in ORIGINAL["cosine_of_odd_runs"].items()}
    assert original[7][-1] > original[7][-2]
    for epochs, rates in original.items():
        config = OptimConfig(lr=1.0, base_batch=1, warmup_iters=0)
        schedule = FlatCosine.from_config(config, epochs, 100, batch_size=1)
        ours = [schedule(step) for step in range(100 * epochs)]
        assert [*ours[::100], ours[-1]] == pytest.approx(rates, abs=1e-3)

        schedule = FlatCosine.from_config(replace(config, cosine_to_the_end=True), epochs, 100, batch_size=1)
        ours = [schedule(step) for step in range(100 * epochs)]
        assert all(after <= before for before, after in pairwise(ours))
        assert ours[-1] == pytest.approx(0.05, abs=1e-3)


def test_the_largest_ins_has_the_batch_of_its_name() -> None:
    large, largest = ORIGINAL["batch_of_x"].values()
    assert (large["images per GPU"], largest["images per GPU"]) == (32, 32)
    assert largest["learning rate"] == large["learning rate"] / 2
    ours = PRESETS["rtmdet-ins-x"]
    assert (ours.batch_size, ours.optim.lr, ours.optim.base_batch) == (16, largest["learning rate"], 8 * 16)


def test_the_backbone_starts_as_by_default() -> None:
    original = {name: value["largest * sqrt(fan in)"] for name, value in ORIGINAL["backbone_init"].items()}
    assert original["default"] == pytest.approx(1, abs=0.01)
    assert original["init_cfg=None"] > 3
    torch.manual_seed(0)
    weight = build_detector(replace(SMALL, widen_factor=0.25)).backbone.stage1[0].conv.weight
    assert float(weight.detach().abs().max()) * 12 == pytest.approx(original["default"], abs=0.01)


def test_images_without_boxes_can_be_seen() -> None:
    assert ORIGINAL["pictures_without_boxes"] == {"one box": "kept", "no box": "given up"}
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    whole = np.array([[4, 4, 30, 30]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool)
    pixels, size = np.zeros((32, 32, 3), np.uint8), (32, 32)
    pictures = [Sample(pixels, *truth, i, Path("a.png"), size, size) for i, truth in enumerate((empty, whole))]
    order = np.array([0, 1] * 10)
    seen = {}
    for empty_crops in ("redraw", "keep"):
        config = AugmentConfig(mosaic=0.0, mixup=0.0, empty_crops=empty_crops)  # type: ignore[arg-type]
        pipeline = TrainPipeline(config, input_size=32, seed=0, epochs=300)
        seen[empty_crops] = [pipeline(0, i, order, pictures.__getitem__).image_id for i in range(20)]
    assert seen == {"redraw": [1] * 20, "keep": order.tolist()}


def test_masks_in_rle_are_masks() -> None:
    original = ORIGINAL["masks_of_rle"]
    assert original == {
        "as polygon": {"ignored": False, "pixels": 64},
        "as RLE": {"ignored": True, "pixels": 0},
    }
    ours = decode_mask({"size": [16, 16], "counts": [68, *[8] * 15, 68]})
    assert ours.sum() == 64
    assert ours[4:12, 4:12].all()


def test_a_polygon_is_cut_at_the_border_and_not_bent() -> None:
    original = ORIGINAL["clamped_polygons"]
    assert original == {"vertices": [0, 8, 24, 8, 0, 40], "area": 384}
    # the triangle (-8, 8), (24, 8), (-8, 40) right of x = 0: the slope is cut at (0, 32)
    inside = draw_polygons([np.array([[0.0, 8.0], [24.0, 8.0], [0.0, 32.0]])], (64, 64))
    shifted = draw_polygons([np.array([[0.0, 8.0], [32.0, 8.0], [0.0, 40.0]])], (64, 64))[:, 8:]
    assert (inside[:, :56] != shifted).sum() <= 1
    assert abs(int(inside.sum()) - 24 * 24 / 2) < 24  # a triangle of 288 pixels, in place of 384


def test_a_crop_into_a_hollow_leaves_no_box_around_nothing() -> None:
    original = ORIGINAL["hollow_crops"]
    assert original["recompute_bbox=False"] == {"boxes": [[0, 0, 32, 32]], "mask pixels": [0]}  # as tiny crops
    assert original["recompute_bbox=True"] == {"boxes": [[0, 0, 0, 0]], "mask pixels": [0]}  # which a filter removes
