"""The numbers of an evaluation as text."""

from collections.abc import Mapping

from minirtmdet.evaluation.coco import METRICS, OF_MASKS


def metrics_table(metrics: Mapping[str, float], by_class: Mapping[str, Mapping[str, float]]) -> str:
    """The twelve numbers with what they say, and those of each class, best first, to print.

    >>> print(metrics_table(dict.fromkeys(METRICS, 0.5) | {"APl": -1.0}, {"cat": {"AP": 0.25}, "a dog": {"AP": 0.75}}))
    AP     0.500  mean over IoU .50 to .95
    AP50   0.500  at IoU .50
    AP75   0.500  at IoU .75
    APs    0.500  of boxes below 32 x 32 pixels
    APm    0.500  of boxes between
    APl        -  of boxes from 96 x 96 pixels
    AR1    0.500  recall with 1 detection per image and class
    AR10   0.500  with 10
    AR100  0.500  with 100
    ARs    0.500  of boxes below 32 x 32 pixels
    ARm    0.500  of boxes between
    ARl    0.500  of boxes from 96 x 96 pixels
    <BLANKLINE>
    class     AP
    a dog  0.750
    cat    0.250
    """
    masks = f"{OF_MASKS}AP" in metrics
    rows = [f"{'':<5} {'boxes':>6} {'masks':>6}"] if masks else []
    for name, meaning in METRICS.items():
        beside = f" {_shown(metrics[OF_MASKS + name])}" if masks else ""
        what = meaning.replace("boxes", "objects") if masks else meaning
        rows.append(f"{name:<5} {_shown(metrics[name])}{beside}  {what}")
    if metrics["AP"] < 0:
        rows.append("no numbers: in these images no box is annotated that counts")
    width = max(map(len, ["class", *by_class]))
    columns = list(next(iter(by_class.values()), {}))
    if masks:  # as many as a line holds
        columns = [name for name in ("AP", "mask_AP", "AP50", "mask_AP50", "AP75", "mask_AP75") if name in columns]
    rows += ["", " ".join([f"{'class':<{width}}", *(f"{column:>6}" for column in columns)])]
    for name, numbers in sorted(by_class.items(), key=lambda item: -item[1]["AP"]):
        shown = (f"{_shown(numbers[column]):>{len(column)}}" for column in columns)
        rows.append(" ".join([f"{name:<{width}}", *shown]))
    return "\n".join(rows)


def _shown(value: float) -> str:
    return f"{'-' if value < 0 else f'{value:.3f}':>6}"
