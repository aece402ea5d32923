"""What runs of these tests are trained on."""

from pathlib import Path

import pytest
from helpers.tiny_sets import write_both_parts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to train on, three to evaluate on."""
    return write_both_parts(tmp_path_factory.mktemp("data"), 12)
