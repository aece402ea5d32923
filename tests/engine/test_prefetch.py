from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_sets import write_random_set

from minirtmdet.configs import AugmentConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import Batch, TrainLoader
from minirtmdet.engine.prefetch import prefetch


def test_the_same_batches_in_the_same_order(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 6))
    loader = TrainLoader(dataset, AugmentConfig(), input_size=64, batch_size=2, seed=0, epochs=1)
    moved = list(prefetch(loader.epoch(0), torch.device("cpu")))
    for found, batch in zip(moved, loader.epoch(0), strict=True):
        assert torch.equal(found.images, batch.images)
        assert all(torch.equal(one, two) for one, two in zip(found.ground_truth, batch.ground_truth, strict=True))
        assert found[2:] == batch[2:]
        assert found.images.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_is_asked_for_only_when_it_is_wanted(tmp_path: Path):
    """So that an error in loading names its own step, and a run that is interrupted has skipped nothing."""
    dataset = CocoDataset(*write_random_set(tmp_path, 6))
    loader = TrainLoader(dataset, AugmentConfig(), input_size=64, batch_size=2, seed=0, epochs=1)
    asked = []

    def batches() -> Iterator[Batch]:
        for number, batch in enumerate(loader.epoch(0)):
            asked.append(number)
            yield batch

    stream = prefetch(batches(), torch.device("cpu"))
    assert asked == []
    next(stream)
    assert asked == [0]
    next(stream)
    assert asked == [0, 1]


class Device:
    """Stands for a GPU that does nothing until the host waits for it."""

    def __init__(self) -> None:
        self.steps = self.done = 0

    def make_event(self, blocking: bool = False) -> Any:
        event = SimpleNamespace()

        def record(stream: object) -> None:
            event.step = self.steps

        def synchronize() -> None:
            self.done = event.step

        event.record, event.synchronize = record, synchronize
        return event


def test_the_host_is_at_most_two_steps_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = CocoDataset(*write_random_set(tmp_path, 12))
    loader = TrainLoader(dataset, AugmentConfig(), input_size=64, batch_size=2, seed=0, epochs=1)
    device = Device()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Event", device.make_event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    ahead = []
    for _ in prefetch(loader.epoch(0), torch.device("cuda")):
        device.steps += 1
        ahead.append(device.steps - device.done)
    assert ahead == [1, 2, 2, 2, 2, 2]
