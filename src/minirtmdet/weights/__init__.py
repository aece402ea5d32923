"""Weights and the files that hold them."""
