"""The assignment in six steps on the book's scene, each computed by the reading lane."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from drawings.svg import Box, Place, Sheet, Step
from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import STRIDES
from minirtmdet.data.example import PRIOR, SIZE, STEP, Example, example, recorded_maps
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.reference import assignment as reading

THINGS = ("panda", "car", "ball")
"""Classes of style, in the order of the boxes."""
CAR = 1
TAXI = (8.0, -4.0, 8.0, -4.0)
"""How far the second car of the chapter lies from the first."""
SHADES = 6
WHOLE = Box(0, 0, SIZE, SIZE)


class Choice(NamedTuple):
    """What each step gives, for the ``V`` candidates.

    Attributes:
        where: which priors they are.
        ious, costs, cost: with each box; the parts by name, and their sum.
        ks: positives that each box asks for.
        wanted, kept: before conflicts and after.
    """

    where: Tensor
    ious: Tensor
    costs: dict[str, Tensor]
    cost: Tensor
    ks: list[int]
    wanted: Tensor
    kept: Tensor


@cache
def scene() -> tuple[Example, Tensor]:
    """The scene and its priors."""
    return example(), RTMDetLoss(num_classes=16).flatten(*recorded_maps(STEP))[2]


def choose(boxes: Tensor, labels: Tensor) -> Choice:
    """All steps, from what the network said at the recorded step."""
    logits, predicted, priors, _ = RTMDetLoss(num_classes=16).flatten(*recorded_maps(STEP))
    where = reading.candidates(priors, boxes).nonzero()[:, 0]
    ious = bbox_overlaps(predicted[0, where], boxes)
    costs = {
        "class": reading.class_cost(logits[0, where], labels, ious),
        "3 × IoU": 3 * reading.iou_cost(ious),
        "centre": reading.center_cost(priors[where], (boxes[:, :2] + boxes[:, 2:]) / 2),
    }
    cost = torch.stack(list(costs.values())).sum(0)
    ks = reading.dynamic_k(ious)
    wanted = reading.choose(cost, ks)
    return Choice(where, ious, costs, cost, ks.tolist(), wanted, reading.resolve_conflicts(wanted, cost))


@cache
def plain() -> Choice:
    """On the scene."""
    known, _ = scene()
    return choose(known.boxes, known.labels)


@cache
def crowded() -> Choice:
    """On the scene whose car is annotated a second time, as a taxi."""
    known, _ = scene()
    second = known.boxes[CAR : CAR + 1] + torch.tensor(TAXI)
    taxi = torch.tensor([known.names.index("taxi")])
    return choose(torch.cat([known.boxes, second]), torch.cat([known.labels, taxi]))


def draw(place: Place) -> list[Step]:
    """Six sheets, each as large as the scene."""
    _, priors = scene()
    chosen, rivals = plain(), crowded()
    best = chosen.ious.topk(13, dim=0).values.sum(0).tolist()
    contested, positive = int((rivals.wanted.sum(1) > 1).sum()), int(chosen.kept.sum())
    # or the words of the fifth step are wrong
    assert not (chosen.wanted.sum(1) > 1).any()
    assert rivals.kept.sum(0)[len(THINGS)] == 0
    words = (
        f"<b>Candidates.</b> {len(chosen.where)} of {len(priors)} priors lie in some box.",
        "<b>Costs.</b> Three for each candidate and box, added up; here the car's on stride 8. Strong colour is cheap.",
        "<b>How many?</b> The 13 best IoUs of each box, added up and rounded down: k is "
        f"{', '.join(map(str, chosen.ks))}.",
        f"<b>Choice.</b> Each box takes its k cheapest candidates: {' + '.join(map(str, chosen.ks))}.",
        f"<b>Conflicts.</b> None here. Were the car a taxi too (dashed), both would want {contested} priors, "
        "and the car, which they cost less, would keep them.",
        f"<b>Positives.</b> {positive} priors learn an object, the larger the better they fit; "
        f"{len(priors) - positive} learn background.",
    )
    sheets = (
        *(candidates(place), costs(place), dynamic_k(best)),
        *(positives(place, chosen.wanted, sized=False), conflicts(place), positives(place, chosen.kept, sized=True)),
    )
    return [Step(sheet, said) for sheet, said in zip(sheets, words)]


def ground(place: Place, *, boxes: bool = True) -> Sheet:
    """The scene, pale, with its boxes."""
    known, _ = scene()
    sheet = Sheet(SIZE, SIZE)
    sheet.add("image", kind="faint", href=place.scene, width=SIZE, height=SIZE)
    for thing, box in zip(THINGS, known.boxes.tolist()):
        if boxes:
            outline(sheet, box, thing)
    return sheet


def outline(sheet: Sheet, box: list[float], kind: str) -> None:
    """A box of the ground truth."""
    x1, y1, x2, y2 = box
    sheet.add("rect", kind=f"truth {kind}", x=x1, y=y1, width=x2 - x1, height=y2 - y1)


def points(indices: Tensor) -> dict[int, list[tuple[float, float]]]:
    """Places of priors by their stride."""
    _, priors = scene()
    rows = priors[indices].tolist()
    return {stride: [(x, y) for x, y, s, _ in rows if s == stride] for stride in STRIDES}


def candidates(place: Place) -> Sheet:
    """All priors, those in a box as large as their level."""
    sheet, (_, priors) = ground(place), scene()
    inside = set(plain().where.tolist())
    others = torch.tensor([i for i in range(len(priors)) if i not in inside])
    sheet.dots([xy for level in points(others).values() for xy in level], 0.7, "muted")
    for stride, places in points(plain().where).items():
        sheet.marks(places, stride, 1.2 + 0.6 * STRIDES.index(stride), f"level-{stride}")
    return sheet


def costs(place: Place) -> Sheet:
    """The three costs of the car and their sum on the finest level."""
    known, priors = scene()
    chosen, sheet = plain(), Sheet(SIZE, SIZE)
    x1, y1, x2, y2 = known.boxes[CAR].tolist()
    reach = (x2 - x1) / 2 + STRIDES[0]
    window = Box((x1 + x2) / 2 - reach, (y1 + y2) / 2 - reach, 2 * reach, 2 * reach)
    fine = priors[chosen.where, 2] == STRIDES[0]
    parts = {**chosen.costs, "sum": chosen.cost}
    for i, (name, cost) in enumerate(parts.items()):
        inner = ground(place, boxes=False)
        least, most = (cost[:, CAR].min().item(), 10 * cost[:, CAR].min().item()) if name == "sum" else (0.01, 100.0)
        share = (torch.tensor(most) / cost[fine, CAR]).log() / (torch.tensor(most) / least).log()
        shades = (share.clamp(0, 0.999) * SHADES).int()
        cells = priors[chosen.where[fine], :2] - STRIDES[0] / 2
        for shade in range(1, SHADES):
            corners = cells[shades == shade].tolist()
            d = "".join(f"M{x:g} {y:g}h8v8h-8z" for x, y in corners)
            if d:
                inner.add("path", kind="cell", d=d, opacity=shade / (SHADES - 1))
        outline(inner, known.boxes[CAR].tolist(), "car")
        x, y = 83 * (i % 2), 83 * (i // 2)
        sheet.view(inner, Box(x + 4, y + 11, 66, 66), window)
        sheet.text(x + 37, y + 5, name, "tiny")
    return sheet


def dynamic_k(sums: list[float]) -> Sheet:
    """The best IoUs of each box end to end."""
    known, priors = scene()
    chosen, sheet = plain(), Sheet(SIZE, SIZE)
    unit = 148 / max(sums)
    best = chosen.ious.topk(13, dim=0)
    for g, name in enumerate(known.box_names):
        y, x = 12 + 50 * g, 4.0
        sheet.text(4, y, name, "tiny start")
        sheet.text(156, y, f"{sums[g]:.2f} → {chosen.ks[g]}", "tiny end")
        for iou, at in zip(best.values[:, g].tolist(), best.indices[:, g].tolist()):
            stride = int(priors[chosen.where[at], 2])
            sheet.add("rect", kind=f"piece level-{stride}", x=x, y=y + 9, width=unit * iou, height=16)
            x += unit * iou
        mark = 4 + unit * chosen.ks[g]
        sheet.add("path", kind="line strong", d=f"M{mark:.1f} {y + 6}v22")
    return sheet


def positives(place: Place, matching: Tensor, *, sized: bool) -> Sheet:
    """The priors of each box, where they fit as large as their IoU."""
    sheet, chosen = ground(place), plain()
    for g, thing in enumerate(THINGS):
        for row in matching[:, g].nonzero()[:, 0].tolist():
            radius = 4 * chosen.ious[row, g].item() ** 0.5 if sized else 2.6
            for stride, places in points(chosen.where[row : row + 1]).items():
                sheet.marks(places, stride, radius if stride == STRIDES[0] else 0.9 * radius, thing)
    if sized:
        (x, y), *_ = points(torch.tensor([PRIOR]))[STRIDES[0]]
        sheet.add("circle", kind="ring", cx=x, cy=y, r=5.5)
    return sheet


def conflicts(place: Place) -> Sheet:
    """Car and taxi: who wants which prior, and who keeps it."""
    known, _ = scene()
    rivals, sheet = crowded(), Sheet(SIZE, SIZE)
    second = (known.boxes[CAR] + torch.tensor(TAXI)).tolist()
    x1, y1, x2, y2 = known.boxes[CAR].tolist()
    window = Box(x1 - 4, y1 + TAXI[1] - 3, x2 - x1 + TAXI[0] + 8, y2 - y1 - TAXI[1] + 6)
    height = SIZE * window.height / window.width
    for i, (words, matching) in enumerate((("wanted", rivals.wanted), ("kept", rivals.kept))):
        inner = ground(place, boxes=False)
        outline(inner, known.boxes[CAR].tolist(), "car")
        outline(inner, second, "taxi dashed")
        for g, kind, radius in ((CAR, "car", 3.2), (3, "taxi", 1.7)):
            for stride, places in points(rivals.where[matching[:, g]]).items():
                inner.marks(places, stride, radius, kind)
        top = 80 * i
        sheet.text(2, top + 5, words, "tiny start")
        sheet.view(inner, Box(0, top + 11, SIZE, min(height, 68)), window)
    return sheet
