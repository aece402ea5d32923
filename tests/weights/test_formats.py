import datetime
import functools
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.weights import RUNNER, Toy
from torch import nn

from minirtmdet import load_checkpoint
from minirtmdet.weights.checkpoint import read_checkpoint
from minirtmdet.weights.formats import CheckpointError, load_tensors_only, safe_types


class Asks:
    """Pickles as a call, which a careless reader would make."""

    def __init__(self, function: Callable[..., object], *args: object):
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


RUN = ("touch owned",)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Asks(os.system, *RUN), "posix.system"),
        (Asks(eval, "open('owned', 'w')"), "eval"),
        (Asks(__import__, "os"), "__import__"),
        (Asks(pickle.loads, pickle.dumps(Asks(os.system, *RUN))), "pickle.loads"),
        (Asks(torch.load, "owned"), "torch.serialization.load"),
        (functools.partial(os.system, *RUN), "functools.partial"),
        (np.array([Asks(os.system, *RUN)], dtype=object), "numpy.dtypes.ObjectDType"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (datetime.date(2020, 1, 1), "datetime.date"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "among", "instead"])
def test_a_file_that_asks_for_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, name: str, zipped: bool, place: str
):
    monkeypatch.chdir(tmp_path)
    state = dict(Toy().state_dict())
    whole = {
        "beside": {"state_dict": state, "message_hub": content},
        "among": {"state_dict": {**state, "more": content}},
        "instead": content,
    }[place]
    torch.save(whole, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=rf"w\.pth refused: it asks for ((__builtin__|builtins)\.)?{re.escape(name)}, and"
    ):
        load_checkpoint(Toy(), "w.pth")
    assert not Path("owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int):
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(pickle.dumps({"state_dict": Asks(os.system, *RUN)}, protocol))
    with pytest.raises(CheckpointError, match=r"w\.pth refused: it asks for posix\.system, and"):
        load_checkpoint(Toy(), "w.pth")
    assert not Path("owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_older_file_is_refused_by_what_it_asks_for_alone(tmp_path: Path, protocol: int):
    """Several pickles in a row, the first of them a number; of a protocol of 4 and more PyTorch names nothing."""
    content = {"state_dict": dict(Toy().state_dict()), "meta": Asks(os.system, *RUN)}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"w\.pth refused: it asks for posix\.system, and"):
        read_checkpoint(tmp_path / "w.pth")


def test_what_publish_model_writes_is_no_zip_and_loads(tmp_path: Path):
    """MMDetection's tool keeps meta and weights, and saves as PyTorch did before 1.6."""
    with torch.serialization.safe_globals(safe_types()):
        content = torch.load(RUNNER, weights_only=True)
    path = tmp_path / "published.pth"
    kept = {key: content[key] for key in ("meta", "state_dict")}
    torch.save(kept, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    model = Toy()
    assert load_checkpoint(model, path).fits
    torch.testing.assert_close(model.neck.weight, torch.tensor([0.7986, 0.7986]), rtol=0, atol=1e-4)
    assert read_checkpoint(path).classes == ("cat", "dog")


def test_getattr_is_never_the_real_one(tmp_path: Path):
    # getattr(tuple, "__class__"), written out: the stand-in gives None, the real one would give type
    code = b"\x80\x02}q\x00X\x05\x00\x00\x00foundq\x01cbuiltins\ngetattr\nq\x02)X\x09\x00\x00\x00__class__\x86Rs."
    assert pickle.loads(code) == {"found": tuple}
    path = tmp_path / "w.pth"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, code if name.endswith("data.pkl") else data)
    assert load_tensors_only(path) == {"found": None}


def test_npz_with_code_or_without_names_is_refused(tmp_path: Path):
    np.savez(tmp_path / "w.npz", weight=np.array([object()]))
    with pytest.raises(CheckpointError, match=r"w\.npz is not an \.npz file of plain arrays: .*allow_pickle"):
        load_checkpoint(Toy(), tmp_path / "w.npz")
    np.save(tmp_path / "w.npy", np.zeros(2))
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(CheckpointError, match=r"is not an \.npz file of plain arrays"):
        load_checkpoint(Toy(), tmp_path / "w.npz")
    for content in (b"", b"nothing", b"PK\x03\x04 cut off"):
        (tmp_path / "w.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"w\.npz is not an \.npz file"):
            load_checkpoint(Toy(), tmp_path / "w.npz")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, suffix: str):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\{suffix} is not a"):
        read_checkpoint(path)
