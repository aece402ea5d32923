"""Change a rule and watch a training: a small network learns four scenes by heart, by two sets of rules."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minirtmdet.configs import AssignerConfig, LossConfig, ModelConfig, OptimConfig, ScenesConfig
from minirtmdet.data.scenes import CLASSES, render_scene
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.engine.optim import build_optimizer
from minirtmdet.evaluation.matching import match_detections
from minirtmdet.head.losses import normalise
from minirtmdet.structures import GroundTruth

SCENES = (2, 7, 12, 20)
LR, STEPS = 0.006, 60
SHOWN = (0, 5, 10, 20, 30, 40, 59)
SEEN = 0.5
MODEL = ModelConfig(0.167, 0.125, 1, num_classes=len(CLASSES))
_RULES: tuple[Any, ...] = (MODEL, AssignerConfig(), LossConfig())


class Row(NamedTuple):
    """A step of a training.

    Attributes:
        loss_cls: class loss.
        loss_bbox: box loss.
        positives: per image.
        iou: mean IoU of the positives with their boxes.
    """

    loss_cls: float
    loss_bbox: float
    positives: float
    iou: float


class Course(NamedTuple):
    """A training and its end.

    Attributes:
        rows: one per step.
        found: how many of the boxes are found afterwards, with a score above 0.5.
        drawn: how many boxes are drawn at that score.
    """

    rows: list[Row]
    found: int
    drawn: int


def watch(*, seed: int = 0, **rules: Any) -> None:
    """Train a small network twice on the same four scenes, by RTMDet's rules and by yours, and print both courses.

    One seed shows one instance: what you conclude has to hold with ``seed=1`` too.

    Args:
        seed: of the fresh weights, the same for both.
        rules: settings of :class:`~minirtmdet.configs.AssignerConfig`, :class:`~minirtmdet.configs.LossConfig` and
            :class:`~minirtmdet.configs.ModelConfig`, by their names: ``topk=1``, ``beta=0.0``, ``prior_offset=0.5``.

    Raises:
        ValueError: for an unknown rule, with those that are like it.
    """
    _check(rules)
    courses = {
        "RTMDet": train({}, seed),
        ", ".join(f"{name}={value}" for name, value in rules.items()): train(rules, seed),
    }
    print("      " + "".join(f"  {title:^36}" for title in courses))
    print("  step" + "  loss_cls  loss_bbox  positives   IoU" * 2)
    for step in (step for step in SHOWN if step < STEPS):
        rows = "".join(
            f"  {row.loss_cls:8.3f}  {row.loss_bbox:9.3f}  {row.positives:9.2f}  {row.iou:4.2f}"
            for row in (course.rows[step] for course in courses.values())
        )
        print(f"{step:6}{rows}")
    boxes = int(_batch()[1].mask.sum())
    ends = (f"{course.found} of {boxes} boxes found, {course.drawn} drawn" for course in courses.values())
    print("   end" + "".join(f"  {end:^36}" for end in ends))


def train(rules: Mapping[str, Any], seed: int = 0) -> Course:
    """Train on the four scenes.

    Args:
        rules: as those of :func:`watch`.
        seed: of the fresh weights.
    """
    model_config, assigner, loss = (
        replace(config, **{name: value for name, value in rules.items() if name in _names(config)}) for config in _RULES
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_detector(model_config, assigner=assigner, loss=loss).train()
    images, truth = _batch()
    optimizer = build_optimizer(model, OptimConfig(lr=LR))
    rows = []
    for step in range(STEPS):
        cls_scores, bbox_preds = model(images)
        terms, targets = model.loss.terms(cls_scores, bbox_preds, truth)
        losses = normalise(terms, terms.iou_sum)
        optimizer.zero_grad()
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 10, (STEPS - step) / 20)
        optimizer.step()
        positives = int((targets.labels < len(CLASSES)).sum())
        iou = terms.iou_sum.item() / max(positives, 1)
        rows.append(Row(losses["loss_cls"].item(), losses["loss_bbox"].item(), positives / len(images), iou))
    return Course(rows, *_found(model, images, truth))


def _names(config: Any) -> list[str]:
    return [field.name for field in fields(config)]


def _check(rules: Mapping[str, Any]) -> None:
    known = [name for config in _RULES for name in _names(config) if name not in ("num_classes", "masks")]
    for name in rules:
        if name not in known:
            near = difflib.get_close_matches(name, known)
            like = f"did you mean {' or '.join(near)}?" if near else f"the rules are {', '.join(known)}"
            raise ValueError(f"there is no rule {name!r}: {like}")
    if not rules:
        raise ValueError("no rule is changed: for one, judge.watch(topk=1)")


@cache
def _batch() -> tuple[Tensor, GroundTruth]:
    """Four scenes of 96 pixels with eleven boxes."""
    images, boxes, labels = zip(*(render_scene(ScenesConfig(size=96), "train", i) for i in SCENES), strict=True)
    pixels = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2).contiguous()
    return pixels, GroundTruth.from_list([torch.from_numpy(b) for b in boxes], [torch.from_numpy(y) for y in labels])


@torch.no_grad()
def _found(model: RTMDet, images: Tensor, truth: GroundTruth) -> tuple[int, int]:
    """Boxes found and boxes drawn, after running statistics have caught up with the weights."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the next batch alone
    model(images)
    found = drawn = 0
    for i, detections in enumerate(model.predict(images)):
        mask = truth.mask[i]
        own = truth.boxes[i, mask], truth.labels[i, mask], truth.ignore[i, mask]
        match = match_detections(detections, *own, score_threshold=SEEN)
        found, drawn = found + int(match.found.sum()), drawn + len(match.hit)
    return found, drawn
