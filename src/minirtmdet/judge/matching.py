"""Exercises from costs to targets: dynamic k, the choice, conflicts, positives' boxes, labels and weights."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.judge.scene import batch, scene
from minirtmdet.reference import assignment as reading
from minirtmdet.structures import AssignResult, GroundTruth

COST_TOLERANCE = 1e-6
"""Costs that are this close, relatively, are a tie: either may win."""


def dynamic_k(ious: Float[Tensor, "V G"], topk: int = 13) -> Int[Tensor, " G"]:
    """How many priors each box gets: its topk largest IoUs, summed and rounded down, at least 1."""
    return reading.dynamic_k(ious, topk)


def choose(cost: Float[Tensor, "V G"], dynamic_ks: Int[Tensor, " G"]) -> Bool[Tensor, "V G"]:
    """Each box takes its k cheapest candidates; a candidate may be taken by several boxes."""
    return cost.argsort(dim=0, stable=True).argsort(dim=0) < dynamic_ks


def resolve_conflicts(matching: Bool[Tensor, "V G"], cost: Float[Tensor, "V G"]) -> Bool[Tensor, "V G"]:
    """A candidate that several boxes took goes to the cheapest of all boxes, whether that one took it or not."""
    return reading.resolve_conflicts(matching, cost)


def pos_gt_bboxes(gt_inds: Int[Tensor, "B N"], boxes: Float[Tensor, "B G 4"]) -> Float[Tensor, "B N 4"]:
    """The box of each positive, zeros elsewhere; gt_inds is 0 on background, i + 1 for box i, -1 for no part."""
    truth = GroundTruth(boxes, *torch.zeros(4, *boxes.shape[:2], dtype=torch.int64).unbind())
    return PseudoSampler().sample(AssignResult(gt_inds, torch.zeros(0, 0), gt_inds), truth).gt_bboxes


def target_labels(gt_inds: Int[Tensor, "B N"], gt_labels: Int[Tensor, "B G"], num_classes: int) -> Int[Tensor, "B N"]:
    """The class that each prior learns: its box's, or num_classes where it has no box."""
    own = gt_labels.gather(1, (gt_inds - 1).clamp(min=0))
    return torch.where(gt_inds > 0, own, num_classes)


def label_weights(gt_inds: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """The weight of each prior's class loss: 1.0, or 0.0 where it takes no part."""
    return (gt_inds >= 0).float()


def _is_a_choice(cost: Tensor, dynamic_ks: Tensor, answer: Tensor) -> bool:
    """Whether each box took k candidates, none of them dearer than the k-th cheapest but by a tie."""
    limit = cost.sort(0).values.gather(0, dynamic_ks[None] - 1)[0]  # [G]
    taken = torch.where(answer, cost, -torch.inf).amax(0)
    left = torch.where(answer, torch.inf, cost).amin(0)
    slack = COST_TOLERANCE * limit.abs()
    counts = torch.equal(answer.sum(0), dynamic_ks)
    return counts and bool(((taken <= limit + slack) & (left >= limit - slack)).all())


def _is_resolved(matching: Tensor, cost: Tensor, answer: Tensor) -> bool:
    """Whether each conflict went to one box, none dearer than the cheapest but by a tie, and nothing else moved."""
    conflict = matching.sum(1) > 1
    least = cost.amin(1)
    owner = torch.where(answer, cost, torch.inf).amin(1)
    single = (answer.sum(1) == 1) & (owner <= least + COST_TOLERANCE * least.abs())
    return bool(torch.where(conflict, single, (answer == matching).all(1)).all())


def _taken() -> Tensor:
    return choose(scene().cost, dynamic_k(scene().ious))


def _crowd() -> tuple[Tensor, Tensor]:
    """Two boxes took candidate 0, which is cheapest for the third; candidate 2 nobody took."""
    cost = torch.tensor([[2.0, 3.0, 1.0], [1.0, 5.0, 9.0], [4.0, 6.0, 0.5], [7.0, 1.5, 2.5]])
    return torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 1]]).bool(), cost


def _among_takers(matching: Tensor, cost: Tensor) -> Tensor:
    cheapest = torch.where(matching, cost, torch.inf).argmin(1, keepdim=True)
    return torch.where(
        matching.sum(1, keepdim=True) > 1, torch.zeros_like(matching).scatter(1, cheapest, True), matching
    )


def _to_first(matching: Tensor, cost: Tensor) -> Tensor:
    first = torch.zeros_like(matching).scatter(1, matching.int().argmax(1, keepdim=True), True)
    return matching & first


def _everyone(matching: Tensor, cost: Tensor) -> Tensor:
    return torch.zeros_like(matching).scatter(1, cost.argmin(1, keepdim=True), True)


def _lookup(gt_inds: Tensor, boxes: Tensor) -> Tensor:
    return boxes.gather(1, gt_inds[..., None].expand(-1, -1, 4))


def _owners() -> tuple[Tensor, Tensor]:
    truth, gt_inds = batch()
    return gt_inds, truth.boxes


_IOUS = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.0, 0.5], [0.7, 0.2, 0.5], [0.4, 0.0, 0.5], [0.05, 0.3, 0.0]])
_COST = torch.tensor([[0.4, 5.0], [0.8, 1.0], [9.0, 0.9], [3.0, 2.0], [7.0, 8.0]])
_TIED = torch.tensor([[1.0, 2.0], [1.0, 0.5], [1.0, 2.0], [0.2, 2.0]])

EXERCISES = [
    Exercise(
        dynamic_k,
        chapter="matching",
        cases=[
            Case("five candidates, three boxes", lambda: (_IOUS,)),
            Case("the three largest alone", lambda: (_IOUS, 3)),
            Case("the scene's candidates", lambda: (scene().ious,)),
            Case("no overlap at all", lambda: (torch.zeros(20, 2),)),
            Case("fewer candidates than topk", lambda: (torch.tensor([[0.6], [0.7]]),)),
            Case("no boxes", lambda: (torch.zeros(5, 0),)),
        ],
        mistakes=[
            Mistake(
                "the sum is rounded to the nearest number. It is rounded down: 2.9 gives 2.",
                lambda ious, k=13: _sum(ious, k).round().clamp(min=1).long(),
            ),
            Mistake(
                "the sum is rounded up. It is rounded down: 2.1 gives 2.",
                lambda ious, k=13: _sum(ious, k).ceil().clamp(min=1).long(),
            ),
            Mistake(
                "a box may get no prior. Every box gets at least one, however poor the overlaps.",
                lambda ious, k=13: _sum(ious, k).long(),
            ),
            Mistake(
                "all IoUs are summed. Only the topk largest of each box count.",
                lambda ious, k=13: ious.sum(0).clamp(min=1).long(),
            ),
            Mistake(
                "IoUs above 0.5 are counted. There is no threshold: they are summed.",
                lambda ious, k=13: (ious > 0.5).sum(0).clamp(min=1),
            ),
        ],
        hints=[
            "Look at one box, a column: which of its IoUs count, and what is done with them?",
            "ious.topk(k, dim=0).values are the k largest of each column. What if there are fewer than k rows?",
            "topk takes at most min(topk, len(ious)). Then sum(0), and long() rounds down; clamp(min=1) comes last.",
        ],
    ),
    Exercise(
        choose,
        chapter="matching",
        cases=[
            Case("five candidates, two boxes", lambda: (_COST, torch.tensor([2, 1]))),
            Case("the scene's candidates", lambda: (scene().cost, dynamic_k(scene().ious))),
            Case("as many as there are", lambda: (_COST, torch.tensor([5, 1]))),
            Case("equal costs at rank k", lambda: (_TIED, torch.tensor([2, 3])), _is_a_choice),
            Case("no boxes", lambda: (torch.zeros(5, 0), torch.zeros(0, dtype=torch.int64))),
        ],
        mistakes=[
            Mistake(
                "one candidate too many is taken. Ranks begin at 0: compare with <, not <=.",
                lambda cost, ks: choose(cost, ks + 1),
            ),
            Mistake(
                "the dearest are taken. A cost is better when it is smaller.",
                lambda cost, ks: choose(-cost, ks),
            ),
            Mistake(
                "all boxes take as many as the largest k. Each has its own.",
                lambda cost, ks: choose(cost, torch.full_like(ks, max(ks.tolist(), default=0))),
            ),
            Mistake(
                "a single argsort is compared with k. It says which candidate has a rank, not which rank a candidate "
                "has: sort the order once more.",
                lambda cost, ks: cost.argsort(0) < ks,
            ),
        ],
        hints=[
            "What is the rank of each candidate in its column? The k cheapest have ranks 0 to k - 1.",
            "argsort gives an order: which candidate is first, second, ... The argsort of that order gives ranks.",
            "cost.argsort(0).argsort(0) < dynamic_ks",
        ],
        asks_nothing=True,
    ),
    Exercise(
        resolve_conflicts,
        chapter="matching",
        cases=[
            Case("four candidates, three boxes", _crowd),
            Case("the scene's candidates", lambda: (_taken(), scene().cost)),
            Case("no conflict", lambda: (torch.eye(3).bool(), torch.tensor([[9.0, 1, 2], [1, 9, 2], [1, 2, 9]]))),
            Case("two equal costs", lambda: (torch.ones(2, 2).bool(), torch.tensor([[1.0, 1], [3, 2]])), _is_resolved),
            Case("no candidate", lambda: (torch.zeros(0, 2).bool(), torch.zeros(0, 2))),
        ],
        mistakes=[
            Mistake(
                "only the boxes that took the candidate are compared. MMDetection takes the cheapest of all boxes.",
                _among_takers,
            ),
            Mistake(
                "every candidate goes to its cheapest box. Only those that several boxes took are decided anew.",
                _everyone,
            ),
            Mistake("the first box keeps the candidate. The cheapest one gets it.", _to_first),
            Mistake("the conflicts are still there. A candidate can learn one box alone.", lambda m, c: m.clone()),
            Mistake(
                "a contested candidate is taken from everyone. One box gets it.",
                lambda m, c: m & (m.sum(1, keepdim=True) <= 1),
            ),
        ],
        hints=[
            "Which rows of the matching have more than one True? Leave all others as they are.",
            "For a contested row, ask cost.argmin over all boxes, also those that did not take it.",
            "torch.where(matching.sum(1, keepdim=True) > 1, one_hot_of_argmin, matching)",
        ],
    ),
    Exercise(
        pos_gt_bboxes,
        chapter="sampling",
        cases=[
            Case(
                "one image, two boxes",
                lambda: (torch.tensor([[0, 2, 1, -1, 2]]), torch.tensor([[[4.0, 6, 20, 30], [14, 6, 24, 22]]])),
            ),
            Case("the scene, an image without objects, padding", _owners),
            Case("background alone", lambda: (torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 2, 4))),
        ],
        mistakes=[
            Mistake(
                "gt_inds is used as it is. It counts from 1: box i is at gt_inds - 1.",
                lambda inds, boxes: _lookup(inds.clamp(0, boxes.shape[1] - 1), boxes) * (inds > 0)[..., None],
            ),
            Mistake(
                "background has the first box. Where gt_inds is not above 0, zeros are expected.",
                lambda inds, boxes: _lookup((inds - 1).clamp(min=0), boxes),
            ),
            Mistake(
                "priors that take no part have a box. -1 has none, as 0 has none.",
                lambda inds, boxes: _lookup((inds - 1).clamp(min=0), boxes) * (inds != 0)[..., None],
            ),
        ],
        hints=[
            "Which row of the boxes belongs to gt_inds = 3? What is to be done with 0 and -1?",
            "(gt_inds - 1).clamp(min=0) is always a row that exists; boxes.gather(1, index) reads it for all priors.",
            "The index needs a last axis of 4: index[..., None].expand(-1, -1, 4). Multiply by gt_inds > 0 at the end.",
        ],
        asks_nothing=True,
    ),
    Exercise(
        target_labels,
        chapter="targets",
        cases=[
            Case("two boxes of three classes", lambda: (torch.tensor([[0, 2, 1, -1, 2]]), torch.tensor([[0, 2]]), 3)),
            Case("the scene, an image without objects, padding", lambda: (batch()[1], batch()[0].labels, 16)),
            Case("a single class", lambda: (torch.tensor([[1, 0]]), torch.tensor([[0]]), 1)),
        ],
        mistakes=[
            Mistake(
                "background has label 0. 0 is a class; background is num_classes.",
                lambda inds, labels, c: target_labels(inds, labels, c) * (inds > 0),
            ),
            Mistake(
                "background has label -1, as in the assignment. In the targets it is num_classes.",
                lambda inds, labels, c: target_labels(inds, labels, c).masked_fill(inds <= 0, -1),
            ),
            Mistake(
                "gt_inds is used as it is. It counts from 1: box i is at gt_inds - 1.",
                lambda inds, labels, c: torch.where(inds > 0, labels.gather(1, inds.clamp(0, labels.shape[1] - 1)), c),
            ),
            Mistake(
                "priors that take no part have the class of a box. They have none: num_classes, with weight 0.",
                lambda inds, labels, c: target_labels(inds.abs(), labels, c),
            ),
        ],
        hints=[
            "Which class has a prior without a box? Not 0: that is the first class.",
            "gt_labels.gather(1, (gt_inds - 1).clamp(min=0)) reads a class for every prior.",
            "torch.where(gt_inds > 0, that, num_classes)",
        ],
        asks_nothing=True,
    ),
    Exercise(
        label_weights,
        chapter="targets",
        cases=[
            Case("five priors", lambda: (torch.tensor([[0, 2, 1, -1, 2]]),)),
            Case("the scene, an image without objects, padding", lambda: (batch()[1],)),
            Case("nobody takes part", lambda: (torch.full((1, 3), -1),)),
        ],
        mistakes=[
            Mistake("only positives count. Background is learned too: weight 1.", lambda inds: (inds > 0).float()),
            Mistake("everyone counts. -1 takes no part: weight 0.", lambda inds: torch.ones_like(inds).float()),
            Mistake("background does not count and -1 does. It is the other way round.", lambda i: (i != 0).float()),
        ],
        hints=[
            "There are positives, background, and priors that take no part. Which of them are not learned?",
            "A comparison of gt_inds with 0, made a number.",
        ],
        asks_nothing=True,
    ),
]


def _sum(ious: Tensor, topk: int) -> Tensor:
    return ious.topk(min(topk, len(ious)), dim=0).values.sum(0)
