"""A sheet of SVG: boxes, arrows and words whose colours are the page's.

Nothing here has a colour: shapes have classes, and ``book/_static/drawings.css`` gives these the page's ink and paper,
light or dark, and the colours of the book's figures.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from minirtmdet.configs import STRIDES

WIDTH = 360
"""Of a sheet, in pixels of the page: two lie side by side in a wide column, and one fills a phone's."""
LINE = 15
HEAD = 6


class Place(NamedTuple):
    """Where a drawing stands: how its page reaches others and the image of the book.

    Attributes:
        pages: address of each page by its name.
        scene: address of the image.
    """

    pages: dict[str, str]
    scene: str


class Box(NamedTuple):
    """Where a box lies on its sheet."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> tuple[float, float]:
        """Middle of the upper side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """Middle of the lower side."""
        return self.x + self.width / 2, self.y + self.height

    @property
    def left(self) -> tuple[float, float]:
        """Middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """Middle of the right side."""
        return self.x + self.width, self.y + self.height / 2


class Step(NamedTuple):
    """A sheet with words of its own below it."""

    sheet: "Sheet"
    words: str


class Sheet:
    """What is drawn, in the order of the calls.

    >>> sheet = Sheet(20, 10)
    >>> sheet.text(10, 5, "a < b")
    >>> str(sheet)
    '<svg viewBox="0 0 20 10"><text x="10" y="5">a &lt; b</text></svg>'
    """

    def __init__(self, width: float, height: float) -> None:
        self.size = width, height
        self.parts: list[str] = []

    def __str__(self) -> str:
        width, height = map(number, self.size)
        return f'<svg viewBox="0 0 {width} {height}">{"".join(self.parts)}</svg>'

    def add(self, tag: str, content: str | None = None, **attributes: str | float) -> None:
        """An element; ``kind`` is its class, and an underscore in a name a hyphen."""
        names = {"kind": "class"}
        said = "".join(
            f' {names.get(name, name).replace("_", "-")}="{value if isinstance(value, str) else number(value)}"'
            for name, value in attributes.items()
            if value != ""
        )
        self.parts.append(f"<{tag}{said}/>" if content is None else f"<{tag}{said}>{content}</{tag}>")

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words around ``x`` on the line through ``y``; those of class ``start`` or ``end`` begin or end there."""
        self.add("text", escape(words), kind=kind, x=x, y=y)

    def box(self, box: Box, lines: Sequence[str] = (), kind: str = "", link: str = "") -> Box:
        """A rounded box with lines of words in its middle, the first in bold; all of it leads to ``link``."""
        before = len(self.parts)
        self.add("rect", kind=f"box {kind}".strip(), x=box.x, y=box.y, width=box.width, height=box.height, rx=5)
        middle = box.y + box.height / 2 - LINE * (len(lines) - 1) / 2
        for i, line in enumerate(lines):
            self.text(box.x + box.width / 2, middle + LINE * i, line, "" if i else "name")
        if link:
            self.parts[before:] = [f'<a href="{escape(link)}">{"".join(self.parts[before:])}</a>']
        return box

    def panel(self, box: Box, name: str = "", link: str = "") -> Box:
        """A frame around parts of the network, with a name in the upper right corner where it has one."""
        self.add("rect", kind="panel", x=box.x, y=box.y, width=box.width, height=box.height, rx=8)
        x, y = number(box.x + box.width - 10), number(box.y + 15)
        words = f'<text class="panel-name end" x="{x}" y="{y}">{escape(name)}</text>' if name else ""
        self.parts.append(f'<a href="{escape(link)}">{words}</a>' if link else words)
        return box

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        """A line through points, with a head at the last."""
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        dx, dy = HEAD * (x1 - x0) / length, HEAD * (y1 - y0) / length
        neck = x1 - dx, y1 - dy
        corners = [(x1, y1), (neck[0] - dy / 1.8, neck[1] + dx / 1.8), (neck[0] + dy / 1.8, neck[1] - dx / 1.8)]
        self.add("path", kind=f"line {kind}".strip(), d=course([*points[:-1], neck]))
        self.add("path", kind=f"head {kind}".strip(), d=course(corners) + "z")

    def view(self, inner: "Sheet", frame: Box, window: Box) -> None:
        """Show a window of another sheet in a frame of this one."""
        edges = " ".join(map(number, window))
        place = {"x": frame.x, "y": frame.y, "width": frame.width, "height": frame.height}
        self.add("svg", "".join(inner.parts), viewBox=edges, **place)

    def marks(self, points: Iterable[tuple[float, float]], stride: int, radius: float, kind: str) -> None:
        """Priors in the shape of their level, as in the book's figures: dots, squares and diamonds."""
        places = [(number(x), number(y), number(x - radius), number(y - radius)) for x, y in points]
        side, r = number(2 * radius), number(radius)
        if not places:
            return
        if stride == STRIDES[0]:
            d = "".join(f"M{left} {y}a{r} {r} 0 1 0 {side} 0a{r} {r} 0 1 0 -{side} 0" for _, y, left, _ in places)
        elif stride == STRIDES[1]:
            d = "".join(f"M{left} {top}h{side}v{side}h-{side}z" for _, _, left, top in places)
        else:
            d = "".join(f"M{x} {top}l{r} {r}l-{r} {r}l-{r} -{r}z" for x, _, _, top in places)
        self.add("path", kind=f"mark {kind}", d=d)

    def dots(self, points: Iterable[tuple[float, float]], radius: float, kind: str) -> None:
        """Round dots of one size, in one element."""
        places = "".join(f"M{number(x)} {number(y)}h0" for x, y in points)
        if places:
            self.add("path", kind=f"dots {kind}", d=places, stroke_width=2 * radius)


def number(value: float) -> str:
    """At most two digits behind the point, and none where they are zeros.

    >>> number(3.0), number(2.345), number(-0.001)
    ('3', '2.35', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def course(points: Sequence[tuple[float, float]]) -> str:
    """The ``d`` of a path through points.

    >>> course([(0, 0), (10, 2.5)])
    'M0 0L10 2.5'
    """
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def shape(sizes: Iterable[int]) -> str:
    """A tensor's sizes as figures have them.

    >>> shape([64, 20, 20])
    '64 × 20 × 20'
    """
    return " × ".join(map(str, sizes))
