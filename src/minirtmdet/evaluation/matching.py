"""Which detections of an image are right, which are wrong, and which boxes nothing found.

AP weighs detections of all scores over a whole data set; this judges one image at one threshold, as a user of the
detector would see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.data.coco_json import Annotation
from minirtmdet.data.masks import Rle, decode_mask
from minirtmdet.evaluation.entries import results_that_count, truths_that_count
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


@dataclass(frozen=True)
class EncodedMasks:
    """Masks of one image as RLE, decoded when their pixels are asked for.

    Attributes:
        runs: of each mask.
    """

    runs: Sequence[Rle]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.runs)

    def __getitem__(self, rows: Tensor | slice) -> "EncodedMasks":
        """Some of them."""
        return EncodedMasks([self.runs[row] for row in torch.arange(len(self.runs))[rows].tolist()])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of each mask."""
        height, width = self.runs[0]["size"] if self.runs else (0, 0)
        return height, width

    def pixels(self) -> Bool[Tensor, "masks height width"]:
        """All of them."""
        masks = [decode_mask(run) for run in self.runs]
        return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 0, 0, dtype=torch.bool)


class Match(NamedTuple):
    """Detections of one image beside its true boxes.

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
        detections: of one image, in any order.
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
    detections = detections.pick(order)
    real, regions = boxes[~ignore], boxes[ignore]
    same_class = detections.labels[:, None] == labels[~ignore]
    overlaps = bbox_overlaps(detections.boxes, real).masked_fill(~same_class, 0.0)
    found = torch.zeros_like(labels[~ignore], dtype=torch.bool)
    hit = torch.zeros_like(order, dtype=torch.bool)
    fits = (overlaps >= iou_threshold).any(1)  # most detections of a low score fit no box at all
    for row in fits.nonzero()[:, 0].tolist():
        best = overlaps[row].masked_fill(found, 0.0).argmax()
        if not found[best] and overlaps[row, best] >= iou_threshold:
            found[best] = hit[row] = True
    in_region = bbox_overlaps(detections.boxes, regions, "iof") >= iou_threshold
    excused = (in_region & (detections.labels[:, None] == labels[ignore])).any(1) & ~hit
    return Match(detections.pick(~excused), hit[~excused], real, labels[~ignore], found)


def match_images(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    category_ids: Sequence[int],
    image_ids: Sequence[int],
    *,
    score_threshold: float = 0.3,
) -> dict[int, Match]:
    """Hits, misses and false detections of each image at one threshold and IoU 0.5, the worst image first.

    Worst is the most misses and false detections together; of equal ones, the lowest F1.

    Args:
        ground_truth: what :func:`~minirtmdet.evaluation.entries.read_ground_truth` gives.
        results: detections in the COCO results format.
        category_ids: the categories that count, in label order.
        image_ids: the images that count.
        score_threshold: only detections that score more count.

    Returns:
        By image id; boxes are ``xyxy`` in pixels of the file.
    """
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    truths: dict[int, list[Annotation]] = {image_id: [] for image_id in image_ids}
    found: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for truth in truths_that_count(ground_truth, truths, labels):
        truths[truth.image_id].append(truth)
    for entry in results_that_count(results, found, labels):
        found[entry["image_id"]].append(entry)
    matches = {}
    for image_id in image_ids:
        runs = [entry["segmentation"] for entry in found[image_id] if "segmentation" in entry]
        detections = Detections(
            _xyxy([entry["bbox"] for entry in found[image_id]]),
            torch.tensor([entry["score"] for entry in found[image_id]]).float(),
            torch.tensor([labels[entry["category_id"]] for entry in found[image_id]]).long(),
            EncodedMasks(runs) if runs else None,
        )
        matches[image_id] = match_detections(
            detections,
            _xyxy([truth.box for truth in truths[image_id]]),
            torch.tensor([labels[truth.category_id] for truth in truths[image_id]]).long(),
            torch.tensor([truth.ignore for truth in truths[image_id]]).bool(),
            score_threshold=score_threshold,
        )
    return dict(sorted(matches.items(), key=lambda item: (-item[1].missed - item[1].false, item[1].f1)))


def mistakes(match: Match, *, iou_threshold: float = 0.5, background: float = 0.1) -> list[Mistake]:
    """What each false detection of an image got wrong, best first: the kinds of Bolya et al. 2020 (TIDE).

    Args:
        match: of the image.
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


def _xyxy(boxes: Sequence[Any]) -> Float[Tensor, "boxes 4"]:
    """Corners of boxes (x, y, width, height)."""
    corners = torch.tensor(boxes).reshape(-1, 4).float()
    corners[:, 2:] += corners[:, :2]
    return corners
