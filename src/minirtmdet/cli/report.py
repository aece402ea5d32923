"""What ``minirtmdet data check`` writes: the report as text, and as a page with figures."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from minirtmdet import plots
from minirtmdet.data.inspect import (
    COLUMNS,
    PartReport,
    SetReport,
    describe_part,
    describe_set,
    describe_whole,
    table_rows,
)
from minirtmdet.files import atomic_path

SHOWN = 12
"""Images of a part that the page shows."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #22252b; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #dad8d2; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
.problem { border-left: 4px solid #cc3311; padding-left: 0.8rem; }
pre { white-space: pre-wrap; }
"""


def write_report(report: SetReport, out: Path) -> None:
    """Write report.txt and report.html with the figures that it shows."""
    out.mkdir(parents=True, exist_ok=True)
    sections = [_section(part, report.input_size, out) for part in report.parts]
    whole = "\n".join(describe_whole(report))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Data report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head><body>\n<h1>Data report</h1>\n"
        f"<p>Sides are square roots of areas, in pixels of an input of {report.input_size} px.</p>\n"
        f"<pre>{escape(whole)}</pre>\n{''.join(sections)}</body></html>\n"
    )
    for name, text in (("report.txt", describe_set(report) + "\n"), ("report.html", page)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _section(part: PartReport, input_size: int, out: Path) -> str:
    lines = [f"<h2>{escape(part.name)}</h2>", f"<p>{escape(describe_part(part))}</p>"]
    lines += [f'<p class="problem">{escape(problem)}</p>' for problem in part.problems]
    if part.dataset is not None:
        lines.append(_table([COLUMNS, *table_rows(part)]))
        for name, alt in _figures(part, input_size, out):
            lines.append(f'<p><img src="{escape(name)}" alt="{escape(alt)}"></p>')
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *body = rows
    cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _figures(part: PartReport, input_size: int, out: Path) -> list[tuple[str, str]]:
    """Draw sizes and some images; returns the names of their files, and what they show."""
    dataset, found = part.dataset, []
    assert dataset is not None
    sides = {entry.name: np.stack([entry.sides, entry.sides], -1) for entry in part.classes if entry.boxes}
    if sides:
        found.append((f"sizes-{part.name}.png", "Box sizes of each class beside the strides of the levels."))
        plots.save(plots.box_sizes(sides, input_size), out / found[-1][0])
    places = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    samples = []
    for index in dict.fromkeys(places.tolist()):
        try:
            samples.append(dataset.load(index))
        except (OSError, ValueError):
            continue  # the report names what cannot be decoded where it was asked to look
    if samples:
        found.append((f"images-{part.name}.png", "Some images with their labels."))
        names = [sample.path.name for sample in samples]
        plots.save(plots.contact_sheet(samples, dataset.classes, names=names), out / found[-1][0])
    return found
