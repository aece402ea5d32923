"""Figures of an evaluation: precision against recall, and the images that went worst."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from minirtmdet.evaluation.matching import Match
from minirtmdet.messages import counted
from minirtmdet.plots.canvas import (
    BOXES,
    CLOSE,
    INK,
    LINE_STYLES,
    MUTED,
    Image,
    box_color,
    draw_box,
    image_size,
    key_columns,
    new_figure,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.images import draw_found_masks
from minirtmdet.plots.labels import draw_labels

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

HIT, FALSE, MISSED = BOXES[3], BOXES[1], BOXES[2]
MOST_LABELS = 12
MOST_LETTERS = 30


@styled
def precision_recall(
    curves: Mapping[str, Float[np.ndarray, " recalls"]], *, seen: str = "", title: str = ""
) -> "matplotlib.figure.Figure":
    """Precision against recall, with the area below each curve, which is its AP.

    Args:
        curves: by name, the precision at evenly spaced recalls from 0 to 1, as COCO evaluation gives it at 101;
            -1 where there is nothing to find.
        seen: what all of them are of, as "panda, at IoU .50": the class and the IoU.
        title: of the figure; left out, it has the mean AP, which says something where the curves are classes.

    Up to six curves have a colour and a line style of their own; of more, each is thin and grey below their mean.
    """
    found, missing = _split(curves)
    mean = float(np.mean([curve.mean() for curve in found.values()])) if found else math.nan
    measured = f"Precision against recall: {'mean ' * (len(found) > 1)}AP {mean:.3f}" if found else "No curve to draw"
    title = title or measured
    title += f"; nothing to find for {', '.join(missing[:5])}" if missing else ""
    figure = new_figure(title, 3.4)
    ax = figure.subplots()
    _draw_curves(ax, found, with_mean=len(found) > len(BOXES))
    ax.set_title(seen)
    if found:
        ax.legend(title="AP", title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def precision_recall_by_iou(
    precision: Float[np.ndarray, "ious recalls classes"], classes: Sequence[str]
) -> "matplotlib.figure.Figure":
    """Precision against recall of each class and their mean: at the loosest overlap, and on average over all.

    Args:
        precision: of an evaluation, at IoU .50, .55, ... .95 and evenly spaced recalls; -1 for a class without boxes.
        classes: their names.

    The distance between the two is what is lost by boxes that are found but do not fit.

    Raises:
        ValueError: where the number of names is not the number of classes.
    """
    if precision.shape[2] != len(classes):
        raise ValueError(f"precision of {precision.shape[2]} classes, but {len(classes)} names")
    panels = {"at IoU .50": precision[0], "mean over IoU .50 to .95": precision.mean(0)}
    curves = {title: _split(dict(zip(classes, values.T, strict=True))) for title, values in panels.items()}
    found, missing = curves["at IoU .50"]
    means = [float(np.mean(list(of.values()))) if of else math.nan for of, _ in curves.values()]
    title = "Precision against recall: no box to find"
    if found:
        over = counted(len(found), "class", "classes")
        title = f"Precision against recall: AP50 {means[0]:.3f}, AP {means[1]:.3f} over {over}"
        title += f"; nothing to find for {', '.join(missing[:5])}" if missing else ""
    figure = new_figure(title, 3.4)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (heading, (of_class, _)) in zip(axes, curves.items(), strict=True):
        _draw_curves(ax, of_class, with_mean=len(of_class) > 1)
        ax.set_title(heading)
    axes[1].set_ylabel("")
    # one legend for both: a line is the same class left and right
    lines = [[line for line in ax.lines if not line.get_label().startswith("_")] for ax in axes]
    labels = [f"{a.get_label()} / {b.get_label().rpartition(' ')[2]}" for a, b in zip(*lines, strict=True)]
    if labels:
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": key_columns(labels)}
        figure.legend(lines[0], labels, title="AP50 / AP", title_fontsize=8, **CLOSE, **place)
    return figure


@styled
def worst_images(
    images: Sequence[Image],
    matches: Sequence[Match],
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    *,
    columns: int = 3,
) -> "matplotlib.figure.Figure":
    """A sheet of images with what was found, what was found wrongly, and what was missed.

    Args:
        images: the images, in the order to show them in.
        matches: of each image, in its pixels.
        classes: name of each label.
        names: what to write below each image, such as its file; nothing where left out.
        columns: images per row.

    Where detections have masks, their pixels have the colour of their boxes.  A true box that was found is thin, dashed
    and white.  The first twelve boxes of an image are named as far as there is room, those that were missed before
    those that are false.

    Raises:
        ValueError: where there is no image, or the numbers differ.
    """
    names = [""] * len(images) if names is None else names
    if not len(images) or not len(images) == len(matches) == len(names):
        raise ValueError(
            f"{len(images)} images with {len(matches)} matches and {len(names)} names: give one of each an image, "
            "at least one"
        )
    missed, false = sum(match.missed for match in matches), sum(match.false for match in matches)
    title = f"{counted(missed, 'box', 'boxes')} missed, {counted(false, 'false detection')}"
    aspect = float(np.median([height / width for height, width in map(image_size, images)]))
    figure, axes = sheet(title, len(images), columns, aspect)
    for ax, image, match, name in zip(axes, images, matches, names, strict=True):
        show_image(ax, image)
        ax.set_title(f"F1 {match.f1:.2f}: {match.missed} missed, {match.false} false")
        ax.set_xlabel(_shorten(name), color=MUTED, size=8, parse_math=False)
    figure.legend(handles=_key(), loc="outside lower center", ncols=4)
    figure.draw_without_rendering()
    for ax, match in zip(axes, matches, strict=True):
        _draw_match(ax, match, classes)
    return figure


def _draw_match(ax: "matplotlib.axes.Axes", match: Match, classes: Sequence[str]) -> None:
    """The boxes of one image, the most telling on top."""
    boxes, labels, found = (to_numpy(field) for field in (match.boxes, match.labels, match.found))
    rows = [(box, MISSED, classes[label]) for box, label in zip(boxes[~found], labels[~found], strict=True)]
    hit = to_numpy(match.hit)
    draw_found_masks(ax, match.detections, [HIT if right else FALSE for right in hit.tolist()])
    for right, color in ((False, FALSE), (True, HIT)):
        chosen = (to_numpy(field)[hit == right] for field in match.detections)
        rows += [(box, color, f"{classes[label]} {score:.2f}") for box, score, label in zip(*chosen, strict=True)]
    for box, color, _ in rows[::-1]:
        draw_box(ax, box, color)
    for box in boxes[found]:
        draw_box(ax, box, "white", dashed=True)
    if rows:
        draw_labels(ax, *zip(*((box, text, color) for box, color, text in rows[:MOST_LABELS]), strict=True))


def _key() -> list[Any]:
    """What the colours of :func:`worst_images` mean."""
    from matplotlib.lines import Line2D

    solid = {"found": HIT, "false": FALSE, "missed": MISSED}
    lines = [Line2D([], [], color=color, lw=2, label=label) for label, color in solid.items()]
    return [*lines, Line2D([], [], color=MUTED, lw=0.9, ls="--", label="true box of what was found")]


def _split(
    curves: Mapping[str, Float[np.ndarray, " recalls"]],
) -> tuple[dict[str, Float[np.ndarray, " recalls"]], list[str]]:
    """Curves of what can be found, and the names of the others."""
    found = {name: np.asarray(curve) for name, curve in curves.items() if (np.asarray(curve) >= 0).all()}
    return found, [name for name in curves if name not in found]


def _draw_curves(
    ax: "matplotlib.axes.Axes", curves: Mapping[str, Float[np.ndarray, " recalls"]], *, with_mean: bool
) -> None:
    """Each curve with its area in its label; more than there are colours are grey and have no label."""
    few = len(curves) <= len(BOXES)
    for i, (name, curve) in enumerate(curves.items()):
        recall = np.linspace(0, 1, len(curve))
        if few:
            ax.plot(recall, curve, color=box_color(i), ls=LINE_STYLES[i], lw=1.8, label=f"{name}: {curve.mean():.3f}")
        else:
            ax.plot(recall, curve, color=MUTED, lw=0.7, alpha=0.5)
    if with_mean:
        average = np.mean(list(curves.values()), axis=0)
        label = f"mean: {average.mean():.3f}"
        ax.plot(np.linspace(0, 1, len(average)), average, color=INK, lw=2.2, label=label)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _shorten(name: str) -> str:
    """Both ends of a name that is too long to stand below an image.

    >>> _shorten("a" * 30 + "b" * 30)
    'aaaaaaaaaaaaaaa…bbbbbbbbbbbbbb'
    """
    half = MOST_LETTERS // 2
    return name if len(name) <= MOST_LETTERS else f"{name[:half]}…{name[len(name) - half + 1 :]}"
