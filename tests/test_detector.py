"""The whole detector: what goes in, what comes out, and in which mode, size and precision."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from minirtmdet.configs import MODELS, AssignerConfig, ModelConfig, PredictConfig
from minirtmdet.detector import MEAN, STD, RTMDet, _check_images, build_detector
from minirtmdet.masks import original_shapes
from minirtmdet.structures import GroundTruth

SMALL = ModelConfig(deepen_factor=0.1, widen_factor=0.125, neck_csp_blocks=1, num_classes=3)


@pytest.fixture
def detector() -> RTMDet:
    torch.manual_seed(0)
    return build_detector(SMALL)


def pixels(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def two_images() -> GroundTruth:
    boxes = [torch.tensor([[8.0, 8.0, 40.0, 56.0], [50.0, 4.0, 90.0, 30.0]]), torch.zeros(0, 4)]
    return GroundTruth.from_list(boxes, [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)], num_classes=3)


def assert_equal(outputs: tuple, expected: tuple) -> None:
    for branch, other in zip(outputs, expected, strict=True):
        for level, reference in zip(branch, other, strict=True):
            torch.testing.assert_close(level, reference)


# -- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "exp_on_reg", "width"),
    [("nano", False, 64), ("tiny", False, 96), ("s", False, 128), ("m", True, 192), ("l", True, 256), ("x", True, 320)],
)
def test_named_models(name, exp_on_reg, width):
    with torch.device("meta"):
        model = build_detector(name)
    assert model.bbox_head.exp_on_reg == exp_on_reg
    assert model.bbox_head.rtm_cls[0].weight.shape == (80, width, 1, 1)
    assert model.config.num_classes == 80


def test_num_classes_replaces_that_of_the_settings():
    assert build_detector(SMALL, num_classes=7).bbox_head.rtm_cls[0].out_channels == 7
    assert build_detector(SMALL).bbox_head.rtm_cls[0].out_channels == 3


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'huge': expected one of nano, tiny, s, m, l, x"):
        build_detector("huge")


def test_no_class_raises():
    with pytest.raises(ValueError, match="num_classes is 0"):
        build_detector(SMALL, num_classes=0)


def test_settings_reach_every_part():
    config = replace(
        SMALL,
        use_depthwise=True,
        share_conv=False,
        stacked_convs=3,
        pred_kernel_size=3,
        with_objectness=True,
        exp_on_reg=True,
        neck_csp_blocks=2,
    )
    keys = build_detector(config).state_dict()
    assert "backbone.stage1.0.depthwise_conv.conv.weight" in keys
    assert "neck.top_down_blocks.0.blocks.1.conv1.depthwise_conv.conv.weight" in keys
    assert "bbox_head.cls_convs.2.2.pointwise_conv.conv.weight" in keys
    assert keys["bbox_head.rtm_obj.0.weight"].shape[-2:] == (3, 3)
    assert "bbox_head.scales.0.scale" in build_detector(replace(SMALL, separate_bn=False)).state_dict()


def test_same_seed_same_weights():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_detector(SMALL).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_normalisation_is_no_part_of_a_checkpoint(detector):
    assert {key.split(".")[0] for key in detector.state_dict()} == {"backbone", "neck", "bbox_head"}


# -- pixels ----------------------------------------------------------------------------------------------------------


def test_pixels_are_normalised_by_channel(detector):
    images = torch.tensor([0, 114, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    expected = [(value - mean) / std for value, mean, std in zip((0, 114, 255), MEAN, STD, strict=True)]
    torch.testing.assert_close(detector.preprocess(images)[0, :, 5, 7], torch.tensor(expected))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pixels_are_normalised_alike_however_they_are_stored(detector, layout):
    # 96 rows: a block and a half
    images = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8).contiguous(memory_format=layout)
    normalised = detector.preprocess(images)
    assert torch.equal(normalised, (images.float() - detector.mean) / detector.std)  # to the bit
    assert normalised.is_contiguous(memory_format=layout)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("size", "padded"), [((64, 96), (64, 96)), ((65, 96), (96, 96)), ((33, 31), (64, 32)), ((1, 1), (32, 32))]
)
def test_sizes_are_padded_right_and_bottom_with_grey(detector, size, padded):
    images = pixels(2, *size)
    by_hand = torch.full((2, 3, *padded), 114, dtype=torch.uint8)
    by_hand[..., : size[0], : size[1]] = images
    expected = detector.preprocess(by_hand)
    assert torch.equal(detector.preprocess(images), expected)
    floating = (images - detector.mean) / detector.std
    assert torch.equal(detector.preprocess(floating), expected)


def test_inputs_stay_as_they_were(detector):
    for images in (pixels(2, 50, 70), pixels().float()):
        before = images.clone()
        detector.preprocess(images)
        assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"shape \(3, 64, 64\), expected \[batch, 3, height, width\]"),
        (torch.zeros(1, 64, 64, 3), r"shape \(1, 64, 64, 3\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.int64), "images are torch.int64, expected uint8"),
    ],
)
def test_other_images_raise(images, message):
    with pytest.raises(ValueError, match=message):
        _check_images(images)


def test_detector_checks_its_images(detector):
    with pytest.raises(ValueError, match=r"expected \[batch, 3, height, width\]"):
        detector(torch.zeros(1, 4, 64, 64))


# -- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate_bn", [True, False])
def test_outputs_of_a_size_that_is_no_multiple_of_32(separate_bn):
    cls_scores, bbox_preds = build_detector(replace(SMALL, separate_bn=separate_bn))(pixels(2, 50, 70))
    assert [tuple(x.shape) for x in cls_scores] == [(2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    assert [tuple(x.shape) for x in bbox_preds] == [(2, 4, 8, 12), (2, 4, 4, 6), (2, 4, 2, 3)]


def test_forward_needs_no_value_from_the_device(detector):
    # meta tensors have shapes but no values: whatever asks for one, as a synchronisation would, raises
    cls_scores, _ = detector.to("meta")(pixels(2, 50, 70).to("meta"))
    assert cls_scores[0].shape == (2, 3, 8, 12)


def test_channels_last_passes_through(detector):
    detector.eval()
    expected = detector(pixels())
    detector.to(memory_format=torch.channels_last)
    maps = []
    for name, module in detector.named_modules():
        if isinstance(module, nn.Conv2d) and not name.endswith("fc"):
            module.register_forward_hook(lambda module, inputs, output: maps.append(inputs[0]))
    assert_equal(detector(pixels().contiguous(memory_format=torch.channels_last)), expected)
    assert maps
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)


def test_losses_with_gradients_for_every_parameter(detector):
    losses = detector(pixels(), two_images())
    assert set(losses) == {"loss_cls", "loss_bbox", "num_pos"}
    assert losses["num_pos"] > 0
    assert not losses["num_pos"].requires_grad
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    missing = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_priors_beyond_the_pad_shape_learn_nothing(detector):
    losses = detector(pixels(), two_images(), torch.zeros(2, 2, dtype=torch.int64))
    assert losses["num_pos"] == 0
    assert losses["loss_cls"] == 0


def test_losses_are_fp32_under_autocast(detector):
    seen = []
    loss = detector.loss

    def spy(cls_scores, bbox_preds, *arguments):
        seen.append((cls_scores[0].dtype, torch.is_autocast_enabled("cpu")))
        return loss(cls_scores, bbox_preds, *arguments)

    detector.loss = spy
    convs = []
    detector.neck.out_convs[0].conv.register_forward_hook(lambda module, inputs, output: convs.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(pixels(), two_images())
    assert convs == [torch.bfloat16]
    assert seen == [(torch.float32, False)]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in losses.values())


# -- predict ---------------------------------------------------------------------------------------------------------

EVERYTHING = PredictConfig(score_threshold=0.0, nms_pre=100, max_per_image=50)


def wide_boxes(model: RTMDet) -> RTMDet:
    """Let every prior predict a box of 2000 px a side, so that what limits boxes is the image."""
    for rtm_reg in model.bbox_head.rtm_reg:
        nn.init.zeros_(rtm_reg.weight)
        nn.init.constant_(rtm_reg.bias, 1000.0 / 8)
    return model


def test_predict_equals_prediction_in_evaluation_mode_and_changes_nothing(detector):
    detector.train()
    detector.backbone.stem.eval()  # frozen by the caller
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    in_training = detector.predict(pixels(), EVERYTHING)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert detector.training
    assert detector.neck.out_convs[0].bn.training
    assert not detector.backbone.stem.training
    in_evaluation = detector.eval().predict(pixels(), EVERYTHING)
    for one, other in zip(in_training, in_evaluation, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_to_predict_nothing_is_set_on_a_model_that_is_not_trained(detector, monkeypatch):
    """Hundreds of modules, whose attributes are slow to set: as long as a small network takes."""
    detector.eval()

    def refuse(module, name, value):
        raise AssertionError(f"{name} was set")

    monkeypatch.setattr(nn.Module, "__setattr__", refuse)
    detector.predict(pixels(), EVERYTHING)


def test_mode_comes_back_after_an_error(detector):
    with pytest.raises(ValueError, match="images are"):
        detector.train().predict(torch.zeros(1, 3, 32, 32, dtype=torch.int64))
    assert detector.training


def test_single_equals_batched(detector):
    together = detector.predict(pixels(3), EVERYTHING)
    for i in range(3):
        alone = detector.predict(pixels(3)[i : i + 1], EVERYTHING)[0]
        assert len(alone.scores) > 0
        torch.testing.assert_close(together[i].boxes, alone.boxes)
        torch.testing.assert_close(together[i].scores, alone.scores)
        assert torch.equal(together[i].labels, alone.labels)


def test_boxes_are_clipped_to_the_image_before_its_padding(detector):
    for detections in wide_boxes(detector).predict(pixels(2, 50, 70), EVERYTHING):
        assert torch.equal(detections.boxes.amax(0), torch.tensor([0.0, 0.0, 70.0, 50.0]))


@pytest.mark.parametrize(("clip", "right", "bottom"), [("input", 192.0, 32.0), ("content", 120.0, 20.0)])
def test_boxes_are_clipped_and_scaled_back(detector, clip, right, bottom):
    first, second = wide_boxes(detector).predict(
        pixels(2, 64, 96),
        replace(EVERYTHING, clip=clip),
        img_shapes=[(64, 96), (40, 60)],
        scale_factors=[(1.0, 1.0), (0.5, 2.0)],
    )
    assert torch.equal(first.boxes.amax(0), torch.tensor([0.0, 0.0, 96.0, 64.0]))
    assert torch.equal(second.boxes.amax(0), torch.tensor([0.0, 0.0, right, bottom]))


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_training_and_prediction_place_priors_alike(offset):
    torch.manual_seed(0)
    model = build_detector(replace(SMALL, prior_offset=offset)).eval()
    with torch.no_grad():
        boxes = model.loss.flatten(*model(pixels(1)))[1][0]  # [N,4]
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([96.0, 64.0, 96.0, 64.0]))
    (found,) = model.predict(pixels(1), EVERYTHING)
    assert len(found.boxes) > 0
    assert (found.boxes[:, None] - boxes).abs().amax(-1).amin(1).max() < 1e-3


def test_predict_keeps_no_graph(detector):
    assert not any(detections.scores.requires_grad for detections in detector.predict(pixels(), EVERYTHING))


# -- masks -----------------------------------------------------------------------------------------------------------

WITH_MASKS = replace(SMALL, masks=True)


def two_instances(height: int = 64, width: int = 96) -> GroundTruth:
    truth = two_images()
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    masks[1, 4:30, 50:90] = True
    boxes, labels = [truth.boxes[0, :2], torch.zeros(0, 4)], [truth.labels[0, :2], torch.zeros(0, dtype=torch.int64)]
    return GroundTruth.from_list(boxes, labels, masks=[masks, masks[:0]])


@pytest.mark.parametrize(("name", "width"), [("tiny", 96), ("s", 128), ("m", 192), ("l", 256), ("x", 320)])
def test_named_models_with_masks(name, width):
    with torch.device("meta"):
        model = build_detector(f"ins-{name}")
    assert model.bbox_head.rtm_kernel[0].weight.shape == (169, width, 1, 1)
    assert model.bbox_head.rtm_cls[0].weight.shape == (80, width, 1, 1)
    assert model.config == replace(MODELS[name], masks=True, exp_on_reg=False)


def test_a_detector_with_masks_gives_four_outputs_by_name():
    outputs = build_detector(WITH_MASKS)(pixels(2, 50, 70))
    assert outputs._fields == ("cls_scores", "bbox_preds", "kernel_preds", "mask_feat")
    assert [tuple(x.shape) for x in outputs.kernel_preds] == [(2, 169, 8, 12), (2, 169, 4, 6), (2, 169, 2, 3)]
    assert outputs.mask_feat.shape == (2, 8, 8, 12)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 91)])
def test_three_losses_and_a_gradient_to_every_parameter(height, width):
    torch.manual_seed(0)
    model = build_detector(WITH_MASKS)
    for truth in (two_instances(height, width), two_instances(height, width)._replace(mask=torch.zeros(2, 4).bool())):
        losses = model(pixels(2, height, width), truth)
        assert losses.keys() == {"loss_cls", "loss_bbox", "loss_mask", "num_pos"}
        (losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]).backward()
        # with several processes a parameter without a gradient would keep all of them waiting
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        model.zero_grad()


def test_the_second_call_is_like_the_first():
    model, truth = build_detector(WITH_MASKS).eval(), two_instances()
    before = [field.clone() for field in truth]
    assert model(pixels(), truth) == model(pixels(), truth)
    assert all(torch.equal(a, b) for a, b in zip(before, truth, strict=True))


def test_masks_come_in_the_pixels_of_the_original_images():
    torch.manual_seed(0)
    model, config = build_detector(WITH_MASKS), PredictConfig(score_threshold=0.0, max_per_image=7)
    images = pixels(2, 64, 96)
    for found in model.predict(images, config):
        assert found.masks.shape == (7, 64, 96)
        assert found.masks.dtype == torch.bool
    shapes, factors = [(64, 80), (43, 96)], [(0.5, 0.5), (96 / 203, 43 / 91)]
    first, second = model.predict(images, config, shapes, factors)
    assert (first.masks.shape, second.masks.shape) == ((7, 128, 160), (7, 91, 203))
    (whole,) = model.predict(images[:1], config, scale_factors=[(2.0, 2.0)])
    assert whole.masks.shape == (7, 32, 48)
    assert model.training


@pytest.mark.parametrize("size", [(93, 117), (91, 203), (7, 5), (1080, 1921), (33, 3000)])
def test_the_size_of_an_image_is_found_again_from_its_content(size):
    scale = min(640 / size[0], 640 / size[1])
    content = tuple(max(1, round(side * scale)) for side in size)
    assert original_shapes([content], [(content[1] / size[1], content[0] / size[0])]) == [size]
    if scale > 1:  # a factor that was asked for, and content that ends in a part of a pixel
        assert original_shapes([tuple(math.ceil(side * scale) for side in size)], [(scale, scale)]) == [size]


def test_masks_of_images_of_odd_sides_end_where_the_image_does():
    (found,) = build_detector(WITH_MASKS).predict(pixels(1, 50, 70), PredictConfig(score_threshold=0.0))
    assert found.masks.shape[1:] == (50, 70)


def test_what_is_left_out_is_what_was_published():
    torch.manual_seed(0)
    model = build_detector(WITH_MASKS)
    nn.init.constant_(model.bbox_head.rtm_cls[0].bias, -2.0)  # scores of about 0.12, over 0.05
    (found,) = model.predict(pixels(1))
    assert 0 < len(found.scores) <= 100
    assert found.scores.min() > 0.05
    (found,) = build_detector(SMALL).predict(pixels(1))
    assert found.masks is None


def test_nothing_found_is_a_mask_of_no_rows():
    (found,) = build_detector(WITH_MASKS).predict(pixels(1), PredictConfig(score_threshold=0.99))
    assert found.masks.shape == (0, 64, 96)


# -- compile ---------------------------------------------------------------------------------------------------------

COMPILE = """
import torch
from dataclasses import replace
from helpers.toy import Levels
from minirtmdet.configs import ModelConfig
from minirtmdet.detector import build_detector
from minirtmdet.structures import GroundTruth

def of_another_head(**changes):
    model = build_detector(replace(config, **changes))
    model.backbone, model.neck = Levels(model.backbone.out_channels[0]), torch.nn.Identity()
    return model

config = ModelConfig(deepen_factor=0.1, widen_factor=0.125, neck_csp_blocks=1, num_classes=3)
images = torch.randint(0, 256, (2, 3, 50, 64), dtype=torch.uint8)
boxes = [torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.zeros(0, 4)]
ground_truth = GroundTruth.from_list(boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)])

model = build_detector(config)
losses = torch.compile(model, fullgraph=True, backend="aot_eager")(images, ground_truth)
torch.testing.assert_close(losses, model(images, ground_truth))
(losses["loss_cls"] + losses["loss_bbox"]).backward()
assert all(p.grad is not None for p in model.parameters())

model = of_another_head(separate_bn=False, with_objectness=True).eval()
outputs = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
torch.testing.assert_close(outputs, model(images))

masks = [torch.ones(1, 50, 64, dtype=torch.bool), torch.zeros(0, 50, 64, dtype=torch.bool)]
ground_truth = GroundTruth.from_list(boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)], masks=masks)
model = of_another_head(masks=True)
losses = torch.compile(model, fullgraph=True, backend="aot_eager")(images, ground_truth)
torch.testing.assert_close(losses, model(images, ground_truth))
(losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]).backward()
assert all(p.grad is not None for p in model.parameters())
"""


@pytest.mark.compile
def test_images_to_losses_are_one_graph():
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr


def test_allowed_border_reaches_the_losses():
    model = build_detector(SMALL, assigner=AssignerConfig(allowed_border=0)).eval()
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    boxes = GroundTruth.from_list([torch.tensor([[4.0, 4, 40, 40]])], [torch.tensor([0])])
    whole, part = (model(images, boxes, img_shapes=torch.tensor([[64, width]])) for width in (64, 48))
    assert part["loss_cls"] < whole["loss_cls"]  # background in the padding is not learned
    with pytest.raises(ValueError, match="allowed_border is 0: give img_shapes"):
        model(images, boxes)
