"""An exported file run by OpenVINO, which is made for Intel's processors."""

from pathlib import Path

import numpy as np
import torch

from minirtmdet.inference.exported import ExportError, OnnxDetector, import_optional


class OpenVinoDetector(OnnxDetector):
    """An exported file as a detector, computed by OpenVINO on the processor.

    Args:
        path: a ``raw`` file that :func:`~minirtmdet.inference.export.export_onnx` wrote, or one in 8 bits made of it.

    Raises:
        FileNotFoundError, ExportError: as :class:`~minirtmdet.inference.exported.OnnxDetector`; where OpenVINO is not
            installed; for an ``nms`` file, of which OpenVINO fixes where images end.
    """

    def __init__(self, path: Path):
        super().__init__(path, "cpu")
        if self.info.kind == "nms":
            raise ExportError(
                f"{path} ends with detections, which OpenVINO cannot cut at the image: export it without --nms"
            )
        openvino = import_optional("openvino", f"running {path} by OpenVINO")
        # single precision: on processors with bf16 OpenVINO takes that by itself, and boxes move by whole pixels
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def _run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = self._compiled(given)
        return [results[name] for name in names]
