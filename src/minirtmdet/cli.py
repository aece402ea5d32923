"""The command line, made from the settings in :mod:`minirtmdet.configs`: ``python -m minirtmdet --help``."""

import dataclasses
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, ParamSpec, get_type_hints

import torch
import tyro

from minirtmdet import plots
from minirtmdet.checkpoints import (
    build_from_checkpoint,
    count_classes,
    describe_weights,
    find_checkpoint,
    read_checkpoint,
)
from minirtmdet.configs import (
    MODELS,
    PRESETS,
    Count,
    DataConfig,
    PredictConfig,
    ScenesConfig,
    Share,
    Side,
    TrainConfig,
    Whole,
    out_of_range,
)
from minirtmdet.data.coco import CocoDataset, Split, resolve_splits, resolve_val
from minirtmdet.data.example import example
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.scenes import make_scenes
from minirtmdet.detector import Detector, RTMDet, build_detector
from minirtmdet.engine.distributed import ALONE, ProcessFailed, ProcessLost, World, check_alone, joined
from minirtmdet.engine.evaluator import (
    Evaluation,
    match_pictures,
    metrics_table,
    read_ground_truth,
    run_evaluation,
    write_json,
)
from minirtmdet.engine.predictor import (
    RESULTS,
    describe,
    draw_detections,
    find_pictures,
    inside_picture,
    predict_pictures,
    write_picture,
)
from minirtmdet.engine.trainer import Trainer, is_lost_worker, pick_device
from minirtmdet.export import ExportInfo, OnnxDetector, export_onnx
from minirtmdet.files import check_not_read, check_writable
from minirtmdet.weights import OFFICIAL, download_weights, weights_path

P = ParamSpec("P")
app = tyro.extras.SubcommandApp()
Device = Literal["auto", "cpu", "cuda", "mps"]
Size = Literal["nano", "tiny", "s", "m", "l", "x"]
_SUMMARIES = {
    name: f"{preset.data.input_size} px, {preset.epochs} epochs of batches of {preset.batch_size}"
    for name, preset in PRESETS.items()
}
_arguments: ContextVar[list[str]] = ContextVar("_arguments")
"""The words of the command line that is running."""
Preset = tyro.extras.subcommand_type_from_defaults(PRESETS, _SUMMARIES, prefix_names=False)


class Loaded(NamedTuple):
    """A detector that is ready to look at pictures, whatever file it came from.

    Attributes:
        model: on its device.
        source: the file.
        classes: names in label order; None where nothing names them.
        num_classes: classes that it predicts.
        input_size: side of the square network input, in pixels.
        predict: thresholds and limits.
        data: what the run was trained on; None where the file does not say.
    """

    model: Detector
    source: Path
    classes: tuple[str, ...] | None
    num_classes: int
    input_size: int
    predict: PredictConfig
    data: DataConfig | None


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
    input_size: Side | None = None
    """Side of the square network input, in pixels; 640 for files that do not say."""
    workers: Whole | None = None
    """Processes that load pictures beside this one."""
    bad_boxes: Literal["drop", "raise"] | None = None
    """What to do with boxes without area or outside the picture."""
    bad_images: Literal["skip", "raise"] | None = None
    """What to do with a missing or broken picture: leave it out with a counted warning, or stop."""
    check: Literal["headers", "full"] | None = None
    """How closely every picture is looked at before the start: the first and last bytes of its file, or decoded."""
    max_pixels: Count | None = None
    """A picture of more pixels is bad, and not decoded."""
    outside_files: Literal["raise", "allow"] | None = None
    """What to do with file names in the annotations that lead out of the folder of the pictures."""


def _checked(command: Callable[P, None]) -> Callable[P, None]:
    """A command that refuses numbers out of their range before it does anything, by the names that the user typed."""
    hints, parameters = get_type_hints(command, include_extras=True), signature(command)

    @wraps(command)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        given = parameters.bind(*args, **kwargs).arguments
        for name, problem in out_of_range(hints, given):
            typed = name.removeprefix("config.").replace("_", "-")  # whose own name is empty
            raise ValueError(f"--{typed} {problem}")
        command(*args, **kwargs)

    return checked


@app.command
@_checked
def scenes(config: Annotated[ScenesConfig, tyro.conf.arg(name="")] = ScenesConfig(), root: Path | None = None) -> None:
    """Make the embedded data set, or find it made, and print its folder.

    Args:
        config: what to make.
        root: the folder; where left out, one in your cache directory.
    """
    print(make_scenes(config, root))


@app.command
@_checked
def train(config: Annotated[Preset, tyro.conf.arg(name="")]) -> None:  # type: ignore[valid-type]
    """Train a detector, evaluate it, and write weights, numbers and pictures into its run's folder.

    Args:
        config: a preset, and what is changed of it.
    """
    assert isinstance(config, TrainConfig)
    settings: TrainConfig = config
    if settings.weights is not None and (size := _published(settings.weights)):
        settings = replace(settings, weights=_download(size))
    run_dir = settings.out / settings.name
    check_writable(run_dir)
    check_not_read([run_dir], _read_by(settings))
    with joined(settings.device) as world:
        trainer = Trainer(settings, world=world)
        trainer.fit()
    if world.is_writer:
        print(metrics_table(trainer.metrics, {name: {"AP": value} for name, value in trainer.per_class.items()}))


@app.command(name="eval")
@_checked
def evaluate(
    checkpoint: tyro.conf.Positional[Path],
    data: EvalData = EvalData(),
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    out: Path | None = None,
    threshold: Share = 0.3,
    worst: Count = 12,
    batch_size: Count = 16,
    device: Device = "auto",
) -> None:
    """Print the COCO numbers of a run, a checkpoint or an exported file.

    Processes that torchrun starts share the pictures; one of them prints and writes.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's or an exported one too, or a size for its
            published weights.
        data: what to evaluate on.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        out: folder to write into: metrics.json, detections.json (COCO results), precision_recall.png and worst.png.
        threshold: for worst.png, the score over which a detection counts.
        worst: pictures in worst.png: those of the most misses and false detections at IoU 0.5.
        batch_size: pictures a forward pass, on each process.
        device: auto takes the GPU where there is one.
    """
    with joined(device, "start it again") as world, redirect_stdout(sys.stdout if world.is_writer else None):
        loaded = _load(checkpoint, model, classes, device, world)
        settings = _eval_data(loaded, data)
        val = resolve_val(settings)
        if out is not None:
            check_writable(out)
            check_not_read([out], [*_folders_of(val), *_run_of(loaded.source)])
        dataset = CocoDataset.from_config(val, settings, loaded.classes)
        if len(dataset.classes) != loaded.num_classes:
            raise ValueError(
                f"{checkpoint} predicts {loaded.num_classes} classes and does not name them, {val.json_file} has "
                f"{len(dataset.classes)}: name them with --classes"
            )
        size = {"input_size": settings.input_size, "batch_size": batch_size, "workers": settings.workers}
        gpu = loaded.model.device.type == "cuda"
        loader = EvalLoader(dataset, **size, rank=world.rank, world_size=world.size, pin_memory=gpu)
        evaluation = run_evaluation(loaded.model, loader, dataset, loaded.predict, world=world)
    if not world.is_writer:
        return
    print(f"{len(dataset)} pictures of {val.json_file}")
    print(metrics_table(evaluation.metrics, evaluation.by_class))
    if out is not None:
        about = {
            "command": shlex.join(["minirtmdet", *_arguments.get()]),
            "checkpoint": str(loaded.source),
            "data": {"json": str(val.json_file), "images": str(val.images), "pictures": len(dataset)},
            "input_size": settings.input_size,
            "predict": dataclasses.asdict(loaded.predict),
        }
        _write_evaluation(out, about, evaluation, dataset, threshold, worst)


@app.command
@_checked
def predict(
    checkpoint: tyro.conf.Positional[Path],
    pictures: tyro.conf.Positional[tuple[Path, ...]],
    out: Path = Path("predictions"),
    threshold: Share = 0.3,
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    input_size: Side | None = None,
    batch_size: Count = 8,
    device: Device = "auto",
) -> None:
    """Detect in pictures: writes each with its boxes, and predictions.json; boxes end where the picture ends.

    Exit code 1 where a picture was broken and skipped.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's or an exported one too, or a size for its
            published weights.
        pictures: files and folders.
        out: folder to write into.
        threshold: detections that score more are kept.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        input_size: side of the square network input, in pixels; the run's, or 640, where left out.
        batch_size: pictures a forward pass.
        device: auto takes the GPU where there is one.
    """
    check_alone("predict")
    if not pictures:
        raise ValueError("no pictures: name files or folders after the checkpoint")
    found = find_pictures(pictures)
    check_writable(out)
    folders = {one.path.parent for one in found} | {path for path in pictures if path.is_dir()}
    check_not_read([out, *(out / one.name for one in found)], [*folders, *(one.path for one in found)])
    loaded = _load(checkpoint, model, classes, device)
    check_not_read([out], _run_of(loaded.source))
    names = loaded.classes or tuple(f"class {label}" for label in range(loaded.num_classes))
    config = replace(loaded.predict, score_threshold=threshold)
    if isinstance(loaded.model, OnnxDetector) and loaded.model.info.kind == "nms":
        fixed = loaded.predict.score_threshold
        if threshold < fixed:
            print(f"{checkpoint} holds nothing that scores {fixed:g} or less", file=sys.stderr)
    size = _input_size(loaded, input_size)
    rows, count, bad = [], 0, 0
    for prediction in predict_pictures(loaded.model, found, config, input_size=size, batch_size=batch_size):
        if prediction.image is None or prediction.detections is None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            bad += 1
            continue
        detections = inside_picture(prediction.detections, prediction.image)
        write_picture(out / prediction.picture.name, draw_detections(prediction.image, detections, names))
        rows.append(describe(prediction._replace(detections=detections), names))
        count += len(detections.scores)
    write_json(out / RESULTS, {"classes": names, "threshold": threshold, "pictures": rows})
    print(f"{count} detections in {len(rows)} pictures, written to {out}")
    if bad:
        raise PartialFailure(f"{bad} of {len(found)} pictures could not be read")


@app.command
@_checked
def export(
    checkpoint: tyro.conf.Positional[Path],
    out: Path,
    nms: bool = False,
    input_size: Side | None = None,
    model: Size | None = None,
    classes: tuple[str, ...] | None = None,
    score_threshold: Share | None = None,
    nms_pre: Count | None = None,
    nms_iou_threshold: Share | None = None,
    max_per_image: Count | None = None,
) -> None:
    """Write a detector as an ONNX file, which eval and predict take too.

    Args:
        checkpoint: a run's folder (its best weights), a file, MMDetection's too, or a size for its published weights.
        out: the file, .onnx.
        nms: end with detections; else with boxes and scores of all priors, and the maps that they come from.
        input_size: side of the square input, in pixels; the run's, or 640, where left out.
        model: the size, for files that do not say.
        classes: names in label order, for files that do not say.
        score_threshold: scores at or below are dropped; the run's, as the other three, where left out.
        nms_pre: candidates kept a level, best first.
        nms_iou_threshold: of two boxes of one class that overlap more than this, the weaker one is dropped.
        max_per_image: detections kept a picture.
    """
    check_alone("export")
    check_writable(out.parent)
    loaded = _load(checkpoint, model, classes, "cpu")
    check_not_read([out], [loaded.source])
    if not isinstance(loaded.model, RTMDet):
        raise ValueError(f"{checkpoint} is an exported file: export from its checkpoint")
    given = {
        "score_threshold": score_threshold,
        "nms_pre": nms_pre,
        "nms_iou_threshold": nms_iou_threshold,
        "max_per_image": max_per_image,
    }
    config = replace(loaded.predict, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    info = export_onnx(
        loaded.model,
        out,
        input_size=_input_size(loaded, input_size),
        nms=nms,
        classes=loaded.classes,
        predict=config,
        preset=checkpoint.stem if checkpoint.is_file() else checkpoint.resolve().name,
    )
    print(f"written: {out}, {_describe_export(info)}")
    print(_compare(loaded.model, OnnxDetector(out, "cpu")))


@app.command
def weights(size: tyro.conf.Positional[Size]) -> None:
    """Download the published weights of a size, or find them downloaded, and print the file.

    Args:
        size: nano finds people, the others the 80 classes of COCO.
    """
    print(_download(size))


@app.command
def info(what: tyro.conf.Positional[str]) -> None:
    """Say what a checkpoint, an exported file, a run, a preset or a model size is.

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
    elif what.endswith(".onnx"):
        exported = OnnxDetector(Path(what), "cpu").info
        print(f"{what}: {_describe_export(exported)}")
        print(_describe_model(build_detector(exported.model)))
        print(f"input {exported.input}")
        for name, meaning in exported.outputs.items():
            print(f"output {name}: {meaning}")
        print(f"classes: {', '.join(exported.classes)}")
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
    _arguments.set(list(sys.argv[1:] if args is None else args))
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
        print(f"minirtmdet: error: {_with_notes(str(error), error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not is_lost_worker(error):
            raise
        advice = "where nobody killed it, memory or shared memory (/dev/shm) is too small; try a smaller --data.workers"
        words = _with_notes(f"{str(error).rstrip('. ')}: {advice}", error)
        print(f"minirtmdet: error: {words}", file=sys.stderr)
        return 2
    return 0


def _with_notes(words: str, error: BaseException) -> str:
    """What an error says, and what whoever passed it on has added."""
    return "; ".join([words, *getattr(error, "__notes__", [])])


def _load(path: Path, model: str | None, classes: tuple[str, ...] | None, device: str, world: World = ALONE) -> Loaded:
    """The detector of a checkpoint or an exported file, on its device."""
    if path.suffix == ".onnx":
        return _load_exported(path, model, classes, device)
    target = world.device(pick_device(device))
    size = _published(path)
    if size:
        path, model = _download(size), model or size
    detector, names, run, _ = build_from_checkpoint(path, model=model, classes=classes)
    source = find_checkpoint(path)
    print(f"{source}: {describe_weights(detector.state_dict())}, on {target}")
    published_size = OFFICIAL[size].input_size if size else 640
    return Loaded(
        model=detector.to(target),
        source=source,
        classes=names,
        num_classes=detector.config.num_classes,
        input_size=run.data.input_size if run else published_size,
        predict=run.predict if run else PredictConfig(),
        data=run.data if run else None,
    )


def _load_exported(path: Path, model: str | None, classes: tuple[str, ...] | None, device: str) -> Loaded:
    """An exported file, and a line that says what is fixed in it."""
    if model is not None:
        raise ValueError(f"{path} says itself which model it is: leave --model out")
    exported = OnnxDetector(path, device)
    info = exported.info
    if classes and len(classes) != len(info.classes):
        raise ValueError(f"{path} has {len(info.classes)} classes, but {len(classes)} names were given")
    print(f"{path}: {_describe_export(info)}")
    names = classes or info.classes
    return Loaded(exported, path, names, len(names), info.input_size, info.predict, None)


def _describe_export(info: ExportInfo) -> str:
    """What is fixed in an exported file, in words."""
    count = len(info.classes)
    words = f"ONNX of {info.preset or 'a detector'}, {count} class{'es' * (count > 1)}, {info.input_size} px"
    if info.kind == "raw":
        return f"{words}, all priors"
    limits = info.predict
    return (
        f"{words}, at most {limits.max_per_image} detections that score more than {limits.score_threshold:g}, "
        f"suppressed at IoU {limits.nms_iou_threshold:g}"
    )


def _compare(model: RTMDet, exported: OnnxDetector) -> str:
    """How near the detections of an exported file are to the model's, in words."""
    size = exported.info.input_size
    picture = torch.nn.functional.interpolate(example().images, (size, size))
    ours, theirs = (one.predict(picture, exported.info.predict)[0].scores for one in (model, exported))
    if len(ours) != len(theirs):
        return f"compared with torch on a scene: {len(theirs)} detections in place of {len(ours)}"
    difference = float((ours - theirs).abs().max()) if len(ours) else 0.0
    return f"compared with torch on a scene: {len(ours)} detections, their scores at most {difference:.1g} apart"


def _write_evaluation(
    out: Path, about: dict[str, object], evaluation: Evaluation, dataset: CocoDataset, threshold: float, worst: int
) -> None:
    """Numbers, detections, curves, and the pictures that went worst."""
    truth = read_ground_truth(dataset.json_file)
    matches = match_pictures(
        truth, evaluation.results, dataset.category_ids, evaluation.image_ids, score_threshold=threshold
    )
    files = {entry["id"]: entry["file_name"] for entry in truth["images"]}
    rows = [
        {"file": files[image_id], "f1": match.f1, "missed": match.missed, "false": match.false}
        for image_id, match in matches.items()
    ]
    numbers = {"metrics": evaluation.metrics, "per_class": evaluation.by_class}
    write_json(out / "metrics.json", {**about, **numbers, "threshold": threshold, "worst_first": rows})
    write_json(out / "detections.json", evaluation.results)
    plots.save(plots.precision_recall_by_iou(evaluation.precision, dataset.classes), out / "precision_recall.png")
    shown = list(matches)[:worst]
    images = [dataset.load(dataset.image_ids.index(image_id)).image for image_id in shown]
    sheet = plots.worst_pictures(
        images, [matches[i] for i in shown], dataset.classes, [files[image_id] for image_id in shown]
    )
    plots.save(sheet, out / "worst.png")
    print(f"written to {out}: metrics.json, detections.json, precision_recall.png, worst.png")


def _folders_of(*splits: Split) -> list[Path]:
    """Folders that hold what a data set is made of."""
    return [folder for split in splits for folder in (split.images, split.json_file.parent)]


def _run_of(checkpoint: Path) -> list[Path]:
    """The folder of the run that a checkpoint is of, whose own files have the names of outputs; else none."""
    return [checkpoint.parent] if (checkpoint.parent / "config.json").exists() else []


def _read_by(settings: TrainConfig) -> list[Path]:
    """Folders that a training reads from; the embedded scenes lie where no run does."""
    data, folders = settings.data, []
    if data.root is not None or (data.train_json and data.val_json):
        folders = [*([data.root] if data.root else []), *_folders_of(*resolve_splits(data))]
    if data.scenes.backgrounds is not None:
        folders.append(data.scenes.backgrounds)
    if settings.weights is not None and not settings.resume:  # which a run that is started again would remove
        folders.append(find_checkpoint(settings.weights).parent)
    return folders


def _published(path: Path) -> str | None:
    """The size whose published weights are meant; a file or a folder of that name comes first."""
    return str(path) if str(path) in OFFICIAL and not path.exists() else None


def _download(size: str) -> Path:
    """The published weights of a size, and a line before anything is downloaded."""
    path = weights_path(size)
    if not path.is_file():
        print(f"downloading {OFFICIAL[size].url} to {path.parent}", file=sys.stderr)
    return download_weights(size)


def _input_size(loaded: Loaded, given: int | None) -> int:
    """Side of the network input: what is asked for, or what the file says."""
    if isinstance(loaded.model, OnnxDetector) and given not in (None, loaded.input_size):
        raise ValueError(f"{loaded.source} is made for {loaded.input_size} pixels, not for {given}: export it again")
    return given or loaded.input_size


def _eval_data(loaded: Loaded, data: EvalData) -> DataConfig:
    """The run's own data, with what the command line changes."""
    given = {key: value for key, value in dataclasses.asdict(data).items() if value is not None}
    named = {"root", "val_json", "val_images"} & set(given)
    if loaded.data is None and not named:
        raise ValueError(f"{loaded.source} does not say what to evaluate on: give --data.root")
    base = loaded.data or DataConfig()
    if named:
        base = replace(base, root=None, train_json=None, train_images=None, val_json=None, val_images=None)
    return replace(base, **{**given, "input_size": _input_size(loaded, data.input_size)})


def _describe_model(model: RTMDet) -> str:
    """Parameters of a detector and of its parts."""
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    total = sum(parameter.numel() for parameter in model.parameters())
    inner = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    return f"{total:,} parameters ({inner}), {model.config.num_classes} classes"


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line."""
    print(f"minirtmdet: warning: {message}", file=sys.stderr)
