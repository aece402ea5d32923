"""RTMDet in plain PyTorch: the package that the book "RTMDet from the head down" takes apart."""

from minirtmdet.detector import build_detector
from minirtmdet.inference.load import load_detector
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.fit import load_checkpoint
from minirtmdet.weights.fuse import fuse_batch_norm
from minirtmdet.weights.published import download_weights

__version__ = "0.2.0"

__all__ = [
    "build_detector",
    "build_from_checkpoint",
    "download_weights",
    "fuse_batch_norm",
    "load_checkpoint",
    "load_detector",
]
