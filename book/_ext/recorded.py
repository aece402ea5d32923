"""Directives that show what was recorded, so that no number is typed by hand.

- ``{erratum} name``: a function of ``tests/parity/record_errata.py`` and what MMDetection answered to it;
- ``{parity-table}``: the table that ``make parity`` kept, and ``{parity-run}``, how it was made;
- ``{data-pipeline-table}``: what ``benchmarks/data_pipeline.py`` kept, as ratios.
"""

import ast
import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
ERRATA = ROOT / "tests" / "parity" / "record_errata.py"
ANSWERS = ROOT / "tests" / "parity" / "fixtures" / "errata.json"
PARITY = ROOT / "benchmarks" / "results" / "parity.json"
DATA_PIPELINE = PARITY.with_name("data_pipeline.json")


@cache
def functions() -> dict[str, str]:
    """The source of every function that records an erratum."""
    source = ERRATA.read_text(encoding="utf-8")
    return {
        node.name: ast.get_source_segment(source, node) or ""
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def read(path: Path, how: str = "make parity ARGS='--json {}'") -> dict[str, Any]:
    """A record, or an error that says how to make it."""
    if not path.is_file():
        name = path.relative_to(ROOT)
        raise ExtensionError(f"{name} is missing: {how.format(name)}")
    return json.loads(path.read_text(encoding="utf-8"))


class Recorded(SphinxDirective):
    """Parses the Markdown that a subclass writes."""

    def markdown(self) -> str:
        """The text to show."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Its nodes."""
        parent = nodes.container()
        self.state.nested_parse(StringList(self.markdown().splitlines()), self.content_offset, parent)
        return parent.children


class Erratum(Recorded):
    """Code and answer, folded away until they are asked for."""

    required_arguments = 1

    def markdown(self) -> str:
        """A dropdown with two blocks."""
        name = self.arguments[0]
        self.env.note_dependency(str(ERRATA))
        self.env.note_dependency(str(ANSWERS))
        record = read(ANSWERS)
        if name not in record["answers"] or name not in functions():
            raise self.error(f"{ERRATA.name} and {ANSWERS.name} have no {name}")
        body = inspect.cleandoc("\n" + functions()[name].split("\n", 1)[1])
        answer = "\n".join(f"{key}: {said(value)}" for key, value in record["answers"][name].items())
        title = f"Run in MMDetection {record['versions']['mmdet']}"
        return f"::::{{dropdown}} {title}\n\n```python\n{body}\n```\n\n```text\n{answer}\n```\n::::\n"


def said(value: Any) -> str:
    """A number, a list or a dict of them, in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {said(part)}" for key, part in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(said, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class ParityTable(Recorded):
    """The table, one line a kind of case."""

    def markdown(self) -> str:
        """A table in Markdown."""
        self.env.note_dependency(str(PARITY))
        lines = [
            "| | cases | numbers in each lane | largest difference, racing lane | reading lane | tolerance | ties "
            "| wide |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        rows = read(PARITY)["rows"]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            lanes = {row["lane"]: row for row in rows if row["kind"] == kind}
            row = next(iter(lanes.values()))
            ties, wide = (sum(lane[name] for lane in lanes.values()) for name in ("ties", "wide"))
            lines.append(
                f"| {row['what']} | {row['cases']} | {row['numbers']:,} | {outcome(lanes.get('racing'))} "
                f"| {outcome(lanes.get('reading'))} | {power(row['tolerance'])} | {ties} | {wide} |"
            )
        return ":::{div} parity-table\n" + "\n".join(lines) + "\n:::"


def outcome(row: dict[str, Any] | None) -> str:
    """The largest difference, the number of cases that failed, or nothing where a lane has no such step."""
    if row is None:
        return ""
    return f"**{len(row['failed'])} cases differ**" if row["failed"] else power(row["largest"])


def power(value: float) -> str:
    """A small number with one digit."""
    if value == 0:
        return "0"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{'' if digit == '1' else f'{digit} · '}10{{sup}}`{int(exponent)}`"


class ParityRun(Recorded):
    """The run's date, seed and versions."""

    def markdown(self) -> str:
        """A sentence."""
        self.env.note_dependency(str(PARITY))
        run = read(PARITY)
        numbers = sum(row["numbers"] for row in run["rows"])
        cases = sum(row["cases"] for row in run["rows"])
        reference = ", ".join(f"{name} {version}" for name, version in run["reference"].items())
        package = ", ".join(f"{name} {version}" for name, version in run["package"].items())
        return (
            f"Run of {run['date']} with seed {run['seed']}: {cases:,} cases, {numbers:,} numbers. "
            f"Reference: {reference}. This package: {package}."
        )


class DataPipelineTable(Recorded):
    """What a training image costs in each stage, in multiples of MMDetection's stage 2."""

    def markdown(self) -> str:
        """A table in Markdown and a sentence on the run."""
        self.env.note_dependency(str(DATA_PIPELINE))
        run = read(DATA_PIPELINE, "python benchmarks/data_pipeline.py")
        stages = {name: row["ms_per_image"] for name, row in run["results"].items() if "stage" in name}
        unit = stages["s stage 2"]["original"]
        lines = ["| time for an image | MMDetection | here | times as fast |", "|---|--:|--:|--:|"]
        for name, row in stages.items():
            original, here = row["original"], row["ours"]
            lines.append(f"| {name} | {original / unit:.1f} | {here / unit:.1f} | {original / here:.1f} |")
        version = run["versions"]["original"]["mmdet"]
        return "\n".join(lines) + f"\n\nMMDetection {version}, {run['images']}, {run['date']}; unit: its stage 2."


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives with Sphinx."""
    app.add_directive("erratum", Erratum)
    app.add_directive("parity-table", ParityTable)
    app.add_directive("parity-run", ParityRun)
    app.add_directive("data-pipeline-table", DataPipelineTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
