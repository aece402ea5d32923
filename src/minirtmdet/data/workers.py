"""Processes that load batches: how one starts, and how it ends."""

import multiprocessing.queues
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

LOOK = 5.0
"""Seconds without a batch after which a look is taken whether the loading processes live."""


class WatchedLoader(DataLoader):
    """A loader that notices within seconds that one of its processes has died, however long its timeout is.

    torch hears of it by a signal, which only the parent gets: on Windows there is none, and where a server starts the
    processes (Linux from Python 3.14 on) the parent is the server.
    """

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if self.num_workers == 0:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _WatchedIterator(self)


class _WatchedIterator(_MultiProcessingDataLoaderIter):
    def _try_get_data(self, timeout: float = LOOK) -> tuple[bool, Any]:
        # torch looks at its processes at the end of a wait alone: so the wait is cut into short ones
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            found, data = super()._try_get_data(min(LOOK, max(left, 0.0)))
            if found or left <= LOOK:
                return found, data


def start_worker(_: int) -> None:
    """Make a process that has just started one that loads batches: one core, no say in signals, no lost batch."""
    # one core a worker: threads of several workers would fight for them
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    sys.excepthook = _except_hang_ups
    # a batch that cannot be handed over would be lost, and waited for; a process that ends is noticed
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    # Ctrl-C reaches every process of a terminal.  The main one decides: it may want batches still, to end its step
    # with the others, and ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_quietly)


def _end_worker(error: Exception, _: object) -> None:
    """Say why a batch could not be handed over, and end."""
    print(f"loading process: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _end_quietly(number: int, frame: FrameType | None) -> None:
    # a scheduler's SIGTERM reaches every process of a run too; the death of a worker by a signal would be an error of
    # torch's in the main process, wherever that is, even where it saves
    os._exit(0)


def _except_hang_ups(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python does with an error that nobody catches, but for those of a main process that has hung up.

    A thread of each worker hands tensors over.  Where the main process stops in the middle, because another worker was
    killed or on Ctrl-C, it has a message of its own, and the traceback of that thread would stand before it.
    """
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)
