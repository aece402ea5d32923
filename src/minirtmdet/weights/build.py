"""From a checkpoint alone to the detector that it belongs to.

:func:`minirtmdet.weights.fit.load_checkpoint` loads weights into a model that is there already;
:func:`minirtmdet.inference.load.load_detector` also takes sizes and exported files, and readies them for prediction.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minirtmdet.configs import INS_MODELS, MODELS, ModelConfig, TrainConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.weights.checkpoint import Checkpoint, listed, read_checkpoint
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
        path: as in :func:`~minirtmdet.weights.checkpoint.read_checkpoint`.
        model: its size or settings, for files that do not say: weights alone, or MMDetection's without its config.  Of
            a size, what the file says of its weights' meaning is kept: ``exp_on_reg`` and ``prior_offset``.
        classes: its class names, for files that do not say, or to rename them.

    Raises:
        FileNotFoundError: where there is no file.
        CheckpointError: for a file that cannot be read or does not fit ``model`` or ``classes``, or that does not say
            which model it belongs to where ``model`` is left out.
        ValueError: for a size that there is not.
    """
    checkpoint = read_checkpoint(path)
    settings = _settings(checkpoint, model)
    num_classes = count_classes(checkpoint.state_dict) or settings.num_classes
    names = tuple(classes) if classes else checkpoint.classes
    if names and len(names) != num_classes:
        raise CheckpointError(f"{checkpoint.path} has {num_classes} classes, but {len(names)} names: {listed(names)}")
    detector = build_detector(settings, num_classes=num_classes)
    # levels that share convolutions have BatchNorms of their own: once folded in, these cannot be regained
    if is_fused(checkpoint.state_dict):
        detector = fuse_batch_norm(detector)
    report = load_checkpoint(detector, checkpoint)
    return BuiltDetector(detector.eval(), names, checkpoint.config, report)


def _settings(checkpoint: Checkpoint, model: str | ModelConfig | None) -> ModelConfig:
    """The network: as asked for, else as the file says; of a size, with the meaning that the file gives its weights."""
    sizes = MODELS | INS_MODELS
    said = checkpoint.origin.model if checkpoint.origin is not None else None
    if isinstance(model, ModelConfig):
        return model
    if isinstance(model, str):
        if model not in sizes:
            raise ValueError(f"unknown model {model!r}: expected one of {', '.join(sizes)}")
        meaning = {} if said is None else {name: getattr(said, name) for name in SILENT}
        return replace(sizes[model], **meaning)
    if said is None:
        looks = describe_weights(checkpoint.state_dict)
        raise CheckpointError(
            f"{checkpoint.path} does not say which model it belongs to{looks and f' (it looks like {looks})'}: "
            f"give the size with --model, one of {', '.join(sizes)}"
        )
    return said
