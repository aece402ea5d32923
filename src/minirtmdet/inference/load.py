"""From whatever names a detector to something that predicts: the one way in, for the commands and for other code."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from minirtmdet.configs import INS_PREDICT, DataConfig, PredictConfig
from minirtmdet.data.images import read_image
from minirtmdet.detector import Detector
from minirtmdet.devices import pick_device
from minirtmdet.distributed import ALONE, World
from minirtmdet.inference.detect import Pixels, in_batches, over_threshold
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.inference.images import find_images, inside_image
from minirtmdet.inference.openvino import OpenVinoDetector
from minirtmdet.inference.results import ImageDetections
from minirtmdet.inference.tiles import Tiles, detect_all
from minirtmdet.structures import Detections
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.checkpoint import find_checkpoint
from minirtmdet.weights.describe import describe_weights
from minirtmdet.weights.published import OFFICIAL, download_weights, published_size

Images: TypeAlias = str | Path | Pixels | Iterable[str | Path | Pixels]
"""An image as a file or as pixels, a folder of images, or several of these, which an iterator may hand over in time."""


@dataclass(frozen=True)
class LoadedDetector:
    """A detector that is ready to look at images, whatever it came from.

    Attributes:
        model: on its device, in evaluation mode.
        source: the file.
        classes: names in label order; None where nothing names them.
        num_classes: classes that it predicts.
        input_size: side of the square network input, in pixels.
        limits: thresholds and limits of prediction.
        data: what the run was trained on; None where the file does not say.
        description: what it is, in words.
    """

    model: Detector
    source: Path
    classes: tuple[str, ...] | None
    num_classes: int
    input_size: int
    limits: PredictConfig
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

    def predict(
        self,
        images: Images,
        *,
        threshold: float | Sequence[float] = 0.3,
        batch_size: int = 8,
        input_size: int | None = None,
        tiles: Tiles | None = None,
    ) -> list[ImageDetections]:
        """What is found in each image, in their order; a folder stands for all images below it.

        Args:
            images: files, folders, BGR pixels ``[H, W, 3]`` (uint8, any size), or several of these.
            threshold: detections that score more are kept; one for all classes, or one for each.
            batch_size: images per forward pass.
            input_size: side of the square network input, in pixels; the detector's own where left out.
            tiles: look at large images piece by piece, at full size.

        Raises:
            FileNotFoundError: for a path that is not there, or a folder without images.
            ValueError: naming the file or the place in the list of what is no image.

        For more images than their detections fit into memory: :meth:`stream`.
        """
        settings = {"threshold": threshold, "batch_size": batch_size, "input_size": input_size, "tiles": tiles}
        return list(self.stream(images, **settings))  # type: ignore[arg-type]

    def stream(
        self,
        images: Images,
        *,
        threshold: float | Sequence[float] = 0.3,
        batch_size: int = 8,
        input_size: int | None = None,
        tiles: Tiles | None = None,
    ) -> Iterator[ImageDetections]:
        """As :meth:`predict`, one image after the other, with no more than a batch in memory: of a video's frames too.

        ``(frame.pixels for frame in frames)`` with the frames of :func:`~minirtmdet.inference.video.open_video`.
        """
        size = self.input_side(input_size)
        config = self.limits_for(threshold)
        for batch in in_batches(_listed(images), batch_size):
            pixels = [read_image(one) if isinstance(one, Path) else one for one in batch]
            found = detect_all(self.model, pixels, config, input_size=size, tiles=tiles)
            for one, image, detections in zip(batch, pixels, found, strict=True):
                inside = over_threshold(inside_image(detections, image), threshold)
                source = {"path": one} if isinstance(one, Path) else {"pixels": image}
                yield ImageDetections(inside, self.names, image.shape[:2], **source)

    def finder(self, *, input_size: int | None = None, tiles: Tiles | None = None) -> Callable[[Pixels], Detections]:
        """As :meth:`predict` for one image after the other, with all that the limits let through: to be evaluated.

        :func:`~minirtmdet.evaluation.coco.evaluate_images` takes it.
        """
        settings = {"threshold": self.limits.score_threshold, "input_size": input_size, "tiles": tiles}

        def find(image: Pixels) -> Detections:
            return self.predict(image, **settings)[0].detections  # type: ignore[arg-type]

        return find

    def limits_for(self, threshold: float | Sequence[float]) -> PredictConfig:
        """Limits that let through all that the threshold, or those of the classes, may keep.

        Raises:
            ValueError: where there is neither one threshold nor one per class, or one is not from 0 to 1.
        """
        given = [threshold] if isinstance(threshold, int | float) else list(threshold)
        if isinstance(threshold, Sequence) and len(given) != self.num_classes:
            raise ValueError(f"{len(given)} thresholds for {self.num_classes} classes: give one, or one for each")
        if not all(0 <= one <= 1 for one in given):
            raise ValueError(f"the threshold is {threshold}: expected numbers from 0 to 1")
        return replace(self.limits, score_threshold=float(min(given)))


def _listed(images: Images) -> Iterable[Path | Pixels]:
    """Each image that is meant, checked as far as that costs nothing: all at once, or those of an iterator in time."""
    if isinstance(images, Iterator):
        return (found for place, one in enumerate(images) for found in _meant(place, one))
    # what can be asked for its parts is a list of images, and anything else is one, or none
    given = list(images) if isinstance(images, Iterable) and not isinstance(images, str | np.ndarray) else [images]
    return [found for place, one in enumerate(given) for found in _meant(place, one)]


def _meant(place: int, one: object) -> list[Path | Pixels]:
    """The image, or the images of a folder; ``place`` is where it stands among others."""
    if isinstance(one, str | Path):
        return [file.path for file in find_images([Path(one)])]
    if not isinstance(one, np.ndarray) or one.dtype != np.uint8 or one.ndim != 3 or one.shape[2] != 3 or not one.size:
        looks = f"{one.dtype} {tuple(one.shape)}" if hasattr(one, "shape") else type(one).__name__  # type: ignore[attr-defined]
        raise ValueError(
            f"image {place} is {looks}: expected a path, or BGR pixels as a uint8 array [height, width, 3], "
            "as cv2.imread gives them"
        )
    return [one]


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
        device: ``auto`` takes the GPU where there is one; ``openvino`` runs an exported file by OpenVINO, ``tensorrt``
            by TensorRT, which nobody has tried yet.
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
    if device in ("openvino", "tensorrt"):
        raise ValueError(f"{path} is no exported file: device {device} runs what `minirtmdet export` writes")
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
        limits=run.predict if run else published,
        data=run.data if run else None,
        description=f"{source}: {describe_weights(built.model.state_dict())}, on {target}",
    )


def _load_exported(path: Path, model: str | None, classes: Sequence[str] | None, device: str) -> LoadedDetector:
    if model is not None:
        raise ValueError(f"{path} says itself which model it is: leave --model out")
    exported = OpenVinoDetector(path) if device == "openvino" else OnnxDetector(path, device)
    info = exported.info
    if classes and len(classes) != len(info.classes):
        raise ValueError(f"{path} has {len(info.classes)} classes, but {len(classes)} names were given")
    return LoadedDetector(
        model=exported,
        source=path,
        classes=tuple(classes or info.classes),
        num_classes=len(info.classes),
        input_size=info.input_size,
        limits=info.predict,
        data=None,
        description=f"{path}: {info.describe()}",
    )
