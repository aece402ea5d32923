"""Run a file of `minirtmdet export --nms` without minirtmdet or PyTorch.

pip install numpy opencv-python onnxruntime
python read_onnx.py cards.onnx photo.jpg
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def load(path: str) -> onnxruntime.InferenceSession:
    """A file that ends with detections."""
    options = onnxruntime.SessionOptions()
    # errors only: the warning about `content` says no more than that it may be left out
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    if "labels" not in {output.name for output in session.get_outputs()}:
        sys.exit(f"{path} ends with all priors: export it with --nms")
    return session


def fit(image: np.ndarray, size: int, grey: int) -> tuple[np.ndarray, int, int]:
    """The image in the left upper corner of a grey square, and its size there."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = (max(int(x * scale + 0.5), 1) for x in (width, height))
    canvas = np.full((size, size, 3), grey, np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
    return canvas, new_width, new_height


def detect(
    session: onnxruntime.InferenceSession,
    image: np.ndarray,
    threshold: float = 0.3,
) -> list[tuple]:
    """(class, score, (x1, y1, x2, y2)) of each detection in a BGR image, best first."""
    info = json.loads(session.get_modelmeta().custom_metadata_map["minirtmdet"])
    grey = info["preprocessing"]["pad_value"]
    canvas, new_width, new_height = fit(image, info["input_size"], grey)
    content = np.array([[[new_width, new_height, new_width, new_height]]], np.float32)
    given = {"images": canvas.transpose(2, 0, 1)[None], "content": content}
    outputs = session.run(["boxes", "scores", "labels"], given)
    boxes, scores, labels = (values[0] for values in outputs)
    height, width = image.shape[:2]
    boxes = boxes / np.array([new_width / width, new_height / height] * 2, np.float32)
    kept = scores > threshold  # best first
    names = [info["classes"][label] for label in labels[kept]]
    found = zip(names, scores[kept].tolist(), boxes[kept].tolist(), strict=True)
    return [(name, score, tuple(box)) for name, score, box in found]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("two files are needed: python read_onnx.py cards.onnx photo.jpg")
    pixels = cv2.imread(sys.argv[2])
    if pixels is None:
        sys.exit(f"{sys.argv[2]} is missing, or no image that OpenCV reads")
    for found in detect(load(sys.argv[1]), pixels):
        print(json.dumps(found))
