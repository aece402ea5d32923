"""Box geometry: areas, overlaps and the inside test.  Boxes are ``xyxy``; nothing here knows of priors."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

IoUMode = Literal["iou", "iof", "giou"]


def box_area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Width times height, in square pixels; negative where exactly one side is inverted.

    >>> box_area(torch.tensor([[0., 0., 10., 5.]])).tolist()
    [50.0]
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def columns(values: Float[Tensor, "*batch size"]) -> tuple[Float[Tensor, "*batch"], ...]:
    """Each coordinate alone, in memory of its own: a stride of four numbers would keep SIMD from loading it."""
    return values.movedim(-1, 0).contiguous().unbind(0)


def aligned_overlaps(
    boxes1: Float[Tensor, "*#batch 4"],
    boxes2: Float[Tensor, "*#batch 4"],
    mode: IoUMode = "iou",
    eps: float = 1e-6,
    clamp_inverted: bool = False,
) -> Float[Tensor, "*batch"]:
    """Overlap of each box with its partner; leading axes broadcast.

    Args:
        boxes1: ``xyxy``.
        boxes2: ``xyxy``.
        mode: ``iou`` (intersection over union), ``iof`` (over the area of ``boxes1``) or ``giou``
            (IoU minus the empty share of the enclosing box, in -1..1 for boxes that are not inverted).
        eps: the smallest denominator, in square pixels.
        clamp_inverted: give a box with swapped sides no area.  The original does not: two swapped sides make a
            positive area, and a GIoU far above 1.

    Raises:
        ValueError: for an unknown mode.

    MMDetection: ``bbox_overlaps(is_aligned=True)``.  Half precision is computed in fp32: the area of a
    300 px box does not fit fp16.

    >>> a, b = torch.tensor([0., 0., 10., 10.]), torch.tensor([5., 0., 15., 10.])
    >>> [round(aligned_overlaps(a, b, mode).item(), 4) for mode in ("iou", "iof", "giou")]
    [0.3333, 0.5, 0.3333]
    """
    if mode not in ("iou", "iof", "giou"):
        raise ValueError(f"unknown overlap mode {mode!r}: expected 'iou', 'iof' or 'giou'")
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    boxes1, boxes2 = boxes1.to(dtype), boxes2.to(dtype)
    ax1, ay1, ax2, ay2 = columns(boxes1)
    bx1, by1, bx2, by2 = columns(boxes2)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    overlap = width.mul_(height)
    area1 = _area(ax2 - ax1, ay2 - ay1, clamp_inverted)
    if mode == "iof":
        return overlap / area1.expand_as(overlap).clamp(min=eps)
    area2 = _area(bx2 - bx1, by2 - by1, clamp_inverted)
    union = (area1 + area2).sub_(overlap).clamp_(min=eps)
    ious = overlap / union
    if mode == "iou":
        return ious
    hull_width = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)).clamp(min=0)
    hull_height = (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)).clamp(min=0)
    hull = (hull_width * hull_height).clamp(min=eps)
    return ious - (hull - union) / hull


def _area(width: Tensor, height: Tensor, clamp_inverted: bool) -> Tensor:
    return width.clamp(min=0) * height.clamp(min=0) if clamp_inverted else width * height


def bbox_overlaps(
    bboxes1: Float[Tensor, "*batch m 4"],
    bboxes2: Float[Tensor, "*batch n 4"],
    mode: IoUMode = "iou",
    eps: float = 1e-6,
) -> Float[Tensor, "*batch m n"]:
    """Overlap of every box of the first set with every box of the second, for any leading batch axes.

    Arguments, errors and precision as in :func:`aligned_overlaps`; either set may be empty.
    MMDetection: ``bbox_overlaps``.

    >>> boxes = torch.tensor([[0., 0., 10., 10.], [5., 0., 15., 10.]])
    >>> bbox_overlaps(boxes, boxes).shape
    torch.Size([2, 2])
    """
    return aligned_overlaps(bboxes1.unsqueeze(-2), bboxes2.unsqueeze(-3), mode, eps)


def points_inside(
    points: Float[Tensor, "priors 2"], boxes: Float[Tensor, "*batch boxes 4"]
) -> Bool[Tensor, "*batch boxes priors"]:
    """Whether each point lies strictly inside each box; a point on the border is outside.

    MMDetection: ``find_inside_points`` and the first lines of ``DynamicSoftLabelAssigner.assign``.

    >>> points_inside(torch.tensor([[0., 8.], [8., 8.]]), torch.tensor([[[0., 0., 16., 16.]]])).tolist()
    [[[False, True]]]
    """
    return nearest_side(points, boxes) > 0


def nearest_side(
    points: Float[Tensor, "priors 2"], boxes: Float[Tensor, "*batch boxes 4"]
) -> Float[Tensor, "*batch boxes priors"]:
    """Distance from each point to the nearest side of each box, in pixels; positive strictly inside alone."""
    x, y = columns(points)
    x1, y1, x2, y2 = (column.unsqueeze(-1) for column in columns(boxes))
    return torch.minimum(torch.minimum(x - x1, x2 - x), torch.minimum(y - y1, y2 - y))
