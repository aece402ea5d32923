"""That shapes are checked at all, and for how long."""

import pytest
import shape_checks
import torch
from jaxtyping import TypeCheckError, config

from minirtmdet.boxes import bbox_overlaps


@pytest.mark.parametrize("test", ["one test", "and the next"])
def test_the_first_calls_of_each_test_are_checked(request: pytest.FixtureRequest, test: str) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("shapes are not checked in this run; make unit says how")
    assert not config.jaxtyping_disable
    with pytest.raises(TypeCheckError):
        bbox_overlaps(torch.zeros(3, 5), torch.zeros(3, 4))
    for _ in range(shape_checks.CHECKS):
        bbox_overlaps(torch.zeros(1, 4), torch.zeros(1, 4))
    assert config.jaxtyping_disable
