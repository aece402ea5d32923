"""Images of a benchmark's record: every number of the record is on the card."""

import pytest
from matplotlib.colors import to_hex

from minirtmdet import plots
from minirtmdet.plots.speed import COMPILED, EAGER

ROWS = [
    {"name": "assign, 1 box", "ratio": 0.26, "ratio_compiled": 0.5, "goal": 2, "reached": False, "ours": {}},
    {"name": "assign, 10 boxes", "ratio": 8.3, "ratio_compiled": 25.0, "goal": 10, "reached": True, "ours": {}},
    {"name": "prediction", "ratio": 7.5, "ratio_compiled": None, "goal": 5, "reached": True, "ours": {}},
    {"name": "memory", "ratio": 214.4, "goal": 50, "reached": True, "ours": {}},
    {"name": "share of a step, 640 px", "goal": 0.05, "original": {"share": 0.16}, "ours": {"share": 0.02}},
]
STEPS = [
    {"undone": "nothing", "lane": "eager", "times_slower": 1.0},
    {"undone": "closed form", "lane": "eager", "times_slower": 34.2},
    {"undone": "everything", "lane": "eager", "times_slower": 1.14},
    {"undone": "nothing", "lane": "compiled", "times_slower": 0.54},
]
SPREAD = {"median_ms": 1.0, "low_ms": 0.0, "high_ms": 3.0}
POINTS = [{"boxes": n, **{name: n + value for name, value in SPREAD.items()}} for n in (1, 9, 99)]
POINTS = [point | {"compiled": {name: point[name] / 2 for name in SPREAD}} for point in POINTS]


def written(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def names(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_ratios_show_both_lanes_and_hatch_what_is_below_the_goal() -> None:
    figure = plots.ratios(ROWS)
    [ax] = figure.axes
    assert figure.get_suptitle() == "The goal is reached, by one lane at least, in 3 of 4 rows"
    assert written(figure) == ["0.26x", "0.50x", "8.3x", "25x", "7.5x", "214x"]
    assert names(ax) == ["assign, 1 box", "assign, 10 boxes", "prediction", "memory"]
    lanes = [EAGER, COMPILED, EAGER, COMPILED, EAGER, EAGER]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == lanes
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [True, True, True, False, False, False]
    assert [bar.get_x() + bar.get_width() for bar in ax.patches] == pytest.approx([0.26, 0.5, 8.3, 25, 7.5, 214.4])
    assert [line.get_xdata()[0] for line in ax.lines[:4]] == [2, 10, 5, 50]


def test_shares_stand_side_by_side() -> None:
    figure = plots.shares(ROWS)
    assert names(figure.axes[0]) == ["640 px"]
    assert written(figure) == ["16%", "2%"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.16, 0.02]


def test_the_step_that_is_worth_most_is_in_the_title() -> None:
    figure = plots.steps_undone(STEPS)
    assert figure.get_suptitle() == "Undone: closed form costs most: 34x the time"
    assert written(figure) == ["34.20x", "1.14x", "0.54x"]
    colors = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]
    assert len(set(colors)) == 3
    assert (colors[0], colors[2]) == (EAGER, COMPILED)


def test_growth_is_a_share_of_the_largest_case() -> None:
    figure = plots.growth({"boxes": POINTS, "again": [{**point, "again": point["boxes"]} for point in POINTS]})
    assert [ax.get_xlabel() for ax in figure.axes] == ["boxes", "again"]
    proportion, eager, other, compiled = figure.axes[0].lines
    assert eager.get_ydata().tolist() == [0.02, 0.1, 1.0]
    assert compiled.get_ydata().tolist() == [0.01, 0.05, 0.5]
    assert list(proportion.get_xdata()) == list(other.get_xdata()) == [0, 99]
    assert list(other.get_ydata()) == [0, 0.5]


def test_growth_has_room_for_the_bands_of_both_lanes() -> None:
    slower = [
        {**point, "compiled": {name: 3 * point[name] for name in ("low_ms", "median_ms", "high_ms")}}
        for point in POINTS
    ]
    (time,) = plots.growth({"boxes": slower}).axes
    assert time.get_ylim()[0] == 0
    assert time.get_ylim()[1] > 3 * POINTS[-1]["high_ms"] / POINTS[-1]["median_ms"]


def test_memory_is_shown_below_the_time_where_it_was_measured() -> None:
    points = [{**point, "MiB": 3.0 * point["boxes"]} for point in POINTS]
    figure = plots.growth({"boxes": points})
    time, memory = figure.axes
    assert "Time and memory" in figure.get_suptitle()
    proportion, peaks = memory.lines
    assert peaks.get_ydata().tolist() == [3, 27, 297]
    assert list(proportion.get_ydata()) == [0, 297]
    assert (time.get_xlabel(), memory.get_xlabel(), memory.get_ylabel()) == ("", "boxes", "MiB at the peak")


def test_a_timeline_has_a_panel_a_run_and_hatched_waiting() -> None:
    runs = {
        "reads": {"host": [("launch", 0.0, 1.0), ("waiting", 1.0, 4.0)], "device": [("run", 1.0, 4.0)]},
        "none": {"host": [("launch", 0.0, 1.0)]},
    }
    figure = plots.timeline(runs, title="Who waits", xlabel="units")
    first, second = figure.axes
    assert (first.get_title("left"), second.get_title("left")) == ("reads", "none")
    assert names(first) == ["host", "device"]
    launch, waiting, run = first.patches
    assert waiting.get_hatch()
    assert not launch.get_hatch()
    assert to_hex(launch.get_facecolor()) != to_hex(run.get_facecolor())
    assert (waiting.get_x(), waiting.get_width()) == (1, 3)
    assert written(figure) == ["launch", "run", "launch"]


@pytest.mark.parametrize(
    ("draw", "record"),
    [(plots.ratios, ROWS[4:]), (plots.shares, ROWS[:4]), (plots.steps_undone, STEPS[:1]), (plots.growth, {})],
)
def test_nothing_to_draw_is_said(draw, record) -> None:
    with pytest.raises(ValueError, match=r"benchmarks/head\.py"):
        draw(record)
