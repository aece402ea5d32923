"""Three assigners that came before RTMDet's, for one image each, to be read beside it.

Two ask geometry alone and say ``gt_inds``: 0 for background, ``i + 1`` for box ``i``.  SimOTA asks the predictions too,
and says how well each of them fits.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps, box_area, points_inside
from minirtmdet.reference.assignment import (
    Assignment,
    background,
    choose,
    dynamic_k,
    iou_cost,
    resolve_conflicts,
    to_all_priors,
)

REGRESS_RANGES = {8: (-1.0, 64.0), 16: (64.0, 128.0), 32: (128.0, torch.inf)}
"""FCOS's ranges, in pixels by stride, for a detector that ends with stride 32: the last one stays open."""
OUT_OF_REACH = 1e5


def grid_anchors(
    priors: Float[Tensor, "priors 4"],
    scales: Sequence[float] = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> Float[Tensor, "priors anchors 4"]:
    """Boxes of fixed sizes around every prior (MMDetection: ``AnchorGenerator``; RetinaNet, section 4).

    Args:
        priors: ``(x, y, stride, stride)`` in pixels.
        scales: side of a square anchor, in strides; RetinaNet has three in each octave.
        ratios: height over width, at equal area; they vary more slowly than the scales.

    Returns:
        ``xyxy`` in pixels.

    >>> grid_anchors(torch.tensor([[16.0, 16.0, 8.0, 8.0]]), scales=(4.0,), ratios=(1.0, 4.0)).tolist()
    [[[0.0, 0.0, 32.0, 32.0], [8.0, -16.0, 24.0, 48.0]]]
    """
    tall = priors.new_tensor(ratios).sqrt()[:, None]  # [R,1]
    side = priors.new_tensor(scales)  # [S]
    sizes = torch.stack([(1 / tall * side).flatten(), (tall * side).flatten()], -1)  # [A,2]
    half = 0.5 * sizes * priors[:, None, 2:]  # [N,A,2]
    return torch.cat([priors[:, None, :2] - half, priors[:, None, :2] + half], -1)


def max_iou_assign(
    anchors: Float[Tensor, "anchors 4"],
    gt_bboxes: Float[Tensor, "boxes 4"],
    pos_iou_thr: float = 0.5,
    neg_iou_thr: float = 0.4,
    min_pos_iou: float = 0.0,
) -> Int[Tensor, " anchors"]:
    """Each anchor learns the box that it overlaps most (MMDetection 3.3.0: ``MaxIoUAssigner``; Faster R-CNN, 3.1.2).

    Args:
        anchors: ``xyxy`` in pixels.
        gt_bboxes: ``xyxy`` in pixels.
        pos_iou_thr: the least IoU of a positive.
        neg_iou_thr: background lies below it; between the two an anchor is -1 and learns nothing.
        min_pos_iou: a box whose best anchor reaches this has it all the same, whatever else that anchor was to learn.
            With RetinaNet's 0, a box that overlaps no anchor has all anchors for its best.

    Returns:
        ``gt_inds``, -1 for neither.
    """
    gt_inds = torch.zeros_like(anchors[:, 0], dtype=torch.int64)
    if len(gt_bboxes) == 0:
        return gt_inds
    ious = bbox_overlaps(gt_bboxes, anchors)  # [G,M]
    best, box = ious.max(0)  # [M], [M]
    gt_inds[best >= neg_iou_thr] = -1
    positive = best >= pos_iou_thr
    gt_inds[positive] = box[positive] + 1
    for i, highest in enumerate(ious.amax(1)):
        if highest >= min_pos_iou:
            gt_inds[ious[i] == highest] = i + 1
    return gt_inds


def fcos_assign(
    priors: Float[Tensor, "priors 4"],
    gt_bboxes: Float[Tensor, "boxes 4"],
    regress_ranges: Mapping[int, tuple[float, float]] = REGRESS_RANGES,
    center_sample_radius: float | None = 1.5,
) -> Int[Tensor, " priors"]:
    """Each point learns the smallest box around it, if its level has that size.

    MMDetection 3.3.0: ``FCOSHead._get_targets_single``; FCOS, section 3.

    Args:
        priors: ``(x, y, stride, stride)`` in pixels.
        gt_bboxes: ``xyxy`` in pixels.
        regress_ranges: by stride, the least and the greatest distance in pixels from a point to the farthest side.
        center_sample_radius: half the side of a square around the box's centre, in strides, which points must lie in
            too; anywhere in the box where None, as in the first version.

    Returns:
        ``gt_inds``.
    """
    if len(gt_bboxes) == 0:
        return torch.zeros_like(priors[:, 0], dtype=torch.int64)
    points, stride = priors[:, None, :2], priors[:, None, 2:]  # [N,1,2] twice
    left_top, right_bottom = gt_bboxes[:, :2], gt_bboxes[:, 2:]  # [G,2] twice
    reach = torch.cat([points - left_top, right_bottom - points], -1).amax(-1)  # [N,G]
    if center_sample_radius is not None:
        center = (left_top + right_bottom) / 2
        left_top = torch.maximum(center - center_sample_radius * stride, left_top)  # [N,G,2]
        right_bottom = torch.minimum(center + center_sample_radius * stride, right_bottom)  # [N,G,2]
    inside = ((points > left_top) & (points < right_bottom)).all(-1)  # [N,G]
    ranges = [regress_ranges[int(s)] for s in priors[:, 2].tolist()]
    least, most = priors.new_tensor(ranges).T[..., None]  # [N,1] twice
    fits = inside & (least <= reach) & (reach <= most)  # [N,G]
    area, box = torch.where(fits, box_area(gt_bboxes), torch.inf).min(1)  # [N], [N]
    return torch.where(area < torch.inf, box + 1, 0)


def in_box_and_center(
    priors: Float[Tensor, "priors 4"], gt_bboxes: Float[Tensor, "boxes 4"], center_radius: float = 2.5
) -> tuple[Bool[Tensor, " priors"], Bool[Tensor, "priors boxes"]]:
    """Where SimOTA looks (MMDetection: ``SimOTAAssigner.get_in_gt_and_in_center_info``).

    Args:
        priors: ``(x, y, stride, stride)`` in pixels.
        gt_bboxes: ``xyxy`` in pixels.
        center_radius: half the side of a square around each box's centre, in strides of the prior's level.

    Returns:
        The priors in any box or any square, and for each pair whether the prior is in the box and in its square.
    """
    points, reach = priors[:, None, :2], center_radius * priors[:, None, 2:]  # [N,1,2] twice
    center = (gt_bboxes[:, :2] + gt_bboxes[:, 2:]) / 2  # [G,2]
    in_box = points_inside(priors[:, :2], gt_bboxes).T  # [N,G]
    in_center = ((points > center - reach) & (points < center + reach)).all(-1)  # [N,G]
    return (in_box | in_center).any(1), in_box & in_center


def sim_ota_assign(
    scores: Float[Tensor, "priors classes"],
    bboxes: Float[Tensor, "priors 4"],
    priors: Float[Tensor, "priors 4"],
    gt_bboxes: Float[Tensor, "boxes 4"],
    gt_labels: Int[Tensor, " boxes"],
    center_radius: float = 2.5,
    candidate_topk: int = 10,
    iou_weight: float = 3.0,
    cls_weight: float = 1.0,
) -> Assignment:
    """The k cheapest priors of each box learn it (MMDetection 3.3.0: ``SimOTAAssigner``; YOLOX, section 2.1).

    Args:
        scores: probabilities; in YOLOX the class's times the objectness.
        bboxes: predicted ``xyxy`` in pixels.
        priors: ``(x, y, stride, stride)`` in pixels.
        gt_bboxes: ``xyxy`` in pixels.
        gt_labels: class of each box.
        center_radius: of :func:`in_box_and_center`.
        candidate_topk: how many IoUs are summed to a box's number of positives.
        iou_weight: weight of the IoU cost.
        cls_weight: weight of the class cost, a cross entropy against a hard label.
    """
    is_candidate, within = in_box_and_center(priors, gt_bboxes, center_radius)  # [N], [N,G]
    if not is_candidate.any():
        return background(len(priors), bboxes)

    ious = bbox_overlaps(bboxes[is_candidate], gt_bboxes)  # [V,G]
    hard_label = F.one_hot(gt_labels, scores.shape[-1]).to(ious).expand(len(ious), -1, -1)  # [V,G,C]
    predicted = scores[is_candidate, None].expand_as(hard_label)
    class_cost = F.binary_cross_entropy(predicted, hard_label, reduction="none").sum(-1)  # [V,G]
    cost = class_cost * cls_weight + iou_cost(ious) * iou_weight + ~within[is_candidate] * OUT_OF_REACH
    matching = resolve_conflicts(choose(cost, dynamic_k(ious, candidate_topk)), cost)  # [V,G]
    return to_all_priors(is_candidate, matching, ious, gt_labels)
