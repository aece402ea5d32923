"""Training: from a configuration to weights, logs, numbers and figures in a folder.

:class:`Trainer` holds a run together, in this order: what it is made of, what others look at, :meth:`~Trainer.fit`, the
steps of an epoch, its end (evaluate, log, save), the results.  The parts lie beside it: :mod:`~minirtmdet.engine.start`
(checks, data, network), :mod:`~minirtmdet.engine.step` (forward, backward, update, average),
:mod:`~minirtmdet.engine.state` (what ``last.pt`` holds), :mod:`~minirtmdet.engine.runfolder` (whether a run may start
or go on there), :mod:`~minirtmdet.engine.meter` (rows of the log), :mod:`~minirtmdet.engine.faults` (what breaks a run
off), :mod:`~minirtmdet.engine.results`.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minirtmdet.configs import TrainConfig
from minirtmdet.data.loader import Batch
from minirtmdet.data.pipeline import Change
from minirtmdet.detector import RTMDet
from minirtmdet.devices import describe_computing, pick_amp, pick_compile, pick_device
from minirtmdet.distributed import ALONE, World
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.faults import broken_off, check_losses, memory_advice
from minirtmdet.engine.interrupts import Interrupts
from minirtmdet.engine.meter import Meter
from minirtmdet.engine.optim import build_optimizer, train_mode
from minirtmdet.engine.prefetch import prefetch
from minirtmdet.engine.results import (
    SHEET,
    Examples,
    describe_results,
    detect_evenly,
    write_numbers,
    write_sheet,
)
from minirtmdet.engine.runfolder import Extent, RunFolder, RunLock, check_same_run
from minirtmdet.engine.runlog import NOT_JUDGED, Logger, Row, RunLog, describe, logged
from minirtmdet.engine.start import Start, build_model, check_together, find_start, load_data, make_schedule, settle
from minirtmdet.engine.state import Progress, StepLosses, check_finite, is_stalled, restore, say_resumed, training_state
from minirtmdet.engine.step import Inputs, build_step
from minirtmdet.evaluation.coco import Evaluation, run_evaluation
from minirtmdet.files import DiskFull
from minirtmdet.settings import check_settings
from minirtmdet.weights.checkpoint import save_checkpoint


class Trainer:
    """One run: everything it needs, made from its settings; :meth:`fit` does the work.

    The training path never waits for the device: losses are read every few steps, many at once.

    In several processes each makes a trainer of its own and calls the same methods.  All keep the moving average,
    which costs less than to send it; process 0 alone writes files and lines.

    Args:
        config: the run.
        say: prints a line; the progress bars follow the environment variable ``TQDM_DISABLE``.
        world: the processes that train together; see :func:`minirtmdet.distributed.joined`.
        loggers: what else takes the rows of the log.
        change: what else happens to each training image; see :data:`~minirtmdet.data.pipeline.Change`.

    Attributes:
        config: the run as it is, its classes those of the data.
        folder: where it writes.
        model: the network in training.
        dataset, val_dataset: the images.
        loader, val_loader: batches of them.
        progress: epochs and steps done, numbers of the latest and the best evaluation.
        watchers: functions to call with the trainer after every optimiser step, to look on; empty by default.

    Raises:
        BlockingIOError: for a folder that another process is training in.
        FileExistsError: for a folder that holds a run, without ``resume`` or ``overwrite``.
        FileNotFoundError, ValueError: for data or weights that are missing or do not fit.
    """

    # -------------------------------------------------------------------------------- what it is made of

    def __init__(
        self,
        config: TrainConfig,
        *,
        say: Callable[[str], None] = print,
        world: World = ALONE,
        loggers: Sequence[Logger] = (),
        change: Change | None = None,
    ) -> None:
        # what can be refused is refused before anything is read where that is possible, and before anything is written
        check_settings(config)
        self.world = world
        self.say = say if world.is_writer else _silent
        self.watchers: list[Callable[[Trainer], None]] = []
        self.folder = RunFolder(config.out / config.name)
        self.device = world.device(pick_device(config.device))
        check_together(config, world.size, self.device)
        start = find_start(config, self.folder, world.size, self.say)
        self._load_data(settle(config, start, self.device, world, self.say), change)
        if start.resumed is not None:
            check_same_run(start.resumed, self.config, self.classes, self.extent)
        self._build_model(start)
        self._build_step()
        self._restore_or_start(start, loggers)

    def _load_data(self, config: TrainConfig, change: Change | None) -> None:
        """Data sets and loaders, and the settings with as many classes as the data has."""
        self.dataset, self.val_dataset, self.loader, self.val_loader = load_data(
            config, self.world, self.device, self.say, change
        )
        self.classes = self.dataset.classes
        if len(self.classes) != config.model.num_classes:
            self.say(f"classes: {len(self.classes)} of the data in place of {config.model.num_classes}")
        self.config = replace(config, model=replace(config.model, num_classes=len(self.classes)))

    def _build_model(self, start: Start) -> None:
        """The network and its moving average."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # every batch has the same shape
        self.model = build_model(self.config, start.weights, self.classes, self.world, self.device, self.say)
        optim = self.config.optim
        self.ema = ExpMomentumEMA(self.model, optim.ema_momentum, optim.ema_ramp, optim.ema_shared_once)

    def _build_step(self) -> None:
        """What trains the network: optimiser, learning rates, precision, and the step made of them."""
        self.optimizer = build_optimizer(self.model, self.config.optim)
        self.schedule = make_schedule(self.config, self.steps_per_epoch, self.world.size, self.say)
        self.amp_dtype = pick_amp(self.config.amp, self.device)
        parts = (self.model, self.optimizer, self.ema, self.amp_dtype)
        compile = pick_compile(self.config.compile, self.device)
        self.train_step = build_step(*parts, compile, wrap=self.world.wrap, say=self.say)

    def _restore_or_start(self, start: Start, loggers: Sequence[Logger]) -> None:
        """The state to go on from; then the folder, in which nothing was changed before."""
        self.progress = Progress()
        rows: list[Row] = []
        if start.resumed is not None:
            self.progress, rows = restore(start.resumed, self.model, self.optimizer, self.ema)
            say_resumed(start.resumed, self.config, self.extent, self.schedule(self.step), self.say)
        # after this no other process looks into the folder any more, and it can be changed
        place = (len(self.dataset), len(self.val_dataset), self.epoch, self.progress.position, self.step)
        self.world.check_same("what a run starts from (images to train and evaluate on, epoch, position, step)", place)
        self._lock = RunLock(self.run_dir)
        if self.world.is_writer:
            self._lock.acquire()
            self.folder.check_unchanged(start.found)
            self.folder.prepare(self.config, self.classes, clear=start.resumed is None)
        folder = self.run_dir if self.world.is_writer else None
        self._log = RunLog(folder, rows, self.say, loggers, masks=self.config.model.masks)
        check = partial(
            check_losses,
            progress=self.progress,
            folder=self.folder,
            loader=self.loader,
            accumulate=self.config.optim.accumulate,
            process=self.world.rank if self.world.size > 1 else None,
        )
        self._meter = Meter(self.progress, self.train_step.losses, check)
        self._interrupts = Interrupts()
        self._saved_at = time.perf_counter()
        self._left_out = 0
        how = describe_computing(self.config.amp, self.config.compile, self.device, self.world.size)
        self.say(f"run: {self.run_dir} on {how}, {self.config.epochs} epochs of {self.steps_per_epoch} steps")

    # ------------------------------------------------------------------------------- what others look at

    @property
    def run_dir(self) -> Path:
        """Where it writes."""
        return self.folder.path

    @property
    def ema_model(self) -> RTMDet:
        """The moving average of the model, which is evaluated and saved."""
        return self.ema.module

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; what is left after the last full accumulation makes a step too."""
        return -(-len(self.loader) // self.config.optim.accumulate)

    @property
    def extent(self) -> Extent:
        """What decides, beside the settings, which steps it is made of."""
        return Extent(len(self.dataset), self.steps_per_epoch, self.world.size)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.progress.epoch

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.progress.step

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the latest evaluation; empty before the first."""
        return self.progress.metrics

    @property
    def history(self) -> list[Row]:
        """The rows of the log so far; see :data:`minirtmdet.engine.runlog.COLUMNS`."""
        return self._log.rows

    @property
    def stalled(self) -> bool:
        """Whether ``patience`` evaluations in a row brought no better AP, so that the run ends."""
        return is_stalled(self.history, self.progress, self.config.patience)

    def evaluate(self) -> Evaluation:
        """Evaluate the moving average on the validation images, each process on its share of them."""
        return run_evaluation(self.ema_model, self.val_loader, self.val_dataset, self.config.predict, world=self.world)

    def detect_some(self, count: int = SHEET) -> Examples:
        """Some validation images with what the moving average finds; see :func:`~.results.detect_evenly`."""
        size = self.config.data.input_size
        return detect_evenly(self.ema_model, self.val_dataset, self.config.predict, size, count)

    # ----------------------------------------------------------------------------------------------- fit

    def fit(self, until_epoch: int | None = None) -> dict[str, float]:
        """Train to the end, or until ``until_epoch`` epochs are done; a further call continues.

        Returns:
            The latest evaluation's twelve numbers; empty where none was due yet.

        Raises:
            BlockingIOError: where another process is training in the folder meanwhile.
            DiskFull: naming the file that could not be written, and how to go on.
            KeyboardInterrupt: after Ctrl-C, with the state saved to ``last.pt``.
            FloatingPointError: for a loss that is not finite, naming the images of that step, which are saved.
            torch.OutOfMemoryError: naming the settings to lower.
            ProcessLost: where another process ended.
        """
        last = self.config.epochs if until_epoch is None else min(until_epoch, self.config.epochs)
        self._meter.start()
        if self.world.is_writer:
            self._lock.acquire()
        # several processes stop after the same step, agreed on in _train_epoch
        deferred = self._interrupts.held() if self.world.size > 1 else nullcontext()
        try:
            with self._interrupts, deferred:
                self._run_epochs(last)
            if (self.epoch == self.config.epochs or self.stalled) and self.world.is_writer:
                self._write_results()
        except DiskFull as error:
            raise DiskFull(f"{error}; {self.folder.advice}") from error
        finally:
            self.loader.close()
            self._lock.release()
        return self.metrics

    def _run_epochs(self, last: int) -> None:
        """Train until ``last`` epochs are done; whatever breaks it off, what can be saved is."""
        with broken_off(
            self._interrupts,
            self.world,
            self.folder,
            save=self._save_last,
            stopped=lambda: self.say(self.folder.stopped(self.step, self.schedule.total_steps)),
            memory=lambda: memory_advice(self.config, self.device, self.amp_dtype, self.step + 1),
        ):
            while self.epoch < last and not self.stalled:
                self._train_epoch()
                self._end_epoch()
        if self.stalled and self.epoch < self.config.epochs:
            self.say(self.folder.ended_early(self.config.patience))

    # ------------------------------------------------------------------------------ the steps of an epoch

    def _train_epoch(self) -> None:
        """The steps of an epoch that are still to do."""
        train_mode(self.model, self.config.optim)
        progress, total = self.progress, self.steps_per_epoch
        accumulate = self.config.optim.accumulate
        start = min(progress.position * accumulate, len(self.loader))
        batches = prefetch(self.loader.epoch(self.epoch, start), self.device)
        every = max(10, total // 20)
        epochs = f"epoch {self.epoch + 1}/{self.config.epochs}"
        # named only to switch it off: an argument would win over TQDM_DISABLE
        quiet = {} if self.world.is_writer else {"disable": True}
        with tqdm(total=total, initial=progress.position, desc=epochs, unit="step", leave=False, **quiet) as bar:
            while progress.position < total:
                group = list(islice(batches, accumulate))
                with self._interrupts.held():
                    self._train_step(group)
                    for watch in self.watchers:
                        watch(self)
                    # the row of an epoch's last step waits for the evaluation
                    if progress.position % every == 0 and progress.position < total:
                        row = self._meter.row(self.schedule(self.step - 1))
                        self._meter.forget()
                        self._log.write(row)
                        bar.set_postfix_str(describe(row), refresh=False)
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
            batch = batch.to(self.device)  # where prefetch has put it already
            img_shapes = None
            if self.config.assigner.allowed_border >= 0:
                img_shapes = torch.tensor(batch.img_shapes, pin_memory=self.device.type == "cuda")
                img_shapes = img_shapes.to(self.device, non_blocking=True)
            inputs.append(Inputs(batch.images, batch.ground_truth, img_shapes))
        losses = self.train_step(inputs, self.schedule(self.step))
        paths = [path for batch in batches for path in batch.paths]
        self._meter.add(StepLosses(self.world.mean(losses), losses, paths), len(paths) * self.world.size)
        self.progress.step += 1
        self.progress.position += 1

    # --------------------------------------------------------------------------------- the end of an epoch

    def _end_epoch(self) -> None:
        """Evaluate if it is due, log, save."""
        row = self._meter.row(self.schedule(self.step - 1))
        self.world.copy_buffers(self.model, self.ema_model)
        self._say_left_out()
        epoch = self.epoch + 1
        evaluation = None
        if epoch % self.config.eval_every == 0 or epoch > self.loader.stage2_start or epoch == self.config.epochs:
            with self._interrupts.held():
                self._save_last()  # an evaluation can take long, and end badly
            evaluation = self.evaluate()
        if evaluation is not None and evaluation.judged:
            row |= logged(evaluation.metrics)
        with self._interrupts.held():
            self._meter.forget()
            self.progress.epoch, self.progress.position = epoch, 0
            self._log.write(row)
            if evaluation is not None:
                self._take_in(evaluation)
            self._save_last()
        words = describe(row) + ("" if evaluation is None or evaluation.judged else f", {NOT_JUDGED}")
        self.say(f"epoch {epoch}/{self.config.epochs}: {words}{self._meter.time_left(self.schedule.total_steps)}")
        self._meter.skip()

    def _say_left_out(self) -> None:
        """Name the images that could not be read, of all processes, where there are new ones."""
        left_out = sum(self.world.gather(self.loader.left_out + self.val_loader.left_out), Counter[str]())
        if left_out.total() > self._left_out:
            self._left_out = left_out.total()
            examples = "; ".join([*list(left_out)[:3], *(["..."] if len(left_out) > 3 else [])])
            self.say(f"images that cannot be read: {len(left_out)}, met {self._left_out} times so far: {examples}")

    def _take_in(self, evaluation: Evaluation) -> None:
        """Keep an evaluation's numbers, and the weights where they are the best so far, if there was any box."""
        progress = self.progress
        progress.metrics, progress.per_class = evaluation.metrics, evaluation.per_class
        if evaluation.judged and evaluation.metrics[evaluation.main] > progress.best.get(evaluation.main, -math.inf):
            progress.best = {"epoch": progress.epoch, **progress.metrics}
            self._save("best.pt")

    def _save_last(self) -> None:
        """Save everything that the next step depends on, and the log.

        Raises:
            FloatingPointError: rather than save a state that is not finite.
        """
        self._saved_at = time.perf_counter()
        if self.progress.recent:
            self._meter.read()
        check_finite(self.model, self.step)
        state = training_state(self.progress, self.model, self.optimizer, self.ema, self.history, self.extent)
        self._save("last.pt", state)

    def _save(self, name: str, training: dict[str, Any] | None = None) -> None:
        """Save the moving average, and where it is given the state of the training."""
        if not self.world.is_writer:
            return
        state = self.ema_model.state_dict()
        save_checkpoint(self.run_dir / name, state, self.config, self.classes, metrics=self.metrics, training=training)

    # ------------------------------------------------------------------------------------------- the results

    def _write_results(self) -> None:
        """Numbers and figures of a finished run."""
        images = self.epoch * len(self.loader) * self.config.batch_size * self.world.size
        write_numbers(self.run_dir, self.progress, self.history, model=self.model, device=self.device, images=images)
        write_sheet(self.run_dir, self.detect_some(), self.classes)
        self.say(describe_results(self.run_dir, self.progress))


def _silent(_: str) -> None:
    """What processes that do not write say."""
