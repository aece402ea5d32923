"""The head's training path, the other files of this folder in order: from maps to two losses."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minirtmdet.configs import AssignerConfig, LossConfig
from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.losses import GIoULoss, QualityFocalLoss, background_of, loss_terms, normalise
from minirtmdet.head.priors import MlvlPointGenerator, border_flags
from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.head.targets import build_targets
from minirtmdet.structures import AssignResult, GroundTruth, LossTerms, Targets


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

    Attributes:
        reduce_mean: what the sum of IoUs goes through before it divides the losses: nothing in one process; the mean
            over processes where several train together (MMDetection: ``reduce_mean`` of ``cls_avg_factor``).
    """

    def __init__(
        self,
        num_classes: int,
        assigner: AssignerConfig = AssignerConfig(),
        loss: LossConfig = LossConfig(),
        prior_offset: float = 0.0,
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
        self.reduce_mean: Callable[[Float[Tensor, ""]], Float[Tensor, ""]] = _of_one_process

    def __call__(
        self,
        cls_scores: Sequence[Float[Tensor, "batch classes _ _"]],
        bbox_preds: Sequence[Float[Tensor, "batch 4 _ _"]],
        ground_truth: GroundTruth,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss_cls`` and ``loss_bbox`` to minimise, and ``num_pos``, the positives an image, to look at.

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
        logits, boxes, priors, valid = self.flatten(cls_scores, bbox_preds, pad_shapes, img_shapes)
        background = background_of(logits, self.loss_cls.beta)
        # the class cost is the loss itself, where its exponent is the assigner's
        shared = background.loss if self.loss_cls.beta == 2 else None
        assigned = self.assigner.assign(logits.detach(), boxes.detach(), priors, ground_truth, valid, shared)
        sampled = self.sampler.sample(assigned, ground_truth)
        targets = build_targets(sampled, assigned, self.num_classes)
        return loss_terms(logits, boxes, targets, self.loss_cls, self.loss_bbox, background), targets

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


def _of_one_process(iou_sum: Float[Tensor, ""]) -> Float[Tensor, ""]:
    return iou_sum
