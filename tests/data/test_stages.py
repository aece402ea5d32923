"""A run through both stages: what the switch between them changes, and what not."""

import multiprocessing
from dataclasses import replace

import pytest
import torch
from helpers.tiny_sets import write_both_parts

from minirtmdet.configs import AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from minirtmdet.engine.trainer import Trainer

SWITCH, EPOCHS = 4, 5


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Five epochs of three steps, the last one without mosaics and MixUp."""
    root = write_both_parts(tmp_path_factory.mktemp("data"), 12)
    return TrainConfig(
        out=tmp_path_factory.mktemp("runs"),
        model=ModelConfig(deepen_factor=0.1, widen_factor=0.125, neck_csp_blocks=1),
        data=DataConfig(root=root, input_size=64),
        augment=AugmentConfig(mosaic_cache=5, mixup_cache=3, scale=(0.5, 2.0)),
        optim=OptimConfig(lr=2e-3, base_batch=4, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=EPOCHS,
        batch_size=4,
        eval_every=10,
        device="cpu",
    )


@pytest.fixture(autouse=True)
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)


def trainer(config: TrainConfig, name: str, **changes: object) -> Trainer:
    return Trainer(replace(config, name=name, **changes), say=lambda line: None)


def state(one: Trainer) -> list[bytes]:
    """Weights and statistics of the network and its average, and the optimiser's moments, to the bit."""
    tensors = [*one.model.state_dict().values(), *one.ema_model.state_dict().values()]
    tensors += [value for moments in one.optimizer.state.values() for value in moments.values()]
    return [tensor.numpy().tobytes() for tensor in tensors]


def test_stage_2_is_evaluated_every_epoch(config: TrainConfig) -> None:
    # of ten epochs two are stage 2: every fourth epoch, then every one
    run = trainer(config, "evaluated", epochs=10, eval_every=4)
    run.fit()
    assert [row["epoch"] for row in run.history if "AP" in row] == [4, 8, 9, 10]


def test_the_switch_leaves_network_statistics_and_optimiser_as_they_are(config: TrainConfig) -> None:
    run = trainer(config, "switch")
    run.fit(until_epoch=SWITCH)
    before = state(run)
    last, first = next(run.loader.epoch(SWITCH - 1, 2)), next(run.loader.epoch(SWITCH))
    assert state(run) == before
    # nor does the network meet anything new but what is in the images: same shape, same type, same layout
    assert (first.images.shape, first.images.dtype) == (last.images.shape, last.images.dtype)
    assert first.images.stride() == last.images.stride()


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_at_the_switch_it_is_the_same_run(config: TrainConfig, workers: int) -> None:
    whole = trainer(config, f"whole-{workers}")
    whole.fit()
    before = multiprocessing.active_children()
    data = replace(config.data, workers=workers)
    trainer(config, f"parts-{workers}", data=data).fit(until_epoch=SWITCH)
    rest = trainer(config, f"parts-{workers}", data=data, resume=True)
    assert rest.epoch == SWITCH
    rest.fit()
    assert state(rest) == state(whole)
    assert multiprocessing.active_children() == before  # both runs have ended theirs


def test_without_the_second_stage_the_last_epoch_is_another(config: TrainConfig) -> None:
    both, one = trainer(config, "both"), trainer(config, "one", augment=replace(config.augment, stage2_epochs=0))
    for run in (both, one):
        run.fit(until_epoch=SWITCH)
    assert state(both) == state(one)
    for run in (both, one):
        run.fit()
    assert state(both) != state(one)
    assert all(torch.isfinite(value).all() for value in both.model.state_dict().values())
