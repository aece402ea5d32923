"""Which prior learns which box: three costs, a number of positives a box, and one owner a prior.

The whole batch at once: a cost for every pair of box and prior, ``[B,G,N]``, where impossible pairs cost
infinity.  :mod:`minirtmdet.reference.assignment` says the same for one image, step by step.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps, points_inside
from minirtmdet.structures import AssignResult, GroundTruth

EPS = 1e-7
# the last power of ten in fp32: a prior 42 strides away would cost infinity, as if it were impossible
MAX_EXPONENT = 38.0


class DynamicSoftLabelAssigner:
    """Dynamic soft label assignment (MMDetection: ``DynamicSoftLabelAssigner``; paper, section 3.3).

    Args:
        topk: how many of a box's best IoUs are summed to its number of positives.
        iou_weight: weight of the IoU cost.
        soft_center_radius: distance in strides at which the soft centre cost is 1.
        nearest_prior_fallback: make the nearest prior of a box that holds none a candidate.  Without it such a box
            takes part all the same, and wins a prior in somebody else's box, however far.
        ignore_regions: let priors inside an ignored box that learn no other one take no part.  Without it they are
            background.
    """

    def __init__(
        self,
        topk: int = 13,
        iou_weight: float = 3.0,
        soft_center_radius: float = 3.0,
        nearest_prior_fallback: bool = False,
        ignore_regions: bool = False,
    ) -> None:
        self.topk = topk
        self.iou_weight = iou_weight
        self.soft_center_radius = soft_center_radius
        self.nearest_prior_fallback = nearest_prior_fallback
        self.ignore_regions = ignore_regions

    @torch.no_grad()
    def assign(
        self,
        cls_scores: Float[Tensor, "batch priors classes"],
        bboxes: Float[Tensor, "batch priors 4"],
        priors: Float[Tensor, "priors 4"],
        ground_truth: GroundTruth,
        valid: Bool[Tensor, "batch priors"] | None = None,
    ) -> AssignResult:
        """Assign every prior of every image to a box, to background, or to neither.

        Args:
            cls_scores: logits.
            bboxes: predicted ``xyxy`` in pixels.
            priors: ``(x, y, stride, stride)`` in pixels.
            ground_truth: the batch's boxes.
            valid: priors that take part; all of them where left out.

        No gradient flows through an assignment: it chooses what the losses compare, it is not a loss.
        """
        dtype = torch.promote_types(torch.promote_types(cls_scores.dtype, bboxes.dtype), torch.float32)
        cls_scores, bboxes, priors = cls_scores.to(dtype), bboxes.to(dtype), priors.to(dtype)

        inside = points_inside(priors[:, :2], ground_truth.boxes)  # [B,G,N]
        takes_part = torch.ones_like(inside[:, 0]) if valid is None else valid  # [B,N]
        if self.nearest_prior_fallback:
            inside = inside | nearest_of_empty(inside & takes_part[:, None], priors, ground_truth.centers, takes_part)
        # a candidate lies inside any box, not only its own
        candidates = (inside & ground_truth.mask[..., None]).any(1) & takes_part  # [B,N]
        possible = candidates[:, None] & ground_truth.mask[..., None]  # [B,G,N]

        ious = bbox_overlaps(ground_truth.boxes.to(dtype), bboxes)  # [B,G,N]
        cost = (
            class_cost(cls_scores, ground_truth.labels, ious)
            + iou_cost(ious) * self.iou_weight
            + center_cost(priors, ground_truth.centers.to(dtype), self.soft_center_radius)
        )
        cost = cost.masked_fill_(~possible, torch.inf)
        ious = ious.masked_fill_(~possible, 0)

        owner, positive = match(cost, dynamic_k(ious, self.topk), self.topk)  # [B,N], [B,N]
        left_out = ~takes_part  # [B,N]
        if self.ignore_regions:
            left_out = left_out | (inside & ground_truth.ignore[..., None]).any(1)
        return AssignResult(
            gt_inds=torch.where(positive, owner + 1, -left_out.long()),
            max_overlaps=ious.gather(1, owner[:, None])[:, 0] * positive,
            labels=torch.where(positive, ground_truth.labels.gather(1, owner), -1),
        )


def nearest_of_empty(
    inside: Bool[Tensor, "batch boxes priors"],
    priors: Float[Tensor, "priors 4"],
    centers: Float[Tensor, "batch boxes 2"],
    takes_part: Bool[Tensor, "batch priors"],
) -> Bool[Tensor, "batch boxes priors"]:
    """The prior nearest to the centre, in pixels, of each box that holds none; of equals the finest level's."""
    dx = priors[:, 0] - centers[..., 0:1]  # [B,G,N]
    dy = priors[:, 1] - centers[..., 1:2]
    distance = (dx.square() + dy.square()).masked_fill(~takes_part[:, None], torch.inf)
    nearest = torch.zeros_like(inside).scatter(-1, distance.argmin(-1, keepdim=True), True)
    return nearest & ~inside.any(-1, keepdim=True)


def class_cost(
    cls_scores: Float[Tensor, "batch priors classes"],
    labels: Int[Tensor, "batch boxes"],
    ious: Float[Tensor, "batch boxes priors"],
) -> Float[Tensor, "batch boxes priors"]:
    """Quality focal loss of each prior, had it this box: target IoU for the box's class, 0 for all others.

    MMDetection sums the loss over the classes of every pair, ``N*G*C`` numbers.  All classes but the box's own
    have target 0 whatever the box is, so their sum is taken once a prior; the box's class ``y`` then swaps its
    background loss for its real one, with ``b = softplus(s_y)``, ``p = sigmoid(s_y)`` and IoU ``t``:
    ``(b - s_y t) (t - p)^2 - b p^2 = b (t^2 - 2 t p) - s_y t (t - p)^2``.
    """
    probability = cls_scores.sigmoid()
    background = (F.softplus(cls_scores) * probability.square()).sum(-1)  # [B,N]
    own_class = labels[..., None].expand_as(ious)  # [B,G,N]
    logit = cls_scores.mT.gather(1, own_class)  # [B,G,N]
    gap = ious - logit.sigmoid()
    own = F.softplus(logit) * ious * (2 * gap - ious) - logit * ious * gap.square()
    return background[:, None] + own


def iou_cost(ious: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Minus the logarithm of the IoU: halving the overlap costs the same everywhere; at most 16.1 at IoU 0."""
    return -torch.log(ious + EPS)


def center_cost(
    priors: Float[Tensor, "priors 4"], centers: Float[Tensor, "batch boxes 2"], radius: float
) -> Float[Tensor, "batch boxes priors"]:
    """``10 ** (distance - radius)``, with the distance from prior to centre in strides of the prior's level."""
    dx = priors[:, 0] - centers[..., 0:1]  # [B,G,N]
    dy = priors[:, 1] - centers[..., 1:2]
    distance = (dx.square() + dy.square()).sqrt() / priors[:, 2]
    return torch.pow(10, (distance - radius).clamp(max=MAX_EXPONENT))


def dynamic_k(ious: Float[Tensor, "batch boxes priors"], topk: int) -> Int[Tensor, "batch boxes"]:
    """How many priors each box may have: the sum of its ``topk`` best IoUs, rounded down, and at least one.

    Args:
        ious: 0 where the pair is impossible.
        topk: at most the answer.

    >>> dynamic_k(torch.tensor([[[0.9, 0.8, 0.7, 0.0], [0.1, 0.0, 0.0, 0.0]]]), topk=3).tolist()
    [[2, 1]]
    """
    best = ious.topk(min(topk, ious.shape[-1]), dim=-1).values
    return best.sum(-1).long().clamp(min=1)


def match(
    cost: Float[Tensor, "batch boxes priors"], dynamic_ks: Int[Tensor, "batch boxes"], topk: int
) -> tuple[Int[Tensor, "batch priors"], Bool[Tensor, "batch priors"]]:
    """Give each box its cheapest priors; a prior that several boxes chose goes to the cheapest of ALL boxes.

    Args:
        cost: infinity where the pair is impossible.
        dynamic_ks: priors that each box may have.
        topk: the largest of them.

    Returns:
        The index of each prior's box (0 where it has none), and whether it has one.

    Two equal costs at rank k are ordered by ``torch.topk``, which differs between CPU and GPU.
    """
    boxes, priors = cost.shape[1:]
    ranked, chosen = cost.topk(min(topk, priors), dim=-1, largest=False)  # [B,G,k]
    rank = torch.arange(ranked.shape[-1], device=cost.device)
    taken = ((rank < dynamic_ks[..., None]) & (ranked < torch.inf)).long()  # [B,G,k]

    # a sum of box indices over the boxes that chose a prior is that box's index wherever only one did
    index = torch.arange(boxes, device=cost.device)[:, None]  # [G,1]
    nobody = torch.zeros(len(cost), priors, dtype=torch.int64, device=cost.device)
    choices = nobody.scatter_add(1, chosen.flatten(1), taken.flatten(1))  # [B,N]
    owner = nobody.scatter_add(1, chosen.flatten(1), (taken * index).flatten(1))  # [B,N]
    return torch.where(choices > 1, cost.argmin(1), owner), choices > 0
