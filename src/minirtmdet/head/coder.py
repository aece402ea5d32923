"""Boxes as four distances from a point: left, top, right, bottom, in pixels."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class DistancePointBBoxCoder:
    """Boxes to distances and back (MMDetection: ``DistancePointBBoxCoder``).

    Args:
        clip_border: whether :meth:`decode` honours ``max_shape``.
    """

    def __init__(self, clip_border: bool = True) -> None:
        self.clip_border = clip_border

    def encode(
        self,
        points: Float[Tensor, "*#batch 2"],
        bboxes: Float[Tensor, "*#batch 4"],
        max_dis: float | None = None,
        eps: float = 0.1,
    ) -> Float[Tensor, "*batch 4"]:
        """Distances ``ltrb`` from each point to the sides of its box; negative where the point is outside.

        Args:
            points: ``(x, y)`` in pixels.
            bboxes: ``xyxy`` in pixels.
            max_dis: where given, distances are clamped to ``0..max_dis - eps`` pixels.
            eps: how far below ``max_dis`` to stay.

        >>> DistancePointBBoxCoder().encode(torch.tensor([16., 16.]), torch.tensor([8., 0., 40., 24.])).tolist()
        [8.0, 16.0, 24.0, 8.0]
        """
        x, y = points.unbind(-1)
        x1, y1, x2, y2 = bboxes.unbind(-1)
        distances = torch.stack([x - x1, y - y1, x2 - x, y2 - y], -1)
        return distances if max_dis is None else distances.clamp(0, max_dis - eps)

    def decode(
        self,
        points: Float[Tensor, "*#batch 2"],
        distances: Float[Tensor, "*#batch 4"],
        max_shape: tuple[int, int] | Int[Tensor, "images 2"] | Sequence[tuple[int, int]] | None = None,
    ) -> Float[Tensor, "*batch 4"]:
        """Boxes ``xyxy`` from points and distances ``ltrb``.

        Args:
            points: ``(x, y)`` in pixels.
            distances: pixels to the left, top, right and bottom side.
            max_shape: ``(height, width)`` that boxes are clipped to, in pixels; one for all, or one per image
                where the first axis of the boxes is images.

        >>> DistancePointBBoxCoder().decode(torch.tensor([16., 16.]), torch.tensor([8., 16., 24., 8.])).tolist()
        [8.0, 0.0, 40.0, 24.0]
        """
        x, y = points.unbind(-1)
        left, top, right, bottom = distances.unbind(-1)
        # each side in memory of its own: code that works with sides then reads whole rows
        boxes = torch.stack([x - left, y - top, x + right, y + bottom]).movedim(0, -1)
        if max_shape is None or not self.clip_border:
            return boxes
        shape = torch.as_tensor(max_shape, dtype=boxes.dtype, device=boxes.device)  # [2] or [images,2]
        limit = shape.flip(-1).repeat(*(1,) * (shape.ndim - 1), 2)  # (w, h, w, h)
        if limit.ndim == 2:
            limit = limit.view(len(limit), *(1,) * (boxes.ndim - 2), 4)
        return torch.minimum(boxes.clamp(min=0), limit)
