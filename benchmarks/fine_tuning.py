"""Train a preset for few images from scratch and from weights that have learned something else; record both.

    python benchmarks/fine_tuning.py --seeds 0 1 2 -- --data.root path/to/cards --epochs 12 --data.input-size 160

The weights are those of ``mini-160``, whose network is that of ``few-256``, and which this trains first on the embedded
scenes; ``--weights`` names other ones, an official size too.  All else is the same: each seed trains twice.  What
follows ``--`` goes to ``python -m minirtmdet train``, and what follows ``--tuned`` to the fine-tuned runs alone.  With
``--keep FOLDER`` runs stay, and a command that was cut off goes on with those that are missing.  Writes
``benchmarks/results/<record>.json`` and prints a table.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from train import RESULTS, surroundings, train_once

from minirtmdet.files import write_json
from minirtmdet.weights.checkpoint import read_checkpoint
from minirtmdet.weights.published import published_size

PRETRAINED = "mini-160"


def pretrain(out: Path) -> Path:
    """The embedded scenes' detector."""
    subprocess.run([sys.executable, "-m", "minirtmdet", "train", PRETRAINED, "--out", str(out), "--resume"], check=True)
    return out / PRETRAINED / "best.pt"


def describe_start(weights: Path) -> dict[str, object]:
    """Where the weights come from, and what they reached there."""
    checkpoint = read_checkpoint(weights)
    found: dict[str, object] = {"file": weights.name}
    if checkpoint.config is not None:
        found |= {"run": checkpoint.config.name, "epochs": checkpoint.config.epochs}
    return found | ({"AP": round(checkpoint.metrics["AP"], 4)} if "AP" in checkpoint.metrics else {})


def summary(runs: list[dict[str, object]]) -> dict[str, object]:
    """Mean and spread over the seeds, and the runs."""
    aps = [float(str(run["AP"])) for run in runs]
    seconds = [float(str(run["train_seconds"])) for run in runs]
    return {
        "AP mean": round(statistics.mean(aps), 4),
        "AP spread": round(max(aps) - min(aps), 4),
        "seconds mean": round(statistics.mean(seconds), 1),
        "runs": runs,
    }


def main() -> None:
    """Run, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="few-256")
    parser.add_argument("--weights", help=f"where to start from; trained here by {PRETRAINED} where left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", default="fine_tuning")
    parser.add_argument("--note", default="", help="what the data is")
    parser.add_argument("--tuned", default="", help="settings of the fine-tuned runs alone, in one word")
    parser.add_argument("--keep", type=Path, help="where runs stay; elsewhere they are forgotten")
    own, rest = sys.argv[1:], []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)

    with TemporaryDirectory() as folder:
        out = args.keep or Path(folder)
        weights = Path(args.weights) if args.weights else pretrain(out)
        start = {"size": args.weights} if published_size(weights) else describe_start(weights)
        ways = {
            "from scratch": rest,
            "fine-tuned": [*rest, "--weights", str(weights.absolute()), *shlex.split(args.tuned)],
        }
        runs: dict[str, list[dict[str, object]]] = {way: [] for way in ways}
        for seed in args.seeds:
            for way, words in ways.items():
                runs[way].append(train_once(args.preset, seed, words, out / way))
                print(f"{way}, seed {seed}: AP {runs[way][-1]['AP']:.3f}", flush=True)
    # the folders of somebody's data are nobody else's business
    places = {"--data.root": "path/to/data", "--weights": "path/to/best.pt", "--keep": "path/to/runs"}
    words = [*own, *(["--", *rest] if rest else [])]
    shown = [places.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    record = {
        "command": shlex.join(["python", "benchmarks/fine_tuning.py", *shown]),
        "note": args.note,
        **surroundings(),
        "start": start,
        **{way: summary(those) for way, those in runs.items()},
    }
    write_json(RESULTS / f"{args.record}.json", record)
    for way, those in runs.items():
        found = summary(those)
        print(f"{way}: AP mean {found['AP mean']:.3f}, spread {found['AP spread']:.3f}, {found['seconds mean']:.0f} s")


if __name__ == "__main__":
    main()
