"""Run the notebooks and the tests on every kind of processor that this one can stand for: the check before a release.

    python tests/everywhere.py                                             # everything: some hours on two cores
    python tests/everywhere.py book/weights.ipynb --sets default --seeds 0 1 2

A training ends elsewhere with other instructions, another number of threads or another seed.  What a notebook or a
test says of it has to hold all the same.  Notebooks are compared with their stored outputs, as ``make notebooks``
does.  One that has a line ``SEED = 0`` is run with each seed, the others once.  A failure does not end the run:
the table at its end has all of them, and the exit code is 1 where there is one.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# what ATen's kernels and oneDNN's may use, from old processors to new ones
SETS = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
SEED = re.compile(r"^SEED = \d+", re.MULTILINE)
# without vector instructions a notebook takes three times as long
CELL_SECONDS, JOB_SECONDS = 1500, 5400
SANITIZE = ROOT / "tests/book/nbval_sanitize.cfg"
OPTIONS = {
    ".ipynb": f"--nbval --nbval-current-env --nbval-cell-timeout={CELL_SECONDS} --nbval-sanitize-with={SANITIZE}",
    "": "--jaxtyping-packages=minirtmdet,shape_checks.checked",
}


class Place(NamedTuple):
    """A kind of processor, and how many of its cores take part."""

    instructions: str
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that runs there."""
        limits = (self.instructions, SETS[self.instructions])
        threads = {"OMP_NUM_THREADS": str(self.threads), "TQDM_DISABLE": "1"}
        return {**os.environ, **dict(zip(VARIABLES, limits, strict=True)), **threads}


class Job(NamedTuple):
    """One notebook, or one file or folder of tests, in one place."""

    path: Path
    place: Place
    seed: int | None
    """Where none, the file is run as it is."""

    def __str__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.path.name}, {self.place.instructions}, threads {self.place.threads}{seed}"


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    failures: list[str]


def instruction_sets() -> list[str]:
    """What this processor has, from the plainest to its own; what is not in ``SETS`` has the plainest alone."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    free = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    asked = subprocess.run([sys.executable, "-c", code], env=free, check=True, capture_output=True, text=True)
    names, own = list(SETS), asked.stdout.strip()
    return names[: names.index(own) + 1] if own in names else names[:1]


def choose_sets(asked: Sequence[str], there: Sequence[str]) -> list[str]:
    """The sets that were asked for and are there; ``other`` is the newest but this processor's own."""
    other = there[-2] if len(there) > 1 else "other"
    named = [other if name == "other" else name for name in asked] or list(SETS)
    for name in named:
        if name not in there:
            print(f"skipped: {name}, which this processor does not have and cannot stand for")
    return [name for name in dict.fromkeys(named) if name in there]


def takes_seed(path: Path) -> bool:
    """Whether a notebook has a seed of its own to set."""
    return path.suffix == ".ipynb" and any(SEED.search(source) for source in code_of(read_notebook(path)))


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(notebook: dict) -> list[str]:
    """Sources of the code cells."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def with_seed(notebook: dict, seed: int) -> dict:
    """A copy whose line ``SEED = ...`` has another number."""
    cells = [
        {**cell, "source": SEED.sub(f"SEED = {seed}", "".join(cell["source"]))} if cell["cell_type"] == "code" else cell
        for cell in notebook["cells"]
    ]
    return {**notebook, "cells": cells}


def run(job: Job) -> Outcome:
    """One job in a process of its own, whatever happens to it."""
    print(f"begins: {job}", flush=True)
    path = seeded(job)
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        try:
            done = pytest(job, path, report)
            failures = failures_in(report)
            if done.returncode and not failures:
                failures = [f"exit code {done.returncode}: {last_line(done.stdout + done.stderr)}"]
        except subprocess.TimeoutExpired:
            failures = [f"not done after {JOB_SECONDS} s"]
    if path != job.path:
        path.unlink()
    print(f"{'FAILED' if failures else 'passed'}: {job}", flush=True)
    return Outcome(job, failures)


def seeded(job: Job) -> Path:
    """The file to run: a copy with the seed, as deep in the repository as the notebook, which finds its records so."""
    if job.seed is None:
        return job.path
    path = ROOT / "_build" / f"{job.path.stem}-{job.place.instructions}-{job.place.threads}-{job.seed}.ipynb"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(with_seed(read_notebook(job.path), job.seed)), encoding="utf-8")
    return path


def pytest(job: Job, path: Path, report: Path) -> subprocess.CompletedProcess[str]:
    """What ``make notebooks`` or ``make unit`` would say of one file, with a report that a program can read."""
    options = OPTIONS.get(path.suffix, OPTIONS[""]).split()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *options, path]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, cwd=ROOT, env=job.place.environment, timeout=JOB_SECONDS, **output)


def failures_in(report: Path) -> list[str]:
    """Name and reason of each test or cell that failed; empty where there is no report."""
    if not report.is_file():
        return []
    return [
        f"{case.get('name')}: {reason(problem.text or problem.get('message') or '')}"
        for case in ElementTree.parse(report).iter("testcase")
        for problem in (*case.iter("failure"), *case.iter("error"))
    ]


def reason(text: str) -> str:
    """The last line of a report that names an error, or its last line; pytest cuts the middle out of long ones."""
    named = [line for line in text.splitlines() if re.search(r"\b\w*(Error|Exception|Failed)\b", line)]
    return last_line(named[-1] if named else text)


def last_line(text: str) -> str:
    """The last line that says something, colours removed."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("#x1B[0m", "")
    return next((line.strip() for line in reversed(plain.splitlines()) if line.strip()), "")


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a file, a column a place and seed: a point where all passed, else the number of failures."""
    columns = list(dict.fromkeys((o.job.place, o.job.seed) for o in outcomes))
    found = {(o.job.path, o.job.place, o.job.seed): o.failures for o in outcomes}
    rows = [["", *(f"{p.instructions}/{p.threads}" + ("" if s is None else f" seed {s}") for p, s in columns)]]
    for path in dict.fromkeys(o.job.path for o in outcomes):
        cells = [found.get((path, *column)) for column in columns]
        rows.append([path.name, *("" if cell is None else str(len(cell) or ".") for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for outcome in outcomes:
        lines += [f"{outcome.job}: {failure}" for failure in outcome.failures]
    return "\n".join(lines)


def main() -> int:
    """Run all, say what failed where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    everything = [*sorted((ROOT / "book").glob("*.ipynb")), ROOT / "tests"]
    parser.add_argument("paths", type=Path, nargs="*", help="notebooks and tests; all where none is named")
    parser.add_argument("--sets", nargs="+", choices=[*SETS, "other"], default=[], help="instruction sets")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--jobs", type=int, default=1, help="how many run at a time")
    args = parser.parse_args()
    paths = [path.resolve() for path in args.paths or everything]
    for path in paths:
        if not path.exists():
            parser.error(f"there is no {path}")
    places = [Place(*pair) for pair in itertools.product(choose_sets(args.sets, instruction_sets()), args.threads)]
    jobs = [
        Job(path, place, seed)
        for place in places
        for path in paths
        for seed in (args.seeds if takes_seed(path) else [None])
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(run, jobs))
    print(table(outcomes))
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    print(f"{len(outcomes) - failed} of {len(outcomes)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
