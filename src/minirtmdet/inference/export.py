"""ONNX: a detector as one file that runs without PyTorch, and such a file as a detector.

The graph begins with uint8 pixels, so that normalisation cannot be got wrong outside of it, and is made for any number
of images of one size, or for a fixed number.  Two kinds are written.  ``raw`` ends with what deployers put their own
suppression behind, decoded boxes and scores of all priors, beside the maps of the head.  ``nms`` ends with detections.

Masks leave a graph as logits at stride 8: those of a hundred detections of 640 x 640 pixels take 2.6 MB, as pixels they
would take 41 MB, most of them of detections that nobody keeps, and would have to be resized once more to the image.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from jaxtyping import config as shape_checks
from torch import Tensor, nn

from minirtmdet.configs import INS_PREDICT, PROTOTYPES, STRIDES, PredictConfig
from minirtmdet.detector import GREY, RTMDet
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.dynamic import convolve, fold, shared_channels
from minirtmdet.head.network import KERNEL_SIZE
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.inference.exported import (
    MAPS,
    MASK_MAPS,
    ExportError,
    ExportInfo,
    Kind,
    import_optional,
    write_exported,
)
from minirtmdet.weights.fuse import fuse_batch_norm

OPSET = 18
"""Of the operators of ONNX: old enough for most runtimes, and what torch writes without converting."""
_INPUT = (
    "images: uint8 BGR pixels [batch, 3, {size}, {size}]; each image resized to fit, its ratio kept, and padded at "
    f"the right and at the bottom with {GREY}; not normalised, the graph does that"
)
_OUTPUTS = {
    "raw": {
        "boxes": "[batch, priors, 4] xyxy in pixels of the input, inside of it",
        "scores": "[batch, priors, classes] probabilities; a prior may stand for several classes",
        "cls_score_*": "[batch, classes, height, width] logits at this stride",
        "bbox_pred_*": "[batch, 4, height, width] distances left, top, right, bottom in pixels at this stride",
    },
    "nms": {
        "num_dets": "[batch] detections of each image",
        "boxes": "[batch, limit, 4] xyxy in pixels of the input, best first, zeros after the last",
        "scores": "[batch, limit] probabilities, zeros after the last",
        "labels": "[batch, limit] class index, -1 after the last",
    },
}
_MASK_OUTPUTS = {
    "raw": {
        "kernel_pred_*": "[batch, 169, height, width] weights, then biases, of each prior's own convolutions",
        "mask_feat": "[batch, 8, height, width] prototypes at stride 8",
    },
    "nms": {
        "masks": "[batch, limit, height, width] logits at stride 8, zeros after the last; of those you keep: enlarge "
        "8 times (bilinear, pixel centres at .5), cut off the padding, resize to the image in the same way, and take "
        "what is over 0",
    },
}

_CONTENT = (
    "; content: optional, float32 [1 or batch, 1, 4] of (width, height, width, height) that each image takes of the "
    "input, where boxes end; all of the input where left out"
)

# The graph behind the detector.  NonMaxSuppression gives (image, class, box) for each survivor, as many as there are;
# scattered back among zeros, the best of each image are found at once, whatever order they came in.
_NMS = """
<ir_version: {ir_version}, opset_import: ["": {opset}]>
suppress (float[batch, {priors}, 4] decoded, float[batch, {priors}, {classes}] all_scores,
          float[contents, 1, 4] content)
    => (int64[batch] num_dets, float[batch, {limit}, 4] boxes, float[batch, {limit}] scores,
        int64[batch, {limit}] labels, int64[batch, {limit}] priors_kept)
<
    int64[1] limit = {{{limit}}}, int64[1] priors = {{{priors}}}, int64[1] last = {{-1}}, int64[1] none = {{-1}},
    float[1] iou_threshold = {{{iou_threshold!r}}}, float[1] score_threshold = {{{score_threshold!r}}},
    float[1] zero = {{0.0}}
>
{{
    candidates = Min (decoded, content)
    left_top, right_bottom = Split <axis = 2, num_outputs = 2> (candidates)
    has_size = Greater (right_bottom, left_top)
    sizes = Cast <to = 1> (has_size)
    has_area = ReduceMin (sizes, last)
    candidate_scores = Mul (all_scores, has_area)
    by_class = Transpose <perm = [0, 2, 1]> (candidate_scores)
    survivors = NonMaxSuppression (candidates, by_class, limit, iou_threshold, score_threshold)
    survivor_scores = GatherND (by_class, survivors)
    shape = Shape (by_class)
    zeros = ConstantOfShape (shape)
    suppressed = ScatterND (zeros, survivors, survivor_scores)
    flat = Flatten (suppressed)
    scores, index = TopK (flat, limit)
    real = Greater (scores, zero)
    counted = Cast <to = 7> (real)
    num_dets = ReduceSum <keepdims = 0> (counted, last)
    label = Div (index, priors)
    labels = Where (real, label, none)
    prior = Mod (index, priors)
    priors_kept = Where (real, prior, none)
    where = Unsqueeze (prior, last)
    best = GatherND <batch_dims = 1> (candidates, where)
    exists = Unsqueeze (real, last)
    boxes = Where (exists, best, zero)
}}
"""


def export_onnx(
    model: RTMDet,
    path: Path,
    *,
    input_size: int,
    nms: bool = False,
    classes: Sequence[str] | None = None,
    predict: PredictConfig | None = None,
    preset: str = "",
    batch: int | None = None,
) -> ExportInfo:
    """Write a detector as ONNX; the file appears whole and checked, or not at all.

    Args:
        model: stays as it is; BatchNorms are folded into the convolutions of a copy.
        path: where to, ``.onnx``; missing folders are made.
        input_size: side of the square input, in pixels.
        nms: end with detections in place of what all priors say.
        classes: names in label order.
        predict: thresholds and limits; they go into the graph of an ``nms`` file and into the metadata of both.  The
            published ones of this kind of detector where left out.
        preset: a name for where it comes from.
        batch: images that the graph takes at a time, for runtimes that need to know; any number where left out.

    Returns:
        What the file says about itself.

    Raises:
        ExportError: where onnx or onnxscript is not installed, or a setting cannot be put into a graph.

    An ``nms`` file suppresses by class, as :func:`~minirtmdet.head.postprocess.predict_by_feat` does; of equal scores
    at the limit ``nms_pre`` it keeps all.
    """
    import_optional("onnx.parser", "writing ONNX")
    import_optional("onnxscript", "writing ONNX")
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: expected a file name that ends with .onnx")
    masks = model.config.masks
    predict = predict or (INS_PREDICT if masks else PredictConfig())
    if input_size < 1:
        raise ExportError(f"the input size is {input_size}: expected a positive number of pixels")
    if batch is not None and batch < 1:
        raise ExportError(f"the batch is of {batch} images: expected 1 or more")
    if nms and predict.score_threshold < 0:
        raise ExportError(f"the score threshold is {predict.score_threshold}: expected 0 or more")
    num_classes = model.config.num_classes
    names = tuple(classes) if classes else tuple(f"class {label}" for label in range(num_classes))
    if len(names) != num_classes:
        raise ExportError(f"{len(names)} names for {num_classes} classes")
    kind: Kind = "nms" if nms else "raw"
    words = _INPUT.format(size=input_size) + _CONTENT * nms
    said = {**_OUTPUTS[kind], **(_MASK_OUTPUTS[kind] if masks else {})}
    info = ExportInfo(kind, input_size, names, preset, model.config, predict, words, said, batch)

    graph = _Graph(fuse_batch_norm(model).cpu(), input_size, predict.nms_pre if nms else None)
    # two images for any number: torch takes an axis of length 1 for one that always has it
    example = torch.zeros(batch or 2, 3, input_size, input_size, dtype=torch.uint8)
    ends = ["decoded", "all_scores", *["kernels", "features"] * masks] if nms else ["boxes", "scores", *MAPS]
    proto = _traced(graph, {"images": example}, ends if nms else ends + MASK_MAPS * masks, batch)
    if nms:
        proto = _with_nms(proto, len(graph.points), num_classes, input_size, predict)
        proto = _with_masks(proto, graph.points, input_size, predict, batch) if masks else _without_priors(proto)
    write_exported(path, proto, info)
    return info


def _traced(graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str], batch: int | None) -> Any:
    """A module as ONNX, for any number of images where ``batch`` is None."""
    graph.eval().requires_grad_(False)
    with quiet_tracing():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=None if batch else {name: {0: torch.export.Dim("batch")} for name in inputs},
            verbose=False,
        )
    assert program is not None
    return program.model_proto


class _Graph(nn.Module):
    """From pixels to what the file gives; everything but the suppression itself."""

    points: Tensor

    def __init__(self, model: RTMDet, input_size: int, nms_pre: int | None):
        super().__init__()
        self.model = model
        self.input_size = input_size
        self.nms_pre = nms_pre
        padded = -(-input_size // STRIDES[-1]) * STRIDES[-1]  # as the detector pads it
        sizes = [(padded // stride, padded // stride) for stride in STRIDES]
        priors = MlvlPointGenerator(offset=model.config.prior_offset).grid_priors(sizes)
        self.register_buffer("points", torch.cat(priors))

    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> tuple[Tensor, ...]:
        cls_scores, bbox_preds, *of_masks = self.model(images)
        distances = torch.cat([level.flatten(2).transpose(1, 2) for level in bbox_preds], 1)
        levels = [level.flatten(2).transpose(1, 2).sigmoid() for level in cls_scores]  # [B,H*W,C]
        boxes = DistancePointBBoxCoder().decode(self.points[:, :2], distances)
        boxes = boxes.clamp(0, self.input_size)
        if self.nms_pre is None:
            kernels, *features = of_masks or ((),)
            return boxes, torch.cat(levels, 1), *cls_scores, *bbox_preds, *kernels, *features
        scores = torch.cat([_best(level, self.nms_pre) for level in levels], 1)
        if not of_masks:
            return boxes, scores
        kernels, features = of_masks
        return boxes, scores, torch.cat([level.flatten(2).transpose(1, 2) for level in kernels], 1), features


class _Masks(nn.Module):
    """From the priors of what suppression has left to their masks, all at once; -1 stands for none."""

    points: Tensor

    def __init__(self, points: Float[Tensor, "priors 4"]):
        super().__init__()
        self.register_buffer("points", points)

    def forward(
        self,
        kernels: Float[Tensor, "batch priors 169"],
        priors: Int[Tensor, "batch limit"],
        features: Float[Tensor, "batch 8 height width"],
    ) -> Float[Tensor, "batch limit height width"]:
        index = priors.clamp(min=0)
        own = kernels.gather(1, index[..., None].expand(-1, -1, kernels.shape[-1]))
        own = torch.where(priors[..., None] >= 0, own, 0.0)
        size = (features.shape[-2], features.shape[-1])
        folded = fold(own, self.points[index], size)
        logits = convolve(shared_channels(features).flatten(2), folded)[2]
        return logits.view(-1, priors.shape[1], *size)


def _best(scores: Float[Tensor, "batch cells classes"], limit: int) -> Float[Tensor, "batch cells classes"]:
    """The best scores of a level; the others become 0, which no threshold lets through."""
    flat = scores.flatten(1)
    if limit >= flat.shape[1]:
        return scores
    least = flat.topk(limit).values[:, -1:]
    return (flat * (flat >= least)).view_as(scores)


def _with_nms(proto: Any, priors: int, num_classes: int, input_size: int, predict: PredictConfig) -> Any:
    """The graph with suppression behind it."""
    onnx = import_module("onnx")
    tail = _suppression(priors, num_classes, input_size, predict, proto.ir_version)
    # a prefix on the detector's side: its names are the exporter's, and could be any of the tail's
    head = onnx.compose.add_prefix(proto, "detector/", rename_inputs=False)
    names = ["decoded", "all_scores"]
    return onnx.compose.merge_models(head, tail, io_map=[(f"detector/{name}", name) for name in names])


def _without_priors(proto: Any) -> Any:
    """The graph without the output that only masks are made of."""
    (extra,) = (output for output in proto.graph.output if output.name == "priors_kept")
    proto.graph.output.remove(extra)
    return proto


def _with_masks(
    proto: Any, points: Float[Tensor, "priors 4"], input_size: int, predict: PredictConfig, batch: int | None
) -> Any:
    """The graph with masks of what suppression has left."""
    onnx = import_module("onnx")
    shapes = {output.name: output for output in proto.graph.output}
    limit = shapes["labels"].type.tensor_type.shape.dim[1].dim_value
    cells = -(-input_size // STRIDES[-1]) * STRIDES[-1] // STRIDES[0]
    example = {
        "kernels": torch.zeros(batch or 2, len(points), KERNEL_SIZE),
        "priors": torch.zeros(batch or 2, limit, dtype=torch.int64),
        "features": torch.zeros(batch or 2, PROTOTYPES, cells, cells),
    }
    masks = _traced(_Masks(points), example, ["masks"], batch)
    masks = onnx.compose.add_prefix(masks, "masks/", rename_outputs=False)
    joints = [
        ("detector/kernels", "masks/kernels"),
        ("priors_kept", "masks/priors"),
        ("detector/features", "masks/features"),
    ]
    return onnx.compose.merge_models(proto, masks, io_map=joints)


def _suppression(priors: int, num_classes: int, input_size: int, predict: PredictConfig, ir_version: int = 10) -> Any:
    """Class-wise NMS of boxes that end with the image, as a model of its own."""
    onnx = import_module("onnx")
    model = onnx.parser.parse_model(
        _NMS.format(
            ir_version=ir_version,
            opset=OPSET,
            priors=priors,
            classes=num_classes,
            limit=min(predict.max_per_image, priors * num_classes),
            iou_threshold=float(predict.nms_iou_threshold),
            score_threshold=float(predict.score_threshold),
        )
    )
    # what an input has where it is left out
    whole = onnx.numpy_helper.from_array(np.full((1, 1, 4), input_size, np.float32), "content")
    model.graph.initializer.append(whole)
    return model


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Without the exporter's notes on packages that are not here, and without checks of shapes.

    A check compares the batch with a number, and so would fix it in the graph.
    """
    logger = logging.getLogger("torch.onnx")
    level, disabled = logger.level, shape_checks.jaxtyping_disable
    logger.setLevel(logging.ERROR)
    shape_checks.update("jaxtyping_disable", True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        shape_checks.update("jaxtyping_disable", disabled)
