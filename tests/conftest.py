"""What every test has."""

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture(autouse=True)
def checked_unless_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shapes are checked, but not in tests that are marked ``repeats``.

    These run the same small functions thousands of times, and each check takes as long as such a function.
    """
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", before or request.node.get_closest_marker("repeats") is not None)
    yield
    config.update("jaxtyping_disable", before)
