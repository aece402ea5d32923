"""The lab's network in JavaScript against the package's, with the weights that the lab has."""

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.javascript import ask
from torch import Tensor, nn

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.data.example import example
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.head.pipeline import flatten_levels
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.layers import ConvModule
from minirtmdet.presets import PRESETS

FILE = Path(__file__).parents[2] / "book" / "_static" / "lab" / "network.bin"
THRESHOLD = 0.1


def read(file: bytes) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Whole numbers, factor and addend of each convolution."""
    length, count = (int.from_bytes(file[start : start + 4], "little") for start in (0, 4))
    floats = np.frombuffer(file, "<f4", count, 8 + length)
    wholes = np.frombuffer(file, np.int8, offset=8 + length + 4 * count)
    layers = {}
    for name, entry in json.loads(file[8 : 8 + length]).items():
        shape, first, start = entry["shape"], entry["floats"], entry["wholes"]
        whole = wholes[start : start + int(np.prod(shape))].reshape(shape).astype(np.float32)
        both = torch.from_numpy(floats[first : first + 2 * shape[0]].copy()).view(2, -1)
        layers[name] = torch.from_numpy(whole), both[0], both[1]
    return layers


def detector() -> RTMDet:
    """The package's network with these weights: BatchNorms carry factors and addends."""
    model, layers = build_detector(PRESETS["mini-160"].model).eval(), read(gzip.decompress(FILE.read_bytes()))
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ConvModule):
            whole, factor, addend = layers.pop(name)
            module.conv.weight.data = whole
            assert isinstance(module.bn, nn.BatchNorm2d)
            module.bn.weight.data, module.bn.bias.data = factor * (1 + module.bn.eps) ** 0.5, addend
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            whole, factor, addend = layers.pop(name)
            module.weight.data, module.bias.data = whole * factor.view(-1, 1, 1, 1), addend
    assert not layers
    return model


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    rgba = np.dstack([example().image[..., ::-1], np.full((160, 160), 255, np.uint8)])
    weights = base64.b64encode(gzip.decompress(FILE.read_bytes())).decode()
    given = {"kind": "network", "weights": weights, "rgba": rgba.flatten().tolist(), "threshold": THRESHOLD}
    (told,) = ask("tests/book/lab/answers.mjs", [given])
    return dict(told)


@torch.no_grad()
def test_every_map_is_the_packages(answer: dict[str, Any]) -> None:
    model, scene = detector(), example()
    seen: dict[str, Tensor] = {}
    places = {"stem": model.backbone.stem, **{f"stage {n}": getattr(model.backbone, f"stage{n}") for n in range(1, 5)}}
    places |= {f"neck, stride {8 << n}": model.neck.out_convs[n] for n in range(3)}
    for name, module in places.items():
        module.register_forward_hook(lambda _module, _given, out, name=name: seen.update({name: out}))
    maps = model(scene.images)
    for name, channels, size, total in answer["sums"]:
        assert seen[name].shape == (1, channels, size, size)
        assert total == pytest.approx(float(seen[name].double().sum()), rel=1e-3)
    logits, distances = (flatten_levels(kind)[0] for kind in maps)
    torch.testing.assert_close(torch.tensor(answer["logits"]).view_as(logits), logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(answer["distances"]).view_as(distances), distances, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_detections_are_the_packages(answer: dict[str, Any]) -> None:
    maps = detector()(example().images)
    config = replace(PRESETS["mini-160"].predict, score_threshold=THRESHOLD)
    (found,) = predict_by_feat(*maps, config, img_shapes=[(160, 160)])
    assert [one["label"] for one in answer["found"]] == found.labels.tolist()
    torch.testing.assert_close(
        torch.tensor([one["score"] for one in answer["found"]]), found.scores, rtol=1e-3, atol=1e-3
    )
    boxes = torch.tensor([one["box"] for one in answer["found"]])
    torch.testing.assert_close(boxes, found.boxes, rtol=1e-3, atol=0.05)
    assert all(0 <= one["prior"] < 525 for one in answer["found"])


def test_it_finds_what_the_scene_shows(answer: dict[str, Any]) -> None:
    best = [one for one in answer["found"] if one["score"] > 0.3]
    scene = example()
    for box, label in zip(scene.boxes, scene.labels.tolist(), strict=True):
        own = torch.tensor([one["box"] for one in best if one["label"] == label])
        assert len(own)
        assert bbox_overlaps(own, box[None]).max() > 0.7
