"""A rule is changed where it belongs, both courses are printed, and unknown rules are refused."""

import pytest

from minirtmdet import judge
from minirtmdet.judge import rules


@pytest.fixture(autouse=True)
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "STEPS", 1)


def test_a_rule_changes_a_training() -> None:
    official, other = rules.train({}), rules.train({"topk": 1})
    assert len(official.rows) == 1
    assert other.rows[0].positives == 11 / 4  # one for each box
    assert official.rows[0].positives > 2 * other.rows[0].positives


def test_losses_and_network_are_changed_too() -> None:
    changed = rules.train({"beta": 0.0, "bbox_weight": 4.0, "exp_on_reg": False}).rows[0]
    assert changed.iou < 0.1  # boxes begin without size
    assert changed.loss_cls > 10 * changed.loss_bbox


def test_both_courses_are_printed_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    judge.watch(topk=1, seed=1)
    title, columns, *rows, end = capsys.readouterr().out.splitlines()
    assert title.split() == ["RTMDet", "topk=1"]
    assert columns.split() == ["step", *["loss_cls", "loss_bbox", "positives", "IoU"] * 2]
    assert [row.split()[0] for row in rows] == ["0"]
    assert end.count("of 11 boxes found") == 2
    assert max(map(len, (title, columns, *rows, end))) <= 88


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no rule 'top_k': did you mean topk\?"):
        judge.watch(top_k=1)
    with pytest.raises(ValueError, match="the rules are deepen_factor"):
        judge.watch(zzzz=1)
    with pytest.raises(ValueError, match="no rule is changed"):
        judge.watch()
