"""Checkpoints: what is written, what can be read, and what of it fits a model.

Four kinds of file are read: the package's own, safetensors, MMDetection's ``.pth`` as they are, and ``.npz`` arrays.
Each is data: a file that asks for code is refused with the name of what it asked for.
"""

import dataclasses
import errno
import io
import json
import os
import pickle
import pickletools
import re
import types
import typing
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from minirtmdet.configs import INS_MODELS, MODELS, ModelConfig, TrainConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.fuse import fuse_batch_norm, is_fused, unfuse_state_dict
from minirtmdet.head.network import RTMDetHead, RTMDetSepBNHead
from minirtmdet.origins import SILENT, Origin, contradictions, mmdet_origin, own_origin, published_origin

_CLASS_LAYERS = re.compile(r"(^|\.)rtm_cls\.")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is not trusted, or does not fit the model."""


class DiskFull(OSError):
    """A file that could not be written for want of room; the message names it."""


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
                more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
                lines.append(f"  {len(keys)} {what}: {', '.join(keys[:3])}{more}")
        lines += [f"  {words}" for words in (*self.contradictions, *self.doubts)]
        return "\n".join(lines)


class LoadedDetector(NamedTuple):
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


# ----------------------------------------------------------------------------------------------- reading


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
        raise FileNotFoundError(f"no checkpoint {path}: expected a file or a run's folder")
    return path


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of any of the four kinds, without running anything that it holds.

    Raises:
        FileNotFoundError: where there is none.
        CheckpointError: for a file that is no checkpoint, holds no weights, or asks for code.
    """
    path = find_checkpoint(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        arrays = _read_npz(path)
        return Checkpoint(path, _without_wrapping(arrays), origin=_foreign_origin(path, {}, arrays))
    content = _load_tensors_only(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: expected a dict with a state_dict")
    weights = content.get("state_dict", content.get("ema_state_dict", content))
    tensors = {}
    if isinstance(weights, Mapping):
        tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no weights: expected a state_dict, found {_listed(list(content))}")
    if "minirtmdet" in content:
        config, classes = config_from_json(content["minirtmdet"])
        more = (content.get("metrics", {}), content.get("training"))
        return Checkpoint(path, tensors, config, classes, *more, origin=own_origin(config.model))
    return Checkpoint(
        path,
        _without_wrapping(tensors),
        classes=_mmdet_classes(content),
        origin=_foreign_origin(path, content, tensors),
    )


class _HistoryBuffer:
    """Stands for the class in which MMEngine keeps its logs; what it held is not read."""


def _no_getattr(*_: object) -> None:
    """Stands for ``builtins.getattr``, which MMEngine's logs ask for and no file may have."""


def _safe_types() -> list[Any]:
    """What the files of MMEngine's Runner hold beside tensors; no entry of it can run anything."""
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    safe: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
    safe += [(_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"), (_no_getattr, "builtins.getattr")]
    # by name: a file says where a function was when it was written, not where this numpy has it
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        safe += [(scalar, f"{module}.scalar"), (reconstruct, f"{module}._reconstruct")]
    return safe


def _load_tensors_only(path: Path) -> Any:
    """``torch.load(weights_only=True)`` with errors that name the file and what is wrong with it."""
    try:
        with torch.serialization.safe_globals(_safe_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|class '([\w.]+)'", str(error))
        if asked := (named[1] or named[2]) if named else _imports(path):
            raise CheckpointError(f"{path} refused: it asks for {asked}, and a checkpoint is data only") from None
        raise CheckpointError(f"{path} is not a checkpoint that PyTorch can read") from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # what follows is advice to trust the file
        raise CheckpointError(f"{path} is not a checkpoint that PyTorch can read: {reason}") from None


_OF_TENSORS = re.compile(r"torch\._utils\._rebuild_\w+|torch\.\w+Storage|collections\.OrderedDict")


def _imports(path: Path) -> str:
    """What a pickle would import beside tensors, by its opcodes: where these are new to PyTorch, it names nothing."""
    content = path.read_bytes()
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    names: list[str] = []
    file = io.BytesIO(content)
    with suppress(Exception):  # of a broken file, what comes before the break
        # a zip has one pickle; what PyTorch wrote before has several in a row, the weights' the fourth, then numbers
        while file.tell() < len(content):
            names.extend(_imports_of_one(file))
    return ", ".join(name for name in dict.fromkeys(names) if not _OF_TENSORS.fullmatch(name))


def _imports_of_one(file: io.BytesIO) -> Iterator[str]:
    """What the next pickle of a file would import."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name.endswith("GET"):
            strings.append(memo.get(int(str(value)), ""))
        elif isinstance(value, str):
            strings.append(value)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # an open file cannot be iterated over
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    if "minirtmdet" not in metadata:
        return Checkpoint(path, _without_wrapping(tensors), origin=_foreign_origin(path, {}, tensors))
    config, classes = config_from_json(metadata["minirtmdet"])
    metrics = json.loads(metadata.get("metrics", "{}"))
    return Checkpoint(path, tensors, config, classes, metrics, origin=own_origin(config.model))


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not an .npz file of plain arrays: {error}") from None


def _without_wrapping(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys as the model knows them: no ``module.`` of a wrapper, no update counter, no preprocessor."""
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
    # of the order it says no more: red's mean is the largest in photos
    order = "RGB" if means[0] > means[-1] else "BGR"
    return Origin("its data_preprocessor", None, order, tuple(means), tuple(stds))


def guess_origin(state_dict: Mapping[str, Tensor]) -> Origin | None:
    """The published network that weights look like, for files that do not say where they come from."""
    size = _size(state_dict)
    if size is None:
        return None
    with torch.device("meta"):
        keys = build_detector(size).state_dict().keys()
    if not is_fused(state_dict) and keys != set(state_dict):
        return None
    return Origin(f"as in the published {size}, which the file looks like", MODELS[size], certain=False)


# ------------------------------------------------------------------------------------- into a model


def load_checkpoint(
    model: nn.Module,
    path: Path | str | Checkpoint,
    *,
    strict: bool = True,
    new_classes: bool = False,
    prefix: str = "",
) -> LoadReport:
    """Load weights into a model, from any file that :func:`read_checkpoint` reads.

    Tensors that the model shares need to be in the file once only.  Weights whose BatchNorms are folded into their
    convolutions are unfolded where the model has BatchNorms.  That serves prediction: in training, batch statistics
    would be others than those that were folded.

    Args:
        model: changed in place; untouched where an error is raised.
        path: a file, a run's folder, or what :func:`read_checkpoint` gave.
        strict: every key must fit, and mean in the model what it meant where it was trained (see
            :mod:`minirtmdet.origins`).  Otherwise what fits is loaded and the report says what did not.
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
    found = {k.removeprefix(prefix): v for k, v in checkpoint.state_dict.items() if k.startswith(prefix)}
    theirs = describe_weights(found)
    found = unfuse_state_dict(found, model)
    expected = model.state_dict(keep_vars=True)
    fresh = {key for key in expected if new_classes and _CLASS_LAYERS.search(key)}
    found = {key: value for key, value in found.items() if not (new_classes and _CLASS_LAYERS.search(key))}

    conflicting = []
    for keys in _shared(expected):
        present = [key for key in keys if key in found]
        if any(not torch.equal(found[key], found[present[0]]) for key in present[1:]):
            conflicting += present
        found |= {key: found[present[0]] for key in keys if present and key not in present}
    wanted = {key: value for key, value in expected.items() if key not in fresh}
    mismatched = tuple(
        (key, tuple(value.shape), tuple(found[key].shape))
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    )
    unusable = {key for key, *_ in mismatched} | set(conflicting)
    usable = {key: found[key] for key in wanted if key in found and key not in unusable}
    ours = describe_weights(expected)
    meaning = _meaning(model)
    origin = checkpoint.origin or (guess_origin(checkpoint.state_dict) if meaning else None)
    differences = contradictions(origin, meaning, pixels=isinstance(model, RTMDet)) if origin else []
    report = LoadReport(
        source=str(checkpoint.path),
        loaded=len(usable),
        missing=tuple(key for key in wanted if key not in found),
        unexpected=tuple(key for key in found if key not in expected),
        mismatched=mismatched,
        conflicting=tuple(conflicting),
        fresh=tuple(sorted(fresh)),
        contradictions=tuple(differences if origin and origin.certain else ()),
        doubts=tuple(differences if origin and not origin.certain else ()),
        summary=f"expected {ours}, found {theirs}" if ours and theirs and ours != theirs else "",
    )
    if strict and not report.fits:
        raise CheckpointError(str(report))
    model.load_state_dict(usable, strict=False)
    return report


def build_from_checkpoint(
    path: Path | str, *, model: str | ModelConfig | None = None, classes: Sequence[str] | None = None
) -> LoadedDetector:
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
        raise CheckpointError(f"{checkpoint.path} has {num_classes} classes, but {len(names)} names: {_listed(names)}")
    detector = build_detector(settings, num_classes=num_classes)
    if is_fused(checkpoint.state_dict):  # BatchNorms of their own for levels that share convolutions cannot be regained
        detector = fuse_batch_norm(detector)
    report = load_checkpoint(detector, checkpoint)
    return LoadedDetector(detector.eval(), names, checkpoint.config, report)


def count_classes(state_dict: Mapping[str, Tensor]) -> int | None:
    """Classes that a detector's weights predict; None where they are no detector's."""
    biases = (value for key, value in state_dict.items() if re.search(r"(^|\.)rtm_cls\.(0\.)?bias$", key))
    return next((len(bias) for bias in biases), None)


def describe_weights(state_dict: Mapping[str, Tensor]) -> str:
    """Width, size and classes of a detector as its weights show them; empty where they are no detector's.

    >>> describe_weights(build_detector("tiny").state_dict())
    'widen_factor 0.375 (as tiny), 80 classes'
    """
    parts = []
    if widen := _widen_factor(state_dict):
        size = _size(state_dict)
        parts.append(f"widen_factor {widen:g}" + (f" (as {size})" if size else ""))
    classes = count_classes(state_dict)
    if classes is not None:
        parts.append(f"{classes} class{'es' if classes > 1 else ''}")
    if is_fused(state_dict):
        parts.append("BatchNorm folded")
    return ", ".join(parts)


def _widen_factor(state_dict: Mapping[str, Tensor]) -> float | None:
    """As the stem shows it, which has 64 * widen_factor // 2 channels; None where there is none."""
    stem = next((value for key, value in state_dict.items() if key.endswith("stem.0.conv.weight")), None)
    return None if stem is None else len(stem) / 32


def _size(state_dict: Mapping[str, Tensor]) -> str | None:
    """The published size that weights look like, by their width."""
    depthwise, masks = (any(word in key for key in state_dict) for word in ("conv1.depthwise", "rtm_kernel"))
    kind = (_widen_factor(state_dict), depthwise, masks)
    known = (MODELS | INS_MODELS).items()
    return next((name for name, size in known if (size.widen_factor, size.use_depthwise, size.masks) == kind), None)


def _meaning(model: nn.Module) -> dict[str, Any]:
    """What the weights of a detector, or of its head, mean beside their shapes; see :data:`SILENT`."""
    if isinstance(model, RTMDet):
        return {name: getattr(model.config, name) for name in SILENT}
    return {"exp_on_reg": model.exp_on_reg} if isinstance(model, RTMDetHead | RTMDetSepBNHead) else {}


def _shared(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """Groups of keys that name one tensor."""
    groups: dict[int, list[str]] = {}
    for key, value in tensors.items():
        groups.setdefault(id(value), []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def _listed(names: Sequence[object]) -> str:
    """The first few names."""
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")


# ----------------------------------------------------------------------------------------------- writing


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


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values for ``torch.load(weights_only=True)``, whole or not at all."""
    # through a file of Python's: torch's own writer does not say why it failed
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)


_TEMPORARY = re.compile(r"\.\w+\.\d+\.\w+")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved onto it when the block ends well and removed when it does not.

    What ``path`` held before stays whole whenever the process is killed, and, since the new content is on the disk
    before it takes the name, whenever the machine is.

    Raises:
        DiskFull: naming ``path``.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with naming_full_disk(path):
        try:
            yield temporary
            with temporary.open("r+b") as file:  # Windows brings to the disk only what is open for writing
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed left of :func:`atomic_path`'s temporary files."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say which file could not be written, and what to do, where the disk is full or a limit is reached."""
    full = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota of this user is used up",
        errno.EFBIG: "it would be larger than this process may write",
    }
    try:
        yield
    except (OSError, RuntimeError) as error:
        causes: list[BaseException | None] = [error]
        while causes[-1] is not None:  # torch.save raises an error of its own while handling the disk's
            causes.append(causes[-1].__context__)
        reasons = [full[cause.errno] for cause in causes if isinstance(cause, OSError) and cause.errno in full]
        if not reasons:
            raise
        raise DiskFull(
            f"{path} could not be written: {reasons[0]}; what it held before is untouched. Make room in "
            f"{path.parent.absolute()} or choose another folder"
        ) from error


def config_to_json(config: TrainConfig, classes: Sequence[str]) -> str:
    """A run's settings and class names as text."""
    content = {"classes": list(classes), "config": dataclasses.asdict(config)}
    return json.dumps(content, default=os.fspath, indent=2, ensure_ascii=False) + "\n"


def config_from_json(text: str) -> tuple[TrainConfig, tuple[str, ...]]:
    """The inverse of :func:`config_to_json`; settings that are newer than the text get their defaults.

    Raises:
        CheckpointError: for text that is none, or with a setting that this version does not know.

    >>> config = TrainConfig(name="a", out=Path("b"))
    >>> config_from_json(config_to_json(config, ["cat"])) == (config, ("cat",))
    True
    """
    try:
        content = json.loads(text)
        return _decode(TrainConfig, content["config"], "config"), tuple(content["classes"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"settings that cannot be read: {error!r}") from None


def _decode(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type that a field asks for."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        if unknown := set(value) - set(hints):
            raise CheckpointError(f"unknown setting {name}.{min(unknown)}: was it written by a newer version?")
        return hint(**{key: _decode(hints[key], item, f"{name}.{key}") for key, item in value.items()})
    if isinstance(hint, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value is None else _decode(options[0], value, name)
    if typing.get_origin(hint) is tuple:
        return tuple(_decode(option, item, name) for option, item in zip(typing.get_args(hint), value, strict=True))
    return hint(value) if hint in (Path, float) else value
