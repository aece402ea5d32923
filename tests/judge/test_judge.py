"""Every exercise accepts what is right and names what is wrong; nothing that a function does breaks the judge."""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import record_judge, ties
from safetensors.torch import load_file
from torch import Tensor

from minirtmdet import judge
from minirtmdet.configs import ModelConfig
from minirtmdet.detector import build_detector
from minirtmdet.head import assignment as racing
from minirtmdet.head import losses as racing_losses
from minirtmdet.head.targets import build_targets
from minirtmdet.judge import session
from minirtmdet.judge.exercise import Exercise, Mistake
from minirtmdet.judge.matching import COST_TOLERANCE, pos_gt_bboxes
from minirtmdet.judge.trial import WIDTH
from minirtmdet.judge.waits import watch_reads
from minirtmdet.layers import ConvModule
from minirtmdet.reference import assignment as reading
from minirtmdet.reference import postprocess, sampling
from minirtmdet.reference import priors as reading_priors
from minirtmdet.reference.losses import giou_loss
from minirtmdet.structures import AssignResult, SamplingResult
from minirtmdet.weights.fuse import fuse_batch_norm

EXERCISES = [pytest.param(exercise, id=name) for name, exercise in session.ALL.items()]
MISTAKES = [
    pytest.param(exercise, mistake, id=f"{name}-{number}")
    for name, exercise in session.ALL.items()
    for number, mistake in enumerate(exercise.mistakes)
]


@pytest.fixture(autouse=True)
def new_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_SESSION", {name: session.Record() for name in session.ALL})


@pytest.mark.parametrize("exercise", EXERCISES)
def test_the_packages_own_function_is_right(exercise: Exercise) -> None:
    found = judge.verdict(exercise.name, exercise.solution)
    assert found.right, str(found)
    assert len(exercise.cases) >= 2
    assert len(exercise.mistakes) >= 3
    assert exercise.hints
    assert exercise.task.endswith(".")


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES)
def test_a_mistake_is_named(exercise: Exercise, mistake: Mistake) -> None:
    found = judge.verdict(exercise.name, mistake.answer)
    assert not found.right
    words = "".join(mistake.words.split())
    assert words in "".join(str(found).split()), str(found)
    assert max(map(len, str(found).splitlines())) <= WIDTH


# --- both lanes are right ------------------------------------------------------------------------------------------


def valid_flags(height: int, width: int, stride: int, pad_shapes: Tensor) -> Tensor:
    """From cells counted by ceil, as the reading lane does it for one image."""
    rows, columns = -(-pad_shapes.T[..., None] // stride)  # [B,1] twice
    inside = (torch.arange(height) < rows)[:, :, None] & (torch.arange(width) < columns)[:, None]
    return inside.flatten(1)


def count_priors(height: int, width: int) -> int:
    model = build_detector(ModelConfig(0.1, 0.125, 1, num_classes=1)).eval()
    with torch.no_grad():
        return sum(level[0, 0].numel() for level in model(torch.zeros(1, 3, height, width))[0])


def one_by_one(priors: Tensor, centers: Tensor, radius: float = 3.0) -> Tensor:
    return torch.stack([reading.center_cost(priors, image, radius).T for image in centers])


def class_cost(cls_scores: Tensor, gt_labels: Tensor, ious: Tensor) -> Tensor:
    return racing.class_cost(cls_scores[None], gt_labels[None], ious.T[None])[0].T


def resolve_conflicts(matching: Tensor, cost: Tensor) -> Tensor:
    """By the racing lane's own line: where several chose, the cheapest of all boxes."""
    cheapest = F.one_hot(cost.argmin(1), cost.shape[1]).bool()
    return torch.where(matching.sum(1, keepdim=True) > 1, cheapest, matching)


def fuse_conv_bn(
    weight: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    module = ConvModule(weight.shape[1], len(weight), 3)
    module.conv.weight.data, module.bn.eps = weight, eps
    module.bn.load_state_dict({"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}, strict=False)
    conv = fuse_batch_norm(module).conv
    return conv.weight.detach(), conv.bias.detach()


OTHER_LANE: dict[str, Callable[..., Any]] = {
    "count_priors": count_priors,
    "grid_priors": reading_priors.grid_priors,
    "valid_flags": valid_flags,
    "points_inside": lambda points, boxes: (
        torch.stack([reading.candidates(F.pad(points, (0, 2)), box[None]) for box in boxes])
        if len(boxes)
        else torch.zeros(0, len(points), dtype=torch.bool)
    ),
    "soft_center": one_by_one,
    "iou_cost": lambda bboxes, gt: racing.iou_cost(racing.bbox_overlaps(bboxes, gt)),
    "class_cost": class_cost,
    "dynamic_k": lambda ious, topk=13: racing.dynamic_k(ious.T[None], topk)[0],
    "resolve_conflicts": resolve_conflicts,
    "target_labels": lambda inds, labels, classes: (
        build_targets(
            SamplingResult(inds > 0, inds == 0, torch.zeros(*inds.shape, 4)),
            AssignResult(inds, torch.zeros(inds.shape), labels.gather(1, (inds - 1).clamp(min=0))),
            classes,
        ).labels
    ),
    "label_weights": lambda inds: (
        build_targets(
            SamplingResult(inds > 0, inds == 0, torch.zeros(*inds.shape, 4)),
            AssignResult(inds, torch.zeros(inds.shape), inds),
            5,
        ).label_weights
    ),
    "quality_focal_loss": lambda s, y, q, beta=2.0: racing_losses.QualityFocalLoss(beta)(s, y, q),
    "giou_loss": lambda one, other: racing_losses.GIoULoss()(one, other),
    "fuse_conv_bn": fuse_conv_bn,
    "nms": postprocess.nms,
}


@pytest.mark.parametrize("name", OTHER_LANE)
def test_the_other_lane_is_right_too(name: str) -> None:
    found = judge.verdict(name, OTHER_LANE[name])
    assert found.right, str(found)


def test_the_reading_lanes_choice_is_right_and_waits() -> None:
    found = judge.verdict("choose", reading.choose)
    assert [fault.case for fault in found.faults] == ["no wait for the device"]
    assert "tolist" in found.faults[0].came


def test_ties_are_those_of_the_parity_tests() -> None:
    assert COST_TOLERANCE == ties.COST_TOLERANCE
    late = lambda cost, ks: cost.flip(0).argsort(dim=0, stable=True).argsort(dim=0).flip(0) < ks  # noqa: E731
    assert judge.verdict("choose", late).right
    last = lambda matching, cost: (  # noqa: E731
        torch.where(
            matching.sum(1, keepdim=True) > 1,
            F.one_hot(cost.shape[1] - 1 - cost.flip(1).argmin(1), cost.shape[1]).bool(),
            matching,
        )
    )
    assert judge.verdict("resolve_conflicts", last).right
    other = lambda b, s, y, t=0.65: [  # noqa: E731
        len(s) - 1 - i for i in postprocess.nms(b.flip(0), s.flip(0), y.flip(0), t)
    ]
    assert judge.verdict("nms", other).right


def test_positives_boxes_are_those_of_the_reading_lane() -> None:
    gt_inds, boxes = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([[4.0, 6, 20, 30], [14, 6, 24, 22]])
    found = sampling.sample(reading.Assignment(gt_inds, torch.zeros(5), gt_inds), boxes)
    assert torch.equal(pos_gt_bboxes(gt_inds[None], boxes[None])[0, found.pos_inds], found.pos_gt_bboxes)


def test_the_recorded_answers_are_those_of_the_fixtures() -> None:
    expected, found = record_judge.record(), load_file(record_judge.RECORD)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    named = {e.name for e in session.ALL.values() if any(case.expected for case in e.cases)}
    assert named == {made.__name__ for made in record_judge.RECORDED}


# --- whatever a function does --------------------------------------------------------------------------------------


def raises(bboxes, targets):
    return bboxes @ targets


def empties(bboxes, targets):
    pass


def spoils(bboxes, targets):
    bboxes[:, 2:] -= bboxes[:, :2]
    return giou_loss(bboxes, targets)


def leaves(bboxes, targets):
    raise SystemExit("bye")


def recurses(bboxes, targets):
    return recurses(bboxes, targets)


ODD = {
    "raises": (raises, ["RuntimeError in line", "return bboxes @ targets", "cannot be multiplied"]),
    "leaves": (leaves, ["SystemExit in line", "bye"]),
    "recurses": (recurses, ["RecursionError", "maximum recursion depth"]),
    "forgets to return": (empties, ["came      None", "`return` is missing"]),
    "changes an argument": (spoils, ["`bboxes` is changed in place", "x.clone()"]),
    "one argument": (lambda bboxes: bboxes, ["came      <lambda>(bboxes)", "too many positional"]),
    "one more": (lambda a, b, c: a, ["missing a required argument: 'c'"]),
    "not a function": (torch.ones(3), ["came      a tensor [3] of float32", "without parentheses"]),
    "NumPy": (lambda a, b: giou_loss(a, b).numpy(), ["came      a ndarray", "Return a tensor"]),
    "double": (lambda a, b: giou_loss(a, b).double(), ["a tensor [3] of float64", "has to be float32"]),
    "a column": (lambda a, b: giou_loss(a, b)[:, None], ["a tensor [3, 1] of float32", "view, flatten or squeeze"]),
    "two": (lambda a, b: (a, b), ["came      a tuple of 2"]),
    "NaN": (lambda a, b: giou_loss(a, b) * torch.nan, ["came      nan (3 of 3 differ)", "0 / 0"]),
    "no gradient": (
        lambda a, b: giou_loss(a.detach(), b),
        ["gradient, boxes that overlap", "came      none", "detach"],
    ),
    "no gradient, NumPy": (
        lambda a, b: torch.from_numpy(giou_loss(a, b).numpy()),
        ["Can't call numpy() on Tensor that requires grad"],
    ),
    "half the gradient": (
        lambda a, b: (giou_loss(a, b) + giou_loss(a.detach(), b)) / 2,
        ["gradient, boxes that overlap"],
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_function_does_there_is_a_verdict(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    function, phrases = ODD[odd]
    judge.check("giou_loss", function)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("giou_loss: not yet.")
    assert said.endswith('Stuck? judge.hint("giou_loss")')
    for phrase in phrases:
        assert " ".join(phrase.split()) in said, said
    assert "minirtmdet/" not in said


def test_kinds_that_mean_the_same_are_right() -> None:
    kept, count, parsed = (session.ALL[name].solution for name in ("nms", "count_priors", "parse_kernel"))
    assert judge.verdict("giou_loss", functools.partial(giou_loss)).right
    assert judge.verdict("nms", lambda *given: torch.tensor(kept(*given), dtype=torch.int64)).right
    assert judge.verdict("nms", lambda *given: np.array(kept(*given))).right
    assert judge.verdict("count_priors", lambda *size: torch.tensor(count(*size))).right
    assert judge.verdict("parse_kernel", lambda numbers: list(parsed(numbers))).right
    found = judge.verdict("count_priors", lambda height, width: height * width / 64 * 21 / 16)
    assert "//" in found.faults[0].likely


def test_a_mistake_of_ones_own_is_found_without_a_name() -> None:
    found = judge.verdict("soft_center", lambda priors, centers, radius=3.0: centers.sum(-1)[..., None] * priors[:, 0])
    assert found.faults[0].likely == ""
    assert found.faults[0].expected.startswith("0.")


BY_READERS: dict[str, tuple[Callable[..., Any], str]] = {
    "valid_flags": (
        lambda h, w, stride, shapes: (
            (torch.arange(h)[:, None] < shapes[:, 0, None, None] // stride)
            & (torch.arange(w) < shapes[:, 1, None, None] // stride)
        ).flatten(1),
        "only whole cells",
    ),
    "soft_center": (lambda p, c, r=3.0: 10 ** ((p[:, :2] - c[:, :, None]).norm(dim=-1) / p[:, 2] - r), "no limit"),
    "dynamic_k": (lambda ious, topk=13: ious.topk(min(topk, len(ious)), 0)[0].sum(0).int(), "int64"),
    "nms": (
        lambda boxes, scores, labels, limit=0.65: postprocess.nms(boxes, scores, torch.zeros_like(labels), limit),
        "classes suppress each other",
    ),
    "dice_loss": (
        lambda x, t, eps=5e-6: (
            1 - 2 * (x.sigmoid() * t).sum((1, 2)) / (x.sigmoid().sum((1, 2)) + t.sum((1, 2)) + 2 * eps)
        ),
        "plain sums",
    ),
    "label_weights": (lambda gt_inds: gt_inds >= 0, "float32"),
    "pos_gt_bboxes": (
        lambda inds, boxes: torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1).gather(
            1, inds.clamp(min=0)[..., None].expand(-1, -1, 4)
        )[inds >= 0],
        "came      a tensor [4, 4] of float32",
    ),
}


@pytest.mark.parametrize("name", BY_READERS)
def test_a_mistake_is_named_however_it_is_written(name: str) -> None:
    function, words = BY_READERS[name]
    found = judge.verdict(name, function)
    assert not found.right
    assert words in str(found).replace("\n            ", " "), str(found)


# --- a session -----------------------------------------------------------------------------------------------------


def test_hints_come_one_at_a_time_and_begin_again(capsys: pytest.CaptureFixture[str]) -> None:
    hints = session.ALL["soft_center"].hints
    for _ in range(len(hints) + 1):
        judge.hint("soft_center")
    said = capsys.readouterr().out.replace("\n", " ")
    assert [said.count(hint) for hint in hints] == [2, *[1] * (len(hints) - 1)]
    assert said.index(f"Hint {len(hints)} of {len(hints)}") < said.index("book/costs.ipynb") < said.rindex("Hint 1")


def test_status_knows_what_was_right_once(capsys: pytest.CaptureFixture[str]) -> None:
    judge.check("giou_loss", lambda one, other: one)
    judge.check("giou_loss", giou_loss)
    judge.check("giou_loss", lambda one, other: one)
    judge.hint("dynamic_k")
    capsys.readouterr()
    judge.status()
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(session.ALL) + 2
    found = {row.split()[0]: row.split()[1:] for row in rows[1:-1]}
    assert found["giou_loss"] == ["losses", "3", "-", "yes"]
    assert found["dynamic_k"] == ["matching", "-", "1", "-"]
    assert rows[-1] == f"1 of {len(session.ALL)} right"


def test_exercises_are_listed_by_chapter_with_signatures(capsys: pytest.CaptureFixture[str]) -> None:
    judge.exercises()
    said = capsys.readouterr().out
    assert "  soft_center(priors [N,4], centers [B,G,2], radius=3.0) -> [B,G,N]\n" in said
    assert "  parse_kernel(numbers [169]) -> ([8,10], [8,8], [1,8], [8], [8], [1])\n" in said
    assert "  nms(boxes [n,4], scores [n], labels [n], iou_threshold=0.65) -> list of int\n" in said
    assert re.findall(r"^\w+$", said, flags=re.MULTILINE) == list(session.CHAPTERS)


@pytest.mark.parametrize(
    "call", [judge.hint, lambda name: judge.check(name, len), lambda name: judge.verdict(name, len)]
)
def test_an_unknown_name_is_answered_with_those_that_are_like_it(call: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"no exercise 'soft_centre': did you mean soft_center\?"):
        call("soft_centre")
    with pytest.raises(ValueError, match=r"no exercise 'zzzz': judge.exercises\(\)"):
        call("zzzz")


# --- waiting -------------------------------------------------------------------------------------------------------


def test_what_makes_a_device_wait_is_seen() -> None:
    x = torch.arange(3.0)
    asks: dict[str, Callable[[], Any]] = {
        "index": lambda: x[x > 1],
        "nonzero": lambda: x.nonzero(),
        "_local_scalar_dense": lambda: float(x[0]),
        "tolist": lambda: x.tolist(),
        "numpy": lambda: x.numpy(),
        "masked_select": lambda: x.masked_select(x > 1),
    }
    for name, ask in asks.items():
        with watch_reads() as seen:
            ask()
        assert name in seen
    with watch_reads() as seen:
        torch.where(x > 1, x, 0), x[torch.tensor([0, 2])], x.sort(), x * (x > 1), F.one_hot(x.long(), 3)
    assert seen == []
