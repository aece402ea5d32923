from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from minirtmdet import plots
from minirtmdet.data.augment import Sample
from minirtmdet.plots.canvas import BOXES, THINGS

CLASSES = ("cat", "dog")


def sample(boxes: list[list[float]], labels: list[int], ignore: list[bool] | None = None) -> Sample:
    return Sample(
        image=np.zeros((30, 40, 3), np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        ignore=np.array(ignore or [False] * len(labels), bool),
        image_id=1,
        path=Path("a.png"),
        original_size=(30, 40),
        img_shape=(30, 40),
    )


def test_a_contact_sheet_names_each_box_and_dashes_what_is_ignored() -> None:
    samples = [sample([[1, 2, 11, 22], [0, 0, 40, 30]], [1, 0], [False, True]), sample([], [])]
    figure = plots.contact_sheet(samples, CLASSES)
    assert figure.get_suptitle() == "Labels: 2 boxes in 2 images"
    left, right = figure.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["2 boxes", "0 boxes"]
    assert [text.get_text() for text in left.texts] == ["dog", "cat"]
    rectangles = [patch for patch in left.patches if isinstance(patch, Rectangle)]
    assert [patch.get_linestyle() for patch in rectangles] == ["solid", "--"]
    assert rectangles[0].get_bbox().extents.tolist() == [1, 2, 11, 22]
    assert not right.patches


def test_a_class_has_one_colour_on_sheets_and_among_sizes() -> None:
    classes = ("car", "dog")  # the car's own colour, and the first one that is left
    [sheet] = plots.contact_sheet([sample([[1, 2, 11, 22], [0, 0, 40, 30]], [0, 1])], classes).axes
    [sizes] = plots.box_sizes({name: np.array([[9.0, 9.0]]) for name in classes}, 64).axes
    outlines = [to_hex(patch.get_edgecolor()) for patch in sheet.patches if isinstance(patch, Rectangle)]
    dots = [line.get_color() for line in sizes.lines if line.get_marker() == "o"]
    assert outlines == dots == [THINGS["car"], BOXES[0]]


def test_a_contact_sheet_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one"):
        plots.contact_sheet([], CLASSES)
    with pytest.raises(ValueError, match=r"image 0: labels 2\.\.2, but only 2 class names"):
        plots.contact_sheet([sample([[0, 0, 1, 1]], [2])], CLASSES)


def test_box_sizes_are_dots_with_a_median() -> None:
    sizes = {"cat": np.array([[4.0, 9.0], [16.0, 16.0], [32.0, 8.0]]), "$1": np.zeros((0, 2))}
    figure = plots.box_sizes(sizes, 64)
    assert figure.get_suptitle() == "3 boxes at 64 px: 1 below stride 8, half of them below 16 px"
    (ax,) = figure.axes
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    assert dots.get_xdata().tolist() == [6, 16, 16]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"] == [16]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cat (3)", "$1 (0)"]
    with pytest.raises(ValueError, match="no box"):
        plots.box_sizes({"cat": np.zeros((0, 2))}, 64)
