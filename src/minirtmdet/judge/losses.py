"""Exercises on the losses of classes and boxes, and on what divides them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps, box_area
from minirtmdet.head import losses as racing
from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.judge.recorded import recorded
from minirtmdet.judge.scene import NO_BOXES, boxes, scene
from minirtmdet.reference import losses as reading
from minirtmdet.structures import LossTerms


def quality_focal_loss(
    cls_scores: Float[Tensor, "N C"], labels: Int[Tensor, " N"], quality: Float[Tensor, " N"], beta: float = 2.0
) -> Float[Tensor, " N"]:
    """BCE(logit, target) times abs(target - sigmoid) ** beta, summed over the classes; label C is background."""
    return reading.quality_focal_loss(cls_scores, labels, quality, beta)


def giou_loss(bboxes: Float[Tensor, "P 4"], targets: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """One minus (IoU minus the empty share of the box around both), for each pair."""
    return reading.giou_loss(bboxes, targets)


def normalise(losses: Float[Tensor, "B N"], assign_metrics: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
    """The sum of all losses by the sum of all soft labels, or by 1 where that is less."""
    terms = LossTerms(losses, losses, assign_metrics.sum())
    return racing.normalise(terms, terms.iou_sum)["loss_cls"]


def _qfl(logits: Tensor, target: Tensor, beta: float, constant: bool = False) -> Tensor:
    weight = (target - logits.sigmoid()).abs() ** beta
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return entropy * (weight.detach() if constant else weight)


def _targets(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    classes = logits.shape[1]
    return F.one_hot(labels.clamp(max=classes), classes + 1)[:, :classes].to(logits) * quality[:, None]


def _own_alone(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    terms = _qfl(logits, _targets(logits, labels, quality), beta)
    own = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].bool() | (labels == logits.shape[1])[:, None]
    return torch.where(own, terms, 0).sum(1)


def _naive(logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    target, p = _targets(logits, labels, quality), logits.sigmoid()
    return (-(target * p.log() + (1 - target) * (1 - p).log()) * (target - p).abs() ** beta).sum(1)


def _hull(one: Tensor, other: Tensor) -> Tensor:
    return box_area(torch.cat([torch.minimum(one, other)[:, :2], torch.maximum(one, other)[:, 2:]], 1))


def _overlap_and_union(one: Tensor, other: Tensor, clamp: bool = True) -> tuple[Tensor, Tensor]:
    sides = torch.minimum(one, other)[:, 2:] - torch.maximum(one, other)[:, :2]
    overlap = (sides.clamp(min=0) if clamp else sides).prod(1)
    return overlap, box_area(one) + box_area(other) - overlap


def _unclamped(one: Tensor, other: Tensor) -> Tensor:
    overlap, union = _overlap_and_union(one, other, clamp=False)
    return 1 - (overlap / union - (_hull(one, other) - union) / _hull(one, other))


def _against_overlap(one: Tensor, other: Tensor) -> Tensor:
    overlap, union = _overlap_and_union(one, other)
    return 1 - (overlap / union - (_hull(one, other) - overlap) / _hull(one, other))


def _scene_classes() -> tuple[Tensor, Tensor, Tensor]:
    """Twelve priors: nine of background, one of each object."""
    here = scene()
    picked = torch.cat([torch.arange(0, 450, 50), here.candidates.nonzero()[:3, 0]])
    labels = torch.cat([torch.full((9,), 16), here.labels])
    return here.logits[picked], labels, torch.linspace(0.3, 0.9, 12) * (labels < 16)


def _scene_boxes() -> tuple[Tensor, Tensor]:
    """The five best predictions of each object, and its box."""
    best = scene().ious.topk(5, dim=0).indices.T.flatten()
    return scene().predicted[scene().candidates][best], scene().boxes.repeat_interleave(5, 0)


_LOGITS = torch.tensor([[2.0, -2.0, 0.5], [0.3, 0.1, -0.7], [-3.0, 1.0, -1.0], [-4.0, -5.0, -4.5]])
_NEAR = boxes((12, 8, 38, 33), (30, 20, 50, 44), (15, 14, 25, 26))
_TRUE = boxes((10, 10, 40, 30), (10, 10, 40, 30), (10, 10, 40, 30))
_APART = boxes((60, 50, 80, 90), (-40, 12, -10, 28))

EXERCISES = [
    Exercise(
        quality_focal_loss,
        chapter="losses",
        cases=[
            Case(
                "two positives, two of background",
                lambda: (_LOGITS, torch.tensor([0, 3, 1, 3]), torch.tensor([0.9, 0.0, 0.4, 0.0])),
            ),
            Case("beta 1", lambda: (_LOGITS, torch.tensor([2, 3, 3, 1]), torch.tensor([0.2, 0, 0, 0.7]), 1.0)),
            Case("twelve priors of the scene", _scene_classes),
            Case("no positive", lambda: (_LOGITS, torch.full((4,), 3), torch.zeros(4))),
            Case(
                "large logits",
                lambda: (
                    torch.tensor([[60.0, -60.0], [-120.0, 120.0]]),
                    torch.tensor([0, 2]),
                    torch.tensor([0.7, 0.0]),
                ),
            ),
            Case("no prior", lambda: (_LOGITS[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0))),
            recorded("quality_focal_loss"),
        ],
        mistakes=[
            Mistake(
                "the target is 1. It is the quality, the IoU: scores learn how well the box fits.",
                lambda s, y, q, b=2.0: _qfl(s, _targets(s, y, torch.ones_like(q)), b).sum(1),
            ),
            Mistake(
                "the other classes of a positive are left out. They have target 0, and count.",
                _own_alone,
            ),
            Mistake(
                "the factor is missing. The cross entropy is multiplied by |target - sigmoid| ** beta.",
                lambda s, y, q, b=2.0: _qfl(s, _targets(s, y, q), 0.0).sum(1),
            ),
            Mistake(
                "beta is always 2. It is the fourth argument.",
                lambda s, y, q, b=2.0: _qfl(s, _targets(s, y, q), 2.0).sum(1),
            ),
            Mistake(
                "the mean over the classes is taken. They are summed.",
                lambda s, y, q, b=2.0: _qfl(s, _targets(s, y, q), b).mean(1),
            ),
            Mistake(
                "the factor is a constant. It depends on the logits too, and its gradient belongs to the loss.",
                lambda s, y, q, b=2.0: _qfl(s, _targets(s, y, q), b, constant=True).sum(1),
            ),
            Mistake(
                "the logarithm is taken of a sigmoid that has become 0 or 1. "
                "F.binary_cross_entropy_with_logits works on the logits.",
                _naive,
            ),
        ],
        hints=[
            "First the targets, [N,C]: zeros, and the quality at each positive's own class.",
            "F.one_hot(labels, C + 1)[:, :C] has a row of zeros for background, whose label is C.",
            "F.binary_cross_entropy_with_logits(..., reduction='none') times (target - sigmoid).abs() ** beta, sum(1).",
        ],
        learns=[0],
    ),
    Exercise(
        giou_loss,
        chapter="losses",
        cases=[
            Case("boxes that overlap", lambda: (_NEAR, _TRUE)),
            Case("boxes that are apart", lambda: (_APART, _TRUE[:2])),
            Case("equal boxes", lambda: (_TRUE, _TRUE), smooth=False),
            Case("a prediction without size", lambda: (boxes((20, 20, 20, 20)), _TRUE[:1]), smooth=False),
            Case("the scene's best predictions", _scene_boxes),
            Case("no positive", lambda: (NO_BOXES, NO_BOXES)),
            recorded("giou_loss"),
        ],
        mistakes=[
            Mistake(
                "only the IoU is used. Without the box around both there is no slope where boxes are apart.",
                lambda one, other: 1 - aligned_overlaps(one, other),
            ),
            Mistake(
                "the empty share is added. It is subtracted from the IoU, so that boxes far apart are worse.",
                lambda one, other: 2 * (1 - aligned_overlaps(one, other)) - giou_loss(one, other),
            ),
            Mistake(
                "the overlap is subtracted from the box around both. What is empty is that box minus the union.",
                _against_overlap,
            ),
            Mistake(
                "two negative sides make a positive overlap. Clamp width and height at 0 before you multiply.",
                _unclamped,
            ),
            Mistake("the GIoU itself comes back. The loss is one minus it.", lambda o, t: 1 - giou_loss(o, t)),
            Mistake("the loss is summed. One number for each pair is expected.", lambda o, t: giou_loss(o, t).sum()),
        ],
        hints=[
            "Three areas: of the overlap, of the union, and of the smallest box around both.",
            "Overlap: torch.maximum of the left tops, torch.minimum of the right bottoms, sides clamped at 0. The box "
            "around both: the other way round.",
            "1 - (overlap / union - (hull - union) / hull)",
        ],
        learns=[0],
    ),
    Exercise(
        normalise,
        chapter="losses",
        cases=[
            Case("two images", lambda: (_LOGITS[:2].abs(), torch.tensor([[0.9, 0.0, 0.6], [0.8, 0.0, 0.0]]))),
            Case("an image without objects", lambda: (_LOGITS[:2].abs(), torch.tensor([[0.9, 0.7, 0.6], [0, 0, 0]]))),
            Case("soft labels that sum to less than 1", lambda: (_LOGITS[:1].abs(), torch.tensor([[0.2, 0.0, 0.1]]))),
            Case("no positive", lambda: (_LOGITS.abs(), torch.zeros(4, 3))),
        ],
        mistakes=[
            Mistake(
                "the loss is divided by the number of priors. It is divided by the sum of the soft labels.",
                lambda losses, metrics: losses.mean(),
            ),
            Mistake(
                "the loss is divided by the number of positives. Each counts by its IoU: sum the soft labels.",
                lambda losses, metrics: losses.sum() / (metrics > 0).sum().clamp(min=1),
            ),
            Mistake(
                "the divisor can be below 1. It is at least 1: clamp it.",
                lambda losses, metrics: losses.sum() / metrics.sum(),
            ),
            Mistake(
                "each image has a divisor of its own. There is one for the whole batch.",
                lambda losses, metrics: (losses.sum(1) / metrics.sum(1).clamp(min=1)).mean(),
            ),
            Mistake(
                "the loss is divided by the number of images. It is divided by the sum of the soft labels.",
                lambda losses, metrics: losses.sum() / len(losses),
            ),
        ],
        hints=[
            "One divisor for the whole batch, made of the soft labels. What if there is no positive at all?",
            "losses.sum() / assign_metrics.sum().clamp(min=1)",
        ],
        learns=[0],
        asks_nothing=True,
    ),
]
