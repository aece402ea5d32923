"""AP of masks: against pycocotools, by hand, and what is refused rather than counted as nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_sets import box_entry, image_entry, write_json, write_set

from minirtmdet.configs import ModelConfig
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.loader import EvalLoader
from minirtmdet.data.masks import decode_mask, encode_masks
from minirtmdet.detector import RTMDet
from minirtmdet.evaluation.coco import (
    METRICS,
    coco_metrics,
    coco_results,
    run_evaluation,
)
from minirtmdet.evaluation.entries import read_ground_truth
from minirtmdet.evaluation.table import metrics_table
from minirtmdet.structures import Detections

SIZE = 120


def ellipse(rng: np.random.Generator, side: float) -> list[float]:
    """A polygon of a dozen vertices around a random place."""
    angles = np.sort(rng.random(12)) * 2 * np.pi
    radii = side / 2 * (0.6 + 0.4 * rng.random(12))
    x, y = rng.random(2) * SIZE
    return np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1).clip(0, SIZE).ravel().round(2).tolist()


def random_case(root: Path, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    """Polygons, RLE in both forms and crowds; detections near them in RLE."""
    rng = np.random.default_rng(seed)
    images = [image_entry(i, SIZE, SIZE) for i in range(1, 9)]
    annotations, results = [], []
    for entry in images:
        for _ in range(rng.integers(0, 6)):
            polygon, category = ellipse(rng, rng.choice([20.0, 60.0, 140.0])), int(rng.choice([3, 7]))
            mask = np.zeros((1, SIZE, SIZE), dtype=bool)
            mask[0] = decode(polygon)
            if not mask.any():
                continue
            segmentation, crowd = [polygon], int(rng.random() < 0.15)
            if crowd or rng.random() < 0.3:
                segmentation = encode_masks(mask)[0]
            if crowd or rng.random() < 0.1:
                segmentation = {"size": [SIZE, SIZE], "counts": runs(mask[0])}
            box = [float(v) for v in box_of(mask[0])]
            more = {"segmentation": segmentation, "area": int(mask.sum()), "iscrowd": crowd}
            annotations.append({**box_entry(len(annotations) + 1, entry["id"], box, category), **more})
            for _ in range(rng.integers(0, 3)):
                near = np.roll(mask, rng.integers(-6, 7, 2), axis=(1, 2))
                wrong = 7 if rng.random() < 0.2 else category
                row = {"image_id": entry["id"], "category_id": wrong, "score": round(float(rng.random()), 2)}
                box = [float(v) for v in box_of(near[0])]
                results.append({**row, "bbox": box, "segmentation": encode_masks(near)[0]})
    categories = [{"id": number, "name": str(number)} for number in (3, 7)]
    return write_json(root / f"{seed}.json", images, annotations, categories), results


def decode(polygon: list[float]) -> np.ndarray:
    from faster_coco_eval.core import mask as coco_mask

    return coco_mask.decode(coco_mask.frPyObjects([polygon], SIZE, SIZE))[..., 0]


def runs(mask: np.ndarray) -> list[int]:
    """RLE by hand."""
    column = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(column))
    lengths = np.diff(np.concatenate([[0], ends])).tolist()
    return lengths


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_pycocotools(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]):
    reason = "pycocotools, the reference, is an extra for the tests: pip install pycocotools"
    coco = pytest.importorskip("pycocotools.coco", reason=reason)
    cocoeval = pytest.importorskip("pycocotools.cocoeval", reason=reason)
    json_file, results = random_case(tmp_path, seed)
    truth = read_ground_truth(json_file, masks=True)
    for masks, kind in ((True, "segm"), (False, "bbox")):
        metrics, _, precision = coco_metrics(truth, results, (3, 7), masks=masks)
        theirs_truth = coco.COCO(str(json_file))
        # as MMDetection hands them over: sizes by the area of the mask
        rows = [{k: v for k, v in row.items() if not masks or k != "bbox"} for row in results]
        theirs = cocoeval.COCOeval(theirs_truth, theirs_truth.loadRes(rows), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        assert [metrics[name] for name in METRICS] == pytest.approx(theirs.stats.tolist(), abs=1e-12)
        np.testing.assert_allclose(precision, theirs.eval["precision"][..., 0, -1], rtol=0, atol=1e-12)
        assert 0 < metrics["AP"] < 1


def square(x: int, y: int, width: int, height: int, size: tuple[int, int] = (100, 100)) -> dict[str, Any]:
    mask = np.zeros((1, *size), dtype=bool)
    mask[0, y : y + height, x : x + width] = True
    return encode_masks(mask)[0]


def one_object(**more: Any) -> dict[str, Any]:
    polygon = [10, 10, 50, 10, 50, 50, 10, 50]
    return {
        "images": [image_entry(1, 100, 100), image_entry(2, 100, 100)],
        "annotations": [{**box_entry(1, 1, [10.0, 10.0, 40.0, 40.0]), "segmentation": [polygon], **more}],
        "categories": [{"id": 1, "name": "cat"}],
    }


def found(segmentation: Any, image_id: int = 1) -> dict[str, Any]:
    box = [10.0, 10.0, 40.0, 40.0]
    return {"image_id": image_id, "category_id": 1, "score": 0.5, "bbox": box, "segmentation": segmentation}


def test_by_hand():
    exact = coco_metrics(one_object(), [found(square(10, 10, 40, 40))], (1,), masks=True)[0]
    assert exact["AP"] == exact["AR1"] == exact["APm"] == 1.0
    # a box without fault, a mask of IoU 0.725: right at 0.50, 0.55, ... 0.70, five of ten
    results = [found(square(10, 10, 40, 29))]
    assert coco_metrics(one_object(), results, (1,))[0]["AP"] == 1.0
    assert coco_metrics(one_object(), results, (1,), masks=True)[0]["AP"] == pytest.approx(0.5)


def test_sizes_are_those_of_masks():
    """A diagonal of 40 pixels in a box of 1600 is small, whether the file has the area of its mask or of its box."""
    diagonal = np.zeros((1, 100, 100), dtype=bool)
    diagonal[0, range(10, 50), range(10, 50)] = True
    (rle,) = encode_masks(diagonal)
    for area in (40, 1600):
        truth = one_object(segmentation=rle, area=area)
        masks = coco_metrics(truth, [found(rle)], (1,), masks=True).metrics
        assert (masks["APs"], masks["APm"]) == (1.0, -1.0)
    boxes = coco_metrics(one_object(segmentation=rle, area=1600), [found(rle)], (1,)).metrics
    assert (boxes["APs"], boxes["APm"]) == (-1.0, 1.0)


@pytest.mark.parametrize("size", [(99, 100), (100, 99), (101, 100), (50, 50)])
def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path, size: tuple[int, int]):
    """In the COCO tools it has an IoU of -1 or an AP of 0, silently."""
    sizes = f"{size[1]} x {size[0]} pixels, and .* 100 x 100"
    with pytest.raises(ValueError, match=f"a detection in image 1 has a mask of {sizes}"):
        coco_metrics(one_object(), [found(square(10, 10, 40, 40, size))], (1,), masks=True)
    truth = one_object(segmentation=square(10, 10, 40, 40, size))
    with pytest.raises(ValueError, match=f"ground truth: annotation 1 of image 1 has a mask of {sizes}"):
        coco_metrics(truth, [], (1,), masks=True)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=rf"a\.json: annotation 1 of 001\.png has a mask of {sizes}"):
        read_ground_truth(path, masks=True)
    assert read_ground_truth(path)["annotations"][0].keys() == {*box_entry(1, 1, [0, 0, 1, 1])}


def test_a_detection_without_a_mask_is_refused():
    with pytest.raises(ValueError, match=r"a detection in image 1 has no mask in RLE"):
        coco_metrics(one_object(), [found(None)], (1,), masks=True)


def test_what_a_file_has_no_mask_of_is_left_out_and_an_ignore_region_is_its_box(tmp_path: Path):
    truth = one_object()
    truth["annotations"] += [
        {**box_entry(2, 2, [10.0, 10.0, 40.0, 40.0]), "segmentation": [[1, 2, 3]]},
        box_entry(3, 2, [60.0, 60.0, 30.0, 30.0], ignore=1),
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(truth))
    with pytest.warns(UserWarning, match=r"a\.json: 1 of 3 boxes have no mask to judge by"):
        ready = read_ground_truth(path, masks=True)
    assert ["segmentation" in entry for entry in ready["annotations"]] == [True, False, False]
    results = [found(square(10, 10, 40, 40)), {**found(square(65, 65, 9, 9), 2), "score": 0.9}]
    assert coco_metrics(ready, results, (1,), masks=True).metrics["AP"] == 1.0
    # somebody who gives a dict has seen no warning
    with pytest.raises(ValueError, match="ground truth: annotation 2 has a polygon of 3 numbers"):
        coco_metrics(truth, results, (1,), masks=True)


def test_results_carry_masks_in_rle():
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:5] = masks[1, 4] = True
    boxes = torch.tensor([[2.0, 1.0, 5.0, 3.0], [0.0, 4.0, 8.0, 5.0]])
    rows = coco_results(Detections(boxes, torch.tensor([0.75, 0.5]), torch.tensor([0, 0]), masks), 1, (1,))
    assert json.loads(json.dumps(rows)) == rows
    assert (np.stack([decode_mask(row["segmentation"]) for row in rows]) == masks.numpy()).all()


class Oracle(RTMDet):
    """Finds every object of its data set, in pixels of the file; masks ``short`` rows too short."""

    def __init__(self, dataset: CocoDataset, short: int = 0):
        super().__init__(ModelConfig(0.1, 0.125, 1, num_classes=3, masks=True))
        self.dataset, self.short, self.seen = dataset, short, 0

    def predict(self, images, config, img_shapes, scale_factors):
        samples = [self.dataset.load(self.seen + i) for i in range(len(images))]
        self.seen += len(images)
        found = []
        for sample in samples:
            height, width = sample.img_shape
            masks = torch.zeros(len(sample.boxes), height - self.short, width, dtype=torch.bool)
            for mask, (x1, y1, x2, y2) in zip(masks, sample.boxes.astype(int).tolist(), strict=True):
                mask[y1:y2, x1:x2] = True
            boxes, labels = torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels)
            found.append(Detections(boxes, torch.ones(len(boxes)), labels, masks))
        return found


def rectangles(tmp_path: Path) -> CocoDataset:
    """Three images of rectangles, whose masks they fill."""
    annotations = []
    for image_id, (x, y, w, h) in enumerate([(5, 5, 10, 10), (0, 0, 30, 20), (20, 10, 15, 15)], 1):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        entry = box_entry(image_id, image_id, [x, y, w, h], image_id)
        annotations.append({**entry, "segmentation": [polygon]})
    return CocoDataset(*write_set(tmp_path, [image_entry(i) for i in (1, 2, 3)], annotations), masks=True)


def test_an_evaluation_has_both(tmp_path: Path):
    dataset = rectangles(tmp_path)
    loader = EvalLoader(dataset, input_size=64, batch_size=2)
    evaluation = run_evaluation(Oracle(dataset), loader, dataset, progress=False)
    assert list(evaluation.metrics) == [*METRICS, *(f"mask_{name}" for name in METRICS)]
    assert evaluation.metrics["AP"] == evaluation.metrics["mask_AP"] == pytest.approx(1.0)
    assert evaluation.main == "mask_AP"
    assert evaluation.by_class["dog"]["mask_AP"] == pytest.approx(1.0)
    table = metrics_table(evaluation.metrics, evaluation.by_class).splitlines()
    assert table[:2] == ["       boxes  masks", "AP     1.000  1.000  mean over IoU .50 to .95"]
    assert table[14] == "class     AP mask_AP   AP50 mask_AP50   AP75 mask_AP75"
    assert table[15] == "cat    1.000   1.000  1.000     1.000  1.000     1.000"
    with pytest.raises(
        ValueError, match="a detection in image 1 has a mask of 40 x 29 pixels, and the image has 40 x 30"
    ):
        run_evaluation(Oracle(dataset, short=1), loader, dataset, progress=False)
