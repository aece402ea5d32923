"""Compare the package with MMDetection on cases that nobody has seen before.

From the repository::

    PYTHONPATH=tests .venv/bin/python -m parity.live --reference .venv-reference/bin/python

Both environments make the same cases from a fresh seed; the reference answers in a process of its own and hands its
answers over as plain tensors.  ``--seed`` repeats a run, ``--json`` keeps its table.  Exit code 1 where anything
differs that is no tie.
"""

import argparse
import datetime
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from parity import cases, instances
from parity.compare import TOLERANCE, difference, differences, settle_masks
from torch import Tensor

# errors of one step are inputs of the next
TRAINING_TOLERANCE = 1e-4
# no round-off of the original itself excuses more
WIDEST_TOLERANCE = 1e-4


class Kind(NamedTuple):
    """What one line of the table stands for."""

    count: int
    what: str
    tolerance: float = TOLERANCE


KINDS = {
    "priors": Kind(100, "grid priors and valid flags: maps of any sides, padded shapes smaller and larger"),
    "overlaps": Kind(100, "IoU, IoF and GIoU: pairwise, aligned and batched; boxes without width"),
    "coder": Kind(100, "distances to boxes and back, clamped and not"),
    "assign": Kind(
        500,
        "assignment: up to 300 boxes, 1 to 80 classes; overlapping, nested, tiny, identical, cut-off boxes; masks",
    ),
    "max_iou": Kind(100, "RetinaNet's anchors and which box each learns; up to 40 boxes"),
    "fcos": Kind(100, "FCOS: classes and distances of every point, with and without centre sampling"),
    "sim_ota": Kind(100, "SimOTA: boxes, classes and IoUs of every prior"),
    "targets": Kind(200, "labels, weights, boxes and soft labels of every prior, with padding"),
    "focal": Kind(100, "quality focal loss of each prior, and its gradient"),
    "giou": Kind(100, "GIoU loss of each box, and its gradient"),
    "losses": Kind(200, "both losses of a batch, and their gradients to all maps of the network"),
    "predict": Kind(100, "detections: thresholds, limits, clipping, scaling back, NMS"),
    "crowd": Kind(4, "detections from some 20,000 candidates per image"),
    "forward": Kind(24, "small networks, both heads and all their options, both modes; BatchNorm statistics"),
    "step": Kind(16, "the same networks: losses, and the gradient of every parameter"),
    "sizes": Kind(5, "tiny, s, m, l, x: both modes, BatchNorm statistics, losses, gradient of every parameter"),
    "engine": Kind(
        4, "1,000 steps: AdamW with its groups, learning rates, moving average; which parameters of a network decay"
    ),
    "training": Kind(
        3, "the recipe's first 20 steps: maps, assignments and losses of each, up to a first tie", TRAINING_TOLERANCE
    ),
    "ins_losses": Kind(
        100, "RTMDet-Ins: three losses, Dice of each positive, gradients to all maps; empty masks, padding"
    ),
    "ins_predict": Kind(50, "RTMDet-Ins: detections and every pixel of their masks, images of any size"),
    "ins_forward": Kind(12, "RTMDet-Ins: small networks, both modes; BatchNorm statistics"),
    "ins_step": Kind(8, "RTMDet-Ins: the same networks: losses, assignment, size of every parameter's gradient"),
    "ins_sizes": Kind(
        5, "RTMDet-Ins tiny, s, m, l, x: both modes, BatchNorm statistics, losses, sizes of all gradients"
    ),
}
RANDOM = cases.RANDOM | instances.RANDOM


class Row(NamedTuple):
    """One line of the table."""

    kind: str
    lane: str
    cases: int
    numbers: int
    largest: float
    ties: int
    wide: int
    failed: list[int]

    def __str__(self) -> str:
        verdict = "same" if not self.failed else f"DIFFERENT at {', '.join(map(str, self.failed[:5]))}"
        return (
            f"{self.kind:<9} {self.lane:<8} {self.cases:>6} {self.numbers:>12,} {self.largest:>10.1e} {self.ties:>5}"
            f" {self.wide:>5}  {verdict}"
        )


HEADER = f"{'case':<9} {'lane':<8} {'cases':>6} {'numbers':>12} {'difference':>10} {'ties':>5} {'wide':>5}  verdict"


def seeds(seed: int, count: int) -> range:
    """Seeds of the cases of one kind."""
    return range(seed * 10_000, seed * 10_000 + count)


def answer(seed: int, scale: float, kinds: list[str], folder: Path) -> None:
    """In the reference environment: write what MMDetection says, a file a kind, and print its name when it is there."""
    from parity import original, original_instances

    answers_of = original.ANSWERS | original_instances.ANSWERS
    original.quiet()
    print(json.dumps(original.versions()), flush=True)
    for kind in kinds:
        answers = []
        for case_seed in seeds(seed, scaled(KINDS[kind].count, scale)):
            case = RANDOM[kind](case_seed)
            answers.append(answers_of[kind](case))
            if kind in ("targets", "losses"):
                answers[-1]["gt_inds"] = original.assign(case)["gt_inds"]
            if kind == "losses":
                answers[-1] |= round_off(original.losses, case, answers[-1])
        torch.save(answers, folder / f"{kind}.pt")
        print(kind, flush=True)


def round_off(losses: Callable[[cases.Scene], dict[str, Tensor]], case: cases.Scene, plain: dict[str, Tensor]) -> Any:
    """How far the original itself moves when its inputs move by their last bit, for each tensor.

    The gradient of the GIoU of a box far larger than its target is a difference of numbers that nearly cancel.
    """
    moved = [losses(cases.nudged(case, f"nudge{i}")) for i in range(2)]
    worst = {name: max(difference(m[name], plain[name]).largest for m in moved) for name in moved[0]}
    return {f"round-off/{name}": torch.tensor(value) for name, value in worst.items()}


def scaled(count: int, scale: float) -> int:
    """A share of the cases, but one at least."""
    return max(1, round(count * scale))


def compare(kind: str, seed: int, theirs: list[dict[str, Tensor]]) -> Iterator[Row]:
    """In the project's environment: one row a lane."""
    from parity import ours, ours_instances

    racing, reading = ours.RACING | ours_instances.RACING, ours.READING | ours_instances.READING
    for lane, table in (("racing", racing), ("reading", reading)):
        if kind not in table:
            continue
        numbers, largest, ties, wide, failed = 0, 0.0, 0, 0, []
        for case_seed, original in zip(seeds(seed, len(theirs)), theirs, strict=True):
            case = RANDOM[kind](case_seed)
            mine = table[kind](case)
            if kind in ("targets", "losses"):
                mine["gt_inds"] = table["assign"](case)["gt_inds"]
            own = {name: float(value) for name, value in original.items() if name.startswith("round-off/")}
            original = {name: value for name, value in original.items() if name not in own}
            mine, original, found, mistakes = settle_ties(kind, case, mine, original)
            measured = differences(*settle_masks(mine, original))
            excess = {name for name, d in measured.items() if d.largest > KINDS[kind].tolerance}
            beyond = {
                n for n in excess if measured[n].largest > min(2 * own.get(f"round-off/{n}", 0), WIDEST_TOLERANCE)
            }
            if mistakes or beyond:
                failed.append(case_seed)
            wide += bool(excess) and not beyond
            ties += found
            numbers += sum(d.compared for d in measured.values())
            largest = max(largest, *(d.largest for d in measured.values()), 0.0)
        yield Row(kind, lane, len(theirs), numbers, largest, ties, wide, failed)


def settle_ties(
    kind: str, case: Any, mine: dict[str, Tensor], theirs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], int, int]:
    """Both answers without what a classified tie decides, the number of ties, and of differing priors that are none.

    Of an assignment and of targets the priors in question are taken over; losses, which all priors enter, are not
    compared where there is one; a training run is compared up to the step before.  Gradients of masks that hang on a
    value at relu's kink are taken over, and count as ties.
    """
    from parity.kinks import settle_kinks
    from parity.ties import compare_assignments

    if kind == "ins_losses":  # all of an answer hangs on the assignment
        verdict = compare_assignments(case.scene, mine["gt_inds"], theirs["gt_inds"])
        if verdict.ties:
            return {}, {}, len(verdict.ties), len(verdict.mistakes)
        mine, kinked = settle_kinks(case, mine, theirs, KINDS[kind].tolerance)
        return mine, theirs, kinked, len(verdict.mistakes)
    if kind in ("assign", "targets", "losses"):
        verdict = compare_assignments(case, mine["gt_inds"], theirs["gt_inds"])
        if verdict.ties and kind == "losses":
            return {}, {}, len(verdict.ties), len(verdict.mistakes)
        for image, prior in verdict.ties:
            for field, value in mine.items():
                value[image, prior] = theirs[field][image, prior]
        return mine, theirs, len(verdict.ties), len(verdict.mistakes)
    if kind == "training":
        for step in range(len(case.steps)):
            scene = case.scene(step, mine["cls_scores"][step], mine["distances"][step])
            verdict = compare_assignments(scene, mine["gt_inds"][step], theirs["gt_inds"][step])
            if verdict.ties or verdict.mistakes:
                mine, theirs = ({name: value[:step] for name, value in a.items()} for a in (mine, theirs))
                return mine, theirs, len(verdict.ties), len(verdict.mistakes)
    return mine, theirs, 0, 0


def record(path: Path, seed: int, versions: dict[str, str], rows: list[Row]) -> None:
    """Keep the table, and what it takes to repeat it, for the book."""
    import minirtmdet

    table = {
        "date": datetime.date.today().isoformat(),
        "seed": seed,
        "reference": versions,
        "package": {
            "minirtmdet": minirtmdet.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "rows": [
            row._asdict() | {"what": KINDS[row.kind].what, "tolerance": KINDS[row.kind].tolerance} for row in rows
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def main() -> int:
    """Ask the reference, compare, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", default=".venv-reference/bin/python", help="python of the reference environment")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of cases; one at least of each")
    parser.add_argument(
        "--only", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help="some kinds"
    )
    parser.add_argument("--json", type=Path, help="file to keep the table in")
    parser.add_argument("--answer", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.answer:
        answer(options.seed, options.scale, options.only, options.answer)
        return 0

    if not Path(options.reference).is_file():
        build = f"bash {Path(__file__).parent / 'reference_env' / 'setup.sh'}"
        print(f"{options.reference}: no such file; build the reference environment with {build}", file=sys.stderr)
        return 2
    print(f"seed {options.seed}; differences are largest difference over largest value, for each tensor")
    print(HEADER, flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        command = [options.reference, "-W", "ignore", "-m", "parity.live", "--answer", folder]
        command += ["--seed", str(options.seed), "--scale", str(options.scale), "--only", *options.only]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        reference = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert reference.stdout is not None
        try:
            versions = json.loads(reference.stdout.readline() or "{}")
            for kind in options.only:
                if reference.stdout.readline().strip() != kind:
                    print(f"the reference environment stopped at {kind}; its message is above", file=sys.stderr)
                    return 2
                path = Path(folder) / f"{kind}.pt"
                for row in compare(kind, options.seed, torch.load(path, weights_only=True, mmap=True)):
                    print(row, flush=True)
                    rows.append(row)
                path.unlink()
        finally:
            reference.kill()
            reference.wait()
    failures = sum(len(row.failed) for row in rows)
    print("the same everywhere" if not failures else f"{failures} cases differ")
    if options.json:
        record(options.json, options.seed, versions, rows)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
