"""Several processes that train as one: torchrun starts them, each joins the others here.

Every process holds the whole network and takes its share of each step's images.  DistributedDataParallel averages
the gradients; :func:`reduce_mean` averages the sum of IoUs that the losses are divided by.  Process 0 alone writes.
"""

import atexit
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for one that lives; one that has died is noticed at once, by its closed connection, or where
GPUs wait for it, by its silence (:func:`beating`)."""
GRACE = 3.0
"""Seconds in which a process that fails can tell the others, before they take it for dead."""
BEAT = 1.0
"""Seconds between two signs of life of a process on a GPU."""
SILENCE = 60.0
"""Seconds without one after which it is taken for dead; reading a large JSON file holds a thread up for some."""
RESUME = "the same command with --resume continues"
"""How to go on with a training."""


class ProcessLost(RuntimeError):
    """Another process has ended, and with it the run; the message says which and how to go on."""


class ProcessFailed(RuntimeError):
    """This process has ended the run; the message says which one it is, and why."""


class Ending(Enum):
    """What a process that has to end says of it."""

    AS_IT_IS = "its own error"
    NUMBERED = "its own error, and which process it is"
    ELSEWHERE = "nothing: another process says it"
    DIED = "ended without a word: killed, or its machine is gone or out of memory"
    FAILED = "failed, and says itself why"


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them; by default one alone.

    What is said of all processes has to be called by all of them, in the same order.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine, and so of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _store: dist.Store | None = field(default=None, repr=False, compare=False)

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and lines; one does."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: of several GPUs, the one with its number.

        Raises:
            ValueError: where there is none for it.
        """
        if self.size == 1:
            return device
        if device.type == "mps":
            raise ValueError("device mps trains in one process: start it without torchrun, or give --device cpu")
        if device.type != "cuda":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {self.rank} of {self.size} has no GPU of its own, this machine has "
                f"{torch.cuda.device_count()}: start as many with --nproc-per-node, or give --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network such that a backward pass leaves every process the mean of all gradients.

        The graph uses every parameter in every step, whatever the boxes (a loss without positives is 0 times the
        outputs), so nothing has to be searched for unused ones; nor is it declared static, which is for graphs
        that use a part of them, and does not go with ``no_sync``.
        """
        if self.size == 1:
            return network
        with warnings.catch_warnings():
            # the name that every torch of the package's range knows
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            # no device_ids: batches are on the device already, and their boxes are no type that DDP would move
            return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def mean(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The mean over processes, on the device."""
        return values if self.size == 1 else reduce_mean(values)

    def gather(self, value: T) -> list[T]:
        """The values of all processes by rank, on the writer; the own one alone elsewhere."""
        if self.size == 1:
            return [value]
        values: list[T | None] | None = [None] * self.size if self.is_writer else None
        dist.gather_object(value, values)
        return [value] if values is None else values  # type: ignore[return-value]  # filled

    def broadcast(self, value: T) -> T:
        """The writer's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)

    def copy_buffers(self, *modules: nn.Module) -> None:
        """Give every process the writer's buffers.

        Statistics of BatchNorms differ where each process sees its share of the images alone; weights do not.
        """
        if self.size == 1:
            return
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def check_same(self, what: str, value: object) -> None:
        """Make sure that every process found the same.

        Raises:
            ValueError: on all of them, naming those that differ.
        """
        if self.size == 1:
            return
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            found = ", ".join(f"process {rank}: {other}" for rank, other in enumerate(values))
            raise ValueError(f"{what} has to be the same for all processes, and is not ({found})")

    def explain(self, error: Exception, advice: str = RESUME) -> Exception:
        """What to raise in place of an error: something that says which process ended the run, said once.

        Raises:
            SystemExit: where another process says it.
        """
        if self._store is None:
            return error
        with suppress(ValueError):  # outside the main thread
            # torchrun ends the others when one has ended, and would cut off what this one is about to say
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, ProcessLost | ProcessFailed):
            return error
        lost = _is_connection(error)
        self._store.set(f"end/{self.rank}", json.dumps(None if lost else str(error)))
        ending, ranks = self._after_loss() if lost else (self._after_own(error), [])
        if ending is Ending.ELSEWHERE:
            raise SystemExit(2)
        if ending is Ending.AS_IT_IS:
            return error
        if ending is Ending.NUMBERED:
            return ProcessFailed(f"process {self.rank} of {self.size}: {error}")
        who = f"{_named(ranks)} of {self.size}"
        return ProcessLost(f"{who} {ending.value}; the run cannot go on without it. {advice[0].upper()}{advice[1:]}")

    def _after_own(self, error: Exception) -> Ending:
        """Who says an error that this process has met itself."""
        if self.rank == 0:
            return Ending.AS_IT_IS
        if self._last_words([0], 1.0).get(0) == str(error):  # all processes have met it
            return Ending.ELSEWHERE
        for_users = isinstance(error, ValueError | OSError | ArithmeticError | torch.OutOfMemoryError)
        return Ending.NUMBERED if for_users else Ending.AS_IT_IS

    def _after_loss(self) -> tuple[Ending, list[int]]:
        """What became of the others where they can no longer be reached, and of whom it is said."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        words = self._last_words(others, GRACE)
        dead = [rank for rank in others if rank not in words]
        failed = [rank for rank in others if words.get(rank) is not None]
        witnesses = [rank for rank in others if rank not in dead and rank not in failed]
        if not dead and not failed:
            return Ending.AS_IT_IS, []
        if any(rank < self.rank for rank in witnesses):  # of those that saw it, the first says it
            return Ending.ELSEWHERE, []
        return (Ending.DIED, dead) if dead else (Ending.FAILED, failed)

    def _last_words(self, ranks: Sequence[int], seconds: float) -> dict[int, str | None]:
        """What processes said at their end; None for those that only saw another one end."""
        assert self._store is not None
        words: dict[int, str | None] = {}
        end = time.monotonic() + seconds
        try:
            while len(words) < len(ranks) and time.monotonic() < end:
                for rank in ranks:
                    if rank not in words and self._store.check([f"end/{rank}"]):
                        words[rank] = json.loads(self._store.get(f"end/{rank}"))
                time.sleep(0.05)
        except RuntimeError:
            pass  # the store went with the process that held it
        return words


@contextmanager
def beating(world: World, advice: str = RESUME, silence: float = SILENCE) -> Iterator[None]:
    """Give signs of life in a thread, and end this process where another one has given none for a while.

    A GPU that waits for one that is gone waits for ever, and with it the host, inside CUDA, where no exception reaches
    it; torch's own watchdog ends such a process after :data:`TIMEOUT`.  The processes meet in the store that torchrun
    or process 0 holds, over a connection of its own, since a wait on the other one would hold this thread up.

    Args:
        world: this process, and how many there are.
        advice: how to go on after another process has ended.
        silence: seconds without a sign of life after which a process is taken for dead.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
    stop, peace = threading.Event(), threading.Event()
    thread = threading.Thread(target=_beat, args=(world, store, stop, peace, advice, silence), daemon=True)
    thread.start()
    try:
        yield
        peace.set()
    finally:
        stop.set()
        thread.join(2 * BEAT)


def _beat(
    world: World, store: dist.Store, stop: threading.Event, peace: threading.Event, advice: str, silence: float
) -> None:
    """Until told to stop, or until another process is silent; one that ended in peace said so, others need not wait."""
    heard = {rank: ("", time.monotonic()) for rank in range(world.size) if rank != world.rank}
    number = 0
    while True:
        number += 1
        ended = stop.wait(BEAT)
        try:
            if not ended or peace.is_set():
                store.set(f"beat/{world.rank}", PEACE if ended else str(number))
            for rank, (last, _) in heard.items():
                beat = store.get(f"beat/{rank}").decode() if store.check([f"beat/{rank}"]) else ""
                if beat != last or beat == PEACE:
                    heard[rank] = beat, time.monotonic()
        except RuntimeError:
            pass  # the store has gone with its process, which is silent from now on
        if ended:
            return
        if any(time.monotonic() - moment > silence for _, moment in heard.values()):
            break
    with suppress(SystemExit):  # another process says it
        error = world.explain(RuntimeError("Connection closed: a process is silent"), advice)
        print(f"minirtmdet: error: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # the main thread cannot be reached


PEACE = "ended in peace"


ALONE = World()
"""One process."""


@contextmanager
def joined(device: str = "auto", advice: str = RESUME) -> Iterator[World]:
    """Join the processes that torchrun started, for a while; this process alone where it started none.

    Args:
        device: the setting; NCCL connects GPUs, gloo processors.
        advice: how to go on after another process has ended.

    Raises:
        ProcessLost: where another process has ended.
        ProcessFailed: in place of an error of this process alone.
        SystemExit: where another process reports the error.
    """
    rank, size, local_rank = _place()
    if size == 1:
        yield ALONE
        return
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=TIMEOUT))
    world = World(rank, size, local_rank, dist.PrefixStore("minirtmdet", store))
    gpu = device != "cpu" and torch.cuda.is_available()
    # what is on the host, flags and objects, travels by gloo always: it sees at once that a process has died
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    with warnings.catch_warnings():
        if not world.is_writer:
            warnings.simplefilter("ignore")
        try:
            # processors and gloo need none: a connection that closes is an error at once
            with beating(world, advice) if gpu else nullcontext():
                yield world
        except Exception as error:
            # the group is left as it is: to close it would be to wait for who is gone
            explained = world.explain(error, advice)
            if explained is error:
                raise
            raise explained from error
    # a wrapped network holds the group too.  Were it the last to do so, its end would wait for gloo's thread and keep
    # Python's lock meanwhile, which that thread may need to let its last tensors go: neither would ever go on
    atexit.register(_outlive, dist.group.WORLD)
    dist.destroy_process_group()


def _outlive(_: object) -> None:
    """Nothing: what atexit is to hand over lives until Python ends."""


def check_alone(what: str) -> None:
    """Nothing where torchrun started one process or none.

    Raises:
        ValueError: for one of several processes, which would all do the same and write the same files.
    """
    rank, size, _ = _place()
    if size > 1:
        raise ValueError(f"{what} works in one process, and this is number {rank} of {size}: start it without torchrun")


def reduce_mean(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean over all processes, on the device (MMDetection: ``reduce_mean``)."""
    values = values / dist.get_world_size()
    dist.all_reduce(values)
    return values


def _place() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine, as torchrun says them."""
    environment = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    rank, size, local_rank = (int(value or default) for value, default in zip(environment, (0, 1, 0), strict=True))
    return rank, size, local_rank


def _is_connection(error: Exception) -> bool:
    """Whether an error says that others cannot be reached; gloo's is a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and re.search(r"\bgloo\b|NCCL|Connection (reset|closed)", str(error)) is not None
    )


def _named(ranks: Sequence[int]) -> str:
    return ("process " if len(ranks) == 1 else "processes ") + ", ".join(map(str, ranks))
