"""Commands with a detector that finds masks: what is trained is evaluated by its folder alone."""

import json
from pathlib import Path

from helpers.commands import SMALL, Output
from helpers.tiny_sets import write_both_parts

from minirtmdet.cli import main
from minirtmdet.data.masks import decode_mask
from minirtmdet.evaluation.coco import METRICS


def test_masks_are_trained_and_evaluated(tmp_path: Path, capsys: Output):
    data = tmp_path / "data"
    write_both_parts(data, 4, masks=True)
    out = ["--out", str(tmp_path), "--name", "run", "--epochs", "1"]
    # all that it finds, to have something to write
    more = ["--predict.score-threshold", "0", "--predict.max-per-image", "5"]
    assert main(["train", "mini-160-ins", "--data.root", str(data), *SMALL, *out, *more]) == 0
    assert "mask AP" in capsys.readouterr().out
    assert main(["eval", str(tmp_path / "run"), "--out", str(tmp_path / "eval"), "--device", "cpu"]) == 0
    assert "boxes  masks\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert set(content["metrics"]) == {*METRICS, *(f"mask_{name}" for name in METRICS)}
    assert {"AP", "mask_AP"} <= set(content["per_class"]["cat"])
    assert main(["eval", str(tmp_path / "run"), "--out", str(tmp_path / "eval"), "--tiles", "--device", "cpu"]) == 0
    tiled = json.loads((tmp_path / "eval" / "metrics-tiles.json").read_text())
    assert tiled["metrics"].keys() == content["metrics"].keys()
    truth = json.loads((data / "val.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for name in ("detections.json", "detections-tiles.json"):
        results = json.loads((tmp_path / "eval" / name).read_text())
        assert results
        assert all(decode_mask(row["segmentation"]).shape == sizes[row["image_id"]] for row in results)
