"""How the trainings of a notebook end from other seeds: what it may say of them, and where its thresholds lie.

    python benchmarks/labs.py debugging --seeds 0 1 2 3 4 5 6 7
    python benchmarks/labs.py head_construction --seeds 0 1 2 3 4 5 6 7

Runs the notebook's own cells with another number in its line ``SEED = 0``, without its figures and assertions, and
records what each seed left in its dictionary ``measured``.  Seeds that the record has already are kept, unless the
notebook's cells have changed since.  Writes ``benchmarks/results/<notebook>.json`` after each seed.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shlex
from pathlib import Path
from unittest.mock import patch

import torch
from train import RESULTS, surroundings

from minirtmdet import plots
from minirtmdet.files import write_json

BOOK = Path(__file__).parents[1] / "book"
MEASURES = re.compile(r"^ *(note\(|measured\[)", re.MULTILINE)
"""No cell is run behind the last that has this."""
LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


def experiment(notebook: Path) -> list[str]:
    """The code cells up to the last that measures."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code" and cell["id"] != "install"]
    measuring = [i for i, source in enumerate(sources) if MEASURES.search(source)]
    if not measuring:
        raise SystemExit(f"{notebook.name} measures nothing: no cell of it fills a dictionary measured")
    return sources[: measuring[-1] + 1]


class OtherSeed(ast.NodeTransformer):
    """Another seed, and neither assertions nor prints: what they would say is measured here."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def visit_Assert(self, node: ast.Assert) -> ast.Pass:
        """Nothing in its place."""
        return ast.copy_location(ast.Pass(), node)

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | ast.Pass:
        """``print(...)``: nothing in its place."""
        prints = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "print"
        return ast.copy_location(ast.Pass(), node) if prints else node

    def visit_Assign(self, node: ast.Assign) -> ast.Assign:
        """``SEED = 0``."""
        if [ast.unparse(target) for target in node.targets] == ["SEED"]:
            node.value = ast.copy_location(ast.Constant(self.seed), node.value)
        return node


def parsed(source: str, seed: int) -> ast.Module:
    """A cell as it is run here."""
    return ast.fix_missing_locations(OtherSeed(seed).visit(ast.parse(source)))


def fingerprint(sources: list[str]) -> str:
    """Of all that is run: comments, assertions and prints do not count."""
    lines = "\n".join(ast.unparse(parsed(source, 0)) for source in sources).split("\n")
    code = "\n".join(line for line in lines if line.strip() != "pass")  # where one of them stood
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def measure(sources: list[str], seed: int) -> dict[str, dict[str, float]]:
    """What the cells leave in ``measured``."""
    names: dict = {"__name__": "notebook"}
    figures = {name: lambda *args, **kwargs: None for name in dir(plots) if callable(getattr(plots, name))}
    with patch.multiple(plots, **figures):
        for source in sources:
            exec(compile(parsed(source, seed), "<cell>", "exec"), names)
    return {name: {key: round(float(n), 4) for key, n in row.items()} for name, row in names["measured"].items()}


def main() -> None:
    """Run, record, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("notebook", help="its name, without folder and .ipynb")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    args = parser.parse_args()
    sources = experiment(BOOK / f"{args.notebook}.ipynb")
    path = args.results / f"{args.notebook}.json"
    cells = fingerprint(sources)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    runs = before["runs"] if before.get("cells") == cells else []
    here = {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "limits": {name: os.environ[name] for name in LIMITS if name in os.environ},
        "threads": torch.get_num_threads(),
    }
    for seed in args.seeds:
        place = {"seed": seed, **here}
        if any(place.items() <= run.items() for run in runs):
            continue
        runs.append({**place, "measured": measure(sources, seed)})
        print(f"seed {seed}: {runs[-1]['measured']}", flush=True)
        seeds = sorted({run["seed"] for run in runs})
        command = shlex.join(["python", "benchmarks/labs.py", args.notebook, "--seeds", *map(str, seeds)])
        write_json(path, {"command": command, **surroundings(), "cells": cells, "runs": runs})
    for name, row in runs[0]["measured"].items():
        for key in row:
            values = [run["measured"][name][key] for run in runs]
            mean = sum(values) / len(values)
            print(f"{name:24} {key:18} {mean:8.3f}  {min(values):8.3f} to {max(values):8.3f}")


if __name__ == "__main__":
    main()
