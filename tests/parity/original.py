"""What MMDetection itself answers to a case; runs in the reference environment only.

Each function takes a case of ``cases.py`` and returns named tensors, the same names as in ``ours.py``.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from parity import cases
from parity.compare import network_answer, settle_order
from parity.fill import fill
from torch import Tensor

Answer = dict[str, Tensor]


def versions() -> dict[str, str]:
    """Versions that an answer depends on."""
    import mmcv
    import mmdet
    import mmengine

    return {
        "mmdet": mmdet.__version__,
        "mmengine": mmengine.__version__,
        "mmcv-lite": mmcv.__version__,
        "torch": torch.__version__,
    }


def priors(case: cases.PriorCase) -> Answer:
    """``MlvlPointGenerator.grid_priors`` and ``valid_flags``, levels joined."""
    from mmdet.models.task_modules import MlvlPointGenerator

    generator = MlvlPointGenerator(list(cases.STRIDES), case.offset)
    levels = generator.grid_priors(case.featmap_sizes, device="cpu", with_stride=True)
    flags = generator.valid_flags(case.featmap_sizes, case.pad_shape, device="cpu")
    return {"priors": torch.cat(levels), "flags": torch.cat(flags)}


def overlaps(case: cases.OverlapCase) -> Answer:
    """``bbox_overlaps``."""
    from mmdet.structures.bbox import bbox_overlaps

    return {"overlaps": bbox_overlaps(case.bboxes1, case.bboxes2, case.mode, case.is_aligned, case.eps)}


def coder(case: cases.CoderCase) -> Answer:
    """``DistancePointBBoxCoder``; the original wants one shape an image where points are batched."""
    from mmdet.models.task_modules import DistancePointBBoxCoder

    made = DistancePointBBoxCoder()
    if case.step == "encode":
        return {"values": made.encode(case.points, case.values, case.max_dis, case.eps)}
    shape: Any = case.max_shape
    if shape is not None and case.points.ndim == 3:
        shape = [shape] * len(case.points)
    return {"values": made.decode(case.points, case.values, shape)}


def assign(case: cases.Scene) -> Answer:
    """``DynamicSoftLabelAssigner`` on the valid priors of each image.

    As MMDetection has it elsewhere, -1 marks priors that take no part; IoUs of background are 0, not -1e8.
    """
    from mmdet.models.task_modules import DynamicSoftLabelAssigner
    from mmengine.structures import InstanceData

    assigner = DynamicSoftLabelAssigner(case.soft_center_radius, case.topk, case.iou_weight)
    gt_inds = torch.full(case.cls_scores.shape[:2], -1)
    max_overlaps = torch.zeros(case.cls_scores.shape[:2])
    labels = torch.full(case.cls_scores.shape[:2], -1)
    for i, (valid, bboxes) in enumerate(zip(case.valid, case.bboxes, strict=True)):
        truth = InstanceData(bboxes=case.boxes[i], labels=case.labels[i])
        if case.masks is not None:
            truth.masks = case.masks[i]
        predicted = InstanceData(scores=case.cls_scores[i, valid], bboxes=bboxes[valid], priors=case.priors[valid])
        result = assigner.assign(predicted, truth)
        gt_inds[i, valid] = result.gt_inds
        max_overlaps[i, valid] = result.max_overlaps.clamp(min=0).float()
        labels[i, valid] = result.labels
    return {"gt_inds": gt_inds, "max_overlaps": max_overlaps, "labels": labels}


def max_iou(case: cases.Scene) -> Answer:
    """``MaxIoUAssigner`` with RetinaNet's thresholds, on RetinaNet's anchors."""
    from mmdet.models.task_modules import AnchorGenerator, MaxIoUAssigner
    from mmengine.structures import InstanceData

    generator = AnchorGenerator(
        list(cases.STRIDES), [0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=3, center_offset=case.offset
    )
    anchors = torch.cat(generator.grid_priors(case.featmap_sizes, device="cpu"))
    assigner = MaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
    results = [assigner.assign(InstanceData(priors=anchors), truth) for truth in _truth(case)]
    return {"anchors": anchors, "gt_inds": torch.stack([result.gt_inds for result in results])}


def fcos(case: cases.Scene) -> Answer:
    """``FCOSHead._get_targets_single``, with and without centre sampling; it tells classes and distances, not boxes."""
    from mmdet.models.dense_heads import FCOSHead
    from mmdet.utils import register_all_modules

    register_all_modules()
    ranges = torch.tensor([(-1.0, 64.0), (64.0, 128.0), (128.0, 1e8)])
    counts = [rows * columns for rows, columns in case.featmap_sizes]
    answer = {}
    for sampling in (True, False):
        head = FCOSHead(
            case.num_classes, 8, feat_channels=32, stacked_convs=1, strides=cases.STRIDES, center_sampling=sampling
        )
        of_priors = ranges.repeat_interleave(torch.tensor(counts), 0)
        labels, distances = zip(
            *(head._get_targets_single(t, case.priors[:, :2], of_priors, counts) for t in _truth(case)), strict=True
        )
        name = "sampled" if sampling else "inside"
        answer[f"{name}/labels"] = torch.stack(labels)
        positive = answer[f"{name}/labels"] < case.num_classes
        answer[f"{name}/distances"] = torch.stack(distances) * positive[..., None]
    return answer


def sim_ota(case: cases.Scene) -> Answer:
    """``SimOTAAssigner`` with its defaults, on the sigmoid of the class scores."""
    from mmdet.models.task_modules import SimOTAAssigner
    from mmengine.structures import InstanceData

    fields: dict[str, list[Tensor]] = {"gt_inds": [], "max_overlaps": [], "labels": []}
    for scores, bboxes, truth in zip(case.cls_scores.sigmoid(), case.bboxes, _truth(case), strict=True):
        result = SimOTAAssigner().assign(InstanceData(scores=scores, bboxes=bboxes, priors=case.priors), truth)
        fields["gt_inds"].append(result.gt_inds)
        fields["max_overlaps"].append(result.max_overlaps.clamp(min=0).float())
        fields["labels"].append(result.labels)
    return {field: torch.stack(images) for field, images in fields.items()}


def _head(num_classes: int, case: cases.Scene) -> Any:
    """A head without a network of any size: only its pipeline is used."""
    from mmdet.models.dense_heads import RTMDetHead
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict

    register_all_modules()
    assigner = {
        "type": "DynamicSoftLabelAssigner",
        "topk": case.topk,
        "iou_weight": case.iou_weight,
        "soft_center_radius": case.soft_center_radius,
    }
    return RTMDetHead(
        num_classes,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        with_objectness=False,
        norm_cfg={"type": "BN"},
        anchor_generator={"type": "MlvlPointGenerator", "offset": case.offset, "strides": list(cases.STRIDES)},
        bbox_coder={"type": "DistancePointBBoxCoder"},
        loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
        train_cfg=ConfigDict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=ConfigDict(),
    )


def _metas(case: cases.Scene) -> list[dict[str, Any]]:
    return [{"pad_shape": shape, "img_shape": shape} for shape in case.pad_shapes]


def _truth(case: cases.Scene | cases.StepCase) -> list[Any]:
    from mmengine.structures import InstanceData

    return [InstanceData(bboxes=b, labels=y) for b, y in zip(case.boxes, case.labels, strict=True)]


def targets(case: cases.Scene) -> Answer:
    """``RTMDetHead.get_targets``, levels joined."""
    head = _head(case.num_classes, case)
    anchors, flags = head.get_anchors(case.featmap_sizes, _metas(case), device="cpu")
    # each image needs a list of its own: get_targets overwrites what it is given
    answer = head.get_targets(
        case.cls_scores, case.bboxes, [list(a) for a in anchors], flags, _truth(case), _metas(case)
    )
    names = ("labels", "label_weights", "bbox_targets", "assign_metrics")
    return {name: torch.cat(levels, 1) for name, levels in zip(names, answer[1:5], strict=True)}


def focal(case: cases.FocalCase) -> Answer:
    """``QualityFocalLoss``, each prior's loss and the gradient of the sum."""
    from mmdet.models.losses import QualityFocalLoss

    loss = QualityFocalLoss(beta=case.beta, loss_weight=case.loss_weight, reduction="none")
    pred = case.pred.clone().requires_grad_()
    each = loss(pred, (case.labels, case.scores), case.weight)
    each.sum().backward()
    return {"loss": each.detach(), "grad": pred.grad}


def giou(case: cases.GIoUCase) -> Answer:
    """``GIoULoss``, each pair's loss and the gradient of the sum."""
    from mmdet.models.losses import GIoULoss

    loss = GIoULoss(loss_weight=case.loss_weight, reduction="none")
    pred = case.pred.clone().requires_grad_()
    each = loss(pred, case.target, case.weight)
    each.sum().backward()
    return {"loss": each.detach(), "grad": pred.grad}


def losses(case: cases.Scene) -> Answer:
    """``RTMDetHead.loss_by_feat`` summed over levels, and the gradients to the maps of the network."""
    head = _head(case.num_classes, case)
    cls_scores = [level.requires_grad_() for level in case.levels(case.cls_scores)]
    bbox_preds = [level.requires_grad_() for level in case.levels(case.distances)]
    answer = head.loss_by_feat(cls_scores, bbox_preds, _truth(case), _metas(case))
    loss_cls, loss_bbox = sum(answer["loss_cls"]), sum(answer["loss_bbox"])
    (loss_cls + loss_bbox).backward()
    return {
        "loss_cls": loss_cls.detach(),
        "loss_bbox": loss_bbox.detach(),
        "grad_cls_scores": torch.cat([level.grad.flatten() for level in cls_scores]),
        "grad_bbox_preds": torch.cat([level.grad.flatten() for level in bbox_preds]),
    }


def predict(case: cases.PredictCase) -> Answer:
    """``RTMDetHead.predict_by_feat`` with class-wise NMS, images joined."""
    from mmengine.config import ConfigDict

    scene = case.scene
    config = ConfigDict(
        score_thr=case.score_threshold,
        nms_pre=case.nms_pre,
        min_bbox_size=0,
        nms={"type": "nms", "iou_threshold": case.nms_iou_threshold},
        max_per_img=case.max_per_image,
    )
    shapes = case.img_shapes or scene.pad_shapes
    factors = case.scale_factors or [(1.0, 1.0)] * len(shapes)
    metas = [{"img_shape": s, "scale_factor": f} for s, f in zip(shapes, factors, strict=True)]
    head = _head(scene.num_classes, scene)
    head.bbox_coder.clip_border = case.img_shapes is not None
    maps = scene.levels(scene.cls_scores), scene.levels(scene.distances)
    results = head.predict_by_feat(*maps, batch_img_metas=metas, cfg=config, rescale=True)
    results = [r[settle_order(r.bboxes, r.scores, r.labels)] for r in results]
    return {
        "count": torch.tensor([len(r.bboxes) for r in results]),
        "boxes": torch.cat([r.bboxes for r in results]),
        "scores": torch.cat([r.scores for r in results]),
        "labels": torch.cat([r.labels for r in results]),
    }


def build_detector(model: dict[str, Any]) -> Any:
    """MMDetection's RTMDet for settings of our ``ModelConfig``."""
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm

    register_all_modules()
    recipes = Path(mmdet.__file__).parent / ".mim" / "configs" / "rtmdet"
    masks = model.get("masks", False)
    config = Config.fromfile(recipes / f"rtmdet{'-ins' if masks else ''}_l_8xb32-300e_coco.py").model
    widen = model["widen_factor"]
    depthwise = model.get("use_depthwise", False)
    width = int(256 * widen)
    config.backbone.update(
        deepen_factor=model["deepen_factor"], widen_factor=widen, use_depthwise=depthwise, init_cfg=None
    )
    config.neck.update(
        in_channels=[int(channels * widen) for channels in (256, 512, 1024)],
        out_channels=width,
        num_csp_blocks=model["neck_csp_blocks"],
        use_depthwise=depthwise,
    )
    head = config.bbox_head
    head.update(
        num_classes=model["num_classes"],
        in_channels=width,
        feat_channels=width,
        stacked_convs=model.get("stacked_convs", 2),
        pred_kernel_size=model.get("pred_kernel_size", 1),
    )
    if masks:
        return revert_sync_batchnorm(MODELS.build(config))
    head.update(with_objectness=model.get("with_objectness", False))
    if model.get("separate_bn", True):
        head.update(
            exp_on_reg=model.get("exp_on_reg", True),
            use_depthwise=depthwise,
            share_conv=model.get("share_conv", True),
        )
    else:
        head.type = "RTMDetHead"
        for option in ("exp_on_reg", "share_conv"):
            head.pop(option)
    return revert_sync_batchnorm(MODELS.build(config))


def forward(case: cases.ForwardCase) -> Answer:
    """Both outputs of every level, and the statistics that training leaves in the BatchNorms; in fp32."""
    dtype = torch.float64 if case.double else torch.float32
    detector = fill(build_detector(case.model)).train(case.training).to(dtype)
    with torch.no_grad():
        outputs = detector.bbox_head(detector.extract_feat(case.images.to(dtype)))
    return network_answer(detector, outputs, case.training)


def _step(detector: Any, case: cases.StepCase) -> Answer:
    """Losses with gradients, and what they were computed from.

    The network runs in fp64, so that batch statistics do not enlarge round-off; the losses know fp32 alone.
    """
    images = case.network.images.double()
    maps = [[level.float() for level in branch] for branch in detector.bbox_head(detector.extract_feat(images))]
    shape = tuple(images.shape[-2:])
    metas = [{"pad_shape": shape, "img_shape": shape} for _ in case.boxes]
    losses = detector.bbox_head.loss_by_feat(*maps, _truth(case), metas)
    answer = {name: sum(levels) for name, levels in losses.items()}
    return answer | dict(zip(("cls_scores", "distances"), map(flat, maps), strict=True))


def flat(maps: list[Tensor]) -> Tensor:
    """``[B,N,K]`` from one map a level."""
    return torch.cat([level.detach().flatten(2).mT for level in maps], 1)


def step(case: cases.StepCase) -> Answer:
    """Losses of a whole network, and the gradient of every parameter under its name."""
    detector = fill(build_detector(case.network.model)).train().double()
    answer = _step(detector, case)
    (answer["loss_cls"] + answer["loss_bbox"]).backward()
    gradients = {f"grad/{name}": p.grad.float() for name, p in detector.named_parameters() if p.grad is not None}
    return {"loss_cls": answer["loss_cls"].detach(), "loss_bbox": answer["loss_bbox"].detach(), **gradients}


def sizes(case: cases.StepCase) -> Answer:
    """Both modes and one step."""
    evaluated = forward(case.network._replace(training=False, double=False))
    trained = {f"training/{name}": value for name, value in forward(case.network).items()}
    return evaluated | trained | step(case)


PARAMWISE = {"norm_decay_mult": 0, "bias_decay_mult": 0, "bypass_duplicate": True}


def _optimizer(model: Any, lr: float, weight_decay: float) -> Any:
    """AdamW as the recipe builds it."""
    from mmengine.optim import DefaultOptimWrapperConstructor

    optimizer = {"type": "AdamW", "lr": lr, "weight_decay": weight_decay}
    return DefaultOptimWrapperConstructor({"optimizer": optimizer}, PARAMWISE)(model).optimizer


def engine(case: cases.EngineCase) -> Answer:
    """AdamW's groups, ``LinearLR`` and ``CosineAnnealingLR``, ``ExpMomentumEMA``."""
    from mmdet.models.layers import ExpMomentumEMA
    from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR

    model = cases.toy()
    optimizer = _optimizer(model, case.lr, case.weight_decay)
    schedulers = [
        LinearLR(optimizer, start_factor=1e-5, by_epoch=False, begin=0, end=case.warmup),
        CosineAnnealingLR.build_iter_from_epoch(
            optimizer,
            eta_min=case.lr * 0.05,
            begin=case.epochs // 2,
            end=case.epochs,
            T_max=case.epochs // 2,
            by_epoch=True,
            epoch_length=case.epoch_length,
        ),
    ]
    average = ExpMomentumEMA(model, case.momentum, case.ramp, update_buffers=True)
    rates = []
    for step in range(len(case.gradients)):
        rates.append(optimizer.param_groups[0]["lr"])
        cases.drive(model, case, step)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        average.update_parameters(model)
    detector = build_detector(case.model)
    groups = _optimizer(detector, case.lr, case.weight_decay).param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    return {
        "rates": torch.tensor(rates, dtype=torch.float64),
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]),
        "average": torch.cat([v.flatten() for k, v in average.module.state_dict().items() if v.is_floating_point()]),
        "decays": torch.tensor([id(p) in decayed for _, p in sorted(detector.named_parameters())]),
    }


def training(case: cases.TrainingCase) -> Answer:
    """Losses, maps and assignments of every step."""
    from mmengine.optim.scheduler import LinearLR

    detector = fill(build_detector(case.steps[0].network.model)).train().double()
    optimizer = _optimizer(detector, case.lr, case.weight_decay)
    schedule = LinearLR(optimizer, start_factor=1e-5, by_epoch=False, begin=0, end=case.warmup)
    answers = []
    for number, one in enumerate(case.steps):
        answer = _step(detector, one)
        optimizer.zero_grad()
        (answer["loss_cls"] + answer["loss_bbox"]).backward()
        optimizer.step()
        schedule.step()
        answer["gt_inds"] = assign(case.scene(number, answer["cls_scores"], answer["distances"]))["gt_inds"]
        answers.append(answer)
    return {name: torch.stack([answer[name].detach() for answer in answers]) for name in answers[0]}


def quiet() -> None:
    """The original warns of many things that are not ours to mend."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


ANSWERS: dict[str, Callable[[Any], Answer]] = {
    "priors": priors,
    "overlaps": overlaps,
    "coder": coder,
    "assign": assign,
    "max_iou": max_iou,
    "fcos": fcos,
    "sim_ota": sim_ota,
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
