"""The two heads: what they share, where they start, and in which precision they answer."""

import math

import pytest
import torch
from torch import Tensor, nn

from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.head.network import RTMDetHead, RTMDetInsSepBNHead, RTMDetSepBNHead
from minirtmdet.layers import ConvModule
from minirtmdet.weights.fuse import fuse_batch_norm

CHANNELS = 8
HEADS = (RTMDetSepBNHead, RTMDetHead)


def feats(height: int = 8, width: int = 8, fill: float | None = None) -> list[Tensor]:
    sizes = [(height >> i, width >> i) for i in range(3)]
    return [torch.randn(2, CHANNELS, *s) if fill is None else torch.full((2, CHANNELS, *s), fill) for s in sizes]


def conv_modules(branch: nn.Module) -> list[ConvModule]:
    return [module for module in branch.modules() if isinstance(module, ConvModule)]


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize("with_objectness", [False, True])
def test_shapes_on_rectangular_maps(head_class, with_objectness):
    head = head_class(5, CHANNELS, with_objectness=with_objectness, pred_kernel_size=3, stacked_convs=3)
    cls_scores, bbox_preds = head(feats(8, 16))
    assert [tuple(x.shape) for x in cls_scores] == [(2, 5, 8, 16), (2, 5, 4, 8), (2, 5, 2, 4)]
    assert [tuple(x.shape) for x in bbox_preds] == [(2, 4, 8, 16), (2, 4, 4, 8), (2, 4, 2, 4)]


@pytest.mark.parametrize("use_depthwise", [False, True])
@pytest.mark.parametrize("share_conv", [False, True])
def test_levels_share_convolutions_but_not_norms(use_depthwise, share_conv):
    head = RTMDetSepBNHead(5, CHANNELS, share_conv=share_conv, use_depthwise=use_depthwise)
    for branches in (head.cls_convs, head.reg_convs):
        first = conv_modules(branches[0])
        assert len(first) == (4 if use_depthwise else 2)
        for branch in branches[1:]:
            for module, other in zip(conv_modules(branch), first, strict=True):
                assert (module.conv is other.conv) == share_conv
                assert module.bn is not other.bn
    assert not {id(p) for p in head.cls_convs.parameters()} & {id(p) for p in head.reg_convs.parameters()}


def test_shared_parameters_are_counted_once_and_listed_thrice():
    shared, apart = RTMDetSepBNHead(5, CHANNELS), RTMDetSepBNHead(5, CHANNELS, share_conv=False)
    size = CHANNELS * CHANNELS * 9
    unique = [sum(p.numel() for p in head.parameters()) for head in (shared, apart)]
    assert unique[1] - unique[0] == 2 * 2 * 2 * size  # two branches, two convolutions, two more levels
    assert list(shared.state_dict()) == list(apart.state_dict())


def test_a_shared_convolution_learns_from_every_level():
    torch.manual_seed(0)
    head, maps = RTMDetSepBNHead(5, CHANNELS), feats()
    weight = head.cls_convs[0][0].conv.weight
    cls_scores, _ = head(maps)
    levels = [torch.autograd.grad(score.square().sum(), weight, retain_graph=True)[0] for score in cls_scores]
    assert all((gradient != 0).any() for gradient in levels)
    torch.testing.assert_close(
        torch.autograd.grad(sum(score.square().sum() for score in cls_scores), weight)[0], sum(levels)
    )


def test_the_fully_shared_head_has_one_set_of_norms_and_a_scale_a_level():
    keys = list(RTMDetHead(5, CHANNELS).state_dict())
    assert sum(key.endswith("bn.weight") for key in keys) == 4
    assert [key for key in keys if "scale" in key] == ["scales.0.scale", "scales.1.scale", "scales.2.scale"]


def test_scales_multiply_the_distances_of_their_level():
    head, maps = RTMDetHead(5, CHANNELS).eval(), feats()
    before = head(maps)
    nn.init.constant_(head.scales[1].scale, 3.0)
    after = head(maps)
    for level, factor in enumerate((1, 3, 1)):
        torch.testing.assert_close(after[1][level], factor * before[1][level])
        assert torch.equal(after[0][level], before[0][level])


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize("with_objectness", [False, True])
def test_every_class_starts_at_one_in_a_hundred(head_class, with_objectness):
    head = head_class(5, CHANNELS, with_objectness=with_objectness).eval()
    for score in head(feats(fill=0.0))[0]:
        torch.testing.assert_close(score.sigmoid(), torch.full_like(score, 0.01), rtol=1e-4, atol=0)


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize(("exp_on_reg", "distances"), [(False, (0, 0, 0)), (True, (8, 16, 32))])
def test_distances_start_at_nothing_or_at_one_stride(head_class, exp_on_reg, distances):
    head = head_class(5, CHANNELS, exp_on_reg=exp_on_reg).eval()
    for pred, distance in zip(head(feats(fill=0.0))[1], distances, strict=True):
        assert (pred == distance).all()


@pytest.mark.parametrize("head_class", HEADS)
def test_weights_start_normal_with_a_deviation_of_a_hundredth(head_class):
    torch.manual_seed(0)
    head = head_class(40, 32, with_objectness=True)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.3)
    weights = torch.cat([p.flatten() for name, p in head.named_parameters() if name.endswith("conv.weight")])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)


def test_objectness_and_class_meet_in_their_geometric_mean():
    head = RTMDetSepBNHead(1, CHANNELS, with_objectness=True).eval()
    nn.init.constant_(head.rtm_cls[0].bias, math.log(0.9 / 0.1))
    nn.init.constant_(head.rtm_obj[0].bias, math.log(0.4 / 0.6))
    score = head(feats(fill=0.0))[0][0]
    torch.testing.assert_close(score.sigmoid(), torch.full_like(score, 0.6))  # sqrt(0.9 * 0.4)


def test_objectness_looks_at_the_features_of_the_boxes():
    head = RTMDetSepBNHead(3, CHANNELS, with_objectness=True)
    logits = head(feats())[0][0]
    gradients = torch.autograd.grad(logits.sum(), [head.reg_convs[0][1].conv.weight, head.rtm_obj[0].weight])
    assert all((gradient != 0).any() for gradient in gradients)


@pytest.mark.parametrize("cls_bias", [-300.0, 300.0])
def test_objectness_has_a_finite_gradient_at_extreme_logits(cls_bias):
    head = RTMDetSepBNHead(1, CHANNELS, with_objectness=True)
    for branch in (*head.rtm_cls, *head.rtm_obj):
        nn.init.constant_(branch.bias, cls_bias)
    sum(score.sum() for score in head(feats())[0]).backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("head_class", HEADS)
def test_autocast_does_not_round_pixels(head_class):
    head = head_class(5, CHANNELS, exp_on_reg=True).eval()
    bias = torch.tensor(math.log(300.5 / 8)).bfloat16().float()
    for module in head.rtm_reg.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, bias.item())
    with torch.autocast("cpu", torch.bfloat16):
        cls_scores, bbox_preds = head(feats(fill=0.0))
    assert {x.dtype for x in (*cls_scores, *bbox_preds)} == {torch.float32}
    expected = bias.exp() * 8
    torch.testing.assert_close(bbox_preds[0], expected.expand_as(bbox_preds[0]))
    assert expected != expected.bfloat16()  # a head that stayed in bf16 would have rounded


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_outputs_are_at_least_fp32(dtype, expected):
    head = RTMDetSepBNHead(5, CHANNELS, with_objectness=True).to(dtype)
    outputs = head([feat.to(dtype) for feat in feats()])
    assert {x.dtype for branch in outputs for x in branch} == {expected}


@pytest.mark.parametrize("head_class", HEADS)
def test_even_prediction_kernel_raises(head_class):
    with pytest.raises(ValueError, match="pred_kernel_size is 2"):
        head_class(5, CHANNELS, pred_kernel_size=2)


@pytest.mark.parametrize("head_class", HEADS)
def test_missing_level_raises(head_class):
    with pytest.raises(ValueError, match="zip"):
        head_class(5, CHANNELS)(feats()[:2])


@pytest.mark.parametrize("head_class", HEADS)
@pytest.mark.parametrize("exp_on_reg", [False, True])
def test_the_last_convolutions_keep_fp32_under_autocast(head_class, exp_on_reg):
    """Given the features that autocast makes, outputs are those of an fp32 convolution, to fp32's own resolution."""
    torch.manual_seed(0)
    head = head_class(5, CHANNELS, with_objectness=True, exp_on_reg=exp_on_reg).eval()
    for branch in (head.rtm_cls, head.rtm_reg, head.rtm_obj):
        for conv in branch.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight)
                nn.init.normal_(conv.bias)
    seen = []
    first = head.reg_convs[0] if isinstance(head.reg_convs, nn.ModuleList) else head.reg_convs
    first.register_forward_hook(lambda _, __, out: seen.append(out))
    maps = [feat * 100 for feat in feats()]
    with torch.autocast("cpu", torch.bfloat16):
        cls_scores, bbox_preds = head(maps)
    assert seen[0].dtype == torch.bfloat16
    conv = head.rtm_reg[0] if isinstance(head.rtm_reg, nn.ModuleList) else head.rtm_reg
    expected = conv(seen[0].float())
    expected = (expected.exp() if exp_on_reg else expected) * 8
    torch.testing.assert_close(bbox_preds[0], expected, rtol=1e-6, atol=1e-6)
    for output in (*cls_scores, *bbox_preds):
        assert (output != output.bfloat16()).float().mean() > 0.9, "the outputs have steps of bf16"


@pytest.mark.parametrize("head_class", HEADS)
def test_gradients_flow_through_fp32_outputs_under_autocast(head_class):
    torch.manual_seed(0)
    head = head_class(5, CHANNELS, with_objectness=True, exp_on_reg=True)
    with torch.autocast("cpu", torch.bfloat16):
        cls_scores, bbox_preds = head(feats())
    sum(output.square().mean() for output in (*cls_scores, *bbox_preds)).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name


@pytest.mark.parametrize("head_class", HEADS)
def test_without_autocast_outputs_are_the_plain_convolutions(head_class):
    torch.manual_seed(0)
    head, maps = head_class(5, CHANNELS, exp_on_reg=False).eval(), feats()
    cls_convs, reg_convs, rtm_cls, rtm_reg = (
        [module[level] if isinstance(module, nn.ModuleList) else module for level in range(3)]
        for module in (head.cls_convs, head.reg_convs, head.rtm_cls, head.rtm_reg)
    )
    cls_scores, bbox_preds = head(maps)
    for level, feat in enumerate(maps):
        assert torch.equal(cls_scores[level], rtm_cls[level](cls_convs[level](feat)))
        assert torch.equal(bbox_preds[level], rtm_reg[level](reg_convs[level](feat)) * (8 << level))


# -- RTMDet-Ins ------------------------------------------------------------------------------------------------------


def trained(head: RTMDetInsSepBNHead, maps: list[Tensor]) -> list[Tensor]:
    """Outputs of a head in training."""
    cls_scores, bbox_preds, kernel_preds, mask_feat = head.train()(maps)
    return [*cls_scores, *bbox_preds, *kernel_preds, mask_feat]


def test_shapes_of_masks_on_rectangular_maps():
    outputs = RTMDetInsSepBNHead(5, CHANNELS, stacked_convs=3)(feats(8, 16))
    assert [tuple(x.shape) for x in outputs.cls_scores] == [(2, 5, 8, 16), (2, 5, 4, 8), (2, 5, 2, 4)]
    assert [tuple(x.shape) for x in outputs.bbox_preds] == [(2, 4, 8, 16), (2, 4, 4, 8), (2, 4, 2, 4)]
    assert [tuple(x.shape) for x in outputs.kernel_preds] == [(2, 169, 8, 16), (2, 169, 4, 8), (2, 169, 2, 4)]
    assert outputs.mask_feat.shape == (2, 8, 8, 16)


def test_class_and_box_are_one_tower_whose_levels_share_convolutions_and_the_kernels_share_none():
    head = RTMDetInsSepBNHead(5, CHANNELS)
    assert head.reg_convs is head.cls_convs
    for branches, shared in ((head.cls_convs, True), (head.kernel_convs, False)):
        first = conv_modules(branches[0])
        for branch in branches[1:]:
            for module, other in zip(conv_modules(branch), first, strict=True):
                assert (module.conv is other.conv) == shared
                assert module.bn is not other.bn


def test_the_tower_is_computed_once_and_counts_twice():
    torch.manual_seed(0)
    head, maps = RTMDetInsSepBNHead(5, CHANNELS), feats()
    runs = []
    tower, kernel = head.cls_convs[0][0], head.kernel_convs[0][0]
    tower.register_forward_hook(lambda module, inputs, output: runs.append(inputs[0]))
    trained(head, maps)
    assert len(runs) == 1
    convolved = tower.conv(maps[0])
    mean, variance = convolved.mean((0, 2, 3)), convolved.var((0, 2, 3))
    expected_mean, expected_variance = torch.zeros(CHANNELS), torch.ones(CHANNELS)
    for _ in range(2):  # as two passes with momentum 0.1 leave them
        expected_mean = 0.9 * expected_mean + 0.1 * mean
        expected_variance = 0.9 * expected_variance + 0.1 * variance
    torch.testing.assert_close(tower.bn.running_mean, expected_mean)
    torch.testing.assert_close(tower.bn.running_var, expected_variance)
    assert (tower.bn.num_batches_tracked, kernel.bn.num_batches_tracked) == (2, 1)
    assert kernel.bn.momentum == 0.1


def test_a_frozen_tower_counts_nothing():
    head = RTMDetInsSepBNHead(5, CHANNELS).train()
    head.cls_convs.eval()
    head(feats())
    assert head.cls_convs[0][0].bn.num_batches_tracked == 0
    head.eval()(feats())
    assert {int(m.bn.num_batches_tracked) for m in conv_modules(head.kernel_convs)} == {1}


def test_the_average_takes_in_the_tower_once_a_name():
    head = RTMDetInsSepBNHead(5, CHANNELS)
    average = ExpMomentumEMA(head, momentum=0.01, ramp=10)
    average.update(head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    kept = 1 - average.momentum_at(1)
    average.update(head)
    times = {"cls_convs.0.0.conv.weight": 6, "cls_convs.0.0.bn.weight": 2, "kernel_convs.0.0.conv.weight": 1}
    for name, count in times.items():
        torch.testing.assert_close(average.module.state_dict()[name], before[name] * kept**count)


def test_norms_of_several_processes_keep_both_names_and_the_momentum_of_two_updates():
    head = nn.SyncBatchNorm.convert_sync_batchnorm(RTMDetInsSepBNHead(5, CHANNELS))
    for level in range(3):
        norm = head.cls_convs[level][0].bn
        assert isinstance(norm, nn.SyncBatchNorm)
        assert norm is head.reg_convs[level][0].bn
        assert norm.momentum == pytest.approx(0.19)


def test_no_distance_is_negative_and_none_is_exponentiated():
    head = RTMDetInsSepBNHead(5, CHANNELS).eval()
    for bias, expected in ((-2.0, 0.0), (3.0, 3.0)):
        for prediction in head.rtm_reg:
            nn.init.constant_(prediction.bias, bias)
        for distances, stride in zip(head(feats(fill=0.0)).bbox_preds, (8, 16, 32), strict=True):
            assert (distances == expected * stride).all()


def test_where_a_head_with_masks_starts():
    torch.manual_seed(0)
    head = RTMDetInsSepBNHead(40, 32).eval()
    outputs = head(feats_of(32))
    for score, distances, stride in zip(outputs.cls_scores, outputs.bbox_preds, (8, 16, 32), strict=True):
        torch.testing.assert_close(score.sigmoid(), torch.full_like(score, 0.01), rtol=1e-4, atol=0)
        assert (distances == stride).all()
    assert all((kernels == 0).all() for kernels in outputs.kernel_preds)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.3)
    biases = {round(value, 3) for name, p in head.named_parameters() if name.endswith("bias") for value in p.tolist()}
    assert biases == {0.0, 1.0, -4.595}


def feats_of(channels: int) -> list[Tensor]:
    return [torch.zeros(2, channels, size, size) for size in (8, 4, 2)]


def test_coarse_levels_reach_the_prototypes_stretched():
    head = RTMDetInsSepBNHead(5, CHANNELS)
    seen = []
    head.mask_head.fusion_conv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    maps = feats()
    head.mask_head(maps)
    (joined,) = seen
    assert torch.equal(joined[:, :CHANNELS], maps[0])
    # between the middles of two cells a pixel is their mean, weighted by how near it is
    left, right = maps[1][:, :, 0, 0], maps[1][:, :, 0, 1]
    torch.testing.assert_close(joined[:, CHANNELS : 2 * CHANNELS, 0, 1], 0.75 * left + 0.25 * right)


def test_gradients_reach_every_parameter():
    head, maps = RTMDetInsSepBNHead(5, CHANNELS), feats()
    sum(output.square().sum() for output in trained(head, maps)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_outputs_with_masks_are_at_least_fp32():
    head = RTMDetInsSepBNHead(5, CHANNELS)
    with torch.autocast("cpu", torch.bfloat16):
        assert {output.dtype for output in trained(head, feats())} == {torch.float32}


def test_a_folded_head_keeps_its_two_names():
    fused = fuse_batch_norm(RTMDetInsSepBNHead(5, CHANNELS))
    assert fused.reg_convs is fused.cls_convs
    keys = fused.state_dict()
    assert torch.equal(keys["cls_convs.1.0.conv.bias"], keys["reg_convs.1.0.conv.bias"])
    fused(feats())
