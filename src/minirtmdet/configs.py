"""Every setting of the package, as frozen dataclasses: one field a line, each with its reason.

The command line is made from these classes, so a field's comment is also its help text.
"""

import math
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

STRIDES = (8, 16, 32)
PROTOTYPES = 8
"""Channels of the mask features, and of the hidden layers of an instance's own convolutions."""
MASK_STRIDE = 4
"""Pixels of the input a cell of the map that masks are compared on."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, as the metadata of its type; NaN and infinity are never among them.

    >>> str(Range(0, 1)), str(Range(1)), str(Range(32, multiple=32)), str(Range(above=True))
    ('a number from 0 to 1', 'at least 1', 'a multiple of 32, at least 32', 'a number above 0')
    """

    low: int | float = 0
    """The least."""
    high: int | float = math.inf
    """The largest."""
    above: bool = False
    """Only numbers above ``low``."""
    multiple: int = 0
    """Only multiples of this, where it is set."""

    def __contains__(self, value: int | float) -> bool:
        inside = self.low < value if self.above else self.low <= value
        return inside and value <= self.high and math.isfinite(value) and not (self.multiple and value % self.multiple)

    def __str__(self) -> str:
        if self.multiple:
            return f"a multiple of {self.multiple}, at least {self.low:g}"
        if self.high < math.inf:
            return f"a number from {self.low:g} to {self.high:g}"
        return f"a number above {self.low:g}" if self.above else f"at least {self.low:g}"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Side = Annotated[int, Range(STRIDES[-1], multiple=STRIDES[-1])]
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0)]
Factor = Annotated[float, Range(above=True)]


@dataclass(frozen=True)
class ModelConfig:
    """The network: how deep, how wide, and which head."""

    deepen_factor: Factor = 1.0
    """Multiplies the number of blocks in each stage of the backbone (3, 6, 6, 3)."""
    widen_factor: Factor = 1.0
    """Multiplies every channel count; the head's width is 256 times this."""
    neck_csp_blocks: Count = 3
    """Blocks in each CSP layer of the neck."""
    num_classes: Count = 80
    """Classes, background not counted."""
    exp_on_reg: bool = True
    """Exponentiate the predicted distances: always positive; official for m, l and x, and what decides short runs."""
    use_depthwise: bool = False
    """Depthwise separable 3x3 convolutions everywhere, as in nano."""
    separate_bn: bool = True
    """One set of BatchNorms a level (RTMDetSepBNHead); false: everything shared, with a scale a level (RTMDetHead)."""
    share_conv: bool = True
    """Share the head's convolutions across levels; only read where ``separate_bn`` is true."""
    stacked_convs: Count = 2
    """3x3 convolutions in each branch of the head."""
    pred_kernel_size: Count = 1
    """Kernel of the last convolution of each branch."""
    with_objectness: bool = False
    """Add an objectness branch; the class score becomes the geometric mean of both."""
    prior_offset: Share = 0.0
    """Where a prior lies in its cell, in strides: 0 the corner (official), 0.5 the centre."""
    masks: bool = False
    """Find masks too, as RTMDet-Ins (RTMDetInsSepBNHead); of the head's settings it reads ``stacked_convs`` alone."""


# deepen, widen, neck blocks and exp_on_reg of the published configs; nano is the published person detector
MODELS: dict[str, ModelConfig] = {
    "nano": ModelConfig(0.33, 0.25, 1, exp_on_reg=False, use_depthwise=True, share_conv=False),
    "tiny": ModelConfig(0.167, 0.375, 1, exp_on_reg=False),
    "s": ModelConfig(0.33, 0.5, 1, exp_on_reg=False),
    "m": ModelConfig(0.67, 0.75, 2),
    "l": ModelConfig(1.0, 1.0, 3),
    "x": ModelConfig(1.33, 1.25, 4),
}
INS_MODELS: dict[str, ModelConfig] = {
    f"ins-{size}": replace(MODELS[size], exp_on_reg=False, masks=True) for size in ("tiny", "s", "m", "l", "x")
}
"""RTMDet-Ins, by size: the same networks with a head that finds masks."""


@dataclass(frozen=True)
class AssignerConfig:
    """DynamicSoftLabelAssigner: which priors learn which box."""

    topk: Count = 13
    """How many of a box's best IoUs are summed to its number of positives."""
    iou_weight: Weight = 3.0
    """Weight of the IoU cost beside the class cost and the soft centre cost."""
    soft_center_radius: Weight = 3.0
    """Distance in strides at which the soft centre cost is 1; it grows tenfold a stride."""
    nearest_prior_fallback: bool = False
    """A box that holds no prior may take its nearest one; false: it wins a far one, as in the original."""
    allowed_border: int = -1
    """Pixels that a prior may lie outside the picture's content; negative (official): anywhere in the padding."""
    ignore_regions: bool = False
    """Learn nothing from priors in ignored boxes (crowds); false: they learn background, as in the original."""


@dataclass(frozen=True)
class LossConfig:
    """The losses and their weights; RTMDet-Ins has three, others two."""

    cls_weight: Weight = 1.0
    """Weight of the quality focal loss."""
    bbox_weight: Weight = 2.0
    """Weight of the GIoU loss."""
    beta: Weight = 2.0
    """Exponent of the quality focal loss: how little an easy prior counts."""
    clamp_inverted: bool = False
    """Give a predicted box whose sides are swapped no area; false (official): its GIoU may exceed 1."""
    mask_weight: Weight = 2.0
    """Weight of the Dice loss of masks."""
    dice_eps: Factor = 5e-6
    """Added twice to the denominator of the Dice loss, in cells: an empty mask costs the full weight."""
    drop_empty_masks: bool = False
    """Leave priors whose mask is empty out of the mask loss; false (official): a constant that dilutes the others."""


@dataclass(frozen=True)
class PredictConfig:
    """From logits and distances to detections."""

    score_threshold: Share = 0.001
    """Scores at or below are dropped before NMS; low, because AP counts every detection."""
    nms_pre: Count = 30_000
    """Candidates kept a level, best first."""
    nms_iou_threshold: Share = 0.65
    """Of two boxes of one class that overlap more than this, the weaker one is dropped."""
    max_per_image: Count = 300
    """Detections kept an image."""
    nms_as_mmcv: bool = False
    """Move classes apart for NMS as mmcv does, too little for boxes beyond the left upper corner, which then suppress
    other classes; false: far enough.  Boxes that are clipped, as a detector's always are, come out the same."""
    clip: Literal["input", "content"] = "input"
    """Where boxes end: at the border of the padded input, as in the original, whose boxes may leave the picture; or at
    the border of the picture itself."""
    mask_threshold: Share = 0.5
    """Probability from which on a pixel belongs to a mask."""
    swap_mask_sides: Literal["rounding", "never", "always"] = "rounding"
    """The original stretches each side of a mask by the other side's factor.  As there, where that is a matter of
    rounding: no side is then more than a pixel off, or too short; never; or always, as in the original."""


INS_PREDICT = PredictConfig(score_threshold=0.05, nms_pre=1000, nms_iou_threshold=0.6, max_per_image=100)
"""The published settings of RTMDet-Ins, whose masks cost more than boxes do."""


@dataclass(frozen=True)
class ScenesConfig:
    """The embedded data set: glyphs on generated backgrounds."""

    train: Count = 2_000
    """Training scenes."""
    val: Count = 300
    """Validation scenes; they share no background and no placement with the training scenes."""
    size: Annotated[int, Range(64)] = 160
    """Side of a scene in pixels."""
    seed: Whole = 0
    """The same seed gives the same scenes on every platform."""
    backgrounds: Path | None = None
    """A folder of your own photos to use as backgrounds in place of generated ones."""


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from and how they are read."""

    root: Path | None = None
    """Folder of a COCO JSON data set (train.json and val.json or test.json); the embedded scenes where left out."""
    train_json: Path | None = None
    """Annotations to train on, where ``root`` does not name them."""
    train_images: Path | None = None
    """Folder of the training pictures, where ``root`` does not name it."""
    val_json: Path | None = None
    """Annotations to evaluate on."""
    val_images: Path | None = None
    """Folder of the validation pictures."""
    scenes: ScenesConfig = ScenesConfig()
    input_size: Side = 160
    """Side of the square network input, in pixels; a multiple of 32."""
    workers: Whole = 0
    """Processes that load pictures beside the training process."""
    bad_boxes: Literal["drop", "raise"] = "drop"
    """What to do with boxes without area or outside the picture: drop them with a counted warning, or stop."""
    bad_images: Literal["skip", "raise"] = "raise"
    """What to do with a missing or broken picture, at the start or later: leave it out with a counted warning (another
    takes its place in the batch), or stop."""
    check: Literal["headers", "full"] = "headers"
    """How closely every picture is looked at before the start: the first and last bytes of its file, or decoded."""
    max_pixels: Count = 2**27
    """A picture of more pixels is bad, and not decoded: 134 million take 400 MB."""
    outside_files: Literal["raise", "allow"] = "raise"
    """What to do with file names in the annotations that lead out of the folder of the pictures."""


@dataclass(frozen=True)
class AugmentConfig:
    """Changes to training pictures, drawn anew for every picture of every epoch; as given, RTMDet-l's recipe."""

    mosaic: Share = 1.0
    """Probability that a picture becomes a mosaic of four, in stage 1."""
    mosaic_cache: Annotated[int, Range(5)] = 40
    """The other three come from so many last positions of the epoch's order; each process keeps as many pictures."""
    mixup: Share = 1.0
    """Probability that a picture is blended with another one, in stage 1."""
    mixup_cache: Annotated[int, Range(2)] = 20
    """The other one comes from so many last positions."""
    stage2_epochs: Whole = 20
    """Last epochs, without mosaic and MixUp and evaluated one by one; at most a fifth of the run."""
    scale: tuple[Factor, Factor] = (0.1, 2.0)
    """Range of the resize factor, relative to the size that fits the network input (twice that in stage 1, where a
    mosaic is twice as large)."""
    hsv: tuple[Whole, Whole, Whole] = (5, 30, 30)
    """Largest change of hue (in OpenCV's 0..179), saturation and value (in 0..255)."""
    flip: Share = 0.5
    """Probability of a mirror image."""
    empty_crops: Literal["redraw", "keep"] = "redraw"
    """When a crop shows no box: give the picture up for a random other one, as in the original, which so never sees
    pictures without boxes; or crop again up to ten times and keep what comes."""
    min_box_size: Weight = 0.0
    """What remains of a box is learned only if it is wider and higher than this, in pixels; 0 (official): all of it."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and the moving average of the weights."""

    lr: Factor = 0.004
    """Learning rate at ``base_batch`` pictures a step; scaled in proportion to the real batch."""
    base_batch: Count = 256
    """The batch that ``lr`` is meant for."""
    weight_decay: Weight = 0.05
    """Not applied to norm layers and biases."""
    warmup_iters: Whole = 1_000
    """Steps of linear warm-up; at most a tenth of the run."""
    warmup_factor: Share = 1e-5
    """Share of the learning rate at the first step."""
    flat_fraction: Share = 0.5
    """Share of the run at full learning rate, warm-up included; then cosine."""
    final_factor: Share = 0.05
    """Share of the learning rate at the last step."""
    cosine_to_the_end: bool = False
    """Let the cosine span all that is left of the run; false: as many epochs as the flat part, as in the original,
    where the rate rises again in the last epoch of an odd number."""
    accumulate: Count = 1
    """Batches whose gradients are added before a step, for a large batch in little memory."""
    ema_momentum: Share = 2e-4
    """Share of the new weights in each step of the moving average, after its ramp."""
    ema_ramp: Count = 2_000
    """Steps in which the moving average's ramp falls to 1/e: (1 - m) exp(-(1 + t) / ramp) + m."""
    ema_shared_once: bool = False
    """Average weights that levels share once a step; false: once a level, as in the original."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    name: str = "run"
    """The run's folder is ``<out>/<name>``."""
    out: Path = Path("runs")
    """Where runs are written."""
    model: ModelConfig = ModelConfig()
    assigner: AssignerConfig = AssignerConfig()
    loss: LossConfig = LossConfig()
    predict: PredictConfig = PredictConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    epochs: Count = 300
    """Passes over the training pictures."""
    batch_size: Count = 32
    """Pictures a step, on each process."""
    eval_every: Count = 10
    """Epochs between evaluations; the last epoch is always evaluated."""
    seed: Whole = 0
    """Seed of weights, order and augmentation."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Auto takes the GPU where there is one."""
    amp: Literal["auto", "off", "bf16"] = "auto"
    """Mixed precision of the network; losses stay in fp32.  Auto: bf16 on CUDA devices that have it."""
    compile: Literal["off", "step", "graph"] = "off"
    """Step: compile network and losses; graph: also replay the whole step as one CUDA graph.  Both take a minute."""
    sync_bn: bool = True
    """Several processes on GPUs: BatchNorm over the pictures of all of them, not over each process's own."""
    save_minutes: Weight = 10.0
    """Within a long epoch, save the run's state so many minutes after the last time; 0: at the end of epochs alone."""
    weights: Path | None = None
    """Checkpoint to start from: another run's, an official one, or a size (tiny) whose official one is downloaded."""
    adopt_network: bool = False
    """With ``weights``, build the network that they belong to in place of ``model``, where the file says which one;
    false: the shapes have to fit ``model``, and only ``exp_on_reg`` and ``prior_offset`` are the file's."""
    resume: bool = False
    """Continue the run in ``<out>/<name>`` from its last checkpoint, with the numbers of an uninterrupted run."""
    overwrite: bool = False
    """Start again in a folder that holds a run; without it such a folder is refused."""


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """All settings by their dotted names, as the command line writes them.

    >>> flat_settings(TrainConfig())["optim.lr"]
    0.004
    """

    def flat(settings: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(flat(asdict(config), ""))


def out_of_range(hints: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers, in ``values`` and in the settings there, that the :class:`Range` of their type does not have.

    Args:
        hints: types by name, as ``typing.get_type_hints(..., include_extras=True)`` gives them.
        values: by the same names; None, where it is allowed, stands for a number that was left out.

    Yields:
        The dotted name of each, and what is wrong.
    """
    for name, value in values.items():
        if is_dataclass(value):
            inner = typing.get_type_hints(type(value), include_extras=True)
            yield from ((f"{name}.{key}", problem) for key, problem in out_of_range(inner, vars(value)))
        elif value is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            for number, allowed in zip(numbers, _ranges(hints.get(name)), strict=False):
                if number not in allowed:
                    yield name, f"is {number}: expected {allowed}"


def check_settings(settings: Any, prefix: str = "") -> None:
    """Raise a ValueError for the first number of a dataclass of settings that is out of its range, by dotted name.

    >>> check_settings(TrainConfig(data=DataConfig(input_size=100)))
    Traceback (most recent call last):
    ValueError: data.input_size is 100: expected a multiple of 32, at least 32
    """
    for name, problem in out_of_range(typing.get_type_hints(type(settings), include_extras=True), vars(settings)):
        raise ValueError(f"{prefix}{name} {problem}")


def _ranges(hint: Any) -> list[Range]:
    """The ranges of a type: its own, or one for each number of a tuple."""
    own = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range)]
    return own + [found for part in typing.get_args(hint) for found in _ranges(part)]


# stage 2 from start to end, every picture seen once an epoch
_PLAIN = AugmentConfig(mosaic=0.0, mixup=0.0, stage2_epochs=0, scale=(0.5, 2.0), empty_crops="keep", min_box_size=1.0)


# runs far shorter than the recipe's 300 epochs: a quick average, and the original's surprises corrected
_SHORT = OptimConfig(warmup_iters=300, ema_momentum=1e-3, ema_ramp=500, ema_shared_once=True, cosine_to_the_end=True)


def _mini_160() -> TrainConfig:
    """A small detector for the embedded scenes, on a processor.

    10,000 images in 5 epochs; AP and time of three seeds are in ``benchmarks/results/mini-160.json``.  Three
    choices make so short a run work: small batches, since steps count more than clean gradients; a narrow
    range of scales, since 2,000 scenes seen five times each need little variety; and ``exp_on_reg``: a network
    that can only predict positive distances has a head start.  Where the original's way is a surprise, the
    corrected one is taken: shared weights are averaged once, the cosine ends with the run.
    """
    return TrainConfig(
        name="mini-160",
        model=ModelConfig(0.167, 0.25, 1, num_classes=16, exp_on_reg=True),
        predict=PredictConfig(clip="content"),
        augment=replace(_PLAIN, scale=(0.9, 1.1)),
        optim=replace(_SHORT, lr=4e-3, base_batch=8, warmup_iters=100, ema_momentum=2e-3, ema_ramp=200),
        epochs=5,
        batch_size=8,
        eval_every=5,
    )


def _tiny_320() -> TrainConfig:
    """RTMDet-tiny for larger embedded scenes, on a GPU.

    240,000 images in 30 epochs.  With ``exp_on_reg``, unlike the official tiny, for the same reason as above.
    Its AP and time are not recorded yet: no GPU has run it.
    """
    return TrainConfig(
        name="tiny-320",
        model=replace(MODELS["tiny"], num_classes=16, exp_on_reg=True),
        predict=PredictConfig(clip="content"),
        data=DataConfig(input_size=320, workers=8, scenes=ScenesConfig(train=8_000, val=500, size=320)),
        augment=_PLAIN,
        optim=replace(_SHORT, lr=2e-3, base_batch=32),
        epochs=30,
        batch_size=32,
        eval_every=10,
    )


# the cached recipe for a few hundred pictures of one's own: tiny's caches, every picture seen, with boxes or without
_FEW = AugmentConfig(mosaic_cache=20, mixup=0.5, mixup_cache=10, scale=(0.5, 2.0), empty_crops="keep", min_box_size=1.0)


def _few_256() -> TrainConfig:
    """A small detector for a few hundred pictures of one's own (``--data.root``), on a processor.

    The network of mini-160 at 256 px.  Its steps of 8 pictures count more than clean gradients; ``exp_on_reg`` gives
    so short a run a head start; stage 2 takes the last fifth.  What it reached on two data sets, with mosaic and MixUp
    and without: ``benchmarks/results/cards-*.json`` and ``bccd-*.json``.  With ``--weights`` the network is that of the
    file: tiny's, 2.2 times as large, for ``--weights tiny``; ``benchmarks/fine_tuning.py`` compares both starts.
    """
    return TrainConfig(
        name="few-256",
        model=ModelConfig(0.167, 0.25, 1, exp_on_reg=True),
        predict=PredictConfig(clip="content"),
        data=DataConfig(input_size=256),
        augment=_FEW,
        optim=replace(_SHORT, lr=3e-3, base_batch=8),
        epochs=100,
        batch_size=8,
        eval_every=10,
        adopt_network=True,
    )


def _few_320() -> TrainConfig:
    """RTMDet-tiny for a few hundred pictures of one's own (``--data.root``), on a GPU.

    few-256 with a larger network, larger pictures and a longer run: 300 pictures make 11,100 steps; starting from an
    official file (``--weights tiny``) takes fewer.  ``exp_on_reg`` is for runs from scratch: with ``--weights`` the
    network is that of the file.  Its AP and time are not recorded yet: no GPU has run it.
    """
    return replace(
        _few_256(),
        name="few-320",
        model=replace(MODELS["tiny"], exp_on_reg=True),
        data=DataConfig(input_size=320, workers=4),
        augment=replace(_FEW, stage2_epochs=30),
        optim=replace(_SHORT, lr=1e-3, base_batch=8),
        epochs=300,
        eval_every=20,
    )


_SMALL_SCALE = AugmentConfig(scale=(0.5, 2.0))
_AUGMENT = {
    "tiny": replace(_SMALL_SCALE, mosaic_cache=20, mixup=0.5, mixup_cache=10),
    "s": _SMALL_SCALE,
    "m": AugmentConfig(),
    "l": AugmentConfig(),
    "x": AugmentConfig(),
}


def _rtmdet(size: str) -> TrainConfig:
    """The published recipe of a size: COCO, 300 epochs of 8 x 32 pictures (``rtmdet_{size}_8xb32-300e_coco.py``).

    On one GPU the same settings hold, by the rule that the learning rate follows the batch: 32 pictures a step learn
    at 0.0005.  What to expect there: eight times the steps and about eight times the hours.  The moving average, whose
    momentum is a step's, then looks back on an eighth of the pictures; and BatchNorm sees 32 pictures instead of 256
    (the original uses SyncBN).  Published AP on COCO val: tiny 41.1, s 44.6, m 49.4, l 51.5, x 52.8, of which nothing
    was trained again here.  tiny and s started from backbones trained on ImageNet (``--weights`` takes such a file);
    from scratch they will stay behind.  Where memory is short: ``--batch-size 8 --optim.accumulate 4``.
    There is no recipe for nano, of which only a person detector was published.

    Needs ``--data.root`` with COCO's ``annotations`` and ``train2017``.
    """
    return TrainConfig(
        name=f"rtmdet-{size}",
        model=MODELS[size],
        data=DataConfig(input_size=640, workers=10),
        augment=_AUGMENT[size],
    )


PRESETS: dict[str, TrainConfig] = {
    config.name: config
    for config in (_mini_160(), _tiny_320(), _few_256(), _few_320(), *(_rtmdet(size) for size in _AUGMENT))
}

__all__ = [
    "INS_MODELS",
    "INS_PREDICT",
    "MASK_STRIDE",
    "MODELS",
    "PRESETS",
    "PROTOTYPES",
    "STRIDES",
    "AssignerConfig",
    "AugmentConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictConfig",
    "Range",
    "ScenesConfig",
    "TrainConfig",
    "check_settings",
    "flat_settings",
    "out_of_range",
]
