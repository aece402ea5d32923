"""Fine-tuning: what stays as it is, what learns slowly, when a run ends early, and what a user adds to it."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.runs import MODEL, make_config, quiet
from helpers.toy import random_batch

from minirtmdet import build_detector
from minirtmdet.configs import OptimConfig, TrainConfig
from minirtmdet.data.augment import Sample
from minirtmdet.engine.batch_size import find_batch_size
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer, freeze, parameter_groups, train_mode
from minirtmdet.engine.runlog import Row
from minirtmdet.engine.step import Inputs, TrainStep
from minirtmdet.engine.trainer import Trainer
from minirtmdet.evaluation.coco import METRICS, Evaluation
from minirtmdet.weights.checkpoint import read_checkpoint, save_checkpoint

PARTS = ("backbone.stem", *(f"backbone.stage{i}" for i in range(1, 5)), "neck", "bbox_head")
STATISTICS = ("running_mean", "running_var")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a detector of as many other classes."""
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.manual_seed(3)
    save_checkpoint(path, build_detector(MODEL).state_dict(), TrainConfig(model=MODEL), ["car", "bus", "van"])
    return path


@pytest.fixture
def config(data: Path, weights: Path, tmp_path: Path) -> TrainConfig:
    return replace(make_config(data, tmp_path), weights=weights)


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of numbers alone: drawing takes longer than training here."""
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)


def tuned(config: TrainConfig, **optim: Any) -> TrainConfig:
    return replace(config, optim=replace(config.optim, **optim))


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("optim", "kept", "kept_statistics"),
    [
        ({}, [], []),
        ({"frozen_stages": 0}, PARTS[:1], PARTS[:1]),
        ({"frozen_stages": 2}, PARTS[:3], PARTS[:3]),
        ({"frozen_stages": 4}, PARTS[:5], PARTS[:5]),
        ({"norm_eval": "backbone"}, [], PARTS[:5]),
        ({"norm_eval": "all"}, [], PARTS),
        ({"frozen_stages": 1, "norm_eval": "all"}, PARTS[:2], PARTS),
    ],
    ids=["nothing", "stem", "two stages", "backbone", "norms of the backbone", "all norms", "both"],
)
def test_what_stays_as_it_was(
    config: TrainConfig, optim: dict[str, Any], kept: Sequence[str], kept_statistics: Sequence[str]
):
    trainer = Trainer(tuned(config, **optim), say=quiet)
    before = read_checkpoint(config.weights).state_dict  # type: ignore[arg-type]
    trainer.fit(until_epoch=1)
    for model in (trainer.model, trainer.ema_model):
        same: dict[tuple[str, bool], list[bool]] = {}
        for key, value in model.state_dict().items():
            if "rtm_cls" in key or key.endswith("num_batches_tracked"):
                continue
            part = next(part for part in PARTS if key.startswith(part))
            same.setdefault((part, key.endswith(STATISTICS)), []).append(torch.equal(value, before[key]))
        for (part, statistics), equal in same.items():
            expected = part in (kept_statistics if statistics else kept)
            assert all(equal) == expected, (part, statistics)


@pytest.mark.usefixtures("no_images")
def test_other_classes_start_fresh_and_the_rest_does_not(config: TrainConfig):
    lines: list[str] = []
    trainer = Trainer(config, say=lines.append)
    before = read_checkpoint(config.weights).state_dict  # type: ignore[arg-type]
    same = {key: torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items()}
    assert {key.split(".")[1] for key, equal in same.items() if not equal} == {"rtm_cls"}
    assert any("6 starting fresh: bbox_head.rtm_cls.0.bias" in line for line in lines)


def test_a_slower_backbone_moves_by_its_factor():
    def moves(mult: float) -> dict[str, float]:
        torch.manual_seed(0)
        model = build_detector(MODEL)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        optimizer = build_optimizer(model, OptimConfig(weight_decay=0.0, backbone_lr_mult=mult))
        images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        step = TrainStep(model, optimizer, ExpMomentumEMA(model))
        for _ in range(2):
            step([Inputs(images, random_batch([2, 3], 3)[3])], lr=1e-3)
        return {name: (value - before[name]).abs().max().item() for name, value in model.named_parameters()}

    # a step of AdamW is as long as the rate, however large the gradient
    slow = moves(0.25)
    for name, largest in slow.items():
        limit = 0.25e-3 if name.startswith("backbone") else 1e-3
        assert largest <= 2.01 * limit, name
    assert max(value for name, value in slow.items() if name.startswith("backbone")) > 0.3e-3
    assert max(value for name, value in slow.items() if not name.startswith("backbone")) > 1e-3


def test_groups_of_a_slower_backbone():
    model = build_detector(MODEL)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    both, plain = parameter_groups(model, 0.05, 0.1), parameter_groups(model, 0.05)
    assert [(group["weight_decay"], group.get("lr_mult", 1)) for group in both] == [
        (0.05, 1),
        (0, 1),
        (0.05, 0.1),
        (0, 0.1),
    ]
    for group in both:
        slow = [names[id(parameter)].startswith("backbone.") for parameter in group["params"]]
        assert all(slow) if "lr_mult" in group else not any(slow)
    # who decays does not depend on it
    assert {id(p) for g in both if g["weight_decay"] for p in g["params"]} == {id(p) for p in plain[0]["params"]}
    assert [len(group) for group in plain] == [2, 2]  # as states of earlier runs have them


def test_nothing_frozen_is_the_optimisers_business():
    model = build_detector(MODEL)
    config = OptimConfig(frozen_stages=4, backbone_lr_mult=0.1)
    freeze(model, config)
    listed = {id(p) for group in build_optimizer(model, config).param_groups for p in group["params"]}
    assert listed == {id(p) for name, p in model.named_parameters() if not name.startswith("backbone.")}
    train_mode(model, config)
    assert not model.backbone.stem.training
    assert model.neck.training


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optim": OptimConfig(frozen_stages=1)}, "optim.frozen_stages is 1 in a run from scratch: .* give --weights"),
        ({"optim": OptimConfig(frozen_stages=1), "resume": True}, "optim.frozen_stages is 1 in a run from scratch"),
        ({"optim": OptimConfig(norm_eval="all")}, "optim.norm_eval is all in a run from scratch"),
        ({"optim": OptimConfig(frozen_stages=5)}, "optim.frozen_stages is 5: expected a number from -1 to 4"),
        ({"optim": OptimConfig(backbone_lr_mult=0.0)}, "optim.backbone_lr_mult is 0.0: expected a number above 0"),
        ({"patience": -1}, "patience is -1: expected at least 0"),
        (
            {"auto_batch": True},
            "auto_batch measures the memory of a CUDA GPU, and the network is on cpu: give --batch-size",
        ),
    ],
)
def test_settings_that_make_no_sense(config: TrainConfig, changes: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        Trainer(replace(config, weights=None, **changes), say=quiet)
    assert not (config.out / "run").exists()


@pytest.mark.usefixtures("no_images")
def test_a_frozen_run_is_resumed_without_naming_its_weights(config: TrainConfig):
    frozen = tuned(config, frozen_stages=1, backbone_lr_mult=0.5)
    Trainer(frozen, say=quiet).fit(until_epoch=1)
    trainer = Trainer(replace(frozen, resume=True, weights=None), say=quiet)
    assert trainer.epoch == 1
    trainer.fit()


# ------------------------------------------------------------------------------------------ early ending


def with_ap(monkeypatch: pytest.MonkeyPatch, values: Sequence[float]) -> None:
    """Let the evaluations of a run have these AP."""
    given = iter(values)

    def evaluate(self: Trainer) -> Evaluation:
        metrics = dict.fromkeys(METRICS, 0.5) | {"AP": next(given)}
        return Evaluation(metrics, {}, np.zeros((10, 101, 3)), [], [])

    monkeypatch.setattr(Trainer, "evaluate", evaluate)


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (0, (0.5, 0.1, 0.1, 0.1, 0.1), 5),
        (1, (0.1, 0.2, 0.2), 3),
        (2, (0.1, 0.3, 0.2, 0.3), 4),
        (2, (0.3, 0.2, 0.4, 0.1, 0.5), 5),
        (2, (-1.0, -1.0, -1.0, 0.1, 0.0), 5),  # nothing to judge by is no judgement
    ],
)
def test_patience(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, patience: int, values: Sequence[float], epochs: int
):
    with_ap(monkeypatch, values)
    lines: list[str] = []
    trainer = Trainer(replace(config, epochs=5, eval_every=1, patience=patience), say=lines.append)
    trainer.fit()
    assert trainer.epoch == epochs
    assert trainer.progress.best["AP"] == max(values)
    assert any(line.startswith(f"ended early: {patience} evaluations") for line in lines) == (epochs < 5)


def test_a_run_that_ended_early_has_results_and_goes_on_with_more_patience(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
):
    config = replace(config, epochs=4, eval_every=1, patience=1)
    with_ap(monkeypatch, (0.3, 0.2))
    trainer = Trainer(config, say=quiet)
    trainer.fit()
    assert (trainer.epoch, trainer.fit()["AP"]) == (2, 0.2)  # a further call does nothing
    assert (trainer.run_dir / "metrics.json").exists()
    with_ap(monkeypatch, (0.2, 0.4))
    trainer = Trainer(replace(config, patience=5, resume=True), say=quiet)
    trainer.fit()
    assert (trainer.epoch, trainer.progress.best["AP"]) == (4, 0.4)


# ----------------------------------------------------------------------------------- loggers, changes, batch


class Remembering:
    """The smallest logger."""

    def __init__(self) -> None:
        self.earlier: list[Row] = []
        self.rows: list[Row] = []

    def start(self, rows: Sequence[Row]) -> None:
        self.earlier = list(rows)

    def write(self, row: Row) -> None:
        self.rows.append(row)


@pytest.mark.usefixtures("no_images")
def test_a_logger_of_ones_own_sees_every_row(config: TrainConfig):
    first, second = Remembering(), Remembering()
    trainer = Trainer(config, say=quiet, loggers=[first])
    trainer.fit(until_epoch=2)
    assert (first.earlier, first.rows) == ([], trainer.history)
    assert "AP" in first.rows[-1]
    Trainer(replace(config, resume=True), say=quiet, loggers=[second]).fit()
    assert second.earlier == first.rows
    assert [row["epoch"] for row in second.rows] == [3]


def darker(sample: Sample, rng: np.random.Generator) -> Sample:
    return replace(sample, image=(sample.image * rng.uniform(0.2, 0.4)).astype(np.uint8))


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_change_of_ones_own_reaches_every_image(config: TrainConfig, workers: int):
    plain = Trainer(config, say=quiet).loader.batch(0, 0)
    changed = Trainer(
        replace(config, name="changed", data=replace(config.data, workers=workers)), say=quiet, change=darker
    )
    (first, *_) = list(changed.loader.epoch(0))
    changed.loader.close()
    assert torch.equal(first.images, changed.loader.batch(0, 0).images)
    assert torch.equal(first.ground_truth.boxes, plain.ground_truth.boxes)
    for image, before in zip(first.images, plain.images, strict=True):
        assert 0.15 < image.float().mean() / before.float().mean() < 0.41


def moved(sample: Sample, _: np.random.Generator) -> Sample:
    """Boxes half out of the image, and one that is gone."""
    shift = np.array([len(sample.image) - 5.0, 0, len(sample.image) - 5.0, 0], dtype=np.float32)
    return replace(sample, boxes=sample.boxes + shift)


@pytest.mark.usefixtures("no_images")
def test_boxes_of_a_change_end_with_the_image(config: TrainConfig):
    batch = Trainer(config, say=quiet, change=moved).loader.batch(0, 0)
    boxes = batch.ground_truth.boxes[batch.ground_truth.mask | batch.ground_truth.ignore]
    assert (boxes <= 64).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def spoiled(sample: Sample, **fields: Any) -> Sample:
    """The sample with other fields, past the checks that tests put before every class."""
    found = copy.copy(sample)
    for name, value in fields.items():
        object.__setattr__(found, name, value)
    return found


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda sample, _: sample.image, "returns ndarray for .*png: expected a Sample"),
        (lambda s, _: spoiled(s, image=s.image[:9]), r"an image uint8 \(9, 64, 3\): expected uint8 \(64,"),
        (lambda s, _: spoiled(s, image=s.image / 255), r"an image float64 \(64, 64, 3\): expected uint8"),
        (lambda s, _: spoiled(s, boxes=np.full((1, 4), np.nan)), "boxes that are not four finite numbers each"),
        (lambda s, _: spoiled(s, boxes=np.zeros((99, 4))), r"99 boxes with \d+ labels and \d+ flags"),
    ],
    ids=["no sample", "size", "type", "nan", "numbers"],
)
def test_a_change_that_breaks_samples_is_named(config: TrainConfig, change: Callable[..., Any], problem: str):
    trainer = Trainer(config, say=quiet, change=change)
    with pytest.raises(ValueError, match=f"<lambda> .*{problem}"):
        trainer.loader.batch(0, 0)


@pytest.mark.parametrize(("fits", "expected"), [(1, 1), (5, 4), (8, 8), (10_000, 1024)])
def test_the_largest_batch_that_fits(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, fits: int, expected: int):
    monkeypatch.setattr(TrainStep, "__call__", lambda self, batches, lr: len(batches[0].images))
    small = replace(config, data=replace(config.data, input_size=32))
    assert find_batch_size(small, torch.device("cpu"), room=fits * 10, peak=lambda run: 10 * run()) == expected


def test_not_one_image_fits(config: TrainConfig):
    for answer in (None, 11):
        with pytest.raises(
            ValueError, match=r"a step with one image of 64 px needs more .* a smaller --data.input-size"
        ):
            find_batch_size(config, torch.device("cpu"), room=10, peak=lambda run, answer=answer: answer)


def test_trying_out_is_a_real_step(config: TrainConfig):
    done = []

    def peak(run: Callable[[], Any]) -> int | None:
        done.append(run())
        return 1 if len(done) < 3 else None

    assert find_batch_size(config, torch.device("cpu"), room=1, peak=peak) == 2
    assert all(losses.isfinite().all() and losses[2] > 0 for losses in done)


@pytest.mark.usefixtures("no_images")
def test_the_hooks_of_the_page_on_extending(config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(block, "extending.md", "exec"), page)
    log = tmp_path / "log.jsonl"
    trainer = Trainer(config, say=quiet, change=page["upside_down"], loggers=[page["JsonLines"](log)])
    plain = Trainer(replace(config, name="plain"), say=quiet)
    trainer.watchers.append(lambda trainer: page["say_rate"](SimpleNamespace(step=100, optimizer=trainer.optimizer)))
    turned = 0
    for number in range(len(trainer.loader)):
        one, other = trainer.loader.batch(0, number), plain.loader.batch(0, number)
        for i in range(len(one.images)):
            if not torch.equal(one.images[i], other.images[i]):
                turned += 1
                assert torch.equal(one.images[i], other.images[i].flip(1, 2))
                real = other.ground_truth.mask[i]
                expected = 64 - other.ground_truth.boxes[i, real][:, [2, 3, 0, 1]]
                torch.testing.assert_close(one.ground_truth.boxes[i, real], expected)
    assert 0 < turned < 12
    trainer.fit(until_epoch=1)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [4]
    assert capsys.readouterr().out.startswith("100 [")
