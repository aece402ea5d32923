"""What the figures of thresholds draw and say."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from minirtmdet import plots
from minirtmdet.evaluation.thresholds import Calibration, Curve, best_choice, choice_at
from minirtmdet.plots.canvas import MUTED, THINGS

CURVE = Curve(
    scores=np.array([0.9, 0.6, 0.2]),
    precision=np.array([1.0, 0.5, 0.75]),
    recall=np.array([0.25, 0.25, 0.75]),
    f1=np.array([0.4, 1 / 3, 0.75]),
    boxes=4,
)
NOTHING = Curve(*(np.zeros(0) for _ in range(4)), boxes=0)


def title(figure) -> str:
    return " ".join(figure.get_suptitle().split())


def words(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_curves_are_drawn_against_the_score_with_the_best_marked():
    best = best_choice(CURVE, 0.1)
    figure = plots.threshold_curves(CURVE, {"cat": CURVE, "dog": NOTHING}, best)
    ax, of_classes = figure.axes
    precision, recall, f1, mark = ax.lines
    for line, values in ((precision, CURVE.precision), (recall, CURVE.recall), (f1, CURVE.f1)):
        np.testing.assert_array_equal(line.get_xdata(), [*CURVE.scores, best.threshold])
        np.testing.assert_array_equal(line.get_ydata(), [*values, values[-1]])
    assert mark.get_xdata()[0] == best.threshold == pytest.approx(0.15)
    assert [line.get_label() for line in of_classes.lines[:3]] == ["all together", "cat", "dog"]
    assert "at 0.15 F1 is highest, 0.750" in title(figure)
    assert "nothing is right" in title(plots.threshold_curves(NOTHING, {}, None))


@pytest.mark.parametrize(("threshold", "kept"), [(0.75, 0), (0.5, 1), (0.3, 1), (0.17, 2)])
def test_the_drawn_height_is_what_a_threshold_gives(threshold: float, kept: int):
    best = best_choice(CURVE, 0.1)
    for line in plots.threshold_curves(CURVE, {"cat": CURVE}, best).axes[1].lines[:2]:
        x, y = line.get_path().vertices.T  # in steps: level from a score down to the next
        [height] = {y[i] for i in range(len(x) - 1) if x[i + 1] < threshold < x[i]}
        assert height == choice_at(CURVE, threshold).f1 == CURVE.f1[kept]


@pytest.mark.parametrize("count", [1, 2, 6])
def test_classes_are_told_apart_by_colour_and_by_stroke(count: int):
    names = ["panda", "car", "tennis ball", "dog", "owl", "a class whose name is far too long for one column"][:count]
    figure = plots.threshold_curves(CURVE, dict.fromkeys(names, CURVE), best_choice(CURVE))
    together, *lines, _ = figure.axes[1].lines
    assert len({line.get_color() for line in (together, *lines)}) == count + 1
    assert len({(line._unscaled_dash_pattern, line.get_linewidth()) for line in (together, *lines)}) == count + 1
    assert [line.get_color() for line in lines[:3]] == list(THINGS.values())[:count]
    others = {line.get_color() for line in figure.axes[0].lines[:2]}
    assert not others & {line.get_color() for line in lines}
    for ax in figure.axes:
        box = ax.get_legend().get_window_extent()
        assert not box.overlaps(ax.bbox)
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert [text.get_text() for text in ax.get_legend().get_texts()]


def test_of_many_classes_all_are_grey_beside_the_total():
    figure = plots.threshold_curves(CURVE, {f"class {i}": CURVE for i in range(7)}, None)
    together, *lines = figure.axes[1].lines
    assert {line.get_color() for line in lines} == {MUTED} != {together.get_color()}
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["all together"]


def test_confusions_are_shares_of_a_row_with_counts():
    matrix = np.array([[6, 2, 0], [0, 3, 1], [4, 0, 0]])
    figure = plots.confusions(matrix, ["cat", "dog"])
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.images[0].get_array(), [[6 / 8, 2 / 8, 0], [0, 3 / 4, 1 / 4], [1, 0, 0]])
    assert [text.get_text() for text in ax.texts] == ["6", "2", "3", "1", "4"]
    assert "9 of 12 boxes found, 4 false detections" in title(figure)
    with pytest.raises(ValueError, match="confusions of 2 classes, but 3 names"):
        plots.confusions(matrix, ["a", "b", "c"])


def test_of_many_classes_those_with_errors_are_shown():
    matrix = np.diag(np.append(np.full(30, 5), 0))
    matrix[25, 3] = 9
    figure = plots.confusions(matrix, [f"class {i}" for i in range(30)])
    assert len(figure.axes[0].get_xticks()) == 21
    assert {"class 25", "class 3", "background"} <= set(words(figure))
    assert "10 classes with fewer errors are left out" in title(figure)


def test_reliability_has_a_bar_per_bin_that_is_not_empty():
    edges = np.linspace(0, 1, 5)
    result = Calibration(edges, np.array([0, 2, 0, 4]), np.array([0, 0.3, 0, 0.9]), np.array([0, 0.5, 0, 0.75]), 0.17)
    figure = plots.reliability(result)
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [(bar.get_x(), bar.get_height()) for bar in bars] == [(0.25, 0.5), (0.75, 0.75)]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[0.3, 0.5], [0.9, 0.75]])
    assert "0.170 apart on average" in title(figure)


def test_mistakes_are_stacked_by_kind_the_worst_class_first():
    counts = {kind: np.zeros(2, dtype=np.int64) for kind in ("class", "location", "both", "duplicate", "background")}
    counts["class"][:], counts["missed"] = (1, 0), np.array([0, 3])
    figure = plots.mistake_counts(counts, ["cat", "dog"])
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["dog", "cat"]
    drawn = [(bar.get_x(), bar.get_width()) for bar in ax.patches if bar.get_width()]
    assert drawn == [(0, 1), (0, 3)]
    assert "1 of another class" in title(figure)
    assert "3 missed" in title(figure)
