"""Record a finished run on real images: its curves, its AP by class and size, its mistakes and its worst images.

    python benchmarks/record_run.py runs/cards --record cards --note "67 test photos" --licence "Apache-2.0"

Nothing is trained: the run's last weights are evaluated once more.  Writes ``benchmarks/results/<record>.json`` and,
unless ``--worst 0`` asks for no images, ``<record>.jpg`` beside it.  What follows ``--`` says where the data lies now,
as in ``-- --data.root path/to/cards``; the run's own folder where left out.
"""

import argparse
import csv
import io
import json
import math
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tyro
from train import RESULTS, surroundings

from minirtmdet import plots
from minirtmdet.configs import DataConfig, TrainConfig, config_from_json
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.splits import resolve_splits
from minirtmdet.engine.runlog import METRIC_COLUMNS
from minirtmdet.evaluation.coco import run_evaluation
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.evaluation.matching import Match, match_images, mistakes
from minirtmdet.files import write_json
from minirtmdet.presets import PRESETS
from minirtmdet.settings import flat_settings
from minirtmdet.weights.build import build_from_checkpoint

POINTS = 100
"""The loss curve is thinned to so many points at most."""
LARGEST = 250_000
"""Bytes of the image."""
# where a run was made, not what it was; the number of classes is the data's
PRIVATE = {"name", "out", "device", "workers", "resume", "overwrite", "save_minutes", "model.num_classes"}


def command(config: TrainConfig) -> str:
    """The command that makes a run again: the preset that is nearest to its settings, and what differs from it."""
    settings = flat_settings(config)
    different = {
        name: {key: value for key, value in settings.items() if key not in PRIVATE and value != preset[key]}
        for name, preset in ((name, flat_settings(preset)) for name, preset in PRESETS.items())
    }
    preset = min(different, key=lambda name: len(different[name]))
    words = ["python", "-m", "minirtmdet", "train", preset, "--name", config.name]
    for key, value in different[preset].items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            parent, _, last = option[2:].rpartition(".")
            words.append(option if value else f"--{parent}{'.' * bool(parent)}no-{last}")
        elif isinstance(value, Path):
            # the folder of somebody's data is nobody else's business
            words += [option, "path/to/data" if key == "data.root" else f"path/to/data/{value.name}"]
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def evaluations(rows: list[dict[str, str]], images_per_step: float) -> dict[str, list[float]]:
    """The curve of the evaluations: epoch, images seen, AP and its kin."""
    found = [row for row in rows if row["AP"]]
    curve: dict[str, list[float]] = {
        "epoch": [int(row["epoch"]) for row in found],
        "images_seen": [round(int(row["step"]) * images_per_step) for row in found],
    }
    return curve | {key: [round(float(row[key]), 4) for row in found] for key in METRIC_COLUMNS}


def losses(rows: list[dict[str, str]], images_per_step: float, points: int = POINTS) -> dict[str, list[float]]:
    """The loss curve, thinned: means over neighbouring rows, at the last of their steps."""
    size = math.ceil(len(rows) / points)
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    curve: dict[str, list[float]] = {
        "images_seen": [round(int(group[-1]["step"]) * images_per_step) for group in groups]
    }
    for key in ("loss_cls", "loss_bbox", "num_pos"):
        curve[key] = [round(sum(float(row[key]) for row in group) / len(group), 4) for group in groups]
    return curve


def describe_mistakes(matches: dict[int, Match], classes: tuple[str, ...]) -> dict[str, Any]:
    """What was found, missed and wrong in all images together, and which classes were taken for which."""
    kinds, pairs = Counter[str](), Counter[str]()
    missed = Counter(classes[label] for match in matches.values() for label in match.labels[~match.found].tolist())
    for match in matches.values():
        for mistake in mistakes(match):
            kinds[mistake.kind] += 1
            if mistake.kind == "class":
                truth, taken = match.labels[mistake.box], match.detections.labels[mistake.detection]
                pairs[f"{classes[truth]} taken for {classes[taken]}"] += 1
    return {
        "boxes": sum(len(match.boxes) for match in matches.values()),
        "found": sum(int(match.found.sum()) for match in matches.values()),
        "missed": dict(missed.most_common()),
        "false": dict(kinds.most_common()),
        "confused": dict(pairs.most_common(5)),
    }


def write_jpeg(figure: Any, path: Path, largest: int = LARGEST) -> int:
    """A figure as the best JPEG that is not too large; returns its bytes."""
    for quality in range(90, 20, -5):
        content = io.BytesIO()
        figure.savefig(
            content, format="jpeg", facecolor=figure.get_facecolor(), pil_kwargs={"quality": quality, "optimize": True}
        )
        if content.tell() <= largest:
            break
    path.write_bytes(content.getvalue())
    return content.tell()


def record_run(
    folder: Path, data: DataConfig | None, note: str, licence: str, image: Path, *, threshold: float, worst: int
) -> dict[str, Any]:
    """What a run's folder says, and an evaluation of its last weights; writes the image too."""
    config, _ = config_from_json((folder / "config.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # the last weights, not the best: those were chosen by the images that they are judged by
    model, classes, _, _ = build_from_checkpoint(folder / "last.pt")
    assert classes is not None
    train, val = resolve_splits(data or config.data)
    dataset = CocoDataset(val.json_file, val.images, categories=classes)
    loader = EvalLoader(dataset, input_size=config.data.input_size, batch_size=16, workers=0)
    evaluation = run_evaluation(model, loader, dataset, config.predict)
    truth = read_ground_truth(dataset.json_file)
    matches = match_images(
        truth, evaluation.results, dataset.category_ids, evaluation.image_ids, score_threshold=threshold
    )
    drawn: dict[str, Any] = {}
    if shown := list(matches)[:worst]:
        names = {entry["id"]: Path(entry["file_name"]).name for entry in truth["images"]}
        images = [dataset.load(dataset.image_ids.index(image_id)).image for image_id in shown]
        sheet = plots.worst_images(images, [matches[i] for i in shown], classes, [names[i] for i in shown])
        write_jpeg(sheet, image)
        drawn = {"image": {"file": image.name, "title": sheet.get_suptitle(), "licence": licence}}
    images_per_step = found["images_seen"] / found["steps"]
    return {
        "command": command(config),
        "note": note,
        **surroundings(),
        "images": {"train": len(json.loads(train.json_file.read_bytes())["images"]), "val": len(dataset)},
        "input_size": config.data.input_size,
        **{key: found[key] for key in ("epochs", "steps", "images_seen", "train_seconds", "device", "parameters")},
        "metrics": rounded(evaluation.metrics),
        "best": rounded({key: found["best"][key] for key in ("epoch", "AP")}),
        "by_class": {name: rounded(numbers) for name, numbers in evaluation.by_class.items()},
        "evaluations": evaluations(rows, images_per_step),
        "losses": losses(rows, images_per_step),
        f"at score {threshold:g}": describe_mistakes(matches, classes),
        **drawn,
    }


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    """Four digits say enough."""
    return {key: round(value, 4) for key, value in numbers.items()}


def main() -> None:
    """Evaluate, draw, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of the finished run")
    parser.add_argument("--record", required=True, help="name of the record")
    parser.add_argument("--note", required=True, help="what the data is")
    parser.add_argument("--licence", required=True, help="of the images, and whose they are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    parser.add_argument("--threshold", type=float, default=0.3, help="detections that score more count as mistakes")
    parser.add_argument("--worst", type=int, default=6, help="images on the sheet; 0: no sheet")
    own, rest = sys.argv[1:], []
    if "--" in own:
        own, rest = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    data = tyro.cli(TrainConfig, args=rest).data if rest else None
    args.results.mkdir(parents=True, exist_ok=True)
    image = args.results / f"{args.record}.jpg"
    record = record_run(args.folder, data, args.note, args.licence, image, threshold=args.threshold, worst=args.worst)
    write_json(args.results / f"{args.record}.json", record)
    sheet = f" and {image.name} ({image.stat().st_size / 1000:.0f} kB)" if "image" in record else ""
    print(f"AP {record['metrics']['AP']:.3f}; written to {args.record}.json{sheet}")
    print(record["command"])


if __name__ == "__main__":
    main()
