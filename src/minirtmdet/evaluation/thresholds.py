"""Which score to keep detections from: precision, recall and F1 at every threshold, confusions, and calibration.

A detection is right where :func:`~minirtmdet.evaluation.matching.match_detections` says so.  The best is matched first,
so that what is right at one threshold is right at any other that keeps it, and one match of everything tells all.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.evaluation.matching import Match, mistakes

METRICS_FILE = "metrics.json"
"""Numbers and thresholds of an evaluation, in its folder."""
LEAST = 0.05
"""Score from which detections count for calibration: the many below are background that nobody will look at."""


class Curve(NamedTuple):
    """What happens as the threshold falls: one entry for each distinct score, highest first.

    Attributes:
        scores: at entry ``i``, detections that score at least ``scores[i]`` are kept.
        precision: share of those kept that are right.
        recall: share of the true boxes that they find; 0 where there is none.
        f1: harmonic mean of both.
        boxes: number of true boxes.
    """

    scores: Float[np.ndarray, " n"]
    precision: Float[np.ndarray, " n"]
    recall: Float[np.ndarray, " n"]
    f1: Float[np.ndarray, " n"]
    boxes: int


class Choice(NamedTuple):
    """A threshold, and what it gives.

    Attributes:
        threshold: detections that score more are kept.
        precision: share of those kept that are right; 1 where none is kept.
        recall: share of the true boxes that they find.
        f1: harmonic mean of both.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


class Calibration(NamedTuple):
    """How far scores are probabilities of being right.

    Attributes:
        edges: of the bins, lowest first.
        counts: detections in each.
        scores: their mean score; 0 in an empty bin.
        right: share of them that found a box; 0 in an empty bin.
        error: expected calibration error, the mean distance of ``scores`` and ``right``, weighed by ``counts``.
    """

    edges: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " bins"]
    scores: Float[np.ndarray, " bins"]
    right: Float[np.ndarray, " bins"]
    error: float


def threshold_curve(matches: Sequence[Match], label: int | None = None) -> Curve:
    """Precision, recall and F1 against the score.

    Args:
        matches: of all images, made with a threshold that keeps everything.
        label: of one class; all classes together, each detection and box counted once, where left out.
    """
    scores, hits = _scores_and_hits(matches, label)
    boxes = sum(int((match.labels == label).sum()) if label is not None else len(match.labels) for match in matches)
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(hits[order])
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores come and go together
    found, kept = found[last].astype(float), last + 1.0
    return Curve(
        scores=scores[last],
        precision=found / kept,
        recall=found / max(boxes, 1),
        f1=2 * found / (kept + boxes),
        boxes=boxes,
    )


def best_choice(curve: Curve, least: float = 0.0) -> Choice | None:
    """The threshold of the largest F1, of several the highest; None where nothing is right.

    It lies midway between the last score that is kept and the next, so that rounding changes nothing.

    Args:
        curve: of one class or of all.
        least: what the detections of the curve score more than.
    """
    if not len(curve.f1) or not curve.f1.max() > 0:
        return None
    i = int(curve.f1.argmax())
    lower = curve.scores[i + 1] if i + 1 < len(curve.scores) else least
    return Choice(
        float(curve.scores[i] + lower) / 2, float(curve.precision[i]), float(curve.recall[i]), float(curve.f1[i])
    )


def choice_at(curve: Curve, threshold: float) -> Choice:
    """What a given threshold gives."""
    kept = int((curve.scores > np.float32(threshold)).sum())  # as detections are compared, in single precision
    if not kept:
        return Choice(threshold, 1.0, 0.0, 0.0)
    i = kept - 1
    return Choice(threshold, float(curve.precision[i]), float(curve.recall[i]), float(curve.f1[i]))


def confusion_matrix(matches: Sequence[Match], num_classes: int) -> Int[np.ndarray, "true predicted"]:
    """How often each class was taken for each other; the last row and column are the background.

    Each true box counts once in its row: under its own class where it was found, else under the class of the best
    detection that fits it (IoU of the match) and no box that was counted before, else under background.  Each
    detection counts once in its column: one that counts for no box, in the row of the background.

    Args:
        matches: of all images, at the threshold.
        num_classes: without the background.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for match in matches:
        predicted, true = match.detections.labels.numpy(), match.labels.numpy()
        open_boxes = ~match.found.numpy()
        np.add.at(matrix, (true[~open_boxes], true[~open_boxes]), 1)
        wrong = {one.detection: one.box for one in mistakes(match) if one.kind == "class"}
        for row in np.flatnonzero(~match.hit.numpy()):
            box = wrong.get(int(row), -1)
            taken = box >= 0 and open_boxes[box]
            if taken:
                open_boxes[box] = False
            matrix[true[box] if taken else num_classes, predicted[row]] += 1
        np.add.at(matrix, (true[open_boxes], num_classes), 1)
    return matrix


def count_mistakes(matches: Sequence[Match], num_classes: int) -> dict[str, Int[np.ndarray, " classes"]]:
    """Mistakes of each kind by class: false detections by what they say they are, ``missed`` boxes by what they are.

    Args:
        matches: of all images, at the threshold.
        num_classes: without the background.
    """
    kinds = ("class", "location", "both", "duplicate", "background", "missed")
    counts = {kind: np.zeros(num_classes, dtype=np.int64) for kind in kinds}
    for match in matches:
        for one in mistakes(match):
            counts[one.kind][int(match.detections.labels[one.detection])] += 1
        np.add.at(counts["missed"], match.labels[~match.found].numpy(), 1)
    return counts


def calibration(matches: Sequence[Match], bins: int = 10, least: float = LEAST) -> Calibration:
    """How often detections of a score are right, in bins of equal width from 0 to 1.

    RTMDet's scores are trained to be the IoU with the box, not the chance of one: expect them below it.

    Args:
        matches: of all images, made with a threshold that keeps everything from ``least`` on.
        bins: how many.
        least: detections that score less do not count.
    """
    scores, hits = _scores_and_hits(matches, None)
    scores, hits = scores[scores >= least], hits[scores >= least]
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    sums, right = (np.bincount(bin_of, values, bins) for values in (scores, hits.astype(float)))
    filled = np.maximum(counts, 1)
    means, shares = sums / filled, right / filled
    error = float((counts * np.abs(means - shares)).sum() / max(counts.sum(), 1))
    return Calibration(np.linspace(0, 1, bins + 1), counts, means, shares, error)


def choices(
    everything: Sequence[Match], classes: Sequence[str], least: float = 0.0
) -> tuple[Choice | None, dict[str, Choice | None]]:
    """The best threshold of all classes together, and that of each by name; None where nothing is right.

    Args:
        everything: matches of all images that keep every detection.
        classes: names in label order.
        least: what the detections score more than.
    """
    by_class = {name: best_choice(threshold_curve(everything, label), least) for label, name in enumerate(classes)}
    return best_choice(threshold_curve(everything), least), by_class


def of_tiles(name: str) -> str:
    """How a file of an evaluation in tiles is called, so that both lie in one folder.

    >>> of_tiles("metrics.json")
    'metrics-tiles.json'
    """
    return str(Path(name).with_stem(f"{Path(name).stem}-tiles"))


def find_choices(path: Path, *, tiled: bool = False) -> Path:
    """The file with the thresholds of an evaluation, of which the folder or the file is named.

    Args:
        path: the one or the other.
        tiled: of a folder take the evaluation in tiles, where there is one.
    """
    in_tiles = path / of_tiles(METRICS_FILE)
    if tiled and in_tiles.is_file():
        return in_tiles
    return path if path.is_file() or path.suffix == ".json" else path / METRICS_FILE


def read_choices(path: Path, classes: Sequence[str]) -> tuple[float, list[float]]:
    """The best thresholds that an evaluation wrote: of all classes together, and of each in label order.

    A class of which nothing was right gets that of all together.

    Args:
        path: the evaluation's folder, or its ``metrics.json``.
        classes: of the detector that is to use them.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that an evaluation did not write, one of other classes, or one where nothing was right.
    """
    file = find_choices(path)
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: `minirtmdet eval ... --out {file.parent}` writes it")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        best, of_classes = content["best_threshold"], content["best_threshold_per_class"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{file} says nothing of thresholds: `minirtmdet eval ... --out` of this version does"
        ) from None
    if list(of_classes) != list(classes):
        raise ValueError(f"{file} is of the classes {', '.join(of_classes)}, the detector's are {', '.join(classes)}")
    if best is None:
        raise ValueError(f"{file}: no detection was right, so no threshold is best")
    return best["threshold"], [(choice or best)["threshold"] for choice in of_classes.values()]


def _scores_and_hits(
    matches: Sequence[Match], label: int | None
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Of every detection that counts, in double precision."""

    def chosen(match: Match, values: Tensor) -> Tensor:
        return values if label is None else values[match.detections.labels == label]

    scores = [chosen(match, match.detections.scores).double() for match in matches]
    hits = [chosen(match, match.hit) for match in matches]
    if not scores:
        return np.zeros(0), np.zeros(0, dtype=np.bool_)
    return torch.cat(scores).numpy(), torch.cat(hits).numpy()
