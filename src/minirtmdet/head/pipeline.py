"""The head's training path, the other files of this folder in order: from maps to two losses, or three."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.configs import AssignerConfig, LossConfig
from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.dynamic import mask_terms
from minirtmdet.head.losses import GIoULoss, QualityFocalLoss, background_of, loss_terms, normalise, normalise_masks
from minirtmdet.head.priors import MlvlPointGenerator, border_flags
from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.head.targets import build_targets
from minirtmdet.masks import fit_to_map
from minirtmdet.structures import AssignResult, GroundTruth, LossTerms, MaskTerms, Targets

ReduceMean = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""The mean of numbers over the processes that train together."""


def flatten_levels(maps: Sequence[Float[Tensor, "batch channels _ _"]]) -> Float[Tensor, "batch priors channels"]:
    """All cells of all levels in one axis, level by level and row by row.

    In memory a channel's cells stay side by side, as in the maps: nothing is moved to turn the axes around, and the
    head's sums over classes read whole rows.

    >>> flatten_levels([torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 1, 2)]).shape
    torch.Size([1, 8, 4])
    """
    return torch.cat([level.flatten(2) for level in maps], -1).mT


class RTMDetLoss:
    """Losses of a batch (MMDetection: ``RTMDetHead.loss_by_feat``).

    Args:
        num_classes: classes, background not counted.
        assigner: settings of the assigner.
        loss: settings of the losses.
        prior_offset: where a prior lies in its cell, in strides.
        reduce_mean: what the sum of IoUs goes through before it divides the losses: nothing in one process; the mean
            over processes where several train together (MMDetection: ``reduce_mean`` of ``cls_avg_factor``).
    """

    def __init__(
        self,
        num_classes: int,
        assigner: AssignerConfig = AssignerConfig(),
        loss: LossConfig = LossConfig(),
        prior_offset: float = 0.0,
        reduce_mean: ReduceMean | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.prior_generator = MlvlPointGenerator(offset=prior_offset)
        self.bbox_coder = DistancePointBBoxCoder()
        self.allowed_border = assigner.allowed_border
        self.assigner = DynamicSoftLabelAssigner(
            assigner.topk,
            assigner.iou_weight,
            assigner.soft_center_radius,
            assigner.nearest_prior_fallback,
            assigner.ignore_regions,
        )
        self.sampler = PseudoSampler()
        self.loss_cls = QualityFocalLoss(loss.beta, loss.cls_weight)
        self.loss_bbox = GIoULoss(loss_weight=loss.bbox_weight, clamp_inverted=loss.clamp_inverted)
        self.reduce_mean = _of_one_process if reduce_mean is None else reduce_mean

    def __call__(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss_cls`` and ``loss_bbox`` to minimise, and ``num_pos``, positives per image, to look at.

        Args:
            cls_scores: logits of each level.
            bbox_preds: distances ``ltrb`` of each level, in pixels.
            ground_truth: the batch's boxes.
            pad_shapes: ``(height, width)`` of each image after its own padding; where left out, all priors count.
            img_shapes: ``(height, width)`` of each image before padding; read only where ``allowed_border`` is not
                negative.

        Raises:
            ValueError: where ``allowed_border`` is not negative and there are no ``img_shapes``.
        """
        terms, targets = self.terms(cls_scores, bbox_preds, ground_truth, pad_shapes, img_shapes)
        losses = normalise(terms, self.reduce_mean(terms.iou_sum))
        positives = (targets.labels < self.num_classes).sum()
        return losses | {"num_pos": positives / len(targets.labels)}

    def terms(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> tuple[LossTerms, Targets]:
        """The losses before any sum, and the targets they were measured against.  Arguments as in a call."""
        return self.assigned_terms(cls_scores, bbox_preds, ground_truth, pad_shapes, img_shapes)[:2]

    def assigned_terms(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> tuple[LossTerms, Targets, AssignResult, Float[Tensor, "priors 4"]]:
        """As :meth:`terms`, with the assignment behind the targets, and all priors.  Arguments as in a call."""
        logits, boxes, priors, valid = self.flatten(cls_scores, bbox_preds, pad_shapes, img_shapes)
        background = background_of(logits, self.loss_cls.beta)
        # the class cost is the loss itself, where its exponent is the assigner's
        shared = background.loss if self.loss_cls.beta == 2 else None
        assigned = self.assigner.assign(logits.detach(), boxes.detach(), priors, ground_truth, valid, shared)
        sampled = self.sampler.sample(assigned, ground_truth)
        targets = build_targets(sampled, assigned, self.num_classes)
        terms = loss_terms(logits, boxes, targets, self.loss_cls, self.loss_bbox, background)
        return terms, targets, assigned, priors

    def assign(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> AssignResult:
        """The assignment alone, to look at.  Arguments as in a call."""
        logits, boxes, priors, valid = self.flatten(cls_scores, bbox_preds, pad_shapes, img_shapes)
        return self.assigner.assign(logits, boxes, priors, ground_truth, valid)

    def flatten(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch priors classes"],
        Float[Tensor, "batch priors 4"],
        Float[Tensor, "priors 4"],
        Bool[Tensor, "batch priors"] | None,
    ]:
        """Logits, decoded boxes, priors and valid flags, with one axis for the priors of all levels."""
        featmap_sizes = [(level.shape[-2], level.shape[-1]) for level in cls_scores]
        # at least fp32: in bf16 the prior at 300.5 px is at 300, and box areas overflow fp16
        dtype = torch.promote_types(bbox_preds[0].dtype, torch.float32)
        grids = self.prior_generator.grid_priors(featmap_sizes, dtype, bbox_preds[0].device)
        priors = torch.cat([grid.mT for grid in grids], -1).mT  # [N,4]
        logits = flatten_levels(cls_scores).to(dtype)  # [B,N,C]
        boxes = self.bbox_coder.decode(priors[:, :2], flatten_levels(bbox_preds).to(dtype))  # [B,N,4]
        valid = None
        if pad_shapes is not None:
            valid = torch.cat(self.prior_generator.valid_flags(featmap_sizes, pad_shapes), 1)  # [B,N]
        if self.allowed_border >= 0:
            if img_shapes is None:
                raise ValueError(f"allowed_border is {self.allowed_border}: give img_shapes, or set it to -1")
            inside = border_flags(priors, img_shapes, self.allowed_border)  # [B,N]
            valid = inside if valid is None else valid & inside
        return logits, boxes, priors, valid


class RTMDetInsLoss(RTMDetLoss):
    """Losses of a batch with masks (MMDetection: ``RTMDetInsHead.loss_by_feat``).  Arguments as its base's.

    Attributes:
        reduce_mean: takes two numbers at once here: the sum of IoUs, and the positives that the mask loss is a mean of.
    """

    def __init__(
        self,
        num_classes: int,
        assigner: AssignerConfig = AssignerConfig(),
        loss: LossConfig = LossConfig(),
        prior_offset: float = 0.0,
        reduce_mean: ReduceMean | None = None,
    ) -> None:
        super().__init__(num_classes, assigner, loss, prior_offset, reduce_mean)
        self.settings = loss

    def __call__(  # type: ignore[override]  # a head that finds masks gives more
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        kernel_preds: Sequence[Float[Tensor, "batch kernel _ _"]],
        mask_feat: Float[Tensor, "batch prototypes height width"],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss_cls``, ``loss_bbox`` and ``loss_mask`` to minimise, and ``num_pos``, positives per image.

        Args:
            cls_scores: logits of each level.
            bbox_preds: distances ``ltrb`` of each level, in pixels.
            kernel_preds: each prior's own convolutions, of each level.
            mask_feat: prototypes.
            ground_truth: the batch's boxes, with masks.
            pad_shapes: as in :meth:`RTMDetLoss.__call__`.
            img_shapes: likewise.

        Raises:
            ValueError: where boxes have no masks, or masks of another size than the network's input; as there.
        """
        boxes = cls_scores, bbox_preds, ground_truth, pad_shapes, img_shapes
        terms, targets, assigned, priors = self.assigned_terms(*boxes)
        masks = self.mask_terms(kernel_preds, mask_feat, priors, assigned, ground_truth)
        iou_sum, masked = self.reduce_mean(torch.stack([terms.iou_sum, masks.positives])).unbind()
        losses = normalise(terms, iou_sum) | {"loss_mask": normalise_masks(masks, masked, self.settings.mask_weight)}
        positives = (targets.labels < self.num_classes).sum()
        return losses | {"num_pos": positives / len(targets.labels)}

    def mask_terms(
        self,
        kernel_preds: Sequence[Float[Tensor, "batch kernel _ _"]],
        mask_feat: Float[Tensor, "batch prototypes height width"],
        priors: Float[Tensor, "priors 4"],
        assigned: AssignResult,
        ground_truth: GroundTruth,
    ) -> MaskTerms:
        """The mask loss before it is divided.

        Args:
            kernel_preds: as in a call.
            mask_feat: as in a call.
            priors: of all levels.
            assigned: the batch's assignment, for these boxes.
            ground_truth: as in a call.
        """
        ground_truth = ground_truth.with_rows()
        return mask_terms(
            kernel_preds,
            mask_feat,
            priors,
            assigned.gt_inds,
            fit_to_map(ground_truth.masks, (mask_feat.shape[-2], mask_feat.shape[-1])),
            self.assigner.topk * ground_truth.masks.shape[1],
            self.settings.dice_eps,
            self.settings.drop_empty_masks,
        )


def _of_one_process(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values
