"""CSPNeXt: depth, width, sizes and initial weights."""

import math

import pytest
import torch
from torch import nn

from minirtmdet.backbone import CSPNeXt
from minirtmdet.layers import ConvModule, CSPLayer, DepthwiseSeparableConvModule, SPPBottleneck


@pytest.mark.parametrize(
    ("deepen", "blocks"),
    [(0.167, [1, 1, 1, 1]), (0.33, [1, 2, 2, 1]), (0.67, [2, 4, 4, 2]), (1.0, [3, 6, 6, 3]), (1.33, [4, 8, 8, 4])],
)
def test_deepen_factor_counts_blocks(deepen, blocks):
    backbone = CSPNeXt(deepen, 0.125)
    stages = (backbone.stage1, backbone.stage2, backbone.stage3, backbone.stage4)
    assert [len(stage[-1].blocks) for stage in stages] == blocks


@pytest.mark.parametrize(
    ("widen", "stem", "channels"),
    [(0.25, 8, (64, 128, 256)), (0.375, 12, (96, 192, 384)), (1.25, 40, (320, 640, 1280))],
)
def test_widen_factor_counts_channels(widen, stem, channels):
    with torch.device("meta"):
        backbone = CSPNeXt(0.167, widen)
    assert backbone.out_channels == channels
    assert [module.conv.out_channels for module in backbone.stem] == [stem, stem, 2 * stem]


def test_strides_and_channels_of_the_outputs():
    feats = CSPNeXt(0.167, 0.25)(torch.zeros(2, 3, 64, 96))
    assert [tuple(feat.shape) for feat in feats] == [(2, 64, 8, 12), (2, 128, 4, 6), (2, 256, 2, 3)]


def test_only_the_last_stage_pools_and_has_no_identity():
    backbone = CSPNeXt(0.33, 0.125)
    for stage in (backbone.stage1, backbone.stage2, backbone.stage3):
        assert not any(isinstance(layer, SPPBottleneck) for layer in stage)
        assert all(block.add_identity for block in stage[-1].blocks)
    assert [type(layer) for layer in backbone.stage4] == [ConvModule, SPPBottleneck, CSPLayer]
    assert not any(block.add_identity for block in backbone.stage4[-1].blocks)


def test_depthwise_reaches_all_but_the_stem():
    backbone = CSPNeXt(0.167, 0.125, use_depthwise=True)
    assert all(isinstance(module, ConvModule) for module in backbone.stem)
    for stage in (backbone.stage1, backbone.stage4):
        assert isinstance(stage[0], DepthwiseSeparableConvModule)
        assert isinstance(stage[-1].blocks[0].conv1, DepthwiseSeparableConvModule)


def test_convolutions_start_kaiming_uniform_with_a_of_sqrt_5():
    torch.manual_seed(0)
    backbone = CSPNeXt(0.167, 0.25)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 5_000:
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_images_of_a_batch_do_not_touch_in_evaluation():
    torch.manual_seed(0)
    backbone = CSPNeXt(0.167, 0.125).eval()
    images = torch.randn(2, 3, 64, 64)
    together = backbone(images)
    alone = backbone(images[1:])
    for batch, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1:], single)
