"""What is recorded of a finished run."""

import importlib
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import torch
import tyro
from helpers.tiny_sets import write_both_parts

from minirtmdet.cli.train import Preset
from minirtmdet.configs import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from minirtmdet.engine.trainer import Trainer
from minirtmdet.evaluation.matching import match_detections
from minirtmdet.presets import PRESETS
from minirtmdet.structures import Detections


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("record_run")


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_command_makes_the_settings_again(script: ModuleType, preset: str) -> None:
    base = PRESETS[preset]
    config = replace(
        base,
        name="cards",
        out=Path("elsewhere"),
        device="cpu",
        model=replace(base.model, exp_on_reg=not base.model.exp_on_reg, num_classes=6),
        augment=replace(base.augment, mosaic=0.25, scale=(0.7, 1.4), hsv=(1, 2, 3)),
        optim=replace(base.optim, warmup_factor=1.25e-7, cosine_to_the_end=not base.optim.cosine_to_the_end),
        data=replace(base.data, root=Path("/home/somebody/cards"), val_json=Path("/home/somebody/cards/v.json")),
        sync_bn=False,
    )
    line = script.command(config)
    assert "somebody" not in line
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "minirtmdet", "train", preset]
    again = tyro.cli(Preset, args=words[4:], config=(tyro.conf.OmitSubcommandPrefixes,))
    placed = replace(config.data, root=Path("path/to/data"), val_json=Path("path/to/data/v.json"))
    expected = replace(config, out=base.out, device=base.device, data=placed)
    assert replace(again, model=replace(again.model, num_classes=6)) == expected


def test_the_loss_curve_is_thinned_by_means(script: ModuleType) -> None:
    rows = [
        {"step": str(step), "loss_cls": str(step), "loss_bbox": "1.0", "num_pos": "2", "AP": ""} for step in range(1, 8)
    ]
    curve = script.losses(rows, 4.0, points=3)
    assert curve["images_seen"] == [12, 24, 28]
    assert curve["loss_cls"] == [2.0, 5.0, 7.0]
    assert script.losses(rows, 4.0)["loss_cls"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_mistakes_are_counted_over_all_images(script: ModuleType) -> None:
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    no = torch.tensor([False])
    taken = match_detections(Detections(box, torch.tensor([0.9]), torch.tensor([1])), box, torch.tensor([0]), no)
    found = match_detections(Detections(box, torch.tensor([0.9]), torch.tensor([0])), box, torch.tensor([0]), no)
    assert script.describe_mistakes({1: taken, 2: taken, 3: found}, ("king", "queen")) == {
        "boxes": 3,
        "found": 1,
        "missed": {"king": 2},
        "false": {"class": 2},
        "confused": {"king taken for queen": 2},
    }


def test_a_finished_run_is_recorded_without_training(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_both_parts(tmp_path / "data", 4)
    config = TrainConfig(
        name="run",
        out=tmp_path,
        model=ModelConfig(0.1, 0.125, 1, num_classes=3),
        data=DataConfig(root=tmp_path / "data", input_size=64),
        augment=AugmentConfig(mosaic=0.0, mixup=0.0),
        optim=OptimConfig(lr=2e-3, base_batch=2, warmup_iters=1),
        epochs=2,
        batch_size=2,
        eval_every=1,
        device="cpu",
    )
    metrics = Trainer(config, say=lambda _: None).fit()
    words = f"record_run.py {tmp_path / 'run'} --record noise --note noise --licence none --results {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", shlex.split(words))
    script.main()
    record = json.loads((tmp_path / "out/noise.json").read_text())
    assert record["metrics"]["AP"] == pytest.approx(metrics["AP"], abs=1e-4)
    assert record["images"] == {"train": 4, "val": 3}
    assert record["evaluations"]["images_seen"] == record["losses"]["images_seen"] == [4, 8]
    assert list(record["by_class"]) == ["cat", "dog", "hen"]
    assert record["image"]["file"] == "noise.jpg"
    assert str(tmp_path) not in json.dumps(record)
    assert cv2.imread(str(tmp_path / "out/noise.jpg")) is not None
    assert (tmp_path / "out/noise.jpg").stat().st_size <= script.LARGEST
    words = words.replace("--record noise", "--record numbers --worst 0")
    monkeypatch.setattr(sys, "argv", shlex.split(words))
    script.main()
    numbers = json.loads((tmp_path / "out/numbers.json").read_text())
    assert numbers == {key: value for key, value in record.items() if key != "image"}
    assert not (tmp_path / "out/numbers.jpg").exists()
