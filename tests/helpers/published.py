"""Published weights without a network: a file on this disk stands for those of a size."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from minirtmdet.detector import RTMDet
from minirtmdet.weights import published
from minirtmdet.weights.published import OfficialWeights


def publisher(folder: Path, monkeypatch: pytest.MonkeyPatch, classes: Sequence[str]) -> Callable[[str, RTMDet], None]:
    """Puts a model's weights in place of a size's published ones; they are "downloaded" to ``folder / "cache"``."""
    monkeypatch.setattr(published, "user_cache_path", lambda name: folder / "cache" / name)

    def put(size: str, model: RTMDet) -> None:
        path = folder / f"rtmdet_{size}.pth"
        torch.save({"state_dict": model.state_dict(), "meta": {"dataset_meta": {"CLASSES": classes}}}, path)
        content = OfficialWeights(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()[:8], input_size=96)
        monkeypatch.setitem(published.OFFICIAL, size, content)

    return put
