"""What all figures share: a card to draw on, three palettes, images and boxes.

A figure is a light card with dark ink, so that one PNG reads on a white page and on a dark one.  It is 7 inches
wide at 200 dots per inch: twice the pixels of a 700 px column.  Pyplot is not used and the reader's own style is
neither read nor changed.
"""

import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from inspect import signature
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, SupportsInt, TypeAlias

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from minirtmdet.messages import counted
from minirtmdet.plots.fonts import drawable, families, text_width, without_lost

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Image: TypeAlias = UInt8[np.ndarray, "_ _ 3"] | UInt8[Tensor, "3 _ _"]
"""A BGR image as OpenCV reads it, or one image of a batch."""

P = ParamSpec("P")
WIDTH, DPI = 7.0, 200
MOST_BYTES = 400_000
"""A PNG that is larger gets a palette, so that a page with photographs still loads in a moment."""
INK, MUTED, CARD, FAINT = "#22252b", "#5d636e", "#faf9f6", "#dad8d2"

# Paul Tol's high-contrast, vibrant and muted schemes: told apart by colour-blind readers; levels differ in shape too
LEVELS = {8: ("#004488", "o"), 16: ("#ddaa33", "s"), 32: ("#bb5566", "D")}
OTHER_LEVEL = ("#5d636e", "^")
BOXES = ("#0077bb", "#ee7733", "#ee3377", "#009988", "#33bbee", "#cc3311")
THINGS = {"panda": BOXES[0], "car": BOXES[1], "tennis ball": BOXES[2]}
"""What the book's scene shows: in one colour in every figure, whether it is coloured by box or by class."""
LOSSES = ("#882255", "#999933")
CLASS_LOSS, BOX_LOSS = LOSSES
LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (9, 2)), (0, (4, 1, 1, 1, 1, 1)))
"""Told apart without colours."""

STYLE: dict[Any, Any] = {
    "figure.dpi": DPI,
    "figure.facecolor": CARD,
    "figure.titlesize": 10,
    "figure.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "font.size": 8.5,
    "text.color": INK,
    "axes.facecolor": CARD,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "image.cmap": "viridis",
}


def styled(draw: "Callable[P, matplotlib.figure.Figure]") -> "Callable[P, matplotlib.figure.Figure]":
    """Draw with the style of this package whatever the reader's is, and leave the reader's as it was.

    Names may be in any script: fonts that have their letters are found, and what no font has is replaced.
    """
    parameters = signature(draw)

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> "matplotlib.figure.Figure":
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            given = parameters.bind(*args, **kwargs)
            texts: list[str] = []
            for name, value in given.arguments.items():
                given.arguments[name] = _as_drawable(name, value, texts)
            matplotlib.rcParams["font.family"] = families(texts)
            figure = draw(*given.args, **given.kwargs)
            _separate_thousands(figure)
            # ticks are made when first drawn, in the style of that moment
            figure.draw_without_rendering()
        return figure

    return wrapper


def _separate_thousands(figure: "matplotlib.figure.Figure") -> None:
    """Write 20,000 on axes that reach so far: rows of zeros have to be counted."""
    from matplotlib.ticker import ScalarFormatter

    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            if isinstance(axis.get_major_formatter(), ScalarFormatter) and max(map(abs, limits)) >= 10_000:
                axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def _as_drawable(name: str, value: Any, texts: list[str]) -> Any:
    """An argument with texts that can be drawn: classes, and what a dict is by, as :func:`drawable` has them.

    Args:
        name: of the argument.
        value: any; only texts, lists of texts, and dicts by texts or of them are looked at.
        texts: what will be drawn of it is added here.
    """
    if isinstance(value, str):
        value = without_lost(value)
        texts.append(value)
    elif isinstance(value, Mapping) and _are_texts(value):
        names = drawable(list(value))
        texts += names
        value = dict(zip(names, value.values(), strict=True))
    elif isinstance(value, Mapping) and _are_texts(value.values()):
        names = drawable(list(value.values()), list(value))
        texts += names
        value = dict(zip(value, names, strict=True))
    elif isinstance(value, list | tuple) and _are_texts(value):
        value = drawable(value) if name == "classes" else [without_lost(part) for part in value]
        texts += value
    return value


def _are_texts(values: Iterable[Any]) -> bool:
    found = [isinstance(value, str) for value in values]
    return bool(found) and all(found)


@cache
def _figure_class() -> "type[matplotlib.figure.Figure]":
    from io import BytesIO

    from matplotlib.figure import Figure

    class Card(Figure):
        """A figure that a notebook shows at reading size, with or without ``%matplotlib inline``."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            png = BytesIO()
            self.savefig(png, format="png", dpi=self.dpi, facecolor=self.get_facecolor())
            content = png.getvalue()
            if len(content) > MOST_BYTES:
                content = _with_palette(content)
            return content, {"width": int(self.get_figwidth() * 100)}

    return Card


def _with_palette(png: bytes) -> bytes:
    """The same image in 256 colours of its own, a third of the bytes: photographs hardly shrink in PNG."""
    from io import BytesIO

    from PIL import Image as Pixels

    smaller = BytesIO()
    with Pixels.open(BytesIO(png)) as full:
        full.convert("RGB").quantize(256, dither=Pixels.Dither.NONE).save(smaller, "png", optimize=True)
    return smaller.getvalue()


def save(figure: "matplotlib.figure.Figure", path: Path) -> Path:
    """Write a figure to a file; the file is either the old one or the whole new one, never half of it.

    Args:
        figure: any figure.
        path: the ending (``.png``, ``.svg``, ``.pdf``) is the format; missing folders are made.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(unfinished, dpi=figure.dpi, facecolor=figure.get_facecolor())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def new_figure(title: str, height: float) -> "matplotlib.figure.Figure":
    """An empty card; the title is a sentence that can serve as the figure's alternative text."""
    title = textwrap.fill(title, 82)
    lines = title.count("\n") + 1
    figure = _figure_class()(figsize=(WIDTH, height + 0.2 * lines))
    figure.suptitle(title, x=0.012, ha="left")
    return figure


def panels(
    title: str, rows: int, columns: int, aspect: float, *, share: float = 1.0, headings: bool = True
) -> "tuple[matplotlib.figure.Figure, np.ndarray]":
    """A card with ``rows`` by ``columns`` axes for images.

    Args:
        title: sentence above all of them.
        rows: of axes.
        columns: of axes.
        aspect: height over width of each image.
        share: part of the card's width that the images take; the rest is for a legend or a colour bar.
        headings: whether each image has a heading of its own.
    """
    height = min(WIDTH * share / columns * aspect, 7.0)
    figure = new_figure(title, rows * (height + 0.22 * headings) + 0.1)
    return figure, figure.subplots(rows, columns, squeeze=False)


def sheet(title: str, count: int, columns: int, aspect: float, *, headings: bool = True) -> "tuple[Any, list[Any]]":
    """A card with ``count`` axes for images, at most ``columns`` per row and rows as equal as can be."""
    rows = -(-count // columns)
    figure, axes = panels(title, rows, -(-count // rows), aspect, headings=headings)
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[:count]:
        ax.set_anchor("N")
    return figure, list(axes.flat[:count])


def to_numpy(values: Any) -> np.ndarray:
    """Any tensor or array-like as an array; half precision, which NumPy lacks in part, as fp32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def to_rgb(image: np.ndarray | Tensor) -> UInt8[np.ndarray, "_ _ 3"]:
    """A BGR image in the order of channels that Matplotlib shows.

    Raises:
        ValueError: where the image is not uint8 with three channels.
    """
    pixels = to_numpy(image)
    if isinstance(image, Tensor) and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"image is {pixels.dtype} {tuple(image.shape)}: expected BGR as a uint8 array [H, W, 3] or tensor [3, H, W]"
        )
    return pixels[..., ::-1]


def to_grey(image: Image) -> UInt8[np.ndarray, "_ _ 3"]:
    """The image without its colours, as a background of maps that have some."""
    return np.repeat(to_rgb(image).mean(-1, keepdims=True), 3, -1).astype(np.uint8)


def image_size(image: Image) -> tuple[int, int]:
    """Height and width in pixels."""
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
    return int(height), int(width)


def show_image(axes: "matplotlib.axes.Axes", image: Image, *, opacity: float = 1.0) -> None:
    """Show an image in pixel coordinates: pixel ``i`` covers ``i`` to ``i + 1``, as in box coordinates."""
    height, width = image_size(image)
    axes.imshow(to_rgb(image), extent=(0, width, height, 0), alpha=opacity)
    bare(axes)


def bare(axes: "matplotlib.axes.Axes") -> None:
    """No ticks, frame or grid."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def box_color(index: int) -> str:
    """Colour of box or class ``index``; the palette begins again after six."""
    return BOXES[index % len(BOXES)]


def class_colors(classes: Sequence[str]) -> list[str]:
    """A colour for each class; what :data:`THINGS` has keeps its own, and the others share the colours left.

    >>> class_colors(["cat", "car", "dog"]) == [BOXES[0], BOXES[1], BOXES[2]]
    True
    """
    kept = {THINGS[name] for name in classes if name in THINGS}
    left = cycle([color for color in BOXES if color not in kept])
    return [THINGS[name] if name in THINGS else next(left) for name in classes]


def check_labels(labels: Sequence[int], classes: Sequence[str], what: str) -> None:
    """Make sure that each label is the number of a class.

    Raises:
        ValueError: naming the labels where one is not.
    """
    if len(labels) and not 0 <= min(labels) <= max(labels) < len(classes):
        names = counted(len(classes), "class name")
        raise ValueError(f"{what}: labels {min(labels)}..{max(labels)}, but only {names}")


def level_style(stride: SupportsInt) -> tuple[str, str]:
    """Colour and marker of the level with this stride."""
    return LEVELS.get(int(stride), OTHER_LEVEL)


def halo(width: float, color: str = "white") -> list[Any]:
    """An outline that keeps a line visible on any background."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width, foreground=color), Normal()]


def ink_on(color: str) -> str:
    """Black or white, whichever reads better on ``color`` (WCAG contrast ratio, at least 4.5)."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def draw_box(axes: "matplotlib.axes.Axes", box: np.ndarray, color: str, *, dashed: bool = False) -> None:
    """Outline an ``xyxy`` box; thin and dashed for what is only to compare with."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = (float(edge) for edge in box)
    effects = halo(1.9, "black" if color == "white" else "white") if dashed else halo(2.6)
    style = {"linewidth": 0.9, "linestyle": "--"} if dashed else {"linewidth": 1.6}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, path_effects=effects, **style))


def draw_masks(axes: "matplotlib.axes.Axes", masks: Iterable[np.ndarray], colors: Sequence[str]) -> None:
    """Lay a colour over the pixels of each mask, so that the image stays visible; of two, the later one is on top.

    Args:
        axes: of an image of the same size.
        masks: bool ``[H, W]``; may be made one by one.
        colors: of each.
    """
    layer = None
    for mask, color in zip(masks, colors, strict=True):
        layer = np.zeros((*mask.shape, 4), np.uint8) if layer is None else layer
        layer[mask] = [*(int(color[i : i + 2], 16) for i in (1, 3, 5)), 128]
    if layer is not None:
        axes.imshow(layer, extent=(0, layer.shape[1], layer.shape[0], 0), interpolation="nearest")


CLOSE: dict[str, Any] = {"handlelength": 3.2, "columnspacing": 1.2}
"""A legend of lines: long enough for their strokes, in columns that stand close."""


def key_columns(labels: Sequence[str], share: float = 1.0) -> int:
    """In how many columns a legend with these labels is no wider than a share of the card, one at least.

    >>> key_columns(["a", "b", "c"]), key_columns(["a name of some length"] * 9), key_columns(["x" * 200])
    (3, 3, 1)
    """
    widest = max(map(text_width, labels), default=0.0)
    # beside a label: its line, and the space around both
    return int(np.clip(72 * share * WIDTH // (widest + 42), 1, max(len(labels), 1)))


def points_per_pixel(axes: "matplotlib.axes.Axes") -> float:
    """Typographic points that one pixel of the shown image takes, once the figure has been laid out."""
    (left, _), (right, _) = axes.transData.transform([(0, 0), (1, 0)])
    return float(right - left) * 72 / DPI
