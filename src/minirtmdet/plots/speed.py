"""Figures of what a benchmark recorded, as ratios, and of who waits for whom."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from minirtmdet.plots.canvas import BOXES, CARD, INK, MUTED, box_color, ink_on, new_figure, styled

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

EAGER, COMPILED = BOXES[0], BOXES[2]
WAITING = "waiting"
Spans = Sequence[tuple[str, float, float]]
"""Name, begin and end of what one worker does."""


@styled
def ratios(rows: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """How many times faster, or smaller, than MMDetection: a bar for each lane, and the goal across both.

    Args:
        rows: ``name``, ``ratio``, ``goal`` and ``reached`` of each, and ``ratio_compiled`` where the row has it, as
            ``benchmarks/head.py`` records them; rows without a ratio are left out.

    Raises:
        ValueError: where no row has a ratio.
    """
    rows = [row for row in rows if "ratio" in row]
    if not rows:
        raise ValueError("no row has a ratio: give the rows of a record of benchmarks/head.py")
    reached = sum(row["reached"] for row in rows)
    figure = new_figure(f"The goal is reached, by one lane at least, in {reached} of {len(rows)} rows", 0.5 * len(rows))
    ax = figure.subplots()
    for i, row in enumerate(rows):
        lanes = [(row["ratio"], EAGER), (row.get("ratio_compiled"), COMPILED)]
        lanes = [(ratio, color) for ratio, color in lanes if ratio is not None]
        height = 0.38 if len(lanes) > 1 else 0.5
        for (ratio, color), y in zip(lanes, (i - 0.2, i + 0.2) if len(lanes) > 1 else (i,), strict=True):
            hatch = None if ratio >= row["goal"] else "//"
            ax.barh(y, ratio - 1, left=1, color=color, height=height, hatch=hatch)
            _at_end(ax, y, max(ratio, row["goal"]), times(ratio))
        ax.plot([row["goal"]] * 2, [i - 0.44, i + 0.44], color=INK, lw=2)
    _logarithmic(ax, [row["name"] for row in rows], "times as fast, or as small, as MMDetection")
    _legend(
        figure,
        {
            "eager": {"color": EAGER},
            "compiled": {"color": COMPILED},
            "below the goal": {"facecolor": CARD, "edgecolor": INK, "hatch": "//"},
            "goal": {"color": INK},
        },
    )
    return figure


@styled
def shares(rows: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """What part of a training step lies between the network's maps and their gradients, beside its goal.

    Args:
        rows: ``name``, ``goal`` and the ``share`` of ``original`` and ``ours``; rows without shares are left out.

    Raises:
        ValueError: where no row has shares.
    """
    rows = [row for row in rows if "share" in row["ours"]]
    if not rows:
        raise ValueError("no row has shares: give the rows of a record of benchmarks/head.py")
    worst = max(row["ours"]["share"] for row in rows)
    figure = new_figure(f"Targets and losses take at most {worst:.0%} of a training step here", 0.8 * len(rows) + 0.9)
    ax = figure.subplots()
    for i, row in enumerate(rows):
        for shift, side, color in ((-0.2, "original", MUTED), (0.2, "ours", EAGER)):
            ax.barh(i + shift, row[side]["share"], color=color, height=0.36)
            _at_end(ax, i + shift, row[side]["share"], f"{row[side]['share']:.0%}")
        ax.plot([row["goal"]] * 2, [i, i + 0.42], color=INK, lw=2)
    _names(ax, [row["name"].removeprefix("share of a step, ") for row in rows])
    ax.set(xlabel="share of the step's time", xlim=(0, 1.15 * max(row["original"]["share"] for row in rows)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure, {"MMDetection": {"color": MUTED}, "this package": {"color": EAGER}, "goal": {"color": INK}})
    return figure


@styled
def steps_undone(steps: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """How many times longer a case takes when one step of the way is undone.

    Args:
        steps: ``undone``, ``lane`` and ``times_slower``, the first with nothing undone; ``everything`` is grey.

    Raises:
        ValueError: where there is nothing but the first.
    """
    rows = steps[1:]
    if not rows:
        raise ValueError("nothing was undone: give the steps of a record of benchmarks/head.py")
    worst = max(rows, key=lambda row: row["times_slower"])
    title = f"Undone: {worst['undone']} costs most: {times(worst['times_slower'])} the time"
    figure = new_figure(title, 0.36 * len(rows) + 0.9)
    ax = figure.subplots()
    for i, row in enumerate(rows):
        color = MUTED if row["undone"] == "everything" else COMPILED if row["lane"] == "compiled" else EAGER
        ax.barh(i, row["times_slower"] - 1, left=1, color=color, height=0.62)
        _at_end(ax, i, max(row["times_slower"], 1), f"{row['times_slower']:.2f}x")
    _logarithmic(ax, [row["undone"] for row in rows], "times as long as eager with nothing undone")
    lanes = {"eager": EAGER, "compiled": COMPILED}
    _legend(figure, {name: {"color": lanes[name]} for name in dict.fromkeys(row["lane"] for row in rows)})
    return figure


@styled
def growth(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> "matplotlib.figure.Figure":
    """Time of both lanes against the number of boxes, images or the like, in multiples of the largest case's, eager.

    Args:
        record: by axis, points with the number under the axis's name, and ``median_ms``, ``low_ms``, ``high_ms``;
            the same under ``compiled``.  Where every point has the peak memory of the eager lane as ``MiB``, a second
            row shows it.

    Raises:
        ValueError: where there is no axis.
    """
    if not record:
        raise ValueError("no axis to draw: give the growth of a record of benchmarks/head.py")
    memory = all("MiB" in point for points in record.values() for point in points)
    title = f"Time{' and memory' * memory} against the number of {', '.join(record)}; dashed: proportional"
    figure = new_figure(title, 5.0 if memory else 2.8)
    panels = figure.subplots(2 if memory else 1, len(record), squeeze=False, sharex="col")
    for column, (axis, points) in zip(panels.T, record.items(), strict=True):
        x = np.array([point[axis] for point in points])
        unit = points[-1]["median_ms"]
        for lane, color in ((points, EAGER), ([point["compiled"] for point in points], COMPILED)):
            low, middle, high = (
                np.array([point[f"{name}_ms"] for point in lane]) / unit for name in ("low", "median", "high")
            )
            column[0].fill_between(x, low, high, color=color, alpha=0.2, lw=0)
            _grown(column[0], x, middle, color)
        if memory:
            _grown(column[1], x, np.array([point["MiB"] for point in points]), EAGER)
        column[0].set(title=f"up to {x[-1]:,} {axis}", xlim=(0, 1.04 * x[-1]))
        column[-1].set(xlabel=axis)
    for ax in panels.flat:
        ax.set_ylim(0, None)  # last: from then on the axis no longer follows what is drawn
    for ax, label in zip(panels[:, 0], ("share of the largest\ncase's time, eager", "MiB at the peak"), strict=False):
        ax.set_ylabel(label)
    _legend(figure, {"eager": {"color": EAGER}, "compiled": {"color": COMPILED}})
    return figure


def _grown(ax: "matplotlib.axes.Axes", x: "np.ndarray", y: "np.ndarray", color: str) -> None:
    """A line through its points, and the straight one from nothing to the last of them."""
    ax.plot([0, x[-1]], [0, y[-1]], "--", color=MUTED, lw=1)
    ax.plot(x, y, "o-", color=color, lw=1.6, ms=3.5)
    ax.locator_params(axis="y", nbins=5)
    ax.locator_params(axis="x", nbins=3)


@styled
def timeline(runs: Mapping[str, Mapping[str, Spans]], *, title: str, xlabel: str) -> "matplotlib.figure.Figure":
    """Who is busy when: a panel a run, a row a worker, a block a piece of work.

    Args:
        runs: by the run's name, what each worker does; pieces that are called ``waiting`` are drawn as gaps.
        title: what the figure shows, in a sentence.
        xlabel: unit of time.
    """
    workers = sum(len(run) for run in runs.values())
    figure = new_figure(title, 0.34 * workers + 0.36 * len(runs) + 0.4)
    heights = [len(run) + 0.4 for run in runs.values()]
    axes = figure.subplots(len(runs), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    end = max(stop for run in runs.values() for spans in run.values() for _, _, stop in spans)
    names: list[str] = []
    for ax, (run_name, run) in zip(axes, runs.items(), strict=True):
        for row, spans in enumerate(run.values()):
            for name, start, stop in spans:
                if name == WAITING:
                    ax.barh(row, stop - start, left=start, color=CARD, ec=MUTED, height=0.3, hatch="////", lw=0.5)
                    continue
                names += [name] * (name not in names)
                color = box_color(names.index(name))
                ax.barh(row, stop - start, left=start, color=color, ec=CARD, height=0.72, lw=1)
                if stop - start > 0.02 * end * len(name):
                    ax.text((start + stop) / 2, row, name, color=ink_on(color), size=7.5, ha="center", va="center")
        _names(ax, list(run))
        ax.set(title=run_name, xlim=(0, end))
    axes[-1].set_xlabel(xlabel)
    return figure


def times(ratio: float) -> str:
    """A ratio to read: a whole number from 20 on, more digits below.

    >>> [times(ratio) for ratio in (0.274, 1.14, 11.62, 24.65)]
    ['0.27x', '1.1x', '11.6x', '25x']
    """
    return f"{ratio:.2f}x" if ratio < 1 else f"{ratio:.1f}x" if ratio < 20 else f"{ratio:.0f}x"


def _at_end(ax: "matplotlib.axes.Axes", y: SupportsFloat, x: SupportsFloat, text: str) -> None:
    ax.annotate(text, (float(x), float(y)), xytext=(4, 0), textcoords="offset points", va="center", size=8)


def _names(ax: "matplotlib.axes.Axes", names: Sequence[str]) -> None:
    """One row a name, the first on top."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def _logarithmic(ax: "matplotlib.axes.Axes", names: Sequence[str], xlabel: str) -> None:
    """Rows of ratios: bars begin at 1, and equal factors are equally long."""
    ax.set_xscale("log")
    _names(ax, names)
    left, right = ax.get_xlim()
    ax.set(xlabel=xlabel, xlim=(left, 1.5 * right))
    ax.axvline(1, color=MUTED, lw=1)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    # within a factor of ten the powers of ten alone say too little
    ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}x" if right < 10 else "")


def _legend(figure: "matplotlib.figure.Figure", patches: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(label=label, **style) for label, style in patches.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
