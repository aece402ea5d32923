"""A real photograph, and what a published network says of it.

The photograph comes with Matplotlib: Grace Hopper, taken by the US Navy and so in the public domain.  The network is
the published RTMDet-nano that finds persons.  Its outputs were recorded, so that nobody needs its weights.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from minirtmdet.data.augment import Sample, eval_sample
from minirtmdet.data.example import Maps
from minirtmdet.data.images import read_image
from minirtmdet.structures import GroundTruth

INPUT_SIZE = 320
"""Side of the square that the published detector expects."""
NAMES = ("person",)
BOX = (18.0, 22.0, 511.0, 599.0)
"""Around the person, drawn by hand, in pixels of the photograph."""
RECORDING = Path(__file__).with_name("photo.safetensors")


class Photo(NamedTuple):
    """The photograph, with its one box.

    Attributes:
        image: BGR pixels, as the file has them.
        images: what the network sees, as a batch of one: resized to fit its input, padded with grey.
        content: height and width of the photograph in it.
        scale: (width, height) factors from the photograph to it.
        ground_truth: the box, as a batch of one, in its pixels.
    """

    image: UInt8[np.ndarray, "600 512 3"]
    images: UInt8[Tensor, "1 3 320 320"]
    content: tuple[int, int]
    scale: tuple[float, float]
    ground_truth: GroundTruth


def photo_file() -> Path:
    """Where Matplotlib keeps the photograph."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def photo() -> Photo:
    """Read the photograph; what is printed of it must not depend on its pixels, which decoders round differently.

    >>> shown = photo()
    >>> shown.image.shape, shown.content, shown.ground_truth.boxes[0, 0].round().tolist()
    ((600, 512, 3), (320, 273), [10.0, 12.0, 272.0, 319.0])
    """
    image = read_image(photo_file())
    sample = Sample(
        image=image,
        boxes=np.array([BOX], np.float32),
        labels=np.zeros(1, np.int64),
        ignore=np.zeros(1, np.bool_),
        image_id=0,
        path=photo_file(),
        original_size=image.shape[:2],
        img_shape=image.shape[:2],
    )
    seen = eval_sample(sample, INPUT_SIZE)
    boxes, labels = torch.from_numpy(seen.boxes), torch.from_numpy(seen.labels)
    return Photo(
        image=image,
        images=torch.from_numpy(seen.image).permute(2, 0, 1)[None],
        content=seen.img_shape,
        scale=seen.scale_factor,
        ground_truth=GroundTruth.from_list([boxes], [labels], num_classes=len(NAMES)),
    )


def photo_maps() -> Maps:
    """What the published network says of the photograph: logits and distances of each level, finest first.

    >>> [tuple(level.shape) for level in photo_maps().cls_scores]
    [(1, 1, 40, 40), (1, 1, 20, 20), (1, 1, 10, 10)]
    """
    with safe_open(RECORDING, framework="pt") as file:
        return Maps(*(tuple(file.get_tensor(f"{name}/{level}") for level in range(3)) for name in Maps._fields))
