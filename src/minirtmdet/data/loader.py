"""Batches: which image comes when, on which process, and how samples become tensors.

A batch is a pure function of (seed, epoch, step): worker processes are told only which one to make, so that their
number changes nothing, and a run that is resumed in the middle of an epoch sees what it would have seen.

Workers start as Python starts processes on the system: by fork, forkserver (Linux from Python 3.14 on) or spawn (macOS,
Windows), or as ``multiprocessing.set_start_method`` says.  The last two pickle the data set and import its class by the
name of its module: a class that is defined in a notebook's cell, which no module has, loads with ``workers=0`` alone.
"""

import math
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.augment import Sample, eval_sample, select
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.memory import check_shared_memory
from minirtmdet.data.pipeline import Change, TrainPipeline
from minirtmdet.data.workers import start_worker
from minirtmdet.structures import GroundTruth, padded_count

STUCK = 600.0
"""Seconds without any batch after which loading processes are taken to be stuck."""
LOOK = 5.0
"""Seconds without a batch after which a look is taken whether the loading processes live."""
NEIGHBOURS = 100
"""Images that are tried in place of one that cannot be read, before it is taken that none can."""


class Batch(NamedTuple):
    """What the network is given, and what is needed to bring its detections back to the files.

    Attributes:
        images: BGR pixels, stored with the channels last.
        ground_truth: the boxes, in pixels of ``images``.
        image_ids: the JSON's id of each image.
        paths: file of each image.
        img_shapes: (height, width) of the content of each image, padding not counted.
        scale_factors: (width, height) of the content relative to the file, crops not counted.
    """

    images: UInt8[Tensor, "batch 3 height width"]
    ground_truth: GroundTruth
    image_ids: list[int]
    paths: list[str]
    img_shapes: list[tuple[int, int]]
    scale_factors: list[tuple[float, float]]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with images, stored with the channels last, and boxes on another device.

        From page-locked memory the copies to a GPU do not wait; the work that follows on the same stream does.
        """
        images: Tensor = self.images.to(device, non_blocking=True, memory_format=torch.channels_last)
        return self._replace(images=images, ground_truth=self.ground_truth.to(device, non_blocking=True))


class TrainLoader:
    """Augmented batches of an epoch, always full.

    All processes together go through one order, drawn from the seed and the epoch; the rest that does not fill a
    step is left out.  A set smaller than one step is repeated until it fills it.  Only one epoch can be read at a
    time, since its worker processes are kept for the next one.

    An image that turns out to be missing or broken while training is an error, or, where the data set skips bad
    images, the next one of the data set that can be read takes its place: batches stay full, and a function of
    (seed, epoch, step).

    Args:
        dataset: the images.
        augment: how they are changed.
        input_size: side of the images, in pixels.
        batch_size: images a step on this process.
        seed: of the order and of every change.
        epochs: of the run, which says when the second stage begins.
        workers: processes that load beside this one; 0 loads in this one.
        rank: number of this process.
        world_size: number of processes that train together.
        pin_memory: put batches into page-locked memory, for a GPU to copy while it trains; this makes a CUDA context.
        change: what else happens to each image; see :data:`~minirtmdet.data.pipeline.Change`.

    Attributes:
        stage2_start: first epoch of the second stage, from 0; see :class:`~minirtmdet.data.pipeline.TrainPipeline`.
        left_out: how often another image took the place of one that cannot be read, by what is wrong with that one;
            each is warned of once.

    Raises:
        ValueError: for settings that make no sense.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        augment: AugmentConfig,
        *,
        input_size: int,
        batch_size: int,
        seed: int,
        epochs: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        change: Change | None = None,
    ) -> None:
        _check(batch_size, workers, rank, world_size)
        check_shared_memory(workers, batch_size, input_size, _masks_per_image(dataset, augment))
        pipeline = TrainPipeline(augment, input_size, seed, epochs, change)
        self.stage2_start = pipeline.stage2_start
        self._batches = _TrainBatches(dataset, pipeline, batch_size, rank, world_size)
        self._steps = _Steps(max(len(dataset) // (batch_size * world_size), 1))
        self._loader = _make_loader(self._batches, self._steps, workers, pin_memory, keep=True)
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self._steps.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on.

        Raises:
            ValueError: for a step that the epoch does not have; later, naming the image that cannot be read.
            FileNotFoundError: later, naming the image that is missing.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"there is no step {start} in epoch {epoch}: an epoch has {len(self)} steps")
        self._steps.epoch, self._steps.start = epoch, start
        return _unwrap(iter(self._loader), self.left_out)

    def batch(self, epoch: int, step: int) -> Batch:
        """One batch, made once more in this process."""
        return next(_unwrap([self._batches[epoch, step]], Counter()))

    def close(self) -> None:
        """End the worker processes, where there are any; the next epoch starts new ones."""
        # torch has no public word for it, and would wait until nothing refers to the iterator: a traceback does
        if self._loader._iterator is not None:
            self._loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None


class EvalLoader:
    """Every image once, in the order of the data set, resized to fit the input and padded.

    Process ``rank`` of ``world_size`` gets every ``world_size``-th image.  The last batch can be smaller, and any
    batch that an image is missing from which cannot be read, where the data set skips bad images.  Worker processes
    start with each round and end with it.

    Args, attributes and errors as for :class:`TrainLoader`.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        input_size: int,
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        _check(batch_size, workers, rank, world_size)
        check_shared_memory(workers, batch_size, input_size)
        batches = _EvalBatches(dataset, input_size, batch_size, rank, world_size)
        # the next evaluation is an epoch away: its workers would lie idle in memory meanwhile
        self._loader = _make_loader(batches, range(len(batches)), workers, pin_memory, keep=False)
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        """Batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return _unwrap(iter(self._loader), self.left_out)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, images: int, positions: int) -> Int[np.ndarray, " positions"]:
    """The index of the image at each position of an epoch: a permutation, cut or repeated to ``positions``.

    >>> epoch_order(0, 0, images=3, positions=7)[3:] == epoch_order(0, 0, images=3, positions=7)[:4]
    array([ True,  True,  True,  True])
    """
    # spawn_key: without it (seed, epoch) would start the same stream as (seed, epoch, position 0)
    rng = np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(0,)))
    order = np.resize(rng.permutation(images), positions)
    order.flags.writeable = False  # it is cached
    return order


def collate(samples: Sequence[Sample], num_classes: int) -> Batch:
    """Samples of one size as a batch; where they have shapes, these become masks.

    An object that no pixel shows is left out, with its box.  (MMDetection keeps it: its mask loss is a constant, its
    centre the corner of the image.)  One that has pixels, none of them in a cell that masks are compared on, stays.

    Raises:
        ValueError: naming the image whose boxes or labels are wrong.
    """
    height, width = samples[0].image.shape[:2]
    # the network runs with the channels last, which is how the pixels are stored already
    pixels = torch.empty(len(samples), height, width, 3, dtype=torch.uint8)
    for row, sample in zip(pixels.numpy(), samples, strict=True):
        row[:] = sample.image
    paths = [str(sample.path) for sample in samples]
    masks: dict[str, Any] = {}
    if all(sample.shapes is not None for sample in samples):
        samples, masks = _draw_masks(samples)
    ground_truth = GroundTruth.from_list(
        [torch.from_numpy(sample.boxes) for sample in samples],
        [torch.from_numpy(sample.labels) for sample in samples],
        num_classes=num_classes,
        ignore=[torch.from_numpy(sample.ignore) for sample in samples],
        names=paths,
        **masks,
    )
    return Batch(
        images=pixels.permute(0, 3, 1, 2),
        ground_truth=ground_truth,
        image_ids=[sample.image_id for sample in samples],
        paths=paths,
        img_shapes=[sample.img_shape for sample in samples],
        scale_factors=[sample.scale_factor for sample in samples],
    )


def _masks_per_image(dataset: CocoDataset, augment: AugmentConfig) -> int:
    """About how many masks an image of a batch has; 0 where none are read.

    As many rows as the image of the batch that has most: twice the mean, four images in a mosaic, two of these mixed,
    of which a crop leaves half.
    """
    if not dataset.has_masks:
        return 0
    mean = sum(dataset.count_boxes().values()) / len(dataset)
    return padded_count(math.ceil(mean * (4 if augment.mosaic else 1) * (2 if augment.mixup else 1)))


def _draw_masks(samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, list[Tensor]]]:
    """The samples without the objects that no pixel shows; and masks and centres of the others, for ground truth."""
    left: list[Sample] = []
    found: dict[str, list[Tensor]] = {"cells": [], "centers": []}
    for sample in samples:
        assert sample.shapes is not None
        drawn = sample.shapes.draw(sample.image.shape[:2])
        # of an ignore region there is no shape, only the box
        centers = np.where(sample.ignore[:, None], (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2, drawn.centers)
        keep = sample.ignore | (drawn.areas > 0)
        left.append(select(sample, keep))
        found["cells"].append(torch.from_numpy(drawn.cells[keep]))
        found["centers"].append(torch.from_numpy(centers[keep]))
    return left, found


@dataclass(frozen=True)
class _Answer:
    """What a worker hands over: a batch, or its error, which torch would bury in the text of a traceback.

    ``problems`` says what is wrong with images that were left out.
    """

    batch: Batch | None = None
    error: OSError | ValueError | None = None
    problems: Sequence[str] = ()

    def pin_memory(self) -> "_Answer":
        # torch's own way through a tuple turns every (height, width) into a list
        if self.batch is None:
            return self
        images, ground_truth = self.batch.images.pin_memory(), self.batch.ground_truth.pin_memory()
        return replace(self, batch=self.batch._replace(images=images, ground_truth=ground_truth))


def _unwrap(answers: Iterable[_Answer], left_out: Counter[str]) -> Iterator[Batch]:
    """The batches; images that were left out are counted, and warned of when they are met first."""
    for answer in answers:
        if answer.error is not None:
            raise answer.error
        for problem in answer.problems:
            if not left_out[problem]:
                warnings.warn(f"an image is left out: {problem}", stacklevel=3)
            left_out[problem] += 1
        if answer.batch is not None:
            yield answer.batch


class _TrainBatches(Dataset):
    """Batch of (epoch, step)."""

    def __init__(
        self, dataset: CocoDataset, pipeline: TrainPipeline, batch_size: int, rank: int, world_size: int
    ) -> None:
        self.dataset, self.pipeline = dataset, pipeline
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __getitem__(self, key: tuple[int, int]) -> _Answer:
        epoch, step = key
        images, together = len(self.dataset), self.batch_size * self.world_size
        order = epoch_order(self.pipeline.seed, epoch, images, max(images, together))
        first = step * together + self.rank * self.batch_size
        problems: list[str] = []

        load = partial(load_or_next, self.dataset, problems=problems)
        try:
            samples = [
                self.pipeline(epoch, position, order, load) for position in range(first, first + self.batch_size)
            ]
            return _Answer(collate(samples, len(self.dataset.classes)), problems=problems)
        except (OSError, ValueError) as error:
            return _Answer(error=error)


class _EvalBatches(Dataset):
    """Batch of a number."""

    def __init__(self, dataset: CocoDataset, input_size: int, batch_size: int, rank: int, world_size: int) -> None:
        self.dataset, self.input_size, self.batch_size = dataset, input_size, batch_size
        self.indices = range(rank, len(dataset), world_size)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __getitem__(self, number: int) -> _Answer:
        indices = self.indices[number * self.batch_size : (number + 1) * self.batch_size]
        samples, problems = [], []
        for index in indices:
            try:
                samples.append(eval_sample(self.dataset.load(index), self.input_size))
            except (OSError, ValueError) as error:
                if self.dataset.bad_images == "raise":
                    return _Answer(error=error)
                problems.append(str(error))
        return _Answer(collate(samples, len(self.dataset.classes)) if samples else None, problems=problems)


def load_or_next(dataset: CocoDataset, index: int, problems: list[str]) -> Sample:
    """Image ``index``, or the next one that can be read where bad ones are skipped; ``problems`` gets the others'."""
    for neighbour in range(min(len(dataset), NEIGHBOURS)):
        try:
            return dataset.load((index + neighbour) % len(dataset))
        except (OSError, ValueError) as error:
            if dataset.bad_images == "raise":
                raise
            problems.append(str(error))
    raise ValueError(f"{dataset.images}: {NEIGHBOURS} images in a row, or all, cannot be read; {problems[-1]}")


class _Steps(Sampler):
    """The (epoch, step) pairs from a start on; set before each epoch."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch, self.start = count, 0, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, step) for step in range(self.start, self.count)])

    def __len__(self) -> int:
        return self.count - self.start


class _WatchedLoader(DataLoader):
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


def _make_loader(batches: Dataset, keys: Any, workers: int, pin_memory: bool, keep: bool) -> _WatchedLoader:
    """Batches by their keys; ``keep``: the workers stay for the next round."""
    return _WatchedLoader(
        batches,
        batch_size=None,  # an item is a batch already
        sampler=keys,
        num_workers=workers,
        collate_fn=_same,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else each epoch would draw from the global generator
        persistent_workers=keep and workers > 0,
        timeout=STUCK if workers else 0,
    )


def _same(batch: Any) -> Any:
    return batch


def _check(batch_size: int, workers: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected at least 1")
    if workers < 0:
        raise ValueError(f"workers is {workers}: expected 0 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}: expected 0..{world_size - 1}")
