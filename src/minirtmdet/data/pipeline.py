"""From a position in an epoch's order to a training sample: RTMDet's two stages."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Int

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.augment import (
    Paint,
    Sample,
    crop,
    draw_corner,
    draw_hsv_gains,
    draw_side,
    drop_small_boxes,
    fit,
    flip,
    hsv,
    pad,
    resize_boxes,
    resize_crop,
    sample_rng,
)
from minirtmdet.data.mosaic import CachedMixUp, CachedMosaic, Memo
from minirtmdet.settings import check_settings

CROP_TRIES = 10
"""Crops that are drawn to find one that shows a box, where images are kept without one."""
MAX_REFETCH = 1000
"""Images that are drawn in place of one whose crop shows no box (``max_refetch``)."""
MAX_STAGE2 = 0.2
"""Share of a short run that the second stage takes at most."""
_MIXUP, _CHANGE = 1, 2
"""The streams of MixUp's draws and of a :data:`Change`; all others come from stream 0."""

Order = Int[np.ndarray, " positions"]
Load = Callable[[int], Sample]
Change = Callable[[Sample, np.random.Generator], Sample]
"""A change of one's own to training samples, after all others: from a sample to one with as many pixels.

It draws from the generator alone, so that a sample stays a function of seed, epoch and position, and writes into no
array that it is given.  Boxes may move, go and come, each with its label and flag, and with its shape where masks are
learned; what reaches over the border is cut.
Loading processes need one that a module has by name: no lambda.
"""


class TrainPipeline:
    """The training sample at a position: a pure function of (seed, epoch, position).

    Stage 1: mosaic, resize, crop, colours, flip, pad, MixUp.  Stage 2, in the last epochs: the same without mosaic
    and MixUp, and with half the scale, since the mosaic's canvas is twice as large as the input.  Partners come from
    the last positions of the epoch's order, the image's own among them, so an epoch's first position has no partner
    and its first four become no mosaic, like the first images of a run in MMDetection.

    What is loaded and made is kept for as long as positions may ask for it, images for mosaics no larger than the
    input; that changes no sample.  (MMDetection keeps whatever its workers had last, and forgets at random where
    ``random_pop`` is set: there the number of workers decides what is seen.)

    One process decodes every image once.  A worker, which skips the batches of others, makes their samples again as
    partners of its own.  For each sample of a batch of 32 that is

    ==================  ====================  ====================
    processes           images decoded        samples made
    ==================  ====================  ====================
    1                   1.0                   1.0
    2                   1.9 (tiny's: 1.5)     1.3 (1.1)
    4 and more          2.1 (1.5)             1.3 (1.1)
    ==================  ====================  ====================

    with the caches of s, or tiny's.  Two batches in a row for each worker would make it 1.6 and 1.2, four 1.3 and 1.1.
    But batches are used in their order: the first worker's second would have to wait, ready, for all the others', and
    as many times more of them (39 MB each) would be kept, or workers would wait for one another.

    Args:
        config: what is drawn, and how far.
        input_size: side of the samples, in pixels.
        seed: of every draw.
        epochs: of the run; the last ``config.stage2_epochs`` are stage 2, at most a fifth of the run, rounded up.
        change: what else happens to each sample.

    Attributes:
        stage2_start: the first epoch of stage 2, counted from 0; ``epochs`` where there is none.

    Raises:
        ValueError: where a setting makes no sense, named.
    """

    def __init__(
        self, config: AugmentConfig, input_size: int, seed: int, epochs: int, change: Change | None = None
    ) -> None:
        _check(config, input_size, seed, epochs)
        self._change = change
        self.config, self.input_size, self.seed = config, input_size, seed
        self.stage2_start = epochs - min(config.stage2_epochs, math.ceil(epochs * MAX_STAGE2))
        self._mosaic = CachedMosaic(input_size, config.mosaic, config.mosaic_cache)
        self._mixup = CachedMixUp(config.mixup, config.mixup_cache)
        # MixUp's partners ask for the partners of their own mosaics, further back
        self._fitted = Memo(config.mosaic_cache + config.mixup_cache)
        self._unmixed = Memo(config.mixup_cache)

    def stage(self, epoch: int) -> Literal[1, 2]:
        """Which stage an epoch belongs to."""
        return 1 if epoch < self.stage2_start else 2

    def __call__(self, epoch: int, position: int, order: Order, load: Load) -> Sample:
        """The sample at ``position`` of the epoch, ``input_size`` pixels wide and high.

        Args:
            epoch: number of the epoch.
            position: place in ``order``.
            order: index of the image at each position of this epoch, for all processes together.
            load: gives the image of an index, not augmented; its pixels are not written to.

        Raises:
            ValueError: where no image shows a box and ``empty_crops`` asks for one.
        """
        if self.stage(epoch) == 2 or not self.config.mixup:
            sample = self._make(epoch, position, order, load)
        else:
            sample = self._mix(epoch, position, order, load)
        if self._change is not None:
            sample = _changed(self._change, sample, sample_rng(self.seed, epoch, position, _CHANGE))
        return drop_small_boxes(sample, self.config.min_box_size)

    def _mix(self, epoch: int, position: int, order: Order, load: Load) -> Sample:
        get = partial(self._kept, epoch, order=order, load=load)
        sample = get(position)
        draw = self._mixup.draw(sample_rng(self.seed, epoch, position, _MIXUP), position, get)
        return sample if draw is None else self._mixup.mix(sample, *draw)

    def _kept(self, epoch: int, position: int, order: Order, load: Load) -> Sample:
        """What :meth:`_make` makes, once."""
        return self._unmixed.get((epoch, position), lambda: self._make(epoch, position, order, load))

    def _make(self, epoch: int, position: int, order: Order, load: Load) -> Sample:
        """All but MixUp and the filter."""
        rng, side = sample_rng(self.seed, epoch, position), self.input_size
        mosaic = self.stage(epoch) == 1 and self.config.mosaic > 0
        empty = self.config.empty_crops
        index = int(order[position])
        for _ in range(MAX_REFETCH + 1):
            canvas, paint = self._lay_out(rng, index, position, order, load) if mosaic else (load(index), None)
            scaled = draw_side(rng, 2 * side if mosaic else side, self.config.scale)
            size = fit(canvas.img_shape, scaled)
            boxes = resize_boxes(canvas.boxes, canvas.img_shape, size)
            corner, shows_box = draw_corner(rng, size, boxes, side, CROP_TRIES if empty == "keep" else 1)
            if shows_box or empty != "redraw":
                break
            index = int(order[rng.integers(len(order))])
        else:
            raise ValueError(
                f"{MAX_REFETCH + 1} crops in a row showed no box: has the data set any? "
                "augment.empty_crops='keep' trains on images without boxes"
            )
        sample = resize_crop(canvas, scaled, corner, side, paint)
        sample = hsv(sample, draw_hsv_gains(rng, self.config.hsv))
        if rng.random() < self.config.flip:
            sample = flip(sample)
        return pad(sample, side)

    def _lay_out(
        self, rng: np.random.Generator, index: int, position: int, order: Order, load: Load
    ) -> tuple[Sample, Paint | None]:
        """A mosaic around image ``index``, or the image itself."""
        draw = self._mosaic.draw(rng, position)
        if draw is None:
            return load(index), None
        # at its own position is what was drawn in place of an image that was given up
        indices = [index, *(index if partner == position else int(order[partner]) for partner in draw.partners)]
        samples = [self._fitted.get(i, lambda i=i: self._mosaic.fit(load(i))) for i in indices]  # type: ignore[misc]
        return self._mosaic.lay_out(samples, draw.center)


def _changed(change: Change, sample: Sample, rng: np.random.Generator) -> Sample:
    """What the change makes of a sample, if that is one; its boxes end with the image."""
    found = change(sample, rng)
    name = getattr(change, "__name__", repr(change))
    if not isinstance(found, Sample):
        raise ValueError(f"{name} returns {type(found).__name__} for {sample.path}: expected a Sample")
    problem = ""
    if found.image.shape != sample.image.shape or found.image.dtype != np.uint8:
        problem = f"an image {found.image.dtype} {found.image.shape}: expected uint8 {sample.image.shape}"
    elif found.boxes.shape != (len(found.boxes), 4) or not np.isfinite(found.boxes).all():
        problem = "boxes that are not four finite numbers each"
    elif not len(found.boxes) == len(found.labels) == len(found.ignore):
        problem = f"{len(found.boxes)} boxes with {len(found.labels)} labels and {len(found.ignore)} flags"
    elif sample.shapes is not None and (found.shapes is None or len(found.shapes) != len(found.boxes)):
        problem = f"{len(found.boxes)} boxes without a shape each: shapes move and go with their boxes"
    if problem:
        raise ValueError(f"{name} makes of {sample.path} a sample with {problem}")
    found = replace(found, boxes=found.boxes.astype(np.float32))
    return replace(crop(found, (0, 0), len(found.image)), img_shape=sample.img_shape)


def _check(config: AugmentConfig, input_size: int, seed: int, epochs: int) -> None:
    check_settings(config, "augment.")
    if config.scale[0] > config.scale[1]:
        raise ValueError(f"augment.scale is {config.scale}: expected the smallest factor first")
    if input_size < 1:
        raise ValueError(f"input_size is {input_size}: expected a positive number of pixels")
    if seed < 0:
        raise ValueError(f"seed is {seed}: expected a number that is not negative")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: expected at least 1")
