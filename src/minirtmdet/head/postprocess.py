"""From logits and distances to detections: threshold, best candidates a level, boxes, NMS; then masks.

The whole batch at once, as in training.  How many detections there are depends on the data, so that the host has to
wait for the device now and then: a few times per batch, however many images it has.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import INS_PREDICT, STRIDES, PredictConfig
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.dynamic import at_priors, mask_logits
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.masks import Stretch, StretchedMasks, as_stretch
from minirtmdet.structures import Detections, InsOutputs

# pairs of candidates that NMS compares at a time: what a core's cache holds, and what keeps a GPU busy and fits its
# memory; and candidates of an image, of which the first few hundred are often enough
NMS_CACHED, NMS_PAIRS = 2**16, 2**25
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
        scale_factors: ``(width, height)`` factors from original image to network input, that boxes are divided
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
    if not len(cls_scores[0]):
        return []
    found = _best_candidates(cls_scores, bbox_preds, config, prior_offset)
    device = found.scores.device
    shapes = None if img_shapes is None else torch.tensor(img_shapes).to(device, non_blocking=True)
    boxes = DistancePointBBoxCoder().decode(found.points, found.distances, shapes)  # [B,M,4]
    if scale_factors is not None:
        factors = torch.tensor([[1 / width, 1 / height] * 2 for width, height in scale_factors], dtype=boxes.dtype)
        boxes = boxes * factors.to(device, non_blocking=True)[:, None]
    counts = (boxes[..., 2:] > boxes[..., :2]).all(-1) & (found.scores > config.score_threshold)  # [B,M]
    shifted = _apart_by_class(boxes, found.labels, counts, config.nms_as_mmcv)
    keep, kept = _nms(shifted, counts, config.nms_iou_threshold, config.max_per_image)
    boxes = boxes.gather(1, keep[..., None].expand(-1, -1, 4))
    scores, labels, origin = (field.gather(1, keep) for field in (found.scores, found.labels, found.origin))
    return [(Detections(boxes[i, :n], scores[i, :n], labels[i, :n]), origin[i, :n]) for i, n in enumerate(kept)]


class _Candidates(NamedTuple):
    """The ``M`` best of each image, best first; where an image has fewer, their scores are not over the threshold.

    ``origin`` is the number of the prior among those of all levels.
    """

    scores: Float[Tensor, "batch best"]
    labels: Int[Tensor, "batch best"]
    points: Float[Tensor, "batch best 2"]
    distances: Float[Tensor, "batch best 4"]
    origin: Int[Tensor, "batch best"]


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
        mask_shapes: ``(height, width)`` of each image's masks: of the original image, where there are scale factors.
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
) -> StretchedMasks:
    """Masks in an image's pixels: logits stretched to the padded input, then to the image, cropped, thresholded.

    Args:
        logits: at the features' stride.
        shape: ``(height, width)`` of the image.
        scale_factors: ``(width, height)`` factors from image to network input; none where it is the input itself.
        config: the threshold, and whether sides are swapped.
    """
    padded = (STRIDES[0] * logits.shape[-2], STRIDES[0] * logits.shape[-1])
    stretched = padded if scale_factors is None else _stretched_size(padded, shape, scale_factors, config)
    rows, columns = (_stretch(*sides, logits) for sides in zip(padded, stretched, shape, strict=True))
    threshold = float(torch.logit(torch.tensor(config.mask_threshold)))  # minus infinity for 0
    return StretchedMasks(logits, rows, columns, threshold)


def _stretched_size(
    padded: tuple[int, int], shape: tuple[int, int], scale_factors: tuple[float, float], config: PredictConfig
) -> tuple[int, int]:
    """Height and width of the padded input in the image's pixels, and never less than the image's.

    MMDetection divides the height by the width's factor, and the width by the height's.  Where an image was resized
    with its ratio the two differ by rounding alone, and most masks are to the pixel the same.
    """
    across, down = (1 / factor for factor in scale_factors)  # first, as there: another rounding may be another size
    own = (max(math.ceil(padded[0] * down), shape[0]), max(math.ceil(padded[1] * across), shape[1]))
    swapped = (math.ceil(padded[0] * across), math.ceil(padded[1] * down))
    if config.swap_mask_sides == "always":
        return swapped
    rounding = all(abs(a - b) <= 1 and a >= c for a, b, c in zip(swapped, own, shape, strict=True))
    return swapped if rounding and config.swap_mask_sides == "rounding" else own


def _stretch(padded: int, stretched: int, kept: int, logits: Tensor) -> Stretch:
    """What stretches one side, as a matrix from cells to pixels: what becomes of each cell alone."""
    cells = torch.eye(padded // STRIDES[0], dtype=logits.dtype)[None]
    pixels = F.interpolate(cells, size=padded, mode="linear", align_corners=False)
    pixels = F.interpolate(pixels, size=stretched, mode="linear", align_corners=False)
    return as_stretch(pixels[0, :, :kept].T, logits.device)


def _best_candidates(
    cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
    bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
    config: PredictConfig,
    prior_offset: float,
) -> _Candidates:
    """Those over the threshold, at most ``nms_pre`` per level (MMDetection: ``filter_scores_and_topk``)."""
    featmap_sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
    dtype = torch.promote_types(bbox_preds[0].dtype, torch.float32)
    levels = MlvlPointGenerator(offset=prior_offset).grid_priors(featmap_sizes, dtype, bbox_preds[0].device)
    every = [level.to(dtype).sigmoid().flatten(1) for level in cls_scores]  # [B,C*H*W] each, a class after the other
    most = torch.stack([(scores > config.score_threshold).sum(1).amax() for scores in every]).tolist()
    picked = []
    first = 0  # number of the level's first prior
    for scores, bbox_pred, priors, count in zip(every, bbox_preds, levels, most, strict=True):
        best, index = scores.topk(min(count, config.nms_pre))  # [B,M]
        label, cell = index // len(priors), index % len(priors)
        distances = bbox_pred.flatten(2).mT.gather(1, cell[..., None].expand(-1, -1, 4)).to(dtype)
        picked.append(_Candidates(best, label, priors[cell, :2], distances, first + cell))
        first += len(priors)
    scores, labels, points, distances, origin = (torch.cat(parts, 1) for parts in zip(*picked, strict=True))
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    row = torch.arange(len(order), device=order.device)[:, None]
    return _Candidates(scores, labels[row, order], points[row, order], distances[row, order], origin[row, order])


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
    order = scores.argsort(descending=True, stable=True)
    counts = torch.ones_like(order, dtype=torch.bool)[None]
    shifted = _apart_by_class(boxes[order][None], labels[order][None], counts, as_mmcv)
    keep, (count,) = _nms(shifted, counts, iou_threshold, max_out)
    return order[keep[0, :count]]


def _apart_by_class(
    boxes: Float[Tensor, "batch candidates 4"],
    labels: Int[Tensor, "batch candidates"],
    counts: Bool[Tensor, "batch candidates"],
    as_mmcv: bool,
) -> Float[Tensor, "batch candidates 4"]:
    """Boxes of each class moved to a place of their own; only those that count say how far."""
    if not labels.numel():
        return boxes
    span = boxes.masked_fill(~counts[..., None], -torch.inf).flatten(1).amax(1) + 1  # [B]
    if not as_mmcv:
        span = span - boxes.masked_fill(~counts[..., None], 0).flatten(1).amin(1).clamp(max=0)
    return boxes + (labels * span[:, None])[..., None]


def _nms(
    boxes: Float[Tensor, "batch candidates 4"],
    counts: Bool[Tensor, "batch candidates"],
    iou_threshold: float,
    max_out: int,
) -> tuple[Int[Tensor, "batch kept"], list[int]]:
    """Non-maximum suppression in every image, whose candidates come best first.

    Args:
        boxes: of classes that are apart.
        counts: candidates that do not are passed over.
        iou_threshold: largest overlap that survives.
        max_out: the most that are kept of an image.

    Returns:
        Indices that are kept, and how many they are in each image; what comes after them means nothing.
    """
    if boxes.device.type != "cpu":
        return _nms_together(boxes, counts, iou_threshold, max_out)
    # a processor waits for no one: one image after the other stays in its cache, and each ends when it is done
    shares = [_nms_together(boxes[i : i + 1], counts[i : i + 1], iou_threshold, max_out) for i in range(len(boxes))]
    return torch.cat([keep for keep, _ in shares]), [count for _, (count,) in shares]


def _nms_together(
    boxes: Float[Tensor, "batch candidates 4"],
    counts: Bool[Tensor, "batch candidates"],
    iou_threshold: float,
    max_out: int,
) -> tuple[Int[Tensor, "batch kept"], list[int]]:
    """Chunk by chunk, all images side by side, until each has ``max_out`` or nothing is left."""
    batch, candidates = counts.shape
    pairs = NMS_CACHED if boxes.device.type == "cpu" else NMS_PAIRS
    size = min(NMS_CHUNK, math.isqrt(pairs // max(batch, 1)))
    left = counts.sum(1)  # [B]: candidates still to come
    number = torch.zeros_like(left)  # [B]: kept so far
    keep = torch.zeros(batch, max_out + 1, dtype=torch.int64, device=boxes.device)  # the last column is for what goes
    found: list[int] = number.tolist() if not candidates else []
    place = torch.arange(max_out, device=boxes.device)
    for start in range(0, candidates, size):
        chunk = boxes[:, start : start + size]
        alive = counts[:, start : start + size]
        left = left - alive.sum(1)
        if start:
            before = boxes.gather(1, keep[:, : max(found), None].expand(-1, -1, 4))  # [B,kept,4]
            rivals = (place[: max(found)] < number[:, None])[..., None]  # [B,kept,1]
            alive = alive & ~((bbox_overlaps(before, chunk) > iou_threshold) & rivals).any(1)
        suppresses = (bbox_overlaps(chunk, chunk) > iou_threshold).triu(1)  # [B,K,K]: row suppresses column
        alive = _greedy(suppresses, alive)
        column = (number[:, None] + alive.cumsum(1) - 1).masked_fill(~alive, max_out).clamp(max=max_out)
        index = torch.arange(start, start + chunk.shape[1], device=boxes.device)
        keep.scatter_(1, column, index.expand_as(column))
        number = (number + alive.sum(1)).clamp(max=max_out)
        *found, open_ = torch.cat([number, ((number < max_out) & (left > 0)).sum()[None]]).tolist()
        if not open_:
            break
    return keep[:, : min(max_out, candidates)], found


def _greedy(
    suppresses: Bool[Tensor, "batch rows rows"], alive: Bool[Tensor, "batch rows"]
) -> Bool[Tensor, "batch rows"]:
    """Which of the rows survive when each survivor removes the later ones it suppresses.

    Each round settles at least the next row for good, so the fixed point is the greedy answer; chains of
    suppression are short, and so are the rounds.
    """
    rounds = 1 if alive.device.type == "cpu" else 8  # a round more costs a device less than a question of the host
    survivors = alive
    while True:
        for _ in range(rounds):
            before, survivors = survivors, alive & ~(suppresses & survivors[..., None]).any(1)
        if torch.equal(survivors, before):
            return survivors
