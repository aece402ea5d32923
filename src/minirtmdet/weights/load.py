"""From a checkpoint to the detector that it belongs to."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minirtmdet.configs import INS_MODELS, MODELS, ModelConfig, TrainConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.weights.checkpoint import listed, read_checkpoint
from minirtmdet.weights.describe import count_classes, describe_weights
from minirtmdet.weights.fit import LoadReport, load_checkpoint
from minirtmdet.weights.formats import CheckpointError
from minirtmdet.weights.fuse import fuse_batch_norm, is_fused
from minirtmdet.weights.origins import SILENT


class BuiltDetector(NamedTuple):
    """A detector made from a checkpoint alone.

    Attributes:
        model: with the file's weights, in evaluation mode.
        classes: names in label order; None where nothing names them.
        config: the run that wrote it; None where the file does not say.
        report: what was loaded.
    """

    model: RTMDet
    classes: tuple[str, ...] | None
    config: TrainConfig | None
    report: LoadReport


def build_from_checkpoint(
    path: Path | str, *, model: str | ModelConfig | None = None, classes: Sequence[str] | None = None
) -> BuiltDetector:
    """Build the detector that a file belongs to, and load it.

    Args:
        path: as in :func:`read_checkpoint`.
        model: its size or settings, for files that do not say: weights alone, or MMDetection's without its config.  Of
            a size, what the file says of its weights' meaning is kept: ``exp_on_reg`` and ``prior_offset``.
        classes: its class names, for files that do not say, or to rename them.

    Raises:
        CheckpointError: where the file does not say and ``model`` is left out, or does not fit.
    """
    checkpoint = read_checkpoint(path)
    models = MODELS | INS_MODELS
    if isinstance(model, str) and model not in models:
        raise ValueError(f"unknown model {model!r}: expected one of {', '.join(models)}")
    settings = models[model] if isinstance(model, str) else model
    origin = checkpoint.origin
    if isinstance(model, str) and settings is not None and origin is not None and origin.model is not None:
        settings = replace(settings, **{name: getattr(origin.model, name) for name in SILENT})
    if settings is None:
        if origin is None or origin.model is None:
            looks = describe_weights(checkpoint.state_dict)
            raise CheckpointError(
                f"{checkpoint.path} does not say which model it belongs to{looks and f' (it looks like {looks})'}: "
                f"give the size with --model, one of {', '.join(models)}"
            )
        settings = origin.model
    num_classes = count_classes(checkpoint.state_dict) or settings.num_classes
    names = tuple(classes) if classes else checkpoint.classes
    if names and len(names) != num_classes:
        raise CheckpointError(f"{checkpoint.path} has {num_classes} classes, but {len(names)} names: {listed(names)}")
    detector = build_detector(settings, num_classes=num_classes)
    if is_fused(checkpoint.state_dict):  # BatchNorms of their own for levels that share convolutions cannot be regained
        detector = fuse_batch_norm(detector)
    report = load_checkpoint(detector, checkpoint)
    return BuiltDetector(detector.eval(), names, checkpoint.config, report)
