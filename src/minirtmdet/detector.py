"""RTMDet: backbone, neck and head, from pixels to outputs, losses or detections."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor, nn

from minirtmdet.backbone import CSPNeXt
from minirtmdet.configs import (
    INS_MODELS,
    INS_PREDICT,
    MODELS,
    STRIDES,
    AssignerConfig,
    LossConfig,
    ModelConfig,
    PredictConfig,
)
from minirtmdet.head.network import HeadOutputs, RTMDetHead, RTMDetInsSepBNHead, RTMDetSepBNHead
from minirtmdet.head.pipeline import ReduceMean, RTMDetInsLoss, RTMDetLoss
from minirtmdet.head.postprocess import predict_by_feat, predict_instances_by_feat
from minirtmdet.masks import original_shapes
from minirtmdet.neck import CSPNeXtPAFPN
from minirtmdet.structures import Detections, GroundTruth, InsOutputs

# of BGR pixels in 0..255, measured on ImageNet
MEAN = (103.53, 116.28, 123.675)
STD = (57.375, 57.12, 58.395)
GREY = 114
"""Value of the pixels that pad an image."""
BLOCK = 64
"""Rows of pixels that a processor normalises at a time: half a megabyte at 640 pixels."""


@runtime_checkable
class Detector(Protocol):
    """What finds boxes in images: an :class:`RTMDet`, or one that was exported."""

    @property
    def device(self) -> torch.device:
        """Where it expects images."""
        ...

    def predict(
        self,
        images: Num[Tensor, "batch channels height width"],
        config: PredictConfig | None = None,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        scale_factors: Sequence[tuple[float, float]] | None = None,
    ) -> list[Detections]:
        """As :meth:`RTMDet.predict`."""
        ...


class RTMDet(nn.Module):
    """The whole detector (paper: arXiv 2212.07784; MMDetection: ``RTMDet`` with its data preprocessor).

    Args:
        config: the network.
        assigner: which priors learn which box, in training.
        loss: the losses and their weights.
        reduce_mean: of :class:`~minirtmdet.head.pipeline.RTMDetLoss`, where several processes train together.

    Attributes:
        backbone, neck, bbox_head: the three parts, under MMDetection's names and keys.
        loss: from outputs and boxes to the losses.
        config: the network's settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        *,
        assigner: AssignerConfig = AssignerConfig(),
        loss: LossConfig = LossConfig(),
        reduce_mean: ReduceMean | None = None,
    ) -> None:
        super().__init__()
        if config.num_classes < 1:
            raise ValueError(f"num_classes is {config.num_classes}: a detector needs at least one class")
        self.config = config
        self.backbone = CSPNeXt(config.deepen_factor, config.widen_factor, use_depthwise=config.use_depthwise)
        width = self.backbone.out_channels[0]
        self.neck = CSPNeXtPAFPN(
            self.backbone.out_channels, width, config.neck_csp_blocks, use_depthwise=config.use_depthwise
        )
        self.bbox_head = _build_head(config, width)
        criterion = RTMDetInsLoss if config.masks else RTMDetLoss
        self.loss = criterion(config.num_classes, assigner, loss, config.prior_offset, reduce_mean)
        # not in the state_dict: MMDetection's checkpoints have no such keys
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.mean.device

    def forward(
        self,
        images: Num[Tensor, "batch channels height width"],
        ground_truth: GroundTruth | None = None,
        pad_shapes: Int[Tensor, "batch 2"] | None = None,
        img_shapes: Int[Tensor, "batch 2"] | None = None,
    ) -> HeadOutputs | InsOutputs | dict[str, Tensor]:
        """Outputs, or losses where boxes are given; training goes through here, or DDP would not see it.

        Args:
            images: ``[B, 3, H, W]``, BGR: uint8 pixels, or floating point that is normalised already.  Sides that
                are no multiple of 32 are padded right and bottom.
            ground_truth: the boxes, in pixels of ``images``.
            pad_shapes: height and width that each image fills, padding included; priors beyond it learn nothing.
            img_shapes: height and width of its content alone; read where the assigner's ``allowed_border`` is set.

        Returns:
            ``(cls_scores, bbox_preds)``: class logits ``[B, C, H, W]`` and (left, top, right, bottom) distances in
            pixels ``[B, 4, H, W]``, one per level; with ground truth, a dict with the scalars ``loss_cls`` and
            ``loss_bbox`` to add and train on, and ``num_pos``, positives per image.  A detector that finds masks gives
            :class:`~minirtmdet.structures.InsOutputs`, and ``loss_mask`` as a third one to add.

        Raises:
            ValueError: for images of another shape or type; where masks are to be learned and there are none.
        """
        outputs = self.bbox_head(self.neck(self.backbone(self.preprocess(images))))
        if ground_truth is None:
            return outputs
        # areas of boxes overflow half precision
        with torch.autocast(images.device.type, enabled=False):
            return self.loss(*outputs, ground_truth, pad_shapes, img_shapes)  # type: ignore[call-arg]  # two or four

    @torch.no_grad()
    def predict(
        self,
        images: Num[Tensor, "batch channels height width"],
        config: PredictConfig | None = None,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        scale_factors: Sequence[tuple[float, float]] | None = None,
    ) -> list[Detections]:
        """Detections of each image, best first, whatever mode the model is in.

        Args:
            images: as in :meth:`forward`.
            config: thresholds and limits; the published ones of this kind of detector where left out.
            img_shapes: (height, width) of the content of each image, which boxes are clipped to unless ``config``
                says otherwise; all of it where left out.
            scale_factors: (width, height) factors by which each image was resized, which boxes are divided by.
                Masks then have the size of the original image, which is that of the content divided by them;
                without factors they have that of the images.
        """
        whole = [(images.shape[-2], images.shape[-1])] * len(images)
        config = config or (INS_PREDICT if self.config.masks else PredictConfig())
        clip = whole if img_shapes is None or config.clip == "input" else img_shapes
        with _evaluating(self):
            outputs = self(images)
        if self.config.masks:
            shapes = whole if scale_factors is None else original_shapes(img_shapes or whole, scale_factors)
            return predict_instances_by_feat(outputs, shapes, config, self.config.prior_offset, clip, scale_factors)
        cls_scores, bbox_preds = outputs
        return predict_by_feat(cls_scores, bbox_preds, config, self.config.prior_offset, clip, scale_factors)

    def preprocess(self, images: Num[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 _ _"]:
        """Normalise uint8 pixels, and pad right and bottom with grey to the next multiple of 32."""
        _check_images(images)
        height, width = images.shape[-2:]
        bottom, right = -height % STRIDES[-1], -width % STRIDES[-1]
        if images.dtype == torch.uint8:
            if bottom or right:
                images = F.pad(images, (0, right, 0, bottom), value=GREY)
            return _normalise(images, self.mean, self.std)
        if bottom or right:
            grey = ((GREY - self.mean) / self.std).to(images.dtype)
            padded = grey.repeat(len(images), 1, height + bottom, width + right)
            padded[..., :height, :width] = images
            return padded
        return images


def build_detector(
    model: str | ModelConfig,
    *,
    num_classes: int | None = None,
    assigner: AssignerConfig = AssignerConfig(),
    loss: LossConfig = LossConfig(),
    reduce_mean: ReduceMean | None = None,
) -> RTMDet:
    """Build a detector with fresh weights.

    Args:
        model: ``nano``, ``tiny``, ``s``, ``m``, ``l``, ``x``; ``ins-tiny`` to ``ins-x``, which find masks too; or
            settings of your own.
        num_classes: classes, background not counted; those of ``model`` (80) where left out.
        assigner: which priors learn which box, in training.
        loss: the losses and their weights.
        reduce_mean: of :class:`~minirtmdet.head.pipeline.RTMDetLoss`, where several processes train together.

    Raises:
        ValueError: for an unknown name or no class.

    >>> sum(p.numel() for p in build_detector("tiny").parameters())
    4896168
    """
    if isinstance(model, str):
        models = MODELS | INS_MODELS
        if model not in models:
            raise ValueError(f"unknown model {model!r}: expected one of {', '.join(models)}, or a ModelConfig")
        model = models[model]
    if num_classes is not None:
        model = replace(model, num_classes=num_classes)
    return RTMDet(model, assigner=assigner, loss=loss, reduce_mean=reduce_mean)


def _build_head(config: ModelConfig, in_channels: int) -> RTMDetSepBNHead | RTMDetHead | RTMDetInsSepBNHead:
    """The head that the settings ask for."""
    if config.masks:
        return RTMDetInsSepBNHead(config.num_classes, in_channels, stacked_convs=config.stacked_convs)
    head: Callable[..., RTMDetSepBNHead | RTMDetHead] = RTMDetHead
    if config.separate_bn:
        head = partial(RTMDetSepBNHead, share_conv=config.share_conv)
    return head(
        config.num_classes,
        in_channels,
        stacked_convs=config.stacked_convs,
        use_depthwise=config.use_depthwise,
        pred_kernel_size=config.pred_kernel_size,
        with_objectness=config.with_objectness,
        exp_on_reg=config.exp_on_reg,
    )


def _normalise(
    images: UInt8[Tensor, "batch 3 height width"], mean: Float[Tensor, "1 3 1 1"], std: Float[Tensor, "1 3 1 1"]
) -> Float[Tensor, "batch 3 height width"]:
    """``(images - mean) / std``, stored as the images are."""
    pixels = images.permute(0, 2, 3, 1)
    if not pixels.is_contiguous():
        return (images.to(mean.dtype) - mean) / std
    # channels last: a row of all channels at once, where three values at a time take five times as long
    width, rows = pixels.shape[2], pixels.flatten(0, 1).flatten(1)
    mean, std = mean.flatten().repeat(width), std.flatten().repeat(width)
    normalised = torch.empty_like(rows, dtype=mean.dtype)
    blocks = [(rows, normalised)]
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        # as many rows as stay in the cache from one operation to the next; a compiler makes one of the three
        blocks = list(zip(rows.split(BLOCK), normalised.split(BLOCK), strict=True))
    for block, out in blocks:
        out.copy_(block).sub_(mean).div_(std)
    return normalised.view_as(pixels).permute(0, 3, 1, 2)


def _check_images(images: Tensor) -> None:
    """Raise a ValueError that says what images should be."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected [batch, 3, height, width] in BGR order")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, expected uint8 pixels or floating point that is normalised")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each module is as it was, frozen ones included."""
    # setting an attribute of a module is slow, and there are hundreds: a model that is not trained has none to set
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
