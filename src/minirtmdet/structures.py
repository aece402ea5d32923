"""The tensors that travel between the steps of the head, each with a name for every axis.

``B`` images, ``N`` priors (all levels, level-major, row-major), ``G`` boxes (padded), ``C`` classes.
Boxes are ``xyxy`` in pixels of the padded input unless a docstring says otherwise.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.masks import LazyMasks, center_of_mass, in_blocks, subsample
from minirtmdet.messages import counted


class GroundTruth(NamedTuple):
    """The annotated boxes of a batch, padded to a common number ``G`` and checked once, when made.

    A row is a real box where ``mask`` is true, an ignored region where ``ignore`` is true, and padding
    where neither is; the two are never both true.  Make it with :meth:`from_list`, which checks every
    box; the training path then trusts it and never asks the device for a value.

    Attributes:
        boxes: ``xyxy`` in pixels of the padded input; zeros in padding.
        labels: class index ``0..C-1``; 0 in padding and in ignored regions, whose class nothing asks for.
        mask: true for the boxes that are assigned to priors.
        ignore: true for regions where background must not be learned (crowds).
        centers: the point that the soft centre cost is measured from: the box centre, or the centre
            of mass of a mask.
        masks: what belongs to each box, at every fourth pixel of every fourth row of the input; a tensor without
            numbers, ``[B, G, 0, 0]``, where boxes have no masks.
    """

    boxes: Float[Tensor, "batch boxes 4"]
    labels: Int[Tensor, "batch boxes"]
    mask: Bool[Tensor, "batch boxes"]
    ignore: Bool[Tensor, "batch boxes"]
    centers: Float[Tensor, "batch boxes 2"]
    masks: Bool[Tensor, "batch boxes _ _"] = torch.zeros(0, 0, 0, 0, dtype=torch.bool)

    @classmethod
    def from_list(
        cls,
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Sequence[Int[Tensor, " _"]],
        *,
        num_classes: int | None = None,
        ignore: Sequence[Bool[Tensor, " _"]] | None = None,
        centers: Sequence[Float[Tensor, "_ 2"]] | None = None,
        masks: Sequence[Bool[Tensor, "_ _ _"]] | None = None,
        cells: Sequence[Bool[Tensor, "_ _ _"]] | None = None,
        names: Sequence[str] | None = None,
    ) -> "GroundTruth":
        """Check and pad the boxes of ``B`` images.

        Args:
            boxes: one ``[n, 4]`` tensor of ``xyxy`` pixels an image; ``n`` may be 0.
            labels: one ``[n]`` tensor of class indices an image.
            num_classes: where given, labels must lie in ``0..num_classes-1``; those of ignore regions may be any.
            ignore: one ``[n]`` mask an image of boxes that are ignore regions.
            centers: one ``[n, 2]`` tensor an image; the box centres where left out, or the centres of mass of masks.
            masks: one ``[n, H, W]`` tensor an image, in pixels of the padded input, which is of one size for all.
            cells: in place of ``masks`` what :func:`~minirtmdet.masks.subsample` makes of them, with their ``centers``.
            names: what error messages call each image; ``image 0``, ``image 1``, … where left out.

        Raises:
            ValueError: naming the image and the box, for a wrong shape, a value that is not finite, a
                box without width or height, or a label out of range.

        >>> gt = GroundTruth.from_list([torch.tensor([[8., 8., 24., 40.]])], [torch.tensor([2])])
        >>> gt.boxes.shape, gt.mask.sum().item(), gt.centers[0, 0].tolist()
        (torch.Size([1, 4, 4]), 1, [16.0, 24.0])
        """
        batch = len(boxes)
        names = names or [f"image {i}" for i in range(batch)]
        ignore = ignore or [torch.zeros(len(b), dtype=torch.bool, device=b.device) for b in boxes]
        if masks is not None:
            _check_masks(names, boxes, masks)
            centers = centers or [center_of_mass(m) for m in masks]
            cells = [subsample(m) for m in masks]
        elif cells is not None:
            _check_masks(names, boxes, cells)
        centers = centers or [(b[:, :2] + b[:, 2:]) / 2 if b.ndim == 2 else b for b in boxes]
        columns = {"labels": labels, "ignore": ignore, "centers": centers, "names": names}
        for column, values in columns.items():
            if len(values) != batch:
                raise ValueError(f"{batch} images have boxes, but {len(values)} have {column}: give one entry an image")
        for i, name in enumerate(names):
            _check_image(name, boxes[i], labels[i], ignore[i], centers[i], num_classes)

        size = padded_count(max((len(b) for b in boxes), default=0))
        # at least fp32: half precision cannot tell 1001 px from 1000 px
        dtype = torch.promote_types(boxes[0].dtype, torch.float32) if batch else torch.float32
        device = boxes[0].device if batch else torch.device("cpu")
        padded = cls(
            boxes=torch.zeros(batch, size, 4, dtype=dtype, device=device),
            labels=torch.zeros(batch, size, dtype=torch.int64, device=device),
            mask=torch.zeros(batch, size, dtype=torch.bool, device=device),
            ignore=torch.zeros(batch, size, dtype=torch.bool, device=device),
            centers=torch.zeros(batch, size, 2, dtype=dtype, device=device),
            masks=torch.zeros(batch, size, *_cells(cells), dtype=torch.bool, device=device),
        )
        for i, image_boxes in enumerate(boxes):
            n = len(image_boxes)
            padded.boxes[i, :n] = image_boxes.to(dtype)
            # the class cost looks one up for every row, and an ignored region may have any label
            padded.labels[i, :n] = labels[i].to(torch.int64).masked_fill(ignore[i], 0)
            padded.mask[i, :n] = ~ignore[i]
            padded.ignore[i, :n] = ignore[i]
            padded.centers[i, :n] = centers[i].to(dtype)
            if cells is not None:
                padded.masks[i, :n] = cells[i]
        return padded

    def with_rows(self) -> "GroundTruth":
        """The same with one row of padding where there is none at all: no minimum is over no box then."""
        if self.boxes.shape[1]:
            return self
        return type(self)(*(field.new_zeros(len(field), 1, *field.shape[2:]) for field in self))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "GroundTruth":
        """The same ground truth on another device."""
        return type(self)(*(field.to(device, non_blocking=non_blocking) for field in self))

    def pin_memory(self) -> "GroundTruth":
        """The same ground truth in page-locked memory, so that the copy to a GPU does not wait."""
        return type(self)(*(field.pin_memory() if field.numel() else field for field in self))

    def image(self, index: int) -> "GroundTruth":
        """Image ``index`` alone, as a batch of one, with the same padding."""
        return GroundTruth(*(field[index : index + 1] for field in self))


def padded_count(count: int) -> int:
    """Rows that ``count`` boxes are padded to: 4, 8, 12, … 32, 40, … 64, 80, … 128, 160 and so on.

    Four sizes from a power of two to the next: from 17 boxes on less than a fifth of the rows is padding, and few
    distinct sizes keep a recorded step from being recorded again for each new number of boxes.

    >>> [padded_count(n) for n in (0, 4, 5, 9, 13, 65, 256, 257, 300)]
    [4, 4, 8, 12, 16, 80, 256, 320, 320]
    """
    power = 1 << max(count - 1, 0).bit_length()  # the power of two from ``count`` up
    step = max(power // 8, 4)
    return max(step, -(-count // step) * step)


def _check_image(
    name: str, boxes: Tensor, labels: Tensor, ignore: Tensor, centers: Tensor, num_classes: int | None
) -> None:
    """Raise a ValueError that names the image and the first box that is wrong."""
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"{name}: boxes have shape {tuple(boxes.shape)}, expected [n, 4] (x1, y1, x2, y2)")
    if not boxes.is_floating_point():
        raise ValueError(f"{name}: boxes are {boxes.dtype}, expected floating point: use boxes.float()")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"{name}: labels are {labels.dtype}, expected integers")
    for field, values, shape in (
        ("labels", labels, (len(boxes),)),
        ("ignore", ignore, (len(boxes),)),
        ("centers", centers, (len(boxes), 2)),
    ):
        if tuple(values.shape) != shape:
            raise ValueError(
                f"{name}: {field} have shape {tuple(values.shape)}, expected {shape} for "
                f"{counted(len(boxes), 'box', 'boxes')}"
            )
    bad = ~torch.isfinite(boxes).all(-1) | ~torch.isfinite(centers).all(-1)
    if bad.any():
        i = int(bad.nonzero()[0])
        raise ValueError(f"{name}, box {i}: {boxes[i].tolist()} is not finite")
    bad = (boxes[:, 2:] <= boxes[:, :2]).any(-1)
    if bad.any():
        i = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}, box {i}: {boxes[i].tolist()} has no width or no height (x1 < x2 and y1 < y2 expected)"
        )
    if num_classes is not None:
        bad = ((labels < 0) | (labels >= num_classes)) & ~ignore
        if bad.any():
            i = int(bad.nonzero()[0])
            raise ValueError(f"{name}, box {i}: label {int(labels[i])} is outside 0..{num_classes - 1}")


def _check_masks(names: Sequence[str], boxes: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Raise a ValueError that names the first image whose masks are wrong."""
    if len(masks) != len(boxes):
        raise ValueError(f"{len(boxes)} images have boxes, but {len(masks)} have masks: give one entry an image")
    for name, image_boxes, image_masks in zip(names, boxes, masks, strict=False):
        if image_masks.dtype != torch.bool:
            raise ValueError(f"{name}: masks are {image_masks.dtype}, expected bool: use masks > 0")
        if image_masks.ndim != 3 or len(image_masks) != len(image_boxes):
            raise ValueError(
                f"{name}: masks have shape {tuple(image_masks.shape)}, expected [n, H, W] for "
                f"{counted(len(image_boxes), 'box', 'boxes')}"
            )
        if image_masks.shape[1:] != masks[0].shape[1:]:
            raise ValueError(
                f"{name}: masks are {tuple(image_masks.shape[1:])}, those of {names[0]} {tuple(masks[0].shape[1:])}: "
                f"give all masks in the size (height, width) of the padded input, also where there are none"
            )


def _cells(cells: Sequence[Bool[Tensor, "_ height width"]] | None) -> tuple[int, int]:
    """Rows and columns of masks as they are kept."""
    return (cells[0].shape[1], cells[0].shape[2]) if cells else (0, 0)


class AssignResult(NamedTuple):
    """Which box each prior has to learn (MMDetection: ``AssignResult``).

    Attributes:
        gt_inds: 0 for background, ``i + 1`` for box ``i``, -1 for a prior that takes no part: not valid, or in an
            ignored region and without a box.
        max_overlaps: IoU of the prior's predicted box with its box; 0 on background
            (MMDetection writes -1e8 there, or 0 where the image has no box at all).
        labels: class of the box, -1 on background.
    """

    gt_inds: Int[Tensor, "batch priors"]
    max_overlaps: Float[Tensor, "batch priors"]
    labels: Int[Tensor, "batch priors"]


class SamplingResult(NamedTuple):
    """Positives and negatives of a batch as masks (MMDetection's ``SamplingResult`` keeps indices).

    Attributes:
        pos_mask: priors with a box.
        neg_mask: priors that learn background; false where a prior is not valid.
        gt_bboxes: the box of each positive, zeros elsewhere.
    """

    pos_mask: Bool[Tensor, "batch priors"]
    neg_mask: Bool[Tensor, "batch priors"]
    gt_bboxes: Float[Tensor, "batch priors 4"]


class Targets(NamedTuple):
    """What every prior is trained towards.

    Attributes:
        labels: class index, ``C`` for background.
        label_weights: 1 where the class loss counts, 0 for priors in the padding or in an ignored region.
        bbox_targets: the box to predict, zeros where there is none.
        assign_metrics: IoU at assignment time: the soft label of the class loss and the weight of the box loss.
    """

    labels: Int[Tensor, "batch priors"]
    label_weights: Float[Tensor, "batch priors"]
    bbox_targets: Float[Tensor, "batch priors 4"]
    assign_metrics: Float[Tensor, "batch priors"]


class LossTerms(NamedTuple):
    """The losses before any sum, so that a level, an image or a box can be looked at alone.

    Attributes:
        cls: quality focal loss of each prior, summed over classes, times its label weight.
        bbox: GIoU loss of each positive times its weight, 0 elsewhere.
        iou_sum: sum of ``assign_metrics`` over the batch: what both losses are divided by.
    """

    cls: Float[Tensor, "batch priors"]
    bbox: Float[Tensor, "batch priors"]
    iou_sum: Float[Tensor, ""]


class InsOutputs(NamedTuple):
    """What a head that finds masks predicts.

    Attributes:
        cls_scores: class logits of each level.
        bbox_preds: distances ``ltrb`` of each level, in pixels, never negative.
        kernel_preds: each prior's own convolutions, which make its mask of the features.
        mask_feat: prototypes at the first level's stride, one map for all instances of an image.
    """

    cls_scores: tuple[Float[Tensor, "batch classes _ _"], ...]
    bbox_preds: tuple[Float[Tensor, "batch 4 _ _"], ...]
    kernel_preds: tuple[Float[Tensor, "batch kernel _ _"], ...]
    mask_feat: Float[Tensor, "batch prototypes _ _"]


class MaskTerms(NamedTuple):
    """The mask loss before it is divided.

    Attributes:
        each: Dice loss of each slot, to look at; 0 where a slot is not used.
        total: their sum, with a gradient.
        positives: how many slots count: what the sum is divided by.
    """

    each: Float[Tensor, "batch slots"]
    total: Float[Tensor, ""]
    positives: Float[Tensor, ""]


class _Found(NamedTuple):
    """Boxes, scores and labels."""

    boxes: Float[Tensor, "detections 4"]
    scores: Float[Tensor, " detections"]
    labels: Int[Tensor, " detections"]


class Detections(_Found):
    """The detections of one image, best first; as a tuple, with masks or without, ``(boxes, scores, labels)``.

    Attributes:
        boxes: ``xyxy`` in pixels of the original image.
        scores: probability in 0..1.
        labels: class index.
        stored_masks: the masks as they are kept: pixels, or what pixels are made of; None from a detector of boxes
            alone.
    """

    stored_masks: Bool[Tensor, "detections height width"] | LazyMasks | None

    def __new__(
        cls,
        boxes: Float[Tensor, "detections 4"],
        scores: Float[Tensor, " detections"],
        labels: Int[Tensor, " detections"],
        masks: Bool[Tensor, "detections height width"] | LazyMasks | None = None,
    ) -> "Detections":
        """Three fields and, where there are some, masks beside them."""
        if masks is not None and len(masks) != len(boxes):
            raise ValueError(f"{len(boxes)} detections with {len(masks)} masks: give one a detection")
        found = super().__new__(cls, boxes, scores, labels)
        found.stored_masks = masks
        return found

    @property
    def masks(self) -> Bool[Tensor, "detections height width"] | None:
        """The pixels of each detection, in the original image's size, on the device of the boxes.

        They are made when first asked for, and kept: a hundred of an image of 12 megapixels take 1.2 GB.
        :meth:`mask_blocks` makes a few at a time and keeps none.
        """
        if self.stored_masks is not None and not isinstance(self.stored_masks, Tensor):
            self.stored_masks = self.stored_masks.pixels()
        return None if self.stored_masks is None else self.stored_masks.to(self.boxes.device)

    def mask_blocks(self) -> Iterator[Bool[Tensor, "block height width"]]:
        """The masks in the order of the detections, a few at a time; nothing where there are none."""
        blocks = () if self.stored_masks is None else in_blocks(self.stored_masks)
        return (block.to(self.boxes.device) for block in blocks)

    def pick(self, rows: Bool[Tensor, " detections"] | Int[Tensor, " _"] | slice) -> "Detections":
        """Some of the detections, or all in another order, each with its mask.

        Args:
            rows: which to keep, or indices in the order to have them in.
        """
        masks = None if self.stored_masks is None else self.stored_masks[rows]
        boxes, scores, labels = (field[rows] for field in self)
        return Detections(boxes, scores, labels, masks)


def on_host(batch: Sequence[Detections]) -> list[Detections]:
    """The same detections in the host's memory, for which it waits as often for many images as for one.

    Masks that are not made yet are made where they are, and come over as pixels.
    """
    counts = [len(detections.scores) for detections in batch]
    if not counts:
        return []
    columns = (torch.cat(column).cpu().split(counts) for column in zip(*batch, strict=True))
    masks = [found.stored_masks for found in batch]
    masks = [kept.cpu() if isinstance(kept, Tensor) else kept for kept in masks]
    rows = zip(*columns, masks, strict=True)
    return [Detections(boxes, scores, labels, kept) for boxes, scores, labels, kept in rows]
