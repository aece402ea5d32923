"""The lab's JavaScript says what the package says: on random cases, on edge cases, and on the recorded maps."""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.javascript import ask
from parity.ties import outcomes
from torch import Tensor

from minirtmdet.boxes import aligned_overlaps, bbox_overlaps
from minirtmdet.data.example import STEPS, example, recorded_maps
from minirtmdet.head.losses import GIoULoss, loss_and_slope
from minirtmdet.head.pipeline import RTMDetLoss, flatten_levels
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.reference import assigners, assignment

ANSWERS = "tests/book/lab/answers.mjs"
CASES = 2000
CLASSES = 4


@cache
def grid(size: int, offset: float = 0.0) -> Tensor:
    cells = [(-(-size // stride),) * 2 for stride in (8, 16, 32)]
    return torch.cat(MlvlPointGenerator(offset=offset).grid_priors(cells))


def random_case(seed: int) -> dict[str, Any]:
    """Boxes of all sizes, some twice or without a prior, and predictions that fit more or less."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    size = (32, 64, 96)[seed % 3]
    priors, count = grid(size), seed % 5
    corner = draw(count, 2) * (size - 8)
    boxes = torch.cat([corner, corner + 2 + draw(count, 2) * (size - 2 - corner)], 1)
    if seed % 2:
        boxes = boxes.round()  # borders on priors
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = (draw(count) * CLASSES).long()
    if count > 1 and seed % 7 == 0:
        boxes[1] = boxes[0]  # twins: of one class they tie everywhere
    distances = draw(len(priors), 4) * priors[:, 2:3] * 2
    if count:  # half of the predictions lie around some box
        aim = boxes[(draw(len(priors)) * count).long()]
        exact = torch.cat([priors[:, :2] - aim[:, :2], aim[:, 2:] - priors[:, :2]], 1)
        noise = draw(len(priors), 4) * 4 - 2
        distances = torch.where(draw(len(priors), 1) < 0.5, exact + noise, distances)
    return {
        "kind": "scene",
        "size": size,
        "boxes": boxes.tolist(),
        "labels": labels.tolist(),
        "logits": (draw(len(priors), CLASSES) * 12 - 8).flatten().tolist(),
        "distances": distances.flatten().tolist(),
        "topk": 1 + seed % 30,
        "iouWeight": (seed % 13) / 2,
        "radius": (1 + seed % 12) / 2,
    }


class Package:
    """What the package says to a case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.priors = grid(case["size"])
        self.boxes = torch.tensor(case["boxes"]).reshape(-1, 4)
        self.labels = torch.tensor(case["labels"], dtype=torch.int64)
        self.logits = torch.tensor(case["logits"]).reshape(len(self.priors), -1)
        distances = torch.tensor(case["distances"]).reshape(-1, 4)
        points = self.priors[:, :2]
        self.predicted = torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1)
        self.settings = {"topk": case["topk"], "iou_weight": case["iouWeight"], "soft_center_radius": case["radius"]}

    @property
    def truth(self) -> tuple[Tensor, ...]:
        return self.predicted, self.priors, self.boxes, self.labels

    def soft(self) -> assignment.Assignment:
        return assignment.assign(self.logits, *self.truth, **self.settings)

    def sim_ota(self) -> assignment.Assignment:
        return assigners.sim_ota_assign(self.logits.sigmoid(), *self.truth)

    def costs(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Candidates ``[N]`` and, of these alone, each cost and the IoUs ``[V,G]``."""
        chosen = assignment.candidates(self.priors, self.boxes)
        centers = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        ious = bbox_overlaps(self.predicted[chosen], self.boxes)
        parts = {
            "classes": assignment.class_cost(self.logits[chosen], self.labels, ious),
            "overlap": assignment.iou_cost(ious) * self.case["iouWeight"],
            "center": assignment.center_cost(self.priors[chosen], centers, self.case["radius"]),
        }
        return chosen, {"ious": ious, **parts, "total": sum(parts.values())}

    def sim_ota_costs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates ``[N]``, costs and IoUs ``[V,G]``, by SimOTA's formula and not by its function."""
        chosen, within = assigners.in_box_and_center(self.priors, self.boxes)
        ious = bbox_overlaps(self.predicted[chosen], self.boxes)
        hard = F.one_hot(self.labels, self.logits.shape[1]).float().expand(len(ious), -1, -1)
        logits = self.logits[chosen, None].expand_as(hard)
        entropy = F.binary_cross_entropy_with_logits(logits, hard, reduction="none").sum(-1)
        return chosen, entropy - 3 * torch.log(ious + 1e-7) + ~within[chosen] * 1e5, ious


def compare(
    lab: dict[str, Any], package: assignment.Assignment, chosen: Tensor, allowed: Callable[[], Tensor]
) -> Counter[str]:
    """Owners and IoUs of all priors, but for ties: what these allow is worked out where owners differ."""
    owners = torch.tensor(lab["owners"])
    differing = owners != package.gt_inds
    if differing.any():
        allowed_owners = allowed()
        everywhere = torch.zeros(len(owners), allowed_owners.shape[1], dtype=torch.bool)
        everywhere[chosen] = allowed_owners
        assert everywhere[differing].gather(1, owners[differing, None]).all()
        assert everywhere[differing].gather(1, package.gt_inds[differing, None]).all()
    ious = torch.tensor(lab["ious"], dtype=torch.float32)
    assert torch.equal(ious[~differing], package.max_overlaps[~differing])
    return Counter(priors=len(owners), positives=int((package.gt_inds > 0).sum()), ties=int(differing.sum()))


def test_random_scenes() -> None:
    """Each assigner on each case: geometry to the last bit, costs to 1e-5, owners but for ties."""
    cases = [random_case(seed) for seed in range(CASES)]
    soft, ota, anchored, contested = Counter[str](), Counter[str](), 0, 0
    for case, lab in zip(cases, ask(ANSWERS, cases), strict=True):
        package = Package(case)
        assert lab["fcos"] == assigners.fcos_assign(package.priors, package.boxes).tolist()
        anchors = assigners.grid_anchors(package.priors).flatten(0, 1)
        assert lab["maxIou"] == assigners.max_iou_assign(anchors, package.boxes).tolist()
        anchored += sum(owner > 0 for owner in lab["maxIou"])
        contested += sum(lab["soft"]["contested"])
        if not len(package.boxes):
            assert not any(lab["soft"]["owners"] + lab["simOta"]["owners"] + lab["maxIou"])
            continue
        chosen, parts = package.costs()
        for name, expected in parts.items():
            told = torch.tensor(lab["costs"][name], dtype=torch.float32).reshape(len(package.boxes), -1).T[chosen]
            if name == "ious":
                assert torch.equal(told, expected)
            else:
                torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-6)
        allowed = partial(outcomes, parts["total"], parts["ious"], case["topk"])
        soft += compare(lab["soft"], package.soft(), chosen, allowed)
        near, cost, ious = package.sim_ota_costs()
        ota += compare(lab["simOta"], package.sim_ota(), near, partial(outcomes, cost, ious, 10))
    assert soft["positives"] > 5000
    assert ota["positives"] > 5000
    assert anchored > 5000
    assert contested > 500
    assert soft["ties"] < soft["positives"] / 20
    assert ota["ties"] < ota["positives"] / 20


def test_recorded_maps() -> None:
    """At every recorded moment, with the scene's own boxes and with boxes somewhere: no tie, no difference."""
    generator = torch.Generator().manual_seed(0)
    scene, loss, cases = example(), RTMDetLoss(num_classes=16), []
    for step in (*STEPS, None):
        maps = recorded_maps(step)
        logits, distances = (flatten_levels(kind)[0].flatten().tolist() for kind in maps)
        for number in range(6):
            corner = torch.randint(0, 120, (3, 2), generator=generator)
            moved = torch.cat([corner, corner + torch.randint(4, 40, (3, 2), generator=generator)], 1).float()
            boxes, topk = (moved, 13 if number % 2 else 30) if number else (scene.boxes, 13)
            cases.append({
                "kind": "scene", "size": 160, "boxes": boxes.tolist(), "labels": scene.labels.tolist(),
                "logits": logits, "distances": distances, "topk": topk, "iouWeight": 3.0, "radius": 3.0,
            })  # fmt: skip
    for case, lab in zip(cases, ask(ANSWERS, cases), strict=True):
        package = Package(case)
        assert lab["soft"]["owners"] == package.soft().gt_inds.tolist()
        assert lab["simOta"]["owners"] == package.sim_ota().gt_inds.tolist()
    by_hand = loss.assign(*recorded_maps(), scene.ground_truth).gt_inds[0].tolist()
    assert Package(cases[-6]).soft().gt_inds.tolist() == by_hand


def test_overlaps_and_losses() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(4000, 2, 2, generator=generator) * 40
    pairs = torch.cat([corner, corner + torch.rand(4000, 2, 2, generator=generator) * 40], -1)
    pairs[:100, 1] = pairs[:100, 0]  # the same box
    pairs[100:200, 0, 2:] = pairs[100:200, 0, :2]  # no area
    logits = torch.rand(4000, generator=generator) * 60 - 30
    targets = torch.rand(4000, generator=generator).round(decimals=1)
    overlaps, focal, giou = ask(
        ANSWERS,
        [
            {"kind": "overlaps", "pairs": pairs.flatten().tolist()},
            {"kind": "focal", "pairs": torch.stack([logits, targets], 1).flatten().tolist()},
            {"kind": "giouLoss", "pairs": pairs.flatten().tolist()},
        ],
    )
    expected = [aligned_overlaps(pairs[:, 0], pairs[:, 1], mode) for mode in ("iou", "giou")]
    assert torch.equal(torch.tensor(overlaps), torch.stack(expected, 1))
    assert torch.equal(torch.tensor(giou), GIoULoss()(pairs[:, 0], pairs[:, 1]))
    loss, slope = loss_and_slope(logits.double(), targets.double(), 2.0)
    torch.testing.assert_close(torch.tensor(focal).double(), torch.stack([loss, slope], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_priors(offset: float) -> None:
    sizes = (32, 100, 160)
    told = ask(ANSWERS, [{"kind": "priors", "size": size, "offset": offset} for size in sizes])
    for size, rows in zip(sizes, told, strict=True):
        assert torch.equal(torch.tensor(rows, dtype=torch.float32), grid(size, offset))


def test_distances() -> None:
    raws = torch.linspace(-2, 5, 141)
    for exponential in (False, True):
        given = {"kind": "distance", "raws": raws.tolist(), "stride": 16, "exponential": exponential}
        (told,) = ask(ANSWERS, [given])
        torch.testing.assert_close(torch.tensor(told), (raws.exp() if exponential else raws) * 16)


# --- links -----------------------------------------------------------------------------------------------------------

START = {
    "boxes": [[10, 10, 60, 60], [40, 40, 90, 90]],
    "labels": [0, 1],
    "moment": 9,
    "topk": 13,
    "iouWeight": 3,
    "radius": 3,
    "box": 1,
    "prior": 292,
    "step": 5,
    "offset": 0,
    "logit": 0,
    "target": 0.6,
    "raw": 1.5,
    "exponential": 0,
}
LIMITS = {"start": START, "size": 160, "classes": 16, "moments": 10, "priors": 525}


def test_a_link_brings_back_the_state() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"boxes": [], "labels": [], "box": 0},
        {"boxes": [[0, 0, 4, 4], [0, 0, 160, 160], [1, 2, 33, 44]], "labels": [15, 0, 7], "box": 2},
        {"moment": 0, "topk": 30, "iouWeight": 0, "radius": 0.5, "prior": 524, "step": 0},
        {"offset": 0.5, "logit": -6, "target": 0.29, "raw": -0.35, "exponential": 1},
    ]
    states = [START | change for change in changes]
    told = ask(ANSWERS, [{"kind": "link", "state": state, "limits": LIMITS} for state in states])
    assert [answer["state"] for answer in told] == states


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("", {}),
        ("nonsense", {}),
        ("topk=999&iouWeight=-3&radius=x&moment=12&prior=-1", {"topk": 30, "iouWeight": 0, "prior": 0}),
        ("topk=1e400&radius=&moment=NaN", {}),
        ("boxes=0.0.0.4.4_1.0.0.3.9", {}),  # one is too thin: neither is taken
        ("boxes=16.0.0.9.9", {}),  # no such class
        ("boxes=1.0.0.161.9", {}),  # beyond the image
        ("boxes=1.9.9.1.1", {}),  # the wrong way round
        ("boxes=1.0.0.9.9.9", {}),
        ("boxes=" + "_".join(["1.0.0.9.9"] * 9), {}),  # more than there is room for
        ("boxes=2.0.0.9.9&box=1", {"boxes": [[0, 0, 9, 9]], "labels": [2], "box": 0}),
    ],
)
def test_a_link_of_nonsense_is_harmless(words: str, change: dict[str, Any]) -> None:
    (told,) = ask(ANSWERS, [{"kind": "words", "words": words, "limits": LIMITS}])
    assert told == START | change
