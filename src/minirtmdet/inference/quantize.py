"""An exported file in whole numbers: convolutions in 8 bits, in a quarter of the size, by onnxruntime.

Two things keep the accuracy.  What goes into a convolution needs a range, which is measured on real images; and the
last convolutions of the head stay as they are: their outputs become logits and distances, where a step of a 255th of
the range is many pixels for a small box.  Between convolutions everything is computed as before.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8

from minirtmdet.data.augment import eval_sample
from minirtmdet.data.images import read_image
from minirtmdet.inference.detect import as_sample, in_batches
from minirtmdet.inference.exported import ExportError, ExportInfo, OnnxDetector, import_optional, write_exported

KEPT = ("rtm_cls", "rtm_reg", "rtm_kernel", "rtm_obj")
"""Convolutions whose names have one of these stay in single precision: the last ones of classes, boxes and masks."""


def quantize_onnx(
    source: Path,
    path: Path,
    images: Iterable[UInt8[np.ndarray, "batch 3 size size"]],
    *,
    kept: Iterable[str] = KEPT,
) -> ExportInfo:
    """Write an exported file once more with convolutions in 8 bits; it appears whole and checked, or not at all.

    Args:
        source: a file of :func:`~minirtmdet.inference.export.export_onnx`, of any kind.
        path: where to, ``.onnx``.
        images: batches as the file takes them, some hundred images that look like those it will see; the range of
            every tensor is measured on them.
        kept: parts of the names of convolutions that stay as they are.

    Returns:
        What the file says about itself.

    Raises:
        ExportError: where onnx or onnxruntime is not installed, ``source`` is no export of this package or is in 8
            bits already, or there is no image.

    Weights have a range for each output channel and 7 of the 8 bits: on processors without VNNI instructions two
    products of 8 bits overflow, and wrong numbers come out without a word.  What goes into a convolution is unsigned:
    of signed values OpenVINO (2026.4) rounds what comes from a concatenation to whole numbers, whatever the range.
    """
    onnx = import_optional("onnx", "writing ONNX")
    quantization = import_optional("onnxruntime.quantization", "computing in 8 bits")
    if path.suffix != ".onnx":
        raise ExportError(f"{path}: expected a file name that ends with .onnx")
    info = OnnxDetector(source, "cpu").info
    if info.precision != "fp32":
        raise ExportError(f"{source} is in {info.precision} already: start from the file that it was made from")
    model = onnx.load(source)
    # joined of two graphs, a file names the operators' version twice, at which the quantiser stops
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*entry) for entry in versions.items())
    convolutions = {node.name: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    kept = tuple(kept)
    excluded = [name for name, weight in convolutions.items() if any(part in weight for part in kept)]
    info = replace(info, precision="int8")
    with TemporaryDirectory() as folder:
        unfinished = Path(folder) / "int8.onnx"
        with _quiet(import_optional("onnxruntime", "computing in 8 bits")):
            quantization.quantize_static(
                model,
                unfinished,
                _Images(images, source),
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=excluded,
                activation_type=quantization.QuantType.QUInt8,
                per_channel=True,
                reduce_range=True,
            )
        result = onnx.load(unfinished)
    write_exported(path, result, info)
    return info


def batches_of(paths: Sequence[Path], info: ExportInfo, count: int) -> Iterator[UInt8[np.ndarray, "batch 3 size size"]]:
    """Images as an exported file takes them, of ``count`` files that are spread evenly over all.

    Raises:
        FileNotFoundError, ValueError: naming the file that is missing or broken.
    """
    chosen = [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else paths
    for batch in in_batches(chosen, info.batch or 8):
        inputs = [eval_sample(as_sample(read_image(path)), info.input_size).image for path in batch]
        inputs += inputs[:1] * ((info.batch or len(batch)) - len(batch))  # a file of a fixed number takes no fewer
        yield np.stack(inputs).transpose(0, 3, 1, 2)


class _Images:
    """Batches in the form that onnxruntime asks for them."""

    def __init__(self, images: Iterable[np.ndarray], source: Path):
        self._images: Iterator[np.ndarray] = iter(images)
        self._source = source
        self._count = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._images, None)
        if batch is None:
            if not self._count:
                raise ExportError(f"no image to measure the ranges of {self._source} on")
            return None
        self._count += len(batch)
        return {"images": np.ascontiguousarray(batch)}


@contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """Without advice to pre-process a graph, which the exporter has done, or to remove inputs that have a default."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    runtime.set_default_logger_severity(3)
    try:
        yield
    finally:
        runtime.set_default_logger_severity(2)  # what it is unless somebody sets it
        logger.setLevel(level)
