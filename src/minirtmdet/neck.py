"""CSPNeXtPAFPN, the neck: every level learns what the others see."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minirtmdet.layers import ConvModule, CSPLayer, conv_class


class CSPNeXtPAFPN(nn.Module):
    """A path from coarse to fine, then one back, with CSP layers where two maps meet.

    Paper, section 3.2; MMDetection: ``CSPNeXtPAFPN``.

    >>> neck = CSPNeXtPAFPN([64, 128, 256], 64, num_csp_blocks=1)
    >>> maps = [torch.zeros(1, 64, 8, 8), torch.zeros(1, 128, 4, 4), torch.zeros(1, 256, 2, 2)]
    >>> [tuple(feat.shape) for feat in neck(maps)]
    [(1, 64, 8, 8), (1, 64, 4, 4), (1, 64, 2, 2)]
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, num_csp_blocks: int = 3, *, use_depthwise: bool = False
    ):
        super().__init__()
        conv = conv_class(use_depthwise)

        def fuse(from_channels: int, to_channels: int) -> CSPLayer:
            return CSPLayer(
                2 * from_channels, to_channels, num_csp_blocks, add_identity=False, use_depthwise=use_depthwise
            )

        fine_to_coarse = list(pairwise(in_channels))
        coarse_to_fine = fine_to_coarse[::-1]
        self.reduce_layers = nn.ModuleList(ConvModule(coarse, fine, 1) for fine, coarse in coarse_to_fine)
        self.top_down_blocks = nn.ModuleList(fuse(fine, fine) for fine, _ in coarse_to_fine)
        self.downsamples = nn.ModuleList(conv(fine, fine, 3, stride=2) for fine, _ in fine_to_coarse)
        self.bottom_up_blocks = nn.ModuleList(fuse(fine, coarse) for fine, coarse in fine_to_coarse)
        self.out_convs = nn.ModuleList(conv(channels, out_channels, 3) for channels in in_channels)

    def forward(self, inputs: Sequence[Float[Tensor, "batch _ _ _"]]) -> tuple[Float[Tensor, "batch _ _ _"], ...]:
        """Maps of the backbone, fine to coarse, to as many maps of ``out_channels`` and the same sizes.

        Each map must be exactly half the size of the one before it.
        """
        *finer, top = inputs

        # coarse to fine: what an object is reaches the maps that say where it is
        laterals = []
        for reduce, fuse, fine in zip(self.reduce_layers, self.top_down_blocks, reversed(finer), strict=True):
            lateral = reduce(top)
            laterals.append(lateral)
            top = fuse(torch.cat([F.interpolate(lateral, scale_factor=2.0), fine], dim=1))

        # and back: edges and corners reach the coarse maps in a few layers
        outs = [top]
        for downsample, fuse, lateral in zip(self.downsamples, self.bottom_up_blocks, reversed(laterals), strict=True):
            outs.append(fuse(torch.cat([downsample(outs[-1]), lateral], dim=1)))

        return tuple(conv(out) for conv, out in zip(self.out_convs, outs, strict=True))
