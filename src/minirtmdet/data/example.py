"""The picture that the book follows from the first prior to the last gradient: three objects, one prior."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from minirtmdet.data.backgrounds import PATTERNS
from minirtmdet.data.scenes import CLASSES, Thing, compose
from minirtmdet.structures import GroundTruth

SIZE = 160
_BRICKS = 3
_SEED = 3


class Example(NamedTuple):
    """A picture with its boxes.

    Attributes:
        image: BGR.
        images: the same as a batch of one for the detector.
        boxes: ``xyxy`` in pixels.
        labels: class index.
        names: of the classes.
        ground_truth: the boxes as a batch of one.
    """

    image: UInt8[np.ndarray, "160 160 3"]
    images: UInt8[Tensor, "1 3 160 160"]
    boxes: Float[Tensor, "3 4"]
    labels: Int[Tensor, "3"]
    names: tuple[str, ...]
    ground_truth: GroundTruth


def example() -> Example:
    """A panda, a car that hides a part of it, and a small tennis ball, before a wall of bricks.

    The boxes of panda and car overlap, so that some priors lie in both; the ball is 20 pixels wide, so that
    few lie in it; and each of the three is best seen on another level.

    >>> scene = example()
    >>> [scene.names[label] for label in scene.labels], scene.boxes[2].tolist()
    (['panda', 'car', 'tennis ball'], [122.0, 26.0, 142.0, 46.0])
    """
    things = [
        Thing(CLASSES.index("panda"), "🐼", x=60, y=80, size=96),
        Thing(CLASSES.index("car"), "🚗", x=104, y=108, size=76, mirror=True),
        Thing(CLASSES.index("tennis ball"), "🎾", x=132, y=36, size=20),
    ]
    wall = PATTERNS[_BRICKS](np.random.Generator(np.random.PCG64(_SEED)), SIZE)
    rgb, boxes, labels = compose(wall, things)
    image = np.ascontiguousarray(rgb[..., ::-1])
    tensors = torch.from_numpy(boxes), torch.from_numpy(labels)
    return Example(
        image=image,
        images=torch.from_numpy(image).permute(2, 0, 1)[None],
        boxes=tensors[0],
        labels=tensors[1],
        names=CLASSES,
        ground_truth=GroundTruth.from_list([tensors[0]], [tensors[1]], num_classes=len(CLASSES)),
    )
