"""What of a file fits a model, and a report that says what does not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minirtmdet.detector import RTMDet
from minirtmdet.head.network import RTMDetHead, RTMDetSepBNHead
from minirtmdet.messages import shorten
from minirtmdet.weights.checkpoint import Checkpoint, read_checkpoint
from minirtmdet.weights.describe import describe_weights, guess_origin
from minirtmdet.weights.formats import CheckpointError
from minirtmdet.weights.fuse import unfuse_state_dict
from minirtmdet.weights.origins import SILENT, contradictions

_CLASS_LAYERS = re.compile(r"(^|\.)rtm_cls\.")


@dataclass(frozen=True)
class LoadReport:
    """What of a file went into a model.

    Attributes:
        source: the file.
        loaded: how many of the model's tensors it filled.
        missing: the model's keys that the file lacks.
        unexpected: the file's keys that the model lacks.
        mismatched: key, the model's shape, the file's shape.
        conflicting: keys of tensors that the model shares and the file does not.
        fresh: keys that keep their initial values, as asked for.
        contradictions: what the weights mean by what the file says, where they would mean something else in the model.
        doubts: the same where the file does not say, and only looks like a published one.
        summary: what the model is and what the file looks like, where they differ.
    """

    source: str
    loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    conflicting: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    summary: str = ""

    @property
    def fits(self) -> bool:
        """Whether every key of the model was filled, every key of the file used, and means the same in both.

        Fresh layers aside.
        """
        return not (self.missing or self.unexpected or self.mismatched or self.conflicting or self.contradictions)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} tensors loaded"]
        if not self.fits:
            lines = [f"{self.source} does not fit the model" + (f": {self.summary}" if self.summary else "")]
        shapes = [f"{key} (expected {list(model)}, found {list(file)})" for key, model, file in self.mismatched]
        for what, keys in (
            ("missing in the file", self.missing),
            ("not in the model", self.unexpected),
            ("of another shape", shapes),
            ("shared in the model, different in the file", self.conflicting),
            ("starting fresh", self.fresh),
        ):
            if keys:
                lines.append(f"  {len(keys)} {what}: {shorten(keys)}")
        lines += [f"  {words}" for words in (*self.contradictions, *self.doubts)]
        return "\n".join(lines)


def load_checkpoint(
    model: nn.Module,
    path: Path | str | Checkpoint,
    *,
    strict: bool = True,
    new_classes: bool = False,
    prefix: str = "",
) -> LoadReport:
    """Load weights into a model, from any file that :func:`~minirtmdet.weights.checkpoint.read_checkpoint` reads.

    Tensors that the model shares need to be in the file once only.  Weights whose BatchNorms are folded into their
    convolutions are unfolded where the model has BatchNorms.  That serves prediction: in training, batch statistics
    would be others than those that were folded.

    Args:
        model: changed in place; untouched where an error is raised.
        path: a file, a run's folder, or what :func:`~minirtmdet.weights.checkpoint.read_checkpoint` gave.
        strict: every key must fit, and mean in the model what it meant where it was trained (see
            :mod:`minirtmdet.weights.origins`).  Otherwise what fits is loaded and the report says what did not.
        new_classes: the class predictor keeps its initial values whatever the file holds: for other classes.
        prefix: read only keys below this, and drop it: ``"backbone."`` for a backbone alone.

    Returns:
        A report that prints readably.

    Raises:
        CheckpointError: carrying the report's text where ``strict`` and something does not fit.

    >>> import tempfile
    >>> model, path = nn.Linear(2, 1), Path(tempfile.mkdtemp(), "w.pth")
    >>> torch.save({"state_dict": {"weight": torch.ones(1, 2), "scale": torch.ones(1)}}, path)
    >>> report = load_checkpoint(model, path, strict=False)
    >>> report.missing, report.unexpected, model.weight.tolist()
    (('bias',), ('scale',), [[1.0, 1.0]])
    """
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
    given = {k.removeprefix(prefix): v for k, v in checkpoint.state_dict.items() if k.startswith(prefix)}
    expected = model.state_dict(keep_vars=True)
    fresh = {key for key in expected if new_classes and _CLASS_LAYERS.search(key)}
    wanted = {key: value for key, value in expected.items() if key not in fresh}
    found = unfuse_state_dict(given, model)
    found = {key: value for key, value in found.items() if not (new_classes and _CLASS_LAYERS.search(key))}
    found, conflicting = _share(found, expected)
    mismatched = tuple(
        (key, tuple(value.shape), tuple(found[key].shape))
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    )
    unusable = {key for key, *_ in mismatched} | set(conflicting)
    usable = {key: found[key] for key in wanted if key in found and key not in unusable}
    certain, doubtful = _contradictions(checkpoint, model)
    report = LoadReport(
        source=str(checkpoint.path),
        loaded=len(usable),
        missing=tuple(key for key in wanted if key not in found),
        unexpected=tuple(key for key in found if key not in expected),
        mismatched=mismatched,
        conflicting=tuple(conflicting),
        fresh=tuple(sorted(fresh)),
        contradictions=tuple(certain),
        doubts=tuple(doubtful),
        summary=_summary(expected, given),
    )
    if strict and not report.fits:
        raise CheckpointError(str(report))
    model.load_state_dict(usable, strict=False)
    return report


def _share(found: dict[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors under every key that the model has for them, and the keys whose tensors differ.

    A model that shares a tensor has several keys for it; a file needs to have one of them.
    """
    keys_of: dict[int, list[str]] = {}
    for key, value in expected.items():
        keys_of.setdefault(id(value), []).append(key)
    shared, conflicting = dict(found), []
    for keys in keys_of.values():
        present = [key for key in keys if key in found]
        if any(not torch.equal(found[key], found[present[0]]) for key in present[1:]):
            conflicting += present
        shared |= {key: found[present[0]] for key in keys if present and key not in present}
    return shared, conflicting


def _contradictions(checkpoint: Checkpoint, model: nn.Module) -> tuple[list[str], list[str]]:
    """Where weights would mean something else in the model: by what the file says, and by what it looks like."""
    meaning = _meaning(model)
    origin = checkpoint.origin or (guess_origin(checkpoint.state_dict) if meaning else None)
    if origin is None:
        return [], []
    found = contradictions(origin, meaning, pixels=isinstance(model, RTMDet))
    return (found, []) if origin.certain else ([], found)


def _meaning(model: nn.Module) -> dict[str, Any]:
    """What the weights of a detector, or of its head, mean beside their shapes; see :data:`SILENT`."""
    if isinstance(model, RTMDet):
        return {name: getattr(model.config, name) for name in SILENT}
    return {"exp_on_reg": model.exp_on_reg} if isinstance(model, RTMDetHead | RTMDetSepBNHead) else {}


def _summary(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What the model is and what the file looks like, where both are a detector's and differ."""
    ours, theirs = describe_weights(expected), describe_weights(given)
    return f"expected {ours}, found {theirs}" if ours and theirs and ours != theirs else ""
