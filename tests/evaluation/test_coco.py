import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_sets import box_entry, image_entry, three_images, write_json, write_random_set, write_set

from minirtmdet.configs import ModelConfig, PredictConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.detector import RTMDet
from minirtmdet.distributed import World
from minirtmdet.evaluation.coco import (
    METRICS,
    CocoNumbers,
    coco_metrics,
    coco_results,
    evaluate,
    evaluate_images,
    run_evaluation,
)
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.evaluation.matching import match_images
from minirtmdet.evaluation.table import metrics_table
from minirtmdet.structures import Detections


def random_case(root: Path, seed: int, images: int = 12) -> tuple[Path, list[dict[str, Any]]]:
    """Annotations of all sizes with crowds and a class without boxes; detections near them, doubled, and noise."""
    rng = np.random.default_rng(seed)
    entries = [image_entry(image_id, 400, 400) for image_id in range(1, images + 1)]
    annotations, results = [], []
    for entry in entries:
        for _ in range(rng.integers(0, 7)):
            size = rng.choice([12.0, 50.0, 150.0]) * (0.5 + rng.random(2))
            box = np.concatenate([rng.random(2) * (400 - size), size])
            category = int(rng.choice([3, 7, 20]))
            crowd = int(rng.random() < 0.15)
            annotations.append(box_entry(len(annotations) + 1, entry["id"], box.tolist(), category, iscrowd=crowd))
            for _ in range(rng.integers(0, 3)):
                near = (box + rng.normal(size=4) * 0.1 * size.mean()).clip(1)
                wrong = int(rng.choice([3, 7, 20, 41])) if rng.random() < 0.2 else category
                score = float(np.round(rng.random(), 2))  # equal scores too
                results.append({"image_id": entry["id"], "category_id": wrong, "bbox": near.tolist(), "score": score})
    categories = [{"id": number, "name": str(number)} for number in (3, 7, 20, 41)]
    return write_json(root / f"{seed}.json", entries, annotations, categories), results


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]):
    reason = "pycocotools, the reference, is an extra for the tests: pip install pycocotools"
    coco = pytest.importorskip("pycocotools.coco", reason=reason)
    cocoeval = pytest.importorskip("pycocotools.cocoeval", reason=reason)
    json_file, results = random_case(tmp_path, seed)
    metrics, per_class, precision = coco_metrics(read_ground_truth(json_file), results, (3, 7, 41, 20))
    truth = coco.COCO(str(json_file))
    theirs = cocoeval.COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert [metrics[name] for name in METRICS] == pytest.approx(theirs.stats.tolist(), abs=1e-12)
    columns = [0, 1, 3, 2]  # theirs go by the ids
    np.testing.assert_allclose(precision, theirs.eval["precision"][:, :, columns, 0, -1], rtol=0, atol=1e-12)
    parts = {"AP": (slice(None), 0), "AP50": (0, 0), "AP75": (5, 0)}
    parts |= {"APs": (slice(None), 1), "APm": (slice(None), 2), "APl": (slice(None), 3)}
    for label, column in enumerate(columns):
        of_class = theirs.eval["precision"][:, :, column, :, -1]
        expected = {name: of_class[iou, :, size] for name, (iou, size) in parts.items()}
        expected["AR100"] = theirs.eval["recall"][:, column, 0, -1]
        means = {name: v[v > -1].mean() if (v > -1).any() else -1.0 for name, v in expected.items()}
        assert per_class[label] == pytest.approx(means, abs=1e-12)
    assert 0 < metrics["AP"] < 1
    assert per_class[2]["AP"] == -1  # nothing is annotated with 41


def one_box(**more: Any) -> dict[str, Any]:
    return {
        "images": [image_entry(1, 100, 100), image_entry(2, 100, 100)],
        "annotations": [box_entry(1, 1, [10.0, 10.0, 40.0, 40.0], **more)],
        "categories": [{"id": 1, "name": "cat"}],
    }


def test_by_hand():
    found = {"image_id": 1, "category_id": 1, "score": 0.5}
    exact = coco_metrics(one_box(), [{**found, "bbox": [10.0, 10.0, 40.0, 40.0]}], (1,))[0]
    assert exact["AP"] == exact["AR1"] == exact["APm"] == 1.0
    assert exact["APs"] == exact["APl"] == -1.0
    # IoU 0.72: right at the thresholds 0.50, 0.55, ... 0.70, five of ten
    shifted = coco_metrics(one_box(), [{**found, "bbox": [10.0, 10.0, 40.0, 28.8]}], (1,))[0]
    assert (shifted["AP50"], shifted["AP75"]) == (1.0, 0.0)
    assert shifted["AP"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([1], {"AP": 1.0, "AP50": 1.0, "APm": 1.0, "AR1": 1.0, "AR100": 1.0}),
        # half of what is found is right, at every recall
        ([2], {"AP": 0.5, "AP75": 0.5, "AR1": 0.0, "AR10": 1.0}),
        ([3], {"AP": 0.0, "AR100": 0.0}),
        # precision 1 up to recall 1/2: 51 of 101 points
        ([1, 3], {"AP": 51 / 101, "AR100": 0.5}),
        # false, right, right: the best precision from recall 0 to 2/3 is 2/3: 67 of 101 points
        ([1, 2, 3], {"AP": 67 / 101 * 2 / 3, "AP50": 67 / 101 * 2 / 3, "AR1": 1 / 3, "AR100": 2 / 3}),
    ],
)
def test_found_false_and_missed(images: list[int], expected: dict[str, float]):
    truth, results = three_images()
    results = [row for row in results if row["image_id"] in images]
    metrics, per_class, precision = coco_metrics(truth, results, (1,), images)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert per_class[0]["AP"] == pytest.approx(precision.mean()) == pytest.approx(expected["AP"])


def test_nothing_detected_and_nothing_annotated():
    metrics, per_class, precision = coco_metrics(one_box(), [], (1,))
    assert (metrics["AP"], metrics["APm"], metrics["APs"], per_class[0]["AP"]) == (0.0, 0.0, -1.0, 0.0)
    assert not precision.any()
    empty = {**one_box(), "annotations": []}
    metrics, per_class, precision = coco_metrics(empty, [], (1,))
    assert {*metrics.values(), *per_class[0].values(), *precision.flat} == {-1.0}


def test_a_crowd_is_neither_missed_nor_wrong():
    ground_truth = one_box(iscrowd=1)
    inside = {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [12.0, 12.0, 10.0, 10.0]}
    assert coco_metrics(ground_truth, [inside], (1,))[0]["AP"] == -1.0
    ground_truth["annotations"].append(box_entry(2, 2, [10.0, 10.0, 40.0, 40.0]))
    right = {"image_id": 2, "category_id": 1, "score": 0.5, "bbox": [10.0, 10.0, 40.0, 40.0]}
    assert coco_metrics(ground_truth, [inside, right], (1,))[0]["AP"] == 1.0


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_ignore_means_what_iscrowd_means(key: str):
    """By pycocotools, which knows ``iscrowd`` alone; ``ignore`` was a miss, of AP 51 / 101."""
    truth = one_box()
    truth["annotations"].append(box_entry(2, 2, [10.0, 10.0, 40.0, 40.0], **{key: 1}))
    found = {"category_id": 1, "score": 0.9}
    right = {**found, "image_id": 1, "bbox": [10.0, 10.0, 40.0, 40.0]}
    inside = [{**found, "image_id": 2, "bbox": [x, 12.0, 10.0, 10.0], "score": 0.95} for x in (12.0, 30.0)]
    for results in ([right], [*inside, right]):
        metrics = coco_metrics(truth, results, (1,)).metrics
        assert (metrics["AP"], metrics["AR100"]) == (1.0, 1.0)
        matches = match_images(truth, results, (1,), [1, 2])
        assert [(i, m.missed, m.false, m.f1) for i, m in matches.items()] == [(1, 0, 0, 1.0), (2, 0, 0, 1.0)]
        assert len(matches[2].boxes) == len(matches[2].detections.boxes) == 0
    # a region of another class excuses nothing
    truth["annotations"][1]["category_id"] = 7
    assert match_images(truth, inside, (1, 7), [2])[2].false == 2
    assert coco_metrics(truth, [*inside, right], (1, 7)).metrics["AP"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("shift", [2**40, 2**53, 2**60, 2**100, -(2**60)])
def test_ids_of_any_size_give_the_same_numbers(tmp_path: Path, shift: int):
    json_file, results = random_case(tmp_path, 0)
    truth = read_ground_truth(json_file)
    categories = (3, 7, 41, 20)
    expected = coco_metrics(truth, results, categories, range(1, 11))
    matches = match_images(truth, results, categories, range(1, 11))
    keys = ("image_id", "category_id")
    for entry in [*truth["annotations"], *results]:
        entry.update({key: entry[key] + shift for key in keys})
    for entry in [*truth["images"], *truth["categories"]]:
        entry["id"] += shift
    shifted = tuple(category + shift for category in categories)
    images = [image_id + shift for image_id in range(1, 11)]
    json_file.write_text(json.dumps(truth))
    found = coco_metrics(read_ground_truth(json_file), results, shifted, images)
    assert found.metrics == expected.metrics
    assert found.per_class == expected.per_class
    assert (found.precision == expected.precision).all()
    again = match_images(truth, results, shifted, images)
    assert [(i - shift, m.f1) for i, m in again.items()] == [(i, m.f1) for i, m in matches.items()]


def test_ids_as_text_meet_their_results():
    truth = one_box()
    for entry in (*truth["images"], *truth["categories"]):
        entry["id"] = str(entry["id"])
    found = {"image_id": "1", "category_id": "1", "score": 0.5, "bbox": [10.0, 10.0, 40.0, 40.0]}
    assert coco_metrics(truth, [found], (1,)).metrics["AP"] == 1.0
    assert match_images(truth, [found], (1,), [1])[1].f1 == 1.0


def test_images_without_boxes_have_no_numbers_and_say_so(tmp_path: Path):
    dataset = CocoDataset(*write_set(tmp_path))
    loader = EvalLoader(dataset, input_size=64, batch_size=1)
    evaluation = run_evaluation(Oracle(dataset), loader, dataset, progress=False)
    assert not evaluation.judged
    assert "no numbers: in these images no box is annotated that counts" in metrics_table(
        evaluation.metrics, evaluation.by_class
    )
    metrics = coco_metrics(one_box(), [], (1,)).metrics
    assert "no numbers" not in metrics_table(metrics, {})


def test_ground_truth_is_made_ready(tmp_path: Path):
    annotations = [box_entry(0, 1, [1.0, 2.0, 3.0, 4.0]), box_entry(1, 1, [None, 1.0, 2.0, 3.0])]
    for key in ("area", "iscrowd"):
        del annotations[0][key]
    path = write_json(tmp_path / "a.json", [image_entry(1)], annotations, [{"id": 1, "name": "cat"}])
    (entry,) = read_ground_truth(path)["annotations"]
    assert (entry["id"], entry["area"], entry["iscrowd"]) == (1, 12.0, 0)


def test_results_have_the_jsons_own_ids_and_plain_numbers():
    boxes = torch.tensor([[1.5, 2.0, 4.0, 6.0], [0.0, 0.0, 1.0, 1.0]])
    rows = coco_results(Detections(boxes, torch.tensor([0.75, 0.5]), torch.tensor([1, 0])), 42, (5, 9))
    assert rows[0] == {"image_id": 42, "category_id": 9, "bbox": [1.5, 2.0, 2.5, 4.0], "score": 0.75}
    assert rows[1]["category_id"] == 5
    assert json.loads(json.dumps(rows)) == rows


class Oracle(RTMDet):
    """Finds every box of its data set, in pixels of the file."""

    def __init__(self, dataset: CocoDataset):
        super().__init__(ModelConfig(0.1, 0.125, 1, num_classes=3))
        self.samples = [dataset.load(i) for i in range(len(dataset))]
        self.seen = 0

    def predict(self, images, config, img_shapes, scale_factors):
        samples = self.samples[self.seen : self.seen + len(images)]
        for sample, scale, shape in zip(samples, scale_factors, img_shapes, strict=True):
            assert shape == (round(sample.img_shape[0] * scale[1]), round(sample.img_shape[1] * scale[0]))
        self.seen += len(images)
        return [
            Detections(torch.from_numpy(s.boxes), torch.ones(len(s.boxes)), torch.from_numpy(s.labels)) for s in samples
        ]


def test_a_perfect_detector_has_ap_1_by_name_not_by_order(tmp_path: Path):
    dataset = CocoDataset(*write_random_set(tmp_path, 7), categories=["hen", "cat", "dog"])
    loader = EvalLoader(dataset, input_size=64, batch_size=3)
    evaluation = run_evaluation(Oracle(dataset), loader, dataset, progress=False)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert tuple(evaluation.per_class) == ("hen", "cat", "dog")
    assert tuple(evaluate(Oracle(dataset), loader, dataset, progress=False)) == tuple(METRICS)


def test_only_the_images_of_the_loader_count(tmp_path: Path):
    images = [image_entry(image_id) for image_id in (1, 2)]
    annotations = [box_entry(image_id, image_id, [5.0, 5.0, 20.0, 20.0]) for image_id in (1, 2)]
    json_file, folder = write_set(tmp_path, images, annotations)
    (folder / "002.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="1 of 2 images left out"):
        dataset = CocoDataset(json_file, folder, bad_images="skip")
    loader = EvalLoader(dataset, input_size=64, batch_size=1)
    metrics = evaluate(Oracle(dataset), loader, dataset, PredictConfig(), progress=False)
    assert metrics["AP"] == pytest.approx(1.0)


@pytest.fixture
def finder(tmp_path: Path) -> tuple[CocoDataset, Any]:
    """Seven images, and a function that finds in an image what is annotated, and something more."""
    dataset = CocoDataset(*write_random_set(tmp_path, 7), bad_images="skip")
    samples = {dataset.load(i).image.tobytes(): dataset.load(i) for i in range(7)}

    def find(image: np.ndarray) -> Detections:
        sample = samples[image.tobytes()]
        boxes = torch.from_numpy(sample.boxes)
        boxes = torch.cat([boxes, torch.tensor([[1.0, 2.0, 9.0, 9.0]])])
        scores = torch.linspace(0.9, 0.1, len(boxes))
        return Detections(boxes, scores, torch.cat([torch.from_numpy(sample.labels), torch.tensor([0])]))

    return dataset, find


def test_whole_images_have_the_numbers_of_their_results(finder: tuple[CocoDataset, Any]):
    dataset, find = finder
    evaluation = evaluate_images(find, dataset, progress=False)
    results = [
        row
        for index in range(7)
        for row in coco_results(find(dataset.load(index).image), dataset.image_ids[index], dataset.category_ids)
    ]
    assert evaluation.results == results
    expected = coco_metrics(read_ground_truth(dataset.json_file), results, dataset.category_ids)
    assert evaluation.metrics == expected.metrics
    assert 0.5 < evaluation.metrics["AP"] < 1
    assert evaluation.image_ids == list(dataset.image_ids)


def test_a_whole_image_that_goes_bad_is_left_out_or_named(finder: tuple[CocoDataset, Any]):
    dataset, find = finder
    dataset.entry(2).path.write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"an image is left out: .*003\.png cannot be decoded"):
        evaluation = evaluate_images(find, dataset, progress=False)
    assert evaluation.image_ids == [1, 2, 4, 5, 6, 7]
    dataset.bad_images = "raise"
    with pytest.raises(ValueError, match=r"003\.png cannot be decoded"):
        evaluate_images(find, dataset, progress=False)


def test_processes_share_whole_images(finder: tuple[CocoDataset, Any]):
    dataset, find = finder
    alone = evaluate_images(find, dataset, progress=False)
    numbers = CocoNumbers(alone.metrics, list(alone.by_class.values()), alone.precision)
    shares = []

    class OneOfTwo(World):
        def gather(self, value: Any) -> list[Any]:
            shares.insert(0, value)
            return shares if self.is_writer else [value]

        def broadcast(self, value: Any) -> Any:
            return numbers if value is None else value

    second, first = (evaluate_images(find, dataset, progress=False, world=OneOfTwo(rank, 2)) for rank in (1, 0))
    assert second.image_ids == [2, 4, 6]
    assert (first.image_ids, first.results, first.metrics) == (alone.image_ids, alone.results, alone.metrics)
