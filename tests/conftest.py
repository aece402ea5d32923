"""What every test has."""

import os

import pytest
import shape_checks

# messages are compared, and a progress bar would stand before them; tqdm reads this when it is imported
os.environ.setdefault("TQDM_DISABLE", "1")


@pytest.fixture(autouse=True)
def shapes_are_checked() -> None:
    """Those of this test's first calls, where the checks are asked for on the command line."""
    shape_checks.begin()
