"""RTMDet in plain PyTorch: the package that the book "RTMDet from the head down" takes apart."""

__version__ = "0.1.0"
