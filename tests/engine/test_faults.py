import math
import os
import random
import re
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import make_config, quiet, same_state
from helpers.tiny_sets import box_entry, image_entry, write_random_set, write_set
from helpers.workers import (
    After,
    DieIn,
    NanLoss,
    command_whose_loaders_die,
    die,
    start,
    train,
    train_with_small_files,
    wait,
)
from torch import Tensor

from minirtmdet.cli import main
from minirtmdet.configs import AugmentConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader, TrainLoader, epoch_order
from minirtmdet.engine.faults import memory_advice
from minirtmdet.engine.step import Inputs
from minirtmdet.engine.trainer import Trainer
from minirtmdet.files import atomic_path, remove_leftovers
from minirtmdet.weights.checkpoint import read_checkpoint


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainConfig:
    return make_config(data, tmp_path)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    config = make_config(data, tmp_path_factory.mktemp("whole"))
    assert wait([start(train, config)]) == [0]
    return config.out / "run"


# ---- killed


@pytest.mark.parametrize(
    "before",
    [
        After(6, die),
        DieIn(1, "write"),  # the first checkpoint of all
        DieIn(3, "write"),
        DieIn(3, "replace"),
        DieIn(4, "write"),  # best.pt comes before last.pt
        DieIn(4, "replace"),
    ],
    ids=["step", "first", "write", "replace", "best", "best-replace"],
)
def test_killed_and_resumed_it_is_the_same_run(config: TrainConfig, whole: Path, before: Any):
    assert wait([start(partial(train, before=before), config)]) == [-9]
    for path in config.out.glob("run/[!.]*.pt"):
        read_checkpoint(path)  # whole, or it would be an error
    assert wait([start(train, replace(config, resume=True))]) == [0]
    same_state(whole, config.out / "run")
    assert not list(config.out.glob("run/.*"))


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_is_the_same_run(config: TrainConfig, whole: Path):
    moments = random.Random(0)
    # a save after every step, so that most moments are in the middle of one
    config = replace(config, resume=True, save_minutes=1e-9)
    last = config.out / "run/last.pt"
    codes: list[int | None] = []
    while 0 not in codes:
        before = changed(last)
        process = start(train, config)
        while process.is_alive() and changed(last) == before:
            time.sleep(0.002)
        process.join(moments.uniform(0, 0.3))
        process.kill()
        process.join()
        codes.append(process.exitcode)
        assert codes[-1] in (0, -9), (config.out / "run.0.txt").read_text()
        assert read_checkpoint(last).training is not None
    assert codes.count(-9) >= 3
    same_state(whole, config.out / "run")


def changed(path: Path) -> int:
    """When a file was written last."""
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_long_epoch_is_saved_in_its_middle(config: TrainConfig):
    saved: list[int] = []
    trainer = Trainer(replace(config, save_minutes=1e-9), say=quiet)
    save = trainer._save_last

    def save_last() -> None:
        saved.append(trainer.step)
        save()

    trainer._save_last = save_last  # type: ignore[method-assign]
    trainer.fit(until_epoch=1)
    assert saved == [1, 2, 3, 4, 4]


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path):
    for name in (".last.123.pt", ".config.7.json", ".gitignore", ".last.pt", "last.pt", ".notes.md"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".gitignore", ".last.pt", "last.pt", ".notes.md"}


# ---- full disk

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a disk that is full, is Linux's")


@full
@pytest.mark.parametrize(("file", "temporary"), [("last.pt", True), ("log.csv", False)])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(
    config: TrainConfig, whole: Path, file: str, temporary: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Trainer, "_write_results", lambda self: None)
    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=1)
    before = (config.out / "run/last.pt").read_bytes()
    target = config.out / "run" / (f".{file[:-3]}.{os.getpid()}.pt" if temporary else file)
    target.unlink(missing_ok=True)
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="could not be written") as error:
        trainer.fit()
    assert str(error.value).startswith(
        f"{config.out / 'run' / file} could not be written: the disk is full; what it held"
    )
    assert "--resume" in str(error.value)
    if temporary:
        assert (config.out / "run/last.pt").read_bytes() == before
    else:
        target.unlink()
    assert not list(config.out.glob("run/.*"))
    Trainer(replace(config, resume=True), say=quiet).fit()
    same_state(whole, config.out / "run")


def test_a_limit_that_is_met_in_the_middle_of_a_checkpoint(config: TrainConfig, whole: Path):
    assert wait([start(partial(train, until_epoch=1), config)]) == [0]
    before = (config.out / "run/last.pt").read_bytes()
    config = replace(config, resume=True)
    assert wait([start(train_with_small_files, config, len(before) // 2)]) == [2]
    message = (config.out / "run.0.txt").read_text().splitlines()[-1]
    assert message.startswith(f"DiskFull: {config.out / 'run/last.pt'} could not be written: it would be larger than")
    assert (config.out / "run/last.pt").read_bytes() == before
    assert not list(config.out.glob("run/.*"))
    assert wait([start(train, config)]) == [0]
    same_state(whole, config.out / "run")


def test_other_errors_while_writing_stay_what_they_are(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"^something else$"), atomic_path(tmp_path / "a.pt"):
        raise RuntimeError("something else")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.pt"):
        (tmp_path / "nothing").read_bytes()
    assert not list(tmp_path.iterdir())


# ---- images that cannot be read


def make_loader(dataset: CocoDataset, **options: Any) -> TrainLoader:
    return TrainLoader(
        dataset,
        AugmentConfig(mosaic=0.0, mixup=0.0, empty_crops="keep"),
        input_size=64,
        batch_size=4,
        seed=3,
        epochs=2,
        **options,
    )


def break_two(dataset: CocoDataset, epoch: int = 0) -> tuple[Path, Path, int]:
    """Remove the first image of an epoch and cut the second; returns both files, and the index of the first."""
    order = epoch_order(3, epoch, len(dataset), len(dataset))
    missing, broken = (dataset.load(int(index)).path for index in order[:2])
    missing.unlink()
    broken.write_bytes(broken.read_bytes()[:60])
    return missing, broken, int(order[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_takes_the_place_of_one_that_breaks_while_training(tmp_path: Path, workers: int):
    dataset = CocoDataset(*write_random_set(tmp_path, 23), bad_images="skip")
    loader = make_loader(dataset, workers=workers)
    whole = list(loader.epoch(0))
    missing, broken, index = break_two(dataset)
    with pytest.warns(UserWarning, match="left out") as warned:
        batches = list(loader.epoch(0))
    assert [str(warning.message) for warning in warned if "left out" in str(warning.message)] == [
        f"an image is left out: {missing}: there is no such image",
        f"an image is left out: {broken} cannot be decoded: it is cut off, or no image that OpenCV reads",
    ]
    assert sum(loader.left_out.values()) == len(loader.left_out) == 2
    assert [len(batch.paths) for batch in batches] == [4] * 5
    for before, after in zip(whole[1:], batches[1:], strict=True):
        assert torch.equal(before.images, after.images)
    following = (index + k for k in range(1, 23))
    readable = (k % 23 for k in following if dataset._path(k % 23) != broken)
    assert batches[0].paths[0] == str(dataset._path(next(readable)))
    assert batches[0].paths[2:] == whole[0].paths[2:]
    again = list(make_loader(dataset).epoch(0))
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))


def test_it_is_an_error_where_the_setting_says_so(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 23))
    missing, _, _ = break_two(dataset)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{missing}: there is no such image")):
        next(make_loader(dataset).epoch(0))
    shutil.copy(dataset.load(5).path, missing)
    with pytest.raises(ValueError, match=r"is .* pixels|cannot be decoded"):
        next(make_loader(dataset).epoch(0))


def test_no_image_at_all_is_an_error_whatever_the_setting(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 5), bad_images="skip")
    shutil.rmtree(dataset.images)
    with pytest.raises(ValueError, match=r"train: 100 images in a row, or all, cannot be read; .* no such image"):
        next(make_loader(dataset).epoch(0))


def test_evaluation_goes_on_without_it(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 5), bad_images="skip")
    for index in (0, 1, 2):
        dataset.load(index).path.unlink()
    loader = EvalLoader(dataset, input_size=64, batch_size=2)
    with pytest.warns(UserWarning, match="left out"):
        assert [batch.image_ids for batch in loader] == [[4], [5]]
    assert len(loader.left_out) == 3


def test_the_run_names_them_at_the_end_of_the_epoch(config: TrainConfig, data: Path):
    root = config.out / "data"
    shutil.copytree(data, root)
    lines: list[str] = []
    settings = replace(config.data, root=root, bad_images="skip")
    trainer = Trainer(replace(config, data=settings), say=lines.append)
    missing = trainer.dataset.load(3).path
    missing.unlink()
    with pytest.warns(UserWarning, match=re.escape(str(missing))):
        trainer.fit(until_epoch=1)
    [line] = [line for line in lines if "cannot be read" in line]
    assert re.fullmatch(
        rf"images that cannot be read: 1, met \d+ times so far: {re.escape(str(missing))}: there is no such image",
        line,
    )


def test_boxes_without_area_are_left_out_and_the_run_goes_on(config: TrainConfig):
    """The case of the blood cells (bccd): width and height 0 in an image that has good boxes too."""
    root = config.out / "cells"
    boxes = [
        box_entry(1, 1, [181.0, 29.0, 0.0, 0.0], 2),
        box_entry(2, 1, [20, 20, 30, 30]),
        box_entry(3, 2, [9, 9, 20, 20]),
    ]
    images = [image_entry(1, 240, 180), image_entry(2, 240, 180), image_entry(3, 240, 180)]
    for name in ("train", "val"):
        write_set(root, images, boxes, name=name)
    settings = replace(config.data, root=root)
    with pytest.warns(
        UserWarning, match=r"1 of 3 boxes left out: annotation 1, box \[181.0, 29.0, 0.0, 0.0\] of 001.png"
    ):
        trainer = Trainer(replace(config, data=settings, epochs=2), say=quiet)
    trainer._write_results = lambda: None  # type: ignore[method-assign]
    metrics = trainer.fit()
    assert math.isfinite(trainer.history[-1]["loss"])
    assert metrics["AP"] >= 0
    with pytest.raises(ValueError, match=r"annotation 1, box \[181.0, 29.0, 0.0, 0.0\] of 001.png, has no area"):
        Trainer(replace(config, name="raise", data=replace(settings, bad_boxes="raise")), say=quiet)


# ---- numbers that are not finite


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_images_of_a_loss_that_is_not_finite_are_saved(config: TrainConfig, accumulate: int):
    config = replace(config, optim=replace(config.optim, accumulate=accumulate))
    trainer = Trainer(config, say=quiet)
    step = 6 // accumulate  # in the middle of epoch 1
    NanLoss(step)(trainer)
    expected = list(trainer.loader.epoch(1))[accumulate * (step - 1) - 4 :][:accumulate]
    path = config.out / f"run/bad_step{step}.pt"
    with pytest.raises(
        FloatingPointError, match=re.escape(f"as the network saw them in {path}: {expected[0].paths[0]}")
    ):
        trainer.fit()
    saved = torch.load(path, weights_only=True)
    assert (saved["step"], saved["epoch"]) == (step, 1)
    assert len(saved["batches"]) == len(expected) == accumulate
    for batch, content in zip(expected, saved["batches"], strict=True):
        assert content["paths"] == batch.paths
        assert torch.equal(content["images"], batch.images)
        assert torch.equal(content["ground_truth"]["boxes"], batch.ground_truth.boxes)
    assert read_checkpoint(config.out / "run/last.pt").training is not None
    Trainer(replace(config, overwrite=True), say=quiet)
    assert not path.exists()


def test_weights_that_are_not_finite_are_not_saved(config: TrainConfig):
    trainer = Trainer(config, say=quiet)
    trainer.fit(until_epoch=1)
    before = (config.out / "run/last.pt").read_bytes()

    def spoil(trainer: Trainer) -> None:
        if trainer.step == 8:  # the last of the epoch: no later loss shows it
            with torch.no_grad():
                trainer.model.backbone.stem[0].conv.weight[0, 0, 0, 0] = math.inf

    trainer.watchers.append(spoil)
    with pytest.raises(FloatingPointError, match="weights are not finite after step 8, although every loss was"):
        trainer.fit()
    assert (config.out / "run/last.pt").read_bytes() == before


# ---- memory


def test_out_of_memory_names_the_settings_to_lower(config: TrainConfig, monkeypatch: pytest.MonkeyPatch):
    trainer = Trainer(config, say=quiet)
    train_step = trainer.train_step

    def full_step(batches: list[Inputs], lr: float) -> Tensor:
        if trainer.step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return train_step(batches, lr)

    trainer.train_step = full_step  # type: ignore[assignment]
    with pytest.raises(torch.OutOfMemoryError) as error:
        trainer.fit()
    message = str(error.value)
    assert message.startswith(
        "out of memory on cpu in step 6: try a smaller batch_size (now 3; with optim.accumulate (now 1)"
    )
    assert "a smaller data.input_size (now 64)" in message
    assert message.endswith("last.pt is whole: the same command with --resume continues from it")
    assert "--amp bf16 (now auto)" in memory_advice(config, torch.device("cuda"), None, 6)
    assert "--amp" not in memory_advice(config, torch.device("cuda"), torch.bfloat16, 6)


@pytest.mark.parametrize("ours", [True, False])
def test_out_of_memory_is_one_line_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ours: bool
):
    def fail(*_: object, **__: object) -> None:
        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. Of the allocated memory ...")
        if ours:
            raise torch.OutOfMemoryError("try a smaller batch_size (now 3)") from error
        raise error

    monkeypatch.setattr("minirtmdet.cli.train.Trainer", fail)
    assert main(["train", "mini-160"]) == 2
    advice = "try a smaller batch_size (now 3)" if ours else "the GPU has too little memory; try a smaller --batch-size"
    assert capsys.readouterr().err == f"minirtmdet: error: {advice}\n"


def test_a_killed_loading_process_is_one_line_on_the_command_line(config: TrainConfig, data: Path):
    words = ["train", "mini-160", "--device", "cpu", "--data.root", str(data), "--data.input-size", "64"]
    words += ["--data.workers", "2", "--batch-size", "3", "--out", str(config.out), "--model.widen-factor", "0.125"]
    assert wait([start(command_whose_loaders_die, words, config.out)]) == [2]
    lines = (config.out / "0.txt").read_text().splitlines()
    # torch says it in one of two ways
    how = r"is killed by signal: Killed|exited unexpectedly"
    assert re.match(rf"minirtmdet: error: DataLoader worker \(pid\D+\d+\) ({how}): where nobody killed it,", lines[-1])
    assert re.search(
        r"--data\.workers; .*last\.pt is whole: the same command with --resume continues from it$", lines[-1]
    )
    assert not any(line.startswith("Traceback") for line in lines)
