"""Every setting of the package, as frozen dataclasses: one field a line, each with its reason.

The command line is made from these classes, so a field's comment is also its help text.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from minirtmdet.settings import (
    Count,
    Factor,
    Range,
    Share,
    Weight,
    Whole,
    decode,
)

STRIDES = (8, 16, 32)
PROTOTYPES = 8
"""Channels of the mask features, and of the hidden layers of an instance's own convolutions."""
MASK_STRIDE = 4
"""Pixels of the input a cell of the map that masks are compared on."""

Side = Annotated[int, Range(STRIDES[-1], multiple=STRIDES[-1])]


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
    """A box that holds no prior may take its nearest one; false: it wins a far one, as in MMDetection."""
    allowed_border: int = -1
    """Pixels that a prior may lie outside the image's content; negative (official): anywhere in the padding."""
    ignore_regions: bool = False
    """Learn nothing from priors in ignored boxes (crowds); false: they learn background, as in MMDetection."""


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
    """Where boxes end: at the border of the padded input, as in MMDetection, whose boxes may leave the image; or at
    the border of the image itself."""
    mask_threshold: Share = 0.5
    """Probability from which on a pixel belongs to a mask."""
    swap_mask_sides: Literal["rounding", "never", "always"] = "rounding"
    """The original stretches each side of a mask by the other side's factor.  As there, where that is a matter of
    rounding: no side is then more than a pixel off, or too short; never; or always, as in MMDetection."""


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
    """Where images come from and how they are read."""

    root: Path | None = None
    """Folder of a COCO JSON data set (train.json and val.json or test.json); the embedded scenes where left out."""
    train_json: Path | None = None
    """Annotations to train on, where ``root`` does not name them."""
    train_images: Path | None = None
    """Folder of the training images, where ``root`` does not name it."""
    val_json: Path | None = None
    """Annotations to evaluate on."""
    val_images: Path | None = None
    """Folder of the validation images."""
    scenes: ScenesConfig = ScenesConfig()
    input_size: Side = 160
    """Side of the square network input, in pixels; a multiple of 32."""
    workers: Whole = 0
    """Processes that load images beside the training process."""
    bad_boxes: Literal["drop", "raise"] = "drop"
    """What to do with boxes without area or outside the image, and where masks are learned with those whose mask cannot
    be used: drop them with a counted warning, or stop."""
    bad_images: Literal["skip", "raise"] = "raise"
    """What to do with a missing or broken image, at the start or later: leave it out with a counted warning (another
    takes its place in the batch), or stop."""
    check: Literal["headers", "full"] = "headers"
    """How closely every image is looked at before the start: the first and last bytes of its file, or decoded."""
    max_pixels: Count = 2**27
    """An image of more pixels is bad, and not decoded: 134 million take 400 MB."""
    outside_files: Literal["raise", "allow"] = "raise"
    """What to do with file names in the annotations that lead out of the folder of the images."""


@dataclass(frozen=True)
class AugmentConfig:
    """Changes to training images, drawn anew for every image of every epoch; as given, RTMDet-l's recipe."""

    mosaic: Share = 1.0
    """Probability that an image becomes a mosaic of four, in stage 1."""
    mosaic_cache: Annotated[int, Range(5)] = 40
    """The other three come from so many last positions of the epoch's order; each process keeps as many images."""
    mixup: Share = 1.0
    """Probability that an image is blended with another one, in stage 1."""
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
    empty_crops: Literal["redraw", "keep", "accept"] = "redraw"
    """When a crop shows no box: give the image up for a random other one, as in MMDetection, which never sees
    images without boxes; crop again up to ten times and keep what comes; or keep it, as its RTMDet-Ins does."""
    min_box_size: Weight = 0.0
    """What remains of a box is learned only if it is wider and higher than this, in pixels; 0 (official): all of it."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and the moving average of the weights."""

    lr: Factor = 0.004
    """Learning rate at ``base_batch`` images per step; scaled in proportion to the real batch."""
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
    """Let the cosine span all that is left of the run; false: as many epochs as the flat part, as in MMDetection,
    where the rate rises again in the last epoch of an odd number."""
    accumulate: Count = 1
    """Batches whose gradients are added before a step, for a large batch in little memory."""
    ema_momentum: Share = 2e-4
    """Share of the new weights in each step of the moving average, after its ramp."""
    ema_ramp: Count = 2_000
    """Steps in which the moving average's ramp falls to 1/e: (1 - m) exp(-(1 + t) / ramp) + m."""
    ema_shared_once: bool = False
    """Average weights that levels share once a step; false: once a level, as in MMDetection."""
    frozen_stages: Annotated[int, Range(-1, 4)] = -1
    """Parts of the backbone that keep their weights and the statistics of their norm layers: -1 none, 0 the stem, 1 to
    4 the stem and so many stages."""
    backbone_lr_mult: Factor = 1.0
    """Factor of the backbone's learning rate; below 1 for weights that have learned from more images than there are."""
    norm_eval: Literal["off", "backbone", "all"] = "off"
    """BatchNorms that use their stored statistics in training, for batches too small to measure any; their weights
    learn all the same.  Only with ``weights``: fresh statistics say nothing."""


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
    """On the command line ``--augment none``, ``light`` or ``recipe`` sets all of it at once."""
    optim: OptimConfig = OptimConfig()
    epochs: Count = 300
    """Passes over the training images."""
    batch_size: Count = 32
    """Images per step, on each process."""
    eval_every: Count = 10
    """Epochs between evaluations; the last epoch is always evaluated."""
    patience: Whole = 0
    """End the run after so many evaluations in a row without a better AP; 0: never.  A run that ends early has not seen
    the low learning rates of its end, where AP rises most."""
    auto_batch: bool = False
    """On a CUDA GPU, take the largest power of 2 whose steps fit its memory in place of ``batch_size``; the learning
    rate follows."""
    seed: Whole = 0
    """Seed of weights, order and augmentation."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Auto takes the GPU where there is one."""
    amp: Literal["auto", "off", "bf16"] = "auto"
    """Mixed precision of the network; losses stay in fp32.  Auto: bf16 on CUDA devices that have it."""
    compile: Literal["auto", "off", "step", "record", "graph"] = "auto"
    """Step: compile network and losses, which takes a minute; where the compiler fails, the run goes on without.
    Record: replay the whole step as one CUDA graph, in one process.  Graph: both.  Auto: step on CUDA, whose GPU waits
    for the launches of some 1,500 small operations a step otherwise; off elsewhere."""
    sync_bn: bool = False
    """Several processes on GPUs: BatchNorm over the images of all of them, as in MMDetection, not over each
    process's own.  torch's way waits for the device three times a layer and a step; worth it below some 16 images."""
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


def config_to_json(config: TrainConfig, classes: Sequence[str]) -> str:
    """A run's settings and class names as text."""
    content = {"classes": list(classes), "config": dataclasses.asdict(config)}
    return json.dumps(content, default=os.fspath, indent=2, ensure_ascii=False) + "\n"


def config_from_json(text: str) -> tuple[TrainConfig, tuple[str, ...]]:
    """The inverse of :func:`config_to_json`; settings that are newer than the text get their defaults.

    Raises:
        ValueError: for text that is none, or with a setting that this version does not know.

    >>> config = TrainConfig(name="a", out=Path("b"))
    >>> config_from_json(config_to_json(config, ["cat"])) == (config, ("cat",))
    True
    """
    try:
        content = json.loads(text)
        return decode(TrainConfig, content["config"], "config"), tuple(content["classes"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"settings that cannot be read: {error!r}") from None
