import torch

from minirtmdet import build_detector
from minirtmdet.weights.describe import describe_weights


def test_weights_with_masks_are_told_from_those_without():
    with torch.device("meta"):
        states = [build_detector(name).state_dict() for name in ("s", "ins-s")]
    assert [describe_weights(state) for state in states] == [
        "widen_factor 0.5 (as s), 80 classes",
        "widen_factor 0.5 (as ins-s), 80 classes",
    ]
