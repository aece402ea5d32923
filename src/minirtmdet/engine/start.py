"""The start of a run: settings that do not go together are refused; then what it begins with, data, the network."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from minirtmdet.configs import DataConfig, ModelConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader, TrainLoader
from minirtmdet.data.pipeline import Change, TrainPipeline
from minirtmdet.data.splits import resolve_splits
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.distributed import World, reduce_mean
from minirtmdet.engine.batch_size import settle_batch
from minirtmdet.engine.optim import FlatCosine, freeze
from minirtmdet.engine.runfolder import RunFolder
from minirtmdet.messages import counted
from minirtmdet.weights.checkpoint import Checkpoint, read_checkpoint
from minirtmdet.weights.describe import count_classes, guess_origin
from minirtmdet.weights.fit import load_checkpoint
from minirtmdet.weights.origins import SILENT

Say = Callable[[str], None]

# ------------------------------------------------------------------------------------------- settings


def check_together(config: TrainConfig, processes: int, device: torch.device) -> None:
    """Make sure that settings go together, and with the device; most are tried out on what will use them.

    Raises:
        ValueError: naming those that do not.
    """
    name = Path(config.name)
    if not name.parts or ".." in name.parts or name.is_absolute():
        raise ValueError(f"name is {config.name!r}: expected the name of a folder of its own; --out says where it lies")
    if config.compile in ("record", "graph"):
        setting, advice = f"compile is {config.compile}", "set compile to step or off"
        if processes > 1:
            raise ValueError(f"{setting}, which is for one process: {advice} for {processes}")
        if config.optim.accumulate > 1:
            accumulate = f"optim.accumulate is {config.optim.accumulate}"
            raise ValueError(f"{setting} and {accumulate}: a recorded step is one batch; {advice}, or accumulate to 1")
        if device.type != "cuda":
            raise ValueError(f"compile {config.compile} needs a CUDA GPU, and the network is on {device}: {advice}")
    _check_auto_batch(config, device)
    TrainPipeline(config.augment, config.data.input_size, config.seed, config.epochs)
    with torch.device("meta"):  # without memory or time
        build_detector(config.model, assigner=config.assigner, loss=config.loss)


def _check_auto_batch(config: TrainConfig, device: torch.device) -> None:
    if config.auto_batch and config.model.masks:
        raise ValueError("auto_batch tries steps with boxes, and this network finds masks: give --batch-size instead")
    if config.auto_batch and device.type != "cuda":
        raise ValueError(
            f"auto_batch measures the memory of a CUDA GPU, and the network is on {device}: give --batch-size instead "
            "(8 is good on a processor: steps count more than clean gradients)"
        )


@dataclass(frozen=True)
class Start:
    """What a run begins with; fresh weights where both are None.

    Attributes:
        weights: those to start from.
        resumed: the state to go on from, ``last.pt``.
        found: what :meth:`~minirtmdet.engine.runfolder.RunFolder.state_of_last` gave before that was read.
    """

    weights: Checkpoint | None
    resumed: Checkpoint | None
    found: tuple[int, int] | None


def find_start(config: TrainConfig, folder: RunFolder, processes: int, say: Say) -> Start:
    """Read what a run begins with; nothing is changed.

    Errors are those of :meth:`~minirtmdet.engine.runfolder.RunFolder.find_state`.
    """
    found = folder.state_of_last()
    resumed = folder.find_state(config, processes)
    if config.resume and resumed is None:
        say(f"nothing to resume in {folder.path}: starting the run")
    weights = read_checkpoint(config.weights) if config.weights is not None and resumed is None else None
    return Start(weights, resumed, found)


def settle(config: TrainConfig, start: Start, device: torch.device, world: World, say: Say) -> TrainConfig:
    """The settings with absolute paths, and with the network and the batch that its start and its device ask for.

    Raises:
        ValueError: for settings that keep weights as they are in a run that has none.
    """
    for name, off in (("frozen_stages", -1), ("norm_eval", "off")):
        value = getattr(config.optim, name)
        if value != off and start.weights is None and start.resumed is None:
            raise ValueError(
                f"optim.{name} is {value} in a run from scratch: what is fresh has to learn; give --weights, or set it "
                f"to {off}"
            )
    config = replace(config, data=_with_absolute_paths(config.data), model=_settle_network(config, start, say))
    if not config.auto_batch:
        return config
    before = start.resumed and start.resumed.config
    return replace(config, batch_size=before.batch_size if before else settle_batch(config, device, world, say))


def _settle_network(config: TrainConfig, start: Start, say: Say) -> ModelConfig:
    """The network to build: that of the settings, changed by what the weights to start from say, with a line."""
    resumed, weights = start.resumed, start.weights
    if resumed is not None:
        assert resumed.config is not None
        return config.model if resumed.config.weights is None else resumed.config.model
    if weights is None or not _has_head(weights):
        return config.model
    origin = weights.origin or guess_origin(weights.state_dict)
    if origin is None or origin.model is None:
        return config.model
    names = [field.name for field in fields(ModelConfig)] if config.adopt_network else SILENT
    ours, theirs = asdict(config.model), asdict(origin.model)
    changed = {name: theirs[name] for name in names if theirs[name] != ours[name] and name != "num_classes"}
    if changed:
        words = ", ".join(f"{name} {value} in place of {ours[name]}" for name, value in changed.items())
        say(f"network: {words}, since its weights start from {weights.path} ({origin.source})")
    return replace(config.model, **changed)


def _with_absolute_paths(data: DataConfig) -> DataConfig:
    """The same settings with absolute paths, which mean the same places from every folder."""

    def places(settings: Any) -> dict[str, Any]:
        return {key: Path(os.path.abspath(value)) for key, value in vars(settings).items() if isinstance(value, Path)}

    return replace(data, **places(data), scenes=replace(data.scenes, **places(data.scenes)))


# ----------------------------------------------------------------------------------------------- data


class RunData(NamedTuple):
    """What a run learns from and is judged by: data sets, and this process's share of them in batches."""

    train: CocoDataset
    val: CocoDataset
    train_loader: TrainLoader
    val_loader: EvalLoader


def load_data(
    config: TrainConfig, world: World, device: torch.device, say: Say, change: Change | None = None
) -> RunData:
    """Read both data sets, with lines that say how much there is, and make their loaders.

    Args:
        config: the run.
        world: this process, and how many there are.
        device: where the network is.
        say: prints a line.
        change: what else happens to each training image.

    Raises:
        FileNotFoundError, ValueError: for data that is missing or wrong, or has no box to learn from.
    """
    train_split, val_split = resolve_splits(config.data)
    data = config.data
    train = CocoDataset.from_config(train_split, data, masks=config.model.masks)
    # by name: the ids and their order can differ between the files
    val = CocoDataset.from_config(val_split, data, train.classes, masks=config.model.masks)
    check_boxes(train, val, say)
    size: dict[str, Any] = {"input_size": data.input_size, "batch_size": config.batch_size, "workers": data.workers}
    size |= {"rank": world.rank, "world_size": world.size, "pin_memory": device.type == "cuda"}
    train_loader = TrainLoader(train, config.augment, seed=config.seed, epochs=config.epochs, change=change, **size)
    val_loader = EvalLoader(val, **size)
    images = f"{counted(len(train), 'image')} to train on, {len(val)} to evaluate on"
    say(f"data: {images}, {counted(len(train.classes), 'class', 'classes')} ({train.json_file})")
    judged = val.count_boxes()
    counts = [f"{name} {count} + {judged[name]}" for name, count in train.count_boxes().items()]
    say(f"boxes to learn from + to judge by: {', '.join(counts)}")
    return RunData(train, val, train_loader, val_loader)


def check_boxes(train: CocoDataset, val: CocoDataset, say: Say) -> None:
    """Name the classes that cannot be learned or judged.

    Raises:
        ValueError: where there is no box to learn from.
    """
    counts = train.count_boxes()
    if not any(counts.values()):
        raise ValueError(
            f"{train.json_file} has no box to learn from in {counted(len(train), 'image')}: "
            "its annotations are empty, or all were left out"
        )
    for dataset, verb in ((train, "learn from"), (val, "judge by")):
        if absent := [name for name, count in dataset.count_boxes().items() if not count]:
            say(f"classes without a box to {verb}: {', '.join(absent)} ({dataset.json_file})")
    if val.other_boxes:
        others = ", ".join(f"{name} ({count})" for name, count in val.other_boxes.items())
        say(f"boxes of {val.json_file} that do not count, their class is not in {train.json_file}: {others}")


def make_schedule(config: TrainConfig, steps_per_epoch: int, processes: int, say: Say) -> FlatCosine:
    """The learning rates of the run, with lines that say what differs from the settings."""
    optim = config.optim
    batch = config.batch_size * optim.accumulate * processes
    schedule = FlatCosine.from_config(optim, config.epochs, steps_per_epoch, batch)
    if batch != optim.base_batch:
        together = f" of {processes} processes together" if processes > 1 else ""
        say(
            f"learning rate: {schedule.lr:g} for {batch} images per step{together} "
            f"({optim.lr:g} for {optim.base_batch})"
        )
    if schedule.warmup_iters < optim.warmup_iters:
        say(
            f"warm-up: {schedule.warmup_iters} steps in place of {optim.warmup_iters}, "
            f"a tenth of the run's {schedule.total_steps}"
        )
    return schedule


# -------------------------------------------------------------------------------------------- network


def build_model(
    config: TrainConfig,
    weights: Checkpoint | None,
    classes: tuple[str, ...],
    world: World,
    device: torch.device,
    say: Say,
) -> RTMDet:
    """The network on its device, with fresh weights drawn from the seed, or those to start from.

    Args:
        config: the run.
        weights: those to start from.
        classes: the data's.
        world: the processes that train together.
        device: where to.
        say: prints a line.

    Raises:
        CheckpointError: for weights of another network.
    """
    torch.manual_seed(config.seed)
    several = world.size > 1
    reduce = reduce_mean if several else None
    model = build_detector(config.model, assigner=config.assigner, loss=config.loss, reduce_mean=reduce)
    if weights is not None:
        _load_weights(model, weights, classes, say)
    if several and config.sync_bn and device.type == "cuda":  # the CPU does not have it
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device)
    freeze(model, config.optim)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs


def _load_weights(model: RTMDet, checkpoint: Checkpoint, classes: tuple[str, ...], say: Say) -> None:
    """Load weights of another run or an official file; say which layers start fresh."""
    if not _has_head(checkpoint):
        report = load_checkpoint(model.backbone, checkpoint, prefix="backbone.")
        say(f"{report}\n  neck and head start fresh: the file has none")
        return
    # as many classes of other names are other classes
    known = checkpoint.classes in (None, classes)
    same = known and count_classes(checkpoint.state_dict) == len(classes)
    say(str(load_checkpoint(model, checkpoint, new_classes=not same)))


def _has_head(checkpoint: Checkpoint) -> bool:
    """Whether weights are those of a detector, not of a backbone alone."""
    return any(key.startswith("bbox_head.") for key in checkpoint.state_dict)
