"""Detections of one image, with non-maximum suppression box by box and masks one by one."""

import math

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.reference.dynamic import FEAT_STRIDE


def nms(
    boxes: Float[Tensor, "candidates 4"],
    scores: Float[Tensor, " candidates"],
    labels: Int[Tensor, " candidates"],
    iou_threshold: float = 0.65,
) -> list[int]:
    """Indices that survive, best first: take the best box left, drop what overlaps it too much, repeat.

    Args:
        boxes: ``xyxy`` in pixels.
        scores: higher is better.
        labels: boxes of different classes never suppress each other.
        iou_threshold: largest overlap that survives.
    """
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        rivals = [i for i in kept if labels[i] == labels[index]]
        if not rivals or bbox_overlaps(boxes[rivals], boxes[index : index + 1]).max() <= iou_threshold:
            kept.append(index)
    return kept


def paste_mask(
    logits: Float[Tensor, "height width"],
    shape: tuple[int, int],
    scale_factor: tuple[float, float] | None = None,
    threshold: float = 0.5,
    swap_sides: bool = False,
) -> Bool[Tensor, "_ _"]:
    """One mask in the pixels of the original image: logits are stretched twice, cropped and thresholded.

    Args:
        logits: at the features' stride.
        shape: ``(height, width)`` of the original image.
        scale_factor: ``(width, height)`` factors from original image to network input; where left out, the mask is
            that of the input.
        threshold: of the probability.
        swap_sides: stretch each side by the factor of the other, as MMDetection's ``_bbox_mask_post_process`` does.
    """
    height, width = (FEAT_STRIDE * side for side in logits.shape)
    stretched = F.interpolate(logits[None, None], size=(height, width), mode="bilinear")
    if scale_factor is not None:
        across, down = (1 / factor for factor in scale_factor)
        if swap_sides:
            across, down = down, across
        size = (math.ceil(height * down), math.ceil(width * across))
        stretched = F.interpolate(stretched, size=size, mode="bilinear")
    return stretched[0, 0, : shape[0], : shape[1]].sigmoid() > threshold
