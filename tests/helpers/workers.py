"""What tests run in processes of their own: training, alone or together, and what goes wrong in it.

The processes start from a server that has imported the package once.  Their functions live here, since a process finds
what it is to run by the name of its module.
"""

import gc
import math
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import signal
import socket
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from minirtmdet.cli import main
from minirtmdet.configs import TrainConfig
from minirtmdet.data.augment import Sample
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.workers import start_worker
from minirtmdet.distributed import beating, joined
from minirtmdet.engine.trainer import Trainer
from minirtmdet.evaluation.coco import run_evaluation

SERVER = multiprocessing.get_context("forkserver")
# an optimiser imports the compiler when it is made, which takes longer than the runs of these tests
SERVER.set_forkserver_preload(["helpers.workers", "torch._dynamo"])


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """A process of its own."""
    # the server finds what to import by the environment alone
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    multiprocessing.forkserver.ensure_running()
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path
    process = SERVER.Process(target=target, args=args)
    process.start()
    return process


def start_together(size: int, target: Callable[..., None], *args: Any) -> list[BaseProcess]:
    """``size`` processes with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(_as_rank, rank, size, port, target, *args) for rank in range(size)]


def _as_rank(rank: int, size: int, port: int, target: Callable[..., None], *args: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    target(*args)


def wait(processes: list[BaseProcess], seconds: float = 180) -> list[int | None]:
    """Exit codes, in a bounded time; negative for signals."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(end - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, f"processes that did not end in {seconds} s: {codes}"
    return codes


def train(
    config: TrainConfig, *, until_epoch: int | None = None, before: Callable[[Trainer], None] | None = None
) -> None:
    """A run, or a process of one; what it says goes to ``<name>.<rank>.txt`` beside the run's folder."""
    lines: list[str] = []
    try:
        with joined("cpu") as world:
            trainer = Trainer(config, say=lines.append, world=world)
            trainer._write_results = lambda: None  # type: ignore[method-assign]  # drawing takes longer than training
            if before is not None:
                before(trainer)
            trainer.fit(until_epoch)
            state = {"model": trainer.model.state_dict(), "ema": trainer.ema_model.state_dict()}
            torch.save(state | {"metrics": trainer.metrics}, config.out / f"{config.name}.{world.rank}.pt")
    except Exception as error:
        lines.append(f"{type(error).__name__}: {error}")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        (config.out / f"{config.name}.{os.environ.get('RANK', 0)}.txt").write_text("\n".join(lines))


def train_each(configs: list[TrainConfig]) -> None:
    """A process of a run, each with settings of its own."""
    train(configs[int(os.environ["RANK"])])


class After:
    """Does something after a step, on one process."""

    def __init__(self, step: int, what: Callable[[], None], rank: int = 0) -> None:
        self.step, self.what, self.rank = step, what, rank

    def __call__(self, trainer: Trainer) -> None:
        if trainer.world.rank == self.rank:
            trainer.watchers.append(self.look)

    def look(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            self.what()


def die() -> None:
    """What the kernel does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def end_group() -> None:
    """What a cluster or a closed terminal does: asks this process and those that load for it to end."""
    os.killpg(0, signal.SIGTERM)


def train_in_group(config: TrainConfig, *, before: Callable[[Trainer], None]) -> None:
    """A run whose processes are a group of their own."""
    os.setpgid(0, 0)
    train(config, before=before)


def hand_over_what_cannot_be() -> None:
    """A loading process whose batch is lost on its way."""
    start_worker(0)
    queue: Any = multiprocessing.Queue()
    queue.put(lambda: None)  # cannot be pickled
    time.sleep(20)


class NanLoss:
    """Makes the class loss of a step NaN, on one process."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def __call__(self, trainer: Trainer) -> None:
        forward = trainer.model.forward

        def broken(*args: Any, **kwargs: Any) -> Any:
            losses: Any = forward(*args, **kwargs)
            bad = trainer.step == self.step - 1 and trainer.world.rank == self.rank
            return losses | {"loss_cls": losses["loss_cls"] * (math.nan if bad else 1)}

        trainer.model.forward = broken  # type: ignore[method-assign]


class DieIn:
    """Ends the process in the ``number``-th file that it saves: while it is written, or before it takes its name."""

    def __init__(self, number: int, moment: Literal["write", "replace"]) -> None:
        self.number, self.moment = number, moment

    def __call__(self, trainer: Trainer) -> None:
        save, replace = torch.save, os.replace
        saves = iter(range(1, 1000))

        def broken_save(content: Any, file: Any) -> None:
            self.now = next(saves)
            save(content, _Deadly(file) if self.now == self.number and self.moment == "write" else file)

        def broken_replace(source: Any, target: Any) -> None:
            if getattr(self, "now", 0) == self.number and self.moment == "replace":
                die()
            replace(source, target)

        torch.save, os.replace = broken_save, broken_replace  # type: ignore[assignment]


class _Deadly:
    """A file that ends the process after a hundred thousand bytes."""

    def __init__(self, file: Any) -> None:
        self.file, self.left = file, 100_000

    def write(self, data: Any) -> int:
        self.left -= len(data)
        written: int = self.file.write(data)
        if self.left < 0:
            self.file.flush()
            die()
        return written

    def flush(self) -> None:
        self.file.flush()


def train_with_small_files(config: TrainConfig, size: int) -> None:
    """A run on which the kernel allows files of so many bytes: as a disk that is full in the middle of one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    train(config)


def gradients(config: TrainConfig, out: Path) -> None:
    """The gradients that the first step leaves, and the third, with BatchNorm in evaluation mode."""
    with joined("cpu") as world:
        trainer = Trainer(config, say=lambda _: None, world=world)
        trainer.model.eval()
        batches = list(islice(trainer.loader.epoch(0), config.optim.accumulate))
        grads = []
        for _ in range(3):
            trainer._train_step(batches)
            named = trainer.model.named_parameters()
            grads.append({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})
        content = {
            "grads": grads[0],
            "later": grads[2],
            "losses": trainer.progress.recent[0].mean,
            "lr": trainer.schedule.lr,
        }
        torch.save(content, out / f"{world.size}.{world.rank}.pt")


def stuck(out: Path, ends: str) -> None:
    """Process 0 waits inside a call that nothing interrupts, as for a GPU; process 1 ends, in one way or another."""
    with (out / f"{os.environ['RANK']}.txt").open("w") as file, redirect_stderr(file), joined("cpu") as world, \
         beating(world, silence=4):  # fmt: skip
        time.sleep(3)
        if world.rank == 1 and ends == "killed":
            die()
        if world.rank == 1 and ends == "failed":
            raise ValueError("no room")
        time.sleep(8 if ends == "later" else 30)
    raise SystemExit(0)


def let_go_of_the_network() -> None:
    """Ends with 0 where the group of processes outlives the last network that was wrapped in it."""
    with joined("cpu") as world:
        network = world.wrap(nn.Linear(1, 1))
        group = weakref.ref(dist.group.WORLD)
    del network
    gc.collect()
    raise SystemExit(0 if group() is not None else 3)


def evaluate(config: TrainConfig, out: Path) -> None:
    """The evaluation of a network that finds something."""
    with joined("cpu") as world:
        trainer = Trainer(config, say=lambda _: None, world=world)
        size = {"input_size": config.data.input_size, "batch_size": 2}
        loader = EvalLoader(trainer.val_dataset, rank=world.rank, world_size=world.size, **size)
        found = run_evaluation(trainer.ema_model, loader, trainer.val_dataset, world=world)
        content = {"metrics": found.metrics, "by_class": found.by_class, "image_ids": found.image_ids}
        torch.save(content | {"results": found.results}, out / f"{world.size}.{world.rank}.pt")


def command(words: list[str], out: Path) -> None:
    """A command line in each process; what it prints and says of errors goes to ``<rank>.txt``."""
    with (out / f"{os.environ.get('RANK', 0)}.txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
        code = main(words)
    raise SystemExit(code)


def command_whose_loaders_die(words: list[str], out: Path) -> None:
    """A command line whose first loading process is killed at its second image, as where memory ends."""
    load = CocoDataset.load
    loads = iter(range(1000))

    def deadly(dataset: CocoDataset, index: int) -> Sample:
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id == 0 and next(loads) == 1:
            die()
        return load(dataset, index)

    CocoDataset.load = deadly  # type: ignore[method-assign]
    multiprocessing.set_start_method("fork", force=True)  # the loading processes find it changed
    command(words, out)
