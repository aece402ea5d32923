"""The building blocks that backbone, neck and head share.

Attributes carry MMDetection's names, because they are the keys of its checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConvModule(nn.Module):
    """Convolution, BatchNorm, SiLU; at stride 1 the map keeps its size (mmcv: ``ConvModule``).

    The convolution has no bias, since BatchNorm would subtract it again.

    >>> ConvModule(3, 8, 3, stride=2)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 8, 32, 32])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = nn.SiLU()  # in place it would first be copied in training: its gradient needs its input

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Features ``[B, in, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        return self.activate(self.bn(self.conv(x)))


class DepthwiseSeparableConvModule(nn.Module):
    """A convolution in each channel alone, then a 1x1 across channels (mmcv: ``DepthwiseSeparableConvModule``)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1):
        super().__init__()
        self.depthwise_conv = ConvModule(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels)
        self.pointwise_conv = ConvModule(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """Features ``[B, in, H, W]`` to ``[B, out, H / stride, W / stride]``."""
        return self.pointwise_conv(self.depthwise_conv(x))


def conv_class(use_depthwise: bool) -> type[ConvModule] | type[DepthwiseSeparableConvModule]:
    """The module that stands for a 3x3 convolution."""
    return DepthwiseSeparableConvModule if use_depthwise else ConvModule


class ChannelAttention(nn.Module):
    """Weighs each channel by what the whole map holds (paper, section 3.2; MMDetection: ``ChannelAttention``)."""

    def __init__(self, channels: int):
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Hardsigmoid(inplace=True)
        nn.init.zeros_(self.fc.bias)  # type: ignore[arg-type]  # every gate starts near one half

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Features times one weight in 0..1 a channel."""
        return x * self.act(self.fc(self.global_avgpool(x)))


class CSPNeXtBlock(nn.Module):
    """3x3 convolution, then a depthwise separable 5x5 for a wide view at little cost (paper, section 3.2).

    MMDetection: ``CSPNeXtBlock`` with ``expansion=1``.
    """

    def __init__(self, channels: int, *, add_identity: bool = True, use_depthwise: bool = False, kernel_size: int = 5):
        super().__init__()
        self.conv1 = conv_class(use_depthwise)(channels, channels, 3)
        self.conv2 = DepthwiseSeparableConvModule(channels, channels, kernel_size)
        self.add_identity = add_identity

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        """Features of the same shape."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class CSPLayer(nn.Module):
    """Half of the channels pass through the blocks, half go round them (MMDetection: ``CSPLayer``)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        add_identity: bool = True,
        use_depthwise: bool = False,
        channel_attention: bool = False,
    ):
        super().__init__()
        mid_channels = out_channels // 2
        self.main_conv = ConvModule(in_channels, mid_channels, 1)
        self.short_conv = ConvModule(in_channels, mid_channels, 1)
        self.final_conv = ConvModule(2 * mid_channels, out_channels, 1)
        self.blocks = nn.Sequential(
            *(
                CSPNeXtBlock(mid_channels, add_identity=add_identity, use_depthwise=use_depthwise)
                for _ in range(num_blocks)
            )
        )
        self.attention = ChannelAttention(2 * mid_channels) if channel_attention else nn.Identity()

    def forward(self, x: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ height width"]:
        """Features ``[B, in, H, W]`` to ``[B, out, H, W]``."""
        halves = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)
        return self.final_conv(self.attention(halves))


class SPPBottleneck(nn.Module):
    """Max pooling over 5x5, 9x9 and 13x13 cells beside the features themselves (MMDetection: ``SPPBottleneck``).

    A 5x5 maximum of 5x5 maxima is the 9x9 maximum, so that three small poolings in a row replace the large ones:
    75 comparisons a cell in place of 275.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        mid_channels = in_channels // 2
        self.conv1 = ConvModule(in_channels, mid_channels, 1)
        self.pooling = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = ConvModule(4 * mid_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ height width"]:
        """Features ``[B, in, H, W]`` to ``[B, out, H, W]``."""
        pooled = [self.conv1(x)]
        for _ in range(3):
            pooled.append(self.pooling(pooled[-1]))
        return self.conv2(torch.cat(pooled, dim=1))


class Scale(nn.Module):
    """One learnable factor (mmcv: ``Scale``)."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The input times the factor."""
        return x * self.scale


def inverse_sigmoid(x: Float[Tensor, "*shape"], eps: float = 1e-5) -> Float[Tensor, "*shape"]:
    """The logit of a probability in 0..1, finite at both ends (MMDetection: ``inverse_sigmoid``).

    >>> [round(v, 2) for v in inverse_sigmoid(torch.tensor([0.0, 0.5, 1.0])).tolist()]
    [-11.51, 0.0, 11.51]
    """
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def sigmoid_geometric_mean(x: Float[Tensor, "*#shape"], y: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """``sqrt(sigmoid(x) * sigmoid(y))`` of two logits (MMDetection: ``sigmoid_geometric_mean``).

    Computed as a mean of logarithms.  The plain form has a gradient of 0 * inf where both are tiny; this one has
    ``mean * (1 - sigmoid(x)) / 2``, which MMDetection writes by hand as an autograd function.

    >>> sigmoid_geometric_mean(torch.tensor([0.0]), torch.tensor([0.0])).item()
    0.5
    """
    return torch.exp((F.logsigmoid(x) + F.logsigmoid(y)) / 2)


def bias_init_with_prob(prior_prob: float) -> float:
    """The bias at which a sigmoid gives ``prior_prob`` (mmengine: ``bias_init_with_prob``).

    >>> round(bias_init_with_prob(0.01), 3)
    -4.595
    """
    return -math.log((1 - prior_prob) / prior_prob)


def normal_init(module: nn.Module, std: float = 0.01, bias: float = 0.0) -> None:
    """Draw every convolution inside ``module`` from N(0, std) and set its bias, where it has one."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, 0.0, std)
            if conv.bias is not None:
                nn.init.constant_(conv.bias, bias)
