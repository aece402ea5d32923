"""From logits and distances to detections: threshold, best candidates a level, boxes, NMS."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import PredictConfig
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.structures import Detections

# candidates that NMS compares at a time: large enough to keep the device busy, small enough for a square matrix
NMS_CHUNK = 1024


@torch.no_grad()
def predict_by_feat(
    cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
    bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
    config: PredictConfig = PredictConfig(),
    prior_offset: float = 0.0,
    img_shapes: Sequence[tuple[int, int]] | None = None,
    scale_factors: Sequence[tuple[float, float]] | None = None,
) -> list[Detections]:
    """Detections of every image (MMDetection: ``predict_by_feat`` and ``_bbox_post_process``).

    A prior may give several detections, one for each class over the threshold.

    Args:
        cls_scores: logits of each level.
        bbox_preds: distances ``ltrb`` of each level, in pixels of the network input.
        config: thresholds and limits.
        prior_offset: where a prior lies in its cell, in strides.
        img_shapes: ``(height, width)`` of each image in the network input, that boxes are clipped to; not clipped
            where left out.
        scale_factors: ``(width, height)`` factors from original picture to network input, that boxes are divided
            by; boxes stay in pixels of the network input where left out.
    """
    featmap_sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
    dtype = torch.promote_types(bbox_preds[0].dtype, torch.float32)
    levels = MlvlPointGenerator(offset=prior_offset).grid_priors(featmap_sizes, dtype, bbox_preds[0].device)
    coder = DistancePointBBoxCoder()
    results = []
    for image in range(len(cls_scores[0])):
        picked: list[tuple[Tensor, Tensor, Tensor]] = []
        for cls_score, bbox_pred, priors in zip(cls_scores, bbox_preds, levels, strict=True):
            logits = cls_score[image].flatten(1).T.to(dtype)  # [H*W,C]
            scores, labels, cells = _best_candidates(logits.sigmoid(), config)
            distances = bbox_pred[image].flatten(1).T[cells].to(dtype)
            shape = None if img_shapes is None else img_shapes[image]
            picked.append((coder.decode(priors[cells, :2], distances, shape), scores, labels))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*picked, strict=True))
        if scale_factors is not None:
            width, height = (1 / factor for factor in scale_factors[image])
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        boxes, scores, labels = boxes[has_area], scores[has_area], labels[has_area]
        limits = config.nms_iou_threshold, config.max_per_image
        keep = batched_nms(boxes, scores, labels, *limits, as_mmcv=config.nms_as_mmcv)
        results.append(Detections(boxes[keep], scores[keep], labels[keep]))
    return results


def _best_candidates(
    scores: Float[Tensor, "cells classes"], config: PredictConfig
) -> tuple[Float[Tensor, " best"], Int[Tensor, " best"], Int[Tensor, " best"]]:
    """Scores, classes and cells over the threshold, best first (MMDetection: ``filter_scores_and_topk``)."""
    flat = scores.flatten()
    over = (flat > config.score_threshold).nonzero()[:, 0]
    kept = flat[over]
    if len(kept) > config.nms_pre:
        # the last score that counts is found without sorting; so most need never be sorted
        top = kept >= kept.topk(config.nms_pre, sorted=False).values.min()
        over, kept = over[top], kept[top]
    best, order = kept.sort(descending=True)
    index = over[order[: config.nms_pre]]
    return best[: config.nms_pre], index % scores.shape[1], index // scores.shape[1]


def batched_nms(
    boxes: Float[Tensor, "candidates 4"],
    scores: Float[Tensor, " candidates"],
    labels: Int[Tensor, " candidates"],
    iou_threshold: float,
    max_out: int,
    *,
    as_mmcv: bool = False,
) -> Int[Tensor, " kept"]:
    """Indices that greedy, class-wise non-maximum suppression keeps, best first, at most ``max_out``.

    Args:
        boxes: ``xyxy`` in pixels.
        scores: higher is better.
        labels: boxes of different classes never suppress each other.
        iou_threshold: of two boxes of one class that overlap more, the one with the lower score goes.
        max_out: candidates after the last one that is kept are never looked at.
        as_mmcv: move classes apart by the largest coordinate alone, as mmcv does: boxes with negative coordinates,
            which boxes that were not clipped may have, then reach into the class before theirs and suppress there.

    MMDetection (mmcv ``batched_nms``) compares all candidates and cuts afterwards: the same boxes, and, where no
    coordinate is negative, the same shift by class, so that rounding is the same too.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    span = boxes.max() + 1 if as_mmcv else boxes.max() + 1 - boxes.min().clamp(max=0)
    shifted = boxes + (labels.to(boxes.dtype) * span)[:, None]
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for chunk in order.split(NMS_CHUNK):
        chunk = chunk[~_overlaps(shifted, kept, chunk, iou_threshold).any(0)]
        suppresses = _overlaps(shifted, chunk, chunk, iou_threshold).triu(1)  # row suppresses column
        kept = torch.cat([kept, chunk[_greedy(suppresses)]])[:max_out]
        if len(kept) == max_out:
            break
    return kept


def _overlaps(boxes: Tensor, first: Tensor, second: Tensor, iou_threshold: float) -> Tensor:
    return bbox_overlaps(boxes[first], boxes[second]) > iou_threshold


def _greedy(suppresses: Tensor) -> Tensor:
    """Which rows survive when each survivor removes the later ones it suppresses.

    Each round settles at least the next row for good, so the fixed point is the greedy answer; chains of
    suppression are short, and so are the rounds.
    """
    alive = torch.ones(len(suppresses), dtype=torch.bool, device=suppresses.device)
    while True:
        survivors = ~(suppresses & alive[:, None]).any(0)
        if torch.equal(survivors, alive):
            return alive
        alive = survivors
