"""Whole runs by name: the embedded scenes, few images of one's own, and the official recipe."""

from dataclasses import replace

from minirtmdet.configs import (
    INS_MODELS,
    INS_PREDICT,
    MODELS,
    AugmentConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    ScenesConfig,
    TrainConfig,
)

# stage 2 from start to end, every image seen once an epoch
_PLAIN = AugmentConfig(mosaic=0.0, mixup=0.0, stage2_epochs=0, scale=(0.5, 2.0), empty_crops="keep", min_box_size=1.0)


# runs far shorter than the recipe's 300 epochs: a quick average, and MMDetection's surprises corrected
_SHORT = OptimConfig(warmup_iters=300, ema_momentum=1e-3, ema_ramp=500, ema_shared_once=True, cosine_to_the_end=True)


def _mini_160() -> TrainConfig:
    """A small detector for the embedded scenes, on a processor.

    10,000 images in 5 epochs; AP and time of three seeds are in ``benchmarks/results/mini-160.json``.  Three
    choices make so short a run work: small batches, since steps count more than clean gradients; a narrow
    range of scales, since 2,000 scenes seen five times each need little variety; and ``exp_on_reg``: a network
    that can only predict positive distances has a head start.  Where MMDetection's way is a surprise, the
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


def _mini_160_ins() -> TrainConfig:
    """mini-160 with masks: a small RTMDet-Ins for the embedded scenes, on a processor.

    AP of boxes and of masks, and time, of three seeds are in ``benchmarks/results/mini-160-ins.json``.  Its distances
    cannot be exponentiated (the head's are cut at 0), so boxes start slower.  Empty masks are left out of the mask
    loss, where in MMDetection they dilute it.
    """
    mini = _mini_160()
    return replace(
        mini,
        name="mini-160-ins",
        model=replace(mini.model, exp_on_reg=False, masks=True),
        loss=LossConfig(drop_empty_masks=True),
        predict=replace(INS_PREDICT, clip="content"),
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


# the cached recipe for a few hundred images of one's own: tiny's caches, every image seen, with boxes or without
_FEW = AugmentConfig(mosaic_cache=20, mixup=0.5, mixup_cache=10, scale=(0.5, 2.0), empty_crops="keep", min_box_size=1.0)


def _few_256() -> TrainConfig:
    """A small detector for a few hundred images of one's own (``--data.root``), on a processor.

    The network of mini-160 at 256 px.  Its steps of 8 images count more than clean gradients; ``exp_on_reg`` gives
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
    """RTMDet-tiny for a few hundred images of one's own (``--data.root``), on a GPU.

    few-256 with a larger network, larger images and a longer run: 300 images make 11,100 steps; starting from an
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


AUGMENTS: dict[str, AugmentConfig] = {
    "none": replace(_PLAIN, scale=(1.0, 1.0), hsv=(0, 0, 0), flip=0.0),
    "light": _PLAIN,
    "recipe": _FEW,
}
"""Augmentation by name: images as they are; scale, crop, colours and mirror images; mosaic and MixUp too, with caches
for a few hundred images.  What they leave out is a function of one's own: ``Trainer(config, change=...)``."""


_SMALL_SCALE = AugmentConfig(scale=(0.5, 2.0))
_AUGMENT = {
    "tiny": replace(_SMALL_SCALE, mosaic_cache=20, mixup=0.5, mixup_cache=10),
    "s": _SMALL_SCALE,
    "m": AugmentConfig(),
    "l": AugmentConfig(),
    "x": AugmentConfig(),
}


def _rtmdet(size: str) -> TrainConfig:
    """The published recipe of a size: COCO, 300 epochs of 8 x 32 images (``rtmdet_{size}_8xb32-300e_coco.py``).

    On one GPU the same settings hold, by the rule that the learning rate follows the batch: 32 images per step learn
    at 0.0005.  What to expect there: eight times the steps and about eight times the hours.  The moving average, whose
    momentum is a step's, then spans an eighth of the images; and BatchNorm sees 32 images instead of 256
    (MMDetection uses SyncBN).  Published AP on COCO val: tiny 41.1, s 44.6, m 49.4, l 51.5, x 52.8, of which nothing
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


def _rtmdet_ins(size: str) -> TrainConfig:
    """The published recipe of RTMDet-Ins (``rtmdet-ins_{size}_8xb32-300e_coco.py``): COCO with masks, 300 epochs.

    As the detector's but for these: boxes that a crop leaves are those of their masks, slivers of a pixel are left
    out, a crop without any is kept as background; half the rate for x, whose 8 x 16 images stand in its name alone
    (its config says 32 a GPU).  The published tiny crops otherwise while it mixes: boxes keep their size there, also
    where nothing is left of the mask.  Published AP of boxes and of masks on COCO val: tiny 40.5 / 35.4, s 44.0 / 38.7,
    m 48.8 / 42.1, l 51.2 / 43.7, x 52.4 / 44.6, of which nothing was trained again here.  Memory there: 18, 28, 43 and
    60 GB for 32 images, 34 GB for x's 16.
    """
    large = size == "x"
    return TrainConfig(
        name=f"rtmdet-ins-{size}",
        model=INS_MODELS[f"ins-{size}"],
        predict=INS_PREDICT,
        data=DataConfig(input_size=640, workers=10),
        augment=replace(_AUGMENT[size], empty_crops="accept", min_box_size=1.0),
        optim=OptimConfig(lr=0.002, base_batch=128) if large else OptimConfig(),
        batch_size=16 if large else 32,
    )


PRESETS: dict[str, TrainConfig] = {
    config.name: config
    for config in (
        *(_mini_160(), _mini_160_ins(), _tiny_320(), _few_256(), _few_320()),
        *(recipe(size) for recipe in (_rtmdet, _rtmdet_ins) for size in _AUGMENT),
    )
}
