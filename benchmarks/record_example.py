"""Train mini-160 and record what it says to the book's image, after some steps and at the end.

    python benchmarks/record_example.py

Writes ``src/minirtmdet/data/example.safetensors``.  Training differs in the last digits from machine to machine, so
that a new recording means new numbers in the chapters.
"""

import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from minirtmdet.data.example import RECORDING, STEPS, example
from minirtmdet.detector import RTMDet
from minirtmdet.engine.trainer import Trainer
from minirtmdet.files import atomic_path
from minirtmdet.presets import PRESETS

TENSORS: dict[str, Tensor] = {}


@torch.no_grad()
def record(model: RTMDet, stage: object, images: Tensor) -> None:
    """Keep the maps of the first image; BatchNorm takes its statistics as the model's mode says."""
    for name, maps in zip(("cls_scores", "bbox_preds"), model(images), strict=True):
        for level, values in enumerate(maps):
            TENSORS[f"{stage}/{name}/{level}"] = values[:1].clone(memory_format=torch.contiguous_format)


def main() -> None:
    """Train, watch, write."""
    with TemporaryDirectory() as out:
        trainer = Trainer(replace(PRESETS["mini-160"], out=Path(out)))
        image = example().images.to(trainer.device)
        others = next(iter(trainer.val_loader)).images[:7].to(trainer.device)
        batch = torch.cat([image, others])

        def watch(trainer: Trainer) -> None:
            # a copy: looking on must not move the running statistics
            if trainer.step in STEPS:
                record(copy.deepcopy(trainer.model).train(), trainer.step, batch)

        watch(trainer)
        trainer.watchers.append(watch)
        metrics = trainer.fit()
        record(trainer.ema_model, "finished", image)
    with atomic_path(RECORDING) as temporary:
        save_file({name: values.cpu() for name, values in TENSORS.items()}, temporary)
    print(f"AP {metrics['AP']:.3f}; {len(TENSORS)} maps in {RECORDING.name}")


if __name__ == "__main__":
    main()
