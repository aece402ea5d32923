"""The benchmark of the head against the original's: what of it needs no clock."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from minirtmdet.boxes import points_inside

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("MINIRTMDET_REFERENCE", ROOT / ".venv-reference/bin/python"))


@pytest.fixture(scope="module")
def head() -> ModuleType:
    return importlib.import_module("head")


CASE = "assign 64 1 6 5"


def test_the_goals_are_those_of_the_table(head: ModuleType) -> None:
    goals = {row.name: row.goal for row in (*head.RATIOS, head.MEMORY, *head.SHARES)}
    assert list(goals.values()) == [2, 2, 10, 40, 50, 60, 12, 12, 5, 50, 0.05, 0.08]


def test_all_classes_of_all_priors_of_the_crowd_are_candidates(worker: ModuleType) -> None:
    scores = worker.crowd().cls_scores.sigmoid()
    assert int((scores > 0.001).sum()) == 672_000


@pytest.mark.parametrize("case", [CASE, "loss 64 2 6 5"])
def test_equal_answers_pass_and_different_ones_do_not(head: ModuleType, worker: ModuleType, case: str) -> None:
    answer = worker.prepare(case, worker.Ours()).answer()
    assert head.check(case, answer, {name: value.clone() for name, value in answer.items()}) == 0
    owners = answer["gt_inds"].clone()
    image, prior = (owners > 0).nonzero()[0].tolist()
    owners[image, prior] = 0
    with pytest.raises(AssertionError, match="1 priors have another box, and are no ties"):
        head.check(case, answer, answer | {"gt_inds": owners})
    name = "max_overlaps" if case == CASE else "grad_bbox_preds"
    with pytest.raises(AssertionError, match=name):
        head.check(case, answer, answer | {name: answer[name] * 1.001})


def test_an_answer_alone_is_held_against_the_costs(head: ModuleType, worker: ModuleType) -> None:
    answer = worker.prepare(CASE, worker.Ours()).answer()
    head.check_alone(CASE, answer)
    with pytest.raises(AssertionError, match="have another box"):
        head.check_alone(CASE, {"gt_inds": answer["gt_inds"].roll(1, 1)})


def test_boxes_like_cocos_leave_most_priors_without_any(worker: ModuleType) -> None:
    crowded, like_coco = worker.scene(640, 1, 7), worker.scene(640, 1, 7, longest=320)
    assert like_coco.boxes[0].shape == (7, 4)
    sides = like_coco.boxes[0][:, 2:] - like_coco.boxes[0][:, :2]
    assert 12 <= sides.min() < sides.max() <= 320
    assert ((like_coco.boxes[0] >= 0) & (like_coco.boxes[0] <= 640)).all()
    inside, in_any = (points_inside(made.priors[:, :2], made.boxes[0]).any(0).sum() for made in (crowded, like_coco))
    assert in_any < inside / 2


@pytest.mark.parametrize("case", [CASE, "loss 64 2 6 5"])
def test_every_step_undone_gives_the_same_answer(head: ModuleType, worker: ModuleType, case: str) -> None:
    expected = worker.prepare(case, worker.Ours()).answer()
    for step in worker.UNDONE:
        with worker.without(step):
            found = worker.prepare(case, worker.Ours()).answer()
        head.check(case, found, expected)
        assert torch.equal(found["gt_inds"], expected["gt_inds"]), step


def test_the_reading_lane_gives_the_same_answer(worker: ModuleType) -> None:
    expected = worker.prepare(CASE, worker.Ours()).answer()
    reading = worker.reading_lane(worker.scene(64, 1, 6, 5)).answer()
    assert torch.equal(reading["gt_inds"], expected["gt_inds"])


def test_the_steps_are_known_by_their_names(head: ModuleType, worker: ModuleType) -> None:
    asked = {step for steps in head.STEPS.values() for step in steps} | set(head.STEPS_COMPILED)
    assert asked - set(worker.UNDONE) == {worker.READING, "nothing"}
    assert set(worker.UNDONE) <= asked


def test_an_assignment_is_the_same_with_the_class_sum_given(head: ModuleType, worker: ModuleType) -> None:
    case = CASE.replace("assign", "given")
    answers = [worker.prepare(each, worker.Ours()).answer() for each in (case, CASE)]
    assert head.check(case, *answers) == 0


def test_what_an_assignment_cannot_do_without(worker: ModuleType) -> None:
    parts = worker.Ours().parts(worker.scene(64, 1, 6, 5))
    assert parts["class sum"].run().shape == (1, 84)
    assert parts["pass over the pairs"].run().shape == (1, 8, 84)


@pytest.mark.compile
def test_the_compiled_lane_gives_the_same_answer_and_is_compiled_twice(head: ModuleType) -> None:
    """In a process of its own, as the benchmark has it."""
    code = (
        "import head, head_worker as w; eager, compiled = w.Ours(), w.Compiled()\n"
        "for case in ('assign 64 1 6 5', 'assign 64 1 2 5', 'assign 64 1 20 5', 'assign 64 1 40 5'):\n"
        "    head.check(case, *(w.prepare(case, side).answer() for side in (compiled, eager)))\n"
        "assert w.compilations() == 2, w.compilations()"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, env=environment)


def test_a_training_step_tells_the_part_of_the_head(worker: ModuleType) -> None:
    work = worker.prepare("step 64 1 2 80", worker.Ours())
    found = worker.measure(work, 2)
    assert len(found["seconds"]) == len(found["part"]) == 2
    assert all(0 < part < whole for part, whole in zip(found["part"], found["seconds"], strict=True))


def test_growth_counts_one_thing_of_a_case(head: ModuleType) -> None:
    grown = {axis: [head.number_of(axis, case) for case in cases] for axis, cases in head.GROWTH.items()}
    assert grown["boxes"] == [1, 10, 30, 100, 300, 600, 1000]
    assert grown["images"][-1] == 64
    assert grown["classes"][-1] == 1203
    assert grown["priors"] == [2100, 4725, 8400, 18900, 33600]  # 8,400 at 640 px


def test_the_table_is_made_from_a_record(head: ModuleType) -> None:
    side = {"median_ms": 2.0, "low_ms": 1.0, "high_ms": 3.0, "runs": 5}
    slow = {"original": side, "ours": side, "ratio": 1.0, "reached": False, "lane": "", "goal": 40}
    both = {"compiled": side | {"median_ms": 1.0}, "ratio_compiled": 90.0, "reached": True, "lane": "eager"}
    rows = [
        {"name": "fast", "original": side | {"median_ms": 90.0}, "ours": side, "ratio": 45.0, "goal": 40, **both},
        {"name": "slow", **slow, "limit": {"class sum": 1.25, "pass over the pairs": 0.5}},
        {"name": "small", "original": {"MiB": 500.0}, "ours": {"MiB": 5.0}, "ratio": 100.0, "goal": 50},
        {"name": "share", "original": {"share": 0.2}, "ours": {"share": 0.02}, "goal": 0.05},
    ]
    rows = [{"reached": True} | row for row in rows]
    points = [{"boxes": n, "median_ms": n + 1.0, "MiB": 2.0 * n, "compiled": {"median_ms": n + 0.5}} for n in (1, 10)]
    steps = [{"case": "assign", "lane": lane, "undone": "x", **side, "times_slower": 1.0} for lane in ("eager", "c")]
    record = {"rows": rows, "growth": {"boxes": points}, "steps": steps, "compilations": {"graphs": 7, "seconds": 61.3}}
    lines = [line.split() for line in head.table(record).splitlines()]
    assert lines[1] == ["fast", "90.0", "ms", "2.00", "45.0x", "1.00", "90.0x", "40x", "eager"]
    assert lines[2][-1] == "none"
    assert " ".join(lines[3]) == "alone, its class sum takes 1.25 ms, one pass over the pairs takes 0.50 ms"
    assert lines[4] == ["small", "500.0", "MiB", "5.00", "100.0x", "50x", "eager"]
    assert lines[5] == ["share", "20.0%", "2.0%", "5%", "eager"]
    assert ["x", "2.00", "ms", "1.00x"] in lines
    assert ["x,", "compiled", "2.00", "ms", "1.00x"] in lines
    assert ["eager", "1:", "2.0", "10:", "11.0"] in lines
    assert ["compiled", "1:", "1.5", "10:", "10.5"] in lines
    assert ["MiB", "1:", "2.0", "10:", "20.0"] in lines
    assert " ".join(lines[-1]) == "compiled 7 graphs in 61 s, which no row counts"


def test_without_the_reference_environment_it_says_how_to_build_it(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/head.py"), "--reference", str(tmp_path / "python")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert "build the reference environment with bash" in found.stderr


def test_the_record_has_every_row(head: ModuleType) -> None:
    record = json.loads(head.RESULT.read_text(encoding="utf-8"))
    recorded = [row["name"] for row in record["rows"] if not row["name"].startswith("COCO-like")]
    assert recorded == [row.name for row in (*head.RATIOS, *head.SHARES, head.MEMORY)]
    assert record["growth"].keys() == head.GROWTH.keys()
    assert record["machine"].keys() == {"cpu", "cores", "threads"}
    assert record["versions"]["original"]["mmdet"] == "3.3.0"
    assert head.table(record).count("\n") > 20


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference environment, which make bench makes")
def test_both_sides_answer_alike(head: ModuleType, tmp_path: Path) -> None:
    pythons = (str(REFERENCE), "original"), (sys.executable, "ours")
    sides = [head.Side(python, name, 1, tmp_path, head.KEEP_MEMORY) for python, name in pythons]
    try:
        for case in (CASE, CASE.replace("assign", "given"), "loss 64 2 6 5"):
            head.check(case, *(side.answer(case) for side in sides[::-1]))
    finally:
        for side in sides:
            side.close()
