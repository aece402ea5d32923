"""Train a preset for few images from scratch and from weights that have learned something else; record both.

    python benchmarks/fine_tuning.py --seeds 0 1 2 -- --data.root path/to/cards --epochs 12 --data.input-size 160

The weights are those of ``mini-160``, whose network is that of ``few-256``, and which this trains first on the embedded
scenes; ``--weights`` names other ones, an official size too.  All else is the same: each seed trains twice.  What
follows ``--`` goes to ``python -m minirtmdet train``.  Writes ``benchmarks/results/<record>.json`` and prints a table.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from train import RESULTS, surroundings, train_once

from minirtmdet.files import write_json

PRETRAINED = "mini-160"


def pretrain(out: Path) -> tuple[Path, dict[str, object]]:
    """The embedded scenes' detector, and what it reached there."""
    command = [sys.executable, "-m", "minirtmdet", "train", PRETRAINED, "--out", str(out)]
    subprocess.run(command, check=True)
    found = json.loads((out / PRETRAINED / "metrics.json").read_text(encoding="utf-8"))
    return out / PRETRAINED / "best.pt", {"preset": PRETRAINED, "AP": round(found["metrics"]["AP"], 4)}


def summary(runs: list[dict[str, object]]) -> dict[str, object]:
    """Mean and spread over the seeds, and the runs."""
    aps = [float(str(run["AP"])) for run in runs]
    return {"AP mean": round(statistics.mean(aps), 4), "AP spread": round(max(aps) - min(aps), 4), "runs": runs}


def main() -> None:
    """Run, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="few-256")
    parser.add_argument("--weights", help=f"where to start from; trained here by {PRETRAINED} where left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", default="fine-tuning")
    parser.add_argument("--note", default="", help="what the data is")
    own, rest = sys.argv[1:], []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)

    with TemporaryDirectory() as folder:
        out = Path(folder)
        weights, start = (args.weights, {"weights": Path(args.weights).name}) if args.weights else pretrain(out)
        ways = {"from scratch": rest, "fine-tuned": [*rest, "--weights", str(weights)]}
        runs: dict[str, list[dict[str, object]]] = {way: [] for way in ways}
        for seed in args.seeds:
            for way, words in ways.items():
                runs[way].append(train_once(args.preset, seed, words, out / way))
                print(f"{way}, seed {seed}: AP {runs[way][-1]['AP']:.3f}", flush=True)
    # the folder of somebody's data is nobody else's business
    shown = [
        "path/to/data" if before == "--data.root" else word for before, word in zip(["", *rest], rest, strict=False)
    ]
    record = {
        "command": shlex.join(["python", "benchmarks/fine_tuning.py", *own, *(["--", *shown] if rest else [])]),
        "note": args.note,
        **surroundings(),
        "start": start,
        **{way: summary(those) for way, those in runs.items()},
    }
    write_json(RESULTS / f"{args.record}.json", record)
    for way, those in runs.items():
        found = summary(those)
        print(f"{way}: AP mean {found['AP mean']:.3f}, spread {found['AP spread']:.3f}")


if __name__ == "__main__":
    main()
