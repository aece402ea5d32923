"""Which detections of a picture are right, which are wrong, and which boxes nothing found.

AP weighs detections of all scores over a whole data set; this judges one picture at one threshold, as a user of the
detector would see it.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.structures import Detections

Kind = Literal["class", "location", "both", "duplicate", "background"]


class Mistake(NamedTuple):
    """What a false detection got wrong.

    Attributes:
        kind: ``class`` (fits a box of another class), ``location`` (near a box of its class, at a lower IoU), ``both``
            (near a box of another class), ``duplicate`` (fits a box that was found already), or ``background``.
        detection: its row among the detections of the match.
        box: the row of the true box that it overlaps most; -1 for ``background``.
    """

    kind: Kind
    detection: int
    box: int


class Match(NamedTuple):
    """Detections of one picture beside its true boxes.

    Attributes:
        detections: those over the threshold, best first; without those in ignored regions.
        hit: whether each found a box.
        boxes: the true boxes, ``xyxy``, in the same pixels.
        labels: their classes.
        found: whether each was found.
    """

    detections: Detections
    hit: Bool[Tensor, " detections"]
    boxes: Float[Tensor, "boxes 4"]
    labels: Int[Tensor, " boxes"]
    found: Bool[Tensor, " boxes"]

    @property
    def missed(self) -> int:
        """Boxes that nothing found."""
        return int((~self.found).sum())

    @property
    def false(self) -> int:
        """Detections that found no box, being of another class, in a wrong place, or of a box already found."""
        return int((~self.hit).sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing to find and nothing was found."""
        hits = int(self.hit.sum())
        wrong = self.missed + self.false
        return 2 * hits / (2 * hits + wrong) if hits + wrong else 1.0


def match_detections(
    detections: Detections,
    boxes: Float[Tensor, "boxes 4"],
    labels: Int[Tensor, " boxes"],
    ignore: Bool[Tensor, " boxes"],
    *,
    score_threshold: float = 0.3,
    iou_threshold: float = 0.5,
) -> Match:
    """Pair detections with true boxes: the best first, each with the free box of its class that it overlaps most.

    Args:
        detections: of one picture, in any order.
        boxes: the true boxes, ``xyxy``, in the same pixels.
        labels: their classes.
        ignore: regions (crowds) that need not be found; a detection of the same class that no box is left for, and
            that lies in one by at least ``iou_threshold`` of its own area, is neither right nor wrong.
        score_threshold: only detections that score more count.
        iou_threshold: least overlap of a pair.

    The rules are those of the COCO tools at one IoU threshold.

    >>> boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 9.]])
    >>> found = Detections(boxes, torch.tensor([.9, .8]), torch.tensor([0, 0]))
    >>> match = match_detections(found, boxes[:1], torch.tensor([0]), torch.tensor([False]))
    >>> match.hit.tolist(), match.missed, match.false, round(match.f1, 3)
    ([True, False], 0, 1, 0.667)
    """
    order = detections.scores.argsort(descending=True, stable=True)
    order = order[detections.scores[order] > score_threshold]
    detections = Detections(*(field[order] for field in detections))
    real, regions = boxes[~ignore], boxes[ignore]
    same_class = detections.labels[:, None] == labels[~ignore]
    overlaps = bbox_overlaps(detections.boxes, real).masked_fill(~same_class, 0.0)
    found = torch.zeros_like(labels[~ignore], dtype=torch.bool)
    hit = torch.zeros_like(order, dtype=torch.bool)
    for row, overlap in enumerate(overlaps if len(real) else []):
        best = overlap.masked_fill(found, 0.0).argmax()
        if not found[best] and overlap[best] >= iou_threshold:
            found[best] = hit[row] = True
    in_region = bbox_overlaps(detections.boxes, regions, "iof") >= iou_threshold
    excused = (in_region & (detections.labels[:, None] == labels[ignore])).any(1) & ~hit
    return Match(Detections(*(field[~excused] for field in detections)), hit[~excused], real, labels[~ignore], found)


def mistakes(match: Match, *, iou_threshold: float = 0.5, background: float = 0.1) -> list[Mistake]:
    """What each false detection of a picture got wrong, best first: the kinds of Bolya et al. 2020 (TIDE).

    Args:
        match: of the picture.
        iou_threshold: the one that the match was made with.
        background: overlaps up to this are none.

    A detection that fits several boxes is a duplicate where one of them has its class.

    >>> boxes = torch.tensor([[0., 0., 8., 8.], [20., 0., 28., 8.]])
    >>> found = Detections(boxes, torch.tensor([.9, .8]), torch.tensor([1, 1]))
    >>> mistakes(match_detections(found, boxes[:1], torch.tensor([0]), torch.tensor([False])))
    [Mistake(kind='class', detection=0, box=0), Mistake(kind='background', detection=1, box=-1)]
    """
    result: list[Mistake] = []
    overlaps = bbox_overlaps(match.detections.boxes, match.boxes)  # [D,G]
    same = match.detections.labels[:, None] == match.labels  # [D,G]
    kinds: tuple[tuple[Kind, Bool[Tensor, "detections boxes"]], ...] = (
        ("duplicate", same & (overlaps >= iou_threshold)),
        ("class", ~same & (overlaps >= iou_threshold)),
        ("location", same & (overlaps > background)),
        ("both", ~same & (overlaps > background)),
    )
    for row in (~match.hit).nonzero().flatten().tolist():
        kind = next(((kind, chosen[row]) for kind, chosen in kinds if chosen[row].any()), None)
        if kind is None:
            result.append(Mistake("background", row, -1))
        else:
            result.append(Mistake(kind[0], row, int(overlaps[row].where(kind[1], -1).argmax())))
    return result
