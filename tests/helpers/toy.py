"""Inputs that several tests share: random batches with the shapes and the spread of a real head."""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minirtmdet.configs import STRIDES
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.structures import GroundTruth


def grid(height: int = 64, width: int = 64) -> torch.Tensor:
    """Priors of all three levels of an image of ``height x width`` pixels."""
    sizes = [(-(-height // s), -(-width // s)) for s in (8, 16, 32)]
    return torch.cat(MlvlPointGenerator().grid_priors(sizes))


def random_boxes(count: int, height: int, width: int, generator: torch.Generator, smallest: float = 4) -> torch.Tensor:
    """Boxes of all sizes, inside the image."""
    size = smallest + torch.rand(count, 2, generator=generator) ** 2 * (torch.tensor([width, height]) - smallest - 1)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - size)
    return torch.cat([corner, corner + size], 1)


def random_batch(
    counts: list[int], classes: int = 5, height: int = 64, width: int = 64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, GroundTruth]:
    """Logits, predicted boxes, priors and ground truth, one entry of ``counts`` boxes an image.

    Half of the predictions lie near a box, as they do after some training; the rest are noise.
    """
    generator = torch.Generator().manual_seed(seed)
    priors = grid(height, width)
    boxes = [random_boxes(n, height, width, generator) for n in counts]
    labels = [torch.randint(classes, (n,), generator=generator) for n in counts]
    logits = torch.randn(len(counts), len(priors), classes, generator=generator) * 2 - 2
    distances = torch.rand(len(counts), len(priors), 4, generator=generator) * 3 * priors[:, 2:3]
    points = priors[:, :2]
    predicted = torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)
    for image, image_boxes in enumerate(boxes):
        if len(image_boxes):
            near = torch.rand(len(priors), generator=generator) < 0.5
            which = torch.randint(len(image_boxes), (len(priors),), generator=generator)
            jitter = torch.randn(len(priors), 4, generator=generator) * 3
            predicted[image, near] = (image_boxes[which] + jitter)[near]
    return logits, predicted, priors, GroundTruth.from_list(boxes, labels, num_classes=classes)


class Levels(torch.nn.Module):
    """Backbone and neck in one convolution: with all of them a compiler takes minutes for what comes after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.conv(images)
        return tuple(torch.nn.functional.avg_pool2d(features, stride) for stride in STRIDES)


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the shape checker that wraps it in tests, to see the error that users see."""
    return inspect.unwrap(getattr(function, "__func__", function))


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[function._schema.name.split("::")[1]] += 1
        return function(*args, **(kwargs or {}))
