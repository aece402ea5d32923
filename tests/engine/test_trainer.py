import csv
import json
import math
import os
import signal
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import MODEL, quiet, same_state
from helpers.tiny_sets import CATEGORIES, box_entry, write_random_set, write_set
from torch import Tensor

from minirtmdet import build_detector
from minirtmdet.configs import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from minirtmdet.devices import pick_device
from minirtmdet.engine.results import describe_results
from minirtmdet.engine.trainer import Trainer
from minirtmdet.judge.waits import HostReads
from minirtmdet.weights.checkpoint import read_checkpoint, save_checkpoint
from minirtmdet.weights.formats import CheckpointError


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainConfig:
    """Three epochs of six steps."""
    return TrainConfig(
        name="run",
        out=tmp_path,
        model=MODEL,
        data=DataConfig(root=data, input_size=64),
        optim=OptimConfig(lr=2e-3, base_batch=2, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=3,
        batch_size=2,
        eval_every=2,
        device="cpu",
    )


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of numbers alone: drawing takes longer than training here."""
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)


def test_a_run_writes_its_folder(config: TrainConfig):
    lines: list[str] = []
    trainer = Trainer(config, say=lines.append)
    trainer.fit(until_epoch=1)
    assert not (trainer.run_dir / "metrics.json").exists()
    metrics = trainer.fit()
    assert {path.name for path in trainer.run_dir.iterdir()} >= {
        "best.pt", "last.pt", "config.json", "log.csv", "metrics.json", "loss_curve.png", "detections.png",
    }  # fmt: skip
    with (trainer.run_dir / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "6"), ("2", "12"), ("3", "18")]
    assert [row["AP"] != "" for row in rows] == [False, True, True]  # every second epoch, and the last
    assert [float(row["loss_cls"]) for row in rows] == [row["loss_cls"] for row in trainer.history]
    assert all(row["num_pos"] > 0 and row["images_per_second"] > 0 for row in trainer.history)
    written = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert written["metrics"] == metrics == trainer.metrics
    assert (written["images_seen"], written["steps"], written["epochs"]) == (36, 18, 3)
    assert json.loads((trainer.run_dir / "config.json").read_text())["classes"] == ["cat", "dog", "hen"]
    best = read_checkpoint(trainer.run_dir / "best.pt")
    assert best.training is None
    assert best.metrics["AP"] == trainer.progress.best["AP"] == max(row.get("AP", -1) for row in trainer.history)
    last = read_checkpoint(trainer.run_dir / "last.pt")
    assert all(torch.equal(value, last.state_dict[key]) for key, value in trainer.ema_model.state_dict().items())
    assert lines[-1].startswith("done: AP ")


@pytest.mark.usefixtures("no_images")
def test_in_pieces_it_is_the_same_run(config: TrainConfig):
    whole = Trainer(config, say=quiet)
    whole.fit()
    pieces = Trainer(replace(config, name="pieces"), say=quiet)
    assert pieces.fit(until_epoch=1) == {}
    assert pieces.epoch == 1
    torch.rand(3)  # what a reader does between two cells
    pieces.fit(until_epoch=1)
    assert pieces.step == 6
    assert pieces.fit() == whole.metrics
    state, other = whole.model.state_dict(), pieces.model.state_dict()
    assert all(torch.equal(value, other[key]) for key, value in state.items())


@pytest.mark.usefixtures("no_images")
def test_resumed_after_an_epoch_it_is_the_same_run(config: TrainConfig):
    Trainer(config, say=quiet).fit()
    Trainer(replace(config, name="resumed"), say=quiet).fit(until_epoch=1)
    trainer = Trainer(replace(config, name="resumed", resume=True), say=quiet)
    assert (trainer.epoch, trainer.step, len(trainer.history)) == (1, 6, 1)
    trainer.fit()
    same_state(config.out / "run", config.out / "resumed")
    assert len((config.out / "resumed/log.csv").read_text().splitlines()) == 4


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_within_an_epoch_and_resumed_it_is_the_same_run(config: TrainConfig, number: int):
    before = signal.getsignal(signal.SIGINT)  # a shell starts what runs in the background with it ignored
    Trainer(config, say=quiet).fit()
    lines: list[str] = []
    trainer = Trainer(replace(config, name="resumed"), say=lines.append)
    interrupt_in_step(trainer, 9, number)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert "stopped after step 9 of 18" in lines[-1]
    assert "--resume continues" in lines[-1]
    trainer = Trainer(replace(config, name="resumed", resume=True), say=quiet)
    assert (trainer.epoch, trainer.progress.position, trainer.step) == (1, 3, 9)
    trainer.fit()
    same_state(config.out / "run", config.out / "resumed")
    assert signal.getsignal(signal.SIGINT) is before


def interrupt_in_step(trainer: Trainer, step: int, number: int) -> None:
    """Send a signal in the middle of a step, after its update."""
    update = trainer.ema.update

    def interrupted(model: torch.nn.Module) -> None:
        update(model)
        if trainer.step == step - 1:
            signal.raise_signal(number)

    trainer.ema.update = interrupted  # type: ignore[method-assign]


@pytest.mark.usefixtures("no_images")
def test_interrupted_in_evaluation_it_evaluates_after_resuming(config: TrainConfig):
    Trainer(config, say=quiet).fit()
    trainer = Trainer(replace(config, name="resumed"), say=quiet)

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    trainer.evaluate = interrupted  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    trainer = Trainer(replace(config, name="resumed", resume=True), say=quiet)
    assert (trainer.epoch, trainer.progress.position) == (1, 6)
    trainer.fit()
    same_state(config.out / "run", config.out / "resumed")


@pytest.mark.usefixtures("no_images")
def test_a_finished_run_that_is_resumed_is_left_as_it_is(config: TrainConfig):
    metrics = Trainer(config, say=quiet).fit()
    before = (config.out / "run/last.pt").stat().st_mtime_ns
    trainer = Trainer(replace(config, resume=True), say=quiet)
    assert trainer.fit() == metrics
    assert (config.out / "run/last.pt").stat().st_mtime_ns == before


def test_what_a_run_holds_is_let_go_with_it(config: TrainConfig):
    """At once, not when Python next looks for reference cycles: a next run in the notebook needs memory and lock."""
    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=1)
    held = weakref.ref(trainer), weakref.ref(trainer.model)
    del trainer
    assert [thing() for thing in held] == [None, None]


def test_a_folder_with_a_run_is_not_overwritten_unasked(config: TrainConfig):
    Trainer(config, say=quiet).fit(until_epoch=1)
    with pytest.raises(FileExistsError, match=r"--resume continues it, --overwrite starts it again, --name"):
        Trainer(config, say=quiet)
    with pytest.raises(ValueError, match="exclude each other"):
        Trainer(replace(config, resume=True, overwrite=True), say=quiet)
    bad = replace(config, overwrite=True, weights=Path("nope.pth"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint nope\.pth"):
        Trainer(bad, say=quiet)
    assert (config.out / "run/last.pt").exists()  # nothing is lost to a mistake in the other settings
    trainer = Trainer(replace(config, overwrite=True), say=quiet)
    assert (trainer.step, trainer.history) == (0, [])
    assert not (config.out / "run/last.pt").exists()


def test_resuming_nothing_starts_and_says_so(config: TrainConfig):
    lines: list[str] = []
    assert Trainer(replace(config, resume=True), say=lines.append).step == 0
    assert lines[0].startswith("nothing to resume")


def test_resuming_with_other_settings_names_them(config: TrainConfig, tmp_path: Path):
    Trainer(config, say=quiet).fit(until_epoch=1)
    config = replace(config, resume=True)
    with pytest.raises(ValueError, match=r"a run with optim\.lr 0\.002 \(now 0\.1\); seed 0 \(now 3\)"):
        Trainer(replace(config, seed=3, optim=replace(config.optim, lr=0.1)), say=quiet)
    fewer = tmp_path / "fewer"
    write_random_set(fewer, 3)
    write_random_set(fewer, 3, name="val")
    with pytest.raises(ValueError, match="trained on 12 images, the data has 3"):
        Trainer(replace(config, data=replace(config.data, root=fewer)), say=quiet)
    save_checkpoint(tmp_path / "run/last.pt", build_detector(MODEL).state_dict(), config, ["cat", "dog", "hen"])
    with pytest.raises(CheckpointError, match="weights alone"):
        Trainer(config, say=quiet)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(config: TrainConfig):
    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=1)
    saved = (config.out / "run/last.pt").read_bytes()
    forward: Callable[..., dict[str, Tensor]] = trainer.model.forward

    def broken(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        losses = forward(*args, **kwargs)
        return {**losses, "loss_cls": losses["loss_cls"] * (math.nan if trainer.step == 8 else 1)}

    trainer.model.forward = broken  # type: ignore[method-assign,assignment]
    third = list(trainer.loader.epoch(1))[2].paths
    with pytest.raises(FloatingPointError) as error:
        trainer.fit()
    assert "not finite at step 9 (loss_cls nan" in str(error.value)
    assert str(error.value).endswith(", ".join(third))
    assert (config.out / "run/last.pt").read_bytes() == saved


def test_accumulated_gradients_are_the_mean_of_the_batches(config: TrainConfig):
    config = replace(config, optim=replace(config.optim, accumulate=4, base_batch=8))
    trainer = Trainer(config, say=quiet)
    assert trainer.steps_per_epoch == 2  # of four batches and of two
    batches = list(trainer.loader.epoch(0))[:4]
    expected: dict[str, Tensor] = {}
    for batch in batches:
        trainer.model.zero_grad()
        losses = trainer.model(batch.images, batch.ground_truth)
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
        for name, parameter in trainer.model.named_parameters():
            assert parameter.grad is not None
            expected[name] = expected.get(name, torch.zeros_like(parameter)) + parameter.grad / 4
    trainer._train_step(batches)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert trainer.step == 1
    trainer.fit(until_epoch=1)
    assert trainer.step == 2  # the rest of the epoch makes a step of its own


def test_a_step_never_waits_for_the_device(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU: shapes that stay
    trainer = Trainer(config, say=quiet)
    batches = list(trainer.loader.epoch(0))
    trainer._train_step(batches[:1])  # the first step makes the optimiser's state
    with HostReads() as reads:
        trainer._train_step(batches[1:2])
    assert reads.seen == []


def test_learning_rate_and_what_differs_are_said(config: TrainConfig):
    lines: list[str] = []
    optim = replace(config.optim, base_batch=8, warmup_iters=100)
    trainer = Trainer(replace(config, optim=optim, model=replace(MODEL, num_classes=16)), say=lines.append)
    assert "classes: 3 of the data in place of 16" in lines
    assert "learning rate: 0.0005 for 2 images per step (0.002 for 8)" in lines
    assert "warm-up: 1 steps in place of 100, a tenth of the run's 18" in lines
    trainer.fit(until_epoch=1)
    assert trainer.history[0]["lr"] == pytest.approx(0.0005)
    assert trainer.model.config.num_classes == trainer.config.model.num_classes == 3


def test_bf16_trains_with_losses_in_fp32(config: TrainConfig):
    trainer = Trainer(replace(config, amp="bf16"), say=quiet)
    trainer.fit(until_epoch=1)
    assert math.isfinite(trainer.history[0]["loss"])
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert trainer.model.training


def weights(path: Path, num_classes: int, classes: list[str] | None) -> dict[str, Tensor]:
    torch.manual_seed(7)
    state = build_detector(MODEL, num_classes=num_classes).state_dict()
    if classes is None:
        torch.save({"state_dict": state}, path)
    else:
        save_checkpoint(path, state, TrainConfig(model=MODEL), classes)
    return state


@pytest.mark.parametrize(
    ("classes", "fresh"),
    [
        (["cat", "dog", "hen"], False),
        (["hen", "dog", "cat"], True),  # as many, but other ones
        (["cat", "dog"], True),
    ],
)
def test_fine_tuning_keeps_all_but_other_classes(config: TrainConfig, tmp_path: Path, classes: list[str], fresh: bool):
    state = weights(tmp_path / "w.pt", len(classes), classes)
    lines: list[str] = []
    trainer = Trainer(replace(config, weights=tmp_path / "w.pt"), say=lines.append)
    assert any("6 starting fresh: bbox_head.rtm_cls.0.bias" in line for line in lines) is fresh
    for key, value in trainer.model.state_dict().items():
        if "rtm_cls" not in key:
            assert torch.equal(value, state[key]), key
        elif key.endswith("weight"):
            assert (value.shape == state[key].shape and torch.equal(value, state[key])) is not fresh
        assert torch.equal(trainer.ema_model.state_dict()[key], value)


def test_fine_tuning_from_weights_that_name_no_classes(config: TrainConfig, tmp_path: Path):
    state = weights(tmp_path / "w.pth", 3, None)
    trainer = Trainer(replace(config, weights=tmp_path / "w.pth"), say=quiet)
    assert torch.equal(trainer.model.bbox_head.rtm_cls[0].weight, state["bbox_head.rtm_cls.0.weight"])
    other = build_detector("nano", num_classes=3).state_dict()
    torch.save(other, tmp_path / "nano.pth")
    with pytest.raises(CheckpointError, match=r"expected widen_factor 0\.125, 3 classes, found widen_factor 0\.25"):
        Trainer(replace(config, weights=tmp_path / "nano.pth"), say=quiet)


def test_a_backbone_alone_is_a_start_too(config: TrainConfig, tmp_path: Path):
    state = {key: value for key, value in build_detector(MODEL).state_dict().items() if key.startswith("backbone.")}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    lines: list[str] = []
    trainer = Trainer(replace(config, weights=tmp_path / "w.pth"), say=lines.append)
    assert any("neck and head start fresh" in line for line in lines)
    assert torch.equal(trainer.model.backbone.stem[0].conv.weight, state["backbone.stem.0.conv.weight"])


def test_classes_are_matched_by_name(config: TrainConfig, tmp_path: Path):
    root = tmp_path / "shuffled"
    write_random_set(root, 4)
    names = ["hen", "cat", "dog"]
    write_set(root, name="val", categories=[{"id": 10 - i, "name": name} for i, name in enumerate(names)])
    trainer = Trainer(replace(config, data=replace(config.data, root=root)), say=quiet)
    assert trainer.val_dataset.classes == trainer.dataset.classes == ("cat", "dog", "hen")
    assert trainer.val_dataset.category_ids == (9, 8, 10)


@pytest.mark.usefixtures("no_images")
def test_steps_without_any_box_are_steps(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minirtmdet.engine.start.check_boxes", lambda *_: None)  # a whole run of them is refused
    root = tmp_path / "empty"
    for name in ("train", "val"):
        write_set(root, name=name, categories=CATEGORIES)
    # by default a crop without a box is drawn again
    config = replace(config, augment=AugmentConfig(empty_crops="keep"), epochs=2)
    trainer = Trainer(replace(config, data=replace(config.data, root=root)), say=quiet)
    metrics = trainer.fit()
    assert metrics["AP"] == -1
    assert trainer.history[0]["num_pos"] == 0
    assert trainer.history[0]["loss_bbox"] == 0


@pytest.mark.usefixtures("no_images")
def test_where_no_box_is_annotated_to_judge_by_there_is_no_ap_and_no_best(config: TrainConfig, tmp_path: Path):
    root = tmp_path / "unjudged"
    write_random_set(root, 4)
    write_set(root, name="val", categories=CATEGORIES)
    lines: list[str] = []
    trainer = Trainer(replace(config, data=replace(config.data, root=root), epochs=2), say=lines.append)
    assert trainer.fit()["AP"] == -1  # as the COCO tools say it
    epoch = next(line for line in lines if line.startswith("epoch 2/2"))
    assert epoch.endswith(", no AP: no box is annotated that counts")
    assert not any("-1.000" in line for line in lines)
    assert not (trainer.run_dir / "best.pt").exists()
    assert trainer.progress.best == {}
    with (trainer.run_dir / "log.csv").open() as file:
        assert [row["AP"] for row in csv.DictReader(file)] == ["", ""]
    words = describe_results(trainer.run_dir, trainer.progress)
    assert words.startswith("done: no AP: no box is annotated that counts; numbers and images are in")


def test_tensorboard_is_optional_and_said(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    lines: list[str] = []
    trainer = Trainer(config, say=lines.append)
    assert any("pip install 'minirtmdet[tensorboard]'" in line for line in lines)
    trainer.fit(until_epoch=1)
    assert not (trainer.run_dir / "tensorboard").exists()


def test_tensorboard_gets_the_rows(config: TrainConfig):
    reason = "tensorboard is an extra of the package"
    pytest.importorskip("tensorboard", reason=reason)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=2)
    events = EventAccumulator(os.fspath(trainer.run_dir / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss_cls")] == [6, 12]
    assert [event.step for event in events.Scalars("metrics/AP")] == [12]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there():
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        pick_device("cuda")


@pytest.mark.parametrize("change", [{"epochs": 0}, {"eval_every": 0}, {"optim": OptimConfig(accumulate=0)}])
def test_settings_without_sense_are_named(config: TrainConfig, change: dict[str, Any]):
    with pytest.raises(ValueError, match="is 0: expected at least 1"):
        Trainer(replace(config, **change), say=quiet)


def test_a_run_with_nothing_to_learn_does_not_start(config: TrainConfig, tmp_path: Path):
    for name in ("train", "val"):
        write_set(tmp_path / "data", annotations=[box_entry(1, 1, [5, 5, 0, 10])], name=name)
    with (
        pytest.warns(UserWarning, match="1 of 1 boxes left out"),
        pytest.raises(ValueError, match=r"train.json has no box to learn from in 1 image"),
    ):
        Trainer(replace(config, data=DataConfig(root=tmp_path / "data", input_size=64)), say=quiet)


def test_classes_that_cannot_be_learned_or_judged_are_named(config: TrainConfig, tmp_path: Path):
    root = tmp_path / "data"
    write_set(root, annotations=[box_entry(1, 1, [5, 5, 10, 10], 1), box_entry(2, 1, [5, 5, 10, 10], 2)])
    categories = [*CATEGORIES, {"id": 4, "name": "owl"}]
    boxes = [box_entry(i, 1, [5, 5, 10, 10], category_id) for i, category_id in enumerate([1, 3, 4, 4], 1)]
    write_set(root, annotations=boxes, categories=categories, name="val")
    lines: list[str] = []
    Trainer(replace(config, batch_size=1, data=DataConfig(root=root, input_size=64)), say=lines.append)
    assert f"classes without a box to learn from: hen ({root / 'train.json'})" in lines
    assert f"classes without a box to judge by: dog ({root / 'val.json'})" in lines
    assert any(line.startswith("boxes of") and line.endswith("owl (2)") for line in lines)
