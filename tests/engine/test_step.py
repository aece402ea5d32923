import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import Levels, random_boxes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minirtmdet import build_detector
from minirtmdet.configs import ModelConfig, OptimConfig
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer
from minirtmdet.engine.step import LOSSES, GraphStep, Inputs, TrainStep, build_step
from minirtmdet.judge.waits import HostReads
from minirtmdet.structures import GroundTruth

CLASSES = 3
MODEL = ModelConfig(0.1, 0.125, 1, num_classes=CLASSES)
# powers of two, which fp32 has exactly: training would enlarge the round-off of any other
RATES = tuple(2.0**power for power in (-13, -10, -9, -10, -11, -10, -9, -12, -9, -10))


def inputs(counts: tuple[int, ...] = (3, 0), seed: int = 0, size: int = 64) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (len(counts), size, size, 3), dtype=torch.uint8, generator=generator)
    boxes = [random_boxes(n, size, size, generator) for n in counts]
    labels = [torch.randint(CLASSES, (n,), generator=generator) for n in counts]
    return Inputs(pixels.permute(0, 3, 1, 2), GroundTruth.from_list(boxes, labels, num_classes=CLASSES))


def parts(seed: int = 0) -> tuple[Any, torch.optim.AdamW, ExpMomentumEMA[Any]]:
    """A network, its optimiser and its average; the same for the same seed."""
    torch.manual_seed(seed)
    model = build_detector(MODEL).train().to(memory_format=torch.channels_last)
    return model, build_optimizer(model, OptimConfig()), ExpMomentumEMA(model, momentum=0.1, ramp=3)


def parts_of_the_head() -> tuple[Any, torch.optim.AdamW, ExpMomentumEMA[Any]]:
    """:func:`parts` with hardly a network before the head."""
    model = parts()[0]
    model.backbone, model.neck = Levels(model.backbone.out_channels[0]), torch.nn.Identity()
    return model, build_optimizer(model, OptimConfig()), ExpMomentumEMA(model, momentum=0.1, ramp=3)


def same_state(one: TrainStep, other: TrainStep, **tolerance: float) -> None:
    """Weights, average and optimiser agree."""
    for first, second in ((one.model, other.model), (one.ema.module, other.ema.module)):
        expected = second.state_dict()
        for key, value in first.state_dict().items():
            torch.testing.assert_close(value, expected[key], **tolerance, msg=lambda text, key=key: f"{key}: {text}")
    assert one.ema.steps == other.ema.steps
    states = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert [set(group) for group in states[0]["param_groups"]] == [set(group) for group in states[1]["param_groups"]]
    for number, state in states[0]["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(value, states[1]["state"][number][key], **tolerance)


def test_a_step_is_what_one_would_write_by_hand():
    step = build_step(*parts())
    model, optimizer, ema = parts()
    for number, lr in enumerate(RATES[:3]):
        batch = inputs((3, 9 * number), seed=number)
        found = step([batch], lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        losses = model(batch.images, batch.ground_truth)
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
        optimizer.step()
        ema.update(model)
        assert torch.equal(found, torch.stack([losses[key].detach() for key in LOSSES]))
    same_state(step, TrainStep(model, optimizer, ema), rtol=0, atol=0)


def test_batches_of_a_step_weigh_the_same():
    step, other = build_step(*parts()), build_step(*parts())
    first, second = inputs((3, 1)), inputs((2, 20), seed=1)
    both = step([first, second], 1e-3)
    expected = [other.accumulate(first, 2), other.accumulate(second, 2)]
    torch.testing.assert_close(both, (expected[0] + expected[1]) / 2)
    for one, two in zip(step.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_gradients_travel_once_a_step():
    """A wrapper of several processes is told to hold its exchange back until the last batch."""
    events = []

    class Wrapper(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            events.append("batch")
            return self.network(*args, **kwargs)

        def no_sync(self) -> Any:
            events.append("hold")
            return nullcontext()

    step = build_step(*parts(), wrap=Wrapper)
    step([inputs()] * 3, 1e-3)
    assert events == ["hold", "batch", "hold", "batch", "batch"]


def test_no_part_of_a_step_reads_a_value(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU: shapes that stay
    step = build_step(*parts(), torch.bfloat16)
    step([inputs()], 1e-3)  # makes the optimiser's state
    batch = inputs((12, 4), seed=1)
    with HostReads() as reads:
        step([batch], 1e-3)
    assert reads.seen == []


class HostTensors(TorchDispatchMode):
    """Records the operations that touch a tensor of the host, where all data is on another device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        if any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in leaves):
            self.seen.append(str(function))
        self.count += 1
        return result


def test_nothing_is_made_on_the_host(monkeypatch: pytest.MonkeyPatch):
    """The meta device has no values: a step that reads one fails, and what the host makes is seen beside it."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta knows no autocast
    model = build_detector(MODEL).train().to("meta")
    ema = ExpMomentumEMA(model)
    step = TrainStep(model, torch.optim.SGD(model.parameters()), ema)
    images, ground_truth, _ = inputs()
    batch = Inputs(images.to("meta"), ground_truth.to("meta"), torch.zeros(2, 2, dtype=torch.int64, device="meta"))
    with HostTensors() as host:
        losses = step([batch], 1e-3)
        step([batch], 1e-3)
    assert losses.device.type == "meta"
    assert host.count > 500
    assert host.seen == []
    with HostTensors() as host:
        losses + torch.ones(())
    assert host.seen == ["aten.ones.default", "aten.add.Tensor"]


class Rehearsal(GraphStep):
    """A recorded step without a GPU: recording runs nothing, a replay runs what was recorded, on the same buffers."""

    captures = asides = 0

    def _capture(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        self.captures += 1
        losses = torch.full((3,), torch.nan)

        def replay() -> None:
            losses.copy_(run())

        return replay, losses

    def _aside(self, run: Callable[[], Tensor]) -> Tensor:
        self.asides += 1
        return run()


def test_a_recorded_step_is_the_step():
    eager, recorded = TrainStep(*parts()), Rehearsal(*parts())
    kept = []
    for number, lr in enumerate(RATES):
        # two padded sizes, and another number of boxes in each step
        batch = inputs((5 + number % 4, 13 + number % 4 if number % 2 else 1), seed=number)
        kept.append((recorded([batch], lr), eager([batch], lr)))
    for found, expected in kept:  # a replay leaves the losses of earlier ones alone
        assert torch.equal(found, expected)
    assert (recorded.asides, recorded.captures, recorded.replays) == (6, 2, 4)
    same_state(recorded, eager, rtol=1e-5, atol=1e-6)
    groups = recorded.optimizer.param_groups
    assert all(isinstance(group["lr"], float) and not group["capturable"] for group in groups)


def test_recording_trains_nothing_and_reads_the_batch_only_when_replayed():
    step = Rehearsal(*parts())
    batch = inputs()
    for _ in range(step.WARM_UP):
        step([batch], 1e-3)
    before = deepcopy(step.model.state_dict())
    buffers, replay, losses = step._record(batch)
    assert all(torch.equal(value, before[key]) for key, value in step.model.state_dict().items())
    assert buffers[0].is_contiguous(memory_format=torch.channels_last)
    assert all(buffer.data_ptr() != tensor.data_ptr() for buffer, tensor in zip(buffers, batch[:1], strict=False))
    replay()
    assert losses.isfinite().all()


def test_a_recorded_step_takes_one_batch():
    with pytest.raises(ValueError, match="a recorded step is one batch, not 2: set compile to step, or accumulate 1"):
        Rehearsal(*parts())([inputs(), inputs()], 1e-3)


def test_a_graph_needs_a_gpu():
    with pytest.raises(ValueError, match="compile graph needs a CUDA GPU, and the network is on cpu"):
        build_step(*parts(), compile="graph")


def test_where_compiling_fails_the_run_goes_on_without(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    def failing(*_: Any, **__: Any) -> None:
        calls.append("compiled")
        raise torch._dynamo.exc.BackendCompilerFailed("inductor", RuntimeError("no C++ compiler\nmore"), None)

    monkeypatch.setattr(torch, "compile", lambda network, fullgraph: failing)
    lines: list[str] = []
    step, eager = build_step(*parts(), compile="step", say=lines.append), build_step(*parts())
    for seed in range(2):
        assert torch.equal(step([inputs(seed=seed)], 1e-3), eager([inputs(seed=seed)], 1e-3))
    assert calls == ["compiled"]
    (line,) = lines
    assert line.startswith("compiling failed, the run goes on without it (")
    assert "no C++ compiler more" in line
    assert "--compile off" in line
    assert "\n" not in line


def test_other_errors_of_a_compiled_step_are_errors(monkeypatch: pytest.MonkeyPatch):
    def failing(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda network, fullgraph: failing)
    with pytest.raises(torch.OutOfMemoryError):
        build_step(*parts(), compile="step")([inputs()], 1e-3)


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend: str):
    """This file as a program: a compiler that aborts takes its process with it, as one once did over the assigner."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, backend]
    subprocess.run(command, check=True, timeout=600, env={**os.environ, "PYTHONPATH": path})


def _equal(compiled: TrainStep, eager: TrainStep, batch: Inputs) -> None:
    """Losses and gradients of one network; training on would enlarge the round-off of the first step."""
    for each in (compiled, eager):
        each.optimizer.zero_grad()
    torch.testing.assert_close(compiled.accumulate(batch), eager.accumulate(batch), rtol=1e-4, atol=1e-5)
    for (name, one), two in zip(compiled.model.named_parameters(), eager.model.parameters(), strict=True):
        error = (one.grad - two.grad).norm() / (two.grad.norm() + 1e-3)
        assert error < 0.01, f"{name}: {error:.1e}"


def _boxes(compiled: TrainStep, eager: TrainStep) -> None:
    """One compilation for the first padded size, one for all others, and no graph break."""
    from torch._dynamo.utils import counters

    sizes, found = set(), []
    for number, counts in enumerate([(5, 0), (8, 3), (6, 5), (13, 2), (16, 0), (7, 50), (7, 8), (64, 1)]):
        batch = inputs(counts, seed=number)
        _equal(compiled, eager, batch)
        sizes.add(batch.ground_truth.boxes.shape[1])
        found.append(counters["stats"]["unique_graphs"])
    compiled([batch], 1e-3)
    assert len(sizes) > 3
    assert found == [1, 1, 1] + [2] * (len(found) - 3), f"{found} compilations for the padded sizes {sizes}"
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"], dict(counters["graph_break"])


if __name__ == "__main__":
    (backend,) = sys.argv[1:]
    torch.compile = partial(torch.compile, backend=backend)  # type: ignore[assignment]
    if backend == "aot_eager":  # without a compiler's own work: a second graph costs seconds
        _boxes(build_step(*parts(), compile="step", say=sys.exit), build_step(*parts()))
    else:
        steps = build_step(*parts_of_the_head(), compile="step", say=sys.exit), build_step(*parts_of_the_head())
        for number in range(3):
            _equal(*steps, inputs((3 + number, 1), seed=number, size=96))
