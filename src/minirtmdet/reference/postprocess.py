"""Detections of one image, with non-maximum suppression box by box."""

from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps


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
