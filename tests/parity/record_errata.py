"""Record what MMDetection does in the cases that the book's page "Errata of MMDetection's RTMDet" lists.

Run in the reference environment, from the repository::

    PYTHONPATH=tests .venv-reference/bin/python -m parity.record_errata

Each function below is one line of that page, which shows its code and, from ``fixtures/errata.json``, its answer.
``tests/parity/test_errata.py`` holds the answers and what this package does instead.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from parity import cases, instances, original, original_instances
from parity.record import FIXTURES

INF, NAN = float("inf"), float("nan")
Answers = dict[str, Any]


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The error that a call ends in, in one line, or "none"."""
    try:
        function(*arguments, **options)
    except Exception as error:
        message = " ".join(str(error).split())
        return f"{type(error).__name__}: {message}"
    return "none"


def small(boxes: list[list[float]], **options: Any) -> cases.Scene:
    """A scene of 64 x 64 pixels with one image and three classes."""
    return cases.scene("errata", (64, 64), [torch.tensor(boxes).reshape(-1, 4)], num_classes=3, **options)


def head_of(scene: cases.Scene) -> Any:
    """An ``RTMDetHead`` to compute losses with; its own layers are never used."""
    return original._head(scene.num_classes, scene)


def loss_by_feat(scene: cases.Scene, **options: Any) -> dict[str, Any]:
    """Both losses of a scene, a number a level."""
    head = head_of(scene)
    maps = scene.levels(scene.cls_scores), scene.levels(scene.distances)
    losses = head.loss_by_feat(*maps, original._truth(scene), original._metas(scene), **options)
    return {name: [round(float(level), 6) for level in levels] for name, levels in losses.items()}


def far_prior() -> Answers:
    scene = cases.SCENES["far-prior"]()  # 640 x 640; box 0 is 6 px wide and holds no prior, box 1 holds 24
    answer = original.assign(scene)
    prior = int((answer["gt_inds"][0] == 1).nonzero())
    x, y, stride, _ = scene.priors[prior].tolist()
    center = scene.centers[0][0]
    return {
        "box": scene.boxes[0][0].tolist(),
        "prior": [x, y, stride],
        "distance": round(float((scene.priors[prior, :2] - center).norm())),
        "iou": float(answer["max_overlaps"][0, prior]),
    }


def centre_cost_overflow() -> Answers:
    strides_away = torch.tensor([10.0, 41.0, 41.6, 50.0])
    return {"strides away": strides_away.tolist(), "cost": torch.pow(10, strides_away - 3.0).tolist()}


def ignored_boxes() -> Answers:
    from mmengine.structures import InstanceData

    scene = small([[4.0, 4.0, 30.0, 30.0]])
    crowd = [InstanceData(bboxes=torch.tensor([[0.0, 0.0, 64.0, 64.0]]))]
    return {
        "without": loss_by_feat(scene)["loss_cls"],
        "with a crowd over the whole picture": loss_by_feat(scene, batch_gt_instances_ignore=crowd)["loss_cls"],
    }


def border_test() -> Answers:
    from mmdet.models.task_modules.prior_generators.utils import anchor_inside_flags

    points = torch.tensor([[0.0, 0.0, 8.0, 8.0], [5000.0, 5000.0, 8.0, 8.0], [0.0, 0.0, 32.0, 32.0]])
    flags = anchor_inside_flags(points, torch.ones(3, dtype=torch.bool), img_shape=(20, 20), allowed_border=0)
    return {"points (x, y, stride, stride)": points.tolist(), "inside a picture of 20 x 20": flags.tolist()}


def points_on_the_border() -> Answers:
    from mmdet.models.task_modules.assigners import DynamicSoftLabelAssigner
    from mmdet.structures.bbox import HorizontalBoxes
    from mmengine.structures import InstanceData

    scene = small([[8.0, 8.0, 24.0, 24.0]])  # two priors lie inside, at (16, 16), and eight on its border
    exact = scene.boxes[0].expand(len(scene.priors), 4)  # every prior predicts the box: k is the number of candidates
    predicted = InstanceData(scores=torch.zeros(len(exact), 3), bboxes=exact, priors=scene.priors)
    positives = {}
    for kind, boxes in ("plain tensor", scene.boxes[0]), ("HorizontalBoxes", HorizontalBoxes(scene.boxes[0])):
        truth = InstanceData(bboxes=boxes, labels=torch.tensor([0]))
        result = DynamicSoftLabelAssigner(topk=13).assign(predicted, truth)
        positives[kind] = int((result.gt_inds > 0).sum())
    return {"positives of a box given as": positives}


def no_valid_prior() -> Answers:
    scene = small([[4.0, 4.0, 30.0, 30.0]], pad_shapes=[(0, 0)])
    return {"error": error_of(loss_by_feat, scene)}


def changed_arguments() -> Answers:
    scene = small([[4.0, 4.0, 30.0, 30.0]])
    head, metas = head_of(scene), original._metas(scene)
    anchors, flags = head.get_anchors(scene.featmap_sizes, metas, device="cpu")
    arguments = scene.cls_scores, scene.bboxes, anchors, flags, original._truth(scene), metas
    return {"first call": error_of(head.get_targets, *arguments), "second call": error_of(head.get_targets, *arguments)}


def level_without_positives() -> Answers:
    scene = small([[4.0, 4.0, 12.0, 12.0]])  # positives on the finest level alone
    scene.distances[0, -1, 2] = INF  # one prediction of the coarsest level
    return loss_by_feat(scene)


def inverted_boxes() -> Answers:
    from mmdet.models.losses import GIoULoss

    predicted = torch.tensor([[30.0, 30.0, 0.5, 0.5]])  # right of its right side, below its lower side
    target = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    loss = float(GIoULoss()(predicted, target))
    return {"giou": round(1 - loss, 2), "loss": round(loss, 2)}


def bad_boxes_and_labels() -> Answers:
    scene = small([[4.0, 4.0, 30.0, 30.0]])
    wrong = {
        "a box with NaN": scene._replace(boxes=[torch.tensor([[4.0, NAN, 30.0, 30.0]])]),
        "a box without width": scene._replace(boxes=[torch.tensor([[9.0, 4.0, 9.0, 30.0]])]),
        "logits that are NaN": scene._replace(cls_scores=torch.full_like(scene.cls_scores, NAN)),
        "label 3 of 3 classes": scene._replace(labels=[torch.tensor([3])]),
    }
    return {name: error_of(loss_by_feat, changed) for name, changed in wrong.items()}


def precisions() -> Answers:
    from mmdet.models.losses import QualityFocalLoss

    scene, loss = small([[4.0, 4.0, 30.0, 30.0]]), QualityFocalLoss()
    label = torch.tensor([0])
    double = scene._replace(cls_scores=scene.cls_scores.double(), distances=scene.distances.double())
    return {
        "float64": error_of(loss_by_feat, double),
        "bfloat16": error_of(loss, torch.zeros(1, 3, dtype=torch.bfloat16), (label, torch.tensor([0.5]))),
    }


def odd_sizes() -> Answers:
    detector = original.build_detector(cases._SMALL).eval()
    return {
        f"{height} x {width}": error_of(detector.extract_feat, torch.zeros(1, 3, height, width))
        for height, width in ((64, 96), (64, 80))
    }


def instance_head() -> Any:
    """An ``RTMDetInsHead`` of one level."""
    from mmdet.models.dense_heads import RTMDetInsHead

    return RTMDetInsHead(
        1,
        in_channels=8,
        feat_channels=8,
        num_prototypes=8,
        norm_cfg={"type": "BN"},
        anchor_generator={"type": "MlvlPointGenerator", "offset": 0, "strides": [8]},
        bbox_coder={"type": "DistancePointBBoxCoder"},
        loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        loss_bbox={"type": "GIoULoss", "loss_weight": 2.0},
        loss_mask={"type": "DiceLoss", "loss_weight": 2.0, "eps": 5e-6, "reduction": "mean"},
        train_cfg=head_of(small([])).train_cfg,
    )


def rescaled_masks() -> Answers:
    from mmengine.config import ConfigDict

    cls_score, distances, kernels = (
        torch.full((1, 1, 4, 4), 3.0),
        torch.full((1, 4, 4, 4), 8.0),
        torch.zeros(1, 169, 4, 4),
    )
    config = ConfigDict(
        nms_pre=10, score_thr=0.05, nms={"type": "nms", "iou_threshold": 0.6}, max_per_img=9, mask_thr_binary=0.5
    )
    # a picture 16 px high and 64 px wide, which the network saw as 32 x 32
    meta = {"img_shape": (32, 32), "ori_shape": (16, 64), "scale_factor": (0.5, 2.0)}
    (found,) = instance_head().predict_by_feat(
        [cls_score], [distances], [kernels], torch.zeros(1, 8, 4, 4), batch_img_metas=[meta], cfg=config, rescale=True
    )
    return {"height and width of the picture": [16, 64], "height and width of its masks": list(found.masks.shape[1:])}


def repeated_mask_loss() -> Answers:
    import numpy as np
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    truth = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 28.0, 28.0]]), labels=torch.tensor([0]))
    truth.masks = BitmapMasks(np.ones((1, 32, 32), np.uint8), 32, 32)
    maps = [[torch.zeros(1, channels, 4, 4)] for channels in (1, 4, 169)]
    arguments = *maps, torch.zeros(1, 8, 4, 4), [truth], [{"pad_shape": (32, 32), "img_shape": (32, 32)}]
    head = instance_head()
    return {call: error_of(head.loss_by_feat, *arguments) for call in ("first call", "second call")}


def one_tower() -> Answers:
    head = original_instances.head().train()
    head([torch.randn(2, 32, n, n) for n in (8, 4, 2)])
    kernels = head.kernel_convs
    return {
        "reg_convs[0] is cls_convs[0]": head.reg_convs[0] is head.cls_convs[0],
        "updates of its BatchNorms in one step": int(head.cls_convs[0][0].bn.num_batches_tracked),
        "levels share the convolutions of the kernels": kernels[0][0].conv is kernels[1][0].conv,
    }


def strangers_kernels() -> Answers:
    case = instances.LOSSES["padded"]()  # 128 x 160; the second image fills 96 x 128 of it
    given, meant = (original_instances.losses(case, corrected) for corrected in (False, True))
    positive = given["gt_inds"] > 0
    # of each level [B,169,h,w], one after the other
    sizes = [2 * 169 * rows * columns for rows, columns in case.scene.featmap_sizes]
    levels = zip(given["grad_kernels"].split(sizes), case.scene.featmap_sizes, strict=True)
    grads = torch.cat([level.view(2, 169, rows * columns) for level, (rows, columns) in levels], 2).mT
    return {
        "loss_mask": round(float(given["loss_mask"]), 4),
        "with the kernels of the positives": round(float(meant["loss_mask"]), 4),
        "positives": int(positive.sum()),
        "largest gradient of a kernel that is no positive's": round(float(grads[~positive].abs().max()), 6),
    }


def short_masks() -> Answers:
    case = instances.PASTE["short"]()
    found = original_instances.predict(case)
    return {"picture": list(case.originals[0]), "its masks": found["mask_sizes"][0, 1:].tolist()}


def empty_masks() -> Answers:
    from mmdet.models.losses import DiceLoss

    logits = cases.normal("errata/dice", 2, 16, 16).requires_grad_()
    target = torch.zeros(2, 16, 16)
    target[0, 4:8, 4:12] = 1  # the other one holds nothing
    each = DiceLoss(loss_weight=2.0, eps=5e-6, reduction="none")(logits, target)
    each.sum().backward()
    return {
        "loss": [round(float(loss), 4) for loss in each],
        "largest gradient": [round(float(g.abs().max()), 4) for g in logits.grad],
    }


def no_mask_gradient() -> Answers:
    case = instances.STEP["none"]()  # two images without a box
    detector = original_instances.build(case.network)
    *maps, mask_feat = detector.bbox_head(detector.extract_feat(case.network.images.double()))
    maps = [[level.float() for level in branch] for branch in maps]
    size = (case.network.images.shape[-2], case.network.images.shape[-1])
    scene = case.target.scene
    losses = detector.bbox_head.loss_by_feat(
        *maps, mask_feat.float(), original_instances.truth(scene, size), original_instances.metas(scene)
    )
    (sum(losses["loss_cls"]) + sum(losses["loss_bbox"]) + losses["loss_mask"]).backward()
    missing = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    return {
        "parameters without a gradient": len(missing),
        "of the branches": sorted({n.split(".")[1] for n in missing}),
    }


def ties() -> Answers:
    equal = torch.zeros(40)
    return {"the three smallest of forty zeros": equal.topk(3, largest=False).indices.tolist()}


def shared_depthwise() -> Answers:
    model = {**cases._NANO, "share_conv": True}
    return {"error": error_of(original.build_detector, model)}


def objectness_by_default() -> Answers:
    import inspect

    from mmdet.models.dense_heads import RTMDetSepBNHead, rtmdet_head

    default = inspect.signature(rtmdet_head.RTMDetHead).parameters["with_objectness"].default
    head = inspect.signature(RTMDetSepBNHead)
    counts = {}
    for with_objectness in (False, True):
        detector = original.build_detector({**cases._NANO, "with_objectness": with_objectness})
        counts[f"with_objectness={with_objectness}"] = sum(p.numel() for p in detector.parameters())
    options = {name: head.parameters[name].default for name in ("share_conv", "use_depthwise")}
    return {"default of with_objectness": default, "other defaults": options, "parameters of nano": counts}


def clipped_to_padding() -> Answers:
    import numpy as np
    from mmdet.datasets.transforms import Pad

    results = {"img": np.zeros((40, 60, 3), np.uint8), "img_shape": (40, 60)}
    shape = Pad(size=(64, 64))(results)["img_shape"]
    scene = small([[4.0, 4.0, 60.0, 60.0]])
    far = scene._replace(distances=torch.full_like(scene.distances, 500.0))
    found = original.predict(cases.PredictCase(far, img_shapes=[tuple(shape)]))
    return {"img_shape after Pad": list(shape), "right and lower end of boxes": found["boxes"].amax(0)[2:].tolist()}


def negative_coordinates() -> Answers:
    from mmcv.ops import batched_nms

    boxes = torch.tensor([[-11.0, -11.0, -1.0, -1.0], [0.0, 0.0, 10.0, 10.0]])  # they do not touch
    kept = {}
    for name, labels in (("one class", [0, 0]), ("two classes", [1, 0])):
        _, keep = batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor(labels), {"iou_threshold": 0.5})
        kept[name] = keep.tolist()
    return {"boxes": boxes.tolist(), "kept": kept}


def shared_average() -> Answers:
    from mmdet.models.layers import ExpMomentumEMA
    from torch import nn

    shared = nn.Linear(1, 1, bias=False)
    model = nn.ModuleDict({"level0": shared, "level1": shared, "level2": shared, "alone": nn.Linear(1, 1, bias=False)})
    average = ExpMomentumEMA(model, momentum=0.1, gamma=1, update_buffers=True)
    with torch.no_grad():
        for weight in (0.0, 1.0):  # the first update copies
            for parameter in model.parameters():
                parameter.fill_(weight)
            average.update_parameters(model)
    state = average.module.state_dict()
    return {name: round(float(state[f"{name}.weight"]), 6) for name in ("alone", "level0")}


def cosine_of_odd_runs() -> Answers:
    from mmengine.optim.scheduler import CosineAnnealingLR

    answer = {}
    for epochs in (6, 7):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        half = epochs // 2  # begin and T_max of the configs
        options = {"eta_min": 0.05, "begin": half, "end": epochs, "T_max": half, "by_epoch": True, "epoch_length": 100}
        schedule = CosineAnnealingLR.build_iter_from_epoch(optimizer, **options)
        rates = []
        for _ in range(epochs * 100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        answer[f"{epochs} epochs, begin of each and the last step"] = [round(r, 3) for r in [*rates[::100], rates[-1]]]
    return answer


def backbone_init() -> Answers:
    from mmdet.models.backbones import CSPNeXt

    answer = {}
    for name, options in (("default", {}), ("init_cfg=None", {"init_cfg": None})):
        torch.manual_seed(0)
        backbone = CSPNeXt(widen_factor=0.25, deepen_factor=0.167, norm_cfg={"type": "BN"}, **options)
        backbone.init_weights()
        weight = backbone.stage1[0].conv.weight  # fan in 9 * 16, fan out 9 * 32
        answer[name] = {"largest * sqrt(fan in)": round(float(weight.abs().max()) * 12, 2)}
    return answer


def pictures_without_boxes() -> Answers:
    import numpy as np
    from mmdet.datasets.transforms import RandomCrop
    from mmdet.structures.bbox import HorizontalBoxes

    def crop(boxes: list[list[float]]) -> str:
        boxes = HorizontalBoxes(torch.tensor(boxes).reshape(-1, 4))
        picture = {"img": np.zeros((32, 32, 3), np.uint8), "gt_bboxes": boxes, "gt_bboxes_labels": np.zeros(len(boxes))}
        return "given up" if RandomCrop(crop_size=(32, 32))(picture) is None else "kept"

    return {"one box": crop([[4.0, 4.0, 30.0, 30.0]]), "no box": crop([])}


def masks_of_rle() -> Answers:
    from mmdet.datasets.transforms import LoadAnnotations

    square = {  # of 8 x 8 pixels, in an image of 16 x 16
        "as polygon": [[4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0]],
        "as RLE": {"size": [16, 16], "counts": [68, *[8] * 15, 68]},
    }
    answer = {}
    for name, mask in square.items():
        instance = {"bbox": [4.0, 4.0, 12.0, 12.0], "bbox_label": 0, "ignore_flag": 0, "mask": mask}
        image = {"img_shape": (16, 16), "ori_shape": (16, 16), "instances": [instance]}
        loaded = LoadAnnotations(with_bbox=True, with_mask=True, poly2mask=False)(image)
        answer[name] = {"ignored": bool(loaded["gt_ignore_flags"][0]), "pixels": int(loaded["gt_masks"].areas[0])}
    return answer


def clamped_polygons() -> Answers:
    import numpy as np
    from mmdet.structures.mask import PolygonMasks

    triangle = PolygonMasks([[np.array([8.0, 8.0, 40.0, 8.0, 8.0, 40.0])]], 64, 64)
    moved = triangle.translate((64, 64), -16, direction="horizontal")
    return {"vertices": moved.masks[0][0].tolist(), "area": float(moved.areas[0])}


def hollow_crops() -> Answers:
    import numpy as np
    from mmdet.datasets.transforms import RandomCrop
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import PolygonMasks

    angle = [0.0, 0.0, 16.0, 0.0, 16.0, 48.0, 64.0, 48.0, 64.0, 64.0, 0.0, 64.0]  # an L, whose hollow is up right
    answer = {}
    for recompute in (False, True):
        crop = RandomCrop(crop_size=(32, 32), recompute_bbox=recompute, allow_negative_crop=recompute)
        crop._rand_offset = lambda margin: (0, 32)  # rows, columns
        cropped = crop(
            {
                "img": np.zeros((64, 64, 3), np.uint8),
                "gt_bboxes": HorizontalBoxes(torch.tensor([[0.0, 0.0, 64.0, 64.0]])),
                "gt_bboxes_labels": np.zeros(1),
                "gt_ignore_flags": np.zeros(1, bool),
                "gt_masks": PolygonMasks([[np.array(angle)]], 64, 64),
            }
        )
        boxes, areas = cropped["gt_bboxes"].tensor.tolist(), cropped["gt_masks"].areas.tolist()
        answer[f"recompute_bbox={recompute}"] = {"boxes": boxes, "mask pixels": areas}
    return answer


def batch_of_x() -> Answers:
    from pathlib import Path

    import mmdet
    from mmengine.config import Config

    recipes = Path(mmdet.__file__).parent / ".mim" / "configs" / "rtmdet"
    answer = {}
    for name in ("rtmdet-ins_l_8xb32-300e_coco", "rtmdet-ins_x_8xb16-300e_coco"):
        config = Config.fromfile(recipes / f"{name}.py")
        rate, images = config.optim_wrapper.optimizer.lr, config.train_dataloader.batch_size
        answer[name] = {"images per GPU": images, "learning rate": rate}
    return answer


ERRATA: dict[str, Callable[[], Answers]] = {
    function.__name__: function
    for function in (
        far_prior,
        centre_cost_overflow,
        ignored_boxes,
        border_test,
        no_valid_prior,
        changed_arguments,
        level_without_positives,
        inverted_boxes,
        bad_boxes_and_labels,
        precisions,
        odd_sizes,
        rescaled_masks,
        repeated_mask_loss,
        one_tower,
        strangers_kernels,
        short_masks,
        empty_masks,
        no_mask_gradient,
        masks_of_rle,
        clamped_polygons,
        hollow_crops,
        batch_of_x,
        ties,
        shared_depthwise,
        objectness_by_default,
        clipped_to_padding,
        negative_coordinates,
        shared_average,
        cosine_of_odd_runs,
        backbone_init,
        pictures_without_boxes,
        points_on_the_border,
    )
}


def main() -> None:
    """Run every function and write the answers."""
    original.quiet()
    torch.set_num_threads(1)
    record = {"versions": original.versions(), "answers": {name: run() for name, run in ERRATA.items()}}
    # infinities and NaN have no JSON of their own: Python reads back what it writes
    (FIXTURES / "errata.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, answer in record["answers"].items():
        print(f"{name}: {answer}")


if __name__ == "__main__":
    main()
