"""From whatever names a detector to something that predicts: the one way in, for the commands and for other code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minirtmdet.configs import INS_PREDICT, DataConfig, PredictConfig
from minirtmdet.detector import Detector
from minirtmdet.devices import pick_device
from minirtmdet.distributed import ALONE, World
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.checkpoint import find_checkpoint
from minirtmdet.weights.describe import describe_weights
from minirtmdet.weights.published import OFFICIAL, download_weights, published_size


@dataclass(frozen=True)
class LoadedDetector:
    """A detector that is ready to look at images, whatever it came from.

    Attributes:
        model: on its device, in evaluation mode.
        source: the file.
        classes: names in label order; None where nothing names them.
        num_classes: classes that it predicts.
        input_size: side of the square network input, in pixels.
        predict: thresholds and limits.
        data: what the run was trained on; None where the file does not say.
        description: what it is, in words.
    """

    model: Detector
    source: Path
    classes: tuple[str, ...] | None
    num_classes: int
    input_size: int
    predict: PredictConfig
    data: DataConfig | None
    description: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names in label order; ``class 0``, ``class 1``, … where nothing names them."""
        return self.classes or tuple(f"class {label}" for label in range(self.num_classes))

    def input_side(self, given: int | None) -> int:
        """Side of the square network input, in pixels: what is asked for, or what the file says.

        Raises:
            ValueError: for an exported file, which is made for one size, where another is asked for.
        """
        if isinstance(self.model, OnnxDetector) and given not in (None, self.input_size):
            raise ValueError(f"{self.source} is made for {self.input_size} pixels, not for {given}: export it again")
        return given or self.input_size


def load_detector(
    what: Path | str,
    *,
    model: str | None = None,
    classes: Sequence[str] | None = None,
    device: str = "auto",
    world: World = ALONE,
) -> LoadedDetector:
    """The detector that a run, a file or a size names, ready to predict.

    Args:
        what: a run's folder (its best weights), a checkpoint, MMDetection's too, an exported ``.onnx`` file, or a size
            for its published weights, which are downloaded once.  A file or folder of a size's name comes first.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say, or to rename them.
        device: ``auto`` takes the GPU where there is one.
        world: of several processes, each has a GPU of its own.

    Raises:
        FileNotFoundError: where there is no such file.
        CheckpointError, ExportError: for a file that cannot be read, is not trusted, or does not fit.
        DownloadError: where published weights cannot be fetched.
        ValueError: for a device that is not here, or names or a size that contradict the file.
    """
    path = Path(what)
    if path.suffix == ".onnx":
        return _load_exported(path, model, classes, device)
    target = world.device(pick_device(device))
    size = published_size(path)
    if size is not None:
        path, model = download_weights(size), model or size
    built = build_from_checkpoint(path, model=model, classes=classes)
    source, run = find_checkpoint(path), built.config
    side = OFFICIAL[size].input_size if size else 640
    published = INS_PREDICT if built.model.config.masks else PredictConfig()
    return LoadedDetector(
        model=built.model.to(target),
        source=source,
        classes=built.classes,
        num_classes=built.model.config.num_classes,
        input_size=run.data.input_size if run else side,
        predict=run.predict if run else published,
        data=run.data if run else None,
        description=f"{source}: {describe_weights(built.model.state_dict())}, on {target}",
    )


def _load_exported(path: Path, model: str | None, classes: Sequence[str] | None, device: str) -> LoadedDetector:
    if model is not None:
        raise ValueError(f"{path} says itself which model it is: leave --model out")
    exported = OnnxDetector(path, device)
    info = exported.info
    if classes and len(classes) != len(info.classes):
        raise ValueError(f"{path} has {len(info.classes)} classes, but {len(classes)} names were given")
    return LoadedDetector(
        model=exported,
        source=path,
        classes=tuple(classes or info.classes),
        num_classes=len(info.classes),
        input_size=info.input_size,
        predict=info.predict,
        data=None,
        description=f"{path}: {info.describe()}",
    )
