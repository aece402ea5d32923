"""AdamW as RTMDet uses it: which parameters learn and how fast, which decay, and the learning rate of every step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from minirtmdet.configs import OptimConfig
from minirtmdet.detector import RTMDet

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_PARTS = ("stem", "stage1", "stage2", "stage3", "stage4")


def freeze(model: RTMDet, config: OptimConfig) -> None:
    """Let the backbone's first ``config.frozen_stages`` learn nothing; to be called before the optimiser is made.

    Their BatchNorms are the business of :func:`train_mode`.  MMDetection: ``CSPNeXt._freeze_stages``.
    """
    for part in _frozen(model, config):
        part.requires_grad_(False)


def train_mode(model: RTMDet, config: OptimConfig) -> None:
    """Put a network into training mode, but for BatchNorms that are to use and keep their stored statistics.

    These are the frozen stages' and, by ``config.norm_eval``, the backbone's (MMDetection: ``norm_eval=True``) or all.
    """
    model.train()
    for part in _frozen(model, config):
        part.eval()
    if config.norm_eval != "off":
        for module in (model if config.norm_eval == "all" else model.backbone).modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()


def _frozen(model: RTMDet, config: OptimConfig) -> list[nn.Module]:
    return [getattr(model.backbone, name) for name in _PARTS[: config.frozen_stages + 1]]


def parameter_groups(model: nn.Module, weight_decay: float, backbone_lr_mult: float = 1.0) -> list[dict]:
    """Two groups: parameters that decay, and norm layers and biases, which do not; two more for a slower backbone.

    A parameter that several modules share is listed once, and frozen ones not at all.  MMEngine:
    ``DefaultOptimWrapperConstructor`` with ``norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True``
    (a group for each parameter there).  Its ``custom_keys={"backbone": {"lr_mult": 0.1}}`` would let the backbone's
    norms and biases decay too, since what is custom goes by ``decay_mult`` alone; here they do not.

    Args:
        model: the network; only one with a ``backbone`` can have a slower one.
        weight_decay: of the parameters that decay.
        backbone_lr_mult: factor of the backbone's learning rate, ``lr_mult`` of its groups; others have none.

    >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), 0.05)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(1, 0.05), (3, 0.0)]
    """
    slow = set(model.get_submodule("backbone").parameters()) if backbone_lr_mult != 1 else set()
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (is_slow, d): [] for is_slow in (False, True) for d in (True, False)
    }
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            decays = name != "bias" and not isinstance(module, _NORMS)
            found[parameter in slow, decays].append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay * decays} | ({"lr_mult": backbone_lr_mult} if is_slow else {})
        for (is_slow, decays), params in found.items()
        if params or not is_slow
    ]


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over :func:`parameter_groups`; the learning rate is set before each step by :class:`FlatCosine`."""
    groups = [
        group for group in parameter_groups(model, config.weight_decay, config.backbone_lr_mult) if group["params"]
    ]
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
