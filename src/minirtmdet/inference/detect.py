"""From pixels of any size to detections in these pixels: what images in files, tiles and videos have in common."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from minirtmdet.configs import PredictConfig
from minirtmdet.data.augment import Sample, eval_sample, pad
from minirtmdet.detector import Detector
from minirtmdet.structures import Detections

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "_ _ 3"]
"""An image of any size, BGR as OpenCV reads it."""


def detect(
    model: Detector,
    images: Sequence[Pixels],
    config: PredictConfig | None = None,
    *,
    input_size: int,
    resize: bool = True,
) -> list[Detections]:
    """Detections of each image, in its own pixels, by one forward pass.

    Args:
        model: the detector.
        images: BGR pixels; each may have another size.
        config: thresholds and limits; the detector's own where left out.
        input_size: side of the square input, in pixels.
        resize: make each as large as fits the input; else they are only padded, and must not be larger.
    """
    if not images:
        return []
    fit = eval_sample if resize else pad
    inputs = [fit(as_sample(image), input_size) for image in images]
    pixels = torch.from_numpy(np.stack([sample.image for sample in inputs])).permute(0, 3, 1, 2)
    shapes, scales = [sample.img_shape for sample in inputs], [sample.scale_factor for sample in inputs]
    return model.predict(pixels.to(model.device), config, shapes, scales)


def as_sample(image: Pixels) -> Sample:
    """An image without boxes."""
    size = (image.shape[0], image.shape[1])
    return Sample(
        image=image,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        ignore=np.zeros(0, np.bool_),
        image_id=0,
        path=Path(),
        original_size=size,
        img_shape=size,
    )


def over_threshold(detections: Detections, thresholds: float | Sequence[float]) -> Detections:
    """Those that score more than the threshold, or than that of their class.

    >>> found = Detections(torch.zeros(3, 4), torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0, 0, 1]))
    >>> over_threshold(found, [0.6, 0.3]).scores.tolist()
    [0.8999999761581421, 0.4000000059604645]
    """
    least = torch.as_tensor(thresholds, dtype=detections.scores.dtype, device=detections.scores.device)
    return detections.pick(detections.scores > (least[detections.labels] if least.ndim else least))


def in_batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many, the last one of what is left.

    >>> list(in_batches(range(5), 2))
    [[0, 1], [2, 3], [4]]
    """
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch
