"""Sixteen priors worked out by hand: what the assigner says of each, and the lists that the sampler makes of it."""

import torch

from drawings.svg import Place, Sheet
from minirtmdet.reference.assignment import Assignment
from minirtmdet.reference.sampling import sample

GT_INDS = [[0, 1, 1, -1], [0, 1, 2, -1], [0, 0, 2, -1], [0, 0, 0, -1]]
"""The chapter's, in four rows of four."""
COLORS = {-1: "box data", 0: "box", 1: "truth panda", 2: "truth car"}
"""How a prior is drawn by what the assigner says of it."""
SIDE = 34
ITEM = 28


def draw(place: Place) -> list[Sheet]:
    """Two sheets."""
    return [grid(), lists()]


def cell(sheet: Sheet, x: float, y: float, side: float, said: int, number: int) -> None:
    """A prior, or its place in a list, with a number in it."""
    sheet.add("rect", kind=COLORS[said], x=x, y=y, width=side, height=side, rx=4)
    sheet.text(x + side / 2, y + side / 2, f"{number}".replace("-", "−"), "name" if said > 0 else "")


def grid() -> Sheet:
    """What the assigner says: a number per prior."""
    sheet = Sheet(360, 176)
    sheet.text(8, 10, "gt_inds: the assigner's answer", "title start")
    for row, numbers in enumerate(GT_INDS):
        for column, number in enumerate(numbers):
            cell(sheet, 8 + (SIDE + 2) * column, 30 + (SIDE + 2) * row, SIDE, number, number)
    words = ("0: background", "1: box 0", "2: box 1", "−1: takes no part")
    for i, line in enumerate(words):
        sheet.text(172, 47 + (SIDE + 2) * i, line, "start")
    return sheet


def lists() -> Sheet:
    """What the sampler makes of it: indices of priors, and of boxes."""
    inds = torch.tensor(GT_INDS).flatten()
    nothing = torch.zeros(len(inds))
    sampled = sample(Assignment(inds, nothing, inds), torch.tensor([[4.0, 0, 20, 14], [14.0, 6, 24, 22]]))
    sheet = Sheet(360, 176)
    sheet.text(8, 10, "pos_inds, neg_inds: the sampler's", "title start")
    rows = {
        "positives": sampled.pos_inds.tolist(),
        "their box": sampled.pos_assigned_gt_inds.tolist(),
        "negatives": sampled.neg_inds.tolist(),
        "neither": (inds < 0).nonzero()[:, 0].tolist(),
    }
    said = inds.tolist()
    kinds = [said[prior] for prior in rows["positives"]]
    for i, (name, numbers) in enumerate(rows.items()):
        y = 33 + (SIDE + 2) * i
        sheet.text(8, y + ITEM / 2, name, "start")
        for column, number in enumerate(numbers):
            kind = kinds[column] if i == 1 else said[number]
            cell(sheet, 92 + (ITEM + 2) * column, y, ITEM, kind, number)
    return sheet
