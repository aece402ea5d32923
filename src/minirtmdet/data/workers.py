"""Processes that load batches: how one starts, and how it ends."""

import multiprocessing.queues
import os
import signal
import sys
from types import FrameType, TracebackType

import cv2
import torch


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
