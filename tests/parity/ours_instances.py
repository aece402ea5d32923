"""What our package answers to a case with masks, on the racing lane and on the reading lane."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from parity import instances, ours
from parity.compare import instance_network_answer, pack_masks, settle_order
from parity.fill import fill
from torch import Tensor

from minirtmdet.configs import INS_PREDICT, ModelConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.dynamic import mask_logits
from minirtmdet.head.pipeline import RTMDetInsLoss
from minirtmdet.head.postprocess import boxes_by_feat, predict_instances_by_feat
from minirtmdet.masks import center_of_mass
from minirtmdet.reference import dynamic as reading_dynamic
from minirtmdet.reference import losses as reading_losses
from minirtmdet.reference import postprocess as reading_postprocess
from minirtmdet.reference import targets as reading_targets
from minirtmdet.structures import Detections, GroundTruth, InsOutputs

Answer = dict[str, Tensor]


def _truth(case: instances.InstanceCase) -> GroundTruth:
    """Instances, and crowds as boxes to ignore: they have the number of no class."""
    scene = case.scene
    assert scene.masks is not None
    counts = [(len(b), len(c)) for b, c in zip(scene.boxes, case.crowds, strict=True)]
    size = scene.masks[0].shape[1:]
    return GroundTruth.from_list(
        [torch.cat([b, c]) for b, c in zip(scene.boxes, case.crowds, strict=True)],
        [torch.cat([y, y.new_zeros(c)]) for y, (_, c) in zip(scene.labels, counts, strict=True)],
        ignore=[torch.arange(b + c) >= b for b, c in counts],
        masks=[torch.cat([m, m.new_ones(c, *size)]) for m, (_, c) in zip(scene.masks, counts, strict=True)],
    )


def _leaves(case: instances.InstanceCase) -> InsOutputs:
    """What the network gives, to take gradients of."""
    scene = case.scene
    maps = (scene.levels(t) for t in (scene.cls_scores, scene.distances, case.kernels))
    leaves = (tuple(level.requires_grad_() for level in levels) for levels in maps)
    return InsOutputs(*leaves, case.mask_feat.clone().requires_grad_())


def _gradients(outputs: InsOutputs, losses: dict[str, Tensor]) -> Answer:
    total = losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]
    total.backward()
    cls_scores, bbox_preds, kernels, mask_feat = outputs
    grads = {
        "grad_cls_scores": cls_scores,
        "grad_bbox_preds": bbox_preds,
        "grad_kernels": kernels,
        "grad_mask_feat": [mask_feat],
    }
    return {name: losses[name].detach() for name in ("loss_cls", "loss_bbox", "loss_mask")} | {
        name: torch.cat([ours._grad(level).flatten() for level in levels]) for name, levels in grads.items()
    }


def losses(case: instances.InstanceCase) -> Answer:
    outputs, truth = _leaves(case), _truth(case)
    criterion = RTMDetInsLoss(instances.CLASSES)
    pad_shapes = torch.tensor(case.scene.pad_shapes)
    answer = _gradients(outputs, criterion(*outputs, truth, pad_shapes))
    cls_scores, bbox_preds, kernels, mask_feat = (
        part.detach() if isinstance(part, Tensor) else [level.detach() for level in part] for part in outputs
    )
    _, _, assigned, priors = criterion.assigned_terms(cls_scores, bbox_preds, truth, pad_shapes)
    each = criterion.mask_terms(kernels, mask_feat, priors, assigned, truth).each
    used = torch.arange(each.shape[1]) < (assigned.gt_inds > 0).sum(1, keepdim=True)
    return answer | {
        "gt_inds": assigned.gt_inds,
        "dice": each[used] * criterion.settings.mask_weight,
        "mask_logits": torch.cat(_logits(case, assigned.gt_inds)),
    }


def _logits(case: instances.InstanceCase, gt_inds: Tensor) -> list[Tensor]:
    """Of the positives of each image, by the racing lane."""
    logits = []
    for kernels, feat, inds in zip(case.kernels, case.mask_feat, gt_inds, strict=True):
        positive = (inds > 0).nonzero()[:, 0]
        logits.append(mask_logits(kernels[None, positive], case.scene.priors[None, positive], feat[None])[0])
    return logits


def read_losses(case: instances.InstanceCase) -> Answer:
    scene, outputs = case.scene, _leaves(case)
    assert scene.masks is not None
    cls_scores, distances, kernels = (torch.cat([m.flatten(2).mT for m in maps], 1) for maps in outputs[:3])
    bboxes = DistancePointBBoxCoder().decode(scene.priors[:, :2], distances)
    targets, positives, masks, gt_inds, logits, dice = [], [], [], [], [], [torch.zeros(0)]
    centers = [center_of_mass(m) for m in scene.masks]
    for i, valid in enumerate(scene.valid):
        given = (cls_scores[i].detach(), bboxes[i].detach(), scene.priors, valid, scene.boxes[i], scene.labels[i])
        targets.append(reading_targets.get_targets(*given, gt_centers=centers[i]))
        assigned = ours.reading_assignment.assign(
            *(part[valid] for part in given[:3]), scene.boxes[i], scene.labels[i], centers[i]
        )
        gt_inds.append(reading_targets.unmap(assigned.gt_inds, valid, -1))
        positives.append((gt_inds[i] > 0).nonzero()[:, 0])
        masks.append(reading_targets.mask_targets(scene.masks[i], gt_inds[i][positives[i]] - 1))
        for prior, mask in zip(positives[i].tolist(), masks[i], strict=True):
            made = reading_dynamic.mask_logits(kernels[i, prior].detach(), scene.priors[prior], case.mask_feat[i])
            logits.append(made)
            dice.append(reading_losses.dice_loss(reading_losses.finer(made[None]), mask[None]) * 2.0)
    answer = reading_losses.loss_by_feat(list(cls_scores), list(bboxes), targets) | {
        "loss_mask": reading_losses.loss_mask(list(kernels), outputs.mask_feat, scene.priors, positives, masks)
    }
    empty = case.mask_feat.new_zeros(0, *case.mask_feat.shape[-2:])
    return _gradients(outputs, answer) | {
        "gt_inds": torch.stack(gt_inds),
        "dice": torch.cat(dice),
        "mask_logits": torch.stack(logits) if logits else empty,
    }


def _settings(case: instances.PasteCase) -> dict[str, Any]:
    scene = case.outputs.scene
    config = replace(INS_PREDICT, score_threshold=case.score_threshold, max_per_image=case.max_per_image)
    config = replace(config, swap_mask_sides=case.swap_mask_sides)
    return {
        "config": config,
        "prior_offset": 0.0,
        "img_shapes": scene.pad_shapes,
        "scale_factors": case.scale_factors,
    }


def _answer(found: Sequence[Detections]) -> Answer:
    orders = [settle_order(*one) for one in found]
    parts = {
        name: torch.cat([getattr(one, name)[order] for one, order in zip(found, orders, strict=True)])
        for name in ("boxes", "scores", "labels")
    }
    masks = [one.masks[order] for one, order in zip(found, orders, strict=True) if one.masks is not None]
    return {"count": torch.tensor([len(one.boxes) for one in found])} | parts | pack_masks(masks)


def predict(case: instances.PasteCase) -> Answer:
    return _answer(predict_instances_by_feat(_leaves(case.outputs), case.originals, **_settings(case)))


def read_predict(case: instances.PasteCase) -> Answer:
    """Boxes of the racing lane, whose own reading is compared elsewhere; masks one by one."""
    scene, settings = case.outputs.scene, _settings(case)
    boxes = boxes_by_feat(scene.levels(scene.cls_scores), scene.levels(scene.distances), **settings)
    results = []
    for i, (found, origin) in enumerate(boxes):
        masks = [torch.zeros(0, *case.originals[i], dtype=torch.bool)]
        for prior in origin.tolist():
            logits = reading_dynamic.mask_logits(
                case.outputs.kernels[i, prior], scene.priors[prior], case.outputs.mask_feat[i]
            )
            factor = None if case.scale_factors is None else case.scale_factors[i]
            masks.append(reading_postprocess.paste_mask(logits, case.originals[i], factor, swap_sides=True)[None])
        results.append(Detections(*found, torch.cat(masks[1:] or masks)))
    return _answer(results)


def build(case: Any) -> RTMDet:
    """The network of a case, in fp64."""
    detector = fill(build_detector(ModelConfig(**case.model)))
    for name, value in detector.state_dict().items():
        if "rtm_reg" in name and name.endswith("bias"):
            value.add_(1.0)
    return detector.double().train(case.training)


def forward(case: Any) -> Answer:
    detector = build(case)
    with torch.no_grad():
        outputs = detector(case.images.double())
    return instance_network_answer(detector, outputs, case.training)


def step(case: instances.InstanceStep) -> Answer:
    detector, truth = build(case.network), _truth(case.target)
    *maps, mask_feat = detector(case.network.images.double())
    maps = [[level.float() for level in branch] for branch in maps]
    answer = detector.loss(*maps, mask_feat.float(), truth)
    (answer["loss_cls"] + answer["loss_bbox"] + answer["loss_mask"]).backward()
    norms = torch.stack([ours._grad(p).norm() for _, p in sorted(detector.named_parameters())])
    return {name: answer[name].detach() for name in ("loss_cls", "loss_bbox", "loss_mask")} | {
        "gt_inds": detector.loss.assign(*maps[:2], truth).gt_inds,
        "grad_norms": norms.float(),
    }


def sizes(case: instances.InstanceStep) -> Answer:
    evaluated = forward(case.network._replace(training=False))
    trained = {f"training/{name}": value for name, value in forward(case.network).items()}
    return evaluated | trained | step(case)


RACING: dict[str, Callable[[Any], Answer]] = {
    "ins_losses": losses,
    "ins_predict": predict,
    "ins_forward": forward,
    "ins_step": step,
    "ins_sizes": sizes,
}
READING: dict[str, Callable[[Any], Answer]] = {"ins_losses": read_losses, "ins_predict": read_predict}
