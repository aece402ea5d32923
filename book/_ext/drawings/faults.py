"""What the logs of broken runs say, and what the runs find: means and ranges over the runs of the record."""

import json
from math import log10
from pathlib import Path
from statistics import mean
from typing import Any

from drawings.svg import Place, Sheet

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "debugging.json"
NO_FAULTS = ("healthy", "average with its ramp", "gradients kept")
"""Runs of the record that are no faults of the chapter's table: the last one is an exercise."""
BOXES = 11
LEFT, RIGHT, TOP, BOTTOM = 34, 346, 44, 180


def runs() -> list[dict[str, dict[str, float]]]:
    """What ``benchmarks/labs.py`` measured: of each run, numbers by the name of the fault."""
    return [run["measured"] for run in json.loads(RECORD.read_text(encoding="utf-8"))["runs"]]


def draw(place: Place) -> list[Sheet]:
    """Two numbers of the log, each against what is found."""
    loss = ("class loss, last ten steps", "loss_cls", lambda value: (log10(value) + 2.2) / 4, (0.01, 0.1, 1, 10))
    iou = ("IoU of the positives, last ten steps", "iou", lambda value: value, (0, 0.25, 0.5, 0.75, 1))
    return [panel(*one) for one in (loss, iou)]


def panel(title: str, column: str, share: Any, ticks: tuple[float, ...]) -> Sheet:
    """A mark per fault, with the range of its runs, and a ring where nothing is broken."""
    sheet, measured = Sheet(360, 214), runs()
    sheet.text(LEFT, 10, title, "title start")
    sheet.add("path", kind="line", d=f"M{LEFT} {TOP - 6}V{BOTTOM + 6}H{RIGHT}")
    for found in (0, BOXES):
        sheet.text(LEFT - 6, height(found), str(found), "small end")
    for tick in ticks:
        sheet.text(LEFT + (RIGHT - LEFT) * share(tick), BOTTOM + 18, f"{tick:g}", "small")
    sheet.text(LEFT + 6, TOP - 12, f"boxes found, of {BOXES}", "small start")
    points = []
    for fault in [name for name in measured[0] if name not in NO_FAULTS]:
        found = [run[fault]["found"] for run in measured]
        x = LEFT + (RIGHT - LEFT) * share(mean(run[fault][column] for run in measured))
        sheet.add("path", kind="line", d=f"M{x:.1f} {height(min(found)):.1f}V{height(max(found)):.1f}")
        points.append((x, height(mean(found))))
    sheet.dots(points, 4, "muted")
    healthy = [run["healthy"] for run in measured]
    x = LEFT + (RIGHT - LEFT) * share(mean(run[column] for run in healthy))
    y = height(mean(run["found"] for run in healthy))
    sheet.dots([(x, y)], 4, "car")
    sheet.add("circle", kind="ring", cx=x, cy=y, r=8)
    sheet.add("path", kind="line dashed", d=f"M{x:.1f} {y + 8:.1f}V{BOTTOM + 6}")
    return sheet


def height(found: float) -> float:
    """Where a number of boxes lies."""
    return BOTTOM - (BOTTOM - TOP) * found / BOXES
