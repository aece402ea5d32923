from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity.fill import fill
from torch import nn
from torch.utils._pytree import tree_leaves

from minirtmdet import build_detector, load_checkpoint
from minirtmdet.configs import MODELS, ModelConfig, TrainConfig
from minirtmdet.detector import RTMDet
from minirtmdet.layers import ConvModule
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.checkpoint import save_checkpoint
from minirtmdet.weights.formats import CheckpointError
from minirtmdet.weights.fuse import fuse_batch_norm, is_fused, unfuse_state_dict

SMALL = ModelConfig(0.1, 0.125, 1, num_classes=3)
APART = replace(SMALL, share_conv=False)


def filled(config: str | ModelConfig) -> RTMDet:
    """Weights and running statistics that are far from those of a fresh model."""
    return fill(build_detector(config)).eval()


@torch.no_grad()
def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Largest difference over largest value, over all outputs of all levels."""
    images = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)).to(next(first.parameters()))
    pairs = zip(tree_leaves(first(images)), tree_leaves(second(images)), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs)


# the larger ones are the same code, and to fill them takes seconds
LARGE = ("m", "l", "x")


@pytest.mark.parametrize("size", [pytest.param(s, marks=pytest.mark.slow) if s in LARGE else s for s in MODELS])
def test_outputs_stay_for_all_sizes(size: str):
    model = filled(size)
    assert largest_difference(model, fuse_batch_norm(model)) < 1e-5


@pytest.mark.parametrize("size", ["ins-tiny", "ins-s"])
def test_outputs_with_masks_stay(size: str):
    model = filled(size).double()  # the mask head is four more convolutions in a row: fp32 rounds more
    assert largest_difference(model, fuse_batch_norm(model)) < 1e-9


@pytest.mark.parametrize(
    "changes",
    [{"separate_bn": False}, {"with_objectness": True}, {"stacked_convs": 3}, {"use_depthwise": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_outputs_stay_for_other_heads(changes: dict[str, bool | int]):
    model = filled(replace(APART, **changes))
    assert largest_difference(model, fuse_batch_norm(model)) < 1e-5


def test_by_hand():
    model = ConvModule(1, 1, 1).eval()
    model.conv.weight.data.fill_(3.0)
    values = {"weight": 2.0, "bias": 1.0, "running_mean": 4.0, "running_var": 16 - 1e-5}
    model.bn.load_state_dict({key: torch.tensor([value]) for key, value in values.items()}, strict=False)
    fused = fuse_batch_norm(model)
    # (3 x - 4) * 2 / sqrt(16) + 1
    assert fused.conv.weight.item() == pytest.approx(1.5)
    assert fused.conv.bias is not None
    assert fused.conv.bias.item() == pytest.approx(-1.0)


def test_the_model_itself_stays_and_levels_part():
    model = filled(SMALL).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse_batch_norm(model)
    assert model.training
    assert not any(module.training for module in fused.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    first, second = (fused.bbox_head.cls_convs[level][0].conv for level in (0, 1))
    assert model.bbox_head.cls_convs[0][0].conv is model.bbox_head.cls_convs[1][0].conv
    assert not torch.equal(first.weight, second.weight)  # because BatchNorms differ by level
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    folded = {key.replace("bn.bias", "conv.bias") for key in before if ".bn." not in key or key.endswith("bn.bias")}
    assert fused.state_dict().keys() == folded


def test_twice_is_once():
    fused = fuse_batch_norm(filled(SMALL))
    again = fuse_batch_norm(fused).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in fused.state_dict().items())


@pytest.mark.parametrize("config", [APART, replace(SMALL, masks=True)], ids=["boxes", "masks"])
def test_unfolding_gives_the_outputs_back(config: ModelConfig):
    model = build_detector(config).eval()
    fused = fuse_batch_norm(filled(config))
    if config.masks:  # one level's BatchNorms as all others', or they could not share convolutions again
        for branch in fused.bbox_head.cls_convs[1:]:
            branch.load_state_dict(fused.bbox_head.cls_convs[0].state_dict())
    state = unfuse_state_dict(fused.state_dict(), model)
    assert is_fused(fused.state_dict())
    assert not is_fused(state)
    model.load_state_dict(state, strict=True)
    assert largest_difference(fused, model) < 1e-5


def test_other_weights_are_not_unfolded():
    state = filled(SMALL).state_dict()
    assert unfuse_state_dict(state, build_detector(SMALL)).keys() == state.keys()


# ------------------------------------------------------------------------------------------------ files


def saved(path: Path, model: nn.Module, config: ModelConfig) -> Path:
    save_checkpoint(path, model.state_dict(), TrainConfig(model=config), ["a", "b", "c"])
    return path


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_folded_file_builds_a_folded_detector(tmp_path: Path, name: str):
    fused = fuse_batch_norm(filled(SMALL))
    loaded = build_from_checkpoint(saved(tmp_path / name, fused, SMALL))
    assert loaded.report.fits
    assert_same(loaded.model, fused)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_folded_file_loads_into_either_form(tmp_path: Path):
    fused = fuse_batch_norm(filled(APART))
    path = saved(tmp_path / "w.pt", fused, APART)
    plain, folded = build_detector(APART), fuse_batch_norm(build_detector(APART))
    assert load_checkpoint(plain, path).fits
    assert largest_difference(fused, plain.eval()) < 1e-5
    assert load_checkpoint(folded, path).fits
    assert_same(folded, fused)


def test_what_cannot_be_unfolded_is_said(tmp_path: Path):
    path = saved(tmp_path / "w.pt", fuse_batch_norm(filled(SMALL)), SMALL)
    message = r"found widen_factor 0.125, 3 classes, BatchNorm folded\n.*shared in the model, different in the file"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(build_detector(SMALL), path)
    path = saved(tmp_path / "plain.pt", filled(SMALL), SMALL)
    with pytest.raises(CheckpointError, match=r"expected widen_factor 0.125, 3 classes, BatchNorm folded, found"):
        load_checkpoint(fuse_batch_norm(build_detector(SMALL)), path)
