"""RTMDet in plain PyTorch: the package that the book "RTMDet from the head down" takes apart."""

from minirtmdet.checkpoints import load_checkpoint
from minirtmdet.detector import build_detector

__version__ = "0.1.0"

__all__ = ["build_detector", "load_checkpoint"]
