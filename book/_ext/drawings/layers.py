"""A CSP layer and spatial pyramid pooling, with the channels of the book's network."""

from functools import cache

import torch

from drawings.svg import Box, Place, Sheet
from minirtmdet import build_detector
from minirtmdet.detector import RTMDet
from minirtmdet.layers import CSPLayer, SPPBottleneck
from minirtmdet.presets import PRESETS


@cache
def network() -> RTMDet:
    """That of mini-160, without numbers."""
    with torch.device("meta"):
        return build_detector(PRESETS["mini-160"].model)


def csp_layer(place: Place) -> list[Sheet]:
    """Stage 2's."""
    layer = network().backbone.stage2[1]
    assert isinstance(layer, CSPLayer)
    conv = layer.main_conv.conv
    block = layer.blocks[0]
    kernels = block.conv1.conv.kernel_size[0], block.conv2.depthwise_conv.conv.kernel_size[0]
    half, whole = conv.out_channels, layer.final_conv.conv.out_channels
    blocks = len(layer.blocks)

    sheet = Sheet(360, 418)
    enter = sheet.box(Box(110, 4, 140, 40), ["input", f"{conv.in_channels} channels"], "data")
    main = sheet.box(Box(8, 74, 150, 42), ["1 × 1", f"{half} channels"])
    short = sheet.box(Box(202, 74, 150, 42), ["1 × 1", f"{half} channels"])
    sheet.arrow(enter.bottom, (180, 58), (main.top[0], 58), main.top)
    sheet.arrow(enter.bottom, (180, 58), (short.top[0], 58), short.top)
    times = f"{blocks} block" + "s" * (blocks > 1)
    sheet.panel(Box(1, 126, 184, 124))
    sheet.text(192, 188, times, "small start")
    first = sheet.box(Box(18, 146, 130, 26), [f"{kernels[0]} × {kernels[0]}"])
    second = sheet.box(Box(18, 182, 130, 40), [f"{kernels[1]} × {kernels[1]} depthwise", "and 1 × 1"])
    plus = (main.top[0], 238)
    sheet.arrow(main.bottom, first.top)
    sheet.arrow(first.bottom, second.top)
    sheet.arrow(second.bottom, (plus[0], plus[1] - 8))
    if block.add_identity:
        sheet.arrow((main.top[0], 121), (168, 121), (168, plus[1]), (plus[0] + 8, plus[1]))
    sheet.add("circle", kind="box", cx=plus[0], cy=plus[1], r=8)
    sheet.text(*plus, "+", "name")
    join = sheet.box(Box(40, 270, 280, 28), [f"side by side: {half} + {half} channels"])
    sheet.arrow((plus[0], plus[1] + 8), (plus[0], join.y))
    sheet.arrow(short.bottom, (short.bottom[0], join.y))
    gate = sheet.box(Box(40, 314, 280, 28), [f"channel attention: {layer.attention.fc.out_channels} gates"])
    sheet.arrow(join.bottom, gate.top)
    leave = sheet.box(Box(110, 360, 140, 42), ["1 × 1", f"{whole} channels"], "data")
    sheet.arrow(gate.bottom, leave.top)
    return [sheet]


def spp(place: Place) -> list[Sheet]:
    """Stage 4's."""
    layer = network().backbone.stage4[1]
    assert isinstance(layer, SPPBottleneck)
    into, half = layer.conv1.conv.in_channels, layer.conv1.conv.out_channels
    pool = layer.pooling.kernel_size
    joined, whole = layer.conv2.conv.in_channels, layer.conv2.conv.out_channels
    count = joined // half - 1
    sheet = Sheet(360, 418)
    enter = sheet.box(Box(8, 4, 150, 40), ["input", f"{into} channels"], "data")
    first = sheet.box(Box(8, 74, 150, 42), ["1 × 1", f"{half} channels"])
    sheet.arrow(enter.bottom, first.top)
    above = first
    ends = [first]
    for i in range(count):
        seen = (i + 1) * (pool - 1) + 1
        box = sheet.box(Box(8, 138 + 50 * i, 150, 30), [f"max {pool} × {pool}"])
        sheet.text(168, box.right[1] - 10, f"the largest of {seen} × {seen}", "small start")
        sheet.arrow(above.bottom, box.top)
        above = box
        ends.append(box)
    join = sheet.box(Box(40, 314, 312, 28), [f"side by side: {count + 1} × {half} channels"])
    for end in ends:
        x = 336 - 12 * ends.index(end)
        sheet.arrow(end.right, (x, end.right[1]), (x, join.y))
    leave = sheet.box(Box(126, 360, 140, 42), ["1 × 1", f"{whole} channels"], "data")
    sheet.arrow(join.bottom, leave.top)
    return [sheet]


def draw(place: Place) -> list[Sheet]:
    """Both."""
    return [*csp_layer(place), *spp(place)]
