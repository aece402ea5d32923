"""The first cell of every notebook, where the package is missing: Colab and pip are stood in for."""

import importlib.util
import io
import json
import runpy
import socket
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

SCRIPT = Path(__file__).parents[2] / "book" / "_ext" / "install_cell.py"


@pytest.fixture
def without_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Pip's calls, each with the constraints that it was given, in an environment without the package."""
    calls: list[tuple[list[str], str]] = []

    def run(words: list[str], check: bool) -> None:
        assert check
        calls.append((words, Path(words[-1]).read_text()))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    return calls


def execute(address: str = "") -> None:
    """Run the cell as a notebook does, with an address out of ``_config.yml``."""
    exec(runpy.run_path(str(SCRIPT))["CELL"].format(address=address), {})


def on_colab(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Colab, with a notebook that was opened from ``path``."""

    def answer(address: str) -> Any:
        assert address == "http://172.28.0.12:9000/api/sessions"
        return io.BytesIO(json.dumps([{"path": f"fileId={quote(path)}", "name": "data.ipynb"}]).encode())

    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "172.28.0.12")
    monkeypatch.setattr(urllib.request, "urlopen", answer)


def test_colab_says_where_the_notebook_is_from(without_package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_colab(monkeypatch, "https://example.org/ann/detectors/blob/drafts/book/data.ipynb")
    execute()
    ((words, kept),) = without_package
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    assert words[5] == "minirtmdet[convert,onnx] @ git+https://example.org/ann/detectors@drafts"
    assert words[6] == "--constraint"
    # what is loaded already is neither replaced nor removed
    assert sorted(kept.split()) == [f"{name}=={version(name)}" for name in ("numpy", "torch")]
    assert not list(Path.cwd().iterdir())


def test_an_address_that_is_set_is_taken(without_package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_colab(monkeypatch, "https://example.org/ann/detectors/blob/main/book/data.ipynb")
    execute("https://example.org/bea/fork")
    assert without_package[0][0][5] == "minirtmdet[convert,onnx] @ git+https://example.org/bea/fork"


@pytest.mark.parametrize("path", [None, "1aBcDeFgHiJkLmNoP"], ids=["not on Colab", "a copy in a drive"])
def test_nothing_is_installed_from_nowhere(
    without_package: Any, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    if path is not None:
        on_colab(monkeypatch, path)
    with pytest.raises(AssertionError, match="the README says how"):
        execute()
    assert not without_package


def test_where_the_package_is_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pytest.fail)
    execute()
