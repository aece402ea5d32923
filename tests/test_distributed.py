import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from helpers.runs import MODEL, same_state
from helpers.tiny_sets import box_entry, image_entry, write_random_set, write_set
from helpers.workers import (
    After,
    NanLoss,
    command,
    die,
    evaluate,
    gradients,
    interrupt,
    let_go_of_the_network,
    start,
    start_together,
    stuck,
    train,
    train_each,
    wait,
)
from torch import Tensor, nn

from minirtmdet import build_detector, distributed
from minirtmdet.configs import AugmentConfig, DataConfig, OptimConfig, TrainConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import epoch_order
from minirtmdet.distributed import ProcessFailed, ProcessLost, World
from minirtmdet.weights.checkpoint import read_checkpoint

PLAIN = AugmentConfig(mosaic=0.0, mixup=0.0, empty_crops="keep")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to train on, five to evaluate on."""
    root = tmp_path_factory.mktemp("data")
    write_random_set(root, 12, masks=True)
    write_random_set(root, 5, name="val", seed=1, masks=True)
    return root


@pytest.fixture
def config(data: Path, tmp_path: Path) -> TrainConfig:
    """Two epochs of three steps, in two processes with two images each."""
    return TrainConfig(
        out=tmp_path,
        model=MODEL,
        data=DataConfig(root=data, input_size=64),
        optim=OptimConfig(lr=2e-3, base_batch=4, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=2,
        batch_size=2,
        eval_every=2,
        device="cpu",
    )


def both(target: Any, *args: Any) -> list[int | None]:
    """Exit codes of two processes that train together."""
    return wait(start_together(2, target, *args))


def said(config: TrainConfig, rank: int = 0) -> str:
    return (config.out / f"{config.name}.{rank}.txt").read_text()


def flat(grads: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, float]]:
    """Gradients with the size that a difference is compared to."""
    for name, grad in grads.items():
        yield name, grad, grad.abs().max().item()


# ---- gradients


@pytest.mark.parametrize(("accumulate", "masks"), [(1, False), (2, False), (1, True)])
def test_gradients_are_those_of_one_process_on_the_joined_batch(config: TrainConfig, accumulate: int, masks: bool):
    model = replace(config.model, masks=masks, exp_on_reg=not masks)
    config = replace(config, model=model, optim=replace(config.optim, accumulate=accumulate))
    assert both(gradients, config, config.out) == [0, 0]
    assert wait([start(gradients, replace(config, batch_size=4), config.out)]) == [0]
    one, first, second = (torch.load(config.out / f"{name}.pt") for name in ("1.0", "2.0", "2.1"))
    for name, grad, size in flat(one["grads"]):
        if masks and "mask_head" in name:
            continue  # as BatchNorm does nothing here, weights of 0.01 let nothing through so many layers
        assert size > 0, name
        assert torch.equal(first["grads"][name], second["grads"][name]), name
        assert (first["grads"][name] - grad).abs().max() <= 1e-5 * size, name
    # after steps of AdamW, which takes the sign of a gradient that is all rounding as large as any
    for name, grad in one["later"].items():
        assert (first["later"][name] - grad).norm() <= 1e-2 * grad.norm(), name
    # the log shows the joined batch too: the mean over processes of what each divides by the mean sum of IoUs
    torch.testing.assert_close(first["losses"], one["losses"], rtol=1e-5, atol=0)
    assert torch.equal(first["losses"], second["losses"])
    assert first["lr"] == one["lr"] == pytest.approx(2e-3 * accumulate)


def test_where_the_iou_sum_is_below_the_number_of_processes_the_clamp_differs(config: TrainConfig, tmp_path: Path):
    """With W processes and a sum of IoUs S, the mean gradient is that of the joined batch times max(S, 1) / max(S, W).

    The original clamps the mean S / W to 1 (reduce_mean, then clamp), so that the joined sum is divided by W * max(S /
    W, 1) = max(S, W), where one process divides by max(S, 1).  With one small box in four images S is below 1, and
    two processes take half the step.
    """
    root = tmp_path / "one box"
    images = [image_entry(i, 64, 64) for i in range(1, 5)]
    write_set(root, images, [box_entry(1, 1, [20, 20, 12, 12])])
    write_set(root, images, name="val")
    config = replace(config, data=replace(config.data, root=root), augment=PLAIN)
    assert both(gradients, config, config.out) == [0, 0]
    assert wait([start(gradients, replace(config, batch_size=4), config.out)]) == [0]
    one, two = (torch.load(config.out / f"{name}.pt") for name in ("1.0", "2.0"))
    for name, grad, size in flat(one["grads"]):
        assert (2 * two["grads"][name] - grad).abs().max() <= 1e-5 * size, name


# ---- training


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run in two processes from start to end."""
    config = TrainConfig(
        name="whole",
        out=tmp_path_factory.mktemp("whole"),
        model=MODEL,
        data=DataConfig(root=data, input_size=64),
        optim=OptimConfig(lr=2e-3, base_batch=8, warmup_iters=1, ema_momentum=0.1, ema_ramp=2),
        epochs=2,
        batch_size=2,
        eval_every=2,
        device="cpu",
    )
    assert both(train, config) == [0, 0], said(config)
    return config


def test_both_processes_end_with_the_same_weights_and_one_writes(whole: TrainConfig):
    first, second = (torch.load(whole.out / f"whole.{rank}.pt") for rank in (0, 1))
    assert first["metrics"] == second["metrics"]
    for part in ("model", "ema"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert said(whole, 1) == ""
    assert "learning rate: 0.001 for 4 images per step of 2 processes together (0.002 for 8)" in said(whole)
    assert "on cpu, 2 processes, fp32, 2 epochs of 3 steps" in said(whole)
    assert len((whole.out / "whole/log.csv").read_text().splitlines()) == 3
    assert read_checkpoint(whole.out / "whole/last.pt").metrics == first["metrics"]
    fresh = build_detector(MODEL)
    assert not torch.equal(first["model"]["bbox_head.rtm_reg.0.weight"], fresh.bbox_head.rtm_reg[0].weight)


def test_one_process_is_interrupted_and_both_stop_and_resume_as_the_same_run(whole: TrainConfig):
    config = replace(whole, name="interrupted")
    assert both(partial(train, before=After(4, interrupt, rank=1)), config) == [130, 130]
    assert "stopped after step 4 of 6" in said(config)
    assert both(train, replace(config, resume=True)) == [0, 0]
    same_state(whole.out / "whole", whole.out / "interrupted")


def test_resumed_in_another_number_of_processes(whole: TrainConfig):
    config = replace(whole, name="fewer")
    assert both(partial(train, until_epoch=1), config) == [0, 0]
    config = replace(config, resume=True)
    assert wait([start(train, config)]) == [2]
    assert "2 processes with 4 images per step, in 3 steps an epoch; now 1 with 2 in 6" in said(config)
    assert "make them the same with --batch-size" in said(config)
    config = replace(config, batch_size=4)
    assert wait([start(train, config)]) == [0]
    assert "1 processes in place of 2: the same images in every step" in said(config)
    last = torch.load(whole.out / "fewer/last.pt", weights_only=True)["training"]
    assert (last["epoch"], last["step"], last["processes"]) == (2, 6, 1)


def test_a_folder_that_differs_between_processes_is_named(config: TrainConfig):
    write_random_set(config.out / "other", 4)
    write_random_set(config.out / "other", 5, name="val", seed=1)
    other = replace(config, data=replace(config.data, root=config.out / "other"))
    assert both(train_each, [config, other]) == [2, 2]
    text = "what a run starts from (images to train and evaluate on, epoch, position, step) has to be the same for all"
    assert text in said(config)
    assert "process 0: (12, 5, 0, 0, 0), process 1: (4, 5, 0, 0, 0)" in said(config)


# ---- evaluation


def test_evaluation_in_two_processes_is_that_of_one(config: TrainConfig):
    assert both(evaluate, config, config.out) == [0, 0]
    assert wait([start(evaluate, config, config.out)]) == [0]
    one, first, second = (torch.load(config.out / f"{name}.pt", weights_only=False) for name in ("1.0", "2.0", "2.1"))
    assert first["image_ids"] == one["image_ids"] == [1, 2, 3, 4, 5]
    assert second["image_ids"] == [2, 4]
    assert first["metrics"] == second["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert first["by_class"] == second["by_class"]
    assert len(first["results"]) == len(one["results"]) > 100
    assert [row["image_id"] for row in first["results"]] == [row["image_id"] for row in one["results"]]
    scores = [torch.tensor([row["score"] for row in found["results"]]) for found in (one, first)]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=0)


def test_the_command_shares_the_images_and_one_process_writes(whole: TrainConfig, tmp_path: Path):
    # one image a forward pass: then neither rounds otherwise
    words = ["eval", str(whole.out / "whole"), "--device", "cpu", "--batch-size", "1", "--out"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    assert wait([start(command, [*words, str(tmp_path / "one/found")], tmp_path / "one")]) == [0]
    assert both(command, [*words, str(tmp_path / "two/found")], tmp_path / "two") == [0, 0]
    assert (tmp_path / "two/1.txt").read_text() == ""
    one, two = ((tmp_path / name / "0.txt").read_text().replace(f"{tmp_path / name}", "") for name in ("one", "two"))
    assert one == two
    assert "5 images of" in one
    assert {path.name for path in (tmp_path / "two/found").iterdir()} == {
        "metrics.json", "detections.json", "precision_recall.png", "worst.png",
        "thresholds.png", "confusion.png", "calibration.png", "mistakes.png",
    }  # fmt: skip
    assert json.loads((tmp_path / "two/found/metrics.json").read_text())["data"]["num_images"] == 5
    results = (tmp_path / "one/found/detections.json").read_text()
    assert (tmp_path / "two/found/detections.json").read_text() == results
    assert {row["image_id"] for row in json.loads(results)} == {1, 2, 3, 4, 5}


def test_a_broken_image_ends_the_command_in_both_processes(whole: TrainConfig, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(whole.data.root, root)  # type: ignore[arg-type]
    broken = root / "val/002.png"  # the second process's
    content = broken.read_bytes()
    middle = len(content) // 2
    # its header and its end are whole: only who decodes it, the process whose image it is, finds the damage
    broken.write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    words = ["eval", str(whole.out / "whole"), "--device", "cpu", "--data.root", str(root)]
    assert both(command, words, tmp_path) == [2, 2]
    assert f"process 1 of 2: {broken} cannot be decoded" in (tmp_path / "1.txt").read_text()
    message = (tmp_path / "0.txt").read_text().splitlines()[-1]
    assert message == (
        "minirtmdet: error: process 1 of 2 failed, and says itself why; the run cannot go on without it. Start it again"
    )


# ---- processes that end


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_with_a_good_checkpoint(whole: TrainConfig, rank: int):
    config = replace(whole, name=f"killed{rank}")
    codes = both(partial(train, before=After(4, die, rank=rank)), config)
    assert codes[rank] == -9
    assert codes[1 - rank] == 2
    message = said(config, 1 - rank).splitlines()[-1]
    assert message.startswith(f"ProcessLost: process {rank} of 2 ended without a word: killed, or ")
    assert message.endswith(
        f"{config.out / config.name / 'last.pt'} is whole: the same command with --resume continues from it"
    )
    assert read_checkpoint(config.out / config.name / "last.pt").training["step"] == 3  # type: ignore[index]
    assert both(train, replace(config, resume=True)) == [0, 0]
    same_state(whole.out / "whole", config.out / config.name)


def test_the_end_of_a_network_does_not_wait_for_the_thread_of_gloo():
    # it holds Python's lock, for which that thread may wait: where it was the last to hold the group, one run in some
    # tens never ended on a busy machine
    assert both(let_go_of_the_network) == [0, 0]


class Stuck(NamedTuple):
    """Two processes, one of which waits as for a GPU."""

    folder: Path
    processes: list[BaseProcess]


@pytest.fixture(scope="module")
def stuck_after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stuck]:
    """One pair for each way in which the other process ends.  They do nothing but wait: so they do it together."""
    found = {}
    for ends in ("killed", "failed", "later"):
        folder = tmp_path_factory.mktemp(ends)
        found[ends] = Stuck(folder, start_together(2, stuck, folder, ends))
    return found


def test_a_process_that_waits_for_its_gpu_ends_soon_after_another_was_killed(stuck_after: dict[str, Stuck]):
    folder, processes = stuck_after["killed"]
    assert wait(processes) == [2, -9]  # at the end of its sleep it would end with 0
    message = (folder / "0.txt").read_text()
    assert message.startswith("minirtmdet: error: process 1 of 2 ended without a word: killed, or")
    assert "--resume" in message


def test_and_after_another_failed(stuck_after: dict[str, Stuck]):
    folder, processes = stuck_after["failed"]
    assert wait(processes)[0] == 2
    message = (folder / "0.txt").read_text()
    assert message.startswith("minirtmdet: error: process 1 of 2 failed, and says itself why")


def test_signs_of_life_keep_two_processes_going_that_are_busy_for_long(stuck_after: dict[str, Stuck]):
    folder, processes = stuck_after["later"]
    assert wait(processes) == [0, 0]
    assert (folder / "0.txt").read_text() == ""


def test_an_error_of_one_process_is_said_by_it(config: TrainConfig, data: Path):
    root = config.out / "data"
    shutil.copytree(data, root)
    config = replace(config, data=replace(config.data, root=root), augment=PLAIN)
    dataset = CocoDataset(root / "train.json", root / "train")
    missing = dataset.load(int(epoch_order(0, 1, 12, 12)[2])).path  # the third of epoch 1: the second process's first
    assert both(partial(train, before=After(3, partial(os.remove, missing), rank=1)), config) == [2, 2]
    assert said(config, 1).startswith(f"ProcessFailed: process 1 of 2: {missing}: there is no such image")
    message = said(config).splitlines()[-1]
    assert message.startswith(
        "ProcessLost: process 1 of 2 failed, and says itself why; the run cannot go on without it."
    )
    assert "--resume" in message


def test_a_loss_that_is_not_finite_in_one_process(config: TrainConfig):
    assert both(partial(train, before=NanLoss(4, rank=1)), config) == [2, 2]
    assert "process 1 of 2: the loss is not finite at step 4 (loss_cls nan" in said(config, 1)
    assert "bad_step4_process1.pt" in said(config, 1)
    assert "FloatingPointError: the loss of another process is not finite at step 4" in said(config)
    assert len(torch.load(config.out / "run/bad_step4_process1.pt", weights_only=True)["batches"]) == 1
    assert read_checkpoint(config.out / "run/last.pt").training["step"] == 3  # type: ignore[index]


@pytest.mark.slow  # torchrun imports the package three times
def test_torchrun(whole: TrainConfig):
    config = replace(whole, name="torchrun")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "minirtmdet", "train"),
        *("mini-160", "--device", "cpu", "--data.root", str(config.data.root), "--data.input-size", "64"),
        *("--out", str(config.out), "--name", "torchrun", "--batch-size", "2"),
        *("--epochs", "200", "--eval-every", "100"),
        *("--model.widen-factor", "0.125", "--model.deepen-factor", "0.1"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    last = config.out / "torchrun/last.pt"
    end = time.monotonic() + 180
    while not last.exists() and time.monotonic() < end:
        time.sleep(0.1)
    if not last.exists():
        process.terminate()
        pytest.fail("no state after three minutes: " + "".join(process.communicate()))
    [second] = [pid for pid in children(process.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(second, signal.SIGKILL)
    out, errors = process.communicate(timeout=180)
    assert process.returncode != 0
    assert out.count("epoch 1/200") == 1
    assert "minirtmdet: error: process 1 of 2 ended without a word: killed, or" in errors
    assert f"{last} is whole: the same command with --resume continues from it" in errors
    assert read_checkpoint(last).training is not None


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


GLOO = "[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:7094: Connection reset by peer"


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    """Where processes leave their last words."""
    monkeypatch.setattr(distributed, "GRACE", 0.2)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return dist.HashStore()


def test_what_all_processes_meet_is_said_once(ends: dist.Store):
    error = ValueError("no such folder")
    assert World(0, 3, 0, ends).explain(error) is error
    with pytest.raises(SystemExit):
        World(1, 3, 1, ends).explain(ValueError("no such folder"))
    other = World(2, 3, 2, ends).explain(ValueError("another thing"))
    assert isinstance(other, ProcessFailed)
    assert str(other) == "process 2 of 3: another thing"


def test_of_those_that_are_left_the_first_says_who_is_gone(ends: dist.Store):
    ends.set("end/1", "null")  # it saw process 0 or 3 go, too
    with pytest.raises(SystemExit):
        World(2, 4, 2, ends).explain(RuntimeError(GLOO))
    error = World(1, 4, 1, ends).explain(RuntimeError(GLOO), "look at last.pt")
    assert isinstance(error, ProcessLost)
    assert str(error).startswith("processes 0, 3 of 4 ended without a word: killed, or")
    assert str(error).endswith("the run cannot go on without it. Look at last.pt")


def test_a_lost_connection_between_processes_that_live_stays_what_it_is(ends: dist.Store):
    ends.set("end/0", "null")
    error = RuntimeError(GLOO)
    assert World(1, 2, 1, ends).explain(error) is error


# ---- one process


def test_alone_nothing_is_exchanged():
    world, values, network = World(), torch.rand(3), nn.Linear(2, 2)
    assert world.is_writer
    assert world.any(True)
    assert not world.any(False)
    assert world.mean(values) is values
    assert world.gather("a") == ["a"]
    assert world.broadcast("a") == "a"
    assert world.wrap(network) is network
    assert world.device(torch.device("cpu")) == torch.device("cpu")
    assert str(world.explain(ValueError("as it was"))) == "as it was"


def test_synchronised_batch_norm_keeps_names_parameters_and_sharing():
    """It cannot run here: what is held is that a checkpoint and the optimiser do not see the difference."""
    model = build_detector(MODEL)
    keys = list(model.state_dict())
    parameters = [id(parameter) for parameter in model.parameters()]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert list(converted.state_dict()) == keys
    assert [id(parameter) for parameter in converted.parameters()] == parameters
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())


def test_processes_without_a_gpu_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"process 1 of 2 has no GPU of its own, this machine has 1: .*--nproc-per-node"
    ):
        World(1, 2, 1).device(torch.device("cuda"))
    with pytest.raises(ValueError, match="without torchrun"):
        World(0, 2, 0).device(torch.device("mps"))
