from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.weights import CLASSES, NARROW, SMALL, equal, small, write_mmdet
from parity.fill import fill

from minirtmdet import build_detector
from minirtmdet.configs import TrainConfig
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.checkpoint import save_checkpoint
from minirtmdet.weights.formats import CheckpointError


def test_a_detector_from_its_own_file(tmp_path: Path):
    source = small()
    save_checkpoint(tmp_path / "best.pt", source.state_dict(), TrainConfig(model=SMALL), CLASSES)
    loaded = build_from_checkpoint(tmp_path)
    assert loaded.classes == CLASSES
    assert not loaded.model.training
    assert equal(dict(loaded.model.state_dict()), dict(source.state_dict()))
    with pytest.raises(CheckpointError, match="has 3 classes, but 2 names: a, b"):
        build_from_checkpoint(tmp_path, classes=["a", "b"])


def test_a_detector_from_weights_alone(tmp_path: Path):
    source = build_detector("tiny", num_classes=2)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"looks like widen_factor 0.375 \(as tiny\), 2 classes\): give .* --model"
    ):
        build_from_checkpoint(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"expected widen_factor 0.5 \(as s\)"):
        build_from_checkpoint(tmp_path / "w.pth", model="s")
    with pytest.raises(ValueError, match="unknown model 'xl'"):
        build_from_checkpoint(tmp_path / "w.pth", model="xl")
    loaded = build_from_checkpoint(tmp_path / "w.pth", model="tiny")
    assert loaded.classes is None
    assert loaded.model.config.num_classes == 2


def test_a_distance_is_what_it_was_in_training(tmp_path: Path):
    """A raw output of 3 on stride 8 is 24 px without the exponential, and 160.7 px with it."""
    source = build_detector(NARROW).eval()
    with torch.no_grad():
        for conv in source.bbox_head.rtm_reg:
            conv.weight.zero_()
            conv.bias.fill_(3)
    path = write_mmdet(tmp_path / "w.pth", source.state_dict(), exp=False)
    for model in (None, SMALL):
        if model is not None:
            with pytest.raises(CheckpointError, match="exp_on_reg"):
                build_from_checkpoint(path, model=model)
            continue
        loaded = build_from_checkpoint(path)
        assert loaded.model.config == NARROW
        with torch.no_grad():
            distances = loaded.model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1]
        assert [level.unique().tolist() for level in distances] == [[24.0], [48.0], [96.0]]


@pytest.mark.parametrize("name", ["official.pth", "own.pt", "own.safetensors"])
def test_a_file_with_masks_loads_strictly_under_both_names(tmp_path: Path, name: str):
    model = fill(build_detector(replace(SMALL, masks=True)))
    if name == "official.pth":  # as MMEngine writes it, each name a tensor of its own
        content = {key: value.clone() for key, value in model.state_dict().items()}
        torch.save({"meta": {"dataset_meta": {"classes": CLASSES}}, "state_dict": content}, tmp_path / name)
    else:
        save_checkpoint(tmp_path / name, model.state_dict(), TrainConfig(model=model.config), CLASSES)
    loaded = build_from_checkpoint(tmp_path / name, model=model.config)
    assert loaded.report.loaded == len(model.state_dict())
    assert loaded.classes == CLASSES
    assert equal(loaded.model.state_dict(), model.state_dict())
