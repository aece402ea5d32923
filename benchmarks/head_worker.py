"""One side of ``head.py``: what is timed, in the project's environment or in the reference environment.

Both sides get the same inputs, from ``tests/parity/cases.py``.  A worker reads one request a line and answers each with
one line of JSON; between two requests it does nothing, so that the other side has the machine to itself.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from inference_worker import Stopwatch, time_method
from parity import cases, instances
from parity.fill import fill
from torch import Tensor

Answer = dict[str, Tensor]
TINY = {
    "deepen_factor": 0.167,
    "widen_factor": 0.375,
    "neck_csp_blocks": 1,
    "num_classes": 80,
    "exp_on_reg": False,
}


class Work(NamedTuple):
    """Something to time.

    Attributes:
        run: does it once; may return the seconds of a part of it.
        answer: does it once, and returns what came out.
    """

    run: Callable[[], Any]
    answer: Callable[[], Answer]


# --- inputs ----------------------------------------------------------------------------------------------------------


def scene(size: int, images: int, boxes: int, classes: int = 80, longest: int = 0) -> cases.Scene:
    """Boxes of all sizes from 16 px, small ones more often, and the outputs of a half-trained detector.

    Three such boxes cover most of an image.  With ``longest`` their sides are drawn from 12 px to this, every doubling
    as often as any other: as in COCO, whose images hold 7 boxes in the median.
    """
    shape = (size, size)
    key = f"benchmark-{size}-{images}-{boxes}"
    if longest:
        truth = [doublings(f"{key}/{image}", boxes, size, longest) for image in range(images)]
    else:
        truth = [cases.random_boxes(f"{key}/{image}", boxes, shape, low=16.0) for image in range(images)]
    return cases.scene(key, shape, truth, num_classes=classes)


def doublings(key: str, count: int, size: int, longest: int) -> Tensor:
    """Boxes anywhere in an image, whose sides are log-uniform from 12 px to ``longest``."""
    side = 12 * (longest / 12) ** cases.uniform(f"{key}/side", count, 2)
    corner = (size - side) * cases.uniform(f"{key}/corner", count, 2)
    return torch.cat([corner, corner + side], -1)


def crowd() -> cases.Scene:
    """Every class of every prior lies over the score threshold of 0.001: 672,000 candidates."""
    made = scene(640, 1, 10)
    return made._replace(cls_scores=cases.normal("crowd/logits", *made.cls_scores.shape) - 3.0)


def with_masks(size: int, images: int, boxes: int) -> instances.InstanceCase:
    """Masks of all sizes, and the outputs of a half-trained detector: boxes near the objects, so that many learn."""
    return instances.instances(f"benchmark-masks-{size}-{images}", (size, size), counts=(boxes,) * images)


def hundred(height: int, width: int, size: int = 640, objects: bool = False) -> instances.PasteCase:
    """A hundred detections or more of an image that was resized to fit the input.

    Args:
        height: of the image, before it was resized.
        width: likewise.
        size: of the input.
        objects: whether each mask is a diamond, about as large as the box that is predicted with it, as masks of a
            detector are that has learned; otherwise kernels are noise, and masks are scattered over the whole image.
    """
    factor = size / max(height, width)
    content = round(height * factor), round(width * factor)
    factors = [(content[1] / width, content[0] / height)]
    made = instances.instances(f"benchmark-paste-{size}", (size, size), counts=(20,))
    # halved, so that no scores are so near to 1 that rounding decides which of two boxes suppresses the other
    made = made._replace(scene=made.scene._replace(cls_scores=made.scene.cls_scores / 2))
    if objects:
        made = made._replace(kernels=diamonds(made.scene.priors, made.scene.distances[0], made.kernels[0])[None])
    return instances.PasteCase(made, [(height, width)], factors, max_per_image=100)


def diamonds(priors: Tensor, distances: Tensor, noise: Tensor) -> Tensor:
    """Kernels ``[N,169]`` of masks that end where ``1 - |x| / half width - |y| / half height`` of each box is 0.

    The first convolution turns the place of a cell in the box, ``x`` and ``y``, into their positive and negative parts,
    the second hands these on, the third takes them off.  A hundredth of noise keeps all other weights from being 0.
    """
    left, top, right, bottom = distances.unbind(-1)
    half = torch.stack([left + right, top + bottom], -1).clamp(min=8) / 2  # [N,2], pixels
    middle = torch.stack([right - left, bottom - top], -1) / 2  # of the box, from the prior
    kernels = noise / 100
    weight1, weight2 = kernels[:, :80].view(-1, 8, 10), kernels[:, 80:144].view(-1, 8, 8)
    weight3, bias1, bias3 = kernels[:, 144:152], kernels[:, 152:160], kernels[:, 168]
    for hidden, sign in enumerate((1, 1, -1, -1)):
        side = hidden % 2
        # a relative coordinate is (prior - cell) / (8 strides)
        weight1[:, hidden, side] += sign * -8 * priors[:, 2] / half[:, side]
        bias1[:, hidden] -= sign * middle[:, side] / half[:, side]
        weight2[:, hidden, hidden] += 1
        weight3[:, hidden] -= 1
    bias3 += 1
    return kernels


def prepare(name: str, side: Any) -> Work:
    """The work of a case, such as ``assign 640 1 300 80``: size, images, boxes, classes, longest side."""
    kind, *numbers = name.split()
    if kind == "predict":
        return side.predict(crowd())
    if kind == "masks":
        return side.masks(with_masks(*(int(number) for number in numbers)))
    if kind in ("noise", "objects"):
        return side.paste(hundred(*(int(number) for number in numbers), objects=kind == "objects"))
    made = scene(*(int(number) for number in numbers))
    return {"assign": side.assign, "given": side.given, "loss": side.loss, "step": side.step}[kind](made)


def leaves(made: cases.Scene) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of the network, as if it had just made them."""
    maps = made.levels(made.cls_scores), made.levels(made.distances)
    return tuple([level.requires_grad_() for level in branch] for branch in maps)  # type: ignore[return-value]


def gradients(maps: tuple[list[Tensor], list[Tensor]]) -> Answer:
    """Gradients to the maps; they are taken off, or the next run would add to them."""
    names = ("grad_cls_scores", "grad_bbox_preds")
    found = {n: torch.cat([level.grad.flatten() for level in b]) for n, b in zip(names, maps, strict=True)}  # type: ignore[union-attr]
    forget(maps)
    return found


def forget(maps: tuple[list[Tensor], list[Tensor]]) -> None:
    """Drop the gradients."""
    for level in (*maps[0], *maps[1]):
        level.grad = None


MASK_ANSWERS = ("loss_cls", "loss_bbox", "loss_mask", "grad_kernels", "grad_mask_feat", "gt_inds")


def counted(found: Any, boxes: Tensor) -> Answer:
    """Pixels of each mask in each row and in each column, in an order that equal scores do not change."""
    from parity.compare import settle_order

    masks = found.masks[settle_order(boxes, found.scores, found.labels)]
    return {"rows": masks.sum(2).float(), "columns": masks.sum(1).float()}


def training_step(network: Callable[[], Any], head: Callable[..., Answer], optimizer: torch.optim.Optimizer) -> float:
    """Network, losses, backward, optimizer; returns the seconds from the maps to their gradients."""
    maps = network()
    made = [[level.detach().requires_grad_() for level in branch] for branch in maps]
    start = time.perf_counter()
    losses = head(*made)
    (losses["loss_cls"] + losses["loss_bbox"]).backward()
    seconds = time.perf_counter() - start
    torch.autograd.backward([m for b in maps for m in b], [m.grad for b in made for m in b])
    optimizer.step()
    optimizer.zero_grad()
    return seconds


# --- MMDetection -----------------------------------------------------------------------------------------------------


class Original:
    """Works in the reference environment only."""

    def __init__(self) -> None:
        from parity import original

        original.quiet()
        self.parity = original

    def assign(self, made: cases.Scene) -> Work:
        """``DynamicSoftLabelAssigner.assign``."""
        from mmdet.models.task_modules import DynamicSoftLabelAssigner
        from mmengine.structures import InstanceData

        assigner = DynamicSoftLabelAssigner(made.soft_center_radius, made.topk, made.iou_weight)
        predicted = InstanceData(scores=made.cls_scores[0], bboxes=made.bboxes[0], priors=made.priors)
        truth = InstanceData(bboxes=made.boxes[0], labels=made.labels[0])

        def answer() -> Answer:
            result = assigner.assign(predicted, truth)
            overlaps = result.max_overlaps.clamp(min=0)
            return {"gt_inds": result.gt_inds[None], "max_overlaps": overlaps[None], "labels": result.labels[None]}

        return Work(lambda: assigner.assign(predicted, truth), answer)

    given = assign  # it has no sum over the classes that another could give it

    def loss(self, made: cases.Scene) -> Work:
        """``RTMDetHead.loss_by_feat``, and backward."""
        head, maps = self.parity._head(made.num_classes, made), leaves(made)
        truth, metas = self.parity._truth(made), self.parity._metas(made)

        def run() -> Answer:
            losses = {name: sum(levels) for name, levels in head.loss_by_feat(*maps, truth, metas).items()}
            (losses["loss_cls"] + losses["loss_bbox"]).backward()
            return losses

        def answer() -> Answer:
            losses = {name: value.detach() for name, value in run().items()}
            return losses | gradients(maps) | {"gt_inds": self.parity.assign(made)["gt_inds"]}

        return Work(lambda: (run(), forget(maps)), answer)

    def step(self, made: cases.Scene) -> Work:
        """One step of tiny with AdamW."""
        detector = fill(self.parity.build_detector(TINY)).train()
        truth, metas, images = self.parity._truth(made), self.parity._metas(made), noise_images(made)
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-9)

        def head(*maps: Any) -> Answer:
            return {name: sum(x) for name, x in detector.bbox_head.loss_by_feat(*maps, truth, metas).items()}

        def network() -> Any:
            return detector.bbox_head(detector.extract_feat(images))

        def answer() -> Answer:
            return {name: value.detach() for name, value in head(*network()).items()}

        return Work(lambda: training_step(network, head, optimizer), answer)

    def predict(self, made: cases.Scene) -> Work:
        """``predict_by_feat``, without the time of suppression."""
        case = cases.PredictCase(made)

        def answer() -> Answer:
            return self.parity.predict(case)

        from mmengine.config import ConfigDict

        nms = {"type": "nms", "iou_threshold": case.nms_iou_threshold}
        config = ConfigDict(
            score_thr=case.score_threshold, nms_pre=case.nms_pre, min_bbox_size=0, nms=nms, max_per_img=300
        )
        head = self.parity._head(made.num_classes, made)
        maps = made.levels(made.cls_scores), made.levels(made.distances)
        metas = [{"img_shape": made.pad_shapes[0], "scale_factor": (1.0, 1.0)}]
        run = partial(head.predict_by_feat, *maps, batch_img_metas=metas, cfg=config, rescale=True)
        return Work(less_suppression(run), answer)

    def masks(self, made: instances.InstanceCase) -> Work:
        """``RTMDetInsHead.loss_by_feat`` with bitmaps, and backward; the time is without making the bitmaps."""
        from parity import original_instances

        head, scene = original_instances.head(), made.scene
        shape, metas = scene.pad_shapes[0], original_instances.metas(scene)
        maps = [scene.levels(part) for part in (scene.cls_scores, scene.distances, made.kernels)]
        # a copy: the answer takes its own gradient of what was made
        mask_feat = made.mask_feat.clone().requires_grad_()
        parts = [level.requires_grad_() for levels in maps for level in levels] + [mask_feat]

        def run() -> float:
            truth = original_instances.truth(scene, shape)  # anew: the original changes what it is given
            start = time.perf_counter()
            losses = head.loss_by_feat(*maps, mask_feat, truth, metas)
            (sum(losses["loss_cls"]) + sum(losses["loss_bbox"]) + losses["loss_mask"]).backward()
            seconds = time.perf_counter() - start
            for part in parts:
                part.grad = None
            return seconds

        def answer() -> Answer:
            found = original_instances.losses(made)
            return {name: found[name] for name in MASK_ANSWERS}

        return Work(run, answer)

    def paste(self, made: instances.PasteCase) -> Work:
        """``predict_by_feat`` with masks, without the time of suppression."""
        from parity import original_instances

        def answer() -> Answer:
            (found,) = original_instances.found(made)
            return counted(found, found.bboxes)

        return Work(less_suppression(partial(original_instances.found, made)), answer)


def less_suppression(run: Callable[[], Any]) -> Callable[[], float]:
    """A run that tells its seconds without those of MMDetection's NMS.

    In Python it stands in for a compiled operation, which the reference environment lacks.
    """
    import mmcv._ext as operations

    suppression = Stopwatch()
    time_method(operations, "nms", suppression)

    def timed() -> float:
        before, start = suppression.seconds, time.perf_counter()
        run()
        return time.perf_counter() - start - (suppression.seconds - before)

    return timed


# --- this package ----------------------------------------------------------------------------------------------------


def in_rows(values: Tensor) -> Tensor:
    """Each column in a row of memory, as the pipeline's own ``flatten`` leaves logits, boxes and priors."""
    return values.mT.contiguous().mT


class Ours:
    """Works in the project's environment only.

    Attributes:
        compile: what a function goes through before it is run.
    """

    def __init__(self) -> None:
        from parity import ours

        self.parity = ours
        self.compile: Callable[..., Any] = lambda function: function

    def assign(self, made: cases.Scene, given: bool = False) -> Work:
        """``DynamicSoftLabelAssigner.assign``; where asked for, with the sum over the classes as training gives it."""
        from minirtmdet.head.assignment import DynamicSoftLabelAssigner, background_loss

        assigner = DynamicSoftLabelAssigner(made.topk, made.iou_weight, made.soft_center_radius)
        assign, truth = self.compile(assigner.assign), self.parity._ground_truth(made)
        logits, bboxes, priors = in_rows(made.cls_scores), in_rows(made.bboxes), in_rows(made.priors)
        inputs = logits, bboxes, priors, truth, made.valid, background_loss(logits) if given else None
        return Work(lambda: assign(*inputs), lambda: assign(*inputs)._asdict())

    def given(self, made: cases.Scene) -> Work:
        """An assignment in a training step, where the loss has summed over the classes already."""
        return self.assign(made, given=True)

    def parts(self, made: cases.Scene) -> dict[str, Work]:
        """What an assignment cannot do without."""
        from minirtmdet.head.assignment import background_loss

        logits, class_sum = in_rows(made.cls_scores), self.compile(background_loss)
        pairs = torch.ones(len(made.boxes), self.parity._ground_truth(made).boxes.shape[1], len(made.priors))
        return {
            "class sum": Work(lambda: class_sum(logits), dict),
            "pass over the pairs": Work(lambda: pairs.add_(1.0), dict),
        }

    def loss(self, made: cases.Scene) -> Work:
        """``RTMDetLoss``, and backward."""
        from minirtmdet.head.pipeline import RTMDetLoss

        criterion, maps, truth = RTMDetLoss(made.num_classes), leaves(made), self.parity._ground_truth(made)
        shapes, losses_of = torch.tensor(made.pad_shapes), self.compile(criterion)

        def run() -> Answer:
            losses = losses_of(*maps, truth, shapes)
            (losses["loss_cls"] + losses["loss_bbox"]).backward()
            return losses

        def answer() -> Answer:
            losses = {name: value.detach() for name, value in run().items() if name != "num_pos"}
            return losses | gradients(maps) | {"gt_inds": criterion.assign(*maps, truth, shapes).gt_inds}

        return Work(lambda: (run(), forget(maps)), answer)

    def step(self, made: cases.Scene) -> Work:
        """One step of tiny with AdamW."""
        from minirtmdet.configs import ModelConfig
        from minirtmdet.detector import build_detector

        detector = fill(build_detector(ModelConfig(**TINY))).train()
        truth, shapes, images = self.parity._ground_truth(made), torch.tensor(made.pad_shapes), noise_images(made)
        optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-9)

        def head(*maps: Any) -> Answer:
            return detector.loss(*maps, truth, shapes)

        def answer() -> Answer:
            return {name: value.detach() for name, value in head(*detector(images)).items() if name != "num_pos"}

        return Work(lambda: training_step(lambda: detector(images), head, optimizer), answer)

    def predict(self, made: cases.Scene) -> Work:
        """``predict_by_feat``."""
        from minirtmdet.head.postprocess import predict_by_feat

        case = cases.PredictCase(made)
        maps = made.levels(made.cls_scores), made.levels(made.distances)
        return Work(lambda: predict_by_feat(*maps), lambda: self.parity.predict(case))

    def masks(self, made: instances.InstanceCase) -> Work:
        """``RTMDetInsLoss``, and backward; truth is as the loader hands it on, at every fourth pixel."""
        from parity import ours_instances

        from minirtmdet.head.pipeline import RTMDetInsLoss

        criterion, truth = RTMDetInsLoss(instances.CLASSES), ours_instances._truth(made)
        losses_of = self.compile(criterion)
        outputs, shapes = ours_instances._leaves(made), torch.tensor(made.scene.pad_shapes)
        parts = [*(level for levels in outputs[:3] for level in levels), outputs.mask_feat]

        def run() -> float:
            start = time.perf_counter()
            losses = losses_of(*outputs, truth, shapes)
            (losses["loss_cls"] + losses["loss_bbox"] + losses["loss_mask"]).backward()
            seconds = time.perf_counter() - start
            for part in parts:
                part.grad = None
            return seconds

        def answer() -> Answer:
            found = ours_instances._gradients(outputs, losses_of(*outputs, truth, shapes))
            for part in parts:
                part.grad = None
            with torch.no_grad():
                found["gt_inds"] = criterion.assign(*outputs[:2], truth, shapes).gt_inds
            return {name: found[name] for name in MASK_ANSWERS}

        return Work(run, answer)

    def paste(self, made: instances.PasteCase) -> Work:
        """``predict_instances_by_feat``, and the pixels of every mask, a few at a time."""
        from parity import ours_instances

        from minirtmdet.head.postprocess import predict_instances_by_feat

        outputs, settings = ours_instances._leaves(made.outputs), ours_instances._settings(made)

        def run() -> int:
            (found,) = predict_instances_by_feat(outputs, made.originals, **settings)
            return sum(len(block) for block in found.mask_blocks())

        def answer() -> Answer:
            (found,) = predict_instances_by_feat(outputs, made.originals, **settings)
            return counted(found, found.boxes)

        return Work(run, answer)


class Compiled(Ours):
    """This package, compiled as a training step is: one function for all cases, in one piece, whatever the shapes."""

    def __init__(self) -> None:
        super().__init__()
        from minirtmdet.engine.step import MAX_SHAPES

        torch._dynamo.config.recompile_limit = MAX_SHAPES
        self.compile = partial(torch.compile, fullgraph=True)


def compilations() -> int:
    """How many graphs were compiled in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def noise_images(made: cases.Scene) -> Tensor:
    """Normalised images of noise."""
    return cases.normal("images", len(made.boxes), 3, *made.pad_shapes[0])


# --- what each step of the chapter is worth: the same answer with one step undone -------------------------------------


def _class_cost_over_all_classes(cls_scores: Tensor, labels: Tensor, ious: Tensor, background: Tensor) -> Tensor:
    from minirtmdet.reference.assignment import class_cost

    cost = torch.stack([class_cost(*one).T for one in zip(cls_scores, labels, ious.mT, strict=True)])
    return cost + torch.where(background.isinf(), torch.inf, 0)[:, None]


def _center_cost_with_pow(priors: Tensor, centers: Tensor, radius: float) -> Tensor:
    points, stride = priors[..., None, :, :2], priors[..., None, :, 2]
    distance = (points - centers[..., None, :]).square().sum(-1).sqrt() / stride
    return torch.pow(10, (distance - radius).clamp(max=38))


def _assign_alone(self: Any, *inputs: Any) -> Any:
    return _ASSIGN[0](self, *inputs[:5])  # without the loss's sum over the classes


def _background_by_autograd(cls_scores: Tensor, beta: float) -> Any:
    from minirtmdet.head.losses import Background, activations

    probability, softplus = activations(cls_scores)
    return Background((softplus * probability.pow(beta)).sum(-1), (probability, softplus))  # type: ignore[arg-type]


def _focal_by_autograd(self: Any, logits: Tensor, labels: Tensor, quality: Tensor, background: Any) -> Tensor:
    index = labels.clamp(max=logits.shape[-1] - 1)[..., None]
    s, p, b = (values.gather(-1, index)[..., 0] for values in (logits, *background.slope))
    swap = (b - s * quality) * (quality - p).abs().pow(self.beta) - b * p.pow(self.beta)
    return (background.loss + torch.where(labels < logits.shape[-1], swap, 0)) * self.loss_weight


_ASSIGN: list[Any] = []
_HEAD = "minirtmdet.head"
UNDONE: dict[str, dict[str, Any]] = {
    "one class in closed form": {f"{_HEAD}.assignment.class_cost": _class_cost_over_all_classes},
    "blocks that fit the cache": {f"{_HEAD}.assignment.BLOCK": 2**40},
    "candidates alone": {f"{_HEAD}.assignment.candidate_index": lambda candidates: None},
    "exp2 and in-place distances": {f"{_HEAD}.assignment.center_cost": _center_cost_with_pow},
    "coordinates in rows": {f"{__name__}.in_rows": lambda values: values},
    "one slope for the class loss": {
        f"{_HEAD}.pipeline.background_of": _background_by_autograd,
        f"{_HEAD}.losses.QualityFocalLoss.__call__": _focal_by_autograd,
    },
    "classes in rows": {
        f"{_HEAD}.pipeline.flatten_levels": lambda maps: torch.cat([level.flatten(2).mT for level in maps], 1)
    },
    "one class sum for cost and loss": {f"{_HEAD}.assignment.DynamicSoftLabelAssigner.assign": _assign_alone},
}


@contextmanager
def without(step: str) -> Iterator[None]:
    """The racing lane with one step undone."""
    with ExitStack() as changes:
        if step in UNDONE:
            from minirtmdet.head.assignment import DynamicSoftLabelAssigner

            _ASSIGN[:] = [DynamicSoftLabelAssigner.assign]
        for target, value in UNDONE.get(step, {}).items():
            changes.enter_context(patch(target, value))
        yield


def reading_lane(made: cases.Scene) -> Work:
    """The reading lane's assignment."""
    from minirtmdet.reference.assignment import assign

    inputs = made.cls_scores[0], made.bboxes[0], made.priors, made.boxes[0], made.labels[0]

    def answer() -> Answer:
        return {name: value[None] for name, value in assign(*inputs)._asdict().items()}

    return Work(lambda: assign(*inputs), answer)


READING = "everything"


# --- the loop --------------------------------------------------------------------------------------------------------


def peak_memory(run: Callable[[], Any]) -> float:
    """MiB of memory that a run needs beside what is there already; the kernel's own peak, so Linux only."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory_field(status, "VmHWM")
    run()
    return (memory_field(status, "VmHWM") - before) / 1024


def memory_field(status: Path, name: str) -> int:
    """One line of a process's status, in KiB."""
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))


def measure(work: Work, repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, and of the part that it tells of."""
    seconds, part = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        told = work.run()
        seconds.append(time.perf_counter() - start)
        if isinstance(told, float):
            part.append(told)
    return {"seconds": seconds, "part": part}


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("side", choices=["original", "ours", "compiled"])
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side = {"original": Original, "ours": Ours, "compiled": Compiled}[options.side]()
    work, step, compiling = None, "", 0.0
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, Any] = {}
        if "case" in request:
            step = request.get("without", "")
            with without(step):
                if step == READING:
                    work = reading_lane(scene(*map(int, request["case"].split()[1:])))
                else:
                    work = prepare(request["case"], side)
                before, start = compilations(), time.perf_counter()
                torch.save(work.answer(), request["answer"])
                if compilations() > before:
                    compiling += time.perf_counter() - start
        elif "repeats" in request:
            assert work is not None
            with without(step):
                reply = measure(work, request["repeats"])
        elif "parts" in request:
            parts = side.parts(scene(*map(int, request["parts"].split()[1:])))
            for part in parts.values():
                measure(part, 3)
            reply = {name: statistics.median(measure(part, 20)["seconds"]) for name, part in parts.items()}
        elif "compilations" in request:
            reply = {"graphs": compilations(), "seconds": round(compiling, 1)}
        elif "memory" in request:
            kind = "loss" if request["memory"].startswith("loss") else "assign"
            prepare(f"{kind} 64 1 3 80", side).run()  # what is loaded on first use is not counted
            reply = {"MiB": peak_memory(prepare(request["memory"], side).run)}
        elif "versions" in request:
            reply = {"torch": torch.__version__, "threads": torch.get_num_threads()}
            reply |= side.parity.versions() if options.side == "original" else {}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
