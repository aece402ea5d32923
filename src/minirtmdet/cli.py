"""The command line, made from the settings in :mod:`minirtmdet.configs`: ``python -m minirtmdet --help``."""

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from minirtmdet.checkpoints import (
    LoadedDetector,
    build_from_checkpoint,
    count_classes,
    describe_weights,
    find_checkpoint,
    read_checkpoint,
)
from minirtmdet.configs import MODELS, PRESETS, DataConfig, PredictConfig, ScenesConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset, resolve_val
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.scenes import make_scenes
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.engine.distributed import ProcessFailed, ProcessLost, joined
from minirtmdet.engine.evaluator import metrics_table, run_evaluation, write_json
from minirtmdet.engine.predictor import describe, draw_detections, find_pictures, predict_pictures, write_picture
from minirtmdet.engine.trainer import Trainer, pick_device
from minirtmdet.weights import OFFICIAL, download_weights, weights_path

app = tyro.extras.SubcommandApp()
Device = Literal["auto", "cpu", "cuda", "mps"]
_SUMMARIES = {
    name: f"{preset.data.input_size} px, {preset.epochs} epochs of batches of {preset.batch_size}"
    for name, preset in PRESETS.items()
}
Preset = tyro.extras.subcommand_type_from_defaults(PRESETS, _SUMMARIES, prefix_names=False)


class PartialFailure(Exception):
    """Some of the work is done, some could not be: exit code 1."""


@dataclass(frozen=True)
class EvalData:
    """What to evaluate on; settings left out are those of the run."""

    root: Path | None = None
    """Folder of a COCO JSON data set."""
    val_json: Path | None = None
    """Annotations, where ``root`` does not name them."""
    val_images: Path | None = None
    """Folder of the pictures, where ``root`` does not name it."""
    input_size: int | None = None
    """Side of the square network input, in pixels; 640 for files that do not say."""
    workers: int | None = None
    """Processes that load pictures beside this one."""


@app.command
def scenes(config: Annotated[ScenesConfig, tyro.conf.arg(name="")] = ScenesConfig(), root: Path | None = None) -> None:
    """Make the embedded data set, or find it made, and print its folder.

    Args:
        config: what to make.
        root: the folder; where left out, one in your cache directory.
    """
    print(make_scenes(config, root))


@app.command
def train(config: Annotated[Preset, tyro.conf.arg(name="")]) -> None:  # type: ignore[valid-type]
    """Train a detector, evaluate it, and write weights, numbers and pictures into its run's folder.

    Args:
        config: a preset, and what is changed of it.
    """
    assert isinstance(config, TrainConfig)
    settings: TrainConfig = config
    if settings.weights is not None and (size := _published(settings.weights)):
        settings = replace(settings, weights=_download(size))
    with joined(settings.device) as world:
        trainer = Trainer(settings, world=world)
        trainer.fit()
    if world.is_writer:
        print(metrics_table(trainer.metrics, {name: {"AP": value} for name, value in trainer.per_class.items()}))


@app.command(name="eval")
def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    data: EvalData = EvalData(),
    model: Literal["nano", "tiny", "s", "m", "l", "x"] | None = None,
    classes: tuple[str, ...] | None = None,
    out: Path | None = None,
    batch_size: int = 16,
    device: Device = "auto",
) -> None:
    """Print the COCO numbers of a run or a checkpoint.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's too, or a size for its published weights.
        data: what to evaluate on.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        out: folder to write metrics.json and detections.json (COCO results) into.
        batch_size: pictures a forward pass.
        device: auto takes the GPU where there is one.
    """
    loaded = _load(checkpoint, model, classes, device)
    settings = _eval_data(loaded, data, _input_size(checkpoint))
    val = resolve_val(settings)
    names = loaded.classes
    policy = {"bad_boxes": settings.bad_boxes, "bad_images": settings.bad_images}
    dataset = CocoDataset(val.json_file, val.images, **policy, categories=names)  # type: ignore[arg-type]
    predicted = loaded.model.config.num_classes
    if len(dataset.classes) != predicted:
        raise ValueError(
            f"{checkpoint} predicts {predicted} classes and does not name them, {val.json_file} has "
            f"{len(dataset.classes)}: name them with --classes"
        )
    loader = EvalLoader(dataset, input_size=settings.input_size, batch_size=batch_size, workers=settings.workers)
    config = loaded.config.predict if loaded.config else PredictConfig()
    evaluation = run_evaluation(loaded.model, loader, dataset, config)
    print(f"{len(dataset)} pictures of {val.json_file}")
    print(metrics_table(evaluation.metrics, evaluation.by_class))
    if out is not None:
        write_json(out / "metrics.json", {"metrics": evaluation.metrics, "per_class": evaluation.per_class})
        write_json(out / "detections.json", evaluation.results)
        print(f"written: {out / 'metrics.json'}, {out / 'detections.json'}")


@app.command
def predict(
    checkpoint: tyro.conf.Positional[Path],
    pictures: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("predictions"),
    threshold: float = 0.3,
    model: Literal["nano", "tiny", "s", "m", "l", "x"] | None = None,
    classes: tuple[str, ...] | None = None,
    input_size: int | None = None,
    batch_size: int = 8,
    device: Device = "auto",
) -> None:
    """Detect in pictures: writes each with its boxes, and predictions.json.

    Exit code 1 where a picture was broken and skipped.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's too, or a size for its published weights.
        pictures: files and folders.
        out: folder to write into.
        threshold: detections that score more are kept.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        input_size: side of the square network input, in pixels; the run's, or 640, where left out.
        batch_size: pictures a forward pass.
        device: auto takes the GPU where there is one.
    """
    if not pictures:
        raise ValueError("no pictures: name files or folders after the checkpoint")
    found = find_pictures(pictures)
    loaded = _load(checkpoint, model, classes, device)
    names = loaded.classes or tuple(f"class {label}" for label in range(loaded.model.config.num_classes))
    config = replace(loaded.config.predict if loaded.config else PredictConfig(), score_threshold=threshold)
    size = input_size or (loaded.config.data.input_size if loaded.config else _input_size(checkpoint))
    rows, count, bad = [], 0, 0
    for prediction in predict_pictures(loaded.model, found, config, input_size=size, batch_size=batch_size):
        if prediction.image is None or prediction.detections is None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            bad += 1
            continue
        write_picture(out / prediction.picture.name, draw_detections(prediction.image, prediction.detections, names))
        rows.append(describe(prediction, names))
        count += len(prediction.detections.scores)
    write_json(out / "predictions.json", {"classes": names, "threshold": threshold, "pictures": rows})
    print(f"{count} detections in {len(rows)} pictures, written to {out}")
    if bad:
        raise PartialFailure(f"{bad} of {len(found)} pictures could not be read")


@app.command
def weights(size: tyro.conf.Positional[Literal["nano", "tiny", "s", "m", "l", "x"]]) -> None:
    """Download the published weights of a size, or find them downloaded, and print the file.

    Args:
        size: nano finds people, the others the 80 classes of COCO.
    """
    print(_download(size))


@app.command
def info(what: tyro.conf.Positional[str]) -> None:
    """Say what a checkpoint, a run, a preset or a model size is.

    Args:
        what: a file, a run's folder, a preset (mini-160), or a size (nano, tiny, s, m, l, x).
    """
    if what in MODELS:
        print(_describe_model(build_detector(what)))
    elif what in PRESETS:
        print(f"{_SUMMARIES[what]}\n{_describe_model(build_detector(PRESETS[what].model))}")
    elif not Path(what).exists():
        raise FileNotFoundError(
            f"no file, folder, preset or size {what!r}; presets are {', '.join(PRESETS)}, sizes {', '.join(MODELS)}"
        )
    else:
        checkpoint = read_checkpoint(what)
        print(f"{checkpoint.path}: {describe_weights(checkpoint.state_dict) or 'no detector that is known here'}")
        if checkpoint.config is not None:
            model = replace(checkpoint.config.model, num_classes=count_classes(checkpoint.state_dict) or 0)
            print(_describe_model(build_detector(model)))
            print(f"run: {checkpoint.config.name}, input {checkpoint.config.data.input_size} px")
        if checkpoint.classes:
            print(f"classes: {', '.join(checkpoint.classes)}")
        if checkpoint.metrics:
            print("  ".join(f"{name} {checkpoint.metrics[name]:.3f}" for name in ("AP", "AP50", "AP75")))


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; errors that a user can mend become one message and exit code 2."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app.cli(prog="minirtmdet", args=args, config=(tyro.conf.OmitSubcommandPrefixes,))
    except PartialFailure as error:
        print(f"minirtmdet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except torch.OutOfMemoryError as error:
        # the trainer's own says which settings to lower; what torch says is about its allocator
        advice = error if error.__cause__ else "the GPU has too little memory; try a smaller --batch-size"
        print(f"minirtmdet: error: {advice}", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError, ProcessLost, ProcessFailed) as error:
        print(f"minirtmdet: error: {error}", file=sys.stderr)
        return 2
    return 0


def _load(path: Path, model: str | None, classes: tuple[str, ...] | None, device: str) -> LoadedDetector:
    """The detector of a checkpoint, on its device."""
    target = pick_device(device)
    if size := _published(path):
        path, model = _download(size), model or size
    loaded = build_from_checkpoint(path, model=model, classes=classes)
    print(f"{find_checkpoint(path)}: {describe_weights(loaded.model.state_dict())}, on {target}")
    loaded.model.to(target)
    return loaded


def _published(path: Path) -> str | None:
    """The size whose published weights are meant; a file or a folder of that name comes first."""
    return str(path) if str(path) in OFFICIAL and not path.exists() else None


def _download(size: str) -> Path:
    """The published weights of a size, and a line before anything is downloaded."""
    path = weights_path(size)
    if not path.is_file():
        print(f"downloading {OFFICIAL[size].url} to {path.parent}", file=sys.stderr)
    return download_weights(size)


def _input_size(checkpoint: Path) -> int:
    """Side of the network input for a checkpoint that does not say."""
    size = _published(checkpoint)
    return OFFICIAL[size].input_size if size else 640


def _eval_data(loaded: LoadedDetector, data: EvalData, input_size: int) -> DataConfig:
    """The run's own data, with what the command line changes."""
    given = {key: value for key, value in dataclasses.asdict(data).items() if value is not None}
    named = {"root", "val_json", "val_images"} & set(given)
    if loaded.config is None and not named:
        raise ValueError(f"{loaded.report.source} does not say what to evaluate on: give --data.root")
    base = loaded.config.data if loaded.config else DataConfig(input_size=input_size)
    if named:
        base = replace(base, root=None, train_json=None, train_images=None, val_json=None, val_images=None)
    return replace(base, **given)


def _describe_model(model: RTMDet) -> str:
    """Parameters of a detector and of its parts."""
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    total = sum(parameter.numel() for parameter in model.parameters())
    inner = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    return f"{total:,} parameters ({inner}), {model.config.num_classes} classes"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line."""
    print(f"minirtmdet: warning: {message}", file=sys.stderr)
