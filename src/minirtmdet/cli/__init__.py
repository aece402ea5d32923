"""The command line, a file per command, made from the settings in :mod:`minirtmdet.configs`."""

from minirtmdet.cli.main import main

__all__ = ["main"]
