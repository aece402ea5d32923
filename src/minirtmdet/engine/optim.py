"""AdamW as RTMDet uses it: which parameters decay, and the learning rate of every step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from minirtmdet.configs import OptimConfig

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: parameters that decay, and norm layers and biases, which do not.

    A parameter that several modules share is listed once, and frozen ones not at all.  MMEngine:
    ``DefaultOptimWrapperConstructor`` with ``norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True``
    (a group for each parameter there).

    >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), 0.05)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(1, 0.05), (3, 0.0)]
    """
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            (no_decay if name == "bias" or isinstance(module, _NORMS) else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`; the learning rate is set before each step by :class:`FlatCosine`."""
    groups = [group for group in parameter_groups(model, config.weight_decay) if group["params"]]
    # one kernel for hundreds of small tensors, which keeps the step count on the device; the CPU takes the same path
    fused = "mps" not in {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


@dataclass(frozen=True)
class FlatCosine:
    """Learning rate as a pure function of the step: linear warm-up, flat, then half a cosine.

    MMEngine: ``LinearLR`` followed by ``CosineAnnealingLR(convert_to_iter_based=True)``, as the RTMDet
    recipe (paper, table 6) composes them, with ``begin = T_max = max_epochs // 2``.  A run of an odd number of
    epochs is one epoch longer than that, in which the rate rises again; ``OptimConfig.cosine_to_the_end`` spans all
    that is left instead.  What differs: warm-up is at most a tenth of the run; a step is an optimiser step, where
    MMEngine counts batches under accumulation; a run of one epoch, which has no half, is split in steps.

    Attributes:
        lr: learning rate of the flat part.
        total_steps: optimiser steps of the whole run.
        warmup_iters: steps of warm-up.
        warmup_factor: share of ``lr`` at step 0.
        flat_steps: the step that the cosine starts from.
        cosine_steps: steps that the cosine takes to fall.
        final_factor: share of ``lr`` that the cosine falls towards.
    """

    lr: float
    total_steps: int
    warmup_iters: int
    warmup_factor: float
    flat_steps: int
    cosine_steps: int
    final_factor: float

    @classmethod
    def from_config(cls, config: OptimConfig, epochs: int, steps_per_epoch: int, batch_size: int) -> "FlatCosine":
        """The schedule of a run.

        Args:
            config: ``lr`` is meant for ``base_batch`` images per step.
            epochs: epochs of the run.
            steps_per_epoch: optimiser steps of each.
            batch_size: images in an optimiser step, accumulated batches included.

        >>> schedule = FlatCosine.from_config(OptimConfig(), epochs=12, steps_per_epoch=1_000, batch_size=64)
        >>> [round(schedule(step), 8) for step in (0, 999, 6_000, 9_000, 11_999)]
        [1e-08, 0.001, 0.001, 0.000525, 5e-05]
        """
        total_steps = epochs * steps_per_epoch
        warmup = min(config.warmup_iters, total_steps // 10)
        flat = int(config.flat_fraction * epochs) * steps_per_epoch
        cosine = int((1 - config.flat_fraction) * epochs) * steps_per_epoch
        if config.cosine_to_the_end or epochs == 1:
            flat = max(warmup, round(config.flat_fraction * total_steps))
            cosine = total_steps - flat
        return cls(
            lr=config.lr * batch_size / config.base_batch,
            total_steps=total_steps,
            warmup_iters=warmup,
            warmup_factor=config.warmup_factor,
            flat_steps=max(flat, warmup),
            cosine_steps=max(cosine, 1),
            final_factor=config.final_factor,
        )

    def __call__(self, step: int) -> float:
        """Learning rate of optimiser step ``step``, counted from 0."""
        factor = 1.0
        step = min(step, self.total_steps)
        if step < self.warmup_iters:
            factor = self.warmup_factor + (1 - self.warmup_factor) * step / max(self.warmup_iters - 1, 1)
        elif step >= self.flat_steps:
            progress = (step - self.flat_steps) / self.cosine_steps
            factor = self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2
        return self.lr * factor
