"""Train mini-160 and record what it says to the book's scenes, after some steps and at the end.

    python benchmarks/record_example.py
    python benchmarks/record_example.py --only crowds

Writes ``example.safetensors`` and ``crowds.safetensors`` in ``src/minirtmdet/data``.  Training differs in the last
digits from machine to machine, so that a new recording means new numbers in the chapters.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from minirtmdet.data.example import CROWD_RECORDING, CROWD_STEPS, CROWDS, RECORDING, STEPS, example
from minirtmdet.detector import RTMDet
from minirtmdet.engine.trainer import Trainer
from minirtmdet.files import atomic_path
from minirtmdet.presets import PRESETS

FILES = {"example": RECORDING, "crowds": CROWD_RECORDING}
TENSORS: dict[str, dict[str, Tensor]] = {"example": {}, "crowds": {}}


@torch.no_grad()
def record(model: RTMDet, file: str, stage: object, images: Tensor) -> None:
    """Keep the maps of the first image; BatchNorm takes its statistics as the model's mode says."""
    for name, maps in zip(("cls_scores", "bbox_preds"), model(images), strict=True):
        for level, values in enumerate(maps):
            kept = values[:1].clone(memory_format=torch.contiguous_format)
            TENSORS[file][f"{stage}/{name}/{level}"] = kept.cpu()


def main() -> None:
    """Train, watch, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FILES, help="write this file, and leave the other as it is")
    only = parser.parse_args().only
    with TemporaryDirectory() as out:
        trainer = Trainer(replace(PRESETS["mini-160"], out=Path(out)))
        image = example().images.to(trainer.device)
        crowds = {name: scene().images.to(trainer.device) for name, scene in CROWDS.items()}
        others = next(iter(trainer.val_loader)).images[:7].to(trainer.device)

        def watch(trainer: Trainer) -> None:
            # copies: looking on must not move the running statistics
            if trainer.step in STEPS:
                record(copy.deepcopy(trainer.model).train(), "example", trainer.step, torch.cat([image, others]))
            if trainer.step in CROWD_STEPS:
                for name, crowd in crowds.items():
                    batch = torch.cat([crowd, others])
                    record(copy.deepcopy(trainer.model).train(), "crowds", f"{name}/{trainer.step}", batch)

        watch(trainer)
        trainer.watchers.append(watch)
        metrics = trainer.fit()
        record(trainer.ema_model, "example", "finished", image)
    print(f"AP {metrics['AP']:.3f}")
    for file in FILES if only is None else [only]:
        with atomic_path(FILES[file]) as temporary:
            save_file(TENSORS[file], temporary)
        print(f"{len(TENSORS[file])} maps in {FILES[file].name}")


if __name__ == "__main__":
    main()
