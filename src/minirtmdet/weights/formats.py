"""Tensors of ``.pt``, ``.pth`` and ``.npz`` files as data, and tensors written to a file.

A pickle can ask for any code.  So only tensors, plain values and what MMEngine's Runner writes beside them are read; a
file that asks for anything else is refused with the name of it.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minirtmdet.files import atomic_path


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, is not trusted, or does not fit the model."""


def load_tensors_only(path: Path) -> Any:
    """What ``torch.load(weights_only=True)`` reads, and the files of MMEngine's Runner, on the CPU.

    Raises:
        CheckpointError: naming the file, and what is wrong with it or what it asks for.
    """
    try:
        with torch.serialization.safe_globals(safe_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|class '([\w.]+)'", str(error))
        if asked := (named[1] or named[2]) if named else _imports(path):
            raise CheckpointError(f"{path} refused: it asks for {asked}, and a checkpoint is data only") from None
        raise CheckpointError(f"{path} is not a checkpoint that PyTorch can read") from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = re.split(r"\n|\. ", str(error))[0]  # what follows is advice to trust the file
        raise CheckpointError(f"{path} is not a checkpoint that PyTorch can read: {reason}") from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an ``.npz`` file.

    Raises:
        CheckpointError: for a file that is none, or that holds objects.
    """
    try:
        with path.open("rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not an .npz file of plain arrays: {error}") from None


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values for ``torch.load(weights_only=True)``, whole or not at all."""
    # through a file of Python's: torch's own writer does not say why it failed
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)


def safe_types() -> list[Any]:
    """What the files of MMEngine's Runner hold beside tensors; no entry of it can run anything."""
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    safe: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64"))]
    safe += [(_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"), (_no_getattr, "builtins.getattr")]
    # by name: a file says where a function was when it was written, not where this numpy has it
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        safe += [(scalar, f"{module}.scalar"), (reconstruct, f"{module}._reconstruct")]
    return safe


class _HistoryBuffer:
    """Stands for the class in which MMEngine keeps its logs, and holds nothing of them."""


def _no_getattr(*_: object) -> None:
    """Stands for ``builtins.getattr``, which MMEngine's logs ask for; the real one leads to any code, this to None."""


_OF_TENSORS = re.compile(r"torch\._utils\._rebuild_\w+|torch\.\w+Storage|collections\.OrderedDict")


def _imports(path: Path) -> str:
    """What a pickle would import beside tensors, by its opcodes.

    For pickles whose opcodes PyTorch does not know: its own error names nothing of them.
    """
    content = path.read_bytes()
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    names: list[str] = []
    file = io.BytesIO(content)
    with suppress(Exception):  # of a broken file, what comes before the break
        # a zip has one pickle; what PyTorch wrote before has several in a row, the weights' the fourth, then numbers
        while file.tell() < len(content):
            names.extend(_imports_of_one(file))
    return ", ".join(name for name in dict.fromkeys(names) if not _OF_TENSORS.fullmatch(name))


def _imports_of_one(file: io.BytesIO) -> Iterator[str]:
    """What the next pickle of a file would import."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for opcode, value, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name.endswith("GET"):
            strings.append(memo.get(int(str(value)), ""))
        elif isinstance(value, str):
            strings.append(value)
