"""Weights and the files that hold them, which are read as data and never run."""
