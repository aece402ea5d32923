"""What every test has."""

import pytest
import shape_checks


@pytest.fixture(autouse=True)
def shapes_are_checked() -> None:
    """Those of this test's first calls, where the checks are asked for on the command line."""
    shape_checks.begin()
