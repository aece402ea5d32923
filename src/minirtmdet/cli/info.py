"""``minirtmdet info``: what a file, a run, a preset or a size is."""

from dataclasses import replace
from pathlib import Path

import tyro

from minirtmdet.cli.train import SUMMARIES
from minirtmdet.configs import INS_MODELS, MODELS
from minirtmdet.detector import RTMDet, build_detector
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.messages import counted
from minirtmdet.presets import PRESETS
from minirtmdet.weights.checkpoint import read_checkpoint
from minirtmdet.weights.describe import count_classes, describe_weights


def info(what: tyro.conf.Positional[str]) -> None:
    """Say what a checkpoint, an exported file, a run, a preset or a model size is.

    Args:
        what: a file, a run's folder, a preset (mini-160), or a size (nano, tiny, s, m, l, x, ins-tiny, … ins-x).
    """
    sizes = MODELS | INS_MODELS
    if what in sizes:
        print(_describe_model(build_detector(what)))
    elif what in PRESETS:
        print(f"{SUMMARIES[what]}\n{_describe_model(build_detector(PRESETS[what].model))}")
    elif not Path(what).exists():
        raise FileNotFoundError(
            f"no file, folder, preset or size {what!r}; presets are {', '.join(PRESETS)}, sizes {', '.join(sizes)}"
        )
    elif what.endswith(".onnx"):
        _print_exported(Path(what))
    else:
        _print_checkpoint(Path(what))


def _print_exported(path: Path) -> None:
    exported = OnnxDetector(path, "cpu").info
    print(f"{path}: {exported.describe()}")
    print(_describe_model(build_detector(exported.model)))
    print(f"input {exported.input}")
    for name, meaning in exported.outputs.items():
        print(f"output {name}: {meaning}")
    print(f"classes: {', '.join(exported.classes)}")


def _print_checkpoint(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    print(f"{checkpoint.path}: {describe_weights(checkpoint.state_dict) or 'no detector that is known here'}")
    if checkpoint.config is not None:
        model = replace(checkpoint.config.model, num_classes=count_classes(checkpoint.state_dict) or 0)
        print(_describe_model(build_detector(model)))
        print(f"run: {checkpoint.config.name}, input {checkpoint.config.data.input_size} px")
    if checkpoint.classes:
        print(f"classes: {', '.join(checkpoint.classes)}")
    if checkpoint.metrics:
        print("  ".join(f"{name} {checkpoint.metrics[name]:.3f}" for name in ("AP", "AP50", "AP75")))


def _describe_model(model: RTMDet) -> str:
    """Parameters of a detector and of its parts."""
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    total = sum(parameter.numel() for parameter in model.parameters())
    inner = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    return f"{total:,} parameters ({inner}), {counted(model.config.num_classes, 'class', 'classes')}"
