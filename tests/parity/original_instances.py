"""What MMDetection itself answers to a case with masks; runs in the reference environment only."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from parity import instances, original
from parity.cases import Scene
from parity.compare import instance_network_answer, pack_masks, settle_order
from parity.fill import fill
from torch import Tensor

Answer = dict[str, Tensor]


def head(num_classes: int = instances.CLASSES) -> Any:
    """``RTMDetInsSepBNHead`` of the published config, of which only the pipeline is used."""
    return original.build_detector({**instances._SMALL, "widen_factor": 0.125, "num_classes": num_classes}).bbox_head


def metas(scene: Scene) -> list[dict[str, Any]]:
    return [{"img_shape": p, "pad_shape": p} for p in scene.pad_shapes]


def truth(scene: Scene, size: tuple[int, int]) -> list[Any]:
    """Instances with bitmaps, each time anew: the original changes what it is given."""
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    assert scene.masks is not None
    rows = zip(scene.boxes, scene.labels, scene.masks, strict=True)
    return [
        InstanceData(bboxes=b.clone(), labels=y.clone(), masks=BitmapMasks(m.numpy().astype(np.uint8), *size))
        for b, y, m in rows
    ]


def ignored(case: instances.InstanceCase, size: tuple[int, int]) -> list[Any]:
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    full = [np.ones((len(b), *size), np.uint8) for b in case.crowds]
    return [
        InstanceData(bboxes=b, labels=torch.zeros(len(b), dtype=torch.int64), masks=BitmapMasks(m, *size))
        for b, m in zip(case.crowds, full, strict=True)
    ]


@contextmanager
def watched(made: Any) -> Iterator[dict[str, list[Any]]]:
    """Keep what a head computes on the way: assignments, mask logits, the Dice loss of each positive."""
    seen: dict[str, list[Any]] = {"assigned": [], "logits": [], "dice": []}
    assign, predict, dice = made.assigner.assign, made._mask_predict_by_feat_single, made.loss_mask.forward

    def keep(name: str, value: Any) -> Any:
        seen[name].append(value)
        return value

    def both(pred: Tensor, target: Tensor, **options: Any) -> Tensor:
        keep("dice", dice(pred, target, reduction_override="none").detach())
        return dice(pred, target, **options)

    made.assigner.assign = lambda *a, **k: keep("assigned", assign(*a, **k))
    made._mask_predict_by_feat_single = lambda *a: keep("logits", predict(*a))
    made.loss_mask.forward = both
    try:
        yield seen
    finally:
        made.assigner.assign, made.loss_mask.forward = assign, dice
        del made._mask_predict_by_feat_single


def losses(case: instances.InstanceCase, corrected: bool = True) -> Answer:
    """``RTMDetInsSepBNHead.loss_by_feat`` summed over levels, and its gradients.

    Where priors take no part, the original's positives index the kernels of all priors with numbers that count the
    others alone: ``corrected`` gives it the kernels that the numbers mean.
    """
    scene, made = case.scene, head()
    size = (scene.featmap_sizes[0][0] * 8, scene.featmap_sizes[0][1] * 8)
    maps = [[level.requires_grad_() for level in scene.levels(t)] for t in (scene.cls_scores, scene.distances)]
    kernels = [level.requires_grad_() for level in scene.levels(case.kernels)]
    mask_feat = case.mask_feat.clone().requires_grad_()
    valid, of_masks = scene.valid, made.loss_mask_by_feat
    if corrected:
        made.loss_mask_by_feat = lambda feat, flat, sampled, gt: of_masks(
            feat, [k[v] for k, v in zip(flat, valid, strict=True)], sampled, gt
        )
    with watched(made) as seen:
        answer = made.loss_by_feat(*maps, kernels, mask_feat, truth(scene, size), metas(scene), ignored(case, size))
    total = {name: sum(value) if isinstance(value, list) else value for name, value in answer.items()}
    sum(total.values()).backward()
    gt_inds = torch.full(valid.shape, -1)
    for row, flags, result in zip(gt_inds, valid, seen["assigned"], strict=True):
        row[flags] = result.gt_inds
    grads = {
        "grad_cls_scores": maps[0],
        "grad_bbox_preds": maps[1],
        "grad_kernels": kernels,
        "grad_mask_feat": [mask_feat],
    }
    return {
        **{name: value.detach() for name, value in total.items()},
        "gt_inds": gt_inds,
        "dice": torch.cat([torch.zeros(0), *seen["dice"]]),
        "mask_logits": torch.cat([logits.detach() for logits in seen["logits"]]),
        # where no image has a positive, kernels get none at all
        **{
            name: torch.cat([torch.zeros_like(v).flatten() if v.grad is None else v.grad.flatten() for v in levels])
            for name, levels in grads.items()
        },
    }


def found(case: instances.PasteCase, made: Any = None) -> list[Any]:
    """What ``predict_by_feat`` gives."""
    from mmengine.config import ConfigDict

    scene, made = case.outputs.scene, made or head()
    config = ConfigDict(
        score_thr=case.score_threshold,
        nms_pre=1000,
        min_bbox_size=0,
        nms={"type": "nms", "iou_threshold": 0.6},
        max_per_img=case.max_per_image,
        mask_thr_binary=0.5,
    )
    outputs = [scene.levels(t) for t in (scene.cls_scores, scene.distances, case.outputs.kernels)]
    options = {"batch_img_metas": _infos(case), "cfg": config, "rescale": case.scale_factors is not None}
    with torch.no_grad():
        return made.predict_by_feat(*outputs, case.outputs.mask_feat, **options)


def _infos(case: instances.PasteCase) -> list[dict[str, Any]]:
    factors = case.scale_factors or [(1.0, 1.0)] * len(case.originals)
    return [
        {**meta, "ori_shape": shape, "scale_factor": factor}
        for meta, shape, factor in zip(metas(case.outputs.scene), case.originals, factors, strict=True)
    ]


def predict(case: instances.PasteCase) -> Answer:
    """Detections; of masks the bits, and how many pixels lie so near to one half that they may turn."""
    made, infos = head(), _infos(case)
    with watched(made) as seen:
        detected = found(case, made)
    logits, results, near = iter(seen["logits"]), [], [torch.zeros(0, dtype=torch.int64)]
    for result, meta in zip(detected, infos, strict=True):
        order = settle_order(result.bboxes, result.scores, result.labels)
        results.append(result[order])
        if len(result):
            near.append(_near(next(logits), meta, case.scale_factors is not None)[order])
    return {
        "count": torch.tensor([len(r.bboxes) for r in results]),
        "boxes": torch.cat([r.bboxes for r in results]),
        "scores": torch.cat([r.scores for r in results]),
        "labels": torch.cat([r.labels for r in results]),
        **pack_masks([r.masks for r in results]),
        "near": torch.cat(near),
    }


def _near(logits: Tensor, meta: dict[str, Any], rescale: bool) -> Tensor:
    """Pixels of each mask whose logit rounding may turn, stretched as ``_bbox_mask_post_process`` does it."""
    stretched = torch.nn.functional.interpolate(logits[None], scale_factor=8, mode="bilinear")
    if rescale:
        across, down = (1 / factor for factor in meta["scale_factor"])
        size = (math.ceil(stretched.shape[-2] * across), math.ceil(stretched.shape[-1] * down))
        stretched = torch.nn.functional.interpolate(stretched, size=size, mode="bilinear", align_corners=False)
        stretched = stretched[..., : meta["ori_shape"][0], : meta["ori_shape"][1]]
    return (stretched[0].abs() < 1e-4).sum((1, 2))


def build(case: Any) -> Any:
    """The network of a case, in fp64; boxes start one stride wide, or relu would leave none."""
    detector = fill(original.build_detector(case.model))
    for name, value in detector.state_dict().items():
        if "rtm_reg" in name and name.endswith("bias"):
            value.add_(1.0)
    return detector.double().train(case.training)


def forward(case: Any) -> Answer:
    """All maps, and the statistics that training leaves in the BatchNorms."""
    detector = build(case)
    with torch.no_grad():
        outputs = detector.bbox_head(detector.extract_feat(case.images.double()))
    return instance_network_answer(detector, outputs, case.training)


def step(case: instances.InstanceStep) -> Answer:
    """Losses of a whole network, the assignment, and the size of every parameter's gradient, by sorted name."""
    detector, scene = build(case.network), case.target.scene
    *maps, mask_feat = detector.bbox_head(detector.extract_feat(case.network.images.double()))
    size = (case.network.images.shape[-2], case.network.images.shape[-1])
    maps = [[level.float() for level in branch] for branch in maps]
    with watched(detector.bbox_head) as seen:
        answer = detector.bbox_head.loss_by_feat(*maps, mask_feat.float(), truth(scene, size), metas(scene))
    total = {name: sum(value) if isinstance(value, list) else value for name, value in answer.items()}
    sum(total.values()).backward()
    norms = [p.grad.norm() if p.grad is not None else torch.zeros(()) for _, p in sorted(detector.named_parameters())]
    return {
        **{name: value.detach() for name, value in total.items()},
        "gt_inds": torch.stack([result.gt_inds for result in seen["assigned"]]),
        "grad_norms": torch.stack([norm.double() for norm in norms]).float(),
    }


def sizes(case: instances.InstanceStep) -> Answer:
    """Both modes and one step."""
    evaluated = forward(case.network._replace(training=False))
    trained = {f"training/{name}": value for name, value in forward(case.network).items()}
    return evaluated | trained | step(case)


ANSWERS: dict[str, Callable[[Any], Answer]] = {
    "ins_losses": losses,
    "ins_predict": predict,
    "ins_forward": forward,
    "ins_step": step,
    "ins_sizes": sizes,
}
