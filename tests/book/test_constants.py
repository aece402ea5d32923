"""The page of all constants: its values are the defaults, and its table is what the assigner does."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from minirtmdet import configs
from minirtmdet.configs import AssignerConfig
from minirtmdet.data.example import STEP, example, recorded_maps
from minirtmdet.head.pipeline import RTMDetLoss

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "constants.md").read_text(encoding="utf-8")
SETTINGS = re.findall(r"`(\w+Config)\((\w+)=([^`]+)\)`", PAGE)
FIELDS = {"topk": "topk", "IoU weight": "iou_weight", "radius": "soft_center_radius"}
ROWS = re.findall(
    rf"^\| (?:as published|({'|'.join(FIELDS)}) (\d+)) \| ([\d, ]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE
)


def test_the_page_has_every_setting_of_assigner_losses_and_prediction() -> None:
    named = {(name, field) for name, field, _ in SETTINGS}
    for name in ("AssignerConfig", "LossConfig", "PredictConfig"):
        assert {(name, field) for field in getattr(configs, name).__dataclass_fields__} <= named
    assert len(ROWS) == 11


@pytest.mark.parametrize(("name", "field", "value"), SETTINGS)
def test_every_setting_has_its_default(name: str, field: str, value: str) -> None:
    assert getattr(getattr(configs, name)(), field) == ast.literal_eval(value)


@pytest.mark.parametrize(("name", "value", "positives", "iou", "distance"), ROWS)
def test_the_table_is_what_the_assigner_does(name: str, value: str, positives: str, iou: str, distance: str) -> None:
    kind = int if name == "topk" else float
    changed: dict[str, Any] = {FIELDS[name]: kind(value)} if name else {}
    scene, maps = example(), recorded_maps(STEP)
    loss = RTMDetLoss(len(scene.names), AssignerConfig(**changed))
    result, priors = loss.assign(*maps, scene.ground_truth), loss.flatten(*maps)[2]
    owner = result.gt_inds[0]
    assert [int((owner == box).sum()) for box in (1, 2, 3)] == [int(count) for count in positives.split(",")]
    chosen = owner > 0
    away = priors[chosen, :2] - scene.ground_truth.centers[0, owner[chosen] - 1]
    means = torch.stack([result.max_overlaps[0, chosen].mean(), (away.norm(dim=1) / priors[chosen, 2]).mean()])
    torch.testing.assert_close(means, torch.tensor([float(iou), float(distance)]), atol=0.0051, rtol=0)


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_short_runs_go_as_the_page_says() -> None:
    for run in record("debugging")["runs"]:
        healthy, hot, ramped = (run["measured"][name] for name in ("healthy", "rate times 10", "average with its ramp"))
        assert run["measured"]["no prior bias"]["found"] == run["measured"]["average too early"]["found"] == 0
        assert hot["iou"] < healthy["iou"]
        assert hot["loss_cls"] > healthy["loss_cls"]
        assert ramped["found"] > healthy["found"] / 2


def test_the_page_has_the_ap_of_the_records() -> None:
    mini = record("mini-160")
    centre, shared = (record(name)["AP mean"] for name in ("centre-priors", "shared-norms"))
    said = re.sub(r"\s+", " ", PAGE)
    ours = f"{centre:.3f} AP over three seeds in `benchmarks/results/centre-priors.json`"
    assert f"{ours}, against {mini['AP mean']:.3f}" in said
    assert f"where three seeds differ by {mini['AP spread']:.3f}" in said
    assert f"end at {shared:.3f} AP on average" in said
    assert f"they end at {mini['AP mean']:.3f}" in said
