"""Exercises on masks: the 169 numbers of a prior, and the Dice loss."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from minirtmdet.judge.exercise import Case, Exercise, Mistake
from minirtmdet.reference import dynamic, losses


def parse_kernel(
    numbers: Float[Tensor, "169"],
) -> tuple[
    Float[Tensor, "8 10"], Float[Tensor, "8 8"], Float[Tensor, "1 8"], Float[Tensor, " 8"], Float[Tensor, " 8"],
    Float[Tensor, " 1"],
]:  # fmt: skip
    """Weights of three 1x1 convolutions, then their biases, as 169 numbers hold them; weights are [out,in]."""
    return tuple(dynamic.parse_kernel(numbers))  # type: ignore[return-value]


def dice_loss(logits: Float[Tensor, "P H W"], targets: Bool[Tensor, "P H W"], eps: float = 5e-6) -> Float[Tensor, " P"]:
    """One minus twice the overlap over both sizes, where sizes are sums of squares, each plus eps."""
    return losses.dice_loss(logits, targets, eps)


def _by_layer(numbers: Tensor) -> tuple[Tensor, ...]:
    weight1, bias1, weight2, bias2, weight3, bias3 = numbers.split([80, 8, 64, 8, 8, 1])
    return weight1.view(8, 10), weight2.view(8, 8), weight3.view(1, 8), bias1, bias2, bias3


def _transposed(numbers: Tensor) -> tuple[Tensor, ...]:
    weight1, weight2, weight3, *biases = parse_kernel(numbers)
    return weight1.reshape(10, 8).T, weight2.T, weight3, *biases


def _biases_first(numbers: Tensor) -> tuple[Tensor, ...]:
    bias1, bias2, bias3, weight1, weight2, weight3 = numbers.split([8, 8, 1, 80, 64, 8])
    return weight1.view(8, 10), weight2.view(8, 8), weight3.view(1, 8), bias1, bias2, bias3


def _dice(p: Tensor, targets: Tensor, squares: bool = True, factor: float = 2.0, eps: float = 5e-6) -> Tensor:
    p, t = p.flatten(1), targets.to(p).flatten(1)
    power = 2 if squares else 1
    return 1 - factor * (p * t).sum(1) / ((p**power).sum(1) + eps + t.sum(1) + eps)


def _drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Two blurred masks, and the masks."""
    targets = torch.zeros(2, 6, 8, dtype=torch.bool)
    targets[0, 1:4, 2:7] = True
    targets[1, :, :3] = True
    noise = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(seed))
    return 4.0 * targets - 2 + noise, targets


EXERCISES = [
    Exercise(
        parse_kernel,
        chapter="masks",
        cases=[
            Case("the numbers 0 to 168", lambda: (torch.arange(169.0),)),
            Case("another kernel", lambda: (torch.linspace(-1, 1, 169) ** 3,)),
        ],
        mistakes=[
            Mistake(
                "weights and biases alternate. All weights come first, then all biases.",
                _by_layer,
            ),
            Mistake("the biases come first. They come last.", _biases_first),
            Mistake("the weights are read as [in,out]. MMDetection's are [out,in], row by row.", _transposed),
        ],
        hints=[
            "How many weights has each layer: from 10 channels to 8, from 8 to 8, from 8 to 1?",
            "80, 64 and 8 weights, then 8, 8 and 1 biases: 169. numbers.split takes such a list.",
            "Weights are [out,in]: view(8, 10), view(8, 8), view(1, 8).",
        ],
    ),
    Exercise(
        dice_loss,
        chapter="masks",
        cases=[
            Case("two masks", lambda: _drawn(0)),
            Case("an empty mask", lambda: (_drawn(1)[0], torch.zeros(2, 6, 8, dtype=torch.bool))),
            Case("large logits", lambda: (_drawn(2)[0] * 1e3, _drawn(2)[1]), smooth=False),
            Case("another eps", lambda: (*_drawn(3), 1.0)),
            Case("no positive", lambda: (torch.zeros(0, 6, 8), torch.zeros(0, 6, 8, dtype=torch.bool))),
        ],
        mistakes=[
            Mistake(
                "logits are used as they are. The overlap is one of probabilities: take their sigmoid.",
                lambda logits, targets, eps=5e-6: _dice(logits, targets, eps=eps),
            ),
            Mistake(
                "sizes are plain sums. They are sums of squares, which differ for probabilities.",
                lambda logits, targets, eps=5e-6: _dice(logits.sigmoid(), targets, squares=False, eps=eps),
            ),
            Mistake(
                "the overlap counts once. It counts twice, so that equal masks have loss 0.",
                lambda logits, targets, eps=5e-6: _dice(logits.sigmoid(), targets, factor=1.0, eps=eps),
            ),
            Mistake(
                "eps is always 5e-6. It is the third argument, added to each of both sizes.",
                lambda logits, targets, eps=5e-6: _dice(logits.sigmoid(), targets),
            ),
            Mistake(
                "eps is added once. It is added to each of both sizes.",
                lambda logits, targets, eps=5e-6: _dice(logits.sigmoid(), targets, eps=eps / 2),
            ),
        ],
        hints=[
            "Probabilities p and targets t of one mask: the overlap is the sum of p * t.",
            "Both sizes are sums of squares; t * t is t. Sum over rows and columns, not over masks.",
            "1 - 2 * overlap / ((p * p).sum() + eps + (t * t).sum() + eps), with flatten(1) and sum(1).",
        ],
        learns=[0],
        atol=1e-6,
    ),
]
