"""Runs of a detector that finds masks: what they log, write and go on from."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.runs import MODEL, make_config, quiet, same_state
from helpers.tiny_sets import box_entry, image_entry, write_both_parts, write_set

from minirtmdet.configs import INS_PREDICT, DataConfig, TrainConfig
from minirtmdet.engine.runlog import MASK_METRIC_COLUMNS, METRIC_COLUMNS
from minirtmdet.engine.trainer import Trainer
from minirtmdet.evaluation.coco import METRICS
from minirtmdet.presets import PRESETS
from minirtmdet.weights.checkpoint import read_checkpoint

INS = replace(MODEL, masks=True, exp_on_reg=False)
COCO = Path(__file__).parents[3] / "shared" / "data" / "coco100"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to train on, three to evaluate on, all with masks."""
    return write_both_parts(tmp_path_factory.mktemp("data"), 12, masks=True)


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of numbers alone: drawing takes longer than training here."""
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)


def test_a_run_learns_masks_and_says_how_well(data: Path, tmp_path: Path):
    lines: list[str] = []
    trainer = Trainer(make_config(data, tmp_path, model=INS, epochs=2, eval_every=1), say=lines.append)
    metrics = trainer.fit()
    assert set(metrics) == {*METRICS, *(f"mask_{name}" for name in METRICS)}
    with (trainer.run_dir / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() >= {"loss_mask", *METRIC_COLUMNS, *MASK_METRIC_COLUMNS}
    for row in trainer.history:
        assert row["loss"] == pytest.approx(row["loss_cls"] + row["loss_bbox"] + row["loss_mask"])
        assert 0 < row["loss_mask"] <= 2
    written = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert written["metrics"] == metrics
    # the best weights are those of the best masks
    best = read_checkpoint(trainer.run_dir / "best.pt")
    assert best.metrics["mask_AP"] == written["best"]["mask_AP"] == max(row["mask_AP"] for row in trainer.history)
    assert any("loss_mask" in line and "mask AP" in line for line in lines)
    assert lines[-1].startswith("done: mask AP ")


def test_a_run_of_boxes_logs_no_masks(data: Path, tmp_path: Path, no_images: None):
    trainer = Trainer(make_config(data, tmp_path, epochs=1), say=quiet)
    assert set(trainer.fit()) == set(METRICS)
    assert "mask" not in (trainer.run_dir / "log.csv").read_text()
    assert trainer.dataset.load(0).shapes is None


def test_a_resumed_run_is_the_run(data: Path, tmp_path: Path, no_images: None):
    whole = make_config(data, tmp_path / "whole", model=INS, epochs=2)
    Trainer(whole, say=quiet).fit()
    parts = replace(whole, out=tmp_path / "parts")
    Trainer(parts, say=quiet).fit(until_epoch=1)
    Trainer(replace(parts, resume=True), say=quiet).fit()
    same_state(whole.out / "run", parts.out / "run")


def test_the_number_of_workers_changes_nothing(data: Path, tmp_path: Path, no_images: None):
    alone = make_config(data, tmp_path / "alone", model=INS, epochs=1)
    helped = replace(alone, out=tmp_path / "helped", data=replace(alone.data, workers=2))
    for config in (alone, helped):
        Trainer(config, say=quiet).fit()
    same_state(alone.out / "run", helped.out / "run")


def test_a_set_without_masks_says_so_before_it_starts(tmp_path: Path):
    write_set(tmp_path, [image_entry(1)], [box_entry(1, 1, [5, 5, 10, 10])])
    write_set(tmp_path, [image_entry(1)], [box_entry(1, 1, [5, 5, 10, 10])], name="val")
    with (
        pytest.warns(UserWarning, match=r"train\.json: 1 of 1 boxes left out: annotation 1 of 001\.png, has no mask"),
        pytest.raises(ValueError, match="has no box to learn from"),
    ):
        Trainer(make_config(tmp_path, tmp_path / "out", model=INS), say=quiet)


def test_real_photos_with_polygons_train_and_evaluate(tmp_path: Path, no_images: None):
    if not COCO.is_dir():
        pytest.skip(f"the real data set coco100 is not at {COCO}")
    config = TrainConfig(
        out=tmp_path,
        model=replace(INS, num_classes=80),
        predict=INS_PREDICT,
        data=DataConfig(root=COCO, val_json=COCO / "train.json", input_size=128),
        augment=replace(PRESETS["rtmdet-ins-s"].augment, stage2_epochs=0),
        epochs=1,
        batch_size=20,
        eval_every=1,
        device="cpu",
    )
    trainer = Trainer(config, say=quiet)
    assert len(trainer.dataset) == 100
    metrics = trainer.fit()
    assert 0 < trainer.history[-1]["loss_mask"] <= 2
    assert 0 <= metrics["mask_AP"] <= 1  # judged: there are masks of all sizes
    assert min(metrics["mask_APs"], metrics["mask_APm"], metrics["mask_APl"]) >= 0


@pytest.mark.parametrize("size", ["tiny", "s", "m", "l", "x"])
def test_the_published_recipes(size: str):
    """What rtmdet-ins_*_8xb32-300e_coco.py change in those of the detector; x as its name says, not its config."""
    config, detector = PRESETS[f"rtmdet-ins-{size}"], PRESETS[f"rtmdet-{size}"]
    assert config.model.masks
    assert config.predict == INS_PREDICT
    expected = replace(detector.augment, empty_crops="accept", min_box_size=1.0)
    assert config.augment == expected
    assert (config.batch_size, config.optim.lr, config.optim.base_batch) == (
        (16, 0.002, 128) if size == "x" else (32, 0.004, 256)
    )
    assert (config.epochs, config.eval_every, config.data.input_size) == (300, 10, 640)
