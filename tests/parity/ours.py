"""What our package answers to a case, on the racing lane and on the reading lane.

The same names as in ``original.py``; a step that a lane does not have is not in its table.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from parity import cases
from parity.compare import network_answer, settle_order
from parity.fill import fill
from torch import Tensor

from minirtmdet import boxes as box_geometry
from minirtmdet.configs import AssignerConfig, LossConfig, ModelConfig, OptimConfig, PredictConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import FlatCosine, build_optimizer, parameter_groups
from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.coder import DistancePointBBoxCoder
from minirtmdet.head.losses import GIoULoss, QualityFocalLoss
from minirtmdet.head.pipeline import RTMDetLoss, flatten_levels
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.head.sampling import PseudoSampler
from minirtmdet.head.targets import build_targets
from minirtmdet.reference import assigners as reading_assigners
from minirtmdet.reference import assignment as reading_assignment
from minirtmdet.reference import losses as reading_losses
from minirtmdet.reference import postprocess as reading_postprocess
from minirtmdet.reference import priors as reading_priors
from minirtmdet.reference import targets as reading_targets
from minirtmdet.structures import AssignResult, Detections, GroundTruth

Answer = dict[str, Tensor]


def overlaps(case: cases.OverlapCase) -> Answer:
    compare = box_geometry.aligned_overlaps if case.is_aligned else box_geometry.bbox_overlaps
    return {"overlaps": compare(case.bboxes1, case.bboxes2, case.mode, case.eps)}  # type: ignore[arg-type]


def coder(case: cases.CoderCase) -> Answer:
    made = DistancePointBBoxCoder()
    if case.step == "encode":
        return {"values": made.encode(case.points, case.values, case.max_dis, case.eps)}
    return {"values": made.decode(case.points, case.values, case.max_shape)}


# --- the racing lane: the whole batch --------------------------------------------------------------------------------


def priors(case: cases.PriorCase) -> Answer:
    generator = MlvlPointGenerator(cases.STRIDES, case.offset)
    flags = generator.valid_flags(case.featmap_sizes, torch.tensor([case.pad_shape]))
    return {"priors": torch.cat(generator.grid_priors(case.featmap_sizes)), "flags": torch.cat(flags, 1)[0]}


def _ground_truth(case: cases.Scene) -> GroundTruth:
    return GroundTruth.from_list(case.boxes, case.labels, num_classes=case.num_classes, centers=case.centers)


def _assign(case: cases.Scene) -> AssignResult:
    assigner = DynamicSoftLabelAssigner(case.topk, case.iou_weight, case.soft_center_radius)
    return assigner.assign(case.cls_scores, case.bboxes, case.priors, _ground_truth(case), case.valid)


def assign(case: cases.Scene) -> Answer:
    return _assign(case)._asdict()


def targets(case: cases.Scene) -> Answer:
    result = _assign(case)
    return build_targets(PseudoSampler().sample(result, _ground_truth(case)), result, case.num_classes)._asdict()


def focal(case: cases.FocalCase) -> Answer:
    pred = case.pred.clone().requires_grad_()
    loss = QualityFocalLoss(case.beta, case.loss_weight)(pred, case.labels, case.scores) * case.weight
    return {"loss": loss.detach(), "grad": _gradient(loss, pred)}


def giou(case: cases.GIoUCase) -> Answer:
    pred = case.pred.clone().requires_grad_()
    loss = GIoULoss(loss_weight=case.loss_weight)(pred, case.target) * case.weight
    return {"loss": loss.detach(), "grad": _gradient(loss, pred)}


def losses(case: cases.Scene) -> Answer:
    cls_scores = [level.requires_grad_() for level in case.levels(case.cls_scores)]
    bbox_preds = [level.requires_grad_() for level in case.levels(case.distances)]
    assigner = AssignerConfig(case.topk, case.iou_weight, case.soft_center_radius)
    loss = RTMDetLoss(case.num_classes, assigner, LossConfig(), case.offset)
    answer = loss(cls_scores, bbox_preds, _ground_truth(case), torch.tensor(case.pad_shapes))
    return _losses_with_gradients(answer, cls_scores, bbox_preds)


def _losses_with_gradients(
    answer: dict[str, torch.Tensor], cls_scores: list[torch.Tensor], bbox_preds: list[torch.Tensor]
) -> Answer:
    (answer["loss_cls"] + answer["loss_bbox"]).backward()
    return {
        "loss_cls": answer["loss_cls"].detach(),
        "loss_bbox": answer["loss_bbox"].detach(),
        "grad_cls_scores": torch.cat([_grad(level).flatten() for level in cls_scores]),
        "grad_bbox_preds": torch.cat([_grad(level).flatten() for level in bbox_preds]),
    }


def predict(case: cases.PredictCase) -> Answer:
    scene = case.scene
    limits = case.score_threshold, case.nms_pre, case.nms_iou_threshold, case.max_per_image
    config = PredictConfig(*limits, nms_as_mmcv=True)  # some cases do not clip
    maps = scene.levels(scene.cls_scores), scene.levels(scene.distances)
    results = predict_by_feat(*maps, config, scene.offset, case.img_shapes, case.scale_factors)
    results = [Detections(*(field[settle_order(*found)] for field in found)) for found in results]
    return {"count": torch.tensor([len(r.boxes) for r in results])} | {
        field: torch.cat([getattr(r, field) for r in results]) for field in ("boxes", "scores", "labels")
    }


def forward(case: cases.ForwardCase) -> Answer:
    dtype = torch.float64 if case.double else torch.float32
    detector = fill(build_detector(ModelConfig(**case.model))).train(case.training).to(dtype)
    with torch.no_grad():
        outputs = detector(case.images.to(dtype))
    return network_answer(detector, outputs, case.training)


def _step(detector: RTMDet, case: cases.StepCase) -> Answer:
    """The network in fp64 and the losses in fp32, as the original's losses ask for."""
    maps = [[level.float() for level in branch] for branch in detector(case.network.images.double())]
    ground_truth = GroundTruth.from_list(case.boxes, case.labels)
    losses = detector.loss(*maps, ground_truth)
    logits, distances = (flatten_levels(branch).detach() for branch in maps)
    return {
        "loss_cls": losses["loss_cls"],
        "loss_bbox": losses["loss_bbox"],
        "cls_scores": logits,
        "distances": distances,
    }


def step(case: cases.StepCase) -> Answer:
    detector = fill(build_detector(ModelConfig(**case.network.model))).train().double()
    answer = _step(detector, case)
    (answer["loss_cls"] + answer["loss_bbox"]).backward()
    gradients = {f"grad/{name}": p.grad.float() for name, p in detector.named_parameters() if p.grad is not None}
    return {"loss_cls": answer["loss_cls"].detach(), "loss_bbox": answer["loss_bbox"].detach(), **gradients}


def sizes(case: cases.StepCase) -> Answer:
    evaluated = forward(case.network._replace(training=False, double=False))
    trained = {f"training/{name}": value for name, value in forward(case.network).items()}
    return evaluated | trained | step(case)


def engine(case: cases.EngineCase) -> Answer:
    model = cases.toy()
    steps = len(case.gradients)
    config = OptimConfig(case.lr, base_batch=1, weight_decay=case.weight_decay, warmup_iters=case.warmup)
    schedule = FlatCosine.from_config(config, case.epochs, case.epoch_length, batch_size=1)
    optimizer = build_optimizer(model, config)
    average = ExpMomentumEMA(model, case.momentum, case.ramp)
    rates = [schedule(step) for step in range(steps)]
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        cases.drive(model, case, step)
        optimizer.step()
        average.update(model)
    detector = build_detector(ModelConfig(**case.model))
    decayed = {id(p) for p in parameter_groups(detector, case.weight_decay)[0]["params"]}
    return {
        "rates": torch.tensor(rates, dtype=torch.float64),
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "average": torch.cat([v.flatten() for k, v in average.module.state_dict().items() if v.is_floating_point()]),
        "decays": torch.tensor([id(p) in decayed for _, p in sorted(detector.named_parameters())]),
    }


def training(case: cases.TrainingCase) -> Answer:
    detector = fill(build_detector(ModelConfig(**case.steps[0].network.model))).train().double()
    config = OptimConfig(case.lr, base_batch=1, weight_decay=case.weight_decay, warmup_iters=case.warmup)
    optimizer = build_optimizer(detector, config)
    schedule = FlatCosine.from_config(config, 300, case.warmup, batch_size=1)
    answers = []
    for number, one in enumerate(case.steps):
        answer = _step(detector, one)
        for group in optimizer.param_groups:
            group["lr"] = schedule(number)
        optimizer.zero_grad()
        (answer["loss_cls"] + answer["loss_bbox"]).backward()
        optimizer.step()
        answer["gt_inds"] = assign(case.scene(number, answer["cls_scores"], answer["distances"]))["gt_inds"]
        answers.append(answer)
    return {name: torch.stack([answer[name].detach() for answer in answers]) for name in answers[0]}


# --- the reading lane: one image, step by step -----------------------------------------------------------------------


def read_priors(case: cases.PriorCase) -> Answer:
    levels = list(zip(case.featmap_sizes, cases.STRIDES, strict=True))
    grids = [reading_priors.grid_priors(*size, stride, case.offset) for size, stride in levels]
    flags = [reading_priors.valid_flags(*size, stride, case.pad_shape) for size, stride in levels]
    return {"priors": torch.cat(grids), "flags": torch.cat(flags)}


def read_assign(case: cases.Scene) -> Answer:
    fields: dict[str, list[Tensor]] = {"gt_inds": [], "max_overlaps": [], "labels": []}
    for i, (valid, bboxes, centers) in enumerate(zip(case.valid, case.bboxes, case.centers, strict=True)):
        result = reading_assignment.assign(
            case.cls_scores[i, valid],
            bboxes[valid],
            case.priors[valid],
            case.boxes[i],
            case.labels[i],
            centers,
            case.topk,
            case.iou_weight,
            case.soft_center_radius,
        )
        for field, fill_value in (("gt_inds", -1), ("max_overlaps", 0), ("labels", -1)):
            fields[field].append(reading_targets.unmap(getattr(result, field), valid, fill_value))
    return {field: torch.stack(images) for field, images in fields.items()}


def read_max_iou(case: cases.Scene) -> Answer:
    anchors = reading_assigners.grid_anchors(case.priors).flatten(0, 1)
    return {
        "anchors": anchors,
        "gt_inds": torch.stack([reading_assigners.max_iou_assign(anchors, boxes) for boxes in case.boxes]),
    }


def read_fcos(case: cases.Scene) -> Answer:
    answer = {}
    for name, radius in (("sampled", 1.5), ("inside", None)):
        images = []
        for boxes, labels in zip(case.boxes, case.labels, strict=True):
            gt_inds = reading_assigners.fcos_assign(case.priors, boxes, center_sample_radius=radius)
            # row 0 stands for background
            classes = torch.cat([torch.tensor([case.num_classes]), labels])[gt_inds]
            box = torch.cat([torch.zeros(1, 4), boxes])[gt_inds]
            points = case.priors[:, :2]
            distances = torch.cat([points - box[:, :2], box[:, 2:] - points], -1) * (gt_inds > 0)[:, None]
            images.append((classes, distances))
        answer[f"{name}/labels"], answer[f"{name}/distances"] = (
            torch.stack(field) for field in zip(*images, strict=True)
        )
    return answer


def read_sim_ota(case: cases.Scene) -> Answer:
    results = [
        reading_assigners.sim_ota_assign(scores.sigmoid(), bboxes, case.priors, boxes, labels)
        for scores, bboxes, boxes, labels in zip(case.cls_scores, case.bboxes, case.boxes, case.labels, strict=True)
    ]
    return {field: torch.stack([getattr(result, field) for result in results]) for field in results[0]._fields}


def _read_targets(case: cases.Scene, cls_scores: Tensor, bboxes: Tensor) -> list[reading_targets.ImageTargets]:
    return [
        reading_targets.get_targets(
            cls_scores[i], bboxes[i], case.priors, case.valid[i], case.boxes[i], case.labels[i], case.topk
        )
        for i in range(len(case.boxes))
    ]


def read_targets(case: cases.Scene) -> Answer:
    images = _read_targets(case, case.cls_scores, case.bboxes)
    return {field: torch.stack([getattr(image, field) for image in images]) for field in images[0]._fields}


def read_focal(case: cases.FocalCase) -> Answer:
    pred = case.pred.clone().requires_grad_()
    loss = reading_losses.quality_focal_loss(pred, case.labels, case.scores, case.beta)
    loss = loss * case.weight * case.loss_weight
    return {"loss": loss.detach(), "grad": _gradient(loss, pred)}


def read_giou(case: cases.GIoUCase) -> Answer:
    pred = case.pred.clone().requires_grad_()
    loss = reading_losses.giou_loss(pred, case.target) * case.weight * case.loss_weight
    return {"loss": loss.detach(), "grad": _gradient(loss, pred)}


def read_losses(case: cases.Scene) -> Answer:
    cls_scores = [level.requires_grad_() for level in case.levels(case.cls_scores)]
    bbox_preds = [level.requires_grad_() for level in case.levels(case.distances)]
    logits = torch.cat([level.flatten(2).mT for level in cls_scores], 1)
    distances = torch.cat([level.flatten(2).mT for level in bbox_preds], 1)
    bboxes = DistancePointBBoxCoder().decode(case.priors[:, :2], distances)
    made = _read_targets(case, logits.detach(), bboxes.detach())
    answer = reading_losses.loss_by_feat(list(logits), list(bboxes), made)
    return _losses_with_gradients(answer, cls_scores, bbox_preds)


def read_predict(case: cases.PredictCase) -> Answer:
    """The reading lane has the suppression; thresholds and limits around it are spelt out here."""
    scene, fields = case.scene, {"count": [], "boxes": [], "scores": [], "labels": []}
    start = [0, *torch.tensor([h * w for h, w in scene.featmap_sizes]).cumsum(0).tolist()]
    for i, all_bboxes in enumerate(scene.bboxes):
        picked = []
        for first, last in pairwise(start):
            scores = scene.cls_scores[i, first:last].sigmoid()
            cells, labels = (scores > case.score_threshold).nonzero(as_tuple=True)
            best = scores[cells, labels].argsort(descending=True)[: case.nms_pre]
            picked.append((all_bboxes[first:last][cells[best]], scores[cells[best], labels[best]], labels[best]))
        bboxes, scores, labels = (torch.cat(parts) for parts in zip(*picked, strict=True))
        if case.img_shapes is not None:
            height, width = case.img_shapes[i]
            bboxes = torch.minimum(bboxes.clamp(min=0), torch.tensor([width, height, width, height]))
        if case.scale_factors is not None:
            bboxes = bboxes / torch.tensor(case.scale_factors[i] * 2)
        whole = (bboxes[:, 2:] > bboxes[:, :2]).all(1)
        bboxes, scores, labels = bboxes[whole], scores[whole], labels[whole]
        kept = reading_postprocess.nms(bboxes, scores, labels, case.nms_iou_threshold)[: case.max_per_image]
        kept = torch.tensor(kept, dtype=torch.int64)
        kept = kept[settle_order(bboxes[kept], scores[kept], labels[kept])]
        fields["count"].append(torch.tensor([len(kept)]))
        for field, values in (("boxes", bboxes), ("scores", scores), ("labels", labels)):
            fields[field].append(values[kept])
    return {field: torch.cat(images) for field, images in fields.items()}


def _gradient(loss: Tensor, pred: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), pred)[0]


def _grad(tensor: Tensor) -> Tensor:
    """The gradient that was left, zeros where none was."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


RACING: dict[str, Callable[[Any], Answer]] = {
    "priors": priors,
    "overlaps": overlaps,
    "coder": coder,
    "assign": assign,
    "targets": targets,
    "focal": focal,
    "giou": giou,
    "losses": losses,
    "predict": predict,
    "crowd": predict,
    "forward": forward,
    "step": step,
    "sizes": sizes,
    "engine": engine,
    "training": training,
}
READING: dict[str, Callable[[Any], Answer]] = {
    "priors": read_priors,
    "assign": read_assign,
    "max_iou": read_max_iou,
    "fcos": read_fcos,
    "sim_ota": read_sim_ota,
    "targets": read_targets,
    "focal": read_focal,
    "giou": read_giou,
    "losses": read_losses,
    "predict": read_predict,
}
