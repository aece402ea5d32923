"""One training step as one object: network, losses, gradients, optimiser, moving average.

Nothing in a step reads a value back from the device, so that the host runs ahead of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from textwrap import shorten
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from minirtmdet.detector import RTMDet
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.structures import GroundTruth

LOSSES = ("loss_cls", "loss_bbox", "num_pos")
"""What a step returns, in this order: losses to add, and positives per image, to look at."""
MASK_LOSSES = ("loss_cls", "loss_bbox", "loss_mask", "num_pos")
"""Likewise where masks are learned."""
MAX_SHAPES = 32
"""Shapes that a step may be compiled for."""


class Inputs(NamedTuple):
    """What the network is trained on, on its device.

    Attributes:
        images: BGR pixels, uint8, or normalised floating point.
        ground_truth: the boxes, in pixels of ``images``.
        img_shapes: height and width of each image's content; where the assigner's ``allowed_border`` is set.
    """

    images: Num[Tensor, "batch 3 height width"]
    ground_truth: GroundTruth
    img_shapes: Int[Tensor, "batch 2"] | None = None


class TrainStep:
    """One optimiser step, operation by operation.

    Args:
        model: the network; its parameters are those of ``optimizer``.
        optimizer: its learning rate is set in each step.
        ema: the moving average of ``model``.
        amp_dtype: what the network computes in under autocast, losses aside; None for fp32 throughout.

    Attributes:
        losses: names of what it returns: :data:`LOSSES` or :data:`MASK_LOSSES`.
        forward: what turns a batch into losses: ``model`` itself, or what wraps it (``torch.compile``,
            ``DistributedDataParallel``).
    """

    def __init__(
        self,
        model: RTMDet,
        optimizer: torch.optim.Optimizer,
        ema: ExpMomentumEMA[RTMDet],
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.losses = MASK_LOSSES if model.config.masks else LOSSES
        self.optimizer = optimizer
        self.ema = ema
        self.amp_dtype = amp_dtype
        self.forward: Callable[..., dict[str, Tensor]] = model

    def __call__(self, batches: Sequence[Inputs], lr: float) -> Float[Tensor, " losses"]:
        """Train on the batches of one step, which is one batch without accumulation.

        With accumulation, gradients of the batches are averaged.  That is not the gradient of one large batch:
        each batch's losses are divided by its own sum of IoUs, and BatchNorm sees each batch alone.

        Returns:
            The mean of its ``losses`` over the batches, on the device.
        """
        self.optimizer.zero_grad(set_to_none=True)
        # several processes average their gradients once a step, with its last batch
        hold = getattr(self.forward, "no_sync", nullcontext)
        losses = []
        for number, batch in enumerate(batches, 1):
            with hold() if number < len(batches) else nullcontext():
                losses.append(self.accumulate(batch, len(batches)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_mult", 1.0)
        self.optimizer.step()
        self.ema.update(self.model)
        return torch.stack(losses).mean(0)

    def accumulate(self, batch: Inputs, batches: int = 1) -> Float[Tensor, " losses"]:
        """Add the gradient of a batch, one of ``batches``; returns its ``losses``."""
        with torch.autocast(batch.images.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            losses = self.forward(batch.images, batch.ground_truth, img_shapes=batch.img_shapes)
        first, *others = (losses[name] for name in self.losses[:-1])
        (sum(others, first) / batches).backward()
        return torch.stack([losses[name].detach().float() for name in self.losses])


class GraphStep(TrainStep):
    """The whole step as one CUDA graph: a thousand launches become one.

    A graph repeats what was recorded on the memory it was recorded with.  So each batch is copied into buffers, and
    the two numbers that change from step to step, learning rate and share of the moving average, are scalars on the
    device.  The first steps of each shape run operation by operation, in which cuDNN and the compiler choose their
    kernels; then one is recorded, without being run.  Shapes are few, since boxes are padded to few sizes.

    Gradients belong to the graph: ``parameter.grad`` says nothing between steps.  For one process.
    """

    WARM_UP = 3
    """Steps of a shape before it is recorded."""
    replays = 0
    """Steps that a graph did."""

    def __init__(
        self,
        model: RTMDet,
        optimizer: torch.optim.Optimizer,
        ema: ExpMomentumEMA[RTMDet],
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(model, optimizer, ema, amp_dtype)
        device = next(model.parameters()).device
        self._lr, self._kept = torch.zeros(2, device=device).unbind()
        self._seen: Counter[_Shapes] = Counter()
        self._recorded: dict[_Shapes, _Recorded] = {}
        self._pool: Any = None  # memory that the graphs share

    def __call__(self, batches: Sequence[Inputs], lr: float) -> Float[Tensor, " losses"]:
        """Train on one batch.

        Raises:
            ValueError: for several: each combination of their shapes would be a graph.
        """
        if len(batches) != 1:
            raise ValueError(f"a recorded step is one batch, not {len(batches)}: set compile to step, or accumulate 1")
        shapes = tuple(tensor.shape for tensor in _tensors(batches[0]))
        if shapes not in self._recorded:
            self._seen[shapes] += 1
            if self._seen[shapes] <= self.WARM_UP:
                return self._aside(lambda: super(GraphStep, self).__call__(batches, lr))
            self._recorded[shapes] = self._record(batches[0])
        buffers, replay, losses = self._recorded[shapes]
        for buffer, tensor in zip(buffers, _tensors(batches[0]), strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self._lr.fill_(lr)
        self._kept.fill_(1 - self.ema.momentum_at(self.ema.steps))
        replay()
        self.replays += 1
        self.ema.steps += 1
        return losses.clone()

    def _record(self, batch: Inputs) -> "_Recorded":
        """A step on buffers of the batch's shapes, ready to be repeated."""
        images, img_shapes = batch.images.clone(), None if batch.img_shapes is None else batch.img_shapes.clone()
        own = Inputs(images, GroundTruth(*(field.clone() for field in batch.ground_truth)), img_shapes)

        def run() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)  # so that the graph makes its gradients, and adds to none
            losses = self.accumulate(own)
            with _rate_on_device(self.optimizer, self._lr):
                self.optimizer.step()
            self.ema.blend(self.model, self._kept)
            return losses

        replay, losses = self._capture(run)
        return _Recorded(_tensors(own), replay, losses)

    def _capture(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record what ``run`` launches; returns what repeats it, and the tensor in which its answer appears."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's thread pins memory meanwhile, which a stricter mode would take for a mistake
        # torch gives back first what the steps before left in the allocator's cache: there is one pool, not two
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            losses = run()
        self._pool = graph.pool()  # graphs run one after the other, and can share what they need in between
        return graph.replay, losses

    def _aside(self, run: Callable[[], Tensor]) -> Tensor:
        """Run on the stream that will be recorded, since a graph must not depend on work of another one."""
        main = torch.cuda.current_stream(self._lr.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            losses = run()
        main.wait_stream(self._stream)
        losses.record_stream(main)
        return losses

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._lr.device)


_Shapes = tuple[torch.Size, ...]


class _Recorded(NamedTuple):
    """A graph: where it reads a batch, what starts it, where it leaves the losses."""

    buffers: list[Tensor]
    replay: Callable[[], None]
    losses: Tensor


@contextmanager
def _rate_on_device(optimizer: torch.optim.Optimizer, lr: Tensor) -> Iterator[None]:
    """Let the optimiser read its rate from the device for a while; its state stays like that of any other step."""
    before = [{key: group[key] for key in ("lr", "capturable")} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(lr=lr * group["lr_mult"] if "lr_mult" in group else lr, capturable=True)
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.update(values)


def _tensors(batch: Inputs) -> list[Tensor]:
    """Every tensor of a batch."""
    return [tensor for tensor in (batch.images, *batch.ground_truth, batch.img_shapes) if tensor is not None]


class Compiled(nn.Module):
    """A network compiled with its losses into one piece, or, where the compiler fails, the network as it is.

    A compiler is a large machine that needs others (Triton, a C++ compiler), and a run is worth more than its speed.
    Parameters are the network's own, under other names; so is everything else that reaches it through ``network``.

    Args:
        network: what is compiled when it is called first, and again for other shapes.
        say: prints a line.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None]) -> None:
        super().__init__()
        from torch._dynamo import exc  # a second, which only those who compile should wait

        self.network = network
        self.say = say
        self.failures = (exc.TorchDynamoException, exc.FailOnRecompileLimitHit)
        # each size of image may be compiled anew, and torch gives up after eight
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_SHAPES)
        self._run: Callable[..., dict[str, Tensor]] = torch.compile(network.__call__, fullgraph=True)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """What the network returns."""
        try:
            return self._run(*args, **kwargs)
        except self.failures as error:
            reason = shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
            self.say(f"compiling failed, the run goes on without it ({reason}); --compile off keeps from trying")
            self._run = self.network
            return self._run(*args, **kwargs)


def build_step(
    model: RTMDet,
    optimizer: torch.optim.Optimizer,
    ema: ExpMomentumEMA[RTMDet],
    amp_dtype: torch.dtype | None = None,
    compile: Literal["off", "step", "record", "graph"] = "off",
    *,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    say: Callable[[str], None] = print,
) -> TrainStep:
    """The step that a setting asks for.

    Args:
        model: the network.
        optimizer: over its parameters.
        ema: its moving average.
        amp_dtype: what the network computes in.
        compile: ``off``, operation by operation; ``step``, with network and losses compiled into one piece;
            ``record``, with the whole step recorded as a CUDA graph; ``graph``, both.
        wrap: what several processes put round the network, compiled or not.
        say: prints a line where compiling fails.

    Raises:
        ValueError: for a graph on a device that has none.
    """
    device = next(model.parameters()).device
    records = compile in ("record", "graph")
    if records and device.type != "cuda":
        raise ValueError(
            f"compile {compile} needs a CUDA GPU, and the network is on {device}: set compile to step or off"
        )
    step = (GraphStep if records else TrainStep)(model, optimizer, ema, amp_dtype)
    forward = Compiled(model, say) if compile in ("step", "graph") else model
    step.forward = forward if wrap is None else wrap(forward)
    return step
