"""CSPNeXtPAFPN: shapes, and which level hears of which."""

import pytest
import torch

from minirtmdet.layers import DepthwiseSeparableConvModule
from minirtmdet.neck import CSPNeXtPAFPN

CHANNELS = (8, 16, 32)


def maps(height: int = 8, width: int = 12) -> list[torch.Tensor]:
    return [torch.randn(2, c, height >> i, width >> i) for i, c in enumerate(CHANNELS)]


@pytest.mark.parametrize("use_depthwise", [False, True])
def test_levels_keep_their_sizes(use_depthwise):
    outs = CSPNeXtPAFPN(CHANNELS, 24, 1, use_depthwise=use_depthwise)(maps())
    assert [tuple(out.shape) for out in outs] == [(2, 24, 8, 12), (2, 24, 4, 6), (2, 24, 2, 3)]


def test_every_output_hears_of_every_input():
    neck = CSPNeXtPAFPN(CHANNELS, 8, 1)
    for level in range(3):
        inputs = [x.requires_grad_() for x in maps()]
        gradients = torch.autograd.grad(neck(inputs)[level].square().sum(), inputs)
        assert all((gradient != 0).any() for gradient in gradients)


def test_blocks_have_neither_identity_nor_attention():
    neck = CSPNeXtPAFPN(CHANNELS, 8, 2)
    for layer in (*neck.top_down_blocks, *neck.bottom_up_blocks):
        assert len(layer.blocks) == 2
        assert not any(block.add_identity for block in layer.blocks)
    assert not any("attention" in key for key in neck.state_dict())


def test_upsampling_repeats_cells():
    neck = CSPNeXtPAFPN((4, 4), 4, 1).eval()
    seen = []
    neck.top_down_blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    fine, coarse = torch.randn(1, 4, 4, 6), torch.randn(1, 4, 2, 3)
    neck([fine, coarse])
    repeated = neck.reduce_layers[0](coarse).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(seen[0], torch.cat([repeated, fine], 1))


def test_depthwise_spares_the_1x1_convolutions():
    neck = CSPNeXtPAFPN(CHANNELS, 8, 1, use_depthwise=True)
    assert not any(isinstance(layer, DepthwiseSeparableConvModule) for layer in neck.reduce_layers)
    assert all(isinstance(layer, DepthwiseSeparableConvModule) for layer in (*neck.downsamples, *neck.out_convs))


def test_missing_level_raises():
    with pytest.raises(ValueError, match="zip"):
        CSPNeXtPAFPN(CHANNELS, 8, 1)(maps()[1:])
