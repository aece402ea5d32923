"""Both lanes on a device that is not the processor: nothing is made on the wrong one, and the host waits for little."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pretend import Pretend, PretendTensor
from helpers.tiny_sets import write_random_set
from helpers.toy import grid, random_batch
from torch import Tensor

from minirtmdet import build_detector
from minirtmdet.configs import (
    AssignerConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    TrainConfig,
)
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.engine.batch_size import find_batch_size
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer, freeze, train_mode
from minirtmdet.engine.step import Inputs, build_step
from minirtmdet.evaluation.coco import run_evaluation
from minirtmdet.evaluation.matching import match_detections, mistakes
from minirtmdet.head import postprocess
from minirtmdet.head.dynamic import mask_terms
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.reference import assigners, losses, priors, sampling
from minirtmdet.reference import postprocess as reading_postprocess
from minirtmdet.reference import targets as reading_targets
from minirtmdet.structures import Detections, GroundTruth

CLASSES = 3
MODEL = ModelConfig(0.1, 0.125, 1, num_classes=CLASSES)
PRECISIONS = pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture
def pretend() -> Iterator[Pretend]:
    with Pretend() as device:
        yield device


def batch(pretend: Pretend, counts: list[int], classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor, GroundTruth]:
    """:func:`toy.random_batch` on the device."""
    *tensors, ground_truth = random_batch(counts, classes)
    moved = [tensor.to(pretend.device) for tensor in tensors]
    pretend.waits.clear()
    return moved[0], moved[1], moved[2], ground_truth.to(pretend.device, non_blocking=True)


def on_the_device(answer: Any) -> bool:
    return all(isinstance(tensor, PretendTensor) for tensor in answer)


def inputs(pretend: Pretend, counts: list[int], size: int = 64) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (len(counts), size, size, 3), dtype=torch.uint8, generator=generator)
    ground_truth = random_batch(counts, CLASSES, size, size)[3].to(pretend.device, non_blocking=True)
    shapes = torch.tensor([[size, size - 8]] * len(counts)).to(pretend.device, non_blocking=True)
    return Inputs(pixels.to(pretend.device, non_blocking=True).permute(0, 3, 1, 2), ground_truth, shapes)


def test_the_device_is_strict(pretend: Pretend):
    there = torch.arange(6.0, device=pretend.device)
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.arange(6.0)
    assert (there + torch.tensor(1.0)).host.tolist() == [1, 2, 3, 4, 5, 6]  # a number needs no copy
    assert pretend.waits == Counter()
    there[0].item(), there.cpu(), there[there > 2], there.nonzero(), there.tolist(), bool(there[0] == 0)
    torch.tensor([1.0, 2.0], device=pretend.device), there[:2].copy_(torch.ones(2)), torch.ones(2).to(pretend.device)
    waits = [name.split()[0] for name, times in pretend.waits.items() for _ in range(times)]
    assert Counter(waits) == {"_local_scalar_dense": 2, "_to_copy": 4, "index": 1, "nonzero": 1, "copy_": 1}
    pretend.waits.clear()
    torch.ones(2).to(pretend.device, non_blocking=True)
    assert pretend.waits == Counter()


def test_the_reading_lane(pretend: Pretend):
    logits, boxes, grid_priors, ground_truth = batch(pretend, [6])
    valid = torch.ones(len(grid_priors), dtype=torch.bool, device=pretend.device)
    gt_boxes, gt_labels = ground_truth.boxes[0, :6], ground_truth.labels[0, :6]
    targets = reading_targets.get_targets(logits[0], boxes[0], grid_priors, valid, gt_boxes, gt_labels)
    assert on_the_device(targets)
    empty = reading_targets.get_targets(logits[0], boxes[0], grid_priors, valid, gt_boxes[:0], gt_labels[:0])
    assert on_the_device(empty)
    logits.requires_grad_()
    found = losses.loss_by_feat([logits[0]] * 2, [boxes[0]] * 2, [targets, empty])
    sum(found.values()).backward()
    assert on_the_device([*found.values(), logits.grad])
    assigned = reading_targets.assign(logits[0], boxes[0], grid_priors, gt_boxes, gt_labels)
    assert on_the_device(sampling.sample(assigned, gt_boxes))
    assert reading_postprocess.nms(boxes[0], logits[0, :, 0].sigmoid(), logits[0].argmax(1))


def test_the_other_assigners(pretend: Pretend):
    logits, boxes, grid_priors, ground_truth = batch(pretend, [6])
    for count in (6, 0):
        gt_boxes, gt_labels = ground_truth.boxes[0, :count], ground_truth.labels[0, :count]
        anchors = assigners.grid_anchors(grid_priors).flatten(0, 1)
        answers = [
            assigners.max_iou_assign(anchors, gt_boxes),
            assigners.fcos_assign(grid_priors, gt_boxes),
            *assigners.sim_ota_assign(logits[0].sigmoid(), boxes[0], grid_priors, gt_boxes, gt_labels),
        ]
        assert on_the_device(answers)


def test_the_reading_lanes_priors_are_where_they_are_wanted(pretend: Pretend):
    assert on_the_device([priors.grid_priors(2, 2, 8, device=pretend.device)])
    assert on_the_device([priors.valid_flags(2, 2, 8, (8, 16), device=pretend.device)])


SETTINGS = pytest.mark.parametrize(
    "settings",
    [AssignerConfig(), AssignerConfig(nearest_prior_fallback=True, allowed_border=0, ignore_regions=True)],
    ids=["official", "all"],
)


@SETTINGS
def test_assignment_losses_and_gradients_never_wait(pretend: Pretend, settings: AssignerConfig):
    batch = inputs(pretend, [5, 0, 30])
    generator = torch.Generator().manual_seed(1)
    maps = [
        [torch.randn(3, channels, n, n, generator=generator).to(pretend.device).requires_grad_() for n in (8, 4, 2)]
        for channels in (CLASSES, 4)
    ]
    criterion = RTMDetLoss(CLASSES, settings, LossConfig(clamp_inverted=True))
    pretend.waits.clear()
    found = criterion(*maps, batch.ground_truth, batch.img_shapes, batch.img_shapes)
    (found["loss_cls"] + found["loss_bbox"]).backward()
    assert pretend.waits == Counter()
    assert on_the_device([*found.values(), *(level.grad for branch in maps for level in branch)])


@pytest.mark.parametrize(
    ("optim", "amp"),
    [
        (OptimConfig(), None),
        (OptimConfig(), torch.bfloat16),
        (OptimConfig(frozen_stages=1, backbone_lr_mult=0.1, norm_eval="all"), torch.bfloat16),
    ],
    ids=["fp32", "bf16", "frozen, bf16"],
)
def test_a_training_step_never_waits(pretend: Pretend, optim: OptimConfig, amp: torch.dtype | None):
    """Network, losses, gradients, AdamW and average, with two batches of other sizes in a step."""
    model: Any = build_detector(MODEL).to(pretend.device)
    model.to(memory_format=torch.channels_last)
    freeze(model, optim)
    train_mode(model, optim)
    step = build_step(model, build_optimizer(model, optim), ExpMomentumEMA(model, 0.1, 2), amp)
    types = set()
    model.neck.register_forward_hook(lambda *call: types.update(level.dtype for level in call[2]))
    batches = [inputs(pretend, [3, 0]), inputs(pretend, [20, 1], size=96)]
    step(batches, 1e-3)  # makes the optimiser's state
    pretend.waits.clear()
    pretend.operations = 0
    losses = step(batches, 1e-3)
    assert pretend.waits == Counter()
    assert pretend.operations > 1_000
    assert on_the_device([losses, *model.parameters(), *step.ema.module.state_dict().values()])
    assert types == {amp or torch.float32}
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses.cpu()).all()


def test_batches_are_tried_out_there(pretend: Pretend):
    """With a memory of so many operations' results: steps of 1, 2 and 4 images fit."""
    config = TrainConfig(
        model=MODEL, data=DataConfig(input_size=64), assigner=AssignerConfig(allowed_border=0), amp="bf16"
    )
    tried: list[Any] = []

    def peak(run: Any) -> int:
        tried.append(run())
        return 2 ** len(tried)

    assert find_batch_size(config, pretend.device, room=8, peak=peak) == 4
    assert on_the_device(tried)
    assert all(torch.isfinite(losses.cpu()).all() for losses in tried)


def test_losses_of_masks_and_their_gradients_never_wait(pretend: Pretend):
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.randn(2, 169, side, side, generator=generator) * 0.3 for side in (8, 4, 2)]
    mask_feat, masks = torch.randn(2, 8, 8, 8, generator=generator), torch.rand(2, 3, 16, 16, generator=generator) < 0.5
    gt_inds = torch.randint(4, (2, 84), generator=generator)
    answers = []
    for device in (torch.device("cpu"), pretend.device):
        learned = [part.detach().to(device).requires_grad_() for part in (*kernels, mask_feat)]
        given = [part.to(device) for part in (grid(64, 64), gt_inds, masks)]
        pretend.waits.clear()
        total = mask_terms(learned[:3], learned[3], *given, most=84).total
        total.backward()
        answers.append([total.detach(), *(part.grad for part in learned)])
    assert pretend.waits == Counter()
    assert on_the_device(answers[1])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(theirs.cpu(), ours)


def test_all_masks_are_stretched_at_once_and_nothing_waits(pretend: Pretend):
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[1, :, 3:] = -1.0  # on a processor made where it is over the threshold
    there = logits.to(pretend.device)
    pretend.waits.clear()
    masks = postprocess.stretch_masks(there, (100, 90), (0.64, 0.64)).pixels()
    # two matrices go there
    assert sum(pretend.waits.values()) <= 2, pretend.waits
    assert on_the_device([masks])
    assert torch.equal(masks.cpu(), postprocess.stretch_masks(logits, (100, 90), (0.64, 0.64)).pixels())


@pytest.mark.parametrize("images", [1, 16])
@pytest.mark.parametrize("config", [PredictConfig(), PredictConfig(nms_pre=50, max_per_image=40, clip="content")])
def test_prediction_waits_a_few_times_a_batch_however_many_images(
    pretend: Pretend, images: int, config: PredictConfig, monkeypatch: pytest.MonkeyPatch
):
    """And finds what the processor finds."""
    monkeypatch.setattr(postprocess, "NMS_CHUNK", 128)
    generator = torch.Generator().manual_seed(0)
    sizes = [(images, CLASSES, n, n) for n in (16, 8, 4)]
    scores = [torch.randn(size, generator=generator) * 2 - 3 for size in sizes]
    distances = [torch.rand(images, 4, *size[2:], generator=generator) * 24 for size in sizes]
    shapes, factors = [(128, 100 + i) for i in range(images)], [(0.5, 0.7)] * images
    expected = predict_by_feat(scores, distances, config, 0.0, shapes, factors)
    there = [[level.to(pretend.device) for level in branch] for branch in (scores, distances)]
    pretend.waits.clear()
    found = predict_by_feat(*there, config, 0.0, shapes, factors)
    assert 2 <= pretend.waits.total() <= 8, pretend.waits
    for one, other in zip(found, expected, strict=True):
        assert len(other.boxes) > 20
        assert on_the_device(one)
        assert all(torch.equal(here.cpu(), there) for here, there in zip(one, other, strict=True))


@PRECISIONS
def test_a_detector_predicts(pretend: Pretend, amp: torch.dtype | None):
    detector: Any = build_detector(MODEL).to(pretend.device)
    images = inputs(pretend, [1] * 8).images
    pretend.waits.clear()
    with torch.autocast(pretend.device.type, amp or torch.bfloat16, enabled=amp is not None):
        found = detector.predict(images, img_shapes=[(64, 48)] * 8, scale_factors=[(1.0, 2.0)] * 8)
    assert pretend.waits.total() <= 8, pretend.waits
    assert on_the_device(tensor for one in found for tensor in one)
    assert all(len(one.boxes) > 100 for one in found)


def test_an_evaluation_waits_a_few_times_a_batch(pretend: Pretend, tmp_path: Path):
    """Network, prediction and the way of the detections to the host."""
    dataset = CocoDataset(*write_random_set(tmp_path, 8))
    loader = list(EvalLoader(dataset, input_size=64, batch_size=4))
    model: Any = build_detector(MODEL).eval()
    expected = run_evaluation(model, loader, dataset, progress=False)
    model.to(pretend.device)
    pretend.waits.clear()
    found = run_evaluation(model, loader, dataset, progress=False)
    assert pretend.waits.total() <= 10 * len(loader), pretend.waits
    assert found.metrics == expected.metrics
    assert [row["bbox"] for row in found.results] == [row["bbox"] for row in expected.results]


def test_matching(pretend: Pretend):
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]])
    labels, scores = torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.8, 0.7])
    there = [tensor.to(pretend.device) for tensor in (boxes, scores, labels)]
    ignore = torch.tensor([False, True, False]).to(pretend.device)
    match = match_detections(Detections(*there), there[0], there[2], ignore)
    assert on_the_device([match.hit, match.found, match.boxes, *match.detections])
    assert (match.hit.tolist(), match.missed, match.false) == ([True, True], 0, 0)
    assert mistakes(match) == []
