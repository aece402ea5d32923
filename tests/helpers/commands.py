"""What tests of the commands share: a small model, its settings on a command line, and commands that must fail."""

from pathlib import Path

import pytest

from minirtmdet.cli import main
from minirtmdet.configs import ModelConfig

MODEL = ModelConfig(0.1, 0.125, 1, num_classes=3)
CLASSES = ["cat", "dog", "hen"]
SMALL = ["--model.deepen-factor", "0.1", "--model.widen-factor", "0.125", "--data.input-size", "64"]
SMALL += ["--batch-size", "2", "--device", "cpu"]

Output = pytest.CaptureFixture[str]


def fails(capsys: Output, *args: str | Path) -> str:
    """The message of a command that must end with exit code 2 and one message."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minirtmdet: error: ")
    assert "Traceback" not in error
    return error
