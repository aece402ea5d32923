"""From 169 numbers to the mask of one instance, step by step: three convolutions that it alone has."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.configs import PROTOTYPES

FEAT_STRIDE = 8
"""Pixels of the input a cell of the mask features."""


class Kernel(NamedTuple):
    """Weights and biases of an instance's three 1x1 convolutions: matrices from channels in to channels out.

    Attributes:
        weight1: of relative x, relative y and the 8 prototypes.
        weight2: of the 8 channels that the first convolution gives.
        weight3: of the 8 that the second one gives.
        bias1: of the first convolution.
        bias2: of the second.
        bias3: of the third.
    """

    weight1: Float[Tensor, "8 10"]
    weight2: Float[Tensor, "8 8"]
    weight3: Float[Tensor, "1 8"]
    bias1: Float[Tensor, " 8"]
    bias2: Float[Tensor, " 8"]
    bias3: Float[Tensor, " 1"]


def parse_kernel(numbers: Float[Tensor, "169"]) -> Kernel:
    """Cut the 169 numbers: the weights of all three convolutions first, then their biases.

    MMDetection: ``RTMDetInsHead.parse_dynamic_params``.

    >>> [tuple(part.shape) for part in parse_kernel(torch.arange(169.0))]
    [(8, 10), (8, 8), (1, 8), (8,), (8,), (1,)]
    """
    weight1, weight2, weight3, bias1, bias2, bias3 = numbers.split([80, 64, 8, 8, 8, 1])
    return Kernel(weight1.view(8, 10), weight2.view(8, 8), weight3.view(1, 8), bias1, bias2, bias3)


def relative_coordinates(prior: Float[Tensor, "4"], height: int, width: int) -> Float[Tensor, "2 height width"]:
    """How far the prior lies to the right of each cell and below it, in units of eight of its own strides.

    The same object is so as large to a coarse level as a small one to a fine level.  MMDetection:
    ``_mask_predict_by_feat_single``.

    Args:
        prior: ``(x, y, stride, stride)`` in pixels.
        height: rows of the mask features.
        width: columns.

    >>> relative_coordinates(torch.tensor([16.0, 8.0, 8.0, 8.0]), 2, 4)[0, 0].tolist()
    [0.25, 0.125, 0.0, -0.125]
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y]).to(prior) * FEAT_STRIDE  # [2,H,W], the corner of each cell
    return (prior[:2, None, None] - cells) / (PROTOTYPES * prior[2])


def convolve(
    channels: Float[Tensor, "inputs height width"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"],
) -> Float[Tensor, "outputs height width"]:
    """A 1x1 convolution: the same matrix at every cell."""
    return torch.einsum("oi,ihw->ohw", weight, channels) + bias[:, None, None]


def mask_logits(
    numbers: Float[Tensor, "169"], prior: Float[Tensor, "4"], mask_feat: Float[Tensor, "8 height width"]
) -> Float[Tensor, "height width"]:
    """The mask of one instance as logits, at the features' stride of 8 pixels.

    Args:
        numbers: what the kernel branch predicts at the instance's prior.
        prior: ``(x, y, stride, stride)`` in pixels.
        mask_feat: the prototypes of the image.
    """
    kernel = parse_kernel(numbers)
    channels = torch.cat([relative_coordinates(prior, *mask_feat.shape[1:]), mask_feat])  # [10,H,W]
    hidden1 = convolve(channels, kernel.weight1, kernel.bias1).relu()
    hidden2 = convolve(hidden1, kernel.weight2, kernel.bias2).relu()
    return convolve(hidden2, kernel.weight3, kernel.bias3)[0]
