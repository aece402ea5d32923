"""Masks against MMDetection's own, on the CPU: the same inputs, one run, ratios of medians, and of peak memory.

    python benchmarks/masks.py --reference .venv-reference/bin/python
    python benchmarks/masks.py --only memory

Two things are measured: all losses of a batch with masks and their gradients, and a hundred masks of one image from the
network's maps.  Both sides take turns, as in ``head.py``; the answers are compared first.  MMDetection's truth are
bitmaps, made before the clock starts, and ours is what the loader hands on.  Masks of this package are made a few at a
time and dropped, as for drawing or for RLE; MMDetection hands all of them on.  Its NMS is not counted, since the
reference environment has a loop in Python in place of mmcv's compiled operation; ours is.

Peak memory is the kernel's count for a fresh process with its usual allocator.  Writes
``benchmarks/results/masks.json`` and prints a table.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from head import (
    HERE,
    KEEP_MEMORY,
    TESTS,
    Row,
    Side,
    alternate,
    memory_row,
    new_record,
    read_options,
    spread,
    table,
    write_record,
)

RESULT = HERE / "results" / "masks.json"
LOSS_TOLERANCE = 1e-4
TURNED = 1e-5
"""Share of a mask's pixels whose logit lies so near to 0 that rounding may turn them."""
TIMES = (
    Row("losses with masks, batch 2", "masks 640 2 20", 2),
    Row("losses with masks, batch 8", "masks 640 8 20", 2),
    Row("100 masks of objects, 480 x 640", "objects 480 640", 5, compiled=False),
    Row("100 masks of objects, 1440 x 1920", "objects 1440 1920", 5, compiled=False),
    Row("100 masks of noise, 480 x 640", "noise 480 640", 1, compiled=False),
    Row("100 masks of noise, 1440 x 1920", "noise 1440 1920", 1, compiled=False),
)
MEMORY = (
    Row("memory of losses with masks, batch 2", "masks 640 2 20", 20),
    Row("memory of losses with masks, batch 8", "masks 640 8 20", 20),
    Row("memory of 100 masks of noise, 1440 x 1920", "noise 1440 1920", 10),
)


def check(case: str, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> int:
    """Compare two answers to a case; the number of gradients that a value at relu's kink decides.

    Raises:
        AssertionError: where they differ by more than round-off, or in more pixels than it may turn.
    """
    if case.startswith(("noise", "objects")):
        for name, value in theirs.items():
            pixels = value.sum()
            turned = (ours[name] - value).abs().sum()
            assert turned <= TURNED * pixels, f"{case}: {turned:.0f} of {pixels:.0f} pixels differ ({name})"
        return 0
    sys.path[:0] = [path for path in (str(TESTS), str(HERE)) if path not in sys.path]
    from head_worker import with_masks
    from parity.live import settle_ties

    made = with_masks(*map(int, case.split()[1:]))
    ours, theirs, open_ones, mistakes = settle_ties("ins_losses", made, ours, theirs)
    assert not mistakes, f"{case}: {mistakes} priors have another box, and are no ties"
    assert theirs, f"{case}: a tie of the assignment leaves nothing to compare"
    for name, value in theirs.items():
        worst = float((ours[name] - value).abs().max() / value.abs().max())
        assert worst < LOSS_TOLERANCE, f"{case}: {name} differs by {worst:.1g}"
    return open_ones


def time_row(row: Row, sides: list[Side], options: argparse.Namespace) -> dict[str, Any]:
    """The times of all sides, and the ratios of both lanes."""
    sides = sides if row.compiled else sides[:2]
    theirs, *lanes = (side.answer(row.case) for side in sides)
    kinks = max(check(row.case, ours, theirs) for ours in lanes)
    times = alternate(sides, options.repeats, options.budget)
    # a part is what counts, where one is told: the rest is making truth
    found = {s.name: spread(one["part"] or one["seconds"]) for s, one in zip(sides, times, strict=True)}
    ratios = {side.name: round(found["original"]["median_ms"] / found[side.name]["median_ms"], 2) for side in sides[1:]}
    reached = next((name for name, ratio in ratios.items() if ratio >= row.goal), "")
    return {
        "name": row.name,
        "case": row.case,
        **found,
        "ratio": ratios["ours"],
        "ratio_compiled": ratios.get("compiled"),
        "goal": row.goal,
        "reached": bool(reached),
        "lane": {"ours": "eager", "compiled": "compiled", "": ""}[reached],
        "kinks": kinks,
    }


def main() -> int:
    """Compare, time, print, record."""
    options = read_options(__doc__, repeats=5, budget=20.0)
    pythons = {"original": options.reference, "ours": sys.executable}
    lanes = pythons | {"compiled": sys.executable}
    record = new_record("masks.py", options.threads)
    print(table(record), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        timed = [row for row in TIMES if options.only in row.name]
        sides: list[Side] = []
        try:
            if timed:
                wanted = lanes if any(row.compiled for row in timed) else pythons
                sides += [Side(python, name, options.threads, folder, KEEP_MEMORY) for name, python in wanted.items()]
                record["versions"]["original"] = sides[0].ask(versions=1)
            for row in timed:
                show(record, time_row(row, sides, options))
        finally:
            for side in sides:
                side.close()
        for row in MEMORY:
            if options.only in row.name:
                show(record, memory_row(row, pythons, folder, options.threads))
    if not options.only:
        write_record(RESULT, record)
    return 0


def show(record: dict[str, Any], row: dict[str, Any]) -> None:
    """Keep a row, and print it."""
    record["rows"].append(row)
    print(table({"rows": [row]}).splitlines()[-1], flush=True)


if __name__ == "__main__":
    sys.exit(main())
