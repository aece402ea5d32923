"""Convert a detector to ncnn, which is made for phones and small boards, and detect with it there.

python run_ncnn.py convert runs/cards cards-ncnn    # pip install 'minirtmdet[ncnn]'
python run_ncnn.py detect cards-ncnn photo.jpg      # pip install ncnn numpy opencv-python
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np

GRID = 32  # pixels that a cell of the coarsest map stands for: the graph's input has whole ones


def convert(source: str, folder: Path) -> None:
    """Write a run or a checkpoint as a folder: model.ncnn.param, model.ncnn.bin, and model.json for what they lack.

    Normalisation is inside the graph: it takes BGR pixels from 0 to 255.  The folder appears whole, and compared with
    PyTorch, or not at all.
    """
    pnnx, _, torch = package("pnnx"), package("ncnn"), package("torch")
    from minirtmdet import load_detector
    from minirtmdet.configs import STRIDES
    from minirtmdet.detector import RTMDet
    from minirtmdet.files import atomic_folder
    from minirtmdet.inference.export import quiet_tracing
    from minirtmdet.inference.exported import PREPROCESSING
    from minirtmdet.weights.fuse import fuse_batch_norm

    class Maps(torch.nn.Module):
        """From pixels to the class logits of each level, then the distances of each."""

        def __init__(self, model: RTMDet):
            super().__init__()
            self.model = model

        def forward(self, pixels: Any) -> tuple[Any, ...]:
            cls_scores, bbox_preds = self.model((pixels - self.model.mean) / self.model.std)
            return *cls_scores, *bbox_preds

    if folder.exists():
        raise ValueError(f"{folder} exists: name another folder")
    loaded = load_detector(source, device="cpu")
    if not isinstance(loaded.model, RTMDet):
        raise ValueError(f"{source} is exported already: name the run or the checkpoint that it was made from")
    if loaded.model.config.masks:
        raise ValueError(f"{source} finds masks: only a detector's maps of classes and boxes are converted to ncnn")
    info = {
        "input_size": loaded.input_size,
        "classes": loaded.names,
        "strides": STRIDES,
        "prior_offset": loaded.model.config.prior_offset,
        "nms_iou_threshold": loaded.limits.nms_iou_threshold,
        "max_per_image": loaded.limits.max_per_image,
        "preprocessing": PREPROCESSING | {"layout": "CHW", "dtype": "float32"},
    }
    side = loaded.input_size + -loaded.input_size % GRID
    graph = Maps(fuse_batch_norm(loaded.model))
    canvas = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float()
    with TemporaryDirectory() as litter, atomic_folder(folder) as made, quiet_tracing(), torch.no_grad():
        torch.jit.trace(graph, pixels, check_trace=False).save(f"{litter}/model.pt")
        # fp16=0: pnnx would store weights as halves, in half the space, and boxes would move by hundredths of pixels
        words = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[1,3,{side},{side}]", "fp16=0"]
        said = subprocess.run(words, cwd=litter, capture_output=True, text=True)
        for name in ("model.ncnn.param", "model.ncnn.bin"):
            if not Path(litter, name).is_file():
                raise ValueError(f"pnnx cannot convert {source}: {said.stderr[-300:] or said.stdout[-300:]}")
            (made / name).write_bytes(Path(litter, name).read_bytes())
        (made / "model.json").write_text(json.dumps(info, ensure_ascii=False, indent=2), encoding="utf-8")
        for ours, theirs in zip(graph(pixels), maps(load(made)[0], canvas), strict=True):
            if not np.allclose(theirs, ours[0].numpy(), rtol=1e-3, atol=1e-2):
                raise ValueError(f"ncnn does not compute what PyTorch computes of {source}: nothing was written")


def package(name: str) -> Any:
    """A package, or an error that says how to get it."""
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"{name} is not installed: pip install pnnx ncnn") from None


def load(folder: Path, threads: int | None = None) -> tuple[Any, dict[str, Any]]:
    """The network (``ncnn.Net``), and what is written beside it; on all cores where no number of threads is given."""
    net = package("ncnn").Net()
    net.opt.num_threads = threads or net.opt.num_threads  # before anything is loaded
    # halves between the layers, which ncnn takes where a processor has them, are faster there, and not exact
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    files = [folder / name for name in ("model.ncnn.param", "model.ncnn.bin", "model.json")]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is missing: `run_ncnn.py convert` writes it")
    if net.load_param(str(files[0])) or net.load_model(str(files[1])):
        raise ValueError(f"{folder} holds no network that ncnn can read: convert it again")
    return net, json.loads(files[2].read_text(encoding="utf-8"))


def maps(net: Any, canvas: np.ndarray) -> list[np.ndarray]:
    """Class logits [C, H, W] of each level, then distances [4, H, W] of each, for BGR pixels [side, side, 3]."""
    ncnn = package("ncnn")
    extractor = net.create_extractor()
    height, width = canvas.shape[:2]
    extractor.input("in0", ncnn.Mat.from_pixels(canvas, ncnn.Mat.PixelType.PIXEL_BGR, width, height))
    names = (f"out{i}" for i in range(len(net.output_names())))  # ncnn lists them in another order
    return [np.array(extractor.extract(name)[1]) for name in names]


def fit(image: np.ndarray, size: int, grey: int) -> tuple[np.ndarray, int, int]:
    """The image in the left upper corner of a grey square, and its size there."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = (max(int(x * scale + 0.5), 1) for x in (width, height))
    canvas = np.full((size, size, 3), grey, np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(image, (new_width, new_height))
    return canvas, new_width, new_height


def decode(levels: list[np.ndarray], info: dict[str, Any], threshold: float) -> tuple[np.ndarray, ...]:
    """Boxes [N, 4], in pixels of the input, scores and labels of all that scores more than the threshold."""
    found = []
    count = len(info["strides"])
    for stride, logits, distances in zip(info["strides"], levels[:count], levels[count:], strict=True):
        scores = 1 / (1 + np.exp(-logits))
        labels, rows, columns = np.nonzero(scores > threshold)
        left, top, right, bottom = distances[:, rows, columns]
        x, y = ((cells + info["prior_offset"]) * stride for cells in (columns, rows))
        boxes = np.stack([x - left, y - top, x + right, y + bottom], 1)
        found.append((boxes, scores[labels, rows, columns], labels))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def detect(detector: tuple[Any, dict[str, Any]], image: np.ndarray, threshold: float = 0.3) -> list[tuple]:
    """(class, score, (x1, y1, x2, y2)) of each detection in a BGR image, best first, in pixels of the image."""
    net, info = detector
    grey = info["preprocessing"]["pad_value"]
    canvas, width, height = fit(image, info["input_size"], grey)
    more = -info["input_size"] % GRID
    canvas = cv2.copyMakeBorder(canvas, 0, more, 0, more, cv2.BORDER_CONSTANT, value=(grey,) * 3)
    boxes, scores, labels = decode(maps(net, canvas), info, threshold)
    boxes = np.clip(boxes, 0, [width, height] * 2) / ([width / image.shape[1], height / image.shape[0]] * 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    real = (sides > 0).all(1)
    boxes, scores, labels, sides = boxes[real], scores[real], labels[real], sides[real]
    rectangles = np.concatenate([boxes[:, :2], sides], 1)
    limits = (threshold, info["nms_iou_threshold"])
    kept = cv2.dnn.NMSBoxesBatched(rectangles, scores, labels, *limits)[: info["max_per_image"]]
    return [(info["classes"][labels[i]], float(scores[i]), tuple(boxes[i].tolist())) for i in kept]


def main(words: list[str]) -> None:
    """Convert, or print what is found in an image."""
    match words:
        case ["convert", source, folder]:
            convert(source, Path(folder))
        case ["detect", folder, photo]:
            image = cv2.imread(photo)
            if image is None:
                raise ValueError(f"{photo} is missing, or no image that OpenCV reads")
            for found in detect(load(Path(folder)), image):
                print(json.dumps(found))
        case _:
            raise ValueError("expected `convert runs/cards cards-ncnn` or `detect cards-ncnn photo.jpg`")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ImportError, OSError, ValueError) as error:
        sys.exit(str(error))
