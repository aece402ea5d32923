"""The moving average of the weights: what is evaluated, saved and shipped."""

import copy
import math
from collections import Counter, defaultdict
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class ExpMomentumEMA(Generic[Model]):
    """Exponential moving average of parameters and buffers, quick at first and slow later.

    The share of the new weights in update ``t`` is ``(1 - momentum) * exp(-(1 + t) / ramp) + momentum``;
    update 0 copies.  Integer buffers are copied each time.  MMDetection: ``ExpMomentumEMA`` with
    ``update_buffers=True``, where ``ramp`` is ``gamma``.

    The original walks the ``state_dict``, which lists a convolution that the head shares across three levels three
    times, and so averages it three times an update; ``shared_once`` averages it once, like any other.

    Attributes:
        module: the averaged model, in evaluation mode and without gradients.
        steps: updates so far.
    """

    def __init__(self, model: Model, momentum: float = 2e-4, ramp: int = 2_000, shared_once: bool = False) -> None:
        """Start the average as a copy of ``model``.

        Raises:
            ValueError: for a momentum outside 0..1 or a ramp that is not positive.
        """
        if not 0 <= momentum <= 1 or ramp <= 0:
            raise ValueError(f"moving average with momentum {momentum} and ramp {ramp}: expected 0..1 and above 0")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.momentum = momentum
        self.ramp = ramp
        self.shared_once = shared_once
        self.steps = 0
        self._pairs: _Pairs | None = None

    def momentum_at(self, step: int) -> float:
        """Share of the new weights in update ``step``, counted from 0.

        >>> ema = ExpMomentumEMA(nn.Linear(1, 1), momentum=0.0002, ramp=2_000)
        >>> [round(ema.momentum_at(step), 4) for step in (0, 1, 2_000, 20_000)]
        [1.0, 0.999, 0.3678, 0.0002]
        """
        if step == 0:
            return 1.0
        return (1 - self.momentum) * math.exp(-(1 + step) / self.ramp) + self.momentum

    def update(self, model: Model) -> None:
        """Take in the weights and buffers of ``model`` after an optimiser step; the device is not waited for."""
        self.blend(model, 1 - self.momentum_at(self.steps))
        self.steps += 1

    @torch.no_grad()
    def blend(self, model: Model, kept: float | Tensor) -> None:
        """One update with a share of its own, not counted.

        Args:
            model: whose weights and buffers are taken in.
            kept: share of the old average; a scalar on the device where one recorded update is to serve every step.
        """
        if self._pairs is None or not self._pairs.hold():
            self._pairs = _pair(self.module, model, self.shared_once)
        for times, (averages, sources) in self._pairs.blended.items():
            rest = kept**times
            # by the difference: a weight that stays keeps its average to the last bit; two rounded shares of it do not
            torch._foreach_sub_(averages, sources)
            torch._foreach_mul_(averages, rest)
            torch._foreach_add_(averages, sources)
        averages, sources = self._pairs.copied
        if averages:
            torch._foreach_copy_(averages, sources)


_Lists = tuple[list[Tensor], list[Tensor]]


class _Pairs(NamedTuple):
    """Tensors of the average beside those of the model, listed once: to make two ``state_dict`` takes milliseconds.

    Attributes:
        blended: floating point, by the number of times an update averages them.
        copied: integers.
        places: where both modules keep every tensor.
    """

    blended: dict[int, _Lists]
    copied: _Lists
    places: list[tuple[dict[str, Any], str, Any]]

    def hold(self) -> bool:
        """Whether the modules still have these tensors: ``model.to`` puts others in the place of buffers."""
        return all(place.get(name) is tensor for place, name, tensor in self.places)


def _pair(average: nn.Module, model: nn.Module, shared_once: bool) -> _Pairs:
    blended: defaultdict[int, _Lists] = defaultdict(lambda: ([], []))
    copied: _Lists = ([], [])
    for (one, times), (other, _) in zip(_tensors(average), _tensors(model), strict=True):
        averages, sources = blended[1 if shared_once else times] if one.is_floating_point() else copied
        averages.append(one)
        sources.append(other)
    held = (kept for root in (average, model) for m in root.modules() for kept in (m._parameters, m._buffers))
    return _Pairs(dict(blended), copied, [(kept, name, tensor) for kept in held for name, tensor in kept.items()])


def _tensors(module: nn.Module) -> list[tuple[Tensor, int]]:
    """Parameters and buffers of the state_dict, and how often it lists each; constants outside it only round."""
    listed = list(module.state_dict(keep_vars=True).values())
    times = Counter(map(id, listed))
    return [(tensor, times[key]) for key, tensor in {id(tensor): tensor for tensor in listed}.items()]
