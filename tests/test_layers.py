"""The building blocks, with values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.toy import Operations
from torch import nn

from minirtmdet.layers import (
    ChannelAttention,
    ConvModule,
    CSPLayer,
    CSPNeXtBlock,
    DepthwiseSeparableConvModule,
    Scale,
    SPPBottleneck,
    bias_init_with_prob,
    conv_class,
    inverse_sigmoid,
    normal_init,
    sigmoid_geometric_mean,
)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_conv_module_is_convolution_norm_silu():
    module = ConvModule(1, 1, 1).eval()
    nn.init.constant_(module.conv.weight, 2.0)
    module.bn.running_mean.fill_(1.0)
    module.bn.running_var.fill_(4.0)
    nn.init.constant_(module.bn.weight, 3.0)
    nn.init.constant_(module.bn.bias, 0.5)
    # (2 * 2.5 - 1) / 2 * 3 + 0.5 = 6.5
    assert module(torch.full((1, 1, 1, 1), 2.5)).item() == pytest.approx(silu(6.5), rel=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 7), (3, 1, 7), (5, 1, 7), (3, 2, 4)])
def test_conv_module_keeps_or_halves_the_map(kernel, stride, size):
    assert ConvModule(2, 3, kernel, stride=stride)(torch.zeros(1, 2, 7, 7)).shape == (1, 3, size, size)


def test_conv_module_has_the_norm_constants_of_the_official_configs():
    module = ConvModule(2, 3, 1)
    assert module.conv.bias is None
    assert (module.bn.eps, module.bn.momentum) == (1e-5, 0.1)


def test_depthwise_separable_mixes_channels_in_the_second_step_alone():
    module = DepthwiseSeparableConvModule(2, 3, 5).eval()
    x = torch.zeros(1, 2, 5, 5)
    x[:, 0] = 1
    assert (module.depthwise_conv(x)[:, 1] == 0).all()
    assert (module(x) != 0).all()
    assert count(module) == 2 * 25 + 2 * 2 + 2 * 3 + 2 * 3


def test_conv_class():
    assert conv_class(False) is ConvModule
    assert conv_class(True) is DepthwiseSeparableConvModule


@pytest.mark.parametrize(("bias", "gate"), [(0.0, 0.5), (1.5, 0.75), (3.0, 1.0), (-3.0, 0.0)])
def test_channel_attention_gate(bias, gate):
    module = ChannelAttention(2)
    nn.init.zeros_(module.fc.weight)
    nn.init.constant_(module.fc.bias, bias)
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(module(x), x * gate)


def test_channel_attention_weighs_by_the_mean_of_the_map():
    module = ChannelAttention(2)
    with torch.no_grad():
        module.fc.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]).view(2, 2, 1, 1))
    x = torch.tensor([[[[4.0, 4.0]], [[1.0, 2.0]]]])
    # mean of channel 1 is 1.5: gate of channel 0 is 1.5 / 6 + 0.5; nothing reaches channel 1's gate
    torch.testing.assert_close(module(x), torch.tensor([[[[3.0, 3.0]], [[0.5, 1.0]]]]))


def test_channel_attention_starts_without_bias():
    assert (ChannelAttention(8).fc.bias == 0).all()


@pytest.mark.parametrize("use_depthwise", [False, True])
def test_cspnext_block_adds_its_input(use_depthwise):
    x = torch.randn(2, 4, 6, 5)
    for add_identity, expected in ((True, x), (False, torch.zeros_like(x))):
        block = CSPNeXtBlock(4, add_identity=add_identity, use_depthwise=use_depthwise)
        nn.init.zeros_(block.conv2.pointwise_conv.bn.weight)  # silences everything but the identity
        torch.testing.assert_close(block(x), expected)
    assert isinstance(block.conv1, conv_class(use_depthwise))
    assert block.conv2.depthwise_conv.conv.kernel_size == (5, 5)


def test_csp_layer_puts_the_blocks_half_first():
    layer = CSPLayer(6, 8, num_blocks=2).eval()
    seen = []
    layer.final_conv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(1, 6, 4, 4)
    assert layer(x).shape == (1, 8, 4, 4)
    torch.testing.assert_close(seen[0][:, :4], layer.blocks(layer.main_conv(x)))
    torch.testing.assert_close(seen[0][:, 4:], layer.short_conv(x))
    assert len(layer.blocks) == 2


def test_csp_layer_attention_is_optional():
    plain, attending = CSPLayer(8, 8, 1), CSPLayer(8, 8, 1, channel_attention=True)
    assert count(attending) - count(plain) == 8 * 8 + 8
    assert not any("attention" in key for key in plain.state_dict())


def test_spp_in_a_row_equals_5_9_13_side_by_side():
    module = SPPBottleneck(4, 6).eval()
    seen = []
    module.conv2.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(2, 4, 20, 17)
    assert module(x).shape == (2, 6, 20, 17)
    features = module.conv1(x)
    pooled = [F.max_pool2d(features, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    assert torch.equal(seen[0], torch.cat([features, *pooled], 1))


def test_scale():
    scale = Scale(2.0)
    assert scale(torch.tensor([1.5, -1.0])).tolist() == [3.0, -2.0]
    assert scale.scale.requires_grad
    assert scale.scale.shape == ()
    assert Scale().scale.item() == 1


def test_inverse_sigmoid_inverts_and_stays_finite():
    logits = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid()), logits, atol=2e-3, rtol=1e-3)
    end = math.log(1 / 1e-5)
    torch.testing.assert_close(inverse_sigmoid(torch.tensor([0.0, 1.0])), torch.tensor([-end, end]))
    torch.testing.assert_close(inverse_sigmoid(torch.tensor([0.0]), eps=0.1), torch.tensor([math.log(0.1)]))


def test_geometric_mean_of_two_sigmoids():
    x, y = torch.randn(20), torch.randn(20)
    torch.testing.assert_close(sigmoid_geometric_mean(x, y), (x.sigmoid() * y.sigmoid()).sqrt())


@pytest.mark.parametrize(("x", "y"), [(0.3, -2.0), (-20.0, -30.0), (-200.0, -200.0), (50.0, 60.0)])
def test_geometric_mean_has_the_gradient_that_mmdetection_writes_by_hand(x, y):
    x, y = (torch.tensor(v, requires_grad=True) for v in (x, y))
    mean = sigmoid_geometric_mean(x, y)
    mean.backward()
    torch.testing.assert_close(x.grad, (mean * (1 - x.sigmoid()) / 2).detach())
    torch.testing.assert_close(y.grad, (mean * (1 - y.sigmoid()) / 2).detach())


def test_plain_geometric_mean_would_lose_its_gradient():
    x = torch.tensor(-200.0, requires_grad=True)
    (x.sigmoid() * x.sigmoid()).sqrt().backward()
    assert x.grad.isnan()


@pytest.mark.parametrize("prob", [0.01, 0.5, 0.9])
def test_bias_init_with_prob(prob):
    assert torch.tensor(bias_init_with_prob(prob)).sigmoid().item() == pytest.approx(prob, rel=1e-5)


def test_normal_init_leaves_norms_alone():
    torch.manual_seed(0)
    module = nn.Sequential(ConvModule(16, 64, 3), nn.Conv2d(64, 4, 1))
    normal_init(module, std=0.01, bias=-3.0)
    weights = module[0].conv.weight
    assert weights.std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(weights.mean().item()) < 5e-4
    assert (module[1].bias == -3).all()
    assert (module[0].bn.weight == 1).all()
    assert (module[0].bn.bias == 0).all()


def test_training_copies_no_map():
    """An activation in place would: what it overwrites is wanted on the way back."""
    module = ConvModule(3, 8, 3)
    with Operations() as operations:
        module(torch.zeros(1, 3, 8, 8, requires_grad=True)).sum().backward()
    assert operations.count["silu"] == 1
    assert operations.count["clone"] == 0
