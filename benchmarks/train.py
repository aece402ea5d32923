"""Train a preset with several seeds, one after the other, and record what came out.

    python benchmarks/train.py mini-160 --seeds 0 1 2
    python benchmarks/train.py mini-160 --record cards --note "playing cards" -- --data.root path/to/cards --epochs 40

What follows ``--`` goes to ``python -m minirtmdet train``.  Writes ``benchmarks/results/<record>.json`` with versions,
machine, date and the command itself, and prints a table.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

RESULTS = Path(__file__).parent / "results"
KEPT = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
# where masks are found too
KEPT_OF_MASKS = tuple(f"mask_{name}" for name in KEPT)


def train_once(preset: str, seed: int, rest: list[str], out: Path) -> dict[str, object]:
    """One run in a process of its own, or what is missing of it; its metrics.json in short."""
    name = f"seed-{seed}"
    command = [sys.executable, "-m", "minirtmdet", "train", preset, "--out", str(out), "--name", name, "--resume"]
    subprocess.run([*command, "--seed", str(seed), *rest], check=True)
    found = json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
    metrics = {key: round(found["metrics"][key], 4) for key in KEPT + KEPT_OF_MASKS if key in found["metrics"]}
    return {"seed": seed, **metrics, **{key: found[key] for key in ("images_seen", "train_seconds", "device")}}


def surroundings(more: Sequence[str] = ()) -> dict[str, object]:
    """When, where and with what something was measured; with the versions of ``more`` packages where they are there."""
    names = ["minirtmdet", "torch", "numpy", "opencv-python-headless", *filter(find_spec, more)]
    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in names},
    }


def main() -> None:
    """Run, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--record", help="name of the record; the preset's where left out")
    parser.add_argument("--note", default="", help="what the data is")
    own, rest = sys.argv[1:], []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)

    with TemporaryDirectory() as out:
        runs = [train_once(args.preset, seed, rest, Path(out)) for seed in args.seeds]
    scores = [name for name in ("AP", "mask_AP") if name in runs[0]]
    aps = {name: [float(str(run[name])) for run in runs] for name in scores}
    # the folder of somebody's data is nobody else's business
    shown = [
        "path/to/data" if before == "--data.root" else word for before, word in zip(["", *rest], rest, strict=False)
    ]
    record = {
        "command": shlex.join(
            ["python", "benchmarks/train.py", args.preset, *own[1:], *(["--", *shown] if rest else [])]
        ),
        "note": args.note,
        **surroundings(),
        **{f"{name} mean": round(statistics.mean(aps[name]), 4) for name in scores},
        **{f"{name} spread": round(max(aps[name]) - min(aps[name]), 4) for name in scores},
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{args.record or args.preset}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    for run in runs:
        found = ", ".join(f"{name} {run[name]:.3f}" for name in scores)
        print(f"seed {run['seed']}: {found} after {run['images_seen']} images, {run['train_seconds']:.0f} s")
    for name in scores:
        print(f"{name} mean {record[f'{name} mean']:.3f}, spread {record[f'{name} spread']:.3f}; in {path.name}")


if __name__ == "__main__":
    main()
