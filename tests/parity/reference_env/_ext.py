"""Stands in for ``mmcv._ext``, the compiled half of mmcv, beside ``mmcv-lite``; ``setup.sh`` copies it there.

``nms`` works as mmcv's CPU kernel does: fp32, the best box first, boxes that overlap it by more than the threshold go.
Every other operation exists by name, so that mmcv imports, and says what it is when it is called.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that survive, best first; ``offset`` 1 counts pixels, 0 measures lengths."""
    boxes = boxes.detach().float()
    sides = boxes[:, 2:] - boxes[:, :2] + offset
    areas = sides[:, 0] * sides[:, 1]
    rest = scores.detach().sort(descending=True).indices
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        common = torch.minimum(boxes[best, 2:], boxes[rest, 2:]) - torch.maximum(boxes[best, :2], boxes[rest, :2])
        overlap = (common + offset).clamp(min=0).prod(-1)
        # a kernel in C++ compares in fp32, and so must this: the threshold is rounded first
        rest = rest[~(overlap / (areas[best] + areas[rest] - overlap) > torch.tensor(iou_threshold))]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"mmcv._ext.{name}: mmcv-lite comes without compiled operations, only nms stands in")

    return missing
