"""Figures of images: detections, the steps of an augmentation, and feature maps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.plots.canvas import (
    CARD,
    Image,
    bare,
    box_color,
    check_labels,
    class_colors,
    draw_box,
    draw_masks,
    image_size,
    panels,
    sheet,
    show_image,
    styled,
    to_numpy,
)
from minirtmdet.plots.grids import real_boxes
from minirtmdet.plots.labels import draw_labels
from minirtmdet.structures import Detections, GroundTruth

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MOST_LABELS = 12


@runtime_checkable
class Annotated(Protocol):
    """An image with boxes, such as :class:`minirtmdet.data.augment.Sample`."""

    @property
    def image(self) -> np.ndarray:
        """BGR, uint8 ``[H, W, 3]``."""

    @property
    def boxes(self) -> Any:
        """``[n, 4]``, ``xyxy`` in pixels."""


@styled
def detection_sheet(
    images: Sequence[Image] | Tensor,
    detections: Sequence[Detections],
    classes: Sequence[str],
    ground_truth: GroundTruth | Sequence[Float[Tensor, "_ 4"]] | None = None,
    score_threshold: float = 0.3,
    columns: int = 4,
) -> "matplotlib.figure.Figure":
    """A sheet of images with their detections; a colour per class, the true boxes thin and dashed in white.

    Where detections have masks, the pixels of each have the colour of its box.

    Args:
        images: the images.
        detections: one entry per image, in its pixels.
        classes: name of each class.
        ground_truth: the true boxes, in the same pixels.
        score_threshold: only detections that score more are drawn; of these the best twelve are named, as far as
            their names can be read.
        columns: images per row.

    Raises:
        ValueError: where there is no image, the numbers differ, or a label has no name.
    """
    if not len(images) or len(images) != len(detections):
        raise ValueError(
            f"{len(images)} images with {len(detections)} detections: give one entry an image, at least one"
        )
    title = f"What the detector finds, with scores above {score_threshold:g}"
    title += "; dashed: the true boxes" if ground_truth is not None else ""
    palette = class_colors(classes)
    figure, axes = sheet(title, len(images), columns, _aspect(images), headings=False)
    for ax, image in zip(axes, images, strict=True):
        show_image(ax, image)
    figure.draw_without_rendering()
    for i, ax in enumerate(axes):
        if ground_truth is not None:
            true = real_boxes(ground_truth, i) if isinstance(ground_truth, GroundTruth) else real_boxes(ground_truth[i])
            for box in true.values():
                draw_box(ax, box, "white", dashed=True)
        order = detections[i].scores.argsort(descending=True, stable=True)
        best_first = detections[i].pick(order[detections[i].scores[order] > score_threshold])
        boxes, scores, labels = (to_numpy(field) for field in best_first)
        check_labels(labels.tolist(), classes, f"image {i}")
        colors = [palette[label] for label in labels]
        draw_found_masks(ax, best_first, colors)
        for box, color in zip(boxes[::-1], colors[::-1], strict=True):
            draw_box(ax, box, color)
        texts = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        draw_labels(ax, boxes[:MOST_LABELS], texts[:MOST_LABELS], colors[:MOST_LABELS])
        if not len(labels):
            draw_labels(ax, [np.zeros(4)], ["nothing found"], [CARD])
    return figure


def draw_found_masks(ax: "matplotlib.axes.Axes", detections: Detections, colors: Sequence[str]) -> None:
    """The masks of detections that have some, the first on top."""
    if detections.stored_masks is not None:
        last_first = detections.pick(torch.arange(len(detections.scores)).flip(0).to(detections.scores.device))
        draw_masks(ax, (to_numpy(mask) for block in last_first.mask_blocks() for mask in block), colors[::-1])


@styled
def augmentation_steps(
    samples: Sequence[Annotated], names: Sequence[str], *, columns: int = 3, title: str | None = None
) -> "matplotlib.figure.Figure":
    """One image after each step of an augmentation, with its boxes.

    Args:
        samples: the image after each step.
        names: of the steps.
        columns: images per row.
        title: what the images show, in a sentence; the names of the steps where left out.

    Raises:
        ValueError: where there is no sample or the numbers differ.
    """
    if not len(samples) or len(samples) != len(names):
        raise ValueError(f"{len(samples)} samples with {len(names)} names: give one name a sample, at least one")
    images = [sample.image for sample in samples]
    title = title or "One image, step by step: " + ", ".join(names)
    figure, axes = sheet(title, len(samples), columns, _aspect(images))
    _draw_samples(axes, samples, names)
    return figure


@styled
def before_and_after(
    pairs: Sequence[tuple[Annotated, Annotated]], names: Sequence[str], *, columns: int = 2
) -> "matplotlib.figure.Figure":
    """What each transform makes of an image and its boxes: the image before at the left, after at the right.

    Args:
        pairs: the image before and after each transform.
        names: of the transforms.
        columns: pairs a row.

    Raises:
        ValueError: where there is no pair or the numbers differ.
    """
    if not len(pairs) or len(pairs) != len(names):
        raise ValueError(f"{len(pairs)} pairs with {len(names)} names: give one name a pair, at least one")
    samples = [sample for pair in pairs for sample in pair]
    images = [sample.image for sample in samples]
    title = "Before and after: " + ", ".join(names)
    figure, axes = sheet(title, len(samples), 2 * columns, _aspect(images))
    _draw_samples(axes, samples, [heading for name in names for heading in ("before", name)])
    return figure


def _draw_samples(axes: "Sequence[matplotlib.axes.Axes]", samples: Sequence[Annotated], names: Sequence[str]) -> None:
    """Each image with its boxes, its name and its size."""
    for ax, sample, name in zip(axes, samples, names, strict=True):
        show_image(ax, sample.image)
        for i, box in enumerate(to_numpy(sample.boxes)):
            draw_box(ax, box, box_color(i))
        height, width = image_size(sample.image)
        ax.set_title(f"{name}: {width} × {height} px")


def _aspect(images: Sequence[Image] | Tensor) -> float:
    """The middle one of the images' height over width."""
    return float(np.median([height / width for height, width in map(image_size, images)]))


@styled
def feature_maps(
    features: Sequence[Float[Tensor, "batch channels _ _"]],
    *,
    image: Image | None = None,
    index: int = 0,
    channels: int = 3,
) -> "matplotlib.figure.Figure":
    """What each level's map holds: its mean magnitude, and the channels that vary most over the image.

    Args:
        features: one map a level.
        image: the image, to show before them.
        index: which image of the batch.
        channels: how many single channels to show; each has its own range.
    """
    maps = [to_numpy(level[index]) for level in features]
    images = 1 if image is None else 2
    title = "What each level's map holds: bright is high; the channels are those that vary most"
    figure, axes = panels(title, len(maps), images + channels, maps[0].shape[1] / maps[0].shape[2])
    for i, (row, values) in enumerate(zip(axes, maps, strict=True)):
        strongest = np.argsort(-values.std((1, 2)), kind="stable")[:channels]
        if image is not None:
            show_image(row[0], image) if i == 0 else row[0].remove()
        row[images - 1].imshow(np.abs(values).mean(0), interpolation="nearest")
        row[images - 1].set_title("mean |x|")
        for ax, channel in zip(row[images:], strongest, strict=False):
            ax.imshow(values[channel], interpolation="nearest")
            ax.set_title(f"channel {channel}")
        for ax in row[images - 1 :]:
            bare(ax)
        row[images - 1].set_ylabel(" × ".join(map(str, values.shape)))
    return figure
