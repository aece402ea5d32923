"""Real inputs: what the network said to the book's image in a training run, and boxes that are not that simple."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.data.example import STEP, example, recorded_maps
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.pipeline import flatten_levels
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.reference import assignment as reading
from minirtmdet.structures import GroundTruth

NO_BOXES = torch.zeros(0, 4)
NO_LABELS = torch.zeros(0, dtype=torch.int64)


class Scene(NamedTuple):
    """The book's image at step 400, ``V`` its candidates.

    Attributes:
        logits: of all priors.
        distances: likewise, in pixels.
        priors: ``(x, y, stride, stride)``.
        boxes: panda, car and tennis ball.
        labels: their classes.
        candidates: which priors lie in a box.
        ious: of the candidates' predicted boxes.
        cost: of the candidates.
    """

    logits: Float[Tensor, "N 16"]
    distances: Float[Tensor, "N 4"]
    priors: Float[Tensor, "N 4"]
    boxes: Float[Tensor, "3 4"]
    labels: Int[Tensor, "3"]
    candidates: Bool[Tensor, " N"]
    ious: Float[Tensor, "V 3"]
    cost: Float[Tensor, "V 3"]

    @property
    def predicted(self) -> Float[Tensor, "N 4"]:
        """Boxes of all priors, ``xyxy``."""
        return DistancePointBBoxCoder().decode(self.priors[:, :2], self.distances)


@cache
def scene() -> Scene:
    """The scene; its tensors are shared, and only copies of them are given away."""
    image, maps = example(), recorded_maps(STEP)
    sizes = [(level.shape[-2], level.shape[-1]) for level in maps.cls_scores]
    priors = torch.cat(MlvlPointGenerator().grid_priors(sizes))
    logits, distances = flatten_levels(maps.cls_scores)[0], flatten_levels(maps.bbox_preds)[0]
    candidates = reading.candidates(priors, image.boxes)
    predicted = DistancePointBBoxCoder().decode(priors[:, :2], distances)[candidates]
    ious = bbox_overlaps(predicted, image.boxes)
    centers = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2
    cost = (
        reading.class_cost(logits[candidates], image.labels, ious)
        + 3 * reading.iou_cost(ious)
        + reading.center_cost(priors[candidates], centers)
    )
    return Scene(logits, distances, priors, image.boxes, image.labels, candidates, ious, cost)


@cache
def batch() -> tuple[GroundTruth, Int[Tensor, "3 525"]]:
    """Boxes of three images, and whose each prior is: the scene, one without objects, one that is half padding."""
    here = scene()
    truth = GroundTruth.from_list([here.boxes, NO_BOXES, here.boxes[1:]], [here.labels, NO_LABELS, here.labels[1:]])
    found = reading.assign(here.logits, here.predicted, here.priors, here.boxes, here.labels).gt_inds
    half = torch.where(here.priors[:, 0] < 80, (found - 1).clamp(min=0), -1)
    return truth, torch.stack([found, torch.zeros_like(found), half])


def boxes(*rows: Sequence[int | float]) -> Float[Tensor, "boxes 4"]:
    """Boxes by their numbers."""
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
