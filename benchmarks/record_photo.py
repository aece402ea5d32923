"""Record what the published nano person detector says of a photograph.

    python benchmarks/record_photo.py --weights nano
    python benchmarks/record_photo.py --weights rtmdet_nano_person_fused.npz

``nano`` downloads the weights, once.  Writes ``src/minirtmdet/data/photo.safetensors``: logits and distances of each
level for the photograph in Matplotlib's sample data, resized and padded as in prediction.
"""

import argparse

import torch
from safetensors.torch import save_file
from torch import Tensor

from minirtmdet.data.example import Maps
from minirtmdet.data.photo import NAMES, RECORDING, photo, photo_maps
from minirtmdet.detector import RTMDet
from minirtmdet.files import atomic_path
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.published import download_weights, published_size


def read_weights(weights: str) -> RTMDet:
    """The detector of a file, or of the published size of that name."""
    size = published_size(weights)
    return build_from_checkpoint(download_weights(size) if size else weights, model="nano", classes=NAMES).model


@torch.no_grad()
def record(model: RTMDet) -> dict[str, Tensor]:
    """Its outputs by branch and level."""
    return {
        f"{name}/{level}": values.contiguous()
        for name, maps in zip(Maps._fields, model(photo().images), strict=True)
        for level, values in enumerate(maps)
    }


def main() -> None:
    """Look, write, say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="file of the published weights, or nano to download it")
    tensors = record(read_weights(parser.parse_args().weights))
    with atomic_path(RECORDING) as temporary:
        save_file(tensors, temporary)
    (found,) = predict_by_feat(*photo_maps(), scale_factors=[photo().scale])
    print(f"{RECORDING.stat().st_size:,} bytes in {RECORDING.name}")
    for box, score in zip(found.boxes[:3].tolist(), found.scores[:3].tolist(), strict=True):
        print(f"score {score:.3f}, box {[round(edge) for edge in box]}")


if __name__ == "__main__":
    main()
