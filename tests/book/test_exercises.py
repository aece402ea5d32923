"""The exercises: what has a judge is asked in its chapter, solutions are right, verdicts that are shown are real."""

import ast
import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minirtmdet import judge
from minirtmdet.judge import session

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CHECK = re.compile(r"judge\.check\(\"(\w+)\", ")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SOLUTION = re.compile(r"^`{3,4}\{solution\}.*?^`{4}$", re.DOTALL | re.MULTILINE)


@cache
def cells(chapter: str) -> list[dict[str, Any]]:
    return json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def solutions(chapter: str) -> tuple[str, str]:
    """Everything in dropdowns with solutions: their text, and their code."""
    prose, code, inside = [], [], False
    for cell in cells(chapter):
        if cell["cell_type"] == "code":
            code += [text(cell)] if inside else []
            continue
        for part in re.split(r"^(`{3,4}\{solution-(?:start|end)\}.*)$", text(cell), flags=re.MULTILINE):
            if "{solution-" in part:
                inside = "{solution-start}" in part
            prose += [part] if inside else SOLUTION.findall(part)
    code += BLOCK.findall("\n".join(prose))
    return "\n".join(prose), "\n".join(code)


def definitions(source: str, *kinds: type[ast.stmt]) -> ast.Module:
    """The statements of some kinds alone: a solution is judged without the chapter that leads to it."""
    without_commands = re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    found = [node for node in ast.parse(without_commands).body if isinstance(node, kinds)]
    return ast.Module(found, [])


def checks(source: str) -> dict[str, str]:
    """What ``judge.check`` is called with: exercise and the function's expression."""
    calls = re.findall(r"judge\.check\(.*\)", source)
    nodes = [ast.parse(call.rstrip("`.")).body[0].value for call in calls]  # type: ignore[attr-defined]
    return {node.args[0].value: ast.unparse(node.args[1]) for node in nodes}


def test_every_exercise_with_a_judge_is_asked_and_solved_in_its_chapter() -> None:
    for chapter in session.CHAPTERS:
        markdown = "\n".join(text(cell) for cell in cells(chapter) if cell["cell_type"] == "markdown")
        solved = checks(solutions(chapter)[0])
        expected = {name for name, exercise in session.ALL.items() if exercise.chapter == chapter}
        assert set(solved) == expected, chapter
        asked = CHECK.findall(markdown)
        assert all(asked.count(name) >= 2 for name in expected), f"{chapter}: asked {asked}, solved {solved}"


@pytest.mark.parametrize("chapter", session.CHAPTERS)
def test_the_judge_accepts_the_solutions(chapter: str) -> None:
    prose, code = solutions(chapter)
    names: dict[str, Any] = {}
    imports = "\n".join(
        text(cell) for cell in cells(chapter) if cell["cell_type"] == "code" and cell["id"] != "install"
    )
    exec(compile(definitions(imports, ast.Import, ast.ImportFrom), chapter, "exec"), names)
    exec(compile(definitions(code, ast.Import, ast.FunctionDef), chapter, "exec"), names)
    for name, function in checks(prose).items():
        found = judge.verdict(name, eval(function, names))
        assert found.right, str(found)


def test_what_the_page_shows_is_what_the_judge_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_SESSION", {name: session.Record() for name in session.ALL})
    page = (BOOK / "exercises.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    shown = 0
    for source, output in re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page, flags=re.DOTALL):
        if "watch" in source:
            continue  # trains
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(source, "exercises.md", "exec"), names)
        assert said.getvalue() == output
        shown += bool(output)
    assert shown == 4


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_exercise_has_a_solution_and_every_check_an_exercise(path: Path) -> None:
    page = "\n".join(text(cell) for cell in cells(path.stem) if cell["cell_type"] == "markdown")
    asked = re.findall(r"\{exercise\}\n:label: (\S+)", page)
    assert len(asked) >= 3
    assert sorted(asked) == sorted(re.findall(r"\{solution(?:-start)?\} (\S+)", page))
    assert set(CHECK.findall(page)) <= set(session.ALL)


def test_what_solutions_say_of_changed_rules_is_true_of_every_seed() -> None:
    """Of the numbers and comparisons in the exercises that end with ``-watch``."""
    record = json.loads((ROOT / "benchmarks" / "results" / "rules.json").read_text(encoding="utf-8"))
    runs = {json.dumps(row["rules"]): row["runs"] for row in record["rows"]}
    official = runs["{}"]
    assert len(official) == 4

    def each(rule: str, key: str) -> tuple[float, float]:
        values = [run[key] for run in runs[rule].values()]
        return min(values), max(values)

    assert each("{}", "found") == (10, 11)
    assert 0.87 < each("{}", "IoU")[0] < each("{}", "IoU")[1] < 0.895
    assert 1.15 < each("{}", "first loss_cls")[0] < each("{}", "first loss_cls")[1] < 1.26
    assert {round(value, 2) for value in each("{}", "first IoU")} == {0.46}
    # head_construction
    shared = '{"separate_bn": false}'
    assert [round(value, 2) for value in each(shared, "IoU")] == [0.89, 0.92]
    assert each(shared, "found") == (11, 11)
    assert 250 < each(shared, "drawn")[0] < each(shared, "drawn")[1] < 400
    assert each("{}", "drawn") == (10, 13)
    # priors
    assert each('{"prior_offset": 0.5}', "found") == (9, 11)
    assert each('{"prior_offset": 0.5}', "first positives")[1] < each("{}", "first positives")[0]
    # coder
    no_exp = '{"exp_on_reg": false}'
    assert {round(value, 2) for value in each(no_exp, "first loss_cls")} == {0.01}
    assert each(no_exp, "first positives")[1] <= 11 / 4
    assert each(no_exp, "IoU")[1] < 0.65
    assert each(no_exp, "found") == (2, 3)
    # costs
    assert {round(value, 2) for value in each('{"iou_weight": 0.0}', "first IoU")} == {0.14}
    assert {round(value, 2) for value in each('{"iou_weight": 0.0}', "first loss_cls")} == {0.11}
    assert each('{"iou_weight": 0.0}', "found")[1] == 4
    wide = runs['{"soft_center_radius": 30.0}']
    assert all(wide[seed]["found"] == official[seed]["found"] for seed in official)
    # matching
    one = '{"topk": 1}'
    assert [round(value, 2) for value in each(one, "IoU")] == [0.96, 0.98]
    assert each(one, "found") == each(one, "drawn") == (11, 11)
    many = runs['{"topk": 50}']
    assert all(many[seed]["positives"] > official[seed]["positives"] for seed in official)
    assert all(many[seed]["IoU"] < official[seed]["IoU"] for seed in official)
    # sampling
    silent = '{"cls_weight": 0.0}'
    assert [round(value, 2) for value in each(silent, "IoU")] == [0.76, 0.86]
    assert each(silent, "positives")[0] > 20
    assert each(silent, "drawn") == (0, 0)
    # losses
    plain, boxless = '{"beta": 0.0}', '{"bbox_weight": 0.0}'
    assert each(plain, "first loss_cls")[0] > 10 * each("{}", "first loss_cls")[1]
    assert 0.8 < each(plain, "loss_cls")[0] < each(plain, "loss_cls")[1] < 1.3
    assert all(runs[plain][seed]["found"] == official[seed]["found"] for seed in official)
    assert [round(value, 2) for value in each(boxless, "IoU")] == [0.46, 0.47]
    assert each(boxless, "loss_cls")[1] < 0.003
    assert each(boxless, "positives")[1] <= 8.25
    assert all(runs[boxless][seed]["found"] < official[seed]["found"] for seed in official)
