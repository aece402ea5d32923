"""The neck: from coarse to fine, and back."""

from typing import Any

from drawings.architecture import COLUMNS, LEVELS, facts
from drawings.layers import network
from drawings.svg import Box, Place, Sheet, shape

HEIGHT = 356
SIDE = 104
"""Width of a box."""


def draw(place: Place) -> list[Sheet]:
    """Two sheets, of which the second goes on where the first ends."""
    return [down(), up()]


def box(column: int, y: float, height: float = 42) -> Box:
    """In the column of a level."""
    return Box(COLUMNS[column] - SIDE / 2, y, SIDE, height)


def channels(before: Any, after: Any) -> str:
    """Of what goes into one convolution and comes out of another."""
    return f"{before.conv.in_channels} → {after.conv.out_channels}"


def down() -> Sheet:
    """From C5 to the finest map: reduce, enlarge, join."""
    neck, sheet = network().neck, Sheet(360, HEIGHT)
    sheet.text(8, 10, "from coarse to fine", "title start")
    levels = [box(i, 28, 44) for i in range(3)]
    for i, sizes in enumerate(facts().features):
        sheet.box(levels[i], [f"C{i + 3}", shape(sizes)], LEVELS[i])
    above = levels[2]
    for step, (reduce, fuse) in enumerate(zip(neck.reduce_layers, neck.top_down_blocks)):
        i = 2 - step
        lateral = sheet.box(box(i, 104 + 118 * step), ["1 × 1", channels(reduce, reduce)], LEVELS[i])
        sheet.arrow(above.bottom, lateral.top)
        joined = box(i - 1, 154 + 118 * step)
        sheet.box(joined, ["CSP layer", channels(fuse.main_conv, fuse.final_conv)], LEVELS[i - 1])
        sheet.arrow(levels[i - 1].bottom, joined.top)
        sheet.arrow(lateral.bottom, (lateral.bottom[0], joined.right[1]), joined.right)
        sheet.text(lateral.bottom[0] + 6, joined.right[1] - 14, "size × 2", "small start")
        sheet.arrow(lateral.bottom, (lateral.bottom[0], HEIGHT - 1))
        above = joined
    sheet.arrow(above.bottom, (above.bottom[0], HEIGHT - 1))
    return sheet


def up() -> Sheet:
    """From the finest map to P5: shrink, join, and give every level the same channels."""
    neck, sheet = network().neck, Sheet(360, HEIGHT)
    sheet.text(8, 30, "and back", "title start")
    middles = [box(0, 0, 0), *(box(1 + i, 56 + 66 * i) for i in range(2))]
    lasts, levels = ([box(i, y, 44) for i in range(3)] for y in (212, 292))
    sheet.arrow((COLUMNS[0], 40), lasts[0].top)
    for i, (shrink, fuse) in enumerate(zip(neck.downsamples, neck.bottom_up_blocks)):
        joined = sheet.box(middles[i + 1], ["CSP layer", channels(fuse.main_conv, fuse.final_conv)], LEVELS[i + 1])
        sheet.arrow((COLUMNS[i + 1], 0), joined.top)
        sheet.arrow((COLUMNS[i], joined.left[1]), joined.left)
        sheet.text((COLUMNS[i] + joined.x) / 2, joined.left[1] - 11, f"size ÷ {shrink.conv.stride[0]}", "small")
        sheet.arrow(joined.bottom, lasts[i + 1].top)
    for i, (conv, sizes) in enumerate(zip(neck.out_convs, facts().mixed)):
        kernel = conv.conv.kernel_size[0]
        sheet.box(lasts[i], [f"{kernel} × {kernel}", channels(conv, conv)], LEVELS[i])
        sheet.box(levels[i], [f"P{i + 3}", shape(sizes)], LEVELS[i])
        sheet.arrow(lasts[i].bottom, levels[i].top)
    return sheet
