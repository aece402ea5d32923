"""What runs of these tests are trained on."""

from pathlib import Path

import pytest
from helpers.tiny_sets import write_random_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to train on, three to evaluate on."""
    root = tmp_path_factory.mktemp("data")
    write_random_set(root, 12)
    write_random_set(root, 3, name="val", seed=1)
    return root
