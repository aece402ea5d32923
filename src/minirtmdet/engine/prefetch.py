"""The next batch travels to the GPU while the current one trains."""

from collections import deque
from collections.abc import Iterable, Iterator

import torch

from minirtmdet.data.loader import Batch

AHEAD = 2
"""Steps that the host may be ahead of the GPU: one that it works on, and one that waits for its end."""


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their images, stored with the channels last, and boxes on ``device``.

    On a GPU the copies run on a stream of their own.  The host is ahead of the device, so that the copy of a batch
    that it asks for here runs beside the training on the one before; then the training stream waits for the copy, not
    the host.  The batches come from pinned memory, as the loaders make them.

    The host waits where it is :data:`AHEAD` steps in front: further ahead it gains nothing, and batch after batch would
    fill the memory of both.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    steps: deque[torch.cuda.Event] = deque()  # the ends of those that the device may not have come to
    for batch in batches:
        if len(steps) == AHEAD:
            steps.popleft().synchronize()
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        training = torch.cuda.current_stream(device)
        training.wait_stream(copies)
        for tensor in (moved.images, *moved.ground_truth):
            # the memory belongs to the stream of copies, which without this could fill it while training still reads it
            tensor.record_stream(training)
        yield moved
        del moved
        steps.append(torch.cuda.Event(blocking=True))  # a host that waits leaves its core to the loading processes
        steps[-1].record(training)
