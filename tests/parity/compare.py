"""How answers are shortened for a fixture, and how two of them are compared.

Plain torch and NumPy: both environments import this file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""Largest difference over largest value, for each tensor."""
LONGEST = 6000
"""Numbers of one tensor that a fixture keeps."""


class Difference(NamedTuple):
    """Outcome of one comparison."""

    compared: int
    largest: float
    """Largest difference over largest value."""


def shorten(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace a long dense tensor by a sample at even steps, its sum and the sum of its sizes.

    Tensors that are nearly all zeros (gradients of distances) cost nothing in a compressed file and stay whole.
    """
    short = {}
    for name, value in answer.items():
        if not value.is_floating_point() or value.count_nonzero() <= LONGEST:
            short[name] = value.detach()
        else:
            short[f"{name}/sample"] = sample(value)
            short[f"{name}/sums"] = sums(value)
    return short


def sample(value: Tensor) -> Tensor:
    """At most ``LONGEST`` numbers at even steps; an odd step, or it would meet the same columns of a map for ever."""
    flat = value.detach().flatten()
    return flat[:: -(-len(flat) // LONGEST) | 1].clone()


def sums(value: Tensor) -> Tensor:
    """Sum and sum of sizes, in fp64."""
    exact = value.detach().double()
    return torch.stack([exact.sum(), exact.abs().sum()])


def shorten_alike(answer: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Shorten an answer to the names that a fixture has.

    Raises:
        ValueError: where the answer has a tensor that the fixture knows nothing of.
    """
    known = {name.removesuffix("/sample").removesuffix("/sums") for name in names}
    if known != answer.keys():
        raise ValueError(f"the answer has {sorted(answer)}, the fixture {sorted(known)}: record it again")
    short = {}
    for name in names:
        whole, _, part = name.rpartition("/")
        short[name] = {"sample": sample, "sums": sums}[part](answer[whole]) if whole in answer else answer[name]
    return short


def network_answer(detector: nn.Module, outputs: Sequence[Sequence[Tensor]], training: bool) -> dict[str, Tensor]:
    """One tensor for each output and level; after training also all statistics of the BatchNorms, by sorted name."""
    names = ("cls_scores", "bbox_preds")
    answer = {f"{name}/{i}": x.float() for name, maps in zip(names, outputs, strict=True) for i, x in enumerate(maps)}
    if training:
        state = detector.state_dict()
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            values = torch.cat([state[key].flatten() for key in sorted(state) if key.endswith(name)])
            answer[name] = values.float() if values.is_floating_point() else values
    return answer


def instance_network_answer(detector: nn.Module, outputs: Sequence, training: bool) -> dict[str, Tensor]:
    """As :func:`network_answer`, for a network with masks.

    Statistics of norms that have two names are listed twice, those of the mask head and the kernels once.
    """
    *maps, kernels, mask_feat = outputs
    answer = network_answer(detector, maps, training) | {f"kernel_preds/{i}": x.float() for i, x in enumerate(kernels)}
    return answer | {"mask_feat": mask_feat.float()}


def pack_masks(masks: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masks of several images as bits: ``[n,H,W]`` bool each, and their sizes."""
    flat = [np.packbits(image.flatten(1).numpy(), axis=1).reshape(-1) for image in masks]
    return {
        "masks": torch.from_numpy(np.concatenate(flat)),
        "mask_sizes": torch.tensor([list(image.shape) for image in masks]),
    }


def settle_masks(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two answers without the pixels that rounding may turn, as many of each mask as the original says.

    An answer without masks stays as it is; masks of other sizes, or with more pixels that differ, stay different.
    """
    if "near" not in theirs:
        return ours, theirs
    theirs = dict(theirs)
    near = theirs.pop("near").tolist()
    if not torch.equal(ours["mask_sizes"], theirs["mask_sizes"].long()):
        return ours, theirs
    sizes = [-(-height * width // 8) for n, height, width in ours["mask_sizes"].tolist() for _ in range(n)]
    pairs = zip(ours["masks"].split(sizes), theirs["masks"].split(sizes), near, strict=True)
    settled = [b if int(np.unpackbits((a ^ b).numpy()).sum()) <= most else a for a, b, most in pairs]
    return {**ours, "masks": torch.cat([ours["masks"][:0], *settled])}, theirs


def settle_order(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Indices that put detections of equal score into an order of their own; all others stay where they are."""
    group = torch.cat([scores.new_zeros(1), (scores.diff() != 0).cumsum(0)]).tolist()
    rows = list(zip(group, labels.tolist(), boxes.tolist(), strict=False))  # group has one entry where there are none
    return torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), dtype=torch.int64)


def difference(ours: Tensor, theirs: Tensor) -> Difference:
    """Largest difference over largest value; infinite where shapes, infinities or NaNs are not the same."""
    if ours.shape != theirs.shape:
        return Difference(theirs.numel(), float("inf"))
    if theirs.numel() == 0:
        return Difference(0, 0.0)
    if not theirs.is_floating_point():
        return Difference(theirs.numel(), 0.0 if torch.equal(ours.long(), theirs.long()) else float("inf"))
    a, b = ours.detach().double().flatten(), theirs.detach().double().flatten()
    finite = b.isfinite()
    if not torch.equal(a[~finite].nan_to_num(nan=0.5), b[~finite].nan_to_num(nan=0.5)):
        return Difference(theirs.numel(), float("inf"))
    a, b = a[finite], b[finite]
    if not a.isfinite().all():
        return Difference(theirs.numel(), float("inf"))
    largest = float((a - b).abs().max()) if len(a) else 0.0
    scale = float(b.abs().max()) if len(b) else 1.0
    return Difference(theirs.numel(), largest / scale if scale > 0 else (0.0 if largest == 0 else float("inf")))


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Difference]:
    """Compare two answers name by name; names must be the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"only one of two answers has {sorted(ours.keys() ^ theirs.keys())}")
    return {name: difference(ours[name], value) for name, value in theirs.items()}
