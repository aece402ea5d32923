import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.toy import Operations
from torch import nn

from minirtmdet import build_detector
from minirtmdet.engine.ema import ExpMomentumEMA

RECORD = json.loads((Path(__file__).parents[1] / "parity/fixtures/engine.json").read_text())["ema"]


def test_equals_mmdetection_over_several_updates():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ExpMomentumEMA(model, RECORD["momentum"], RECORD["gamma"])
    for source in RECORD["sources"]:
        model.load_state_dict({key: torch.tensor(value) for key, value in source.items()})
        ema.update(model)
    for key, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, torch.tensor(RECORD["average"][key]).to(value.dtype), rtol=1e-6, atol=0)


def test_by_hand_weights_and_buffers():
    model = nn.BatchNorm1d(1)
    ema = ExpMomentumEMA(model, momentum=0.5, ramp=1)
    ema.update(model)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(8.0)
        model.num_batches_tracked.fill_(7)
    ema.update(model)
    share = 0.5 * torch.tensor(-2.0).exp() + 0.5
    torch.testing.assert_close(ema.module.weight, torch.tensor([1.0]) * (1 - share) + 3 * share)
    torch.testing.assert_close(ema.module.running_mean, torch.tensor([8.0]) * share)
    assert ema.module.num_batches_tracked == 7
    assert ema.steps == 2


def test_first_update_copies():
    model = nn.Linear(1, 1)
    ema = ExpMomentumEMA(model)
    with torch.no_grad():
        model.weight.fill_(5.0)
    ema.update(model)
    assert ema.module.weight.item() == 5.0


def test_shared_weights_are_averaged_once_and_constants_stay():
    model = build_detector("tiny", num_classes=2)
    ema = ExpMomentumEMA(model, momentum=0.25, ramp=1, shared_once=True)
    ema.update(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in ema.module.named_parameters()}
    share = ema.momentum_at(1)
    ema.update(model)
    for name, value in ema.module.named_parameters():
        torch.testing.assert_close(value, before[name] + share)
    assert torch.equal(ema.module.mean, model.mean)
    convs = ema.module.bbox_head.cls_convs
    assert convs[0][0].conv.weight is convs[1][0].conv.weight


def test_the_average_is_apart_from_the_model():
    model = nn.Linear(1, 1)
    ema = ExpMomentumEMA(model)
    assert not ema.module.training
    assert not ema.module.weight.requires_grad
    with torch.no_grad():
        model.weight.add_(1)
    assert ema.module.weight.item() != model.weight.item()


def test_a_share_on_the_device_blends_as_a_number_does():
    """What a recorded step does, whose numbers cannot change."""
    model = build_detector("tiny", num_classes=2)
    one, two = ExpMomentumEMA(model), ExpMomentumEMA(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    for share in (0.25, 0.875, 0.0):
        one.blend(model, share)
        two.blend(model, torch.tensor(share))
        for value, expected in zip(two.module.parameters(), one.module.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    assert one.steps == two.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_what_does_not_change_keeps_its_average_to_the_last_bit(kind: Callable[[float], float | torch.Tensor]):
    """As frozen stages do, on every processor."""
    model = nn.Linear(40, 40)
    ema = ExpMomentumEMA(model)
    for share in (0.0, 1 / 3, 0.7, 0.9998):
        ema.blend(model, kind(share))
        assert torch.equal(ema.module.weight, model.weight), share


@pytest.mark.parametrize(("momentum", "ramp"), [(-0.1, 10), (1.1, 10), (0.1, 0)])
def test_settings_without_sense_raise(momentum: float, ramp: int):
    with pytest.raises(ValueError, match=r"expected 0\.\.1 and above 0"):
        ExpMomentumEMA(nn.Linear(1, 1), momentum, ramp)


def test_an_update_is_few_operations_and_lists_nothing_anew(monkeypatch: pytest.MonkeyPatch):
    model = build_detector("tiny", num_classes=2)
    ema = ExpMomentumEMA(model, momentum=0.25, ramp=1)
    ema.update(model)
    monkeypatch.setattr(nn.Module, "state_dict", None)
    with Operations() as operations:
        ema.update(model)
    # once for what levels have of their own, once for what they share
    assert operations.count == {"_foreach_sub_": 2, "_foreach_mul_": 2, "_foreach_add_": 2, "_foreach_copy_": 1}


def test_tensors_that_were_replaced_are_found():
    model = nn.BatchNorm1d(1)
    ema = ExpMomentumEMA(model, momentum=0.5, ramp=1)
    ema.update(model)
    model._apply(torch.clone)  # as model.to does: other buffers under the same names
    with torch.no_grad():
        model.running_mean.fill_(8.0)
        model.num_batches_tracked.fill_(7)
    ema.blend(model, 0.25)
    assert ema.module.running_mean.item() == 6.0
    assert ema.module.num_batches_tracked == 7
