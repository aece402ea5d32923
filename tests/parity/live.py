"""Compare the package with MMDetection on cases that nobody has seen before.

From the repository::

    PYTHONPATH=tests .venv/bin/python -m parity.live --reference .venv-reference/bin/python

Both environments make the same cases from a fresh seed; the reference answers in a process of its own and hands its
answers over as plain tensors.  ``--seed`` repeats a run.  Exit code 1 where anything differs that is no tie.
"""

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from parity import cases
from parity.compare import TOLERANCE, differences
from torch import Tensor

COUNTS = {
    "priors": 100,
    "overlaps": 100,
    "coder": 100,
    "assign": 500,
    "targets": 200,
    "focal": 100,
    "giou": 100,
    "losses": 200,
    "predict": 100,
    "forward": 8,
    "step": 4,
}
"""Cases of each kind, in one run."""

# a network in fp32 forward and back through batch statistics: with one thread and two it differs from itself by 2e-5
STEP_TOLERANCE = 1e-4


class Row(NamedTuple):
    """One line of the table."""

    kind: str
    lane: str
    cases: int
    numbers: int
    largest: float
    ties: int
    failed: list[int]

    def __str__(self) -> str:
        verdict = "same" if not self.failed else f"DIFFERENT at {', '.join(map(str, self.failed[:5]))}"
        return (
            f"{self.kind:<9} {self.lane:<8} {self.cases:>6} {self.numbers:>12,} {self.largest:>10.1e} {self.ties:>5}"
            f"  {verdict}"
        )


HEADER = f"{'case':<9} {'lane':<8} {'cases':>6} {'numbers':>12} {'difference':>10} {'ties':>5}  verdict"


def seeds(seed: int, count: int) -> range:
    """Seeds of the cases of one kind."""
    return range(seed * 10_000, seed * 10_000 + count)


def answer(kind: str, seed: int, count: int, path: Path) -> None:
    """In the reference environment: write what MMDetection says."""
    from parity import original

    original.quiet()
    torch.save([original.ANSWERS[kind](cases.RANDOM[kind](s)) for s in seeds(seed, count)], path)


def compare(kind: str, seed: int, theirs: list[dict[str, Tensor]]) -> Iterator[Row]:
    """In the project's environment: one row a lane."""
    from parity import ours
    from parity.ties import compare_assignments, has_ties

    tolerance = STEP_TOLERANCE if kind == "step" else TOLERANCE
    for lane, table in (("racing", ours.RACING), ("reading", ours.READING)):
        if kind not in table:
            continue
        numbers, largest, ties, failed = 0, 0.0, 0, []
        for case_seed, original in zip(seeds(seed, len(theirs)), theirs, strict=True):
            case = cases.RANDOM[kind](case_seed)
            mine = table[kind](case)
            if kind == "assign":
                verdict = compare_assignments(case, mine["gt_inds"], original["gt_inds"])
                ties += len(verdict.ties)
                for image, prior in verdict.ties:
                    for field, value in mine.items():
                        value[image, prior] = original[field][image, prior]
            measured = differences(mine, original).values()
            numbers += sum(d.compared for d in measured)
            worst = max(d.largest for d in measured)
            if worst > tolerance and kind in ("targets", "losses") and has_ties(case):
                ties += 1
            elif worst > tolerance:
                failed.append(case_seed)
            largest = max(largest, worst if worst <= tolerance else 0.0)
        yield Row(kind, lane, len(theirs), numbers, largest, ties, failed)


def main() -> int:
    """Ask the reference, compare, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", default=".venv-reference/bin/python", help="python of the reference environment")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of cases")
    parser.add_argument("--answer", nargs=3, metavar=("KIND", "COUNT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.answer:
        kind, count, path = options.answer
        answer(kind, options.seed, int(count), Path(path))
        return 0

    if not Path(options.reference).is_file():
        build = f"bash {Path(__file__).parent / 'reference_env' / 'setup.sh'}"
        print(f"{options.reference}: no such file; build the reference environment with {build}", file=sys.stderr)
        return 2
    print(f"seed {options.seed}; differences are largest difference over largest value, for each tensor")
    print(HEADER, flush=True)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, count in COUNTS.items():
            path = Path(folder) / f"{kind}.pt"
            amount = max(1, round(count * options.scale))
            command = [options.reference, "-W", "ignore", "-m", "parity.live", "--seed", str(options.seed)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            subprocess.run([*command, "--answer", kind, str(amount), str(path)], check=True, env=environment)
            for row in compare(kind, options.seed, torch.load(path, weights_only=True)):
                print(row, flush=True)
                failures += len(row.failed)
    print("the same everywhere" if not failures else f"{failures} cases differ")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
