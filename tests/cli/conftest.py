from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers.commands import CLASSES, MODEL
from helpers.published import publisher
from helpers.tiny_sets import write_both_parts

from minirtmdet import build_detector
from minirtmdet.configs import DataConfig, TrainConfig
from minirtmdet.detector import RTMDet
from minirtmdet.weights.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_both_parts(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of a run as far as the commands look at it."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = TrainConfig(model=MODEL, data=DataConfig(root=data, input_size=64))
    metrics = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25}
    save_checkpoint(folder / "best.pt", build_detector(MODEL).state_dict(), config, CLASSES, metrics=metrics)
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation without its figures: drawing takes longer than detecting."""
    monkeypatch.setattr("minirtmdet.cli.evaluate.plots", Mock())


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, RTMDet], None]:
    """Lets a file on this disk stand for the published weights of a size; the test runs in the folder of that file."""
    monkeypatch.chdir(tmp_path)
    return publisher(tmp_path, monkeypatch, CLASSES)
