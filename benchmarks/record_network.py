"""Write the weights that the lab's live network computes with, from a finished run of mini-160.

    python benchmarks/record_network.py runs/mini-160

Writes ``book/_static/lab/network.bin``.  Each weight of a convolution becomes one of 127 whole numbers, with a factor
for each of its outputs: less than a fourth of the bytes.  What that costs is printed: the AP before and after.
"""

import argparse
import copy
import gzip
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.splits import resolve_splits
from minirtmdet.detector import RTMDet
from minirtmdet.evaluation.coco import evaluate
from minirtmdet.files import atomic_path
from minirtmdet.layers import ConvModule
from minirtmdet.presets import PRESETS
from minirtmdet.weights.build import build_from_checkpoint

FILE = Path(__file__).parents[1] / "book" / "_static" / "lab" / "network.bin"
LARGEST = 63


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of -63..63 and the factor ``[O]`` of each output."""
    factor = weight.flatten(1).abs().amax(1).clamp(min=1e-12) / LARGEST
    return (weight / factor.view(-1, 1, 1, 1)).round(), factor


def with_rounded_weights(model: RTMDet) -> RTMDet:
    """A copy that computes with what the file holds."""
    model = copy.deepcopy(model)
    for conv in {module for module in model.modules() if isinstance(module, nn.Conv2d)}:
        whole, factor = rounded(conv.weight.data)
        conv.weight.data = whole * factor.view(-1, 1, 1, 1)
    return model


def layers(model: RTMDet) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each convolution by name: whole numbers ``[O,I,k,k]``, and factor and addend ``[O]`` with BatchNorm in them.

    Levels that share a convolution share its numbers and not the rest.
    """
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, ConvModule):
            whole, factor = rounded(module.conv.weight.data)
            assert isinstance(module.bn, nn.BatchNorm2d)
            gain = module.bn.weight / (module.bn.running_var + module.bn.eps).sqrt()
            found[name] = whole, factor * gain, module.bn.bias - module.bn.running_mean * gain
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            whole, factor = rounded(module.weight.data)
            found[name] = whole, factor, module.bias
    return found


def pack(model: RTMDet) -> bytes:
    """Length of the header, header as JSON, then the numbers; fp32 first, since it must lie at multiples of four."""
    floats: list[Tensor] = []
    wholes: list[Tensor] = []
    places: dict[bytes, int] = {}  # shared numbers are written once
    header = {}
    for name, (whole, factor, addend) in layers(model).items():
        key = whole.numpy().tobytes()
        if key not in places:
            places[key] = sum(part.numel() for part in wholes)
            wholes.append(whole)
        start = sum(part.numel() for part in floats)
        floats += [factor, addend]
        header[name] = {"shape": list(whole.shape), "floats": start, "wholes": places[key]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    count = sum(part.numel() for part in floats)
    numbers = torch.cat([part.detach().flatten() for part in floats]).numpy().astype("<f4").tobytes()
    weights = torch.cat([part.flatten() for part in wholes]).to(torch.int8).numpy().tobytes()
    return len(text).to_bytes(4, "little") + count.to_bytes(4, "little") + text + numbers + weights


def ap(model: RTMDet) -> float:
    """Of the preset's own images to evaluate on."""
    config = PRESETS["mini-160"]
    _, val = resolve_splits(config.data)
    dataset = CocoDataset(val.json_file, val.images)
    loader = EvalLoader(dataset, input_size=config.data.input_size, batch_size=16, workers=0)
    return evaluate(model, loader, dataset, config.predict)["AP"]


def main() -> None:
    """Round, write, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, or its best.pt")
    args = parser.parse_args()
    built = build_from_checkpoint(args.run / "best.pt" if args.run.is_dir() else args.run)
    model = built.model.float().eval()
    with atomic_path(FILE) as temporary:
        temporary.write_bytes(gzip.compress(pack(model), 9, mtime=0))
    print(f"{FILE.stat().st_size} bytes in {FILE.name}")
    print(f"AP {ap(model):.4f} before, {ap(with_rounded_weights(model)):.4f} after")


if __name__ == "__main__":
    main()
