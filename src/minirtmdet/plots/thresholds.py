"""Figures to choose a threshold by: F1 against the score, confusions, calibration, and what goes wrong."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from minirtmdet.evaluation.thresholds import Calibration, Choice, Curve
from minirtmdet.messages import counted
from minirtmdet.plots.canvas import BOXES, CLOSE, INK, LINE_STYLES, MUTED, class_colors, key_columns, new_figure, styled

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_ROWS = 20
"""Classes that a figure names; of more, those with the most to say."""
# of Paul Tol's muted scheme: no class has one of these
PRECISION, RECALL = "#117733", "#aa4499"
KINDS = {
    "class": "of another class",
    "location": "badly placed",
    "both": "both",
    "duplicate": "found before",
    "background": "on background",
    "missed": "missed",
}


@styled
def threshold_curves(
    overall: Curve, by_class: Mapping[str, Curve], best: Choice | None = None
) -> "matplotlib.figure.Figure":
    """Precision, recall and F1 of all classes together against the threshold, and the F1 of each class.

    Args:
        overall: of all classes together.
        by_class: of each, by name; up to six have a colour and a line style each, more are thin and grey.
        best: the threshold to mark; where it is the lowest of all, curves go on to it.
    """
    title = "Precision, recall and F1 against the threshold: nothing is right"
    if best is not None:
        title = (
            f"Precision, recall and F1 against the threshold: at {best.threshold:.2f} F1 is highest, {best.f1:.3f}, "
            f"precision {best.precision:.3f} and recall {best.recall:.3f}"
        )
    lowest = min([*overall.scores[-1:], *([] if best is None else [best.threshold])], default=0.0)
    figure = new_figure(title, 3.6)
    ax, of_classes = figure.subplots(1, 2, sharey=True)
    for values, label, color, style in (
        (overall.precision, "precision", PRECISION, "--"),
        (overall.recall, "recall", RECALL, "-."),
    ):
        _draw_steps(ax, overall, values, lowest, label=label, color=color, ls=style, lw=1.8)
    for axes in (ax, of_classes):
        label = "F1" if axes is ax else "all together"
        _draw_steps(axes, overall, overall.f1, lowest, label=label, color=INK, lw=1.8 if axes is ax else 2.6)
    few = len(by_class) <= len(LINE_STYLES)
    # the total's line is solid: a class has that only where all else is taken
    looks = zip(class_colors(list(by_class)), cycle((*LINE_STYLES[1:], LINE_STYLES[0])), strict=False)
    for (name, curve), (color, style) in zip(by_class.items(), looks, strict=True):
        look: dict[str, Any] = {"color": color, "ls": style, "lw": 1.6, "label": name}
        _draw_steps(of_classes, curve, curve.f1, lowest, **(look if few else {"color": MUTED, "lw": 0.7, "alpha": 0.6}))
    for axes, heading in ((ax, "all classes together"), (of_classes, "F1 of each class")):
        axes.set(title=heading, xlabel="threshold", xlim=(0, 1), ylim=(0, 1.02))
        if best is not None:
            axes.axvline(best.threshold, color=MUTED, lw=0.9)
        handles, labels = axes.get_legend_handles_labels()
        # below its panel, where no curve can lie
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), **CLOSE}
        axes.legend(handles, labels, ncols=key_columns(labels, 0.45), **place)
    return figure


def _draw_steps(ax: "matplotlib.axes.Axes", curve: Curve, values: np.ndarray, lowest: float, **look: Any) -> None:
    """A course against the threshold: what an entry says holds from its score down to the next entry's.

    Args:
        ax: to draw on.
        curve: where the scores are from.
        values: of each score.
        lowest: what the last entry holds down to; nothing scores less.
        look: colour, style and label of the line.
    """
    scores = np.append(curve.scores, min(curve.scores[-1], lowest) if len(curve.scores) else [])
    ax.step(scores, np.append(values, values[-1:]), where="post", **look)


@styled
def confusions(matrix: Int[np.ndarray, "true predicted"], classes: Sequence[str]) -> "matplotlib.figure.Figure":
    """What each class was taken for, as shares of its boxes; the last row and column are the background.

    Args:
        matrix: from :func:`~minirtmdet.evaluation.thresholds.confusion_matrix`.
        classes: names in label order.

    Of more than twenty classes, those with the most errors are shown.

    Raises:
        ValueError: where the number of names is not that of the classes.
    """
    if len(matrix) != len(classes) + 1:
        raise ValueError(f"confusions of {len(matrix) - 1} classes, but {len(classes)} names")
    wrong = matrix.sum(1) + matrix.sum(0) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-wrong[:-1], kind="stable")[:MOST_ROWS])
    rows = np.append(shown, len(classes))
    names = [*(classes[i] for i in shown), "background"]
    found, boxes = int(np.trace(matrix[:-1, :-1])), int(matrix[:-1].sum())
    title = f"What each class was taken for: {found} of {boxes} boxes found, {int(matrix[-1].sum())} false detections"
    left_out = len(classes) - len(shown)
    title += f"; {left_out} classes with fewer errors are left out" if left_out else ""
    part = matrix[np.ix_(rows, rows)]
    shares = part / np.maximum(matrix.sum(1), 1)[rows, None]
    figure = new_figure(title, 1.2 + 0.28 * len(rows))
    ax = figure.subplots()
    ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.grid(False)
    ax.set_xticks(range(len(rows)), names, rotation=90 if len(rows) > 6 else 0)
    ax.set_yticks(range(len(rows)), names)
    ax.set(xlabel="predicted", ylabel="true")
    for y, x in np.argwhere(part):
        ax.text(x, y, str(part[y, x]), ha="center", va="center", size=7, color="white" if shares[y, x] > 0.5 else INK)
    return figure


@styled
def reliability(result: Calibration) -> "matplotlib.figure.Figure":
    """How often detections of a score are right; on the diagonal a score is the chance of being right."""
    title = (
        f"Scores and how often they are right: {result.error:.3f} apart on average (expected calibration error) over "
        f"{counted(int(result.counts.sum()), 'detection')}"
    )
    figure = new_figure(title, 3.2)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width, left, filled = np.diff(result.edges), result.edges[:-1], result.counts > 0
    ax.bar(left[filled], result.right[filled], width[filled], align="edge", color=BOXES[0], alpha=0.5, ec=BOXES[0])
    ax.plot(result.scores[filled], result.right[filled], "o", color=BOXES[0], label="share that is right")
    ax.plot([0, 1], [0, 1], ls="--", color=MUTED, lw=0.9, label="as often as the score says")
    ax.set(ylabel="right", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(loc="upper left")
    below.bar(left, result.counts, width, align="edge", color=MUTED)
    below.set(ylabel="detections", xlabel="score")
    return figure


@styled
def mistake_counts(
    counts: Mapping[str, Int[np.ndarray, " classes"]], classes: Sequence[str]
) -> "matplotlib.figure.Figure":
    """Mistakes by class and kind.

    Args:
        counts: from :func:`~minirtmdet.evaluation.thresholds.count_mistakes`.
        classes: names in label order; of more than twenty those with the most mistakes are shown.
    """
    sums = {kind: int(values.sum()) for kind, values in counts.items()}
    title = "Mistakes: " + ", ".join(f"{number} {KINDS[kind]}" for kind, number in sums.items())
    total = sum(counts.values(), np.zeros(len(classes), dtype=np.int64))
    shown = np.argsort(-total, kind="stable")[:MOST_ROWS]
    figure = new_figure(title, 1.1 + 0.22 * len(shown))
    ax = figure.subplots()
    start = np.zeros(len(shown))
    for color, (kind, values) in zip(BOXES, counts.items(), strict=True):
        ax.barh(range(len(shown)), values[shown], left=start, color=color, label=KINDS[kind])
        start += values[shown]
    ax.set_yticks(range(len(shown)), [classes[i] for i in shown])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("mistakes")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
