"""Figures to choose a threshold by: F1 against the score, confusions, calibration, and what goes wrong."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from minirtmdet.evaluation.thresholds import Calibration, Choice, Curve
from minirtmdet.plots.canvas import BOXES, INK, MUTED, new_figure, styled

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_ROWS = 20
"""Classes that a figure names; of more, those with the most to say."""
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
        by_class: of each, by name.
        best: the threshold to mark.
    """
    title = "Precision, recall and F1 against the threshold: nothing is right"
    if best is not None:
        title = (
            f"Precision, recall and F1 against the threshold: at {best.threshold:.2f} F1 is highest, {best.f1:.3f}, "
            f"precision {best.precision:.3f} and recall {best.recall:.3f}"
        )
    figure = new_figure(title, 3.4)
    ax, of_classes = figure.subplots(1, 2, sharey=True)
    for values, label, color, style in (
        (overall.precision, "precision", BOXES[0], "--"),
        (overall.recall, "recall", BOXES[1], "-."),
        (overall.f1, "F1", INK, "-"),
    ):
        ax.step(overall.scores, values, where="pre", label=label, color=color, ls=style, lw=1.8)
    if best is not None:
        ax.axvline(best.threshold, color=MUTED, lw=0.9)
    ax.legend(loc="lower center")
    ax.set_title("all classes together")
    few = len(by_class) <= len(BOXES)
    for i, (name, curve) in enumerate(by_class.items()):
        look = {"color": BOXES[i], "lw": 1.6, "label": name} if few else {"color": MUTED, "lw": 0.7, "alpha": 0.6}
        of_classes.step(curve.scores, curve.f1, where="pre", **look)
    if few and by_class:
        of_classes.legend(loc="lower center")
    of_classes.set_title("F1 of each class")
    for axes in (ax, of_classes):
        axes.set(xlabel="threshold", xlim=(0, 1), ylim=(0, 1.02))
    return figure


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
        f"{int(result.counts.sum())} detections"
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
