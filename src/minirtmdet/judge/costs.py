"""Exercises on the three costs of the assignment."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.head import assignment as racing
from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.judge.scene import NO_BOXES, NO_LABELS, batch, boxes, scene
from minirtmdet.reference import assignment as reading


def soft_center(
    priors: Float[Tensor, "N 4"], centers: Float[Tensor, "B G 2"], radius: float = 3.0
) -> Float[Tensor, "B G N"]:
    """Ten to the power of (distance from prior to centre in strides, minus the radius), finite everywhere."""
    return racing.center_cost(priors, centers, radius)


def iou_cost(bboxes: Float[Tensor, "V 4"], gt_bboxes: Float[Tensor, "G 4"]) -> Float[Tensor, "V G"]:
    """Minus the logarithm of (IoU of each predicted box with each true box, plus 1e-7), without a weight."""
    return reading.iou_cost(bbox_overlaps(bboxes, gt_bboxes))


def class_cost(
    cls_scores: Float[Tensor, "V C"], gt_labels: Int[Tensor, " G"], ious: Float[Tensor, "V G"]
) -> Float[Tensor, "V G"]:
    """Quality focal loss of each candidate, had it this box: target IoU for its class, 0 for all others, summed."""
    return reading.class_cost(cls_scores, gt_labels, ious)


def _distance(priors: Tensor, centers: Tensor) -> Tensor:
    """From each centre to each prior, in pixels, ``[B,G,N]``."""
    return (priors[:, :2] - centers[:, :, None]).square().sum(-1).sqrt()


def _soft(strides: Tensor, radius: float = 3.0) -> Tensor:
    return 10 ** (strides - radius).clamp(max=racing.MAX_EXPONENT)


def _class_cost(logits: Tensor, labels: Tensor, targets: Tensor, power: float = 2.0) -> Tensor:
    """The cost with other targets than the IoU of the box's own class."""
    target = F.one_hot(labels, logits.shape[-1]).to(logits) * targets[..., None]  # [V,G,C]
    logit = logits[:, None].expand_as(target)
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return (entropy * (target - logit.sigmoid()).abs() ** power).sum(-1)


def _own_class(logits: Tensor, labels: Tensor, ious: Tensor) -> Tensor:
    own = logits[:, labels]
    entropy = F.binary_cross_entropy_with_logits(own, ious, reduction="none")
    return entropy * (ious - own.sigmoid()) ** 2


def _naive(logits: Tensor, labels: Tensor, ious: Tensor) -> Tensor:
    target = F.one_hot(labels, logits.shape[-1]).to(logits) * ious[..., None]
    p = logits.sigmoid()[:, None].expand_as(target)
    return (-(target * p.log() + (1 - target) * (1 - p).log()) * (target - p) ** 2).sum(-1)


def _centers() -> Tensor:
    return batch()[0].centers


def _large_logits() -> tuple[Tensor, ...]:
    logits = torch.tensor([[60.0, -60.0, 0.0], [-120.0, 120.0, 3.0]])
    return logits, torch.tensor([0, 1]), torch.tensor([[0.8, 0.1], [0.4, 0.9]])


_AROUND = torch.tensor([[16.0, 16, 8, 8], [24, 8, 8, 8], [0, 32, 16, 16], [48, 0, 32, 32]])
_PREDICTED = boxes((10, 10, 40, 30), (12, 8, 38, 33), (100, 100, 120, 140), (40, 10, 60, 30), (5, 5, 5, 5))
_TRUE = boxes((10, 10, 40, 30), (0, 0, 50, 50))

EXERCISES = [
    Exercise(
        soft_center,
        chapter="costs",
        cases=[
            Case("priors of three levels", lambda: (_AROUND, torch.tensor([[[20.0, 12.0], [36.0, 30.0]]]))),
            Case("another radius", lambda: (_AROUND, torch.tensor([[[20.0, 12.0]]]), 2.5)),
            Case("the scene, an image without objects and padded boxes", lambda: (scene().priors, _centers())),
            Case("a centre far away", lambda: (_AROUND, torch.tensor([[[2000.0, 900.0]]]))),
            Case("no boxes", lambda: (_AROUND, torch.zeros(2, 0, 2))),
        ],
        mistakes=[
            Mistake(
                "the distance stays in pixels. Divide it by the prior's own stride, column 2 of the priors.",
                lambda p, c, r=3.0: _soft(_distance(p, c), r),
            ),
            Mistake(
                "every distance is divided by 8. Each prior has the stride of its level, in column 2.",
                lambda p, c, r=3.0: _soft(_distance(p, c) / 8, r),
            ),
            Mistake(
                "the distance is measured from the middle of the prior's cell. The prior is its corner, (x, y).",
                lambda p, c, r=3.0: _soft(_distance(torch.cat([p[:, :2] + p[:, 2:] / 2, p[:, 2:]], 1), c) / p[:, 2], r),
            ),
            Mistake(
                "the root is missing. The distance is the root of dx squared plus dy squared.",
                lambda p, c, r=3.0: _soft((_distance(p, c) / p[:, 2]) ** 2, r),
            ),
            Mistake(
                "the power is of e. The base is 10.",
                lambda p, c, r=3.0: (_distance(p, c) / p[:, 2] - r).clamp(max=racing.MAX_EXPONENT).exp(),
            ),
            Mistake(
                "the radius is always 3. It is the third argument.",
                lambda p, c, r=3.0: _soft(_distance(p, c) / p[:, 2]),
            ),
            Mistake(
                "the power has no limit. Beyond 38 it is infinity in single precision: clamp the exponent there.",
                lambda p, c, r=3.0: 10 ** (_distance(p, c) / p[:, 2] - r),
            ),
        ],
        hints=[
            "One prior, one centre: how many of the prior's strides lie between them?",
            "priors[:, :2] - centers[:, :, None] is [B,G,N,2]. Its length by priors[:, 2], minus the radius, "
            "is the exponent of 10.",
            "The last power of ten in single precision is 10 ** 38: clamp(max=38) before the power.",
        ],
        asks_nothing=True,
    ),
    Exercise(
        iou_cost,
        chapter="costs",
        cases=[
            Case("near, apart and touching boxes", lambda: (_PREDICTED[:4], _TRUE)),
            Case("the scene's candidates", lambda: (scene().predicted[scene().candidates], scene().boxes)),
            Case("a prediction without size, and a padded box", lambda: (_PREDICTED[4:], boxes((0, 0, 0, 0)))),
            Case("no boxes", lambda: (_PREDICTED, NO_BOXES)),
        ],
        mistakes=[
            Mistake(
                "1 - IoU is taken. That is a loss; the cost is -log(IoU), steep where boxes hardly overlap.",
                lambda bboxes, gt: 1 - bbox_overlaps(bboxes, gt),
            ),
            Mistake(
                "the minus is missing. A good overlap has to be cheap.",
                lambda bboxes, gt: torch.log(bbox_overlaps(bboxes, gt) + 1e-7),
            ),
            Mistake(
                "the logarithm is of 0 where boxes do not overlap. Add 1e-7 to the IoU first.",
                lambda bboxes, gt: -bbox_overlaps(bboxes, gt).log(),
            ),
            Mistake(
                "1e-6 is added. That is the smallest union of the IoU; in the logarithm it is 1e-7.",
                lambda bboxes, gt: -torch.log(bbox_overlaps(bboxes, gt) + 1e-6),
            ),
            Mistake(
                "the weight 3 is in it. It comes when the three costs are added.",
                lambda bboxes, gt: 3 * iou_cost(bboxes, gt),
            ),
            Mistake(
                "negative sides of an overlap are multiplied. Clamp width and height at 0 before.",
                lambda bboxes, gt: -torch.log(_unclamped(bboxes, gt) + 1e-7),
            ),
        ],
        hints=[
            "First the IoU of every pair, [V,G]: bboxes[:, None] meets gt_bboxes[None].",
            "The overlap's corners are the larger left tops and the smaller right bottoms; clamp its sides at 0.",
            "-torch.log(overlap / union.clamp(min=1e-6) + 1e-7)",
        ],
    ),
    Exercise(
        class_cost,
        chapter="costs",
        cases=[
            Case(
                "three candidates, two boxes, three classes",
                lambda: (
                    torch.tensor([[2.0, -2.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 1.0, -1.0]]),
                    torch.tensor([0, 2]),
                    torch.tensor([[0.9, 0.2], [0.5, 0.0], [0.3, 0.7]]),
                ),
            ),
            Case(
                "the scene's candidates",
                lambda: (scene().logits[scene().candidates], scene().labels, scene().ious),
            ),
            Case("large logits", _large_logits),
            Case("a single class", lambda: (torch.tensor([[1.5]]), torch.tensor([0]), torch.tensor([[0.6]]))),
            Case("no boxes", lambda: (torch.zeros(4, 3), NO_LABELS, torch.zeros(4, 0))),
        ],
        mistakes=[
            Mistake(
                "the target is 1. It is the IoU, a soft label: a candidate with a poor box should not be sure.",
                lambda logits, labels, ious: _class_cost(logits, labels, torch.ones_like(ious)),
            ),
            Mistake(
                "only the box's own class counts. Sum over all classes; the others have target 0.",
                _own_class,
            ),
            Mistake(
                "the factor is missing. The cross entropy is multiplied by (target - sigmoid) squared.",
                lambda logits, labels, ious: _class_cost(logits, labels, ious, 0.0),
            ),
            Mistake(
                "the factor is not squared. Beta is 2.",
                lambda logits, labels, ious: _class_cost(logits, labels, ious, 1.0),
            ),
            Mistake(
                "the logarithm is taken of a sigmoid that has become 0 or 1. "
                "F.binary_cross_entropy_with_logits works on the logits.",
                _naive,
            ),
        ],
        hints=[
            "For each pair the targets of all classes are 0, but for the box's own class, where it is the IoU.",
            "F.one_hot(gt_labels, C) times ious[..., None] is the target [V,G,C].",
            "F.binary_cross_entropy_with_logits(logits, target, reduction='none') times (target - sigmoid) squared, "
            "summed over the last axis.",
        ],
    ),
]


def _unclamped(bboxes: Tensor, gt: Tensor) -> Tensor:
    low = torch.maximum(bboxes[:, None, :2], gt[None, :, :2])
    high = torch.minimum(bboxes[:, None, 2:], gt[None, :, 2:])
    overlap = (high - low).prod(-1)
    area = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (bboxes, gt)]
    return overlap / (area[0][:, None] + area[1] - overlap).clamp(min=1e-6)
