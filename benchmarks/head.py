"""The head against MMDetection's own, on the CPU: the same inputs, one run, ratios of medians.

    make bench
    python benchmarks/head.py --only assign --repeats 5

Each side has a process of its own, because each needs an environment of its own; they take turns, run by run.  Both get
the same number of threads and an allocator that keeps what it was given, since otherwise half of the original's time
goes into asking the kernel for memory.  Before anything is timed both sides answer the same inputs, and the answers are
compared: assignments must be the same but for ties (``tests/parity/ties.py``), all other numbers within 1e-5.

Peak memory is the kernel's count for a fresh process with its usual allocator: it sees what every operation takes, also
inside a kernel, and works alike on both sides.  Writes ``benchmarks/results/cpu.json`` and prints a table.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
RESULT = HERE / "results" / "cpu.json"
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000"}
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
LOSS_TOLERANCE = 1e-5
# the maps of two networks differ in the last digits, and their sums of 10,000 losses a little more
STEP_TOLERANCE = 1e-3


class Row(NamedTuple):
    """One line of the table: a case, and how much faster (or smaller) than the original it should be."""

    name: str
    case: str
    goal: float


RATIOS = (
    Row("assign, 1 box", "assign 640 1 1 80", 2),
    Row("assign, 10 boxes", "assign 640 1 10 80", 10),
    Row("assign, 50 boxes", "assign 640 1 50 80", 40),
    Row("assign, 100 boxes", "assign 640 1 100 80", 50),
    Row("assign, 300 boxes", "assign 640 1 300 80", 60),
    Row("loss and gradient, batch 8", "loss 640 8 20 80", 12),
    Row("loss and gradient, batch 32", "loss 640 32 20 80", 12),
    Row("prediction, 672,000 candidates", "predict", 5),
)
MEMORY = Row("memory of assign, 300 boxes", "assign 640 1 300 80", 50)
SHARES = (
    Row("share of a step, 640 px, batch 2", "step 640 2 20 80", 0.05),
    Row("share of a step, 320 px, batch 8", "step 320 8 20 80", 0.08),
)
GROWTH = {
    "boxes": [f"assign 640 1 {boxes} 80" for boxes in (1, 3, 10, 30, 100, 200, 300, 500, 700, 1000)],
    "images": [f"loss 640 {images} 20 80" for images in (1, 2, 4, 8, 16, 32)],
    "classes": [f"assign 640 1 50 {classes}" for classes in (1, 20, 80, 160, 320)],
}
STEPS_CASE = "assign 640 1 100 80"


class Side:
    """A worker of one environment."""

    def __init__(self, python: str, name: str, threads: int, folder: Path, allocator: dict[str, str]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_", "MKL_"))}
        environment |= {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": str(threads), **allocator}
        command = [python, "-W", "ignore", str(HERE / "head_worker.py"), name, "--threads", str(threads)]
        self.name, self.folder = name, folder
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one reply.

        Raises:
            RuntimeError: where the worker stops; its own message is on stderr.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.name} side stopped at {request}; its message is above")
        return json.loads(line)

    def answer(self, case: str, **options: str) -> dict[str, torch.Tensor]:
        """Prepare a case, and what comes out of it."""
        path = self.folder / f"{self.name}.pt"
        self.ask(case=case, answer=str(path), **options)
        return torch.load(path, weights_only=True)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def check(case: str, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> int:
    """Compare two answers to a case; the number of priors that a tie decides.

    Raises:
        AssertionError: where they differ by more than ties and round-off.
    """
    sys.path[:0] = [path for path in (str(TESTS), str(HERE)) if path not in sys.path]
    from head_worker import scene
    from parity.compare import differences
    from parity.live import settle_ties

    kind, *numbers = case.split()
    ties, tolerance = 0, STEP_TOLERANCE if kind == "step" else LOSS_TOLERANCE
    if kind in ("assign", "loss"):
        made = scene(*map(int, numbers))
        name = {"assign": "assign", "loss": "losses"}[kind]
        ours, theirs, ties, mistakes = settle_ties(name, made, ours, theirs)
        assert not mistakes, f"{case}: {mistakes} priors have another box, and are no ties"
    worst = {name: d.largest for name, d in differences(ours, theirs).items() if d.largest > tolerance}
    assert not worst, f"{case}: differences of {worst}"
    return ties


def check_alone(case: str, ours: dict[str, torch.Tensor]) -> None:
    """Hold one assignment against the costs that ``tests/parity/ties.py`` works out on its own.

    Raises:
        AssertionError: where a prior has a box that no order of ties gives it.
    """
    sys.path[:0] = [path for path in (str(TESTS), str(HERE)) if path not in sys.path]
    from head_worker import scene
    from parity.ties import admissible

    made = scene(*map(int, case.split()[1:]))
    for image, owners in enumerate(ours["gt_inds"]):
        wrong = int((~admissible(made, image).gather(1, owners[:, None])).sum())
        assert not wrong, f"{case}: {wrong} priors of image {image} have another box, and are no ties"


def alternate(sides: list[Side], repeats: int, budget: float) -> list[dict[str, list[float]]]:
    """Seconds of each side, taking turns; fewer repeats where a run is long, three at least."""
    found: list[dict[str, list[float]]] = [{"seconds": [], "part": []} for _ in sides]
    for side in sides:
        side.ask(repeats=1)  # the first run is a warm-up
    spent = 0.0
    for turn in range(repeats):
        for side, kept in zip(sides, found, strict=True):
            # a short run is repeated within its turn, so that waking up the process does not count
            one = side.ask(repeats=1 if turn == 0 else burst(kept["seconds"]))
            kept["seconds"] += one["seconds"]
            kept["part"] += one["part"]
            spent += sum(one["seconds"])
        if turn >= 2 and spent > budget:
            break
    return found


def burst(seconds: list[float]) -> int:
    """How many runs fill a fifth of a second."""
    return max(1, min(20, int(0.2 / statistics.median(seconds))))


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds, and the number of runs."""
    quartiles = statistics.quantiles(seconds, n=4)
    low, middle, high = (round(value * 1000, 3) for value in quartiles)
    return {"median_ms": middle, "low_ms": low, "high_ms": high, "runs": len(seconds)}


def ratio_row(row: Row, sides: list[Side], options: argparse.Namespace) -> dict[str, Any]:
    """Both sides' times and their ratio."""
    theirs, ours = (side.answer(row.case) for side in sides)
    ties = check(row.case, ours, theirs)
    original, package = (spread(one["seconds"]) for one in alternate(sides, options.repeats, options.budget))
    ratio = original["median_ms"] / package["median_ms"]
    return {
        "name": row.name,
        "case": row.case,
        "original": original,
        "ours": package,
        "ratio": round(ratio, 2),
        "goal": row.goal,
        "reached": ratio >= row.goal,
        "ties": ties,
    }


def share_row(row: Row, sides: list[Side], options: argparse.Namespace) -> dict[str, Any]:
    """What part of a training step lies between the network's maps and their gradients."""
    theirs, ours = (side.answer(row.case) for side in sides)
    check(row.case, ours, theirs)
    shares, steps = [], []
    for one in alternate(sides, options.repeats, options.budget):
        shares.append(statistics.median(part / all_ for part, all_ in zip(one["part"], one["seconds"], strict=True)))
        steps.append(spread(one["seconds"]))
    return {
        "name": row.name,
        "case": row.case,
        "original": {"share": round(shares[0], 4), **steps[0]},
        "ours": {"share": round(shares[1], 4), **steps[1]},
        "goal": row.goal,
        "reached": shares[1] <= row.goal,
    }


def memory_row(row: Row, pythons: dict[str, str], folder: Path, threads: int) -> dict[str, Any]:
    """Peak memory beside the inputs, each in a fresh process."""
    peaks = {}
    for name, python in pythons.items():
        side = Side(python, name, threads, folder, RETURN_MEMORY)
        try:
            peaks[name] = round(side.ask(memory=row.case)["MiB"], 1)
        finally:
            side.close()
    ratio = peaks["original"] / peaks["ours"]
    return {
        "name": row.name,
        "case": row.case,
        "original": {"MiB": peaks["original"]},
        "ours": {"MiB": peaks["ours"]},
        "ratio": round(ratio, 1),
        "goal": row.goal,
        "reached": ratio >= row.goal,
    }


def growth(axis: str, ours: Side, options: argparse.Namespace) -> list[dict[str, Any]]:
    """This package alone: time against the number of boxes, images or classes."""
    place = {"boxes": 3, "images": 2, "classes": 4}[axis]
    points = []
    for case in GROWTH[axis]:
        check_alone(case, ours.answer(case))
        (found,) = alternate([ours], options.repeats, options.budget / 4)
        points.append({axis: int(case.split()[place]), "case": case, **spread(found["seconds"])})
    return points


def steps(ours: Side, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The racing lane with one step undone at a time, and the reading lane, which has none of them."""
    from head_worker import UNDONE, WHOLE

    rows = []
    for step in ("nothing", *UNDONE, *WHOLE):
        # the answer with a step undone is held against the same costs
        check_alone(STEPS_CASE, ours.answer(STEPS_CASE, without=step))
        (found,) = alternate([ours], options.repeats, options.budget / 4)
        rows.append({"undone": step, **spread(found["seconds"])})
    for row in rows:
        row["times_slower"] = round(row["median_ms"] / rows[0]["median_ms"], 2)
    return rows


def table(record: dict[str, Any]) -> str:
    """The rows of a record, to read."""
    lines = [f"{'':<34}{'original':>12}{'ours':>12}{'ratio':>9}{'goal':>8}"]
    for row in record["rows"]:
        if "share" in row["ours"]:
            values = f"{row['original']['share']:>12.1%}{row['ours']['share']:>12.1%}{'':>9}{row['goal']:>8.0%}"
        else:
            unit = "MiB" if "MiB" in row["ours"] else "ms"
            key = "MiB" if unit == "MiB" else "median_ms"
            values = "".join(f"{f'{row[side][key]:.1f} {unit}':>12}" for side in ("original", "ours"))
            values += f"{row['ratio']:>8.1f}x{row['goal']:>7.0f}x"
        lines.append(f"{row['name']:<34}{values}  {'' if row['reached'] else 'missed'}".rstrip())
    if record.get("steps"):
        lines += ["", f"without one step ({STEPS_CASE})"]
        lines += [
            f"  {row['undone']:<32}{row['median_ms']:>9.1f} ms{row['times_slower']:>8.2f}x" for row in record["steps"]
        ]
    for axis, points in record.get("growth", {}).items():
        times = "  ".join(f"{point[axis]}: {point['median_ms']:.1f}" for point in points)
        lines += ["", f"ms against {axis}", f"  {times}"]
    return "\n".join(lines)


def cpu_model() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> int:
    """Compare, time, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", default=".venv-reference/bin/python", help="python of the reference environment")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for a row, after three turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="rows whose name contains this; nothing is recorded")
    options = parser.parse_args()
    if not Path(options.reference).is_file():
        build = f"bash {TESTS / 'parity' / 'reference_env' / 'setup.sh'}"
        print(f"{options.reference}: no such file; build the reference environment with {build}", file=sys.stderr)
        return 2
    sys.path[:0] = [str(TESTS), str(HERE)]
    pythons = {"original": options.reference, "ours": sys.executable}

    def wanted(name: str) -> bool:
        return options.only in name

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = [Side(python, name, options.threads, folder, KEEP_MEMORY) for name, python in pythons.items()]
        try:
            versions = {side.name: side.ask(versions=1) for side in sides}
            record: dict[str, Any] = {
                "date": datetime.date.today().isoformat(),
                "command": shlex.join(["python", "benchmarks/head.py", *_without_paths(sys.argv[1:])]),
                "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": options.threads},
                "versions": {
                    "python": platform.python_version(),
                    "minirtmdet": version("minirtmdet"),
                    "torch": torch.__version__,
                    "original": versions["original"],
                },
                "allocator": KEEP_MEMORY,
                "rows": [],
            }
            print(table(record), flush=True)
            for rows, measured in ((RATIOS, ratio_row), (SHARES, share_row)):
                for row in rows:
                    if wanted(row.name):
                        _show(record, measured(row, sides, options))
            if wanted(MEMORY.name):
                _show(record, memory_row(MEMORY, pythons, folder, options.threads))
            if wanted("steps"):
                record["steps"] = steps(sides[1], options)
            if wanted("growth"):
                record["growth"] = {axis: growth(axis, sides[1], options) for axis in GROWTH}
        finally:
            for side in sides:
                side.close()
    print(table(record | {"rows": []}).partition("\n")[2])
    if not options.only:
        unfinished = RESULT.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, RESULT)
        print(f"\nwritten to {RESULT.name}")
    return 0


def _show(record: dict[str, Any], row: dict[str, Any]) -> None:
    record["rows"].append(row)
    print(table({"rows": [row]}).splitlines()[1], flush=True)


def _without_paths(words: list[str]) -> list[str]:
    """The command's options, but not where somebody keeps an environment."""
    return [
        "path/to/python" if before == "--reference" else word for before, word in zip(["", *words], words, strict=False)
    ]


if __name__ == "__main__":
    sys.exit(main())
