"""Grid priors: one point per cell on each level, and which of them lie in the padded image."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.configs import STRIDES


class MlvlPointGenerator:
    """Points on the grids of several levels (MMDetection: ``MlvlPointGenerator``).

    Args:
        strides: pixels per cell, one per level.
        offset: where the point lies in its cell, in strides: 0 the top-left corner, 0.5 the centre.
    """

    def __init__(self, strides: Sequence[int] = STRIDES, offset: float = 0.0) -> None:
        self.strides = tuple(strides)
        self.offset = offset

    def grid_priors(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> list[Float[Tensor, "cells 4"]]:
        """The priors of each level, row by row: ``(x, y, stride, stride)`` in pixels.

        Args:
            featmap_sizes: ``(height, width)`` of each level's map, in cells.
            dtype: of the priors.
            device: where to put them.

        Raises:
            ValueError: where the number of maps is not the number of strides.

        >>> MlvlPointGenerator(strides=[8]).grid_priors([(2, 2)])[0].tolist()
        [[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 8.0, 8.0], [0.0, 8.0, 8.0, 8.0], [8.0, 8.0, 8.0, 8.0]]
        """
        self._check_levels(len(featmap_sizes))
        priors = []
        for (height, width), stride in zip(featmap_sizes, self.strides, strict=True):
            x = ((torch.arange(width, device=device) + self.offset) * stride).to(dtype)  # [W]
            y = ((torch.arange(height, device=device) + self.offset) * stride).to(dtype)  # [H]
            xy = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)  # [H,W,2]
            priors.append(torch.cat([xy, torch.full_like(xy, stride)], -1).flatten(0, 1))  # [H*W,4]
        return priors

    def valid_flags(
        self, featmap_sizes: Sequence[tuple[int, int]], pad_shapes: Int[Tensor, "batch 2"]
    ) -> list[Bool[Tensor, "batch cells"]]:
        """Whether each cell begins inside its image's padded shape, for each level.

        Args:
            featmap_sizes: ``(height, width)`` of each level's map, in cells.
            pad_shapes: ``(height, width)`` of each image after its own padding, in pixels; the batch may be larger.

        Raises:
            ValueError: where the number of maps is not the number of strides.

        MMDetection counts ``ceil(pad / stride)`` cells per axis, for one image at a time: the same cells.

        >>> MlvlPointGenerator(strides=[8]).valid_flags([(2, 2)], torch.tensor([[16, 8]]))[0].tolist()
        [[True, False, True, False]]
        """
        self._check_levels(len(featmap_sizes))
        pad_height, pad_width = pad_shapes.unbind(-1)  # [B], [B]
        flags = []
        for (height, width), stride in zip(featmap_sizes, self.strides, strict=True):
            rows = torch.arange(height, device=pad_shapes.device) * stride < pad_height[:, None]  # [B,H]
            columns = torch.arange(width, device=pad_shapes.device) * stride < pad_width[:, None]  # [B,W]
            flags.append((rows[:, :, None] & columns[:, None, :]).flatten(1))  # [B,H*W]
        return flags

    def _check_levels(self, levels: int) -> None:
        if levels != len(self.strides):
            raise ValueError(
                f"{levels} feature maps for {len(self.strides)} strides {self.strides}: one map per stride"
            )


def border_flags(
    priors: Float[Tensor, "priors 4"], img_shapes: Int[Tensor, "batch 2"], allowed_border: int
) -> Bool[Tensor, "batch priors"]:
    """Whether each prior lies in its image's content, or at most ``allowed_border`` pixels outside it.

    Args:
        priors: ``(x, y, stride, stride)`` in pixels.
        img_shapes: ``(height, width)`` of each image before padding, in pixels.
        allowed_border: in pixels; negative switches the test off, as the official configs do.

    MMDetection's ``anchor_inside_flags`` was made for anchor boxes: given points, it compares the columns that
    hold the stride with the image size, and the far borders are never tested.

    >>> border_flags(torch.tensor([[8., 0., 8., 8.], [16., 0., 8., 8.]]), torch.tensor([[8, 12]]), 0).tolist()
    [[True, False]]
    """
    if allowed_border < 0:
        return torch.ones(len(img_shapes), len(priors), dtype=torch.bool, device=priors.device)
    x, y = priors[:, 0], priors[:, 1]
    height, width = (column[:, None] + allowed_border for column in img_shapes.unbind(-1))  # [B,1]
    return (x >= -allowed_border) & (y >= -allowed_border) & (x < width) & (y < height)
