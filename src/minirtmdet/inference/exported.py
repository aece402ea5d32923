"""An exported ONNX file as a detector: what it says about itself, and running it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from minirtmdet.configs import STRIDES, ModelConfig, PredictConfig
from minirtmdet.detector import GREY, MEAN, STD
from minirtmdet.files import atomic_path
from minirtmdet.head.postprocess import predict_by_feat, predict_instances_by_feat, stretch_masks
from minirtmdet.masks import original_shapes
from minirtmdet.structures import Detections, InsOutputs

KEY = "minirtmdet"
"""Under this name the file's metadata has an :class:`ExportInfo` as JSON."""
MAPS = [f"{name}_{stride}" for name in ("cls_score", "bbox_pred") for stride in STRIDES]
MASK_MAPS = [*(f"kernel_pred_{stride}" for stride in STRIDES), "mask_feat"]
"""What a ``raw`` file gives besides, where it finds masks."""
PREPROCESSING: dict[str, Any] = {
    "layout": "NCHW",
    "dtype": "uint8",
    "color_order": "BGR",
    "resize": "to fit the input, ratio kept, bilinear",
    "pad": "right and bottom",
    "pad_value": GREY,
    "mean": list(MEAN),
    "std": list(STD),
    "normalised_in_graph": True,
}
"""How an image becomes an input; mean and standard deviation of BGR pixels are for information, the graph has them."""

GPU = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Devices beside the CPU, and who runs them in onnxruntime.  Nobody has tried TensorRT yet."""

Kind = Literal["raw", "nms"]


class ExportError(ValueError):
    """A detector that cannot be exported, or a file that is no export of this package."""


@dataclass(frozen=True)
class ExportInfo:
    """What an exported file says about itself.

    Attributes:
        kind: ``raw`` or ``nms``.
        input_size: side of the square input, in pixels.
        classes: names in label order; ``class 0``, … where nothing named them.
        preset: name of the run or the size that it was made from.
        model: the network.
        predict: thresholds and limits; those of an ``nms`` file are fixed in its graph.
        input: what the graph is given, in words.
        outputs: what it gives, in words.
        batch: images that it takes at a time; None for any number.
        precision: ``fp32``, or ``int8`` where its convolutions compute in 8 bits.
        preprocessing: how pixels become ``input``, for programs: what :data:`PREPROCESSING` says; files of earlier
            versions have the same and do not say so.
    """

    kind: Kind
    input_size: int
    classes: tuple[str, ...]
    preset: str
    model: ModelConfig
    predict: PredictConfig
    input: str
    outputs: dict[str, str]
    batch: int | None = None
    precision: str = "fp32"
    preprocessing: dict[str, Any] = field(default_factory=lambda: dict(PREPROCESSING))

    def describe(self) -> str:
        """What is fixed in the file, in words."""
        count = len(self.classes)
        words = f"ONNX of {self.preset or 'a detector'}, {count} class{'es' * (count > 1)}, {self.input_size} px"
        words += ", with masks" * self.model.masks
        words += f", {self.batch} image{'s' * (self.batch > 1)} at a time" if self.batch else ""
        words += f", {self.precision}" * (self.precision != "fp32")
        if self.kind == "raw":
            return f"{words}, all priors"
        limits = self.predict
        return (
            f"{words}, at most {limits.max_per_image} detections that score more than {limits.score_threshold:g}, "
            f"suppressed at IoU {limits.nms_iou_threshold:g}"
        )

    @classmethod
    def from_json(cls, text: str) -> "ExportInfo":
        """The inverse of ``json.dumps(asdict(info))``."""
        fields = json.loads(text)
        fields["classes"] = tuple(fields["classes"])
        return cls(**{**fields, "model": ModelConfig(**fields["model"]), "predict": PredictConfig(**fields["predict"])})


class OnnxDetector:
    """An exported file as a detector: it predicts as the one that it was made from.

    Args:
        path: a file that :func:`~minirtmdet.inference.export.export_onnx` wrote.
        device: ``cuda`` and ``auto`` run on the GPU where onnxruntime has one; ``tensorrt`` compiles the file for it
            first, by onnxruntime's provider, which nobody has tried yet.

    Attributes:
        path: the file.
        info: what the file says about itself.

    Raises:
        FileNotFoundError: where there is no file.
        ExportError: where onnxruntime is not installed, or the file is no export of this package.
        ValueError: for a device that onnxruntime does not have.
    """

    def __init__(self, path: Path, device: str = "auto"):
        if not path.is_file():
            folder = ": it is a folder, and a file is needed that `minirtmdet export` writes" * path.is_dir()
            raise FileNotFoundError(f"no exported detector {path}{folder}")
        runtime = import_optional("onnxruntime", f"running {path}")
        self.path = path
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors: its warnings are about machines that it does not know
        options.intra_op_num_threads = torch.get_num_threads()
        # its threads would go on asking for work after the graph, and take the processor from torch's, which suppress
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = _providers(runtime, device)
        try:
            self._session = runtime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # the runtime's own classes have no common ancestor
            reason = str(error).splitlines()[0]
            raise ExportError(f"{path} is no ONNX file that onnxruntime can run: {reason}") from None
        if device in GPU and GPU[device] not in self._session.get_providers():  # it goes on with the CPU by itself
            raise ValueError(
                f"device {device!r} was asked for, and onnxruntime cannot start it: are its libraries installed, in "
                "the versions that this onnxruntime was built for?"
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        if KEY not in metadata:
            raise ExportError(f"{path} is no export of this package: its metadata has no {KEY!r}")
        try:
            self.info = ExportInfo.from_json(metadata[KEY])
        except (ValueError, TypeError, KeyError) as error:
            raise ExportError(f"{path} was written by another version: {error}") from None

    @property
    def device(self) -> torch.device:
        """Where it expects images; onnxruntime moves them on."""
        return torch.device("cpu")

    def outputs(
        self, images: Num[Tensor, "batch channels height width"], img_shapes: Sequence[tuple[int, int]] | None = None
    ) -> dict[str, Tensor]:
        """Everything that the graph gives, by name.

        Args:
            images: uint8 BGR pixels ``[B, 3, S, S]``.
            img_shapes: (height, width) of the content of each image, where the boxes of an ``nms`` file end; all of it
                where left out.

        Raises:
            ValueError: for images of another shape or type than the file was made for, or content that the file, made
                by an earlier version, cannot be told of.
        """
        size = self.info.input_size
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size):
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"{self.path} takes uint8 images [batch, 3, {size}, {size}] in BGR order, found {found}")
        given = {"images": np.ascontiguousarray(images.cpu().numpy())}
        if self.info.kind == "nms" and img_shapes is not None and set(img_shapes) != {(size, size)}:
            if "content" not in {one.name for one in self._session.get_overridable_initializers()}:
                raise ValueError(f"{self.path} has no input for where images end: export it again")
            given["content"] = np.array([[(width, height) * 2] for height, width in img_shapes], np.float32)
        names = [output.name for output in self._session.get_outputs()]
        parts = [self._run(names, part) for part in _in_batches(given, self.info.batch)]
        columns = (np.concatenate(column)[: len(images)] for column in zip(*parts, strict=True))
        return {name: torch.from_numpy(column) for name, column in zip(names, columns, strict=True)}

    def _run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of these names."""
        return self._session.run(names, given)

    def predict(
        self,
        images: Num[Tensor, "batch channels height width"],
        config: PredictConfig | None = None,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        scale_factors: Sequence[tuple[float, float]] | None = None,
    ) -> list[Detections]:
        """Detections of each image, best first.

        Args:
            images: uint8 BGR pixels ``[B, 3, S, S]``.
            config: thresholds and limits; the file's own where left out.  An ``nms`` file has made its choice:
                only a higher ``score_threshold`` and a lower ``max_per_image`` change anything.
            img_shapes: as in :meth:`minirtmdet.detector.RTMDet.predict`.
            scale_factors: likewise.

        Raises:
            ValueError: as in :meth:`outputs`.
        """
        config = self.info.predict if config is None else config
        whole = [(self.info.input_size,) * 2] * len(images)
        clip = whole if img_shapes is None or config.clip == "input" else img_shapes
        shapes = whole if scale_factors is None else original_shapes(img_shapes or whole, scale_factors)
        found = self.outputs(images, clip)
        if self.info.kind == "raw":
            return self._of_maps(found, config, clip, shapes, scale_factors)
        results = []
        for image, scores in enumerate(found["scores"]):
            keep = (scores > config.score_threshold).nonzero()[: config.max_per_image, 0]
            boxes = found["boxes"][image, keep]
            factors = None if scale_factors is None else scale_factors[image]
            if factors is not None:
                boxes = boxes / boxes.new_tensor([*factors] * 2)
            masks = (
                stretch_masks(found["masks"][image, keep], shapes[image], factors, config) if "masks" in found else None
            )
            results.append(Detections(boxes, scores[keep], found["labels"][image, keep], masks))
        return results

    def _of_maps(
        self,
        found: dict[str, Tensor],
        config: PredictConfig,
        clip: Sequence[tuple[int, int]],
        shapes: Sequence[tuple[int, int]],
        scale_factors: Sequence[tuple[float, float]] | None,
    ) -> list[Detections]:
        """From the maps of a ``raw`` file, as the detector itself does it."""
        offset, levels = self.info.model.prior_offset, len(STRIDES)
        maps = [found[name] for name in MAPS]
        if not self.info.model.masks:
            return predict_by_feat(maps[:levels], maps[levels:], config, offset, clip, scale_factors)
        *kernels, mask_feat = (found[name] for name in MASK_MAPS)
        outputs = InsOutputs(tuple(maps[:levels]), tuple(maps[levels:]), tuple(kernels), mask_feat)
        return predict_instances_by_feat(outputs, shapes, config, offset, clip, scale_factors)


def _in_batches(given: dict[str, np.ndarray], batch: int | None) -> Iterator[dict[str, np.ndarray]]:
    """What a graph is given, for as many images at a time as it takes; the last ones come again to fill it."""
    count = len(given["images"])
    if batch is None or count == batch:
        yield given
        return
    for start in range(0, max(count, 1), batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        yield {name: values[rows] if len(values) == count else values for name, values in given.items()}


def _providers(runtime: Any, device: str) -> list[str]:
    """What onnxruntime is to run on, the best first."""
    there = {name: provider for name, provider in GPU.items() if provider in runtime.get_available_providers()}
    if device not in ("auto", "cpu", *there):
        runs_on = [*there, "the CPU"]
        raise ValueError(f"device {device!r} was asked for, and this onnxruntime runs on {' and '.join(runs_on)}")
    # what TensorRT does not take is left to CUDA; chosen by itself it is not, since it compiles for minutes
    wanted = {"cpu": (), "auto": ("cuda",), "cuda": ("cuda",), "tensorrt": ("tensorrt", "cuda")}[device]
    return [there[name] for name in wanted if name in there] + ["CPUExecutionProvider"]


def import_optional(name: str, purpose: str) -> Any:
    """An optional package, or an error that says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise ExportError(
            f"{purpose} needs {missing}, which is not installed: pip install onnx onnxscript onnxruntime"
            + " openvino" * (missing == "openvino")
        ) from None


def write_exported(path: Path, proto: Any, info: ExportInfo) -> None:
    """Write a graph with what it says about itself; the file appears whole and checked, or not at all.

    Args:
        path: where to; missing folders are made.
        proto: the graph.  What the exporter noted at each node is taken out of it: names of its source files, with
            their folders.
        info: what its metadata will say.
    """
    onnx = import_optional("onnx", "writing ONNX")
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.helper.set_model_props(proto, {KEY: json.dumps(asdict(info), ensure_ascii=False)})
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
