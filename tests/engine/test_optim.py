import json
from pathlib import Path

import pytest
import torch
from torch import nn

from minirtmdet import build_detector
from minirtmdet.configs import OptimConfig
from minirtmdet.engine.optim import FlatCosine, build_optimizer, parameter_groups

RECORD = json.loads((Path(__file__).parents[1] / "parity/fixtures/engine.json").read_text())


def test_the_same_parameters_decay_as_in_mmengine():
    model = build_detector("tiny")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay, no_decay = parameter_groups(model, 0.05)
    assert sorted(names[id(parameter)] for parameter in decay["params"]) == sorted(RECORD["decayed"])
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    # the head's convolutions are shared by three levels, and listed once
    listed = [id(parameter) for group in (decay, no_decay) for parameter in group["params"]]
    assert sorted(listed) == sorted(names)


def test_frozen_parameters_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
    model[0].weight.requires_grad_(False)
    decay, no_decay = parameter_groups(model, 0.1)
    assert decay["params"] == [model[3].weight]
    assert len(no_decay["params"]) == 5  # a bias, and weight and bias of two norms


def test_decay_pulls_weights_and_not_norms():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    optimizer.step()
    values = {name: round(parameter.item(), 6) for name, parameter in model.named_parameters()}
    assert values == {"0.weight": 0.95, "0.bias": 1.0, "1.weight": 1.0, "1.bias": 1.0}


def test_learning_rates_are_mmengines_step_by_step():
    record = RECORD["lr"]
    total = record["epochs"] * record["epoch_length"]
    config = OptimConfig(lr=record["lr"], warmup_iters=record["warmup"], base_batch=32)
    schedule = FlatCosine.from_config(config, record["epochs"], record["epoch_length"], batch_size=32)
    assert [schedule(step) for step in range(total)] == pytest.approx(record["rates"], rel=1e-12, abs=0)


def test_schedule_by_hand():
    config = OptimConfig(lr=1.0, base_batch=8, warmup_iters=3, warmup_factor=0.5, final_factor=0.2)
    schedule = FlatCosine.from_config(config, epochs=4, steps_per_epoch=10, batch_size=8)
    assert [schedule(step) for step in (0, 1, 2, 3, 19, 20)] == pytest.approx([0.5, 0.75, 1, 1, 1, 1])
    assert schedule(30) == pytest.approx(0.6)  # the middle of the cosine
    assert schedule(40) == schedule(99) == pytest.approx(0.2)


@pytest.mark.parametrize(("total", "warmup"), [(10_000, 1_000), (5_000, 500), (9, 0), (1, 0)])
def test_warm_up_is_a_tenth_of_the_run_at_most(total: int, warmup: int):
    schedule = FlatCosine.from_config(OptimConfig(), 1, total, batch_size=256)
    assert schedule.warmup_iters == warmup
    assert schedule(warmup) == 0.004
    assert all(0 < schedule(step) <= 0.004 for step in range(0, total, 7))


def test_learning_rate_follows_the_batch():
    for batch, lr in ((256, 0.004), (32, 0.0005), (512, 0.008)):
        assert FlatCosine.from_config(OptimConfig(), 10, 1_000, batch)(3_000) == pytest.approx(lr)


def test_cosine_never_starts_before_the_warm_up_ends():
    schedule = FlatCosine.from_config(OptimConfig(flat_fraction=0.0, warmup_iters=10), 1, 100, batch_size=256)
    assert schedule.flat_steps == 10
    assert schedule(9) == pytest.approx(0.004)
