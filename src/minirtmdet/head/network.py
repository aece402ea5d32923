"""The heads of RTMDet: features to class logits and box distances, level by level.

``RTMDetSepBNHead`` is the official one: its 3x3 convolutions are the same weights on every level, but each level has
BatchNorms of its own, because the statistics of the levels differ.  ``RTMDetHead`` shares everything and keeps one
factor per level.  ``RTMDetInsSepBNHead`` finds masks too.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from minirtmdet.configs import PROTOTYPES, STRIDES
from minirtmdet.layers import (
    ConvModule,
    Scale,
    bias_init_with_prob,
    conv_class,
    inverse_sigmoid,
    normal_init,
    sigmoid_geometric_mean,
)
from minirtmdet.structures import InsOutputs

HeadOutputs = tuple[tuple[Float[Tensor, "batch classes _ _"], ...], tuple[Float[Tensor, "batch 4 _ _"], ...]]


# an instance's three 1x1 convolutions: relative x and y and the prototypes to 8 channels, to 8, to 1
KERNEL_SIZE = sum(inputs * outputs + outputs for inputs, outputs in ((PROTOTYPES + 2, 8), (8, 8), (8, 1)))


class RTMDetSepBNHead(nn.Module):
    """Shared convolutions, separate BatchNorms (paper, section 3.2; MMDetection: ``RTMDetSepBNHead``).

    Args:
        num_classes: classes, background not counted.
        in_channels: channels of every feature map, and of the head's own maps.
        stacked_convs: 3x3 convolutions in each branch.
        share_conv: use the convolutions of the first level on every level.  The two branches never share.
        use_depthwise: depthwise separable convolutions.
        pred_kernel_size: kernel of the last convolution of each branch, odd.
        with_objectness: a third output says whether there is an object at all; the class score becomes the geometric
            mean of both probabilities.
        exp_on_reg: exponentiate the distances.
        strides: pixels per cell of each level.

    Raises:
        ValueError: for an even ``pred_kernel_size``.

    >>> head = RTMDetSepBNHead(num_classes=80, in_channels=16)
    >>> feats = [torch.zeros(2, 16, size, size) for size in (8, 4, 2)]
    >>> cls_scores, bbox_preds = head(feats)
    >>> [tuple(score.shape) for score in cls_scores]
    [(2, 80, 8, 8), (2, 80, 4, 4), (2, 80, 2, 2)]
    >>> [tuple(pred.shape) for pred in bbox_preds]
    [(2, 4, 8, 8), (2, 4, 4, 4), (2, 4, 2, 2)]
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        stacked_convs: int = 2,
        share_conv: bool = True,
        use_depthwise: bool = False,
        pred_kernel_size: int = 1,
        with_objectness: bool = False,
        exp_on_reg: bool = False,
        strides: Sequence[int] = STRIDES,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.exp_on_reg = exp_on_reg
        levels = range(len(self.strides))
        self.cls_convs = nn.ModuleList(_branch(in_channels, stacked_convs, use_depthwise) for _ in levels)
        self.reg_convs = nn.ModuleList(_branch(in_channels, stacked_convs, use_depthwise) for _ in levels)
        self.rtm_cls = nn.ModuleList(_prediction(in_channels, num_classes, pred_kernel_size) for _ in levels)
        self.rtm_reg = nn.ModuleList(_prediction(in_channels, 4, pred_kernel_size) for _ in levels)
        self.rtm_obj = (
            nn.ModuleList(_prediction(in_channels, 1, pred_kernel_size) for _ in levels) if with_objectness else None
        )
        if share_conv:
            _share_convs(self.cls_convs)
            _share_convs(self.reg_convs)
        _init_head(self, self.rtm_cls, self.rtm_obj)

    def forward(self, feats: Sequence[Float[Tensor, "batch channels _ _"]]) -> HeadOutputs:
        """Predict every level.

        Args:
            feats: one map per stride, ``[B, C_in, H, W]``.

        Returns:
            Class logits ``[B, C, H, W]`` per level, and distances (left, top, right, bottom) in pixels
            ``[B, 4, H, W]`` per level, both at least fp32.
        """
        cls_scores, bbox_preds = [], []
        for level, (feat, stride) in enumerate(zip(feats, self.strides, strict=True)):
            cls_feat = self.cls_convs[level](feat)
            reg_feat = self.reg_convs[level](feat)
            cls_score = _predict(self.rtm_cls[level], cls_feat)
            if self.rtm_obj is not None:
                cls_score = _with_objectness(cls_score, _predict(self.rtm_obj[level], reg_feat))
            distance = _predict(self.rtm_reg[level], reg_feat)
            if self.exp_on_reg:
                distance = distance.exp()
            cls_scores.append(cls_score)
            bbox_preds.append(distance * stride)
        return tuple(cls_scores), tuple(bbox_preds)


class RTMDetHead(nn.Module):
    """Everything shared across levels, but for one factor per level on the distances (MMDetection: ``RTMDetHead``).

    MMDetection's always exponentiates and has no depthwise form; both are settings here.  Arguments, errors and
    outputs are those of :class:`RTMDetSepBNHead`.

    >>> head = RTMDetHead(num_classes=80, in_channels=16)
    >>> _, bbox_preds = head([torch.zeros(2, 16, size, size) for size in (8, 4, 2)])
    >>> [pred.unique().tolist() for pred in bbox_preds]
    [[8.0], [16.0], [32.0]]
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        stacked_convs: int = 2,
        use_depthwise: bool = False,
        pred_kernel_size: int = 1,
        with_objectness: bool = False,
        exp_on_reg: bool = True,
        strides: Sequence[int] = STRIDES,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.exp_on_reg = exp_on_reg
        self.cls_convs = _branch(in_channels, stacked_convs, use_depthwise)
        self.reg_convs = _branch(in_channels, stacked_convs, use_depthwise)
        self.rtm_cls = _prediction(in_channels, num_classes, pred_kernel_size)
        self.rtm_reg = _prediction(in_channels, 4, pred_kernel_size)
        self.rtm_obj = _prediction(in_channels, 1, pred_kernel_size) if with_objectness else None
        self.scales = nn.ModuleList(Scale() for _ in self.strides)
        _init_head(self, self.rtm_cls, self.rtm_obj)

    def forward(self, feats: Sequence[Float[Tensor, "batch channels _ _"]]) -> HeadOutputs:
        """Predict every level; see :meth:`RTMDetSepBNHead.forward`."""
        cls_scores, bbox_preds = [], []
        for feat, scale, stride in zip(feats, self.scales, self.strides, strict=True):
            reg_feat = self.reg_convs(feat)
            cls_score = _predict(self.rtm_cls, self.cls_convs(feat))
            if self.rtm_obj is not None:
                cls_score = _with_objectness(cls_score, _predict(self.rtm_obj, reg_feat))
            distance = _predict(self.rtm_reg, reg_feat)
            if self.exp_on_reg:
                distance = distance.exp()
            cls_scores.append(cls_score)
            bbox_preds.append(scale(distance) * stride)
        return tuple(cls_scores), tuple(bbox_preds)


class RTMDetInsSepBNHead(nn.Module):
    """The head of RTMDet-Ins: classes, boxes and an instance's own convolutions, and the features that these read.

    MMDetection: ``RTMDetInsSepBNHead``; paper, section 3.5.  Two things there read as slips, and are what the
    published weights were trained with: class and box share one tower, since ``reg_convs`` are the ``cls_convs``; and
    the convolutions of the kernel branch are not shared across levels.

    MMDetection computes the tower once for each of its two names, which also moves its running statistics twice a
    step.  Here it is computed once, with the momentum of two moves: ``1 - (1 - 0.1) ** 2``.

    Args:
        num_classes: classes, background not counted.
        in_channels: channels of every feature map, and of the head's own maps.
        stacked_convs: 3x3 convolutions in each branch.
        strides: pixels per cell of each level.

    >>> head = RTMDetInsSepBNHead(num_classes=80, in_channels=16)
    >>> outputs = head([torch.zeros(2, 16, size, size) for size in (8, 4, 2)])
    >>> [tuple(kernels.shape) for kernels in outputs.kernel_preds], tuple(outputs.mask_feat.shape)
    ([(2, 169, 8, 8), (2, 169, 4, 4), (2, 169, 2, 2)], (2, 8, 8, 8))
    """

    def __init__(self, num_classes: int, in_channels: int, *, stacked_convs: int = 2, strides: Sequence[int] = STRIDES):
        super().__init__()
        self.strides = tuple(strides)
        levels = range(len(self.strides))
        self.cls_convs = nn.ModuleList(_branch(in_channels, stacked_convs, False) for _ in levels)
        self.reg_convs = self.cls_convs
        self.kernel_convs = nn.ModuleList(_branch(in_channels, stacked_convs, False) for _ in levels)
        self.rtm_cls = nn.ModuleList(_prediction(in_channels, num_classes, 1) for _ in levels)
        self.rtm_reg = nn.ModuleList(_prediction(in_channels, 4, 1) for _ in levels)
        self.rtm_kernel = nn.ModuleList(_prediction(in_channels, KERNEL_SIZE, 1) for _ in levels)
        self.mask_head = MaskFeatModule(in_channels, len(self.strides))
        _share_convs(self.cls_convs)
        _init_head(self, self.rtm_cls, None)
        # relu gives no slope below zero: the first boxes reach one stride to each side
        normal_init(self.rtm_reg, bias=1.0)
        for norm in _norms(self.cls_convs):
            assert norm.momentum is not None
            norm.momentum = 1 - (1 - norm.momentum) ** 2

    def forward(self, feats: Sequence[Float[Tensor, "batch channels _ _"]]) -> InsOutputs:
        """Predict every level, and the mask features once.

        Args:
            feats: one map per stride, ``[B, C_in, H, W]``.

        Returns:
            All at least fp32.
        """
        cls_scores, bbox_preds, kernel_preds = [], [], []
        for level, (feat, stride) in enumerate(zip(feats, self.strides, strict=True)):
            tower = self.cls_convs[level](feat)
            cls_scores.append(_predict(self.rtm_cls[level], tower))
            bbox_preds.append(_predict(self.rtm_reg[level], tower).relu() * stride)
            kernel_preds.append(_predict(self.rtm_kernel[level], self.kernel_convs[level](feat)))
        for norm in _norms(self.cls_convs):
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1  # of the second name
        return InsOutputs(tuple(cls_scores), tuple(bbox_preds), tuple(kernel_preds), self.mask_head(feats))


class MaskFeatModule(nn.Module):
    """Features of all levels to the prototypes that masks are made of (MMDetection: ``MaskFeatModule``)."""

    def __init__(self, channels: int, levels: int, stacked_convs: int = 4):
        super().__init__()
        self.fusion_conv = nn.Conv2d(levels * channels, channels, 1)
        self.stacked_convs = _branch(channels, stacked_convs, False)
        self.projection = nn.Conv2d(channels, PROTOTYPES, 1)

    def forward(self, feats: Sequence[Float[Tensor, "batch channels _ _"]]) -> Float[Tensor, "batch prototypes _ _"]:
        """Maps of each level to ``[B, 8, H, W]`` of the first level's size; nothing bounds the values."""
        finest, *others = feats
        size = finest.shape[-2:]
        raised = [F.interpolate(feat, size=size, mode="bilinear", align_corners=False) for feat in others]
        return _predict(self.projection, self.stacked_convs(self.fusion_conv(torch.cat([finest, *raised], 1))))


def _norms(branches: nn.ModuleList) -> list[_BatchNorm]:
    """The BatchNorms of all levels; none where they are folded into their convolutions."""
    return [module for module in branches.modules() if isinstance(module, _BatchNorm)]


def _branch(channels: int, stacked_convs: int, use_depthwise: bool) -> nn.Sequential:
    """The 3x3 convolutions of one branch on one level."""
    return nn.Sequential(*(conv_class(use_depthwise)(channels, channels, 3) for _ in range(stacked_convs)))


def _prediction(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """The last convolution of a branch: bare, with a bias."""
    if kernel_size % 2 == 0:
        raise ValueError(
            f"pred_kernel_size is {kernel_size}: an even kernel would change the size of the map, use 1 or 3"
        )
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def _share_convs(branches: nn.ModuleList) -> None:
    """Let every level use the convolutions of the first; the BatchNorms stay its own."""
    first, *others = ([m for m in branch.modules() if isinstance(m, ConvModule)] for branch in branches)
    for other in others:
        for module, shared in zip(other, first, strict=True):
            module.conv = shared.conv


def _init_head(head: nn.Module, rtm_cls: nn.Module, rtm_obj: nn.Module | None) -> None:
    """Small weights; class and objectness start at probability 0.01.

    Almost every prior is background: starting near one half, their loss would drown the rest.
    """
    normal_init(head)
    for prediction in (rtm_cls, rtm_obj):
        if prediction is not None:
            normal_init(prediction, bias=bias_init_with_prob(0.01))


def _predict(prediction: nn.Module, feat: Float[Tensor, "batch channels _ _"]) -> Float[Tensor, "batch outputs _ _"]:
    """The last convolution of a branch, in fp32 under autocast too.

    Autocast would round its output to bf16, which has steps of 0.4 to 0.8 %: a distance of 300.5 pixels would become
    300 or 302, and making it fp32 afterwards brings nothing back.  Features keep the rounding of the convolutions
    before, of which the sum over channels averages most out.  A head whose weights are half precision themselves does
    round here; its output is made fp32, so that exp and stride round no further.
    """
    kind = feat.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # meta has none
        with torch.autocast(kind, enabled=False):
            return prediction(_at_least_fp32(feat))
    return _at_least_fp32(prediction(feat))


def _with_objectness(cls_score: Tensor, objectness: Tensor) -> Tensor:
    """The logit of the geometric mean of class and objectness probability."""
    return inverse_sigmoid(sigmoid_geometric_mean(cls_score, objectness))


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
