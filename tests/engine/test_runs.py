"""Whether a run may start, what it says, and how it goes on: all that surrounds the steps."""

import math
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers.runs import make_config, quiet
from helpers.tiny_sets import box_entry, image_entry, write_set
from helpers.workers import After, end_group, hand_over_what_cannot_be, start, train_in_group, wait

from minirtmdet import build_detector
from minirtmdet.configs import MODELS, DataConfig, TrainConfig
from minirtmdet.data import memory
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.engine.interrupts import Interrupts
from minirtmdet.engine.runfolder import RunLock
from minirtmdet.engine.trainer import Trainer
from minirtmdet.files import DiskFull, naming_full_disk
from minirtmdet.presets import PRESETS
from minirtmdet.settings import check_settings, flat_settings
from minirtmdet.weights.checkpoint import read_checkpoint


@pytest.fixture
def config(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Three epochs of four steps."""
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)
    return make_config(data, tmp_path)


def change(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    """The settings with one of them changed, by its dotted name."""
    part, _, key = name.rpartition(".")
    if not part:
        return replace(config, **{key: value})
    first, _, rest = name.partition(".")
    return replace(config, **{first: change(getattr(config, first), rest, value)})


# ---- settings

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, "epochs is 0: expected"),
    ({"eval_every": 0}, "eval_every is 0: expected"),
    ({"batch_size": 0}, "batch_size is 0: expected"),
    ({"optim.accumulate": 0}, "optim.accumulate is 0: expected"),
    ({"optim.lr": math.nan}, "optim.lr is nan: expected"),
    ({"optim.lr": math.inf}, "optim.lr is inf: expected"),
    ({"optim.flat_fraction": 1.5}, r"optim.flat_fraction is 1.5: expected"),
    ({"save_minutes": -1.0}, "save_minutes is -1.0: expected"),
    ({"save_minutes": math.nan}, "save_minutes is nan: expected"),
    ({"data.input_size": 100}, "data.input_size is 100: expected"),
    ({"data.input_size": -32}, "data.input_size is -32: expected"),
    ({"data.workers": -1}, "data.workers is -1: expected"),
    ({"seed": -1}, "seed is -1: expected"),
    ({"predict.score_threshold": 2.0}, "predict.score_threshold is 2.0: expected"),
    ({"predict.nms_iou_threshold": math.nan}, "predict.nms_iou_threshold is nan"),
    ({"augment.flip": 1.5}, "augment.flip is 1.5: expected"),
    ({"augment.scale": (2.0, 1.0)}, "augment.scale"),
    ({"augment.mosaic_cache": 4}, "augment.mosaic_cache is 4: expected"),
    ({"model.widen_factor": 0.0}, "model.widen_factor is 0.0: expected"),
    ({"model.pred_kernel_size": 2}, "pred_kernel_size is 2: an even kernel"),
    ({"name": ""}, "name is '': expected the name of a folder"),
    ({"name": ".."}, "name is '..': expected the name of a folder"),
    ({"name": "../other"}, "name is '../other': expected the name of a folder of its own; --out says where"),
    ({"name": "/other"}, "name is '/other': expected the name of a folder"),
    ({"compile": "graph", "optim.accumulate": 2}, "compile is graph and optim.accumulate is 2: a recorded step is one"),
    ({"compile": "graph"}, "compile graph needs a CUDA GPU"),
    ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
    ({"weights": Path("nope.pth")}, r"no checkpoint nope\.pth"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_settings_are_refused_before_anything_is_read_or_written(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
):
    def read(_: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr("minirtmdet.engine.start.resolve_splits", read)
    config = replace(config, out=config.out / "runs")
    for name, value in changes.items():
        config = change(config, name, value)
    with pytest.raises((ValueError, OSError), match=words):
        Trainer(config, say=quiet)
    assert not (config.out).exists()


def test_every_number_has_a_range():
    free = {"assigner.allowed_border"}
    for name, value in flat_settings(TrainConfig()).items():
        numbers = isinstance(value, int | float) and not isinstance(value, bool)
        if numbers and name not in free:
            with pytest.raises(ValueError, match=rf"^{re.escape(name)} is (nan|-9)"):
                check_settings(change(TrainConfig(), name, math.nan if isinstance(value, float) else -9))


# ---- weights to start from


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """What stands for the published tiny: its shapes and its name, and distances of 3 times the stride."""
    torch.manual_seed(7)
    model = build_detector("tiny")
    with torch.no_grad():
        for conv in model.bbox_head.rtm_reg:
            conv.weight.zero_()
            conv.bias.fill_(3)
    path = tmp_path / "rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("preset", ["few-256", "few-320"])
@pytest.mark.parametrize("name", ["rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth", "renamed.pth"])
def test_few_images_start_from_official_weights(config: TrainConfig, tiny: Path, preset: str, name: str):
    path = tiny.rename(tiny.with_name(name))
    assert PRESETS[preset].model.exp_on_reg  # for runs from scratch
    asked = replace(
        PRESETS[preset], weights=path, name="run", out=config.out, batch_size=3, epochs=1, device="cpu", compile="off",
        data=replace(config.data, input_size=64),
    )  # fmt: skip
    lines: list[str] = []
    trainer = Trainer(asked, say=lines.append)
    [line] = [line for line in lines if line.startswith("network: ")]
    assert "exp_on_reg False in place of True" in line
    assert str(path) in line
    assert ("the published tiny by its name" in line) is (name != "renamed.pth")
    assert trainer.model.config == replace(MODELS["tiny"], num_classes=3)
    with torch.no_grad():
        distances = trainer.ema_model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1]
    assert [level.unique().tolist() for level in distances] == [[24.0], [48.0], [96.0]]
    trainer.fit()
    saved = read_checkpoint(trainer.run_dir / "last.pt")
    assert saved.config is not None
    assert saved.config.model == trainer.model.config
    again = Trainer(replace(asked, resume=True, weights=None), say=quiet)  # with the preset's own network
    assert again.model.config == trainer.model.config


def test_elsewhere_only_the_meaning_of_the_weights_is_the_files(config: TrainConfig, tiny: Path):
    asked = replace(config, weights=tiny, model=replace(MODELS["tiny"], exp_on_reg=True, prior_offset=0.5))
    trainer = Trainer(asked, say=quiet)
    assert trainer.model.config == replace(MODELS["tiny"], num_classes=3)
    with pytest.raises(ValueError, match=r"expected widen_factor 0\.5 \(as s\).* found widen_factor 0\.375"):
        Trainer(replace(asked, name="s", model=MODELS["s"]), say=quiet)


# ---- one run at a time


def test_a_second_run_is_refused_while_the_first_lives(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RunLock, "GRACE", 0.1)
    first = Trainer(config, say=quiet)  # has saved nothing yet
    other = FileLock(config.out / ".run.lock")  # what another process would take
    with pytest.raises(Exception, match="lock"):
        other.acquire(timeout=0.1)
    first.fit()
    with other, pytest.raises(BlockingIOError, match=r"run: another process is training there .*--name NAME"):
        Trainer(replace(config, resume=True), say=quiet)
    # two of one process, as when a cell of a notebook is run again, are one run after the other
    held = Trainer(replace(config, overwrite=True), say=quiet)
    Trainer(replace(config, overwrite=True), say=quiet).fit(until_epoch=1)
    assert held.run_dir == config.out / "run"


def test_a_run_that_another_one_changed_meanwhile_is_not_touched(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    load = Trainer._load_data

    def slow(trainer: Trainer, *settings: Any) -> None:
        load(trainer, *settings)
        trainer.run_dir.mkdir()
        (trainer.run_dir / "last.pt").write_text("the other run's")

    monkeypatch.setattr(Trainer, "_load_data", slow)
    with pytest.raises(FileExistsError, match="was changed by another run while this one started"):
        Trainer(config, say=quiet)
    assert (config.out / "run/last.pt").read_text() == "the other run's"


# ---- memory


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """64 MB of shared memory."""
    monkeypatch.setattr(memory, "SHARED", tmp_path)
    monkeypatch.setattr(memory.os, "statvfs", lambda _: SimpleNamespace(f_bavail=2**14, f_frsize=2**12))


@pytest.mark.usefixtures("docker")
@pytest.mark.parametrize(
    ("workers", "batch_size", "size", "words"),
    [
        (10, 32, 640, "67 MB free.* 32 images of 640 px .39 MB. .* 10 loading processes .* 865 MB .*workers to 0"),
        (10, 8, 256, None),  # 22 batches of 1.6 MB
        (4, 8, 640, "98 MB in all: lower data.workers to 2"),
        (2, 8, 640, None),
        (0, 64, 1280, None),
    ],
)
def test_batches_that_shared_memory_does_not_hold_are_refused(
    workers: int, batch_size: int, size: int, words: str | None
):
    if words is None:
        memory.check_shared_memory(workers, batch_size, size)
    else:
        with pytest.raises(ValueError, match=words):
            memory.check_shared_memory(workers, batch_size, size)


@pytest.mark.usefixtures("docker")
def test_it_is_asked_before_loading_processes_start(config: TrainConfig, data: Path):
    asked = replace(config, batch_size=32, data=replace(config.data, input_size=640, workers=10))
    with pytest.raises(ValueError, match=r"/.* free, too little .*lower data\.workers to 0, or batch_size"):
        Trainer(asked, say=quiet)
    assert not (config.out / "run").exists()
    with pytest.raises(ValueError, match="too little"):
        EvalLoader(CocoDataset(data / "val.json", data / "val"), input_size=640, batch_size=32, workers=10)


def test_the_processes_of_a_machine_share_its_memory(docker: None, monkeypatch: pytest.MonkeyPatch):
    memory.check_shared_memory(2, 8, 640)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"118 MB in all: lower data\.workers to 0"):
        memory.check_shared_memory(2, 8, 640)


def test_masks_need_shared_memory_too(docker: None):
    memory.check_shared_memory(2, 8, 640)  # 6 batches of 9.8 MB
    memory.check_shared_memory(2, 8, 640, masks=4)  # 25.6 KB each
    with pytest.raises(ValueError, match=r"\(23 MB\) that 2 loading processes hand over, 138 MB in all"):
        memory.check_shared_memory(2, 8, 640, masks=64)


def test_a_batch_that_cannot_be_handed_over_ends_its_process():
    """Else PyTorch waits for it for ever."""
    assert wait([start(hand_over_what_cannot_be)]) == [1]


# ---- going on


def test_a_request_to_all_processes_saves_the_state(config: TrainConfig):
    """Ctrl-C's cousin: a cluster's SIGTERM goes to the loading processes too, and they end first."""
    config = replace(config, data=replace(config.data, workers=2))
    assert wait([start(partial(train_in_group, before=After(6, end_group)), config)]) == [130]
    assert read_checkpoint(config.out / "run/last.pt").training["step"] == 6  # type: ignore[index]
    assert "stopped after step 6 of 12" in (config.out / "run.0.txt").read_text()


def end_together(interrupts: Interrupts) -> None:
    """A loading process and this one are asked to end, and it is the first to."""
    with interrupts.held():
        signal.raise_signal(signal.SIGCHLD)
        signal.raise_signal(signal.SIGTERM)


def test_the_end_of_another_process_waits_for_the_end_of_a_step():
    seen: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    try:
        interrupts = Interrupts()
        with interrupts:
            with interrupts.held():
                with interrupts.held():
                    signal.raise_signal(signal.SIGCHLD)
                assert seen == []
            assert seen == [signal.SIGCHLD]
            with pytest.raises(KeyboardInterrupt):
                end_together(interrupts)
        assert seen == [signal.SIGCHLD]
        signal.raise_signal(signal.SIGCHLD)
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_finished_run_can_be_prolonged(config: TrainConfig):
    first = Trainer(config, say=quiet)
    first.fit()
    end = first.schedule(first.step - 1)
    lines: list[str] = []
    longer = Trainer(replace(config, epochs=6, resume=True), say=lines.append)
    rate = longer.schedule(longer.step)
    assert rate > end
    assert (
        f"a longer run: 6 epochs in place of 3; it goes on as that run would, with a learning rate of {rate:.2e}"
        in (lines)
    )
    longer.fit()
    assert (longer.epoch, longer.step) == (6, 24)
    whole = Trainer(replace(config, name="whole", epochs=6), say=quiet)
    assert longer.schedule == whole.schedule
    with pytest.raises(ValueError, match=r"a run with epochs 6 \(now 3\).*--epochs may grow"):
        Trainer(replace(config, resume=True), say=quiet)


def test_what_to_do_with_bad_images_may_change(config: TrainConfig, data: Path):
    root = config.out / "data"
    shutil.copytree(data, root)
    config = replace(config, data=DataConfig(root=root, input_size=64))
    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=1)
    for dataset in (trainer.dataset, trainer.val_dataset):
        dataset.load(0).path.unlink()
    config = replace(config, resume=True)
    with pytest.raises(FileNotFoundError, match="bad_images='skip'"):
        Trainer(config, say=quiet)
    lines: list[str] = []
    skipping = replace(config, data=replace(config.data, bad_images="skip"))
    with pytest.warns(UserWarning, match="1 of"), pytest.raises(ValueError, match=r"trained on 12 .* the data has 11"):
        Trainer(skipping, say=quiet)  # three steps an epoch in place of four
    shutil.copytree(data, root, dirs_exist_ok=True)
    trainer.val_dataset.load(0).path.unlink()
    with pytest.warns(UserWarning, match="1 of 3 images left out"):
        resumed = Trainer(skipping, say=lines.append)
    assert len(resumed.val_dataset) == 2
    resumed.fit()


def test_a_run_knows_its_data_from_anywhere(config: TrainConfig, data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(data.parent)
    trainer = Trainer(replace(config, data=DataConfig(root=Path(data.name), input_size=64)), say=quiet)
    assert trainer.config.data.root == data
    trainer.fit(until_epoch=1)
    saved = read_checkpoint(trainer.run_dir / "last.pt").config
    assert saved is not None
    assert saved.data.root == data


def test_boxes_by_class_and_the_time_that_is_left_are_said(config: TrainConfig):
    root = config.out / "data"
    boxes = [box_entry(i, 1, [5, 5, 10, 10], category_id) for i, category_id in enumerate([1, 1, 3], 1)]
    write_set(root, [image_entry(1)], boxes)
    write_set(root, [image_entry(1)], boxes[1:], name="val")
    lines: list[str] = []
    settings = replace(config, batch_size=1, epochs=2, data=DataConfig(root=root, input_size=64))
    Trainer(settings, say=lines.append).fit()
    assert "boxes to learn from + to judge by: cat 2 + 1, dog 0 + 0, hen 1 + 1" in lines
    first, second = (line for line in lines if line.startswith("epoch "))
    assert re.search(r", (\d+ h \d\d min|\d+ min|\d+ s) left$", first)
    assert not second.endswith("left")


def test_only_a_run_is_advised_to_resume(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DiskFull) as error, naming_full_disk(config.out / "predictions.json"):
        raise OSError(28, "No space left on device")
    assert "resume" not in str(error.value)
    trainer = Trainer(config, say=quiet)

    def full() -> None:
        raise DiskFull("a file could not be written")

    monkeypatch.setattr(trainer, "_train_epoch", full)
    with pytest.raises(DiskFull) as error:
        trainer.fit()
    assert str(error.value).endswith("written; nothing was saved yet: start the same command again")
