"""Named inputs of every parity case, the same bits wherever they are made.

Imported in two environments, the project's and the original's, so it needs torch and the standard library only.
Random numbers come from an integer hash, because torch does not promise that its generators give the same
numbers in every version; all that follows is single additions and multiplications, which IEEE 754 fixes.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

STRIDES = (8, 16, 32)


# --- random numbers -----------------------------------------------------------------------------------------------


def hashed(key: str, *shape: int) -> Tensor:
    """32-bit hashes of a counter, as int64; every product below stays under 2**63."""
    mask = 0xFFFFFFFF
    x = (torch.arange(math.prod(shape), dtype=torch.int64) + zlib.crc32(key.encode())) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x2C1B3C6D), (12, 0x297A2D39)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return (x ^ (x >> 15)).reshape(shape)


def uniform(key: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """fp32 in ``[low, high)``, from the upper 24 bits of the hash."""
    return (hashed(key, *shape) >> 8).float() * 2.0**-24 * (high - low) + low


def normal(key: str, *shape: int, std: float = 1.0) -> Tensor:
    """Near enough to a normal distribution: the sum of four uniform numbers."""
    total = uniform(f"{key}/0", *shape)
    for i in range(1, 4):
        total = total + uniform(f"{key}/{i}", *shape)
    return (total - 2.0) * (math.sqrt(3.0) * std)


def integers(key: str, *shape: int, high: int) -> Tensor:
    """int64 in ``0..high-1``."""
    return hashed(key, *shape) % high


# --- scenes -------------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A batch as the head sees it: predictions for every prior, and boxes.

    ``N`` priors are those of all levels; ``distances`` are ltrb in pixels.
    """

    cls_scores: Tensor  # [B,N,C] logits
    distances: Tensor  # [B,N,4]
    featmap_sizes: list[tuple[int, int]]  # (h, w) a level
    boxes: list[Tensor]  # [n,4] an image
    labels: list[Tensor]  # [n] an image
    pad_shapes: list[tuple[int, int]]  # (h, w) an image
    offset: float = 0.0
    masks: list[Tensor] | None = None  # [n,H,W] an image: their centres of mass replace the box centres
    topk: int = 13
    iou_weight: float = 3.0
    soft_center_radius: float = 3.0

    @property
    def num_classes(self) -> int:
        return self.cls_scores.shape[-1]

    @property
    def priors(self) -> Tensor:
        """``[N,4]``: x, y, stride, stride."""
        return grid(self.featmap_sizes, self.offset)

    @property
    def bboxes(self) -> Tensor:
        """``[B,N,4]``: the predicted boxes, xyxy."""
        points = self.priors[:, :2]
        return torch.cat([points - self.distances[..., :2], points + self.distances[..., 2:]], -1)

    @property
    def valid(self) -> Tensor:
        """``[B,N]``: priors whose cell begins inside the padded picture."""
        flags = []
        for height, width in self.pad_shapes:
            levels = []
            for (rows, columns), stride in zip(self.featmap_sizes, STRIDES, strict=False):
                inside_y = torch.arange(rows) * stride < height
                inside_x = torch.arange(columns) * stride < width
                levels.append((inside_y[:, None] & inside_x).flatten())
            flags.append(torch.cat(levels))
        return torch.stack(flags)

    @property
    def centers(self) -> list[Tensor]:
        """``[n,2]`` an image: centres of mass where there are masks, else box centres."""
        if self.masks is None:
            return [(boxes[:, :2] + boxes[:, 2:]) / 2.0 for boxes in self.boxes]
        return [mask_centers(masks) for masks in self.masks]

    def levels(self, tensor: Tensor) -> list[Tensor]:
        """``[B,N,K]`` as one ``[B,K,H,W]`` map a level, as the network gives them."""
        parts = tensor.split([rows * columns for rows, columns in self.featmap_sizes], 1)
        return [
            part.transpose(1, 2).reshape(len(tensor), -1, rows, columns).contiguous()
            for part, (rows, columns) in zip(parts, self.featmap_sizes, strict=True)
        ]


def grid(featmap_sizes: list[tuple[int, int]], offset: float) -> Tensor:
    """``[N,4]`` priors of all levels: x, y, stride, stride."""
    levels = []
    for (rows, columns), stride in zip(featmap_sizes, STRIDES, strict=False):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points = (torch.stack([x.flatten(), y.flatten()], -1) + offset) * stride
        levels.append(torch.cat([points, torch.full((rows * columns, 2), stride)], -1).float())
    return torch.cat(levels)


def featmaps(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> list[tuple[int, int]]:
    """Feature map sizes of a picture."""
    return [(-(-height // s), -(-width // s)) for s in strides]


def mask_centers(masks: Tensor) -> Tensor:
    """``[n,2]`` centres of mass of ``[n,H,W]`` 0/1 masks, exact sums and one division; (0, 0) of an empty one."""
    masks = masks.long()
    count = masks.sum((1, 2)).clamp(min=1).float()
    x = (masks * torch.arange(masks.shape[2])).sum((1, 2)) / count
    y = (masks * torch.arange(masks.shape[1])[:, None]).sum((1, 2)) / count
    return torch.stack([x, y], -1)


def random_boxes(
    key: str, count: int, size: tuple[int, int], low: float = 8.0, high: float | None = None, whole: bool = False
) -> Tensor:
    """``[count,4]`` boxes inside an ``(h, w)`` picture, small ones more often; whole pixels where asked for."""
    height, width = size
    limit = torch.tensor([width, height], dtype=torch.float32)
    longest = limit if high is None else limit.clamp(max=high)
    share = uniform(f"{key}/side", count, 2)
    side = low + (longest - low) * share * share
    corner = (limit - side) * uniform(f"{key}/corner", count, 2)
    boxes = torch.cat([corner, corner + side], -1)
    return torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], -1) if whole else boxes


def predict(key: str, priors: Tensor, boxes: Tensor, noise: float) -> Tensor:
    """``[N,4]`` distances of a half-trained detector: to the smallest box around a prior plus noise, else anything."""
    points, stride = priors[:, :2], priors[:, 2:]
    anything = uniform(f"{key}/free", len(priors), 4, low=0.5, high=4.0) * torch.cat([stride, stride], -1)
    if len(boxes) == 0:
        return anything
    ltrb = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)  # [N,G,4]
    inside = ltrb.amin(-1) > 0
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    nearest = torch.where(inside, area, torch.inf).argmin(1)
    towards = ltrb[torch.arange(len(priors)), nearest]
    jitter = normal(f"{key}/noise", len(priors), 4) * (noise * torch.cat([stride, stride], -1))
    return torch.where(inside.any(1, keepdim=True), towards + jitter, anything)


def classify(key: str, priors: Tensor, boxes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``[N,C]`` logits of a half-trained detector: low everywhere, higher for the class of a box around the prior."""
    logits = normal(f"{key}/logits", len(priors), num_classes, std=1.5) - 3.0
    for box, label in zip(boxes, labels, strict=True):
        inside = ((priors[:, :2] > box[:2]) & (priors[:, :2] < box[2:])).all(-1)
        logits[inside, label] = logits[inside, label] + 3.0
    return logits


def scene(
    key: str,
    size: tuple[int, int],
    boxes: list[Tensor],
    labels: list[Tensor] | None = None,
    *,
    num_classes: int = 80,
    offset: float = 0.0,
    noise: float = 0.5,
    pad_shapes: list[tuple[int, int]] | None = None,
    **rest: Any,
) -> Scene:
    """A batch with the predictions of a half-trained detector."""
    if labels is None:
        labels = [integers(f"{key}/label{i}", len(b), high=num_classes) for i, b in enumerate(boxes)]
    sizes = featmaps(*size)
    priors = grid(sizes, offset)
    images = list(enumerate(zip(boxes, labels, strict=True)))
    return Scene(
        torch.stack([classify(f"{key}/{i}", priors, b, y, num_classes) for i, (b, y) in images]),
        torch.stack([predict(f"{key}/{i}", priors, b, noise) for i, (b, y) in images]),
        sizes,
        boxes,
        labels,
        pad_shapes or [size] * len(boxes),
        offset,
        **rest,
    )


def nudged(made: Scene, key: str) -> Scene:
    """The same scene with each distance moved by its last bit, up, down or not at all."""
    step = (integers(key, *made.distances.shape, high=3) - 1) * 2.0**-23
    return made._replace(distances=made.distances.detach() * (1.0 + step))


LAYOUTS = ("anywhere", "overlapping", "nested", "tiny", "identical", "cut-by-border")


def arrange(key: str, layout: str, count: int, size: tuple[int, int]) -> Tensor:
    """``[count,4]`` boxes in one of the ``LAYOUTS``; those cut by the border reach out of the picture."""
    if layout == "tiny":
        return random_boxes(key, count, size, low=2.0, high=9.0)
    if layout == "anywhere":
        return random_boxes(key, count, size, low=3.0)
    if layout == "cut-by-border":
        shift = normal(f"{key}/shift", count, 2, std=min(size) / 4)
        return random_boxes(key, count, size, low=8.0) + torch.cat([shift, shift], -1)
    first = random_boxes(key, 1, size, low=32.0)
    if layout == "identical":
        return first.repeat(count, 1)
    if layout == "overlapping":
        shift = normal(f"{key}/shift", count, 2, std=6.0)
        return first + torch.cat([shift, shift], -1)
    middle, half = (first[:, :2] + first[:, 2:]) / 2, (first[:, 2:] - first[:, :2]) / 2
    half = half * (1.0 - 0.875 * torch.arange(count)[:, None] / count)
    return torch.cat([middle - half, middle + half], -1)


def random_scene(seed: int, most: int = 40) -> Scene:
    """A scene that is different in everything for each seed, with up to ``most`` boxes an image.

    One image in ten is empty, one in four padded, every other one has a layout of its own; one picture in five is long.
    """
    key = f"random{seed}"
    batch = 1 + int(integers(f"{key}/batch", 1, high=3)) if most <= 40 else 1
    sides = 32 * (2 + integers(f"{key}/size", 2, high=7))  # 64 to 256 px
    size = (int(sides[0]), int(sides[1]))
    if int(integers(f"{key}/long", 1, high=5)) == 0:
        size = ((64, 640), (640, 64), (96, 512), (32, 512))[int(integers(f"{key}/long/size", 1, high=4))]
    num_classes = 1 + int(integers(f"{key}/classes", 1, high=80))
    boxes, pad_shapes = [], []
    for i in range(batch):
        choice = integers(f"{key}/{i}", 4, high=1000)
        count = 0 if int(choice[0]) < 100 else 1 + int(choice[1]) % most
        layout = LAYOUTS[max(int(choice[3]) % (2 * len(LAYOUTS)) - len(LAYOUTS), 0)]
        boxes.append(arrange(f"{key}/{i}/boxes", layout, count, size))
        pad_shapes.append((size[0] * 3 // 4, size[1] * 7 // 8) if int(choice[2]) < 250 else size)
    noise = (0.1, 0.5, 1.0, 3.0)[int(integers(f"{key}/noise", 1, high=4))]
    offset = (0.0, 0.0, 0.5)[int(integers(f"{key}/offset", 1, high=3))]
    return scene(key, size, boxes, num_classes=num_classes, offset=offset, noise=noise, pad_shapes=pad_shapes)


def random_assignment(seed: int) -> Scene:
    """One scene in eight has up to 300 boxes, one in eight masks whose centres of mass replace the box centres."""
    key = f"assign{seed}"
    choice = int(integers(key, 1, high=8))
    if choice == 0:
        return random_scene(seed, most=300)
    made = random_scene(seed)
    if choice > 1:
        return made
    size = made.featmap_sizes[0][0] * STRIDES[0], made.featmap_sizes[0][1] * STRIDES[0]
    boxes = [random_boxes(f"{key}/{i}", len(b), size, low=6.0, whole=True) for i, b in enumerate(made.boxes)]
    return made._replace(boxes=boxes, masks=[corner_masks(b, size) for b in boxes])


def corner_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[n,H,W]`` L-shaped masks in boxes of whole pixels: their centres of mass lie far from the box centres."""
    x, y = torch.arange(size[1]), torch.arange(size[0])[:, None]
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        mask |= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
        mask &= ~((x >= x1 + (x2 - x1) / 4) & (y < y1 + (y2 - y1) * 3 / 4))
    return masks


def _box(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _labels(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _perfect() -> Scene:
    """Every prior inside a box predicts that box exactly: sums of IoUs are whole numbers."""
    boxes = [random_boxes("perfect", 6, (256, 256), low=40, whole=True)]
    return scene("perfect", (256, 256), boxes, noise=0.0)


def _tied() -> Scene:
    """Equal logits, and equal distances that keep a mirror symmetry: equal costs at rank k."""
    out = scene("tied", (128, 128), [_box((16, 16, 80, 80), (40, 40, 104, 104))], [_labels(1, 1)], num_classes=4)
    return out._replace(cls_scores=torch.zeros_like(out.cls_scores), distances=torch.full_like(out.distances, 24.0))


def _inverted() -> Scene:
    """Distances of an untrained network without exp: half of them negative, boxes inside out."""
    out = scene("inverted", (192, 192), [random_boxes("inverted", 8, (192, 192))], num_classes=10)
    return out._replace(distances=normal("inverted/distances", *out.distances.shape, std=20.0))


def _never_overlapping() -> Scene:
    """Every IoU is 0: one positive a box, chosen by class and distance alone."""
    out = scene("no-overlap", (192, 192), [random_boxes("no-overlap", 5, (192, 192), low=30)], num_classes=10)
    return out._replace(distances=torch.full_like(out.distances, -1e4) * torch.tensor([1.0, 1.0, -1.0, -1.0]))


def _nearly_never_overlapping() -> Scene:
    """IoU 1e-7 against IoU 0 and a better centre: the constant in the logarithm decides."""
    out = scene("nearly-no-overlap", (128, 128), [_box((5, 5, 123, 123))], num_classes=2)
    distances = torch.full_like(out.distances, -1e4) * torch.tensor([1.0, 1.0, -1.0, -1.0])
    beside = ((out.priors == torch.tensor([88.0, 64.0, 8.0, 8.0])).all(1)).nonzero()[0, 0]
    distances[0, beside] = torch.tensor([0.0, 0.0, 0.0373, 0.0373])
    return out._replace(cls_scores=torch.full_like(out.cls_scores, -3.0), distances=distances)


def _masks() -> Scene:
    """L-shaped masks."""
    size = (160, 192)
    boxes = random_boxes("masks", 6, size, low=24, whole=True)
    return scene("masks", size, [boxes], masks=[corner_masks(boxes, size)])


def _single(key: str, size: tuple[int, int], count: int, **options: Any) -> Callable[[], Scene]:
    """A scene of one image with random boxes; ``low`` and ``high`` bound their sides."""
    bounds = {name: options.pop(name) for name in ("low", "high") if name in options}
    return lambda: scene(key, size, [random_boxes(key, count, size, **bounds)], **options)


def _mixed(key: str, **options: Any) -> Callable[[], Scene]:
    """Four images of one batch: none, one, twelve and thirty boxes."""
    size = (160, 224)
    return lambda: scene(
        key, size, [random_boxes(f"{key}{i}", n, size) for i, n in enumerate((0, 1, 12, 30))], **options
    )


def _with(make: Callable[[], Scene], change: Callable[[Scene], dict[str, Any]]) -> Callable[[], Scene]:
    def changed() -> Scene:
        made = make()
        return made._replace(**change(made))

    return changed


SCENES: dict[str, Callable[[], Scene]] = {
    "one-box": _single("one-box", (320, 320), 1, low=60),
    "one-box-640": _single("one-box-640", (640, 640), 1, low=200),
    "ten-boxes": _single("ten-boxes", (320, 320), 10),
    "three-hundred-boxes": _single("three-hundred-boxes", (320, 320), 300, high=80, num_classes=20),
    "one-class": _single("one-class", (256, 256), 12, num_classes=1),
    "two-classes": _single("two-classes", (256, 256), 12, num_classes=2),
    "eighty-classes": _single("eighty-classes", (256, 256), 20, num_classes=80),
    "wide-image": _single("wide-image", (96, 640), 10, low=16),
    "tall-image": _single("tall-image", (640, 64), 10, low=16),
    "one-row": _single("one-row", (32, 512), 6, low=12),
    "overlapping": lambda: scene(
        "overlapping",
        (256, 256),
        [_box((60, 60, 180, 180)).repeat(12, 1) + normal("overlapping/shift", 12, 4, std=12)],
    ),
    "nested": lambda: scene(
        "nested", (256, 256), [torch.stack([_box((i, i, 250.0 - i, 250.0 - i))[0] for i in range(4, 120, 12)])]
    ),
    "identical": lambda: scene("identical", (192, 192), [_box((30, 40, 150, 140)).repeat(3, 1)], [_labels(2, 2, 2)]),
    "identical-other-class": lambda: scene(
        "identical-other-class", (192, 192), [_box((30, 40, 150, 140)).repeat(3, 1)], [_labels(2, 5, 7)], num_classes=8
    ),
    "no-prior-inside": lambda: scene(
        "no-prior-inside", (192, 192), [_box((97, 97, 103, 103), (20, 20, 90, 110), (121, 33, 127, 39))]
    ),
    "all-priors-outside": lambda: scene("all-priors-outside", (192, 192), [_box((97, 97, 103, 103), (1, 1, 7, 7))]),
    "far-prior": lambda: scene("far-prior", (640, 640), [_box((601, 601, 607, 607), (10, 10, 40, 40))], num_classes=20),
    "cut-by-border": lambda: scene(
        "cut-by-border", (192, 192), [_box((-60, -30, 40, 50), (150, 120, 260, 240), (-5, 80, 30, 200))]
    ),
    "empty-image": lambda: scene("empty-image", (192, 192), [_box()]),
    "grid-aligned": lambda: scene(
        "grid-aligned",
        (256, 256),
        [_box((32, 32, 96, 96), (96, 32, 160, 96), (64, 128, 72, 136), (128, 128, 256, 256))],
    ),
    "tiny-boxes": _single("tiny-boxes", (256, 256), 30, low=3, high=12),
    "huge-box": lambda: scene("huge-box", (640, 640), [_box((0, 0, 640, 640), (280, 300, 330, 350))], num_classes=20),
    "beyond-float-cost": lambda: scene(
        "beyond-float-cost", (96, 1024), [_box((-400, 0, 1400, 96), (4, 4, 60, 90))], num_classes=3
    ),
    "perfect-predictions": _perfect,
    "tied-logits": _tied,
    "large-logits": _with(
        _single("large-logits", (192, 192), 8, num_classes=10), lambda s: {"cls_scores": s.cls_scores * 30.0}
    ),
    "huge-logits": _with(
        _single("huge-logits", (192, 192), 8, num_classes=10), lambda s: {"cls_scores": s.cls_scores * 1e4}
    ),
    "inverted-predictions": _inverted,
    "never-overlapping": _never_overlapping,
    "nearly-never-overlapping": _nearly_never_overlapping,
    "few-candidates": lambda: scene(
        "few-candidates", (128, 128), [_box((30, 30, 50, 50), (33, 33, 60, 60))], noise=0.1, num_classes=5
    ),
    "noisy-predictions": _single("noisy-predictions", (256, 256), 20, noise=4.0),
    "exact-noise": _single("exact-noise", (256, 256), 20, noise=0.02),
    "mixed-batch": _mixed("mixed-batch", num_classes=20),
    "invalid-priors": _mixed(
        "invalid-priors", num_classes=20, pad_shapes=[(160, 224), (96, 224), (160, 120), (100, 130)]
    ),
    "boxes-in-padding": lambda: scene(
        "boxes-in-padding", (192, 192), [_box((110, 100, 180, 170), (20, 20, 80, 90))], pad_shapes=[(96, 96)]
    ),
    "mask-centres": _masks,
    "offset-half": _single("offset-half", (256, 256), 15, offset=0.5),
    "offset-half-tiny-boxes": _single("offset-half-tiny-boxes", (192, 192), 20, offset=0.5, low=3, high=10),
    "topk-one": _single("topk-one", (192, 192), 12, topk=1),
    "topk-above-candidates": _single("topk-above-candidates", (96, 96), 6, topk=1000, noise=0.1),
    "no-iou-cost": _single("no-iou-cost", (192, 192), 12, iou_weight=0.0),
    "radius-one": _single("radius-one", (192, 192), 12, soft_center_radius=1.0),
}

# --- the assigners before RTMDet's -----------------------------------------------------------------------------------


RIVALS: dict[str, Callable[[], Scene]] = {
    name: SCENES[name]
    for name in (
        "one-box",
        "ten-boxes",
        "three-hundred-boxes",
        "wide-image",
        "overlapping",
        "nested",
        "identical-other-class",
        "no-prior-inside",
        "all-priors-outside",
        "cut-by-border",
        "empty-image",
        "grid-aligned",
        "tiny-boxes",
        "huge-box",
        "never-overlapping",
        "few-candidates",
        "mixed-batch",
        "offset-half",
    )
} | {
    "equal-areas": lambda: scene(
        "equal-areas", (192, 192), [_box((20, 20, 100, 100), (60, 20, 140, 100), (40, 60, 120, 140))]
    ),
    "no-area": lambda: scene("no-area", (128, 128), [_box((20, 20, 100, 100), (64, 50, 64, 90))]),
    "whole-picture": lambda: scene("whole-picture", (160, 160), [_box((0, 0, 160, 160))]),
    "mid-level-box": lambda: scene("mid-level-box", (256, 256), [_box((40, 40, 168, 168), (100, 60, 220, 200))]),
}


# --- priors, boxes, coder -----------------------------------------------------------------------------------------


class PriorCase(NamedTuple):
    """Feature maps and a padded picture."""

    featmap_sizes: list[tuple[int, int]]
    offset: float
    pad_shape: tuple[int, int]


PRIORS: dict[str, Callable[[], PriorCase]] = {
    "square": lambda: PriorCase(featmaps(160, 160), 0.0, (160, 160)),
    "square-centre": lambda: PriorCase(featmaps(160, 160), 0.5, (160, 160)),
    "wide": lambda: PriorCase(featmaps(96, 320), 0.0, (96, 320)),
    "tall-centre": lambda: PriorCase(featmaps(320, 64), 0.5, (320, 64)),
    "one-cell": lambda: PriorCase(featmaps(32, 32), 0.0, (32, 32)),
    "padded": lambda: PriorCase(featmaps(160, 160), 0.0, (160, 96)),
    "padded-not-divisible": lambda: PriorCase(featmaps(160, 160), 0.0, (101, 77)),
    "padded-centre": lambda: PriorCase(featmaps(96, 160), 0.5, (65, 129)),
    "pad-beyond-map": lambda: PriorCase(featmaps(96, 96), 0.0, (500, 500)),
    "nothing-valid": lambda: PriorCase(featmaps(96, 96), 0.0, (0, 0)),
    "one-pixel-valid": lambda: PriorCase(featmaps(96, 96), 0.0, (1, 1)),
    "other-offset": lambda: PriorCase(featmaps(96, 96), 0.25, (96, 96)),
}


class OverlapCase(NamedTuple):
    """Two sets of boxes."""

    bboxes1: Tensor
    bboxes2: Tensor
    mode: str
    is_aligned: bool
    eps: float = 1e-6


def _boxes(key: str, *shape: int, low: float = 0.0, high: float = 100.0) -> Tensor:
    corners = uniform(key, *shape, 2, 2, low=low, high=high)
    return torch.cat([corners.amin(-2), corners.amax(-2)], -1)


_OVERLAP_PAIRS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "aligned": lambda: (_boxes("aligned1", 40), _boxes("aligned2", 40)),
    "pairwise": lambda: (_boxes("pairwise1", 12), _boxes("pairwise2", 9)),
    "batched": lambda: (_boxes("batched1", 2, 3, 7), _boxes("batched2", 2, 3, 5)),
    "batched-aligned": lambda: (_boxes("batched-aligned1", 2, 3, 7), _boxes("batched-aligned2", 2, 3, 7)),
    "empty-first": lambda: (_box(), _boxes("empty-first", 5)),
    "empty-second": lambda: (_boxes("empty-second", 5), _box()),
    "empty-aligned": lambda: (_box(), _box()),
    "degenerate": lambda: (
        _box((5, 5, 5, 5), (0, 0, 10, 0), (10, 10, 0, 0), (10, 0, 0, 10), (0, 0, 10, 10)),
        _box((5, 5, 5, 5), (0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10), (20, 20, 20, 30)),
    ),
    "touching": lambda: (_box((0, 0, 10, 10), (0, 0, 10, 10)), _box((10, 0, 20, 10), (10, 10, 20, 20))),
    "identical": lambda: (_boxes("same", 8), _boxes("same", 8)),
    "far-from-origin": lambda: (
        _boxes("far1", 10, low=4000.0, high=4040.0),
        _boxes("far2", 10, low=4000.0, high=4040.0),
    ),
}
_ALIGNED = ("aligned", "batched-aligned", "empty-aligned", "degenerate", "touching", "identical", "far-from-origin")

OVERLAPS: dict[str, Callable[[], OverlapCase]] = {
    f"{name}/{mode}": lambda make=make, mode=mode, name=name: OverlapCase(*make(), mode, name in _ALIGNED)
    for name, make in _OVERLAP_PAIRS.items()
    for mode in ("iou", "iof", "giou")
} | {
    f"degenerate-pairwise/{mode}": lambda mode=mode: OverlapCase(*_OVERLAP_PAIRS["degenerate"](), mode, False)
    for mode in ("iou", "iof", "giou")
}


class CoderCase(NamedTuple):
    """``encode`` takes boxes, ``decode`` distances; both in ``values``."""

    step: str
    points: Tensor
    values: Tensor
    max_shape: tuple[int, int] | None = None
    max_dis: float | None = None
    eps: float = 0.1


CODER: dict[str, Callable[[], CoderCase]] = {
    "encode": lambda: CoderCase("encode", uniform("encode/points", 60, 2, high=100.0), _boxes("encode/boxes", 60)),
    "encode-clamped": lambda: CoderCase(
        "encode", uniform("clamp/points", 60, 2, high=100.0), _boxes("clamp/boxes", 60), max_dis=16.0
    ),
    "encode-clamped-eps": lambda: CoderCase(
        "encode", uniform("eps/points", 60, 2, high=100.0), _boxes("eps/boxes", 60), max_dis=32.0, eps=0.01
    ),
    "encode-empty": lambda: CoderCase("encode", torch.zeros(0, 2), torch.zeros(0, 4)),
    "decode": lambda: CoderCase(
        "decode", uniform("decode/points", 60, 2, high=160.0), uniform("decode/values", 60, 4, low=-20.0, high=120.0)
    ),
    "decode-clipped": lambda: CoderCase(
        "decode",
        uniform("clip/points", 60, 2, high=160.0),
        uniform("clip/values", 60, 4, low=-20.0, high=120.0),
        max_shape=(96, 144),
    ),
    "decode-batched": lambda: CoderCase(
        "decode",
        uniform("batch/points", 3, 20, 2, high=160.0),
        uniform("batch/values", 3, 20, 4, low=-20.0, high=120.0),
    ),
    "decode-batched-clipped": lambda: CoderCase(
        "decode",
        uniform("batchclip/points", 3, 20, 2, high=160.0),
        uniform("batchclip/values", 3, 20, 4, low=-20.0, high=120.0),
        max_shape=(96, 144),
    ),
    "decode-empty": lambda: CoderCase("decode", torch.zeros(0, 2), torch.zeros(0, 4), max_shape=(32, 32)),
}


# --- targets, losses, prediction, the network ----------------------------------------------------------------------

TARGETS: tuple[str, ...] = (
    "one-box",
    "ten-boxes",
    "one-class",
    "overlapping",
    "identical-other-class",
    "no-prior-inside",
    "all-priors-outside",
    "cut-by-border",
    "empty-image",
    "tiny-boxes",
    "inverted-predictions",
    "mixed-batch",
    "invalid-priors",
    "boxes-in-padding",
    "offset-half",
)
"""Scenes whose targets are compared too."""


class FocalCase(NamedTuple):
    """QualityFocalLoss of ``n`` priors; the label of a negative is the number of classes."""

    pred: Tensor
    labels: Tensor
    scores: Tensor
    weight: Tensor
    beta: float = 2.0
    loss_weight: float = 1.0


def _focal(key: str, count: int, classes: int, std: float = 2.0, **rest: float) -> FocalCase:
    return FocalCase(
        normal(f"{key}/pred", count, classes, std=std),
        integers(f"{key}/labels", count, high=classes + 1),
        uniform(f"{key}/scores", count),
        (uniform(f"{key}/weight", count) > 0.2).float(),
        **rest,
    )


FOCAL: dict[str, Callable[[], FocalCase]] = {
    "eighty-classes": lambda: _focal("focal80", 40, 80),
    "one-class": lambda: _focal("focal1", 60, 1),
    "large-logits": lambda: _focal("focal-large", 60, 5, std=60.0),
    "weighted": lambda: _focal("focal-weighted", 60, 5, loss_weight=0.7),
    "all-negative": lambda: _focal("focal-neg", 60, 5)._replace(labels=torch.full((60,), 5)),
    "all-positive": lambda: _focal("focal-pos", 60, 5)._replace(labels=integers("focal-pos/labels", 60, high=5)),
    "quality-zero": lambda: _focal("focal-zero", 60, 5)._replace(scores=torch.zeros(60)),
    "quality-one": lambda: _focal("focal-one", 60, 5)._replace(scores=torch.ones(60)),
    "ignored": lambda: _focal("focal-ignored", 60, 5)._replace(weight=torch.zeros(60)),
}


class GIoUCase(NamedTuple):
    """GIoULoss of ``n`` pairs of boxes."""

    pred: Tensor
    target: Tensor
    weight: Tensor
    loss_weight: float = 2.0


def _giou(key: str, count: int, shift: float) -> GIoUCase:
    target = _boxes(f"{key}/target", count)
    return GIoUCase(target + normal(f"{key}/shift", count, 4, std=shift), target, uniform(f"{key}/weight", count))


GIOU: dict[str, Callable[[], GIoUCase]] = {
    "near": lambda: _giou("giou-near", 80, 2.0),
    "far": lambda: _giou("giou-far", 80, 40.0),
    "apart": lambda: _giou("giou-apart", 40, 2.0)._replace(pred=_boxes("giou-apart/pred", 40, low=300.0, high=400.0)),
    "inside": lambda: GIoUCase(_box((20, 20, 40, 40)), _box((0, 0, 100, 100)), torch.ones(1)),
    "one-side-inverted": lambda: GIoUCase(
        _box((40, 20, 20, 60), (20, 60, 60, 20)), _box((10, 10, 70, 70)).repeat(2, 1), torch.ones(2)
    ),
    "half-weight": lambda: _giou("giou-half", 40, 4.0)._replace(loss_weight=1.0),
}


LOSSES: dict[str, Callable[[], Scene]] = {
    "two-images": lambda: scene(
        "loss2", (96, 128), [random_boxes(f"loss2{i}", n, (96, 128)) for i, n in enumerate((3, 9))], num_classes=6
    ),
    "eighty-classes": lambda: scene("loss80", (96, 96), [random_boxes("loss80", 5, (96, 96))], num_classes=80),
    "one-class": lambda: scene("loss1", (96, 96), [random_boxes("loss1", 5, (96, 96))], num_classes=1),
    "empty-image": lambda: scene(
        "loss-empty", (96, 96), [_box(), random_boxes("loss-empty", 4, (96, 96))], num_classes=4
    ),
    "empty-batch": lambda: scene("loss-none", (96, 96), [_box(), _box()], num_classes=4),
    "no-positive-level": lambda: scene("loss-tiny", (128, 128), [_box((33, 33, 55, 55))], num_classes=4),
    "padded": lambda: scene(
        "loss-pad",
        (128, 160),
        [random_boxes(f"loss-pad{i}", 6, (90, 100)) for i in range(3)],
        num_classes=4,
        pad_shapes=[(96, 160), (128, 100), (128, 160)],
    ),
    "offset-half": lambda: scene(
        "loss-half", (96, 96), [random_boxes("loss-half", 6, (96, 96))], num_classes=4, offset=0.5
    ),
    "untrained": lambda: _inverted()._replace(
        cls_scores=normal("loss-untrained", 1, 756, 10, std=0.05) - 4.59512,
    ),
    "wide": lambda: scene("loss-wide", (64, 256), [random_boxes("loss-wide", 8, (64, 256))], num_classes=4),
}
"""Scenes whose losses are compared, from the maps of the network to the gradients."""


class PredictCase(NamedTuple):
    """Maps of a network, and how to read them."""

    scene: Scene
    score_threshold: float = 0.001
    nms_pre: int = 30_000
    nms_iou_threshold: float = 0.65
    max_per_image: int = 300
    img_shapes: list[tuple[int, int]] | None = None  # (h, w)
    scale_factors: list[tuple[float, float]] | None = None  # (w, h)


def _sharp(key: str, size: tuple[int, int] = (64, 64), batch: int = 2, **options: Any) -> Scene:
    boxes = [random_boxes(f"{key}{i}", 6, size, low=20) for i in range(batch)]
    return scene(key, size, boxes, num_classes=options.pop("num_classes", 5), **options)


PREDICT: dict[str, Callable[[], PredictCase]] = {
    "default": lambda: PredictCase(_sharp("predict")),
    "high-threshold": lambda: PredictCase(_sharp("predict-high"), score_threshold=0.3),
    "nothing-left": lambda: PredictCase(_sharp("predict-none"), score_threshold=0.9999),
    "few-candidates": lambda: PredictCase(_sharp("predict-topk"), nms_pre=20),
    "few-detections": lambda: PredictCase(_sharp("predict-max"), max_per_image=5),
    "strict-nms": lambda: PredictCase(_sharp("predict-strict"), nms_iou_threshold=0.3),
    "loose-nms": lambda: PredictCase(_sharp("predict-loose"), nms_iou_threshold=0.95),
    "multi-label": lambda: PredictCase(
        (s := _sharp("predict-multi"))._replace(cls_scores=s.cls_scores + 3.0), score_threshold=0.2
    ),
    "one-class": lambda: PredictCase(_sharp("predict-one", num_classes=1), score_threshold=0.05),
    "clipped-rescaled": lambda: PredictCase(
        _sharp("predict-rescale"),
        score_threshold=0.05,
        img_shapes=[(60, 50), (64, 44)],
        scale_factors=[(0.5, 0.5), (1.25, 1.5)],
    ),
    "outside-the-picture": lambda: PredictCase(
        _sharp("predict-outside"), score_threshold=0.02, img_shapes=[(40, 40), (30, 60)]
    ),
    "offset-half": lambda: PredictCase(_sharp("predict-half", offset=0.5), score_threshold=0.05),
}


class ForwardCase(NamedTuple):
    """A network by the settings of ``ModelConfig``; its weights are filled from their names.

    Batch statistics and the objectness branch, which inverts a sigmoid, enlarge round-off: one network in fp32 with one
    thread and with two differs from itself by 2e-5.  Such cases are computed in fp64, to compare formulas and no more.
    """

    model: dict[str, Any]
    images: Tensor  # [B,3,H,W], already normalised
    training: bool = False
    double: bool = False  # compute in fp64


_SMALL = {"deepen_factor": 0.167, "widen_factor": 0.25, "neck_csp_blocks": 1, "num_classes": 6}
_TINY = {
    "deepen_factor": 0.167,
    "widen_factor": 0.375,
    "neck_csp_blocks": 1,
    "num_classes": 80,
    "exp_on_reg": False,
}
_NANO = {
    "deepen_factor": 0.33,
    "widen_factor": 0.25,
    "neck_csp_blocks": 1,
    "num_classes": 1,
    "exp_on_reg": False,
    "use_depthwise": True,
    "share_conv": False,
}

FORWARD: dict[str, Callable[[], ForwardCase]] = {
    "tiny": lambda: ForwardCase(_TINY, normal("forward/tiny", 2, 3, 96, 128)),
    "tiny-training": lambda: ForwardCase(_TINY, normal("forward/tiny-training", 2, 3, 96, 128), True, double=True),
    "nano": lambda: ForwardCase(_NANO, normal("forward/nano", 2, 3, 96, 96)),
    "exp-on-reg": lambda: ForwardCase({**_SMALL, "exp_on_reg": True}, normal("forward/exp", 2, 3, 64, 96)),
    "unshared": lambda: ForwardCase({**_SMALL, "share_conv": False}, normal("forward/unshared", 1, 3, 64, 96)),
    "deeper": lambda: ForwardCase(
        {**_SMALL, "deepen_factor": 0.67, "neck_csp_blocks": 2}, normal("forward/deeper", 1, 3, 64, 96)
    ),
    "objectness": lambda: ForwardCase(
        {**_SMALL, "with_objectness": True}, normal("forward/obj", 1, 3, 64, 96), double=True
    ),
    "stacked-three-kernel-three": lambda: ForwardCase(
        {**_SMALL, "stacked_convs": 3, "pred_kernel_size": 3}, normal("forward/stacked", 1, 3, 64, 96)
    ),
    "shared-head": lambda: ForwardCase({**_SMALL, "separate_bn": False}, normal("forward/shared", 1, 3, 64, 96)),
    "shared-head-objectness": lambda: ForwardCase(
        {**_SMALL, "separate_bn": False, "with_objectness": True},
        normal("forward/shared-obj", 1, 3, 64, 96),
        double=True,
    ),
}


# --- cases that nobody has seen before -----------------------------------------------------------------------------


class StepCase(NamedTuple):
    """One step of training: images and boxes in, a gradient for every parameter out."""

    network: ForwardCase
    boxes: list[Tensor]
    labels: list[Tensor]


def _pick(key: str, *choices: Any) -> Any:
    return choices[int(integers(key, 1, high=len(choices)))]


def random_priors(seed: int) -> PriorCase:
    """Maps of any sides, and a padded shape that may be larger or smaller."""
    rows, columns, height, width = (1 + integers(f"priors{seed}", 4, high=300)).tolist()
    return PriorCase(featmaps(rows, columns), _pick(f"priors{seed}/offset", 0.0, 0.5), (height, width))


def random_overlaps(seed: int) -> OverlapCase:
    """Boxes anywhere, one in eight without width."""
    key = f"overlaps{seed}"
    count = int(integers(key, 1, high=40))
    first, second = _boxes(f"{key}/1", 2, count), _boxes(f"{key}/2", 2, count)
    flat = uniform(f"{key}/flat", 2, count) < 0.125
    first[..., 2] = torch.where(flat, first[..., 0], first[..., 2])
    return OverlapCase(first, second, _pick(f"{key}/mode", "iou", "iof", "giou"), _pick(f"{key}/aligned", True, False))


def random_coder(seed: int) -> CoderCase:
    """Both directions, clamped or not."""
    key = f"coder{seed}"
    points = uniform(f"{key}/points", 50, 2, high=300.0)
    if _pick(f"{key}/step", True, False):
        return CoderCase("encode", points, _boxes(f"{key}/boxes", 50, high=300.0), None, _pick(key, None, 16.0, 100.0))
    distances = uniform(f"{key}/distances", 50, 4, low=-30.0, high=200.0)
    return CoderCase("decode", points, distances, _pick(key, None, (200, 300), (64, 320)))


def random_focal(seed: int) -> FocalCase:
    """Logits from mild to extreme."""
    key = f"focal{seed}"
    return _focal(key, 40, _pick(f"{key}/classes", 1, 3, 80), std=_pick(f"{key}/std", 0.5, 3.0, 30.0))


def random_giou(seed: int) -> GIoUCase:
    """Boxes from near to apart."""
    return _giou(f"giou{seed}", 60, _pick(f"giou{seed}/shift", 0.5, 5.0, 50.0))


def random_predict(seed: int) -> PredictCase:
    """A random scene, and random ways to read it."""
    made, key = random_scene(seed), f"predict{seed}"
    # mild logits: beyond 17 every score is 1, and the order of equal scores is nobody's business
    classes = min(made.num_classes, 5)
    few = made._replace(cls_scores=normal(f"{key}/logits", *made.cls_scores.shape[:2], classes, std=2.0) - 2.0)
    count, (height, width) = len(few.boxes), few.pad_shapes[0]
    clipped = _pick(f"{key}/clip", True, False)
    return PredictCase(
        few,
        _pick(f"{key}/threshold", 0.2, 0.5),  # the reading lane looks at each candidate alone: few enough for it
        _pick(f"{key}/pre", 30, 30_000),
        _pick(f"{key}/iou", 0.3, 0.65, 0.9),
        _pick(f"{key}/max", 10, 300),
        [(height - 5 * i, width - 7 * i) for i in range(count)] if clipped else None,
        [(0.5 + i, 1.25) for i in range(count)] if clipped else None,
    )


def random_crowd(seed: int) -> PredictCase:
    """Some 20,000 candidates an image, all through NMS: a low threshold and twenty classes."""
    key = f"crowd{seed}"
    size = _pick(f"{key}/size", (256, 256), (128, 384))
    boxes = [random_boxes(f"{key}/{i}", 30, size, low=16.0) for i in range(2)]
    made = scene(key, size, boxes, num_classes=20)
    spread = made._replace(cls_scores=normal(f"{key}/logits", *made.cls_scores.shape, std=2.0) - 2.0)
    return PredictCase(spread, 0.001, nms_iou_threshold=_pick(f"{key}/iou", 0.5, 0.65))


def random_forward(seed: int) -> ForwardCase:
    """A small network with random settings, all options of both heads among them."""
    key = f"forward{seed}"
    depthwise = _pick(f"{key}/depthwise", True, False)
    # the original's fully shared head has no depthwise convolutions, and always exponentiates
    separate = depthwise or _pick(f"{key}/norms", True, False)
    model = {
        **_SMALL,
        "num_classes": _pick(f"{key}/classes", 1, 6, 80),
        "exp_on_reg": not separate or _pick(f"{key}/exp", True, False),
        # the original cannot build a head that shares depthwise convolutions
        "share_conv": not depthwise and _pick(f"{key}/share", True, False),
        "with_objectness": _pick(f"{key}/objectness", True, False),
        "use_depthwise": depthwise,
        "separate_bn": separate,
        "stacked_convs": _pick(f"{key}/stacked", 1, 2, 3),
        "pred_kernel_size": _pick(f"{key}/kernel", 1, 3),
    }
    training = _pick(f"{key}/training", True, False)
    return ForwardCase(model, normal(f"{key}/images", 2, 3, 64, 96), training, training or model["with_objectness"])


def random_step(seed: int) -> StepCase:
    """A step of a small network."""
    key = f"step{seed}"
    network = random_forward(seed)._replace(images=normal(f"{key}/images", 2, 3, 96, 128), training=True, double=True)
    return _step(key, network)


def _step(key: str, network: ForwardCase) -> StepCase:
    """Boxes for the two images of a network."""
    height, width = network.images.shape[-2:]
    boxes = [random_boxes(f"{key}/{i}", n, (height, width), low=16.0) for i, n in enumerate((4, 9))]
    classes = network.model["num_classes"]
    return StepCase(network, boxes, [integers(f"{key}/{i}/labels", len(b), high=classes) for i, b in enumerate(boxes)])


SIZES = (
    _TINY,
    {"deepen_factor": 0.33, "widen_factor": 0.5, "neck_csp_blocks": 1, "num_classes": 80, "exp_on_reg": False},
    {"deepen_factor": 0.67, "widen_factor": 0.75, "neck_csp_blocks": 2, "num_classes": 80, "exp_on_reg": True},
    {"deepen_factor": 1.0, "widen_factor": 1.0, "neck_csp_blocks": 3, "num_classes": 80, "exp_on_reg": True},
    {"deepen_factor": 1.33, "widen_factor": 1.25, "neck_csp_blocks": 4, "num_classes": 80, "exp_on_reg": True},
)
"""tiny, s, m, l and x as published."""


def published_size(seed: int) -> StepCase:
    """One of the five published networks, in turn."""
    key = f"size{seed}"
    images = normal(f"{key}/images", 2, 3, 64, 96)
    return _step(key, ForwardCase(SIZES[seed % len(SIZES)], images, training=True, double=True))


class EngineCase(NamedTuple):
    """A run of 1,000 optimiser steps on given gradients, and a network whose parameters are sorted into groups."""

    model: dict[str, Any]
    gradients: Tensor  # [steps, numbers]: for all parameters of ``toy`` in order
    buffers: Tensor  # [steps, 3]: the running mean that each step leaves
    lr: float
    warmup: int
    epochs: int
    momentum: float
    ramp: int
    weight_decay: float = 0.05

    @property
    def epoch_length(self) -> int:
        return len(self.gradients) // self.epochs


def toy() -> torch.nn.Module:
    """Two convolutions, the second in two places, and a BatchNorm, in fp64, with every parameter at one half."""
    shared = torch.nn.Conv2d(3, 2, 1)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), shared, shared).double()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    return model


def drive(model: torch.nn.Module, case: EngineCase, step: int) -> None:
    """Leave the gradients and the running mean of one step, as a forward and a backward pass would."""
    sizes = [p.numel() for p in model.parameters()]
    for parameter, values in zip(model.parameters(), case.gradients[step].split(sizes), strict=True):
        parameter.grad = values.reshape(parameter.shape).clone()
    model[1].running_mean.copy_(case.buffers[step])
    model[1].num_batches_tracked += 1


def random_engine(seed: int) -> EngineCase:
    """A schedule of an even or an odd number of epochs."""
    key, steps = f"engine{seed}", 1000
    numbers = sum(p.numel() for p in toy().parameters())
    return EngineCase(
        random_forward(seed).model,
        normal(f"{key}/gradients", steps, numbers).double(),
        normal(f"{key}/buffers", steps, 3).double(),
        lr=_pick(f"{key}/lr", 0.004, 0.001),
        warmup=_pick(f"{key}/warmup", 10, 100),
        epochs=_pick(f"{key}/epochs", 2, 5, 10, 25),
        momentum=_pick(f"{key}/momentum", 0.0002, 0.01),
        ramp=_pick(f"{key}/ramp", 100, 2000),
    )


class TrainingCase(NamedTuple):
    """The first steps of the recipe, on new images each: a warm-up towards ``lr`` over ``warmup`` steps."""

    steps: list[StepCase]
    lr: float = 0.004
    warmup: int = 1000
    weight_decay: float = 0.05

    def scene(self, step: int, cls_scores: Tensor, distances: Tensor) -> Scene:
        """What the assigner sees in one step."""
        images, boxes, labels = self.steps[step].network.images, self.steps[step].boxes, self.steps[step].labels
        size = (images.shape[-2], images.shape[-1])
        return Scene(cls_scores, distances, featmaps(*size), boxes, labels, [size] * len(images))


def random_training(seed: int) -> TrainingCase:
    """Twenty steps of a small network."""
    key = f"training{seed}"
    model = {**_SMALL, "exp_on_reg": _pick(f"{key}/exp", True, False)}
    steps = []
    for i in range(20):
        images = normal(f"{key}/{i}/images", 2, 3, 96, 128)
        steps.append(_step(f"{key}/{i}", ForwardCase(model, images, training=True, double=True)))
    return TrainingCase(steps)


RANDOM: dict[str, Callable[[int], Any]] = {
    "priors": random_priors,
    "overlaps": random_overlaps,
    "coder": random_coder,
    "assign": random_assignment,
    "max_iou": random_scene,
    "fcos": random_scene,
    "sim_ota": random_scene,
    "targets": random_scene,
    "focal": random_focal,
    "giou": random_giou,
    "losses": random_scene,
    "predict": random_predict,
    "crowd": random_crowd,
    "forward": random_forward,
    "step": random_step,
    "sizes": published_size,
    "engine": random_engine,
    "training": random_training,
}
"""From a seed to a case of every kind."""
