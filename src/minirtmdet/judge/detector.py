"""Exercises on the network, its training and its detections."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import FlatCosine
from minirtmdet.head.network import RTMDetSepBNHead
from minirtmdet.head.postprocess import batched_nms
from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.judge.recorded import recorded
from minirtmdet.judge.scene import NO_BOXES, NO_LABELS, boxes, scene


def head_parameters(width: int, num_classes: int) -> int:
    """The number of parameters of the head: convolutions shared by the levels, everything else one for each level."""
    return sum(parameter.numel() for parameter in RTMDetSepBNHead(num_classes, width).parameters())


def fuse_conv_bn(
    weight: Float[Tensor, "O I k k"],
    gamma: Float[Tensor, " O"],
    beta: Float[Tensor, " O"],
    mean: Float[Tensor, " O"],
    var: Float[Tensor, " O"],
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "O I k k"], Float[Tensor, " O"]]:
    """Weight and bias of the convolution that does what a convolution without bias and its BatchNorm do together."""
    fused, bias = fuse_conv_bn_weights(weight, None, mean, var, eps, gamma, beta)
    return fused.detach(), bias.detach()


def nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int[Tensor, " n"], iou_threshold: float = 0.65
) -> list[int]:
    """Indices that survive, best first: of two boxes of one class that overlap more, the lower score goes."""
    return batched_nms(boxes, scores, labels, iou_threshold, len(boxes)).tolist()


def ema_update(
    average: Float[Tensor, " n"],
    weights: Float[Tensor, " n"],
    step: int,
    momentum: float = 2e-4,
    ramp: int = 2_000,
) -> Float[Tensor, " n"]:
    """The moving average after an update; new weights count (1 - momentum) * exp(-(1 + step) / ramp) + momentum.

    Steps count from 0, and update 0 copies.
    """
    share = ExpMomentumEMA(nn.Identity(), momentum, ramp).momentum_at(step)
    return average * (1 - share) + weights * share


def learning_rate(
    step: int,
    total_steps: int,
    lr: float = 0.004,
    warmup_iters: int = 1_000,
    warmup_factor: float = 1e-5,
    final_factor: float = 0.05,
) -> float:
    """The rate of a step, from 0: linear warm-up, flat until half of the run, then half a cosine to final_factor."""
    half = total_steps // 2
    return FlatCosine(lr, total_steps, warmup_iters, warmup_factor, half, total_steps - half, final_factor)(step)


def mismatched_keys(model: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Keys that a model and a file's state_dict both have, with another shape, in the file's order."""
    ours = model.state_dict()
    return [key for key, value in state_dict.items() if key in ours and ours[key].shape != value.shape]


def _count(width: int, classes: int, shared: bool = True, norms: int = 3, biases: bool = True, layers: int = 2) -> int:
    convolutions = 2 * layers * width * width * 9 * (1 if shared else 3)
    predictions = 3 * (width * (classes + 4) + (classes + 4) * biases)
    return convolutions + 2 * layers * norms * 2 * width + predictions


def _scaled(weight: Tensor, factor: Tensor) -> Tensor:
    return weight * factor[:, None, None, None]


def _greedy(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float, among: str = "kept") -> list[int]:
    """NMS with a mistake: boxes go where a better one overlaps, whatever its class, or whether it survived."""
    kept: list[int] = []
    order = scores.argsort(descending=True, stable=True).tolist()
    for place, index in enumerate(order):
        rivals = order[:place] if among == "better" else kept
        if among != "any class":
            rivals = [i for i in rivals if labels[i] == labels[index]]
        overlaps = bbox_overlaps(boxes[rivals], boxes[index : index + 1])
        if not rivals or (overlaps.max() < limit if among == "less" else overlaps.max() <= limit):
            kept.append(index)
    return kept


def _blend(average: Tensor, weights: Tensor, share: float) -> Tensor:
    return average * (1 - share) + weights * share


def _share(step: int, momentum: float, ramp: int) -> float:
    return (1 - momentum) * math.exp(-(1 + step) / ramp) + momentum


def _rate(step: int, total: int, lr: float, warmup: int, start: float, end: float, flat: int) -> float:
    return FlatCosine(lr, total, warmup, start, flat, max(total - flat, 1), end)(step)


def _surest() -> tuple[Tensor, Tensor, Tensor]:
    """The surest predictions of the scene, three classes among them."""
    scores, labels = scene().logits.sigmoid().max(1)
    best = scores.argsort(descending=True)[:60].sort().values
    return scene().predicted[best], scores[best], labels[best]


def _same_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, limit: float, answer: Tensor | list[int]) -> bool:
    """Whether an answer keeps the same boxes, where equal ones with equal scores may stand for each other."""
    kept = torch.as_tensor(answer, dtype=torch.int64)
    right = torch.tensor(nms(boxes, scores, labels, limit))
    return kept.shape == right.shape and all(torch.equal(f[kept], f[right]) for f in (boxes, scores, labels))


def _norm(outputs: int, inputs: int) -> tuple[Tensor, ...]:
    """A convolution and a BatchNorm whose numbers all differ."""
    generator = torch.Generator().manual_seed(outputs)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    gamma, beta, mean = torch.randn(3, outputs, generator=generator).unbind()
    return weight, gamma, beta, mean, torch.rand(outputs, generator=generator) + 0.1


def _small(width: int, classes: int) -> nn.Module:
    return nn.ModuleDict({"conv": nn.Conv2d(3, width, 3), "cls": nn.Conv2d(width, classes, 1)})


def _two(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[nn.Module, dict[str, Tensor]]:
    return _small(*ours), dict(_small(*theirs).state_dict())


_CHAIN = boxes((0, 0, 10, 10), (2, 0, 12, 10), (4, 0, 14, 10), (100, 0, 110, 10))
_HALF = boxes((0, 0, 10, 10), (0, 0, 10, 5))
_OLD, _NEW = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 4.0, -1.0])
_RUN = (0.004, 100, 1e-5, 0.05)

EXERCISES = [
    Exercise(
        head_parameters,
        chapter="head_construction",
        cases=[
            Case("width 4, 3 classes", lambda: (4, 3)),
            Case("tiny, 80 classes", lambda: (96, 80)),
            Case("a single class", lambda: (64, 1)),
        ],
        mistakes=[
            Mistake(
                "each level has convolutions of its own. The levels share them: count them once.",
                lambda width, classes: _count(width, classes, shared=False),
            ),
            Mistake(
                "the levels share their BatchNorms. Each level has its own: count them three times.",
                lambda width, classes: _count(width, classes, norms=1),
            ),
            Mistake(
                "the last layers have no bias. Only convolutions before a BatchNorm have none.",
                lambda width, classes: _count(width, classes, biases=False),
            ),
            Mistake(
                "each branch has one convolution. It has two, each with its norms.",
                lambda width, classes: _count(width, classes, layers=1),
            ),
        ],
        hints=[
            "Three kinds: 3 x 3 convolutions, BatchNorms, last layers. Which are shared by the three levels?",
            "Two branches of two convolutions of width * width * 9 numbers, once. BatchNorms have 2 * width numbers.",
            "12 BatchNorms, and for each level width * (num_classes + 4) weights and num_classes + 4 biases.",
        ],
    ),
    Exercise(
        fuse_conv_bn,
        chapter="backbone_neck",
        cases=[
            Case("4 channels from 3", lambda: _norm(4, 3)),
            Case("as many channels out as in", lambda: _norm(5, 5)),
            Case("a large eps", lambda: (*_norm(2, 1), 0.5)),
        ],
        mistakes=[
            Mistake(
                "the weight is divided by the variance. It is divided by its root, the deviation.",
                lambda w, g, b, m, v, eps=1e-5: (_scaled(w, g / (v + eps)), b - m * g / (v + eps)),
            ),
            Mistake(
                "eps is added to the root. It stands under the root.",
                lambda w, g, b, m, v, eps=1e-5: (_scaled(w, g / (v**0.5 + eps)), b - m * g / (v**0.5 + eps)),
            ),
            Mistake(
                "the mean is forgotten. BatchNorm subtracts it before it scales: the bias is beta - mean * scale.",
                lambda w, g, b, m, v, eps=1e-5: (_scaled(w, g / (v + eps).sqrt()), b.clone()),
            ),
            Mistake(
                "the mean is not scaled. It is subtracted before the scaling: beta - mean * scale.",
                lambda w, g, b, m, v, eps=1e-5: (_scaled(w, g / (v + eps).sqrt()), b - m),
            ),
            Mistake(
                "gamma is forgotten. The scale is gamma / sqrt(var + eps).",
                lambda w, g, b, m, v, eps=1e-5: (_scaled(w, 1 / (v + eps).sqrt()), b - m / (v + eps).sqrt()),
            ),
        ],
        hints=[
            "Write y = gamma * (w * x - mean) / sqrt(var + eps) + beta, and sort it by x.",
            "scale = gamma / sqrt(var + eps), one for each output channel. What stands before x, and what is left?",
            "weight * scale[:, None, None, None] and beta - mean * scale",
        ],
    ),
    Exercise(
        ema_update,
        chapter="training",
        cases=[
            Case("the first update", lambda: (_OLD, _NEW, 0)),
            Case("update 1", lambda: (_OLD, _NEW, 1)),
            Case("update 2,000, one ramp later", lambda: (_OLD, _NEW, 2_000)),
            Case("update 100,000", lambda: (_OLD, _NEW, 100_000)),
            Case("another momentum and ramp", lambda: (_OLD, _NEW, 50, 0.01, 100)),
        ],
        mistakes=[
            Mistake(
                "momentum counts at once. Without the ramp the average would keep the random weights for long.",
                lambda a, w, t, m=2e-4, r=2_000: _blend(a, w, m if t else 1.0),
            ),
            Mistake(
                "old and new are exchanged. Momentum here is the share of the new weights.",
                lambda a, w, t, m=2e-4, r=2_000: _blend(w, a, _share(t, m, r) if t else 1.0),
            ),
            Mistake(
                "update 0 blends. It copies: the average begins as the weights are.",
                lambda a, w, t, m=2e-4, r=2_000: _blend(a, w, _share(t, m, r)),
            ),
            Mistake(
                "updates count from 1 in the exponent. It has 1 + step already, with step from 0.",
                lambda a, w, t, m=2e-4, r=2_000: _blend(a, w, _share(t + 1, m, r) if t else 1.0),
            ),
        ],
        hints=[
            "Work out the share of the new weights for this step first; the rest stays of the average.",
            "Update 0 is an exception: it copies the weights.",
            "share = 1.0 if step == 0 else (1 - momentum) * exp(-(1 + step) / ramp) + momentum",
        ],
        atol=1e-6,
    ),
    Exercise(
        learning_rate,
        chapter="training",
        cases=[
            Case("step 0", lambda: (0, 1_000, *_RUN)),
            Case("in the warm-up", lambda: (49, 1_000, *_RUN)),
            Case("the last step of the warm-up", lambda: (99, 1_000, *_RUN)),
            Case("the flat part", lambda: (400, 1_000, *_RUN)),
            Case("half of the cosine", lambda: (750, 1_000, *_RUN)),
            Case("the last step", lambda: (999, 1_000, *_RUN)),
            recorded("learning_rate"),
        ],
        mistakes=[
            Mistake(
                "the cosine begins with the warm-up's end. It begins at half of the run: the rate is flat until then.",
                lambda t, n, lr, w, start, end: _rate(t, n, lr, w, start, end, w),
            ),
            Mistake(
                "the rate falls to 0. It falls to final_factor of lr.",
                lambda t, n, lr, w, start, end: _rate(t, n, lr, w, start, 0.0, n // 2),
            ),
            Mistake(
                "warm-up begins at 0. It begins at warmup_factor of lr.",
                lambda t, n, lr, w, start, end: _rate(t, n, lr, w, 0.0, end, n // 2),
            ),
            Mistake(
                "there is no warm-up.",
                lambda t, n, lr, w, start, end: _rate(t, n, lr, 0, start, end, n // 2),
            ),
            Mistake(
                "warm-up takes a step too long. Its last step, warmup_iters - 1, has the full rate.",
                lambda t, n, lr, w, start, end: (
                    lr * (start + (1 - start) * t / w) if t < w else _rate(t, n, lr, w, start, end, n // 2)
                ),
            ),
        ],
        hints=[
            "Three parts, by step: warm-up, flat, cosine. Write a factor for each, and multiply lr by it.",
            "Warm-up: from warmup_factor at step 0 to 1 at step warmup_iters - 1, in a straight line.",
            "Cosine: progress = (step - half) / (total_steps - half), and final_factor + (1 - final_factor) * "
            "(1 + cos(pi * progress)) / 2.",
        ],
        rtol=1e-5,
        atol=1e-9,
    ),
    Exercise(
        nms,
        chapter="evaluation",
        cases=[
            Case(
                "a chain: each suppresses the next",
                lambda: (_CHAIN, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4).long(), 0.6),
            ),
            Case("two classes", lambda: (_CHAIN, torch.tensor([0.7, 0.9, 0.8, 0.6]), torch.tensor([0, 1, 0, 1]), 0.3)),
            Case("60 predictions of the scene", _surest),
            Case(
                "an overlap of exactly the threshold",
                lambda: (_HALF, torch.tensor([0.5, 0.9]), torch.zeros(2).long(), 0.5),
            ),
            Case(
                "negative coordinates",
                lambda: (_CHAIN - 50, torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.tensor([1, 0, 1, 0]), 0.4),
            ),
            Case(
                "equal boxes with equal scores",
                lambda: (_CHAIN[[0, 0, 3]], torch.tensor([0.5, 0.5, 0.4]), torch.zeros(3).long(), 0.5),
                _same_boxes,
            ),
            Case("nothing", lambda: (NO_BOXES, torch.zeros(0), NO_LABELS)),
        ],
        mistakes=[
            Mistake(
                "classes suppress each other. Only boxes of one class do.",
                lambda b, s, y, t=0.65: _greedy(b, s, y, t, "any class"),
            ),
            Mistake(
                "boxes that are gone suppress others. Only a box that survived can: take them best first.",
                lambda b, s, y, t=0.65: _greedy(b, s, y, t, "better"),
            ),
            Mistake(
                "an overlap of exactly the threshold suppresses. Only a larger one does.",
                lambda b, s, y, t=0.65: _greedy(b, s, y, t, "less"),
            ),
            Mistake(
                "survivors are in the order of the input. The best comes first.",
                lambda b, s, y, t=0.65: sorted(nms(b, s, y, t)),
            ),
            Mistake(
                "nothing is suppressed.",
                lambda b, s, y, t=0.65: s.argsort(descending=True, stable=True).tolist(),
            ),
        ],
        hints=[
            "Take the best box that is left, drop what overlaps it too much, and begin again with the rest.",
            "Go through scores.argsort(descending=True), and compare each box with those of its class kept so far.",
            "A box is kept if no kept box of its class has an IoU above the threshold with it.",
        ],
    ),
    Exercise(
        mismatched_keys,
        chapter="weights",
        cases=[
            Case("another number of classes", lambda: _two((8, 80), (8, 3))),
            Case("another width", lambda: _two((16, 3), (8, 3))),
            Case(
                "keys that only one of them has", lambda: (nn.Linear(2, 2), {"weight": torch.eye(2), "b": torch.eye(3)})
            ),
            Case("as many numbers in another shape", lambda: (nn.Linear(2, 3), {"weight": torch.zeros(2, 3)})),
            Case("all fit", lambda: _two((8, 3), (8, 3))),
        ],
        mistakes=[
            Mistake(
                "missing keys are listed too. They are another matter: here both sides have the key.",
                lambda model, file: [
                    key for key, v in file.items() if getattr(model.state_dict().get(key), "shape", None) != v.shape
                ],
            ),
            Mistake(
                "only numbers of elements are compared. 2 x 3 and 3 x 2 do not fit each other.",
                lambda model, file: [
                    key for key, v in model.state_dict().items() if key in file and file[key].numel() != v.numel()
                ],
            ),
            Mistake(
                "keys that fit are listed. The others are asked for.",
                lambda model, file: [
                    key for key, v in model.state_dict().items() if key in file and file[key].shape == v.shape
                ],
            ),
        ],
        hints=[
            "model.state_dict() has the model's tensors. Go through the file, and look each key up there.",
            "[key for key, value in state_dict.items() if key in ours and ...]: compare .shape.",
        ],
    ),
]
