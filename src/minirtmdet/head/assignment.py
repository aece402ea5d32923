"""Which prior learns which box: three costs, a number of positives per box, and one owner per prior.

The whole batch at once: a cost for every pair of box and prior, ``[B,G,N]``, where impossible pairs cost
infinity.  :mod:`minirtmdet.reference.assignment` says the same for one image, step by step.
"""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps, columns, nearest_side, points_inside
from minirtmdet.structures import AssignResult, GroundTruth

EPS = 1e-7
# the last power of ten in fp32: a prior 42 strides away would cost infinity, as if it were impossible
MAX_EXPONENT = 38.0
LOG2_10 = math.log2(10)
# pairs of box and prior that a CPU works on at a time: 1 MiB of numbers, half a core's cache where there are two
BLOCK = 2**18
# and a GPU: 128 MiB of numbers keep it busy, and the dozen tensors of a formula then fit in any
GPU_BLOCK = 2**25


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
        background: Float[Tensor, "batch priors"] | None = None,
    ) -> AssignResult:
        """Assign every prior of every image to a box, to background, or to neither.

        Args:
            cls_scores: logits.
            bboxes: predicted ``xyxy`` in pixels.
            priors: ``(x, y, stride, stride)`` in pixels.
            ground_truth: the batch's boxes.
            valid: priors that take part; all of them where left out.
            background: from :func:`background_loss` for these logits, where the caller has it.
        """
        dtype = torch.promote_types(torch.promote_types(cls_scores.dtype, bboxes.dtype), torch.float32)
        cls_scores, bboxes, priors = cls_scores.to(dtype), bboxes.to(dtype), priors.to(dtype)
        ground_truth = ground_truth.with_rows()

        takes_part = torch.ones_like(bboxes[..., 0], dtype=torch.bool) if valid is None else valid  # [B,N]
        # a box that is not to be learned is empty: no prior lies inside it
        boxes = ground_truth.boxes.to(dtype) * ground_truth.mask[..., None]  # [B,G,4]
        candidates = self.candidates(priors, boxes, ground_truth, takes_part)  # [B,N]
        index = candidate_index(candidates)  # [B,M], or None: all priors
        columns = cls_scores, bboxes, priors[None], candidates[..., None]
        cls_scores, bboxes, places, kept = (at(index, values) for values in columns)
        background = background_loss(cls_scores) if background is None else at(index, background[..., None])[..., 0]
        cost, ious = self.pairs(cls_scores, bboxes, places, ground_truth, kept[..., 0], background)  # [B,G,M] twice

        owner, positive = match(cost, dynamic_k(ious, self.topk), self.topk)  # [B,M], [B,M]
        overlaps = ious.gather(1, owner[:, None])[:, 0] * positive
        if index is not None:
            found = owner, positive, overlaps
            owner, positive, overlaps = (v.new_zeros(candidates.shape).scatter(1, index, v) for v in found)  # [B,N]
        left_out = ~takes_part  # [B,N]
        if self.ignore_regions:
            left_out = left_out | inside_any(priors, ground_truth.boxes * ground_truth.ignore[..., None])
        return AssignResult(
            gt_inds=torch.where(positive, owner + 1, -left_out.long()),
            max_overlaps=overlaps,
            labels=torch.where(positive, ground_truth.labels.gather(1, owner), -1),
        )

    def candidates(
        self,
        priors: Float[Tensor, "priors 4"],
        boxes: Float[Tensor, "batch boxes 4"],
        ground_truth: GroundTruth,
        takes_part: Bool[Tensor, "batch priors"],
    ) -> Bool[Tensor, "batch priors"]:
        """Priors that take part and lie inside any box, not only their own."""
        inside = inside_any(priors, boxes)
        if self.nearest_prior_fallback:
            held = points_inside(priors[:, :2], boxes) & takes_part[:, None]  # [B,G,N]
            nearest = nearest_of_empty(held, priors, ground_truth.centers, takes_part)  # [B,G,N]
            inside = inside | (nearest & ground_truth.mask[..., None]).any(1)
        return inside & takes_part

    def pairs(
        self,
        cls_scores: Float[Tensor, "batch priors classes"],
        bboxes: Float[Tensor, "batch priors 4"],
        priors: Float[Tensor, "#batch priors 4"],
        ground_truth: GroundTruth,
        candidates: Bool[Tensor, "batch priors"],
        background: Float[Tensor, "batch priors"],
    ) -> tuple[Float[Tensor, "batch boxes priors"], Float[Tensor, "batch boxes priors"]]:
        """Cost and IoU of every pair of box and prior; infinity and 0 where the pair is impossible.

        A pair is possible where the prior is a candidate and the box is to be learned.  A mask ``[B,G,N]`` would be one
        more tensor of that size to make and to read.  So what pairs are made of says it instead: a prior that is no
        candidate is given an empty predicted box, whose IoU with every box is 0, and an infinite background loss, which
        every cost contains; to a box that is not to be learned, infinity is added.
        """
        # each coordinate in a row of memory of its own
        bboxes = torch.where(candidates, bboxes.movedim(-1, 0), 0).movedim(0, -1)
        background = torch.where(candidates, background, torch.inf)
        learned = ground_truth.mask[..., None]  # [B,G,1]
        boxes, centers = (field.to(priors.dtype) for field in (ground_truth.boxes * learned, ground_truth.centers))
        not_learned = torch.zeros_like(boxes[..., :1]).masked_fill_(~learned, torch.inf)  # [B,G,1]
        cost = boxes.new_empty(*boxes.shape[:2], priors.shape[1])
        ious = torch.empty_like(cost)
        for block in blocks(boxes.shape[1], background):
            overlaps = bbox_overlaps(boxes[:, block], bboxes)
            ious[:, block] = overlaps
            cost[:, block] = (
                class_cost(cls_scores, ground_truth.labels[:, block], overlaps, background)
                .add_(iou_cost(overlaps), alpha=self.iou_weight)
                .add_(center_cost(priors, centers[:, block], self.soft_center_radius))
                .add_(not_learned[:, block])
            )
        return cost, ious


def candidate_index(candidates: Bool[Tensor, "batch priors"]) -> Int[Tensor, "batch kept"] | None:
    """Each image's candidates, then one prior that is none, over and over; None where all priors are worked on.

    That is so on a GPU, which would have to be waited for to say how many there are, under a compiler, and where more
    than 7 in 10 are candidates: to move them would take longer.
    """
    if candidates.device.type != "cpu" or torch.compiler.is_compiling() or not candidates.numel():
        return None
    counts = candidates.sum(1)
    if (most := int(counts.max())) > 0.7 * candidates.shape[1]:
        return None
    image, prior = candidates.nonzero(as_tuple=True)
    index = candidates.int().argmin(1, keepdim=True).repeat(1, most)
    index[image, torch.arange(len(prior)) - (counts.cumsum(0) - counts)[image]] = prior
    return index


def at(
    index: Int[Tensor, "batch kept"] | None, values: Shaped[Tensor, "#batch priors size"]
) -> Shaped[Tensor, "#batch kept size"]:
    """The values of some priors of each image, or of all; in memory each column is a row, which is read whole."""
    rows = values.mT
    if index is None:
        return rows.contiguous().mT
    return rows.expand(len(index), -1, -1).gather(-1, index[:, None].expand(-1, rows.shape[1], -1)).mT


def blocks(rows: int, like: Shaped[Tensor, "..."]) -> list[slice]:
    """Slices of ``rows`` rows, each as long as all priors of the batch, that a device works on at a time.

    On a processor they fit into a core's cache: between two operations of a formula the numbers then need not travel
    to memory and back.  A GPU would rather have much to do at once, but 32 images with 768 boxes would take 6 GiB.
    Where a compiler joins the operations one slice is all.

    Args:
        rows: boxes or classes.
        like: a tensor of one row.
    """
    if torch.compiler.is_compiling():
        return [slice(None)]  # and no number of rows that a compiler would have to hold on to
    numbers = BLOCK if like.device.type == "cpu" else GPU_BLOCK
    size = max(1, numbers // max(1, like.numel()))
    return [slice(start, start + size) for start in range(0, rows, size)]


def inside_any(
    priors: Float[Tensor, "priors 4"], boxes: Float[Tensor, "batch boxes 4"]
) -> Bool[Tensor, "batch priors"]:
    """Whether each prior lies strictly inside any of the boxes."""
    depth = boxes.new_full((len(boxes), len(priors)), -torch.inf)
    for block in blocks(boxes.shape[1], depth):
        depth = torch.maximum(depth, nearest_side(priors[:, :2], boxes[:, block]).amax(1))
    return depth > 0


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
    background: Float[Tensor, "batch priors"] | None = None,
) -> Float[Tensor, "batch boxes priors"]:
    """Quality focal loss of each prior, had it this box: target IoU for the box's class, 0 for all others.

    MMDetection sums the loss over the classes of every pair, ``N*G*C`` numbers.  All classes but the box's own
    have target 0 whatever the box is, so their sum is taken once per prior; the box's class ``y`` then swaps its
    background loss for its real one, with ``b = softplus(s_y)``, ``p = sigmoid(s_y)`` and IoU ``t``:
    ``(b - s_y t) (t - p)^2 - b p^2 = t (b (t - 2 p) - s_y (t - p)^2)``.

    Args:
        cls_scores: logits.
        labels: class of each box.
        ious: of each predicted box with each box.
        background: the sum over all classes, from :func:`background_loss`, where the caller has it.
    """
    if background is None:
        background = background_loss(cls_scores)
    image = torch.arange(len(labels), device=labels.device)[:, None]  # [B,1]
    logit = cls_scores.mT[image, labels]  # [B,G,N]
    probability, softplus = activations(logit)
    gap = ious - probability
    own = softplus.mul_(ious - probability.mul_(2)).addcmul_(logit, gap.square_(), value=-1)
    return torch.addcmul(background[:, None], own, ious)


def background_loss(cls_scores: Float[Tensor, "batch priors classes"]) -> Float[Tensor, "batch priors"]:
    """Quality focal loss of each prior as background, summed over the classes; memory best holds class after class."""
    total = torch.zeros_like(cls_scores[..., 0])
    for block in blocks(cls_scores.shape[-1], total):
        probability, softplus = activations(cls_scores[..., block])
        total.add_(softplus.mul_(probability.square_()).sum(-1))
    return total


def activations(
    logits: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """``sigmoid(s)`` and ``softplus(s) = s - log(sigmoid(s))``, which is half the price of ``F.softplus``.

    Where the difference has few digits left, at negative logits, it is multiplied by powers of a small sigmoid or IoU.
    """
    # the sigmoid of -110 is 0, and the logarithm of that infinite
    logits = logits.clamp(min=-80)
    probability = logits.sigmoid()
    return probability, logits - probability.log()


def iou_cost(ious: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Minus the logarithm of the IoU: halving the overlap costs the same everywhere; at most 16.1 at IoU 0."""
    return (ious + EPS).log_().neg_()


def center_cost(
    priors: Float[Tensor, "*#images priors 4"], centers: Float[Tensor, "batch boxes 2"], radius: float
) -> Float[Tensor, "batch boxes priors"]:
    """``10 ** (distance - radius)``, with the distance from prior to centre in strides of the prior's level."""
    x, y, stride, _ = (column.unsqueeze(-2) for column in columns(priors))  # [1,N]
    dx = x - centers[..., 0:1]  # [B,G,N]
    dy = y - centers[..., 1:2]
    distance = dx.square_().add_(dy.square_()).sqrt_().div_(stride)
    return distance.sub_(radius).clamp_(max=MAX_EXPONENT).mul_(LOG2_10).exp2_()


def dynamic_k(ious: Float[Tensor, "batch boxes priors"], topk: int) -> Int[Tensor, "batch boxes"]:
    """How many priors each box may have: the sum of its ``topk`` best IoUs, rounded down, and at least one.

    Args:
        ious: 0 where the pair is impossible.
        topk: at most the answer.

    >>> dynamic_k(torch.tensor([[[0.9, 0.8, 0.7, 0.0], [0.1, 0.0, 0.0, 0.0]]]), topk=3).tolist()
    [[2, 1]]
    """
    return ious.topk(min(topk, ious.shape[-1])).values.sum(-1).long().clamp(min=1)


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
    ranked, chosen = cost.topk(min(topk, priors), largest=False)  # [B,G,k]
    rank = torch.arange(ranked.shape[-1], device=cost.device)
    taken = ((rank < dynamic_ks[..., None]) & (ranked < torch.inf)).long()  # [B,G,k]

    # a sum of box indices over the boxes that chose a prior is that box's index wherever only one did
    index = torch.arange(boxes, device=cost.device)[:, None]  # [G,1]
    nobody = torch.zeros(len(cost), priors, dtype=torch.int64, device=cost.device)
    choices = nobody.scatter_add(1, chosen.flatten(1), taken.flatten(1))  # [B,N]
    owner = nobody.scatter_add(1, chosen.flatten(1), (taken * index).flatten(1))  # [B,N]
    return torch.where(choices > 1, cost.min(1).indices, owner), choices > 0
