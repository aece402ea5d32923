"""CSPNeXt, the backbone: an image in, feature maps at strides 8, 16 and 32 out."""

from jaxtyping import Float
from torch import Tensor, nn

from minirtmdet.layers import ConvModule, CSPLayer, SPPBottleneck, conv_class

# in channels, out channels, blocks, add_identity, use_spp, at factors 1 (MMDetection: arch_settings["P5"])
ARCH_SETTINGS = (
    (64, 128, 3, True, False),
    (128, 256, 6, True, False),
    (256, 512, 6, True, False),
    (512, 1024, 3, False, True),
)


class CSPNeXt(nn.Module):
    """A stem and four stages, each of which halves the map (paper, section 3.2; MMDetection: ``CSPNeXt``).

    Convolutions keep PyTorch's own initialisation, Kaiming uniform with a = sqrt(5), which is what the official
    configs ask for.

    >>> import torch
    >>> backbone = CSPNeXt(deepen_factor=0.167, widen_factor=0.25)
    >>> [tuple(feat.shape) for feat in backbone(torch.zeros(1, 3, 64, 64))]
    [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """

    def __init__(self, deepen_factor: float = 1.0, widen_factor: float = 1.0, *, use_depthwise: bool = False):
        super().__init__()
        conv = conv_class(use_depthwise)
        stem = int(ARCH_SETTINGS[0][0] * widen_factor)
        self.stem = nn.Sequential(
            ConvModule(3, stem // 2, 3, stride=2),
            ConvModule(stem // 2, stem // 2, 3),
            ConvModule(stem // 2, stem, 3),
        )
        stages: list[nn.Module] = []
        for in_base, out_base, base_blocks, add_identity, use_spp in ARCH_SETTINGS:
            out_channels = int(out_base * widen_factor)
            layers: list[nn.Module] = [conv(int(in_base * widen_factor), out_channels, 3, stride=2)]
            if use_spp:
                layers.append(SPPBottleneck(out_channels, out_channels))
            layers.append(
                CSPLayer(
                    out_channels,
                    out_channels,
                    num_blocks=max(round(base_blocks * deepen_factor), 1),
                    add_identity=add_identity,
                    use_depthwise=use_depthwise,
                    channel_attention=True,
                )
            )
            stages.append(nn.Sequential(*layers))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.out_channels = tuple(int(out_base * widen_factor) for _, out_base, *_ in ARCH_SETTINGS[1:])

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Normalised pixels to the outputs of stages 2, 3 and 4.

        Returns:
            Three maps ``[B, C_l, H / s, W / s]`` for s = 8, 16, 32 and ``C_l`` in ``out_channels``.
        """
        c3 = self.stage2(self.stage1(self.stem(images)))
        c4 = self.stage3(c3)
        c5 = self.stage4(c4)
        return c3, c4, c5
