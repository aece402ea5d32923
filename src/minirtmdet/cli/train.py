"""``minirtmdet train``: a preset, and what is changed of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from minirtmdet.cli.loading import checked, fetch, folders_of
from minirtmdet.configs import TrainConfig
from minirtmdet.data.splits import resolve_splits
from minirtmdet.distributed import joined
from minirtmdet.engine.trainer import Trainer
from minirtmdet.evaluation.table import metrics_table
from minirtmdet.files import check_not_read, check_writable
from minirtmdet.presets import AUGMENTS, PRESETS
from minirtmdet.weights.checkpoint import find_checkpoint
from minirtmdet.weights.published import published_size

SUMMARIES = {
    name: f"{preset.data.input_size} px, {preset.epochs} epochs of batches of {preset.batch_size}"
    for name, preset in PRESETS.items()
}
Preset = tyro.extras.subcommand_type_from_defaults(PRESETS, SUMMARIES, prefix_names=False)


def spell_out(args: Sequence[str]) -> list[str]:
    """The words of a command line, with ``--augment NAME`` as the settings that it stands for.

    Settings of their own that come later win, as everywhere.

    Raises:
        ValueError: for a name that there is not.

    >>> spell_out(["--augment", "none", "--augment.flip", "0.5"])[-6:]
    ['--augment.empty-crops', 'keep', '--augment.min-box-size', '1.0', '--augment.flip', '0.5']
    """
    words: list[str] = []
    given = iter(args)
    for word in given:
        option, equals, name = word.partition("=")
        if option != "--augment":
            words.append(word)
            continue
        name = name if equals else next(given, "")
        if name not in AUGMENTS:
            raise ValueError(f"--augment is {name!r}: expected one of {', '.join(AUGMENTS)}")
        for key, value in vars(AUGMENTS[name]).items():
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--augment.{key.replace('_', '-')}", *map(str, values)]
    return words


@checked
def train(config: Annotated[Preset, tyro.conf.arg(name="")]) -> None:  # type: ignore[valid-type]
    """Train a detector, evaluate it, and write weights, numbers and figures into its run's folder.

    Args:
        config: a preset, and what is changed of it.
    """
    assert isinstance(config, TrainConfig)  # which the type made of the presets does not say
    settings: TrainConfig = config
    if settings.weights is not None and (size := published_size(settings.weights)):
        settings = replace(settings, weights=fetch(size))
    run_dir = settings.out / settings.name
    check_writable(run_dir)
    check_not_read([run_dir], _read_by(settings))
    with joined(settings.device) as world:
        trainer = Trainer(settings, world=world)
        trainer.fit()
    if world.is_writer:
        print(
            metrics_table(trainer.metrics, {name: {"AP": value} for name, value in trainer.progress.per_class.items()})
        )


def _read_by(settings: TrainConfig) -> list[Path]:
    """Folders that a training reads from; not that of the embedded scenes, where no run is written."""
    data = settings.data
    folders = [data.root] if data.root is not None else []
    if data.root is not None or (data.train_json and data.val_json):
        folders += folders_of(*resolve_splits(data))
    if data.scenes.backgrounds is not None:
        folders.append(data.scenes.backgrounds)
    # a run that is started anew removes what lies in its folder; one that goes on does not read these weights
    if settings.weights is not None and not settings.resume:
        folders.append(find_checkpoint(settings.weights).parent)
    return folders
