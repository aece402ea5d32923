"""The image that the book follows from the first prior to the last gradient: three objects, one prior.

And what a network said to it in the course of a real training run, so that every chapter has the same numbers.  Two
crowds were recorded beside it, for what cannot be seen where objects stand apart.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import safe_open
from torch import Tensor

from minirtmdet.data.backgrounds import PATTERNS
from minirtmdet.data.compose import Thing, compose
from minirtmdet.data.scenes import CLASSES, GLYPHS
from minirtmdet.structures import GroundTruth

SIZE = 160
STEPS = (0, 10, 25, 50, 100, 200, 400, 800, 1250)
"""Optimiser steps of ``mini-160`` after which its maps for the image were recorded; the last one ends the run."""
STEP = 400
"""The step whose maps the chapters on training compute with: a third of the run, when good boxes are still rare."""
PRIOR = 292
"""The prior that the book follows: level 0, at (96, 112) pixels, inside the panda's box and the car's.  Background when
the run begins, the car's from step 50 on, and at the end among the best boxes of the image."""
RECORDING = Path(__file__).with_name("example.safetensors")
CROWD_STEPS = (50, 400)
"""Steps of the same run after which the maps of the crowds were recorded."""
CROWD_RECORDING = Path(__file__).with_name("crowds.safetensors")
_BRICKS = 3
_SEED = 3


class Example(NamedTuple):
    """An image with its boxes.

    Attributes:
        image: BGR.
        images: the same as a batch of one for the detector.
        boxes: ``xyxy`` in pixels.
        labels: class index.
        masks: the pixels that can be seen of each object.
        names: of the classes.
        ground_truth: the boxes as a batch of one, without masks.
    """

    image: UInt8[np.ndarray, "160 160 3"]
    images: UInt8[Tensor, "1 3 160 160"]
    boxes: Float[Tensor, "boxes 4"]
    labels: Int[Tensor, " boxes"]
    masks: Bool[Tensor, "boxes 160 160"]
    names: tuple[str, ...]
    ground_truth: GroundTruth

    @property
    def box_names(self) -> list[str]:
        """What each box shows."""
        return [self.names[label] for label in self.labels]


def example() -> Example:
    """A panda, a car that hides a part of it, and a small tennis ball, before a wall of bricks.

    The boxes of panda and car overlap, so that some priors lie in both; the ball is 20 pixels wide, so that
    few lie in it; and each of the three is best seen on another level.

    >>> scene = example()
    >>> scene.box_names, scene.boxes[2].tolist()
    (['panda', 'car', 'tennis ball'], [122.0, 26.0, 142.0, 46.0])
    """
    return _on_the_wall(
        [
            Thing(CLASSES.index("panda"), "🐼", x=60, y=80, size=96),
            Thing(CLASSES.index("car"), "🚗", x=104, y=108, size=76, mirror=True),
            Thing(CLASSES.index("tennis ball"), "🎾", x=132, y=36, size=20),
        ]
    )


def faces() -> Example:
    """Nine faces in three rows, each of which hides a part of others: boxes that overlap, and six classes.

    >>> faces().box_names
    ['cat', 'dog', 'panda', 'tiger', 'fox', 'bear', 'dog', 'cat', 'tiger']
    """
    rows = (("cat", "dog", "panda"), ("tiger", "fox", "bear"), ("dog", "cat", "tiger"))
    return _on_the_wall(
        [
            Thing(CLASSES.index(name), GLYPHS[name][0], x=36 + 42 * column + 6 * (row % 2), y=40 + 40 * row, size=66)
            for row, names in enumerate(rows)
            for column, name in enumerate(names)
        ]
    )


def jam() -> Example:
    """Six vehicles in two queues, bumper on door: outlines of one size, and centres that are near each other.

    >>> jam().box_names
    ['car', 'taxi', 'car', 'ambulance', 'taxi', 'car']
    """
    queues = (("car", "taxi", "car"), ("ambulance", "taxi", "car"))
    return _on_the_wall(
        [
            Thing(
                CLASSES.index(name),
                GLYPHS[name][0],
                x=50 + 22 * column + 14 * row,
                y=52 + 12 * column + 48 * row,
                size=78,
            )
            for row, names in enumerate(queues)
            for column, name in enumerate(names)
        ]
    )


CROWDS = {"faces": faces, "jam": jam}
"""Scenes whose maps were recorded too, by name."""


def _on_the_wall(things: list[Thing]) -> Example:
    """Things before a wall of bricks."""
    wall = PATTERNS[_BRICKS](np.random.Generator(np.random.PCG64(_SEED)), SIZE)
    rgb, boxes, labels, masks = compose(wall, things)
    image = np.ascontiguousarray(rgb[..., ::-1])
    tensors = torch.from_numpy(boxes), torch.from_numpy(labels)
    return Example(
        image=image,
        images=torch.from_numpy(image).permute(2, 0, 1)[None],
        boxes=tensors[0],
        labels=tensors[1],
        masks=torch.from_numpy(masks),
        names=CLASSES,
        ground_truth=GroundTruth.from_list([tensors[0]], [tensors[1]], num_classes=len(CLASSES)),
    )


class Maps(NamedTuple):
    """What the network says to a batch: a map per level, finest first.

    Attributes:
        cls_scores: logits.
        bbox_preds: distances ``ltrb`` in pixels.
    """

    cls_scores: tuple[Float[Tensor, "batch classes _ _"], ...]
    bbox_preds: tuple[Float[Tensor, "batch 4 _ _"], ...]


def recorded_maps(step: int | None = None, scene: str = "example") -> Maps:
    """The maps of a scene, as the preset ``mini-160`` gave them in the course of a run.

    Args:
        step: one of :data:`STEPS`: what the assigner saw then, from the network in training, BatchNorm over a batch
            of eight.  Where left out, what the finished detector says: the averaged weights, in evaluation mode.
        scene: ``example``, or one of :data:`CROWDS`, which were recorded at :data:`CROWD_STEPS` alone.

    Raises:
        ValueError: for a scene or a step that was not recorded.

    >>> maps = recorded_maps()
    >>> [tuple(level.shape) for level in maps.cls_scores]
    [(1, 16, 20, 20), (1, 16, 10, 10), (1, 16, 5, 5)]
    """
    recorded: tuple[int | None, ...]
    if scene == "example":
        file, recorded = RECORDING, (*STEPS, None)
        prefix = "finished" if step is None else str(step)
    elif scene in CROWDS:
        file, recorded, prefix = CROWD_RECORDING, CROWD_STEPS, f"{scene}/{step}"
    else:
        raise ValueError(f"scene {scene!r} was not recorded: expected example, {', '.join(CROWDS)}")
    if step not in recorded:
        raise ValueError(f"step {step} of {scene} was not recorded: expected one of {recorded}")
    with safe_open(file, framework="pt") as tensors:
        cls_scores, bbox_preds = (
            tuple(tensors.get_tensor(f"{prefix}/{name}/{level}") for level in range(3))
            for name in ("cls_scores", "bbox_preds")
        )
    return Maps(cls_scores, bbox_preds)
