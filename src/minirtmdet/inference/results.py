"""What was found in an image, ready for use: drawn, in COCO's form, and in the form of other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from minirtmdet.data.images import read_image
from minirtmdet.evaluation.coco import coco_results
from minirtmdet.inference.detect import Pixels
from minirtmdet.inference.images import draw_detections
from minirtmdet.plots.canvas import to_numpy
from minirtmdet.structures import Detections


@dataclass(frozen=True)
class ImageDetections:
    """The detections of one image, best first, with what else is needed to use them.

    Attributes:
        detections: in pixels of the image; boxes end where the image ends.
        classes: names in label order.
        size: (height, width) of the image.
        path: its file; None for pixels that were handed over.
        pixels: what was handed over; None for a file, which is read again when it is drawn.
    """

    detections: Detections
    classes: tuple[str, ...]
    size: tuple[int, int]
    path: Path | None = None
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.detections.scores)

    @property
    def boxes(self) -> Float[Tensor, "detections 4"]:
        """``xyxy`` in pixels."""
        return self.detections.boxes

    @property
    def scores(self) -> Float[Tensor, " detections"]:
        """Probabilities."""
        return self.detections.scores

    @property
    def labels(self) -> Int[Tensor, " detections"]:
        """Class indices."""
        return self.detections.labels

    @property
    def names(self) -> list[str]:
        """The class of each, by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    def draw(self) -> Pixels:
        """The image (BGR) with a named box for each detection, the best ones on top; a new array.

        Raises:
            FileNotFoundError, ValueError: where the file is gone or broken by now.
        """
        pixels = self.pixels
        if pixels is None:
            assert self.path is not None
            pixels = read_image(self.path)
        return draw_detections(pixels, self.detections, self.classes)

    def rows(self) -> list[dict[str, Any]]:
        """A dict for each detection: ``file``, ``x1``, ``y1``, ``x2``, ``y2``, ``score``, ``label``, ``class``."""
        file = None if self.path is None else str(self.path)
        return [
            {"file": file, **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)), "score": score, "label": label}
            | {"class": self.classes[label]}
            for box, score, label in zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ]

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows of the COCO results format, boxes as ``[x, y, width, height]``.

        Args:
            image_id: the image's id in the JSON that the rows are to be compared with.
            category_ids: that JSON's id of each class, in label order; 1, 2, 3, … where left out.

        Raises:
            ValueError: where there is not one id per class.
        """
        ids = range(1, len(self.classes) + 1) if category_ids is None else category_ids
        if len(ids) != len(self.classes):
            raise ValueError(f"{len(ids)} category ids for {len(self.classes)} classes: give one for each")
        return coco_results(self.detections, image_id, list(ids))

    def to_supervision(self) -> Any:
        """``supervision.Detections``, with class names under ``data["class_name"]``, for its trackers and zones.

        Raises:
            ModuleNotFoundError: where supervision is not installed.
        """
        boxes, scores, labels = (to_numpy(field) for field in self.detections)
        masks = self.detections.masks
        return _optional("supervision").Detections(
            xyxy=boxes.astype(np.float32).reshape(-1, 4),
            mask=None if masks is None else to_numpy(masks),
            confidence=scores.astype(np.float32),
            class_id=labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_pandas(self) -> Any:
        """:meth:`rows` as a ``pandas.DataFrame``, with its columns where nothing was found too.

        Raises:
            ModuleNotFoundError: where pandas is not installed.
        """
        columns = ["file", "x1", "y1", "x2", "y2", "score", "label", "class"]
        return _optional("pandas").DataFrame(self.rows(), columns=columns)


def _optional(name: str) -> Any:
    """A library that this package does not ask for, or an error that says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"{name} is not installed, and this needs it: pip install {name}", name=name
        ) from None
