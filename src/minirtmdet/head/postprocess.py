"""From logits and distances to detections: threshold, best candidates a level, boxes, NMS; then masks."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import INS_PREDICT, STRIDES, PredictConfig
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.dynamic import at_priors, mask_logits
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.structures import Detections, InsOutputs

# candidates that NMS compares at a time: large enough to keep the device busy, small enough for a square matrix
NMS_CHUNK = 1024
# pixels of all masks of an image that are worked on at a time: what a core's cache holds, and what keeps a GPU busy
CACHED, ROOM = 2**20, 2**26


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
    found = boxes_by_feat(cls_scores, bbox_preds, config, prior_offset, img_shapes, scale_factors)
    return [detections for detections, _ in found]


def boxes_by_feat(
    cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
    bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
    config: PredictConfig,
    prior_offset: float,
    img_shapes: Sequence[tuple[int, int]] | None,
    scale_factors: Sequence[tuple[float, float]] | None,
) -> list[tuple[Detections, Int[Tensor, " detections"]]]:
    """As :func:`predict_by_feat`, with the prior of each detection: its index among those of all levels."""
    featmap_sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
    dtype = torch.promote_types(bbox_preds[0].dtype, torch.float32)
    levels = MlvlPointGenerator(offset=prior_offset).grid_priors(featmap_sizes, dtype, bbox_preds[0].device)
    coder = DistancePointBBoxCoder()
    results = []
    for image in range(len(cls_scores[0])):
        picked: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        first = 0
        for cls_score, bbox_pred, priors in zip(cls_scores, bbox_preds, levels, strict=True):
            logits = cls_score[image].flatten(1).T.to(dtype)  # [H*W,C]
            scores, labels, cells = _best_candidates(logits.sigmoid(), config)
            distances = bbox_pred[image].flatten(1).T[cells].to(dtype)
            shape = None if img_shapes is None else img_shapes[image]
            picked.append((coder.decode(priors[cells, :2], distances, shape), scores, labels, first + cells))
            first += len(priors)
        boxes, scores, labels, origin = (torch.cat(parts) for parts in zip(*picked, strict=True))
        if scale_factors is not None:
            width, height = (1 / factor for factor in scale_factors[image])
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        boxes, scores, labels, origin = (field[has_area] for field in (boxes, scores, labels, origin))
        limits = config.nms_iou_threshold, config.max_per_image
        keep = batched_nms(boxes, scores, labels, *limits, as_mmcv=config.nms_as_mmcv)
        results.append((Detections(boxes[keep], scores[keep], labels[keep]), origin[keep]))
    return results


@torch.no_grad()
def predict_instances_by_feat(
    outputs: InsOutputs,
    mask_shapes: Sequence[tuple[int, int]],
    config: PredictConfig = INS_PREDICT,
    prior_offset: float = 0.0,
    img_shapes: Sequence[tuple[int, int]] | None = None,
    scale_factors: Sequence[tuple[float, float]] | None = None,
) -> list[Detections]:
    """Detections of every image with masks, which are computed of what NMS has left (MMDetection: ``RTMDetInsHead``).

    Args:
        outputs: of the network.
        mask_shapes: ``(height, width)`` of each image's masks: of the original picture, where there are scale factors.
        config: thresholds and limits.
        prior_offset: where a prior lies in its cell, in strides.
        img_shapes: what boxes are clipped to.
        scale_factors: what boxes are divided by, and masks stretched by.
    """
    cls_scores, bbox_preds, kernel_preds, mask_feat = outputs
    found = boxes_by_feat(cls_scores, bbox_preds, config, prior_offset, img_shapes, scale_factors)
    sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
    dtype = torch.promote_types(mask_feat.dtype, torch.float32)
    priors = torch.cat(MlvlPointGenerator(offset=prior_offset).grid_priors(sizes, dtype, mask_feat.device))
    results = []
    for image, (detections, origin) in enumerate(found):
        one = slice(image, image + 1)
        kernels = at_priors([level[one] for level in kernel_preds], origin[None]).to(dtype)
        logits = mask_logits(kernels, priors[origin][None], mask_feat[one].to(dtype))[0]
        factors = None if scale_factors is None else scale_factors[image]
        results.append(Detections(*detections, stretch_masks(logits, mask_shapes[image], factors, config)))
    return results


def stretch_masks(
    logits: Float[Tensor, "detections height width"],
    shape: tuple[int, int],
    scale_factors: tuple[float, float] | None,
    config: PredictConfig = INS_PREDICT,
) -> Bool[Tensor, "detections _ _"]:
    """Masks in a picture's pixels: logits stretched to the padded input, then to the picture, cropped, thresholded.

    Stretching works on rows and on columns alike, and twice in a row is still linear: one matrix for each side does
    both, and a strip of all masks at a time is made, compared and forgotten.  MMDetection makes two maps of numbers
    of the picture's size for every detection.

    Args:
        logits: at the features' stride.
        shape: ``(height, width)`` of the picture.
        scale_factors: ``(width, height)`` factors from picture to network input; none where it is the input itself.
        config: the threshold, and whether sides are swapped.
    """
    padded = (STRIDES[0] * logits.shape[-2], STRIDES[0] * logits.shape[-1])
    stretched = padded if scale_factors is None else _stretched_size(padded, shape, scale_factors, config)
    rows, columns = (_stretch(*sides, logits) for sides in zip(padded, stretched, shape, strict=True))
    masks = torch.empty(len(logits), len(rows), len(columns), dtype=torch.bool, device=logits.device)
    threshold = float(torch.logit(torch.tensor(config.mask_threshold)))  # minus infinity for 0
    budget = CACHED if logits.device.type == "cpu" else ROOM
    step = max(1, budget // max(1, len(logits) * len(columns)))
    for top in range(0, len(rows), step):
        strip = rows[top : top + step] @ logits @ columns.T  # [n,strip,W]
        masks[:, top : top + step] = strip > threshold
    return masks


def _stretched_size(
    padded: tuple[int, int], shape: tuple[int, int], scale_factors: tuple[float, float], config: PredictConfig
) -> tuple[int, int]:
    """Height and width of the padded input in the picture's pixels, and never less than the picture's.

    MMDetection divides the height by the width's factor, and the width by the height's.  Where a picture was resized
    with its ratio the two differ by rounding alone, and most masks are to the pixel the same.
    """
    across, down = (1 / factor for factor in scale_factors)  # first, as there: another rounding may be another size
    own = (max(math.ceil(padded[0] * down), shape[0]), max(math.ceil(padded[1] * across), shape[1]))
    swapped = (math.ceil(padded[0] * across), math.ceil(padded[1] * down))
    if config.swap_mask_sides == "always":
        return swapped
    rounding = all(abs(a - b) <= 1 and a >= c for a, b, c in zip(swapped, own, shape, strict=True))
    return swapped if rounding and config.swap_mask_sides == "rounding" else own


def _stretch(padded: int, stretched: int, kept: int, logits: Tensor) -> Float[Tensor, "_ cells"]:
    """What stretches one side, as a matrix from cells to pixels: what becomes of each cell alone."""
    cells = torch.eye(padded // STRIDES[0], dtype=logits.dtype, device=logits.device)[None]
    pixels = F.interpolate(cells, size=padded, mode="linear", align_corners=False)
    return F.interpolate(pixels, size=stretched, mode="linear", align_corners=False)[0, :, :kept].T


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
