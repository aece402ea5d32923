"""The whole detector, from an image to its predictions: every number is asked of the network."""

from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from drawings.svg import Box, Place, Sheet, shape
from minirtmdet import build_detector
from minirtmdet.configs import STRIDES
from minirtmdet.data.example import SIZE
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.layers import ConvModule
from minirtmdet.presets import PRESETS

COLUMNS = (60, 180, 300)
"""Middles of the three levels."""
LEVELS = tuple(f"level-{stride}" for stride in STRIDES)
IMAGE = 96
"""Side of the image as it is drawn."""


class Facts(NamedTuple):
    """What the drawing says of the network of this book.

    Attributes:
        image, stage1: shapes of the input and of what the backbone's first two parts make of it.
        features, mixed, logits, distances: shapes of each level behind backbone, neck and the head's two branches.
        convs: 3x3 convolutions in each branch of the head.
        shared: whether all levels use the same ones.
        norms: how many different BatchNorms follow the first of them.
        priors: of each level, ``(x, y)``.
    """

    image: tuple[int, ...]
    stage1: tuple[int, ...]
    features: list[tuple[int, ...]]
    mixed: list[tuple[int, ...]]
    logits: list[tuple[int, ...]]
    distances: list[tuple[int, ...]]
    convs: int
    shared: bool
    norms: int
    priors: list[list[tuple[float, float]]]


@cache
def facts() -> Facts:
    """Ask the network of mini-160, without computing anything."""
    with torch.device("meta"):
        model = build_detector(PRESETS["mini-160"].model).eval()
        image = torch.zeros(1, 3, SIZE, SIZE)
        stage1 = model.backbone.stage1(model.backbone.stem(image))
        features = model.backbone(image)
        mixed = model.neck(features)
        logits, distances = model.bbox_head(mixed)
    branches: Any = model.bbox_head.cls_convs
    first = [[part for part in branch if isinstance(part, ConvModule)] for branch in branches]
    points = MlvlPointGenerator().grid_priors([tuple(level.shape[-2:]) for level in logits])

    def sizes(maps: Any) -> list[tuple[int, ...]]:
        return [tuple(level.shape[1:]) for level in maps]

    return Facts(
        *(sizes([image])[0], sizes([stage1])[0], sizes(features), sizes(mixed), sizes(logits), sizes(distances)),
        convs=len(first[0]),
        shared=len({id(convs[0].conv) for convs in first}) == 1,
        norms=len({id(convs[0].bn) for convs in first if isinstance(convs[0].bn, nn.BatchNorm2d)}),
        priors=[[(x, y) for x, y, *_ in level.tolist()] for level in points],
    )


def draw(place: Place) -> list[Sheet]:
    """Two sheets, of which the second goes on where the first ends."""
    return [upper(place), lower(place)]


def upper(place: Place) -> Sheet:
    """Image, backbone and neck."""
    known, sheet = facts(), Sheet(360, 466)
    image = Box(COLUMNS[0] - IMAGE / 2, 4, IMAGE, IMAGE)
    sheet.add("image", href=place.scene, x=image.x, y=image.y, width=IMAGE, height=IMAGE)
    sheet.text(image.x + IMAGE + 12, 44, "image", "name start")
    sheet.text(image.x + IMAGE + 12, 62, shape(known.image), "start")

    sheet.panel(Box(1, 116, 358, 150), "backbone", place.pages["backbone_neck"])
    first = sheet.box(Box(8, 128, 104, 42), ["stem, stage 1", shape(known.stage1)])
    sheet.arrow(image.bottom, first.top)
    stages = [Box(middle - 52, 196, 104, 60) for middle in COLUMNS]
    for i, (box, level, sizes) in enumerate(zip(stages, LEVELS, known.features)):
        sheet.box(box, [f"stage {i + 2}", shape(sizes), f"stride {STRIDES[i]}"], level)
    sheet.arrow(first.bottom, stages[0].top)
    for one, other in pairwise(stages):
        sheet.arrow(one.right, other.left)

    sheet.panel(Box(1, 284, 358, 158), "neck", place.pages["backbone_neck"])
    sheet.text(68, 299, "to fine, and back", "small start")
    down = [Box(middle - 52, 314, 104, 40) for middle in COLUMNS]
    for box, level, stage, words in zip(down, LEVELS, stages, ("CSP layer", "CSP layer", "1 × 1")):
        sheet.arrow(stage.bottom, box.top)
        sheet.box(box, [words], level)
    for one, other in zip(down[1:], down):
        sheet.arrow(one.left, other.right)
    up = [Box(middle - 52, 386, 104, 44) for middle in COLUMNS]
    for i, (box, level, above, sizes) in enumerate(zip(up, LEVELS, down, known.mixed)):
        sheet.arrow(above.bottom, box.top)
        sheet.box(box, [f"P{i + 3}", shape(sizes)], level)
        sheet.arrow(box.bottom, (box.bottom[0], 465))
    for one, other in pairwise(up):
        sheet.arrow(one.right, other.left)
    return sheet


def lower(place: Place) -> Sheet:
    """Head, priors, and the two ways from there."""
    known, sheet = facts(), Sheet(360, 478)
    sheet.panel(Box(1, 18, 358, 208), "head", place.pages["head_construction"])
    # or the next words are wrong
    assert known.shared
    assert known.norms == len(STRIDES)
    each = f"{known.convs} for the classes, {known.convs} for the boxes"
    shared = sheet.box(Box(8, 44, 344, 42), ["3 × 3 convolutions, shared by all levels", each])
    for i, (middle, level) in enumerate(zip(COLUMNS, LEVELS)):
        sheet.arrow((middle, 0), (middle, shared.y))
        norm = sheet.box(Box(middle - 52, 100, 104, 26), ["its own norms"], level)
        sheet.arrow((middle, shared.bottom[1]), norm.top)
        logits = sheet.box(Box(middle - 52, 140, 104, 38), ["logits", shape(known.logits[i])], level)
        sheet.arrow(norm.bottom, logits.top)
        sheet.box(Box(middle - 52, 182, 104, 38), ["distances", shape(known.distances[i])], level)
        box = Box(middle - IMAGE / 2, 250, IMAGE, IMAGE)
        sheet.arrow((middle, 220), box.top)
        sheet.add("image", kind="faint", href=place.scene, x=box.x, y=box.y, width=IMAGE, height=IMAGE)
        zoom = IMAGE / SIZE
        places = [(box.x + zoom * x, box.y + zoom * y) for x, y in known.priors[i]]
        sheet.dots(places, 1.3 + 0.5 * i, level)
        sheet.text(middle, 360, f"{len(places)} priors", "name")
    total = sum(map(len, known.priors))
    sheet.text(180, 381, f"{total} priors: {known.logits[0][0]} logits, {known.distances[0][0]} distances each")
    training = sheet.box(
        Box(1, 412, 176, 58), ["training", "costs, choice,", "targets, losses"], "training", place.pages["costs"]
    )
    inference = sheet.box(Box(183, 412, 176, 58), ["inference", "scores, boxes,", "NMS"], "", place.pages["evaluation"])
    sheet.arrow((180, 390), (180, 400), training.top)
    sheet.arrow((180, 390), (180, 400), inference.top)
    return sheet
