"""The loss before and after the switch to the second stage, and what of it is the network's doing.

    python benchmarks/stage_switch.py

Trains the small detector with mosaics and MixUp, the last epochs without.  After every epoch the same network is also
asked for its loss on the same few batches of either stage: where the curve of the training loss steps at the switch,
these two say whether the network changed or the images.  Writes ``benchmarks/results/stage_switch.json``.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from minirtmdet.configs import ScenesConfig, TrainConfig
from minirtmdet.data.loader import Batch, TrainLoader
from minirtmdet.engine.trainer import Trainer
from minirtmdet.presets import PRESETS

RESULTS = Path(__file__).parent / "results" / "stage_switch.json"
PROBES = 12


def settings(out: Path, epochs: int, scenes: int) -> TrainConfig:
    """``mini-160`` with tiny's mosaics and MixUp."""
    config = PRESETS["mini-160"]
    mixed = replace(
        config.augment, mosaic=1.0, mixup=0.5, mosaic_cache=20, mixup_cache=10, stage2_epochs=2, scale=(0.5, 1.5)
    )
    data = replace(config.data, scenes=ScenesConfig(train=scenes))
    return replace(config, out=out, name="switch", data=data, augment=mixed, epochs=epochs, eval_every=2)


def probe(trainer: Trainer, batches: Sequence[Batch]) -> float:
    """Mean loss of the network in training on batches that it is not trained on, its statistics left as they are."""
    model = trainer.model.eval()
    with torch.no_grad():
        losses = [model(batch.images.to(trainer.device), batch.ground_truth.to(trainer.device)) for batch in batches]
    model.train()
    return sum(float(loss["loss_cls"] + loss["loss_bbox"]) for loss in losses) / len(losses)


def main() -> None:
    """Train, ask, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--scenes", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        trainer = Trainer(settings(Path(folder), args.epochs, args.scenes))
        config = trainer.config
        # other draws than the training's, of the same scenes
        loader = TrainLoader(
            trainer.dataset, config.augment, input_size=160, batch_size=config.batch_size, seed=1, epochs=args.epochs
        )
        batches = {1: list(islice(loader.epoch(0), PROBES)), 2: list(islice(loader.epoch(args.epochs - 1), PROBES))}
        probes: list[dict[str, float]] = []
        for epoch in range(1, args.epochs + 1):
            trainer.fit(until_epoch=epoch)
            found = {f"stage {stage}": round(probe(trainer, those), 4) for stage, those in batches.items()}
            probes.append({"epoch": epoch, **found})
            print(probes[-1])
        history: list[dict[str, Any]] = [
            {key: round(row[key], 5) for key in ("epoch", "step", "loss", "loss_cls", "loss_bbox", "AP") if key in row}
            for row in trainer.history
        ]
    record = {
        "command": shlex.join(["python", "benchmarks/stage_switch.py", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "stage 2 from epoch": trainer.loader.stage2_start + 1,
        "probes": probes,
        "history": history,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
