import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers.weights import CLASSES, RUNNER, SMALL, Toy, equal, small

from minirtmdet import load_checkpoint
from minirtmdet.configs import TrainConfig, config_from_json
from minirtmdet.weights.checkpoint import find_checkpoint, read_checkpoint, save_checkpoint
from minirtmdet.weights.formats import CheckpointError


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_save_and_load_give_the_same_weights(tmp_path: Path, name: str):
    model, config = small(), TrainConfig(model=SMALL)
    save_checkpoint(tmp_path / name, model.state_dict(), config, CLASSES, metrics={"AP": 0.5})
    assert os.listdir(tmp_path) == [name]
    other = small(seed=1)
    report = load_checkpoint(other, tmp_path / name)
    assert equal(other.state_dict(), model.state_dict())
    assert report.fits
    assert report.loaded == len(model.state_dict())
    checkpoint = read_checkpoint(tmp_path / name)
    assert (checkpoint.config, checkpoint.classes, checkpoint.metrics) == (config, CLASSES, {"AP": 0.5})


def test_own_files_hold_nothing_but_data(tmp_path: Path):
    save_checkpoint(tmp_path / "w.pt", small().state_dict(), TrainConfig(), CLASSES, training={"step": 3})
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    assert content["training"] == {"step": 3}
    assert config_from_json(content["minirtmdet"])[1] == CLASSES


def test_safetensors_takes_no_training_state(tmp_path: Path):
    with pytest.raises(ValueError, match="weights alone"):
        save_checkpoint(tmp_path / "w.safetensors", {}, TrainConfig(), CLASSES, training={})


def test_a_file_of_mmengines_runner_loads_as_it_is():
    with pytest.raises(pickle.UnpicklingError):
        torch.load(RUNNER, weights_only=True)  # else there would be nothing to prove
    model = Toy()
    report = load_checkpoint(model, RUNNER)
    assert report.fits
    # its state_dict is the moving average already: neck.weight began at 1 and moved by at most 0.1 a step
    torch.testing.assert_close(model.neck.weight, torch.tensor([0.7986, 0.7986]), rtol=0, atol=1e-4)
    assert model.neck.num_batches_tracked == 1
    checkpoint = read_checkpoint(RUNNER)
    assert checkpoint.classes == ("cat", "dog")
    assert "data_preprocessor.mean" not in checkpoint.state_dict


def test_class_names_before_mmengine_0_2(tmp_path: Path):
    meta = {"dataset_meta": {"CLASSES": ("a", "b"), "PALETTE": [(1, 2, 3)]}}
    torch.save({"state_dict": Toy().state_dict(), "meta": meta}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").classes == ("a", "b")
    torch.save({"state_dict": Toy().state_dict(), "meta": {"dataset_meta": {"classes": "person"}}}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").classes == ("person",)


@pytest.mark.parametrize("wrap", ["ema_state_dict", "ddp", "plain"])
def test_other_layouts(tmp_path: Path, wrap: str):
    source, model = Toy(), Toy()
    state = dict(source.state_dict())
    prefixed = {f"module.{key}": value for key, value in state.items()}
    content = {
        "ema_state_dict": {"ema_state_dict": {**prefixed, "steps": torch.tensor(3)}},
        "ddp": {"state_dict": prefixed},
        "plain": state,
    }[wrap]
    torch.save(content, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth").fits
    assert equal(dict(model.state_dict()), state)


def test_files_without_weights(tmp_path: Path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="expected a state_dict, found epoch, lr"):
        read_checkpoint(tmp_path / "w.pt")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "w.pt")


def test_a_run_means_its_best_weights(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds neither"):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        find_checkpoint(tmp_path / "nope.pt")
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(tmp_path).name == "last.pt"
    (tmp_path / "best.pt").touch()
    assert find_checkpoint(tmp_path).name == "best.pt"
