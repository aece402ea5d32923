"""Training: from a configuration to weights, logs, numbers and pictures in a folder.

:class:`Trainer` holds a run together and does it in this order: a step, the end of an epoch (evaluate, log, save), the
state that a run resumes from, the start, the results.  What each of these is made of lies beside it:
:mod:`~minirtmdet.engine.step` (forward, backward, update, average), :mod:`~minirtmdet.engine.optim` (learning rate),
:mod:`~minirtmdet.evaluation.coco` (AP), :mod:`~minirtmdet.engine.runfolder` (what a folder holds, and whether a run
may go on there), :mod:`~minirtmdet.engine.runlog` (rows), :mod:`~minirtmdet.distributed` (several processes).
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from minirtmdet.configs import DataConfig, ModelConfig, TrainConfig
from minirtmdet.data.augment import eval_sample
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import Batch, EvalLoader, TrainLoader
from minirtmdet.data.pipeline import TrainPipeline
from minirtmdet.data.splits import resolve_splits
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.devices import pick_amp, pick_device
from minirtmdet.distributed import ALONE, World, reduce_mean
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.interrupts import Interrupts
from minirtmdet.engine.optim import FlatCosine, build_optimizer
from minirtmdet.engine.prefetch import prefetch
from minirtmdet.engine.runfolder import RunFolder, RunLock, check_same_run
from minirtmdet.engine.runlog import METRIC_COLUMNS, Row, RunLog
from minirtmdet.engine.step import LOSSES, Inputs, build_step
from minirtmdet.evaluation.coco import Evaluation, run_evaluation
from minirtmdet.files import DiskFull, write_json
from minirtmdet.settings import check_settings
from minirtmdet.structures import Detections
from minirtmdet.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from minirtmdet.weights.describe import count_classes, guess_origin
from minirtmdet.weights.fit import load_checkpoint
from minirtmdet.weights.formats import save_tensors
from minirtmdet.weights.origins import SILENT

SHEET = 8
"""Validation pictures on the sheet of detections."""
TOGETHER = 0.5
"""Seconds in which a signal to a group of processes has reached every one of them."""


class StepLosses(NamedTuple):
    """What a step returned, on the device.

    Attributes:
        mean: its :data:`~minirtmdet.engine.step.LOSSES`, means over processes.
        own: those of this process.
        paths: the pictures of this process.
    """

    mean: Float[Tensor, "3"]
    own: Float[Tensor, "3"]
    paths: list[str]


class Trainer:
    """One run: everything it needs, made from its settings; :meth:`fit` does the work.

    The training path never waits for the device: losses are read every few steps, many at once.

    In several processes each makes a trainer of its own and calls the same methods.  All keep the moving average,
    which costs less than to send it; process 0 alone writes files and lines.

    Args:
        config: the run.
        say: prints a line; the progress bars follow the environment variable ``TQDM_DISABLE``.
        world: the processes that train together; see :func:`minirtmdet.distributed.joined`.

    Attributes:
        config: the run as it is, its classes those of the data.
        folder: where it writes.
        model: the network in training.
        ema_model: its moving average: what is evaluated and saved.
        dataset, val_dataset: the pictures.
        history: rows of the log; see :data:`minirtmdet.engine.runlog.COLUMNS`.
        epoch: epochs done.
        step: optimiser steps done.
        metrics: the latest evaluation; empty before the first.
        watchers: functions to call with the trainer after every optimiser step, to look on; empty by default.

    Raises:
        BlockingIOError: for a folder that another process is training in.
        FileExistsError: for a folder that holds a run, without ``resume`` or ``overwrite``.
        FileNotFoundError, ValueError: for data or weights that are missing or do not fit.
    """

    def __init__(self, config: TrainConfig, *, say: Callable[[str], None] = print, world: World = ALONE) -> None:
        # what can be refused is refused before anything is read where that is possible, and before anything is written
        check_settings(config)
        self.world = world
        self.say = say = say if world.is_writer else _silent
        self.folder = RunFolder(config.out / config.name)
        self.device = world.device(pick_device(config.device))
        _check_together(config, world, self.device)
        found = self.folder.state_of_last()
        resumed = self.folder.find_state(config, world.size)
        if config.resume and resumed is None:
            say(f"nothing to resume in {self.run_dir}: starting the run")
        start = read_checkpoint(config.weights) if config.weights is not None and resumed is None else None
        config = replace(config, data=_absolute(config.data), model=self._settle_network(config, start, resumed))
        self._load_data(config)
        self.classes = self.dataset.classes
        if len(self.classes) != config.model.num_classes:
            say(f"classes: {len(self.classes)} of the data in place of {config.model.num_classes}")
        self.config = replace(config, model=replace(config.model, num_classes=len(self.classes)))
        if resumed is not None:
            check_same_run(
                resumed,
                self.config,
                classes=self.classes,
                pictures=len(self.dataset),
                steps_per_epoch=self.steps_per_epoch,
                processes=world.size,
            )

        torch.manual_seed(config.seed)
        model = build_detector(self.config.model, assigner=config.assigner, loss=config.loss)
        if start is not None:
            self._start_from(model, start)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
            if world.size > 1 and config.sync_bn:  # which the CPU does not have
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if world.size > 1:
            model.loss.reduce_mean = reduce_mean
        self.model = model.to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
        optim = config.optim
        self.ema = ExpMomentumEMA(self.model, optim.ema_momentum, optim.ema_ramp, optim.ema_shared_once)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.schedule = self._make_schedule()
        self.amp_dtype = pick_amp(config.amp, self.device)
        compile = pick_compile(config.compile, self.device)
        parts = (self.model, self.optimizer, self.ema, self.amp_dtype)
        self.train_step = build_step(*parts, compile, wrap=world.wrap, say=say)

        self.epoch = self.step = self.position = 0
        self.seconds = 0.0
        self.best: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.per_class: dict[str, float] = {}
        self._recent: list[StepLosses] = []  # since the last row
        self._images = 0  # since the clock was read last
        self._left_out = 0
        self.watchers: list[Callable[[Trainer], None]] = []
        self._interrupts = Interrupts()
        rows = self._restore(resumed) if resumed is not None else []
        # nobody looks into the folder any more when it is changed
        place = (len(self.dataset), len(self.val_dataset), self.epoch, self.position, self.step)
        world.check_same("what a run starts from (pictures to train and evaluate on, epoch, position, step)", place)
        self._lock = RunLock(self.run_dir)
        if world.is_writer:
            self._lock.acquire()
            self.folder.check_unchanged(found)
            self.folder.prepare(self.config, self.classes, clear=resumed is None)
        self._log = RunLog(self.run_dir if world.is_writer else None, rows, say)
        self._clock = self._saved_at = self._fit_at = time.perf_counter()
        self._fit_step = self.step
        precision = "fp32" if self.amp_dtype is None else "bf16, losses in fp32"
        precision += ", compiled in the first step, which takes a minute" if compile in ("step", "graph") else ""
        where = f"{self.device}, {world.size} processes" if world.size > 1 else f"{self.device}"
        say(f"run: {self.run_dir} on {where}, {precision}, {config.epochs} epochs of {self.steps_per_epoch} steps")

    @property
    def run_dir(self) -> Path:
        """Where it writes."""
        return self.folder.path

    @property
    def ema_model(self) -> RTMDet:
        """The moving average of the model."""
        return self.ema.module

    @property
    def history(self) -> list[Row]:
        """The rows of the log so far."""
        return self._log.rows

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; what is left after the last full accumulation makes a step too."""
        return -(-len(self.loader) // self.config.optim.accumulate)

    def fit(self, until_epoch: int | None = None) -> dict[str, float]:
        """Train to the end, or until ``until_epoch`` epochs are done; a further call continues.

        Returns:
            The latest evaluation's twelve numbers; empty where none was due yet.

        Raises:
            BlockingIOError: where another process is training in the folder meanwhile.
            DiskFull: naming the file that could not be written, and how to go on.
            KeyboardInterrupt: after Ctrl-C, with the state saved to ``last.pt``.
            FloatingPointError: for a loss that is not finite, naming the pictures of that step, which are saved.
            torch.OutOfMemoryError: naming the settings to lower.
            ProcessLost: where another process ended.
        """
        last = self.config.epochs if until_epoch is None else min(until_epoch, self.config.epochs)
        self._clock, self._images = time.perf_counter(), 0
        self._fit_at, self._fit_step = self._clock, self.step
        if self.world.is_writer:
            self._lock.acquire()
        # several processes stop after the same step, agreed on in _train_epoch
        deferred = self._interrupts.held() if self.world.size > 1 else nullcontext()
        try:
            with self._interrupts, deferred:
                self._run_epochs(last)
            if self.epoch == self.config.epochs and self.world.is_writer:
                self._write_results()
        except DiskFull as error:
            raise DiskFull(f"{error}; {self.folder.advice}") from error
        finally:
            self.loader.close()
            self._lock.release()
        return self.metrics

    def _run_epochs(self, last: int) -> None:
        """Train until ``last`` epochs are done; whatever breaks it off, what can be saved is."""
        try:
            try:
                while self.epoch < last:
                    self._train_epoch()
                    self._end_epoch()
            except RuntimeError as error:
                if self.world.size == 1 and is_lost_worker(error):
                    self._save_after_loss(error)
                raise
        except KeyboardInterrupt:
            with self._interrupts.held():
                self._save_last()
            self.say(
                f"stopped after step {self.step} of {self.schedule.total_steps}, saved {self.folder.last}: "
                "the same command with --resume continues"
            )
            raise
        except torch.OutOfMemoryError as error:
            raise self.world.explain(torch.OutOfMemoryError(self._memory_advice())) from error
        except RuntimeError as error:
            if self.world.size == 1:
                raise
            raise self.world.explain(error, self.folder.advice) from error

    def _save_after_loss(self, error: RuntimeError) -> None:
        """Save the state after a loading process has ended, which is an error between two steps alone.

        Raises:
            KeyboardInterrupt: where all processes of the run were asked to end, and a loading one was the first to.
        """
        with self._interrupts.held():
            time.sleep(TOGETHER)
            self._save_last()
        error.add_note(self.folder.advice)

    def evaluate(self) -> Evaluation:
        """Evaluate the moving average on the validation pictures, each process on its share of them."""
        return run_evaluation(self.ema_model, self.val_loader, self.val_dataset, self.config.predict, world=self.world)

    def _memory_advice(self) -> str:
        """Which settings need less memory."""
        config = self.config
        ways = [
            f"a smaller batch_size (now {config.batch_size}; with optim.accumulate (now {config.optim.accumulate}) so "
            "many times larger a step still sees as many pictures)",
            f"a smaller data.input_size (now {config.data.input_size})",
        ]
        if self.amp_dtype is None and self.device.type == "cuda":
            ways.append(f"--amp bf16 (now {config.amp})")
        return f"out of memory on {self.device} in step {self.step + 1}: try {', '.join(ways)}; {self.folder.advice}"

    # ------------------------------------------------------------------------------------- a step

    def _train_epoch(self) -> None:
        """The steps of an epoch that are still to do."""
        self.model.train()
        accumulate, total = self.config.optim.accumulate, self.steps_per_epoch
        start = min(self.position * accumulate, len(self.loader))
        batches = prefetch(self.loader.epoch(self.epoch, start), self.device)
        every = max(10, total // 20)
        epochs = f"epoch {self.epoch + 1}/{self.config.epochs}"
        # named only to switch it off: an argument would win over TQDM_DISABLE
        quiet = {} if self.world.is_writer else {"disable": True}
        with tqdm(total=total, initial=self.position, desc=epochs, unit="step", leave=False, **quiet) as bar:
            while self.position < total:
                group = list(islice(batches, accumulate))
                with self._interrupts.held():
                    self._train_step(group)
                    for watch in self.watchers:
                        watch(self)
                    # the row of an epoch's last step waits for the evaluation
                    if self.position % every == 0 and self.position < total:
                        row = self._make_row()
                        self._recent = []
                        self._log.write(row)
                        bar.set_postfix_str(_describe(row), refresh=False)
                    minutes = (time.perf_counter() - self._saved_at) / 60
                    if 0 < self.config.save_minutes < minutes:
                        self._save_last()
                bar.update()
                if self.world.size > 1 and self.world.any(self._interrupts.came):
                    raise KeyboardInterrupt

    def _train_step(self, batches: list[Batch]) -> None:
        """One optimiser step; see :class:`minirtmdet.engine.step.TrainStep`."""
        inputs = []
        for batch in batches:
            images = batch.images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            ground_truth = batch.ground_truth.to(self.device, non_blocking=True)
            img_shapes = None
            if self.config.assigner.allowed_border >= 0:
                img_shapes = torch.tensor(batch.img_shapes, pin_memory=self.device.type == "cuda")
                img_shapes = img_shapes.to(self.device, non_blocking=True)
            inputs.append(Inputs(images, ground_truth, img_shapes))
        losses = self.train_step(inputs, self.schedule(self.step))
        paths = [path for batch in batches for path in batch.paths]
        self._recent.append(StepLosses(self.world.mean(losses), losses, paths))
        self._images += len(paths) * self.world.size
        self.step += 1
        self.position += 1

    def _read_losses(self) -> Float[Tensor, "steps 3"]:
        """Losses since the last row, means over processes: the one place where the host waits for the device.

        Raises:
            FloatingPointError: naming the pictures of the first step whose losses are not finite.
        """
        values = torch.stack([losses.mean for losses in self._recent]).cpu().double()
        for i in (~values.isfinite().all(1)).nonzero().flatten().tolist():
            own, paths = self._recent[i].own.cpu(), self._recent[i].paths
            step, last = self.step - len(values) + i + 1, self.folder.last
            saved = f"{last} holds an earlier state" if last.exists() else "nothing was saved before"
            if own.isfinite().all():
                raise FloatingPointError(f"the loss of another process is not finite at step {step}; {saved}")
            loss = ", ".join(f"{key} {value:g}" for key, value in zip(LOSSES, own.tolist(), strict=True))
            raise FloatingPointError(
                f"the loss is not finite at step {step} ({loss}); {saved}; the pictures of that step, "
                f"{self._save_batches(step)}: {', '.join(paths)}"
            )
        return values

    def _save_batches(self, step: int) -> str:
        """Save what a step of this epoch was trained on; returns where, or why not."""
        accumulate = self.config.optim.accumulate
        first = (self.position - (self.step - step) - 1) * accumulate
        numbers = range(first, min(first + accumulate, len(self.loader)))
        rank = f"_process{self.world.rank}" if self.world.size > 1 else ""
        path = self.run_dir / f"bad_step{step}{rank}.pt"
        batches = []
        try:
            # made once more: a batch is a function of epoch and number
            for batch in (self.loader.batch(self.epoch, number) for number in numbers):
                ground_truth = batch.ground_truth._asdict()
                batches.append({"images": batch.images, "paths": batch.paths, "ground_truth": ground_truth})
            save_tensors(path, {"step": step, "epoch": self.epoch, "batches": batches})
        except (OSError, ValueError) as error:
            return f"not saved ({error})"
        return f"as the network saw them in {path}"

    def _make_row(self) -> Row:
        """The log's row for the steps since the last one."""
        loss_cls, loss_bbox, num_pos = self._read_losses().mean(0).tolist()
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self.seconds += elapsed
        images, self._images = self._images, 0
        return {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.schedule(self.step - 1),
            "loss": loss_cls + loss_bbox,
            "loss_cls": loss_cls,
            "loss_bbox": loss_bbox,
            "num_pos": num_pos,
            "images_per_second": images / max(elapsed, 1e-9),
        }

    def _end_epoch(self) -> None:
        """Evaluate if it is due, log, save."""
        row = self._make_row()
        self.world.copy_buffers(self.model, self.ema_model)
        self._say_left_out()
        epoch = self.epoch + 1
        evaluation = None
        if epoch % self.config.eval_every == 0 or epoch > self.loader.stage2_start or epoch == self.config.epochs:
            with self._interrupts.held():
                self._save_last()  # an evaluation can take long, and end badly
            evaluation = self.evaluate()
            row |= {key: evaluation.metrics[key] for key in METRIC_COLUMNS}
        with self._interrupts.held():
            self._recent = []
            self.epoch, self.position = epoch, 0
            self._log.write(row)
            if evaluation is not None:
                self.metrics, self.per_class = evaluation.metrics, evaluation.per_class
                if self.metrics["AP"] > self.best.get("AP", -math.inf):
                    self.best = {"epoch": epoch, **self.metrics}
                    self._save("best.pt")
            self._save_last()
        self.say(f"epoch {epoch}/{self.config.epochs}: {_describe(row)}{self._time_left()}")
        self._clock = time.perf_counter()

    def _time_left(self) -> str:
        """How long the rest of the run will take at the pace of this call, evaluations included; empty at its end."""
        done, left = self.step - self._fit_step, self.schedule.total_steps - self.step
        if not done or not left:
            return ""
        minutes, seconds = divmod(round((time.perf_counter() - self._fit_at) / done * left), 60)
        hours, minutes = divmod(minutes, 60)
        words = f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
        return f", {words} left"

    # -------------------------------------------------------------------------------------- state

    def _say_left_out(self) -> None:
        """Name the pictures that could not be read, of all processes, where there are new ones."""
        left_out = sum(self.world.gather(self.loader.left_out + self.val_loader.left_out), Counter[str]())
        if left_out.total() > self._left_out:
            self._left_out = left_out.total()
            examples = "; ".join([*list(left_out)[:3], *(["..."] if len(left_out) > 3 else [])])
            self.say(f"pictures that cannot be read: {len(left_out)}, met {self._left_out} times so far: {examples}")

    def _save(self, name: str, training: dict[str, Any] | None = None) -> None:
        if not self.world.is_writer:
            return
        state = self.ema_model.state_dict()
        save_checkpoint(self.run_dir / name, state, self.config, self.classes, metrics=self.metrics, training=training)

    def _save_last(self) -> None:
        """Everything that the next step depends on, and the log.

        No random state: every draw is a function of seed, epoch and position.

        Raises:
            FloatingPointError: rather than save a state that is not finite.
        """
        self._saved_at = time.perf_counter()
        if self._recent:
            self._read_losses()
        norms = torch._foreach_norm([parameter.detach() for parameter in self.model.parameters()])
        if not torch.stack(norms).isfinite().all():
            raise FloatingPointError(f"weights are not finite after step {self.step}, although every loss was")
        self._save(
            "last.pt",
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema_steps": self.ema.steps,
                "epoch": self.epoch,
                "position": self.position,
                "step": self.step,
                "steps_per_epoch": self.steps_per_epoch,
                "processes": self.world.size,
                "seconds": self.seconds,
                "best": self.best,
                "per_class": self.per_class,
                "recent": [losses.mean.cpu() for losses in self._recent],
                "recent_paths": [losses.paths for losses in self._recent],
                "history": self.history,
                "pictures": len(self.dataset),
            },
        )

    def _restore(self, checkpoint: Checkpoint) -> list[Row]:
        """Take over the state of ``last.pt``; returns the rows of the log."""
        state = checkpoint.training
        assert state is not None
        load_checkpoint(self.model, replace(checkpoint, state_dict=state["model"]))
        load_checkpoint(self.ema_model, checkpoint)
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.steps = state["ema_steps"]
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        self.seconds, self.best, self.per_class = state["seconds"], state["best"], state["per_class"]
        self.metrics = checkpoint.metrics
        recent = [values.to(self.device) for values in state["recent"]]
        self._recent = [
            StepLosses(values, values, paths) for values, paths in zip(recent, state["recent_paths"], strict=True)
        ]
        then = state.get("processes", 1)
        if then != self.world.size:
            self.say(
                f"{self.world.size} processes in place of {then}: the same pictures in every step, but each process "
                "divides them otherwise, so that numbers are no longer those of the run before to the last digit"
            )
        self.say(f"resuming after epoch {self.epoch} of {self.config.epochs}, step {self.step}")
        if state["pictures"] != len(self.dataset):
            self.say(f"{len(self.dataset)} pictures to train on in place of {state['pictures']}, from here on")
        before = checkpoint.config
        if before is not None and before.epochs < self.config.epochs:
            self.say(
                f"a longer run: {self.config.epochs} epochs in place of {before.epochs}; it goes on as that run would, "
                f"with a learning rate of {self.schedule(self.step):.2e}"
            )
        return state["history"]

    # -------------------------------------------------------------------------------------- start

    def _load_data(self, config: TrainConfig) -> None:
        train, val = resolve_splits(config.data)
        data = config.data
        self.dataset = CocoDataset.from_config(train, data)
        # by name: the ids and their order can differ between the files
        self.val_dataset = CocoDataset.from_config(val, data, self.dataset.classes)
        self._check_boxes()
        size: dict[str, Any] = {"input_size": data.input_size, "batch_size": config.batch_size, "workers": data.workers}
        size |= {"rank": self.world.rank, "world_size": self.world.size, "pin_memory": self.device.type == "cuda"}
        self.loader = TrainLoader(self.dataset, config.augment, seed=config.seed, epochs=config.epochs, **size)
        self.val_loader = EvalLoader(self.val_dataset, **size)
        pictures = f"{len(self.dataset)} pictures to train on, {len(self.val_dataset)} to evaluate on"
        self.say(f"data: {pictures}, {len(self.dataset.classes)} classes ({train.json_file})")
        judged = self.val_dataset.count_boxes()
        counts = [f"{name} {count} + {judged[name]}" for name, count in self.dataset.count_boxes().items()]
        self.say(f"boxes to learn from + to judge by: {', '.join(counts)}")

    def _check_boxes(self) -> None:
        """Raise a ValueError where there is nothing to learn; name the classes that cannot be learned or judged."""
        train, val = self.dataset, self.val_dataset
        counts = train.count_boxes()
        if not any(counts.values()):
            raise ValueError(
                f"{train.json_file} has no box to learn from in {len(train)} pictures: its annotations are empty, or "
                "all were left out"
            )
        for dataset, verb in ((train, "learn from"), (val, "judge by")):
            if absent := [name for name, count in dataset.count_boxes().items() if not count]:
                self.say(f"classes without a box to {verb}: {', '.join(absent)} ({dataset.json_file})")
        if val.other_boxes:
            others = ", ".join(f"{name} ({count})" for name, count in val.other_boxes.items())
            self.say(f"boxes of {val.json_file} that do not count, their class is not in {train.json_file}: {others}")

    def _make_schedule(self) -> FlatCosine:
        """The schedule of the run, with lines that say what differs from the settings."""
        config = self.config.optim
        batch = self.config.batch_size * config.accumulate * self.world.size
        schedule = FlatCosine.from_config(config, self.config.epochs, self.steps_per_epoch, batch)
        if batch != config.base_batch:
            together = f" of {self.world.size} processes together" if self.world.size > 1 else ""
            self.say(
                f"learning rate: {schedule.lr:g} for {batch} pictures a step{together} "
                f"({config.lr:g} for {config.base_batch})"
            )
        if schedule.warmup_iters < config.warmup_iters:
            self.say(
                f"warm-up: {schedule.warmup_iters} steps in place of {config.warmup_iters}, "
                f"a tenth of the run's {schedule.total_steps}"
            )
        return schedule

    def _settle_network(self, config: TrainConfig, start: Checkpoint | None, resumed: Checkpoint | None) -> ModelConfig:
        """The network to build: the settings', but for what the weights that it starts from say, with a line."""
        if resumed is not None:
            assert resumed.config is not None
            return config.model if resumed.config.weights is None else resumed.config.model
        if start is None or not _has_head(start):
            return config.model
        origin = start.origin or guess_origin(start.state_dict)
        if origin is None or origin.model is None:
            return config.model
        names = [field.name for field in fields(ModelConfig)] if config.adopt_network else SILENT
        ours, theirs = asdict(config.model), asdict(origin.model)
        changed = {name: theirs[name] for name in names if theirs[name] != ours[name] and name != "num_classes"}
        if changed:
            words = ", ".join(f"{name} {value} in place of {ours[name]}" for name, value in changed.items())
            self.say(f"network: {words}, since its weights start from {start.path} ({origin.source})")
        return replace(config.model, **changed)

    def _start_from(self, model: RTMDet, checkpoint: Checkpoint) -> None:
        """Load weights of another run or an official file; say which layers start fresh."""
        if not _has_head(checkpoint):
            report = load_checkpoint(model.backbone, checkpoint, prefix="backbone.")
            self.say(f"{report}\n  neck and head start fresh: the file has none")
            return
        # as many classes of other names are other classes
        known = checkpoint.classes in (None, self.classes)
        same = known and count_classes(checkpoint.state_dict) == len(self.classes)
        self.say(str(load_checkpoint(model, checkpoint, new_classes=not same)))

    # ------------------------------------------------------------------------------------ results

    def _write_results(self) -> None:
        """Numbers and pictures of a finished run."""
        from minirtmdet import plots

        write_json(
            self.run_dir / "metrics.json",
            {
                "metrics": self.metrics,
                "per_class": self.per_class,
                "best": self.best,
                "epochs": self.epoch,
                "steps": self.step,
                "images_seen": self.epoch * len(self.loader) * self.config.batch_size * self.world.size,
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "device": str(self.device),
                "train_seconds": round(self.seconds, 1),
            },
        )
        plots.save(plots.loss_curve(self.history), self.run_dir / "loss_curve.png")
        images, detections, boxes = self.detect_some()
        sheet = plots.detection_sheet(images, detections, self.classes, boxes)
        plots.save(sheet, self.run_dir / "detections.png")
        best = f", best {self.best['AP']:.3f} after epoch {self.best['epoch']:.0f}" if self.best else ""
        self.say(f"done: AP {self.metrics['AP']:.3f}{best}; numbers and pictures are in {self.run_dir}")

    def detect_some(self, count: int = SHEET) -> tuple[list[np.ndarray], list[Detections], list[Tensor]]:
        """Some validation pictures, evenly spaced, with what the moving average finds in them.

        Returns:
            Pixels (BGR), detections and true boxes of each, in pixels of the file.
        """
        count = min(count, len(self.val_dataset))
        samples = [self.val_dataset.load(index * len(self.val_dataset) // count) for index in range(count)]
        inputs = [eval_sample(sample, self.config.data.input_size) for sample in samples]
        pixels = torch.from_numpy(np.stack([sample.image for sample in inputs])).permute(0, 3, 1, 2)
        detections = self.ema_model.predict(
            pixels.to(self.device),
            self.config.predict,
            [sample.img_shape for sample in inputs],
            [sample.scale_factor for sample in inputs],
        )
        boxes = [torch.from_numpy(sample.boxes[~sample.ignore]) for sample in samples]
        return [sample.image for sample in samples], detections, boxes


def _check_together(config: TrainConfig, world: World, device: torch.device) -> None:
    """Raise a ValueError for settings that do not go together, or with the machine, as whoever uses them would."""
    if config.name in ("", ".", ".."):
        raise ValueError(f"name is {config.name!r}: expected the name of a folder of its own")
    if config.compile in ("record", "graph"):
        setting, advice = f"compile is {config.compile}", "set compile to step or off"
        if world.size > 1:
            raise ValueError(f"{setting}, which is for one process: {advice} for {world.size}")
        if config.optim.accumulate > 1:
            accumulate = f"optim.accumulate is {config.optim.accumulate}"
            raise ValueError(f"{setting} and {accumulate}: a recorded step is one batch; {advice}, or accumulate to 1")
        if device.type != "cuda":
            raise ValueError(f"compile {config.compile} needs a CUDA GPU, and the network is on {device}: {advice}")
    TrainPipeline(config.augment, config.data.input_size, config.seed, config.epochs)
    with torch.device("meta"):  # without memory or time
        build_detector(config.model, assigner=config.assigner, loss=config.loss)


def _absolute(data: DataConfig) -> DataConfig:
    """The same places wherever the run is looked at from."""

    def places(settings: Any) -> dict[str, Any]:
        return {key: Path(os.path.abspath(value)) for key, value in vars(settings).items() if isinstance(value, Path)}

    return replace(data, **places(data), scenes=replace(data.scenes, **places(data.scenes)))


def _has_head(checkpoint: Checkpoint) -> bool:
    """Whether weights are those of a detector, not of a backbone alone."""
    return any(key.startswith("bbox_head.") for key in checkpoint.state_dict)


def is_lost_worker(error: RuntimeError) -> bool:
    """Whether an error says that a process that loads pictures has ended, or is stuck."""
    return str(error).startswith(("DataLoader worker", "DataLoader timed out"))


def pick_compile(
    setting: Literal["auto", "off", "step", "record", "graph"], device: torch.device
) -> Literal["off", "step", "record", "graph"]:
    """How a step runs; ``auto`` compiles on a CUDA GPU, which a thousand launches a step would keep waiting.

    >>> pick_compile("auto", torch.device("cpu")), pick_compile("auto", torch.device("cuda"))
    ('off', 'step')
    """
    if setting == "auto":
        return "step" if device.type == "cuda" else "off"
    return setting


def _silent(_: str) -> None:
    """What processes that do not write say."""


def _describe(row: Row) -> str:
    """A row in words."""
    words = f"loss_cls {row['loss_cls']:.3f}, loss_bbox {row['loss_bbox']:.3f}, positives {row['num_pos']:.1f}"
    words += f", lr {row['lr']:.2e}, {row['images_per_second']:.0f} images/s"
    return words + (f", AP {row['AP']:.3f}" if "AP" in row else "")
