"""How many images a step can have: tried out on the GPU, since what a network needs depends on all that runs it."""

from collections.abc import Callable

import torch

from minirtmdet.configs import TrainConfig
from minirtmdet.detector import build_detector
from minirtmdet.devices import pick_amp
from minirtmdet.distributed import World
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import build_optimizer, freeze, train_mode
from minirtmdet.engine.step import Inputs, TrainStep
from minirtmdet.structures import GroundTruth

MOST = 1024
"""The largest batch that is tried."""
SHARE = 0.8
"""Part of the free memory that a step may need: others come and go, and evaluation needs some."""
BOXES = 100
"""Boxes an image that steps are tried with; few images of COCO have more."""

Run = Callable[[], object]
Peak = Callable[[Run], int | None]
"""Does a step, and gives the bytes that were in use at most; None where there were not enough."""


def settle_batch(config: TrainConfig, device: torch.device, world: World, say: Callable[[str], None]) -> int:
    """The batch that fits a CUDA GPU, with a line that says so.

    Args:
        config: the run.
        device: the GPU of this process.
        world: the processes that train together, which all have the smallest batch that one of them finds.
        say: prints a line.

    Raises:
        ValueError: where not even one image fits.
    """
    free, _ = torch.cuda.mem_get_info(device)
    found = find_batch_size(config, device, room=int(SHARE * free), peak=lambda run: _cuda_peak(run, device))
    found = world.broadcast(min(world.gather(found)))
    say(f"batch: {found} images in place of {config.batch_size}, as many as fit {SHARE:.0%} of the free memory")
    return found


def find_batch_size(config: TrainConfig, device: torch.device, *, room: int, peak: Peak) -> int:
    """The largest power of 2 whose training step needs no more than ``room`` bytes.

    Args:
        config: the run; its network is built anew, and forgotten.
        device: where to try.
        room: bytes.
        peak: does a step and measures it.

    Raises:
        ValueError: where not even one image fits.
    """
    model = build_detector(config.model, assigner=config.assigner, loss=config.loss)
    model.to(device)
    freeze(model, config.optim)
    train_mode(model, config.optim)
    optimizer = build_optimizer(model, config.optim)
    step = TrainStep(model, optimizer, ExpMomentumEMA(model), pick_amp(config.amp, device))
    batch_size = 1
    while batch_size <= MOST:
        inputs = _example(config, batch_size, device)
        needed = peak(lambda inputs=inputs: step([inputs], 0.0))  # type: ignore[misc]
        if needed is None or needed > room:
            break
        batch_size *= 2
    if batch_size == 1:
        raise ValueError(
            f"auto_batch: a step with one image of {config.data.input_size} px needs more than the "
            f"{room / 2**20:.0f} MiB that {device} has for it: try a smaller --data.input-size"
        )
    return batch_size // 2


def _example(config: TrainConfig, batch_size: int, device: torch.device) -> Inputs:
    """Images and boxes as large and as many as those of training."""
    side = config.data.input_size
    images = torch.zeros(batch_size, 3, side, side, dtype=torch.uint8, device=device)
    corner = torch.linspace(0, side / 2, BOXES)
    boxes = torch.stack([corner, corner, corner + side / 4, corner + side / 4], -1)
    labels = torch.zeros(BOXES, dtype=torch.int64)
    ground_truth = GroundTruth.from_list([boxes] * batch_size, [labels] * batch_size)
    shapes = torch.full((batch_size, 2), side, device=device) if config.assigner.allowed_border >= 0 else None
    return Inputs(images, ground_truth.to(device), shapes)


def _cuda_peak(run: Run, device: torch.device) -> int | None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run()
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_reserved(device)
