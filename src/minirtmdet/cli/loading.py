"""What the commands share: a detector made ready from whatever the command line names."""

import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, get_type_hints

from minirtmdet.configs import DataConfig, PredictConfig
from minirtmdet.detector import Detector
from minirtmdet.devices import pick_device
from minirtmdet.distributed import ALONE, World
from minirtmdet.inference.exported import ExportInfo, OnnxDetector
from minirtmdet.settings import out_of_range
from minirtmdet.weights.checkpoint import find_checkpoint
from minirtmdet.weights.describe import describe_weights
from minirtmdet.weights.load import build_from_checkpoint
from minirtmdet.weights.published import OFFICIAL, download_weights, weights_path

P = ParamSpec("P")
Device = Literal["auto", "cpu", "cuda", "mps"]
Size = Literal["nano", "tiny", "s", "m", "l", "x"]
_arguments: ContextVar[list[str]] = ContextVar("_arguments")
"""The words of the command line that is running."""


class Loaded(NamedTuple):
    """A detector that is ready to look at pictures, whatever file it came from.

    Attributes:
        model: on its device.
        source: the file.
        classes: names in label order; None where nothing names them.
        num_classes: classes that it predicts.
        input_size: side of the square network input, in pixels.
        predict: thresholds and limits.
        data: what the run was trained on; None where the file does not say.
    """

    model: Detector
    source: Path
    classes: tuple[str, ...] | None
    num_classes: int
    input_size: int
    predict: PredictConfig
    data: DataConfig | None


class PartialFailure(Exception):
    """Some of the work is done, some could not be: exit code 1."""


def _checked(command: Callable[P, None]) -> Callable[P, None]:
    """A command that refuses numbers out of their range before it does anything, by the names that the user typed."""
    hints, parameters = get_type_hints(command, include_extras=True), signature(command)

    @wraps(command)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        given = parameters.bind(*args, **kwargs).arguments
        for name, problem in out_of_range(hints, given):
            typed = name.removeprefix("config.").replace("_", "-")  # whose own name is empty
            raise ValueError(f"--{typed} {problem}")
        command(*args, **kwargs)

    return checked


def _load(path: Path, model: str | None, classes: tuple[str, ...] | None, device: str, world: World = ALONE) -> Loaded:
    """The detector of a checkpoint or an exported file, on its device."""
    if path.suffix == ".onnx":
        return _load_exported(path, model, classes, device)
    target = world.device(pick_device(device))
    size = _published(path)
    if size:
        path, model = _download(size), model or size
    detector, names, run, _ = build_from_checkpoint(path, model=model, classes=classes)
    source = find_checkpoint(path)
    print(f"{source}: {describe_weights(detector.state_dict())}, on {target}")
    published_size = OFFICIAL[size].input_size if size else 640
    return Loaded(
        model=detector.to(target),
        source=source,
        classes=names,
        num_classes=detector.config.num_classes,
        input_size=run.data.input_size if run else published_size,
        predict=run.predict if run else PredictConfig(),
        data=run.data if run else None,
    )


def _load_exported(path: Path, model: str | None, classes: tuple[str, ...] | None, device: str) -> Loaded:
    """An exported file, and a line that says what is fixed in it."""
    if model is not None:
        raise ValueError(f"{path} says itself which model it is: leave --model out")
    exported = OnnxDetector(path, device)
    info = exported.info
    if classes and len(classes) != len(info.classes):
        raise ValueError(f"{path} has {len(info.classes)} classes, but {len(classes)} names were given")
    print(f"{path}: {_describe_export(info)}")
    names = classes or info.classes
    return Loaded(exported, path, names, len(names), info.input_size, info.predict, None)


def _describe_export(info: ExportInfo) -> str:
    """What is fixed in an exported file, in words."""
    count = len(info.classes)
    words = f"ONNX of {info.preset or 'a detector'}, {count} class{'es' * (count > 1)}, {info.input_size} px"
    if info.kind == "raw":
        return f"{words}, all priors"
    limits = info.predict
    return (
        f"{words}, at most {limits.max_per_image} detections that score more than {limits.score_threshold:g}, "
        f"suppressed at IoU {limits.nms_iou_threshold:g}"
    )


def _published(path: Path) -> str | None:
    """The size whose published weights are meant; a file or a folder of that name comes first."""
    return str(path) if str(path) in OFFICIAL and not path.exists() else None


def _download(size: str) -> Path:
    """The published weights of a size, and a line before anything is downloaded."""
    path = weights_path(size)
    if not path.is_file():
        print(f"downloading {OFFICIAL[size].url} to {path.parent}", file=sys.stderr)
    return download_weights(size)


def _input_size(loaded: Loaded, given: int | None) -> int:
    """Side of the network input: what is asked for, or what the file says."""
    if isinstance(loaded.model, OnnxDetector) and given not in (None, loaded.input_size):
        raise ValueError(f"{loaded.source} is made for {loaded.input_size} pixels, not for {given}: export it again")
    return given or loaded.input_size
