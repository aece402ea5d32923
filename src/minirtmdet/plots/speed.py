"""Pictures of what a benchmark recorded, as ratios, and of who waits for whom."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np

from minirtmdet.plots.canvas import BOXES, CARD, INK, MUTED, box_color, ink_on, new_figure, styled

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

REACHED, MISSED = BOXES[0], BOXES[1]
WAITING = "waiting"
Spans = Sequence[tuple[str, float, float]]
"""Name, begin and end of what one worker does."""


@styled
def ratios(rows: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """How many times faster, or smaller, than the original, each bar with its goal.

    Args:
        rows: ``name``, ``ratio`` and ``goal`` of each, as ``benchmarks/head.py`` records them; rows without a ratio
            are left out.

    Raises:
        ValueError: where no row has a ratio.
    """
    rows = [row for row in rows if "ratio" in row]
    if not rows:
        raise ValueError("no row has a ratio: give the rows of a record of benchmarks/head.py")
    reached = [row["ratio"] >= row["goal"] for row in rows]
    ahead = sum(row["ratio"] > 1 for row in rows)
    title = f"Ahead of the original in {ahead} of {len(rows)} rows, at the goal or beyond in {sum(reached)}"
    figure = new_figure(title, 0.36 * len(rows) + 0.9)
    ax = figure.subplots()
    for i, (row, good) in enumerate(zip(rows, reached, strict=True)):
        ax.barh(
            i, row["ratio"] - 1, left=1, color=REACHED if good else MISSED, height=0.62, hatch=None if good else "//"
        )
        ax.plot([row["goal"]] * 2, [i - 0.42, i + 0.42], color=INK, lw=2)
        _at_end(ax, i, max(row["ratio"], row["goal"]), times(row["ratio"]))
    _logarithmic(ax, [row["name"] for row in rows], "times as fast, or as small, as the original")
    _legend(
        figure,
        {
            "goal reached": {"color": REACHED},
            "goal missed": {"facecolor": MISSED, "hatch": "//"},
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
        for shift, side, color in ((-0.2, "original", MUTED), (0.2, "ours", REACHED)):
            ax.barh(i + shift, row[side]["share"], color=color, height=0.36)
            _at_end(ax, i + shift, row[side]["share"], f"{row[side]['share']:.0%}")
        ax.plot([row["goal"]] * 2, [i, i + 0.42], color=INK, lw=2)
    _names(ax, [row["name"].removeprefix("share of a step, ") for row in rows])
    ax.set(xlabel="share of the step's time", xlim=(0, 1.15 * max(row["original"]["share"] for row in rows)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure, {"original": {"color": MUTED}, "this package": {"color": REACHED}, "goal": {"color": INK}})
    return figure


@styled
def steps_undone(steps: Sequence[Mapping[str, Any]]) -> "matplotlib.figure.Figure":
    """How many times longer the assignment takes when one step of the way is undone.

    Args:
        steps: ``undone`` and ``times_slower``, the first with nothing undone; whole lanes (``everything``, and
            ``nothing`` in another way) are grey.

    Raises:
        ValueError: where there is nothing but the first.
    """
    rows = steps[1:]
    if not rows:
        raise ValueError("nothing was undone: give the steps of a record of benchmarks/head.py")
    whole = [row["undone"].startswith(("everything", "nothing")) for row in rows]
    worst = max(rows, key=lambda row: row["times_slower"])
    figure = new_figure(
        f"Undone: {worst['undone']} costs most: {times(worst['times_slower'])} the time", 0.36 * len(rows) + 0.6
    )
    ax = figure.subplots()
    for i, (row, grey) in enumerate(zip(rows, whole, strict=True)):
        color = MUTED if grey else REACHED
        ax.barh(i, row["times_slower"] - 1, left=1, color=color, height=0.62)
        _at_end(ax, i, max(row["times_slower"], 1), times(row["times_slower"]))
    _logarithmic(ax, [row["undone"] for row in rows], "times as long as with nothing undone")
    return figure


@styled
def growth(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> "matplotlib.figure.Figure":
    """Time against the number of boxes, images and classes, in multiples of the largest case's.

    Args:
        record: by axis, points with the number under the axis's name, and ``median_ms``, ``low_ms``, ``high_ms``.

    Raises:
        ValueError: where there is no axis.
    """
    if not record:
        raise ValueError("no axis to draw: give the growth of a record of benchmarks/head.py")
    figure = new_figure(f"Time against the number of {', '.join(record)}; dashed: proportional", 2.5)
    for i, (ax, (axis, points)) in enumerate(
        zip(figure.subplots(1, len(record), squeeze=False)[0], record.items(), strict=True)
    ):
        x = np.array([point[axis] for point in points])
        middle, low, high = (np.array([point[f"{name}_ms"] for point in points]) for name in ("median", "low", "high"))
        unit = middle[-1]
        ax.fill_between(x, low / unit, high / unit, color=box_color(i), alpha=0.2, lw=0)
        ax.plot([0, x[-1]], [0, 1], "--", color=MUTED, lw=1)
        ax.plot(x, middle / unit, "o-", color=box_color(i), lw=1.6, ms=3.5)
        ax.set(xlabel=axis, xlim=(0, 1.04 * x[-1]), ylim=(0, None), title=f"up to {x[-1]:,} {axis}")
        ax.locator_params(nbins=5)
    figure.axes[0].set_ylabel("share of the largest case's time")
    return figure


@styled
def timeline(runs: Mapping[str, Mapping[str, Spans]], *, title: str, xlabel: str) -> "matplotlib.figure.Figure":
    """Who is busy when: a panel a run, a row a worker, a block a piece of work.

    Args:
        runs: by the run's name, what each worker does; pieces that are called ``waiting`` are drawn as gaps.
        title: what the picture shows, in a sentence.
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


def _legend(figure: "matplotlib.figure.Figure", patches: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(label=label, **style) for label, style in patches.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
