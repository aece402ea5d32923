"""What only a CUDA GPU can show.  On such a machine:

python -m pytest tests/gpu -m "compile or not compile"
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_sets import write_both_parts, write_random_set
from helpers.toy import random_batch, random_boxes
from parity.cases import SCENES, random_scene
from parity.ties import compare_assignments
from torch import Tensor

from minirtmdet import build_detector
from minirtmdet.configs import AssignerConfig, AugmentConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import TrainLoader
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer
from minirtmdet.engine.prefetch import prefetch
from minirtmdet.engine.step import GraphStep, Inputs, TrainStep, build_step
from minirtmdet.engine.trainer import Trainer
from minirtmdet.head.assignment import DynamicSoftLabelAssigner
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.head.postprocess import predict_by_feat
from minirtmdet.structures import GroundTruth

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CLASSES = 3
MODEL = ModelConfig(0.167, 0.25, 1, num_classes=CLASSES, exp_on_reg=True)
MODES = [
    "off",
    "record",
    pytest.param("step", marks=pytest.mark.compile),
    pytest.param("graph", marks=pytest.mark.compile),
]
RECORDED = ("record", "graph")


@pytest.fixture
def exact() -> Iterator[None]:
    """fp32 as the CPU has it, and kernels that add in the same order each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@contextmanager
def no_waiting() -> Iterator[None]:
    """Every operation in which the host waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def inputs(counts: tuple[int, ...] = (3, 0, 7, 1), seed: int = 0, size: int = 128) -> Inputs:
    """A batch on the GPU."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (len(counts), size, size, 3), dtype=torch.uint8, generator=generator)
    boxes = [random_boxes(n, size, size, generator, smallest=12) for n in counts]
    labels = [torch.randint(CLASSES, (n,), generator=generator) for n in counts]
    ground_truth = GroundTruth.from_list(boxes, labels, num_classes=CLASSES)
    return Inputs(pixels.cuda().permute(0, 3, 1, 2), ground_truth.to("cuda"))


def make(
    kind: Callable[..., TrainStep],
    amp_dtype: torch.dtype | None = None,
    device: str = "cuda",
    assigner: AssignerConfig = AssignerConfig(),
    **options: Any,
) -> TrainStep:
    """A step of a fresh network, the same each time."""
    torch.manual_seed(0)
    model: Any = build_detector(MODEL, assigner=assigner).train().to(device)
    model.to(memory_format=torch.channels_last)
    ema = ExpMomentumEMA(model, momentum=0.1, ramp=3)
    return kind(model, build_optimizer(model, OptimConfig()), ema, amp_dtype, **options)


def weights(step: TrainStep, average: bool = False) -> Tensor:
    module = step.ema.module if average else step.model
    return torch.cat([value.flatten() for value in module.state_dict().values() if value.is_floating_point()])


@pytest.mark.parametrize("compile", MODES)
def test_a_step_never_waits_for_the_device(compile: str):
    step = make(build_step, torch.bfloat16, compile=compile)
    batches = [inputs((5 + seed % 4, 0, seed, 1), seed) for seed in range(8)]
    for batch in batches[:5]:  # states are made, kernels chosen, the graph recorded
        step([batch], 1e-3)
    with no_waiting():
        losses = [step([batch], 1e-3) for batch in batches[5:]]
    assert torch.stack(losses).isfinite().all()
    if compile in RECORDED:
        assert step.replays == 8 - GraphStep.WARM_UP  # type: ignore[attr-defined]


@pytest.mark.parametrize("compile", MODES[:2])
def test_a_step_with_other_settings_never_waits(compile: str):
    """All switches of the assigner, and images whose content is smaller than the input."""
    settings = AssignerConfig(nearest_prior_fallback=True, allowed_border=0, ignore_regions=True)
    step = make(build_step, torch.bfloat16, assigner=settings, compile=compile)
    shapes = torch.tensor([[128, 100]] * 4, device="cuda")
    batches = [inputs((5, 0, seed, 1), seed)._replace(img_shapes=shapes) for seed in range(8)]
    for batch in batches[:5]:
        step([batch], 1e-3)
    with no_waiting():
        losses = [step([batch], 1e-3) for batch in batches[5:]]
    assert torch.stack(losses).isfinite().all()


def test_a_large_number_of_boxes_fits():
    """32 images of 640 px with 768 boxes: pairs are worked on in blocks."""
    generator = torch.Generator().manual_seed(0)
    boxes = [random_boxes(768, 640, 640, generator) for _ in range(32)]
    labels = [torch.randint(CLASSES, (768,), generator=generator) for _ in range(32)]
    ground_truth = GroundTruth.from_list(boxes, labels).to("cuda")
    cls_scores = [torch.randn(32, CLASSES, n, n, device="cuda") for n in (80, 40, 20)]
    bbox_preds = [torch.rand(32, 4, n, n, device="cuda") * 40 for n in (80, 40, 20)]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert RTMDetLoss(CLASSES)(cls_scores, bbox_preds, ground_truth)["num_pos"] > 100
    assert (torch.cuda.max_memory_allocated() - before) / 2**30 < 4


def test_a_wait_is_noticed():
    values = torch.zeros(1, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        values.item()


def test_batches_travel_without_waiting_and_arrive_whole(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 40))
    loader = TrainLoader(dataset, AugmentConfig(), input_size=128, batch_size=4, seed=0, epochs=1, pin_memory=True)
    host = list(loader.epoch(0))
    work = torch.randn(4_096, 4_096, device="cuda")
    found = []
    with no_waiting():
        for batch in prefetch(host, torch.device("cuda")):
            work = work @ work * 1e-4  # keeps the device behind the host
            found.append((batch.images.clone(), batch.ground_truth.boxes.clone()))
            del batch  # its memory is free for the next one's copy
    for (images, boxes), batch in zip(found, host, strict=True):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images.cpu(), batch.images)
        assert torch.equal(boxes.cpu(), batch.ground_truth.boxes)


@pytest.mark.compile
@pytest.mark.usefixtures("exact")
def test_compiled_equals_eager():
    compiled, eager = make(build_step, compile="step"), make(TrainStep)
    for counts in ((3, 0, 7, 1), (0, 0, 0, 0), (30, 2, 1, 9)):
        batch = inputs(counts, seed=sum(counts))
        for step in (compiled, eager):
            step.optimizer.zero_grad()
        torch.testing.assert_close(compiled.accumulate(batch), eager.accumulate(batch), rtol=1e-3, atol=1e-4)
        for (name, one), two in zip(compiled.model.named_parameters(), eager.model.parameters(), strict=True):
            assert (one.grad - two.grad).norm() <= 0.01 * two.grad.norm() + 1e-5, name


@pytest.mark.usefixtures("exact")
def test_a_replayed_graph_equals_eager():
    """Two padded sizes, another number of boxes in each step, other learning rates; weights, average and losses."""
    graph, eager = make(GraphStep), make(TrainStep)
    start = weights(eager)
    losses = []
    for number in range(12):
        batch = inputs((5 + number % 4, 0, 13 + number % 4 if number % 2 else 1, 4), seed=number)
        lr = 1e-4 * (number + 1)
        losses.append((graph([batch], lr), eager([batch], lr)))
    assert len(graph._recorded) == 2
    assert graph.replays == 12 - 2 * GraphStep.WARM_UP
    for found, expected in losses:
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    for average in (False, True):
        moved = (weights(eager, average) - start).norm()
        assert (weights(graph, average) - weights(eager, average)).norm() < 0.02 * moved
    assert graph.ema.steps == eager.ema.steps == 12


def test_bf16_keeps_the_losses_in_fp32_and_the_channels_last():
    step = make(TrainStep, torch.bfloat16)
    maps: list[Tensor] = []
    step.model.neck.register_forward_hook(lambda *call: maps.extend(call[2]))
    low, full = step.accumulate(inputs()), make(TrainStep).accumulate(inputs())
    assert [level.dtype for level in maps] == [torch.bfloat16] * 3
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in maps)
    with torch.autocast("cuda", torch.bfloat16):
        batch = inputs()
        losses = step.model(batch.images, batch.ground_truth)
    assert losses["loss_cls"].dtype == losses["loss_bbox"].dtype == torch.float32
    torch.testing.assert_close(low[:2], full[:2], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_assignment_equals_the_cpu_up_to_ties(seed: int):
    scene = random_scene(seed)
    found = []
    for device in ("cpu", "cuda"):
        ground_truth = GroundTruth.from_list(scene.boxes, scene.labels, centers=scene.centers).to(device)
        assigner = DynamicSoftLabelAssigner(scene.topk, scene.iou_weight, scene.soft_center_radius)
        predictions = (scene.cls_scores.to(device), scene.bboxes.to(device), scene.priors.to(device))
        found.append(assigner.assign(*predictions, ground_truth, scene.valid.to(device)).gt_inds.cpu())
    assert compare_assignments(scene, *found).mistakes == []
    assert (found[0] > 0).any() or not any(map(len, scene.boxes))


def test_ties_may_fall_otherwise_and_are_ties_all_the_same():
    scene = SCENES["tied-logits"]()
    ground_truth = GroundTruth.from_list(scene.boxes, scene.labels).to("cuda")
    predictions = (scene.cls_scores.cuda(), scene.bboxes.cuda(), scene.priors.cuda())
    found = DynamicSoftLabelAssigner().assign(*predictions, ground_truth, scene.valid.cuda()).gt_inds.cpu()
    ground_truth = ground_truth.to("cpu")
    expected = DynamicSoftLabelAssigner().assign(
        scene.cls_scores, scene.bboxes, scene.priors, ground_truth, scene.valid
    )
    assert compare_assignments(scene, found, expected.gt_inds).mistakes == []


def maps(device: str) -> tuple[list[Tensor], list[Tensor]]:
    """The same outputs of a head on either device; fp64, in which no two costs or scores are nearly equal."""
    generator = torch.Generator().manual_seed(0)
    cls_scores, bbox_preds = [], []
    for stride in (8, 16, 32):
        shape = (2, 1, 128 // stride, 128 // stride)
        scores = torch.randn(*shape, CLASSES, generator=generator, dtype=torch.float64).movedim(-1, 1)[:, :, 0] * 2 - 3
        cls_scores.append(scores.to(device).requires_grad_())
        distances = torch.rand(*shape, 4, generator=generator, dtype=torch.float64).movedim(-1, 1)[:, :, 0]
        bbox_preds.append((distances * 3 * stride).to(device).requires_grad_())
    return cls_scores, bbox_preds


def test_losses_and_gradients_equal_the_cpu():
    answers = []
    for device in ("cpu", "cuda"):
        cls_scores, bbox_preds = maps(device)
        ground_truth = random_batch([5, 9], CLASSES, 128, 128)[3].to(device)
        losses = RTMDetLoss(CLASSES)(cls_scores, bbox_preds, ground_truth)
        gradients = torch.autograd.grad(losses["loss_cls"] + losses["loss_bbox"], cls_scores + bbox_preds)
        answers.append([*losses.values(), *gradients])
    for expected, found in zip(*answers, strict=True):
        torch.testing.assert_close(found.cpu(), expected)


def test_predictions_equal_the_cpu():
    answers = [predict_by_feat(*maps(device), img_shapes=[(128, 100), (90, 128)]) for device in ("cpu", "cuda")]
    for expected, found in zip(*answers, strict=True):
        assert len(expected.boxes) > 20
        assert torch.equal(found.labels.cpu(), expected.labels)
        torch.testing.assert_close(found.scores.cpu(), expected.scores)
        torch.testing.assert_close(found.boxes.cpu(), expected.boxes)


@pytest.mark.usefixtures("exact")
def test_the_network_equals_the_cpu():
    cpu, cuda = (make(TrainStep, device=device).model.eval() for device in ("cpu", "cuda"))
    images = inputs().images
    with torch.no_grad():
        for expected, found in zip(sum(cpu(images.cpu()), ()), sum(cuda(images), ()), strict=True):
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compile", MODES)
def test_training_lowers_the_loss(compile: str):
    step = make(build_step, torch.bfloat16, compile=compile)
    batch = inputs()
    losses = torch.stack([step([batch], 1e-3)[:2].sum() for _ in range(80)])
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert compile not in RECORDED or step.replays == 80 - GraphStep.WARM_UP  # type: ignore[attr-defined]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Nine epochs of six steps."""
    write_both_parts(tmp_path / "data", 12)
    return TrainConfig(
        out=tmp_path / "runs",
        model=MODEL,
        data=DataConfig(root=tmp_path / "data", input_size=64),
        optim=OptimConfig(lr=2e-3, base_batch=2, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=9,
        batch_size=2,
        eval_every=9,
        device="cuda",
    )


@pytest.mark.parametrize("compile", MODES)
def test_a_run_goes_through_resumes_and_continues_otherwise(config: TrainConfig, compile: Any):
    """A run may go on compiled where it was not, or on the CPU: what is saved is the same."""
    config = replace(config, compile=compile)
    trainer = Trainer(config, say=lambda _: None)
    assert trainer.amp_dtype == torch.bfloat16
    trainer.fit(until_epoch=8)
    if compile in RECORDED:
        assert trainer.train_step.replays >= 24, "fewer than half of the steps were replayed"  # type: ignore[attr-defined]
    before = trainer.model.state_dict()
    resumed = Trainer(replace(config, resume=True, compile="off"), say=lambda _: None)
    assert all(torch.equal(value, before[key]) for key, value in resumed.model.state_dict().items())
    resumed.fit()
    assert (resumed.step, resumed.epoch) == (54, 9)
    assert {"metrics.json", "loss_curve.png", "detections.png", "best.pt"} <= set(os.listdir(resumed.run_dir))
    assert all(row["loss"] < 1e3 for row in resumed.history)


def test_two_runs_on_one_gpu_learn_alike(config: TrainConfig):
    rows = []
    for name in ("one", "two"):
        trainer = Trainer(replace(config, name=name, amp="off", compile="off", epochs=3), say=lambda _: None)
        trainer.fit()
        rows.append([row["loss"] for row in trainer.history])
    assert rows[0] == pytest.approx(rows[1], rel=0.05)


def test_prediction_waits_a_few_times_a_batch_on_a_gpu_too():
    """As many as on the device that tests pretend: what torch's own counter sees is not more."""
    cls_scores, bbox_preds = maps("cuda")
    predict_by_feat(cls_scores, bbox_preds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            predict_by_feat(cls_scores, bbox_preds, img_shapes=[(128, 100)] * 2, scale_factors=[(0.5, 0.5)] * 2)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert 2 <= len([one for one in caught if "synchroniz" in str(one.message)]) <= 8
