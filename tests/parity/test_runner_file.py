"""A detector's checkpoint as MMEngine's Runner writes it: no published one is in the repository."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from parity.compare import TOLERANCE, differences, network_answer
from parity.runner_file import CLASSES, images

from minirtmdet import build_detector, load_checkpoint
from minirtmdet.weights.build import build_from_checkpoint

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("MINIRTMDET_REFERENCE", ROOT / ".venv-reference/bin/python"))


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference environment, which make parity makes")
def test_a_runners_file_loads_strictly_and_answers_alike(tmp_path: Path):
    command = [str(REFERENCE), "-W", "ignore", "-m", "parity.runner_file", str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")}, capture_output=True)
    path = tmp_path / "epoch_1.pth"
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # else there would be nothing to prove

    loaded = build_from_checkpoint(path, model="tiny")
    assert loaded.report.fits
    assert loaded.report.loaded == len(loaded.model.state_dict()) == 476
    assert loaded.classes == CLASSES
    with torch.no_grad():
        answer = network_answer(loaded.model, loaded.model(images()), training=False)
    measured = differences(answer, torch.load(tmp_path / "answer.pt", weights_only=True))
    assert max(d.largest for d in measured.values()) < TOLERANCE

    other = build_detector("tiny", num_classes=5)
    report = load_checkpoint(other, path, new_classes=True)
    assert "6 starting fresh: bbox_head.rtm_cls.0.bias" in str(report)
