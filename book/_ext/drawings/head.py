"""The head on three levels at once: what they share lies across them, what each has of its own in its column."""

from collections.abc import Sequence
from typing import Any

from drawings.architecture import COLUMNS, LEVELS, facts
from drawings.layers import network
from drawings.svg import Box, Place, Sheet, shape
from minirtmdet.configs import STRIDES
from minirtmdet.layers import ConvModule


def draw(place: Place) -> list[Sheet]:
    """One sheet per branch."""
    head, known = network().bbox_head, facts()
    # or the drawing is wrong
    assert known.shared
    assert known.norms == len(STRIDES)
    scale = [f"exp, × {stride}" if head.exp_on_reg else f"× {stride}" for stride in STRIDES]
    classes = branch("classes", head.cls_convs[0], head.rtm_cls[0], known.logits)
    boxes = branch("boxes", head.reg_convs[0], head.rtm_reg[0], known.distances, scale)
    return [classes, boxes]


def branch(name: str, parts: Any, last: Any, ends: list[tuple[int, ...]], scale: Sequence[str] = ()) -> Sheet:
    """From the neck's maps to those of a branch."""
    sheet = Sheet(360, 386)
    sheet.text(8, 10, name, "title start")
    for i, sizes in enumerate(facts().mixed):
        sheet.box(Box(COLUMNS[i] - 52, 24, 104, 42), [f"P{i + 3}", shape(sizes)], LEVELS[i])
    above, y = 66.0, 84.0
    for part in parts:
        if isinstance(part, ConvModule):
            arrows(sheet, above, y)
            sheet.box(Box(2, y, 356, 28), [f"{shape(part.conv.kernel_size)} convolution, shared"], "accent")
            above, y = row(sheet, y + 28, y + 42, ["BatchNorm"] * len(COLUMNS)), y + 86
    above = row(sheet, above, y, [shape(last.kernel_size)] * len(COLUMNS))
    if scale:
        above = row(sheet, above, y + 42, scale)
    row(sheet, above, y + 100, [shape(sizes) for sizes in ends], "data ")
    return sheet


def arrows(sheet: Sheet, above: float, below: float) -> None:
    """One per level."""
    for middle in COLUMNS:
        sheet.arrow((middle, above), (middle, below))


def row(sheet: Sheet, above: float, y: float, words: Sequence[str], kind: str = "") -> float:
    """A box per level with an arrow that enters it; where the boxes end."""
    arrows(sheet, above, y)
    for middle, level, word in zip(COLUMNS, LEVELS, words):
        sheet.box(Box(middle - 52, y, 104, 28), [word], kind + level)
    return y + 28
