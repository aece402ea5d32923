"""Named inputs of the cases with masks, as ``cases.py`` has them for boxes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from parity import cases
from parity.cases import ForwardCase, Scene, featmaps, grid, integers, normal, uniform
from torch import Tensor

CLASSES = 3
KINDS = ("ellipse", "corner", "full", "ring", "blobs")
"""Shapes of masks, all of integer arithmetic."""
SIZE = (128, 160)


class InstanceCase(NamedTuple):
    """What the head of a network with masks gives, and instances; the network itself is not there."""

    scene: Scene  # distances are never negative: the head ends with relu
    kernels: Tensor  # [B,N,169]
    mask_feat: Tensor  # [B,8,H/8,W/8]
    crowds: list[Tensor]  # [m,4] an image: boxes that are given as ignored


def mask_of(kind: str, box: Tensor, size: tuple[int, int]) -> Tensor:
    """``[H,W]`` bool in a box of whole pixels; pixel (x, y) covers x..x+1, y..y+1."""
    x1, y1, x2, y2 = (int(v) for v in box)
    w, h = x2 - x1, y2 - y1
    x, y = torch.arange(size[1])[None], torch.arange(size[0])[:, None]
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    dx, dy = (2 * x + 1 - x1 - x2) * h, (2 * y + 1 - y1 - y2) * w  # twice the offset, over common denominators
    if kind == "ellipse":
        return inside & (dx * dx + dy * dy < (w * h) ** 2)
    if kind == "ring":
        return inside & (dx * dx + dy * dy < (w * h) ** 2) & (4 * (dx * dx + dy * dy) >= (w * h) ** 2)
    if kind == "corner":
        return inside & ~((4 * x >= 4 * x1 + w) & (4 * y < 4 * y1 + 3 * h))
    if kind == "blobs":
        return inside & ((4 * x < 4 * x1 + w) | (4 * x >= 4 * x1 + 3 * w))
    return inside & (kind != "empty")


def boxes_of(key: str, count: int, size: tuple[int, int], low: int = 20) -> Tensor:
    """``[count,4]`` boxes of whole pixels inside the picture, at least ``low`` wide and high."""
    rows = []
    for i in range(count):
        a = [int(v) for v in integers(f"{key}/box{i}", 4, high=1 << 20)]
        w, h = (low + a[j] % (size[1 - j] * 3 // 5 - low) for j in (0, 1))
        x, y = a[2] % (size[1] - w + 1), a[3] % (size[0] - h + 1)
        rows.append([x, y, x + w, y + h])
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def predicted(key: str, priors: Tensor, boxes: Tensor) -> Tensor:
    """``[N,4]`` distances of a half-trained head: to the smallest box around a prior and noise, or anything; relu."""
    points, stride = priors[:, :2], priors[:, 2:]
    free = uniform(f"{key}/free", len(priors), 4, low=-0.5, high=4.0) * torch.cat([stride, stride], -1)
    if len(boxes):
        ltrb = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)
        inside = ltrb.amin(-1) > 0
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        towards = ltrb[torch.arange(len(priors)), torch.where(inside, area, torch.inf).argmin(1)]
        noisy = towards + normal(f"{key}/noise", len(priors), 4) * (0.4 * torch.cat([stride, stride], -1))
        free = torch.where(inside.any(1, keepdim=True), noisy, free)
    return free.clamp(min=0)


def instances(
    key: str,
    size: tuple[int, int] = SIZE,
    counts: tuple[int, ...] = (3, 2),
    boxes: list[Tensor] | None = None,
    kinds: list[list[str]] | None = None,
    pad_shapes: list[tuple[int, int]] | None = None,
    crowds: list[Tensor] | None = None,
) -> InstanceCase:
    """A batch by its name; masks take their kinds in turn where ``kinds`` is left out."""
    priors = grid(featmaps(*size), 0.0)
    if boxes is None:
        boxes = [boxes_of(f"{key}/{i}", n, size) for i, n in enumerate(counts)]
    labels = [integers(f"{key}/{i}/labels", len(b), high=CLASSES) for i, b in enumerate(boxes)]
    masks = []
    for i, image in enumerate(boxes):
        names = kinds[i] if kinds else [KINDS[(i + j) % len(KINDS)] for j in range(len(image))]
        made = [mask_of(kind, box, size) for kind, box in zip(names, image, strict=True)]
        masks.append(torch.stack(made) if made else torch.zeros(0, *size, dtype=torch.bool))
    images = list(enumerate(zip(boxes, labels, strict=True)))
    scene = Scene(
        torch.stack([cases.classify(f"{key}/{i}", priors, b, y, CLASSES) for i, (b, y) in images]),
        torch.stack([predicted(f"{key}/{i}", priors, b) for i, (b, _) in images]),
        featmaps(*size),
        boxes,
        labels,
        pad_shapes or [size] * len(boxes),
        masks=masks,
    )
    return InstanceCase(
        scene,
        normal(f"{key}/kernels", len(boxes), len(priors), 169, std=0.3),
        normal(f"{key}/mask_feat", len(boxes), 8, *featmaps(*size)[0]),
        crowds or [torch.zeros(0, 4)] * len(boxes),
    )


def _box(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _vanishing() -> InstanceCase:
    """A whole ellipse; one pixel in a box of 12 x 12 that is between those that count; a box that holds no prior."""
    boxes = _box((16, 16, 96, 80), (104, 40, 116, 52), (41, 97, 43, 99))
    made = instances("vanishing", boxes=[boxes], kinds=[["ellipse", "empty", "full"]])
    assert made.scene.masks is not None
    made.scene.masks[0][1, 45, 109] = True
    return made


LOSSES: dict[str, Callable[[], InstanceCase]] = {
    "plain": lambda: instances("plain"),
    "one-image-empty": lambda: instances("one_image_empty", counts=(2, 0)),
    "empty-mask": lambda: instances("empty_mask", counts=(3,), kinds=[["ellipse", "empty", "full"]]),
    "no-instance": lambda: instances("no_instance", counts=(0, 0)),
    "touching-borders": lambda: instances(
        "touching_borders",
        boxes=[_box((0, 0, 64, 48), (96, 80, 160, 128), (0, 100, 40, 128))],
        kinds=[["full", "corner", "full"]],
    ),
    "padded": lambda: instances(
        "padded",
        boxes=[boxes_of("padded/0", 3, SIZE), boxes_of("padded/1", 2, (96, 128))],
        pad_shapes=[SIZE, (96, 128)],
    ),
    "three-images": lambda: instances("three_images", counts=(5, 1, 4)),
    "vanishing": _vanishing,
    "ring-and-blobs": lambda: instances(
        "ring_and_blobs", counts=(2, 2), kinds=[["ring", "blobs"], ["blobs", "corner"]]
    ),
    "identical-boxes": lambda: instances(
        "identical_boxes", boxes=[_box(*[(24, 24, 104, 88)] * 3)], kinds=[["full", "corner", "ring"]]
    ),
    "crowd": lambda: instances("crowd", counts=(3,), crowds=[_box((8, 8, 120, 120))]),
    "tall": lambda: instances("tall", size=(160, 96), counts=(2, 3)),
}
"""Batches whose losses are compared, from what the network gives to the gradients."""


class PasteCase(NamedTuple):
    """What the network gives, and how masks are made of it."""

    outputs: InstanceCase
    originals: list[tuple[int, int]]  # (h, w) of each picture before it was resized
    scale_factors: list[tuple[float, float]] | None = None  # (w, h)
    score_threshold: float = 0.05
    max_per_image: int = 20
    swap_mask_sides: str = "rounding"


def _paste(
    key: str, counts: tuple[int, ...], original: tuple[int, int] = SIZE, *rest: Any, **options: Any
) -> PasteCase:
    return PasteCase(instances(key, counts=counts), [original] * len(counts), *rest, **options)


PASTE: dict[str, Callable[[], PasteCase]] = {
    "plain": lambda: _paste("p_plain", (3,)),
    "double": lambda: _paste("p_double", (3,), (256, 320), [(0.5, 0.5)]),
    "keep-ratio": lambda: _paste("p_keep_ratio", (3,), (93, 117), [(160 / 117, 127 / 93)]),
    "nothing": lambda: _paste("p_nothing", (2,), (64, 80), [(2.0, 2.0)], score_threshold=0.9999),
    "anisotropic": lambda: _paste("p_anisotropic", (3,), (256, 80), [(2.0, 0.5)], swap_mask_sides="always"),
    "short": lambda: _paste("p_short", (3,), (100, 27), [(35 / 27, 128 / 100)], swap_mask_sides="always"),
    "two-images": lambda: PasteCase(
        instances("p_two", counts=(3, 4)), [SIZE, (64, 80)], [(1.0, 1.0), (2.0, 2.0)], max_per_image=5
    ),
    "high-threshold": lambda: _paste("p_thr", (4,), (192, 240), [(2 / 3, 2 / 3)], score_threshold=0.3),
}
"""Outputs whose masks are compared."""


class InstanceStep(NamedTuple):
    """A network, and instances to learn."""

    network: ForwardCase
    target: InstanceCase


_SMALL = {"deepen_factor": 0.167, "widen_factor": 0.25, "neck_csp_blocks": 1, "num_classes": CLASSES, "masks": True}


def _network(key: str, size: tuple[int, int], **options: Any) -> ForwardCase:
    return ForwardCase(_SMALL, normal(f"{key}/pixels", 2, 3, *size), double=True, **options)


FORWARD: dict[str, Callable[[], ForwardCase]] = {
    "eval": lambda: _network("eval", SIZE),
    "train": lambda: _network("train", SIZE, training=True),
    "eval-wide": lambda: _network("eval_wide", (96, 192)),
    "train-tall": lambda: _network("train_tall", (160, 96), training=True),
}
"""Networks whose maps and statistics are compared."""


def _step(key: str, counts: tuple[int, int], kinds: list[list[str]] | None = None) -> InstanceStep:
    return InstanceStep(_network(f"step/{key}", SIZE, training=True), instances(key, counts=counts, kinds=kinds))


STEP: dict[str, Callable[[], InstanceStep]] = {
    "plain": lambda: _step("step", (3, 2)),
    "none": lambda: _step("step_none", (0, 0)),
    "one-empty": lambda: _step("step_one_empty", (2, 0)),
    "empty-mask": lambda: _step("step_empty_mask", (2, 2), [["empty", "full"], ["ellipse", "corner"]]),
}
"""Networks whose gradients are compared."""


def random_instances(seed: int) -> InstanceCase:
    """One image in five is empty, one mask in eight too, one batch in four has images that are padded."""
    key = f"instances{seed}"
    sides = 32 * (2 + integers(f"{key}/size", 2, high=5))  # 64 to 192 px
    size = (int(sides[0]), int(sides[1]))
    counts, kinds = [], []
    for i in range(1 + int(integers(f"{key}/batch", 1, high=3))):
        choice = integers(f"{key}/{i}/count", 2, high=1000)
        counts.append(0 if int(choice[0]) < 200 else 1 + int(choice[1]) % 8)
        shapes = integers(f"{key}/{i}/kinds", counts[-1], high=8).tolist()
        kinds.append([("empty", *KINDS, "ellipse", "full")[shape] for shape in shapes])
    padded = int(integers(f"{key}/padded", 1, high=4)) == 0
    shape = (size[0] * 3 // 4, size[1] * 7 // 8) if padded else size
    return instances(key, size, tuple(counts), kinds=kinds, pad_shapes=[shape] * len(counts))


def random_paste(seed: int) -> PasteCase:
    """Pictures of any size, resized with their ratio to the network's input."""
    key = f"paste{seed}"
    outputs = instances(key, counts=(3, 2))
    originals, factors = [], []
    for i in range(2):
        height, width = (40 + int(v) for v in integers(f"{key}/{i}/original", 2, high=300))
        factor = min(SIZE[0] / height, SIZE[1] / width)
        content = (int(height * factor + 0.5), int(width * factor + 0.5))
        originals.append((height, width))
        factors.append((content[1] / width, content[0] / height))
    return PasteCase(outputs, originals, factors, swap_mask_sides="always")


def random_forward(seed: int) -> ForwardCase:
    """Either mode."""
    return _network(f"ins-forward{seed}", (64, 96), training=bool(seed % 2))


def random_step(seed: int) -> InstanceStep:
    """Two images with up to four instances each."""
    key = f"ins-step{seed}"
    return _step(key, (seed % 5, int(integers(key, 1, high=5))))


def published_size(seed: int) -> InstanceStep:
    """One of the five published networks, in turn."""
    key, size = f"ins-size{seed}", (64, 96)
    model = {**cases.SIZES[seed % len(cases.SIZES)], "num_classes": CLASSES, "exp_on_reg": False, "masks": True}
    network = ForwardCase(model, normal(f"{key}/pixels", 2, 3, *size), training=True, double=True)
    return InstanceStep(network, instances(key, size, (2, 1)))


RANDOM: dict[str, Callable[[int], Any]] = {
    "ins_losses": random_instances,
    "ins_predict": random_paste,
    "ins_forward": random_forward,
    "ins_step": random_step,
    "ins_sizes": published_size,
}
"""From a seed to a case of every kind."""
ALL: dict[str, dict[str, Callable[[], Any]]] = {
    "ins_losses": LOSSES,
    "ins_predict": PASTE,
    "ins_forward": FORWARD,
    "ins_step": STEP,
}
"""Named cases of every kind."""
