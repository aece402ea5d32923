"""The head against MMDetection's own, on the CPU: the same inputs, one run, ratios of medians.

    make bench
    python benchmarks/head.py --only assign --repeats 5

There are three sides: MMDetection, this package operation by operation (eager), and this package compiled, as
``compile=step`` compiles a training step.  Each has a process of its own; they take turns, run by run.  All get the
same number of threads and an allocator that keeps what it was given, since otherwise half of the original's time goes
into asking the kernel for memory.  Compilation and warm-up are not timed; how long compiling took is printed once.
Nor is MMDetection's NMS in a prediction, ours is: the reference environment has a loop in Python in place of mmcv's
compiled operation.

Before anything is timed all sides answer the same inputs, and the answers are compared: assignments must be the same
but for ties (``tests/parity/ties.py``), all other numbers within 1e-5.  A goal is reached where one lane reaches it.

Peak memory is the kernel's count for a fresh process with its usual allocator (one process for all that is grown): it
sees what every operation takes, also inside a kernel, and works alike on both sides.  Writes
``benchmarks/results/cpu.json`` and prints a table.
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
    compiled: bool = True


RATIOS = (
    Row("assign, 1 box", "assign 640 1 1 80", 2),
    Row("assign, 1 box, class sum given", "given 640 1 1 80", 2),
    Row("assign, 10 boxes", "assign 640 1 10 80", 10),
    Row("assign, 50 boxes", "assign 640 1 50 80", 40),
    Row("assign, 100 boxes", "assign 640 1 100 80", 50),
    Row("assign, 300 boxes", "assign 640 1 300 80", 60),
    Row("loss and gradient, batch 8", "loss 640 8 20 80", 12),
    Row("loss and gradient, batch 32", "loss 640 32 20 80", 12),
    Row("prediction, 672,000 candidates", "predict", 5, compiled=False),
)
# scenes like COCO's: sides from 12 to 320 px
COCO_LIKE = (
    Row("COCO-like, assign, 1 box", "assign 640 1 1 80 320", 1),
    Row("COCO-like, assign, 7 boxes", "assign 640 1 7 80 320", 12),
    Row("COCO-like, assign, 20 boxes", "assign 640 1 20 80 320", 25),
    Row("COCO-like, loss and gradient, batch 8", "loss 640 8 7 80 320", 12),
)
MEMORY = Row("memory of assign, 300 boxes", "assign 640 1 300 80", 50)
SHARES = (
    Row("share of a step, 640 px, batch 2", "step 640 2 20 80", 0.05),
    Row("share of a step, 320 px, batch 8", "step 320 8 20 80", 0.08),
)
GROWTH = {
    "boxes": [f"assign 640 1 {boxes} 80" for boxes in (1, 10, 30, 100, 300, 600, 1000)],
    "images": [f"loss 640 {images} 20 80" for images in (1, 4, 8, 16, 32, 64)],
    "classes": [f"assign 640 1 50 {classes}" for classes in (1, 80, 320, 1203)],
    "priors": [f"assign {side} 1 100 80" for side in (320, 480, 640, 960, 1280)],
}
# what is undone, one step at a time
STEPS = {
    "assign 640 1 100 80": (
        "one class in closed form",
        "blocks that fit the cache",
        "exp2 and in-place distances",
        "everything",
    ),
    "loss 640 8 20 80": (
        "one slope for the class loss",
        "classes in rows",
        "one class sum for cost and loss",
        "blocks that fit the cache",
    ),
    "loss 640 8 7 80 320": ("candidates alone",),
}
STEPS_COMPILED = ("nothing", "coordinates in rows")


class Side:
    """A worker of one environment."""

    worker = "head_worker.py"

    def __init__(self, python: str, name: str, threads: int, folder: Path, allocator: dict[str, str]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "OMP_", "MKL_"))}
        # this environment's workers find what this process finds; the reference environment must not
        own = [os.environ["PYTHONPATH"]] if python == sys.executable and "PYTHONPATH" in os.environ else []
        path = os.pathsep.join([str(TESTS), *own])
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), **allocator}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}  # nothing compiled before is found
        command = [python, "-W", "ignore", str(HERE / self.worker), name, "--threads", str(threads)]
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
    if kind in ("assign", "given", "loss"):
        made = scene(*map(int, numbers))
        name = "losses" if kind == "loss" else "assign"
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
    """The times of all sides, the ratios of both lanes, and where the goal is missed what limits them."""
    sides = sides if row.compiled else sides[:2]
    theirs, *lanes = (side.answer(row.case) for side in sides)
    ties = max(check(row.case, ours, theirs) for ours in lanes)
    times = alternate(sides, options.repeats, options.budget)
    # a part is what counts, where one is told
    found: dict[str, Any] = {
        side.name: spread(one["part"] or one["seconds"]) for side, one in zip(sides, times, strict=True)
    }
    ratios = {side.name: round(found["original"]["median_ms"] / found[side.name]["median_ms"], 2) for side in sides[1:]}
    reached = [name for name, ratio in ratios.items() if ratio >= row.goal]
    found = {
        "name": row.name,
        "case": row.case,
        **found,
        "ratio": ratios["ours"],
        "ratio_compiled": ratios.get("compiled"),
        "goal": row.goal,
        "reached": bool(reached),
        "lane": {"ours": "eager", "compiled": "compiled", "": ""}[next(iter(reached), "")],
        "ties": ties,
    }
    if not reached:
        found["limit"] = limit(row, sides[-1])
    return found


def limit(row: Row, side: Side) -> dict[str, float]:
    """Milliseconds of what a case cannot do without, alone."""
    parts = {part: round(1000 * seconds, 3) for part, seconds in side.ask(parts=row.case).items()}
    if row.case.startswith("given"):
        del parts["class sum"]
    return parts


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


def growth(axis: str, lanes: list[Side], memory: Side, options: argparse.Namespace) -> list[dict[str, Any]]:
    """This package alone: time of both lanes, and peak memory eager, against the number of one thing."""
    points = []
    for case in GROWTH[axis]:
        answer = lanes[0].answer(case)
        check_alone(case, answer)
        check(case, lanes[1].answer(case), answer)
        eager, compiled = (spread(one["seconds"]) for one in alternate(lanes, options.repeats, options.budget / 4))
        peak = round(memory.ask(memory=case)["MiB"], 1)
        points.append({axis: number_of(axis, case), "case": case, **eager, "MiB": peak, "compiled": compiled})
    return points


def number_of(axis: str, case: str) -> int:
    """How many boxes, images, classes or priors a case has."""
    side, images, boxes, classes = map(int, case.split()[1:5])
    priors = sum((side // stride) ** 2 for stride in (8, 16, 32))
    return {"boxes": boxes, "images": images, "classes": classes, "priors": priors}[axis]


def steps(lanes: list[Side], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The racing lane with one step undone at a time, and the reading lane, which has none of them."""
    eager, compiled = lanes
    rows = []
    for case, undone in STEPS.items():
        expected = eager.answer(case)
        rounds = [(eager, step) for step in ("nothing", *undone)]
        if case.startswith("assign"):
            rounds += [(compiled, step) for step in STEPS_COMPILED]
        base = 0.0
        for side, step in rounds:
            check(case, side.answer(case, without=step), expected)
            (found,) = alternate([side], options.repeats, options.budget / 3)
            times = spread(found["seconds"])
            base = base or times["median_ms"]
            lane = "eager" if side is eager else "compiled"
            ratio = round(times["median_ms"] / base, 2)
            rows.append({"case": case, "lane": lane, "undone": step, **times, "times_slower": ratio})
    return rows


def table(record: dict[str, Any]) -> str:
    """The rows of a record, to read."""
    lines = [f"{'':<34}{'original':>12}{'eager':>10}{'':>8}{'compiled':>10}{'':>8}{'goal':>6}  reached by"]
    for row in record["rows"]:
        name, ours = f"{row['name']:<34}", row["ours"]
        if "share" in ours:
            values = f"{row['original']['share']:>12.1%}{ours['share']:>10.1%}{'':>26}{row['goal']:>6.0%}"
        else:
            unit, key = ("MiB", "MiB") if "MiB" in ours else ("ms", "median_ms")
            values = f"{row['original'][key]:.1f} {unit}".rjust(12)
            for lane, ratio in (("ours", row["ratio"]), ("compiled", row.get("ratio_compiled"))):
                values += f"{'':>18}" if ratio is None else f"{row[lane][key]:>10.2f}{f'{ratio:.1f}x':>8}"
            values += f"{row['goal']:>5.0f}x"
        lines.append(f"{name}{values}  {row.get('lane', 'eager') if row['reached'] else 'none'}")
        if "limit" in row:
            parts = ", one ".join(f"{part} takes {ms:.2f} ms" for part, ms in row["limit"].items())
            lines.append(f"  alone, its {parts}")
    for case in dict.fromkeys(row["case"] for row in record.get("steps", [])):
        lines += ["", f"with one step undone ({case})"]
        for row in record["steps"]:
            if row["case"] == case:
                name = row["undone"] + ("" if row["lane"] == "eager" else ", compiled")
                lines.append(f"  {name:<44}{row['median_ms']:>9.2f} ms{row['times_slower']:>8.2f}x")
    for axis, points in record.get("growth", {}).items():
        lines += ["", f"ms against {axis}"]
        for lane, of in (("eager", lambda point: point), ("compiled", lambda point: point["compiled"])):
            times = "  ".join(f"{point[axis]}: {of(point)['median_ms']:.1f}" for point in points)
            lines.append(f"  {lane:<9} {times}")
        if all("MiB" in point for point in points):
            peaks = "  ".join(f"{point[axis]}: {point['MiB']:.1f}" for point in points)
            lines.append(f"  {'MiB':<9} {peaks}")
    if "compilations" in record:
        lines += [
            "",
            "compiled {graphs} graphs in {seconds:.0f} s, which no row counts".format(**record["compilations"]),
        ]
    return "\n".join(lines)


def cpu_model() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def read_options(about: str | None, *, repeats: int, budget: float) -> argparse.Namespace:
    """The command line of a benchmark beside MMDetection.

    Raises:
        SystemExit: with 2, where the reference environment is not there.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--reference", default=".venv-reference/bin/python", help="python of the reference environment")
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each side")
    parser.add_argument("--budget", type=float, default=budget, help="seconds for a row, after three turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="rows whose name contains this; nothing is recorded")
    options = parser.parse_args()
    if not Path(options.reference).is_file():
        build = f"bash {TESTS / 'parity' / 'reference_env' / 'setup.sh'}"
        parser.exit(2, f"{options.reference}: no such file; build the reference environment with {build}\n")
    return options


def new_record(script: str, threads: int) -> dict[str, Any]:
    """What a record says of its making; its rows are still to come."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{script}", *_without_paths(sys.argv[1:])]),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": threads},
        "versions": {
            "python": platform.python_version(),
            "minirtmdet": version("minirtmdet"),
            "torch": torch.__version__,
        },
        "allocator": KEEP_MEMORY,
        "rows": [],
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write it whole."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    print(f"\nwritten to {path.name}")


def main() -> int:
    """Compare, time, print, record."""
    options = read_options(__doc__, repeats=7, budget=3.0)
    sys.path[:0] = [str(TESTS), str(HERE)]
    pythons = {"original": options.reference, "ours": sys.executable}
    lanes = pythons | {"compiled": sys.executable}

    def wanted(name: str) -> bool:
        return options.only in name

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = [Side(python, name, options.threads, folder, KEEP_MEMORY) for name, python in lanes.items()]
        try:
            record = new_record("head.py", options.threads)
            record["versions"]["original"] = sides[0].ask(versions=1)
            print(table(record), flush=True)
            for row in (*RATIOS, *COCO_LIKE):
                if wanted(row.name):
                    _show(record, ratio_row(row, sides, options))
            for row in SHARES:
                if wanted(row.name):
                    _show(record, share_row(row, sides[:2], options))
            if wanted(MEMORY.name):
                _show(record, memory_row(MEMORY, pythons, folder, options.threads))
            if wanted("steps"):
                record["steps"] = steps(sides[1:], options)
            if wanted("growth"):
                memory = Side(sys.executable, "ours", options.threads, folder, RETURN_MEMORY)
                sides.append(memory)
                record["growth"] = {axis: growth(axis, sides[1:3], memory, options) for axis in GROWTH}
            record["compilations"] = sides[2].ask(compilations=1)
        finally:
            for side in sides:
                side.close()
    print(table(record | {"rows": []}).partition("\n")[2])
    if not options.only:
        write_record(RESULT, record)
    return 0


def _show(record: dict[str, Any], row: dict[str, Any]) -> None:
    record["rows"].append(row)
    print(table({"rows": [row]}).partition("\n")[2], flush=True)


def _without_paths(words: list[str]) -> list[str]:
    """The command's options, but not where somebody keeps an environment."""
    return [
        "path/to/python" if before == "--reference" else word for before, word in zip(["", *words], words, strict=False)
    ]


if __name__ == "__main__":
    sys.exit(main())
