"""What the chapter on one's own data says of its records, beyond the tables that it prints."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CELLS = json.loads((ROOT / "book" / "own_data.ipynb").read_text(encoding="utf-8"))["cells"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")


def records(data: str, *runs: str) -> list[dict[str, Any]]:
    files = [ROOT / "benchmarks" / "results" / f"{data}-{run}.json" for run in runs]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def aps(found: list[dict[str, Any]]) -> list[float]:
    return [record["metrics"]["AP"] for record in found]


def test_on_the_cards_the_seeds_lie_further_apart_than_the_two_ways() -> None:
    recipe, plain = (aps(records("cards", run, f"{run}-seed-1")) for run in ("recipe", "plain"))
    means = sum(recipe) / 2, sum(plain) / 2
    assert f"at {means[0]:.3f} on average with the recipe, at {means[1]:.3f} without" in TEXT
    apart = max(recipe) - min(recipe)
    assert f"almost {apart:.2f} apart, ten times as far as the two means" in TEXT
    assert 0.07 < apart < 0.08
    assert 10 <= apart / abs(means[0] - means[1]) < 11
    assert min(recipe) < min(plain) <= max(plain) < max(recipe)  # one run of each: a gain, or a loss


def test_the_classes_of_the_cards() -> None:
    runs = records("cards", "recipe", "recipe-seed-1", "plain", "plain-seed-1")
    classes = [{name: found["AP"] for name, found in record["by_class"].items()} for record in runs]
    for found in classes:
        order = sorted(found, key=found.__getitem__)
        assert order[0] == "queen"
        assert {"nine", "ten"} <= set(order[3:])
    moved = {name: abs(classes[0][name] - classes[1][name]) for name in classes[0]}
    assert f"differ in, by {moved.pop('queen'):.2f} and {moved.pop('jack'):.2f} AP" in TEXT
    assert max(moved.values()) <= 0.07
    assert "no other class moves by more than 0.07" in TEXT
    assert ap_rises_to_the_end(runs)
    assert f"After {runs[0]['images_seen']:,} images" in TEXT


def ap_rises_to_the_end(runs: list[dict[str, Any]]) -> bool:
    """Whether AP still rises in the last tenth of each run."""
    curves = [dict(zip(run["evaluations"]["epoch"], run["evaluations"]["AP"], strict=True)) for run in runs]
    return all(curve[90] < curve[100] for curve in curves)


def test_on_the_blood_cells_no_run_with_the_recipe_reaches_one_without() -> None:
    recipe = aps(records("bccd", "recipe", "recipe-seed-1", "recipe-slivers"))
    plain = aps(records("bccd", "plain", "plain-seed-1"))
    assert max(recipe) < min(plain)
    assert f"{sum(plain) / 2 - sum(recipe[:2]) / 2:.2f}" == "0.01"  # about a hundredth
    assert max(plain) - min(plain) < 0.01
    assert max(recipe[:2]) - min(recipe[:2]) < 0.01
