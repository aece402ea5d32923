"""A checkpoint: weights with the run, the classes and the numbers that belong to them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from minirtmdet.configs import TrainConfig, config_from_json, config_to_json
from minirtmdet.files import atomic_path
from minirtmdet.weights.formats import CheckpointError, load_tensors_only, read_npz, save_tensors
from minirtmdet.weights.origins import Origin, mmdet_origin, own_origin, published_origin


@dataclass(frozen=True)
class Checkpoint:
    """A file as it was read, its tensors on the CPU.

    Attributes:
        path: the file.
        state_dict: weights to use: the moving average where the run kept one.
        config: the run that wrote it; None where the file does not say.
        classes: class names in label order; None where the file does not say.
        metrics: AP and its relatives when it was written.
        training: what resuming needs, in ``last.pt`` alone.
        origin: the network that the weights were trained in; None where neither the file nor its name says.
    """

    path: Path
    state_dict: dict[str, Tensor]
    config: TrainConfig | None = None
    classes: tuple[str, ...] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    origin: Origin | None = None


def find_checkpoint(path: Path | str) -> Path:
    """The file that a path means: itself, or ``best.pt``, else ``last.pt``, of a run's folder.

    Raises:
        FileNotFoundError: where there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("best.pt", "last.pt"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} holds neither best.pt nor last.pt: expected a checkpoint or a run's folder")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: expected a file, a run's folder, or a size such as tiny")
    return path


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint: the package's own, MMDetection's ``.pth``, safetensors or ``.npz``; nothing in it is run.

    Args:
        path: as for :func:`find_checkpoint`.

    Raises:
        FileNotFoundError: where there is none.
        CheckpointError: for a file that is no checkpoint, holds no weights, or asks for code.
    """
    path = find_checkpoint(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _foreign(path, read_npz(path))
    content = load_tensors_only(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: expected a dict with a state_dict")
    weights = content.get("state_dict", content.get("ema_state_dict", content))
    tensors = {}
    if isinstance(weights, Mapping):
        tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: expected a state_dict, found {listed(list(content))}")
    if "minirtmdet" not in content:
        return _foreign(path, tensors, content)
    return _own(path, tensors, content["minirtmdet"], content.get("metrics", {}), content.get("training"))


def save_checkpoint(
    path: Path | str,
    state_dict: Mapping[str, Tensor],
    config: TrainConfig,
    classes: Sequence[str],
    *,
    metrics: Mapping[str, float] | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint that ``torch.load(weights_only=True)`` reads, or safetensors by the file's suffix.

    The file appears whole or not at all.

    Args:
        path: where to.
        state_dict: weights to use later.
        config: the run, stored as JSON text together with ``classes``.
        classes: names in label order.
        metrics: AP and its relatives.
        training: tensors and plain values that resuming needs; not for safetensors.

    Raises:
        ValueError: for ``training`` in a safetensors file.
    """
    path = Path(path)
    text = config_to_json(config, classes)
    if path.suffix == ".safetensors":
        if training is not None:
            raise ValueError(f"{path}: safetensors holds weights alone; write the state of a run to a .pt file")
        # clones: this format has no shared tensors
        tensors = {
            key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()
        }
        metadata = {"format": "pt", "minirtmdet": text, "metrics": json.dumps(dict(metrics or {}))}
        with atomic_path(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata))
        return
    content: dict[str, Any] = {"minirtmdet": text, "state_dict": dict(state_dict), "metrics": dict(metrics or {})}
    if training is not None:
        content["training"] = dict(training)
    save_tensors(path, content)


def listed(names: Sequence[object]) -> str:
    """The first five names, for a message."""
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")


def _read_safetensors(path: Path) -> Checkpoint:
    """Tensors, and what the package writes into the metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # an open file cannot be iterated over
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    if "minirtmdet" not in metadata:
        return _foreign(path, tensors)
    return _own(path, tensors, metadata["minirtmdet"], json.loads(metadata.get("metrics", "{}")))


def _own(
    path: Path,
    tensors: dict[str, Tensor],
    settings: str,
    metrics: dict[str, float],
    training: dict[str, Any] | None = None,
) -> Checkpoint:
    """A file that the package wrote, with the settings and class names that it carries as text."""
    try:
        config, classes = config_from_json(settings)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Checkpoint(path, tensors, config, classes, metrics, training, own_origin(config.model))


def _foreign(path: Path, tensors: dict[str, Tensor], content: Mapping = MappingProxyType({})) -> Checkpoint:
    """A file that the package did not write; ``content`` is all that lies in it, beside the tensors."""
    return Checkpoint(
        path,
        _without_wrapping(tensors),
        classes=_mmdet_classes(content),
        origin=_foreign_origin(path, content, tensors),
    )


def _without_wrapping(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that the model has for them.

    A wrapper puts ``module.`` before its model's keys, and a counter of updates beside them; a detector of MMDetection
    keeps the mean and std of pixels with its weights.
    """
    if any(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items() if key.startswith("module.")}
    return {key: value for key, value in tensors.items() if not key.startswith("data_preprocessor.")}


def _mmdet_classes(content: Mapping) -> tuple[str, ...] | None:
    """Class names that MMDetection wrote (upper case before MMEngine 0.2)."""
    meta = content.get("meta")
    dataset = meta.get("dataset_meta") if isinstance(meta, Mapping) else None
    if not isinstance(dataset, Mapping):
        return None
    names = dataset.get("classes", dataset.get("CLASSES"))
    return (names,) if isinstance(names, str) else tuple(map(str, names)) if names else None


def _foreign_origin(path: Path, content: Mapping, tensors: Mapping[str, Tensor]) -> Origin | None:
    """Where weights that the package did not write come from: by MMDetection's config in the file, or by its name."""
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    origin = (mmdet_origin(text) if isinstance(text, str) else None) or published_origin(path)
    mean, std = (tensors.get(f"data_preprocessor.{key}") for key in ("mean", "std"))
    if origin is not None or mean is None or std is None:
        return origin
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    # these say nothing of the order; but red's mean is the largest in photos
    order = "RGB" if means[0] > means[-1] else "BGR"
    return Origin("its data_preprocessor", None, order, tuple(means), tuple(stds))
