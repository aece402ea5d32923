"""Shared memory, through which loading processes hand over their batches: how much they need, and how much there is."""

import os
from pathlib import Path

from minirtmdet.configs import MASK_STRIDE

SHARED = Path("/dev/shm")
"""Where Linux keeps it; other systems have no file system of their own for it."""
AHEAD = 2
"""Batches that each loading process makes ahead (PyTorch's ``prefetch_factor``)."""
IN_USE = 2
"""Batches that the training holds besides: one to train on, one on its way to the GPU."""


def check_shared_memory(workers: int, batch_size: int, input_size: int, masks: int = 0) -> None:
    """Make sure that the batches of loading processes have room, before these are started.

    Where they have none, PyTorch loses a batch and waits for it for ever.

    Args:
        workers: loading processes of each process that trains.
        batch_size: images in a batch.
        input_size: side of each, in pixels.
        masks: how many each has, padding counted.

    Raises:
        ValueError: naming the folder, the batches and what to lower.
    """
    if not workers or not SHARED.is_dir():
        return
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    batch = processes * batch_size * (3 * input_size**2 + masks * (input_size // MASK_STRIDE) ** 2)
    needed = (AHEAD * workers + IN_USE) * batch
    found = os.statvfs(SHARED)
    free = found.f_bavail * found.f_frsize
    if needed <= free:
        return
    fitting = max(free // batch - IN_USE, 0) // AHEAD
    raise ValueError(
        f"{SHARED} has {_megabytes(free)} free, too little for the batches of {batch_size} images of {input_size} px "
        f"({_megabytes(batch)}) that {workers} loading processes hand over, {_megabytes(needed)} in all: lower "
        f"data.workers to {fitting}, or batch_size, or make {SHARED} larger (docker run --shm-size=2g)"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
