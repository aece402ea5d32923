"""The scripts of ``benchmarks/``, which are no package, as modules."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Scripts import one another by name: their folder can be imported from, and what came from it is forgotten."""
    before = sys.modules.copy()
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))
    for name in sys.modules.keys() - before.keys():
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == SCRIPTS:
            del sys.modules[name]


@pytest.fixture(scope="module")
def worker(scripts: None) -> ModuleType:
    """The process of the benchmarks that does the work."""
    return importlib.import_module("head_worker")
