from collections.abc import Iterator
from pathlib import Path

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
