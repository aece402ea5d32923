"""The next batch travels to the GPU while the current one trains."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from minirtmdet.data.loader import Batch


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches with their images, stored with the channels last, and boxes on ``device``.

    On a GPU the copies run on a stream of their own.  The host is ahead of the device by a step, so that the copy of
    a batch that it asks for here runs beside the training on the one before; then the training stream waits for the
    copy, not the host.  The batches come from pinned memory, as the loaders make them.
    """
    if device.type != "cuda":
        yield from (_move(batch, device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = _move(batch, device)
        training = torch.cuda.current_stream(device)
        training.wait_stream(copies)
        for tensor in (moved.images, *moved.ground_truth):
            tensor.record_stream(training)  # else its memory would be the next copy's while it is still read
        yield moved


def _move(batch: Batch, device: torch.device) -> Batch:
    images: Tensor = batch.images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return batch._replace(images=images, ground_truth=batch.ground_truth.to(device, non_blocking=True))
