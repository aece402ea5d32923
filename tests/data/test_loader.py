import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_sets import box_entry, image_entry, write_random_set, write_set

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.augment import PAD_VALUE
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import STUCK, EvalLoader, TrainLoader, _Answer, epoch_order
from minirtmdet.engine.interrupts import Interrupts


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return CocoDataset(*write_random_set(tmp_path_factory.mktemp("set"), 23))


def make_loader(dataset, batch_size=4, seed=3, augment=None, epochs=300, **options):
    augment = augment or AugmentConfig(empty_crops="keep")
    return TrainLoader(dataset, augment, input_size=64, batch_size=batch_size, seed=seed, epochs=epochs, **options)


def contents(batch):
    """Every byte of a batch."""
    tensors = [batch.images, *batch.ground_truth]
    return [tensor.numpy().tobytes() for tensor in tensors], tuple(map(tuple, batch[2:]))


def epoch_contents(loader, epoch=0, start=0):
    return [contents(batch) for batch in loader.epoch(epoch, start)]


# ---- the order


def test_an_epoch_is_a_permutation_and_each_epoch_another():
    first, second = epoch_order(0, 0, 50, 50), epoch_order(0, 1, 50, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist() != epoch_order(1, 1, 50, 50).tolist()
    assert not first.flags.writeable
    # the same on every platform and in every version, or a resumed run would go on with other images
    assert epoch_order(7, 2, 10, 10).tolist() == [6, 3, 1, 7, 0, 9, 5, 2, 4, 8]


def test_the_last_images_that_fill_no_batch_are_left_out(dataset):
    loader = make_loader(dataset)
    assert len(loader) == 5  # 23 images
    ids = [image_id for batch in loader.epoch(0) for image_id in batch.image_ids]
    assert len(ids) == len(set(ids)) == 20
    order = epoch_order(3, 0, 23, 23)
    assert ids == [dataset.image_ids[i] for i in order[:20]]


def test_a_set_smaller_than_a_batch_is_repeated(dataset):
    loader = make_loader(dataset, batch_size=60)
    assert len(loader) == 1
    (batch,) = loader.epoch(0)
    counts = np.unique(batch.image_ids, return_counts=True)[1]
    assert len(batch.image_ids) == 60
    assert len(counts) == 23
    assert set(counts.tolist()) == {2, 3}
    # repeated, but changed anew
    assert batch.image_ids[0] == batch.image_ids[23]
    assert not torch.equal(batch.images[0], batch.images[23])


def test_ranks_share_the_steps_of_one_process(dataset):
    alone = list(make_loader(dataset, batch_size=6).epoch(1))
    ranks = [list(make_loader(dataset, batch_size=2, rank=rank, world_size=3).epoch(1)) for rank in range(3)]
    assert len(alone) == 3
    for step, batch in enumerate(alone):
        parts = [rank[step] for rank in ranks]
        assert batch.image_ids == [image_id for part in parts for image_id in part.image_ids]
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))


# ---- the same batches, whatever makes them


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_tail_of_the_whole(dataset, workers):
    whole = epoch_contents(make_loader(dataset), 4)
    loader = make_loader(dataset, workers=workers)
    assert epoch_contents(loader, 4, start=3) == whole[3:]
    assert epoch_contents(loader, 4, start=5) == []
    # an epoch that was left in the middle does not disturb the next one
    assert [contents(batch) for batch in islice(loader.epoch(4), 2)] == whole[:2]
    assert epoch_contents(loader, 4, start=2) == whole[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_belongs_to_the_stage_of_its_epoch(dataset, workers):
    settings = AugmentConfig(empty_crops="keep", stage2_epochs=2)
    both = make_loader(dataset, augment=settings, epochs=10, workers=workers)
    assert both.stage2_start == 8
    mixed = make_loader(dataset, augment=replace(settings, stage2_epochs=0), epochs=10)
    plain = make_loader(dataset, augment=replace(settings, mosaic=0.0, mixup=0.0), epochs=10)
    expected = {epoch: epoch_contents(mixed if epoch < 8 else plain, epoch) for epoch in (7, 8, 9)}
    for epoch in (7, 8, 9, 7, 8):  # forth and back: what workers kept or prepared does not matter
        assert epoch_contents(both, epoch) == expected[epoch]
    # left in the middle of the last epoch of one stage, gone on in the other, at any step
    assert [contents(batch) for batch in islice(both.epoch(7), 3)] == expected[7][:3]
    for start in range(6):
        for epoch in (8, 7):
            assert epoch_contents(both, epoch, start) == expected[epoch][start:]


def test_epochs_and_seeds_differ(dataset):
    first = epoch_contents(make_loader(dataset))
    assert first != epoch_contents(make_loader(dataset), 1)
    assert first != epoch_contents(make_loader(dataset, seed=4))


def test_the_global_generators_are_neither_read_nor_moved(dataset):
    first = epoch_contents(make_loader(dataset))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    state = torch.get_rng_state()
    assert epoch_contents(make_loader(dataset)) == first
    assert torch.equal(torch.get_rng_state(), state)


# ---- worker processes, however they start


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request):
    """Processes start in this way meanwhile: fork, spawn (macOS, Windows) or forkserver (Linux from Python 3.14 on)."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def children():
    """This process's workers that live."""
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.usefixtures("start_method")
def test_workers_change_nothing_and_are_kept_over_epochs(dataset):
    here, workers, before = make_loader(dataset), make_loader(dataset, workers=1), children()
    assert epoch_contents(here, 0) == epoch_contents(workers, 0)
    first = children() - before
    assert len(first) == 1
    assert epoch_contents(here, 1) == epoch_contents(workers, 1)
    assert children() - before == first
    workers.close()
    assert children() == before
    assert epoch_contents(here, 1, start=3) == epoch_contents(workers, 1, start=3)
    workers.close()


def test_one_that_is_not_open_can_be_closed(dataset):
    for workers in (0, 1):
        make_loader(dataset, workers=workers).close()


def test_an_epoch_that_is_held_by_a_traceback_does_not_keep_workers(dataset):
    loader, before = make_loader(dataset, workers=2), children()
    batches = loader.epoch(0)
    next(batches)
    assert len(children() - before) == 2
    loader.close()
    assert children() == before
    batches.close()


class CountsThreads(CocoDataset):
    def load(self, index):
        return replace(super().load(index), image_id=100 * cv2.getNumThreads() + torch.get_num_threads())


@pytest.mark.usefixtures("start_method")
def test_a_worker_takes_one_thread_and_ends_with_the_evaluation(tmp_path):
    loader = EvalLoader(CountsThreads(*write_set(tmp_path)), input_size=64, batch_size=1, workers=1)
    before = children()
    (batch,) = loader
    assert batch.image_ids == [101]
    assert children() == before


@pytest.mark.usefixtures("start_method")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")
def test_signals_reach_workers_that_start_while_the_main_process_defers_them(dataset):
    loader, before, interrupts = make_loader(dataset, workers=1), children(), Interrupts()
    with interrupts, interrupts.held():
        for start in (0, 2):
            next(loader.epoch(0, start))
            (worker,) = (process for process in multiprocessing.active_children() if process.pid not in before)
            # Ctrl-C goes to all processes of a terminal, and the main one may want batches still
            send(signal.SIGINT, worker.pid)
            worker.join(0.5)
            assert worker.is_alive()
        assert len(epoch_contents(loader, 1)) == len(loader)
        send(signal.SIGTERM, worker.pid)
        worker.join(20)
        # an end by a signal would be an error of torch's in the main process, wherever that is
        assert worker.exitcode == 0
    loader.close()
    assert not interrupts.came


class Deadly(CocoDataset):
    def load(self, index):
        if index:
            os._exit(9)  # as the kernel ends a process that takes too much memory: no word, no batch
        return super().load(index)


@pytest.mark.usefixtures("start_method")
def test_the_death_of_a_worker_is_noticed_long_before_one_that_is_stuck(tmp_path, monkeypatch):
    monkeypatch.setattr("minirtmdet.data.loader.LOOK", 0.5)
    loader = EvalLoader(Deadly(*write_random_set(tmp_path, 2)), input_size=64, batch_size=1, workers=1)
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        list(loader)
    assert time.monotonic() - begin < STUCK / 10


def send(number, pid):
    """A signal from a process that is not the worker's parent."""
    subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)


@pytest.mark.parametrize("pin", [False, True])
def test_memory_is_pinned_for_a_gpu_alone(dataset, monkeypatch, pin):
    # where there is a GPU, torch pins whatever the device of the run is, and makes a CUDA context for it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loaders = make_loader(dataset, pin_memory=pin), EvalLoader(dataset, input_size=64, batch_size=4, pin_memory=pin)
    assert [loader._loader.pin_memory for loader in loaders] == [pin, pin]
    assert not make_loader(dataset)._loader.pin_memory


# ---- what is in a batch


def test_a_batch_by_its_fields(dataset):
    batch = next(make_loader(dataset, batch_size=5).epoch(0))
    assert (batch.images.shape, batch.images.dtype) == ((5, 3, 64, 64), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    gt = batch.ground_truth
    assert gt.boxes.shape == (*gt.mask.shape, 4)
    assert gt.mask.any()
    assert (gt.boxes[gt.mask | gt.ignore] <= 64).all()
    assert not (gt.mask & gt.ignore).any()
    assert [f"{image_id:03}.png" for image_id in batch.image_ids] == [path.rsplit("/", 1)[1] for path in batch.paths]
    for image, (height, width) in zip(batch.images, batch.img_shapes, strict=True):
        assert (image[:, height:] == PAD_VALUE).all()
        assert (image[:, :, width:] == PAD_VALUE).all()


def test_pixels_and_boxes_are_bgr_and_in_place(tmp_path):
    json_file, folder = write_set(tmp_path, [image_entry(1, 64, 64)], [box_entry(1, 1, [16, 8, 24, 40], 2)])
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[8:48, 16:40] = (250, 100, 0)
    cv2.imwrite(str(folder / "001.png"), pixels)
    still = AugmentConfig(mosaic=0.0, mixup=0.0, scale=(1.0, 1.0), hsv=(0, 0, 0), flip=0.0)
    (batch,) = make_loader(CocoDataset(json_file, folder), 1, augment=still).epoch(0)
    assert batch.ground_truth.boxes[0, 0].tolist() == [16, 8, 40, 48]
    assert batch.ground_truth.labels[0, 0] == 1
    inside = batch.images[0, :, 8:48, 16:40].float().mean((1, 2))
    assert inside.tolist() == pytest.approx([250, 100, 0], abs=2)  # HSV and back costs a level
    assert batch.images[0].sum() == pytest.approx(40 * 24 * 350, rel=0.01)


def test_ignore_regions_arrive_as_such(tmp_path):
    annotations = [box_entry(1, 1, [2, 2, 30, 20]), box_entry(2, 1, [0, 0, 40, 30], iscrowd=1)]
    dataset = CocoDataset(*write_set(tmp_path, annotations=annotations))
    (batch,) = EvalLoader(dataset, input_size=80, batch_size=1)
    assert batch.ground_truth.mask[0, :3].tolist() == [True, False, False]
    assert batch.ground_truth.ignore[0, :3].tolist() == [False, True, False]
    assert batch.ground_truth.boxes[0, :2].tolist() == [[4, 4, 64, 44], [0, 0, 80, 60]]


def test_a_batch_without_any_box(tmp_path):
    dataset = CocoDataset(*write_set(tmp_path, [image_entry(1), image_entry(2)]))
    (batch,) = make_loader(dataset, batch_size=2).epoch(0)
    assert not batch.ground_truth.mask.any()
    assert batch.ground_truth.boxes.shape[::2] == (2, 4)


def test_pinning_reaches_every_tensor_and_nothing_else(dataset, monkeypatch):
    # page-locked memory needs a GPU; the copy is enough to see what is reached
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    batch = next(make_loader(dataset).epoch(0))
    again = _Answer(batch).pin_memory().batch
    assert len(pinned) == 6
    assert contents(again) == contents(batch)
    assert type(again.img_shapes[0]) is type(again.scale_factors[0]) is tuple
    assert again.images.is_contiguous(memory_format=torch.channels_last)


def test_moving_reaches_every_tensor_and_nothing_else(dataset):
    batch = next(make_loader(dataset).epoch(0))
    plain = batch._replace(images=batch.images.contiguous())
    here, there = plain.to(torch.device("cpu")), plain.to(torch.device("meta"))
    assert contents(here) == contents(batch)
    assert here.images.is_contiguous(memory_format=torch.channels_last)
    assert all(tensor.is_meta for tensor in (there.images, *there.ground_truth))
    assert there[2:] == batch[2:]


# ---- evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(dataset, workers):
    loader = EvalLoader(dataset, input_size=64, batch_size=5, workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == 5
        assert [len(batch.image_ids) for batch in batches] == [5, 5, 5, 5, 3]
        assert [i for batch in batches for i in batch.image_ids] == list(dataset.image_ids)


def test_evaluation_brings_boxes_back_to_the_file(dataset):
    boxes = {dataset.image_ids[i]: dataset.load(i).boxes for i in range(len(dataset))}
    for batch in EvalLoader(dataset, input_size=96, batch_size=4):
        for i, image_id in enumerate(batch.image_ids):
            gt = batch.ground_truth
            found = gt.boxes[i][gt.mask[i] | gt.ignore[i]].numpy()
            np.testing.assert_allclose(found / np.tile(batch.scale_factors[i], 2), boxes[image_id], rtol=1e-5)
            assert max(batch.img_shapes[i]) == 96


def test_evaluation_ranks_share_the_images(dataset):
    ranks = [EvalLoader(dataset, input_size=64, batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    ids = [[i for batch in loader for i in batch.image_ids] for loader in ranks]
    assert [len(part) for part in ids] == [8, 8, 7]
    assert sorted(image_id for part in ids for image_id in part) == list(dataset.image_ids)


def test_a_rank_without_images(tmp_path):
    dataset = CocoDataset(*write_set(tmp_path))
    assert list(EvalLoader(dataset, input_size=64, batch_size=4, rank=1, world_size=2)) == []


# ---- errors


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_the_same_error_from_any_process(tmp_path, workers):
    json_file, folder = write_random_set(tmp_path, 4)
    dataset = CocoDataset(json_file, folder)
    (folder / "003.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^\S*003\.png is empty \(0 bytes\), not an image$"):
        list(make_loader(dataset, workers=workers).epoch(0))
    (folder / "003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^\S*003\.png: there is no such image$"):
        list(EvalLoader(dataset, input_size=64, batch_size=2, workers=workers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"rank": 2, "world_size": 2}, r"rank is 2: expected 0\.\.1"),
    ],
)
def test_settings_that_make_no_sense_are_named(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(dataset, **options)
    with pytest.raises(ValueError, match=message):
        EvalLoader(dataset, input_size=64, **{"batch_size": 1, **options})


def test_steps_that_an_epoch_does_not_have(dataset):
    with pytest.raises(ValueError, match="there is no step 6 in epoch 0: an epoch has 5 steps"):
        make_loader(dataset).epoch(0, start=6)
    with pytest.raises(ValueError, match="epoch -1"):
        make_loader(dataset).epoch(-1)


HANG_UP = """
import os, socket, sys
from multiprocessing import resource_sharer
from minirtmdet.data.workers import start_worker
start_worker(0)
resource_sharer.DupFd(os.dup(0))
for _ in range(3):
    with socket.socket(socket.AF_UNIX) as main_process:
        main_process.connect(resource_sharer._resource_sharer._address)
        main_process.recv(4)  # the thread has answered, and is done with who came before
sys.excepthook(ValueError, ValueError("something else"), None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere tensors travel by files, and no thread hands them over")
def test_a_main_process_that_hangs_up_is_no_traceback_of_its_workers():
    done = subprocess.run([sys.executable, "-c", HANG_UP], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stderr == "ValueError: something else\n"
