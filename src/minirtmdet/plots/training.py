"""Figures of numbers: the course of a training, and the losses."""

import csv
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from minirtmdet.head.losses import QualityFocalLoss
from minirtmdet.plots.canvas import (
    BOX_LOSS,
    BOXES,
    CLASS_LOSS,
    INK,
    LINE_STYLES,
    MUTED,
    box_color,
    new_figure,
    styled,
    to_numpy,
)
from minirtmdet.plots.grids import gt_indices, levels, named
from minirtmdet.structures import AssignResult, LossTerms

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

LOSSES = {"loss_cls": ("class loss", CLASS_LOSS, "-"), "loss_bbox": ("box loss", BOX_LOSS, "--")}
PARTS = {"class, positives": CLASS_LOSS, "box": BOX_LOSS, "class, background": MUTED}
OWN = {"class, positives": 1, "box": 2}
COUNTERS = {"lr": "learning rate", "num_pos": "positives per image", "AP": "AP"}
COMPARED = {
    "loss_cls": "class loss (log)",
    "loss_bbox": "box loss",
    "num_pos": "positives per image",
    "iou": "their mean IoU",
}


@styled
def loss_curve(rows: Sequence[Mapping[str, Any]] | Path, *, window: int | None = None) -> "matplotlib.figure.Figure":
    """The course of a training: both losses as dots with a smoothed line, and what else the log has.

    Args:
        rows: ``step``, ``loss_cls``, ``loss_bbox``, ``lr``, ``num_pos`` and now and then ``AP``, or the CSV file
            with these columns; an absent or empty entry is left out, and so is a single AP.
        window: steps that the smoothed line averages over; a twentieth of the run where left out.

    A loss that is not finite has a cross at the top edge, at its step.

    Raises:
        ValueError: where there is no row.
    """
    if isinstance(rows, Path):
        with rows.open(newline="") as file:
            rows = list(csv.DictReader(file))
    if not rows or not all("step" in row for row in rows):
        raise ValueError("a loss curve needs at least one row, and a 'step' in each")
    # one AP is a number, and no curve
    counters = {key: column for key in COUNTERS if len((column := _column(rows, key))[0]) > (key == "AP")}
    figure = new_figure(f"Training: {_course(rows)}", 4.0 if counters else 2.6)
    top, *below = figure.subplot_mosaic(
        [["losses"] * max(len(counters), 1), list(counters)] if counters else [["losses"]],
        height_ratios=[2, 1] if counters else None,
    ).values()
    for key, (name, color, style) in LOSSES.items():
        steps, values = _column(rows, key)
        finite = np.isfinite(values)
        top.plot(steps[finite], values[finite], ".", color=color, ms=3.5, alpha=0.4, mec="none")
        smooth = moving_average(values[finite], window or max(1, len(values) // 20))
        top.plot(steps[finite], smooth, style, color=color, lw=1.8, label=name)
        broken = steps[~finite]
        if len(broken):
            edge = top.get_xaxis_transform()
            top.plot(
                broken, np.ones(len(broken)), "x", color=BOXES[5], transform=edge, clip_on=False, label="not finite"
            )
    top.set(ylabel="loss", ylim=(0, None))
    top.legend(loc="upper right", ncols=3)
    for ax, (key, (steps, values)) in zip(below, counters.items(), strict=True):
        top_value = values[np.isfinite(values)].max(initial=1e-12)
        if key == "num_pos":
            ax.plot(steps, values, ".", color=MUTED, ms=3.5, alpha=0.4, mec="none")
            values = moving_average(values, window or max(1, len(values) // 20))
        ax.plot(steps, values, "o-" if key == "AP" else "-", color=INK, lw=1.4, ms=4)
        ax.set(title=COUNTERS[key], xlabel="step", ylim=(0, 1.1 * top_value))
        ax.locator_params(nbins=4)
    if not counters:
        top.set_xlabel("step")
    return figure


def moving_average(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Mean over ``window`` values around each one, over fewer at both ends.

    >>> moving_average(np.array([0., 3., 6., 3.]), 3).tolist()
    [1.5, 3.0, 4.0, 4.5]
    """
    kernel = np.ones(min(window, max(len(values), 1)))
    if not len(values):
        return values
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have this entry."""
    pairs = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) not in (None, "")]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


def _course(rows: Sequence[Mapping[str, Any]]) -> str:
    """From which losses to which, in words."""
    words = []
    for key, (name, *_) in LOSSES.items():
        _, values = _column(rows, key)
        if len(values):
            tail = values[-max(1, len(values) // 20) :].mean()
            words.append(f"{name} {values[0]:.2f} to {tail:.2f}")
    _, ap = _column(rows, "AP")
    return ", ".join(words + ([f"AP {ap[-1]:.3f}"] if len(ap) else [])) or "no loss yet"


@styled
def soft_label_loss(*, beta: float = 2.0) -> "matplotlib.figure.Figure":
    """Quality focal loss over logit and soft label: a valley of zeros where the score equals the label.

    Args:
        beta: exponent of the loss.
    """
    from matplotlib.colors import PowerNorm

    loss = QualityFocalLoss(beta)
    logit, label = torch.linspace(-6, 6, 241), torch.linspace(0, 1, 101)
    x, y = to_numpy(logit), to_numpy(label)

    def surface(label: Tensor) -> np.ndarray:
        scores = logit.expand(len(label), -1)[..., None]  # [labels,logits,1]
        return to_numpy(
            loss(scores, torch.zeros(scores.shape[:2], dtype=torch.int64), label[:, None].expand(scores.shape[:2]))
        )

    figure = new_figure(f"Quality focal loss (beta {beta:g}) is zero where the score equals the soft label", 2.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    style: dict[str, Any] = {"cmap": "viridis_r", "norm": PowerNorm(0.4), "shading": "nearest", "rasterized": True}
    mesh = left.pcolormesh(x, y, surface(label), **style)  # bright is cheap, as in the maps of costs
    left.plot(
        np.log(y[1:-1] / (1 - y[1:-1])),
        y[1:-1],
        "--",
        color=INK,
        lw=1.8,
        label="score = soft label",
    )
    left.set(xlabel="logit", ylabel="soft label (IoU)", xlim=(-6, 6), ylim=(0, 1), title="dashed: score = soft label")
    left.grid(False)
    figure.colorbar(mesh, ax=left, label="loss")
    cuts = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    for i, (cut, values) in enumerate(zip(cuts, surface(cuts), strict=True)):
        right.plot(logit, values, color=box_color(i), ls=LINE_STYLES[i], lw=1.6, label=f"{cut:g}")
    right.set(
        xlabel="logit",
        ylabel="loss",
        xlim=(-6, 6),
        ylim=(0, None),
        xticks=range(-6, 7, 2),
        title="cuts at five soft labels",
    )
    right.legend(title="soft label", title_fontsize=8, loc="upper center")
    return figure


@styled
def loss_breakdown(
    terms: LossTerms,
    assigned: AssignResult,
    points: Float[Tensor, "priors 4"],
    *,
    names: Sequence[str] | None = None,
    most: int = 10,
) -> "matplotlib.figure.Figure":
    """Where the loss of one batch comes from: each level, and each box.

    Args:
        terms: the losses before any sum, weights included.
        assigned: which box each prior learns.
        points: ``(x, y, stride, stride)`` in pixels.
        names: what each box of the only image shows.
        most: boxes to show, those of the largest loss; the others share one bar.

    Raises:
        ValueError: for names beside several images, and for a box that has no name.
    """
    if names is not None and len(terms.cls) > 1:
        raise ValueError(f"names are those of one image's boxes, but the batch has {len(terms.cls)} images")
    divisor = max(float(terms.iou_sum), 1.0)
    cls, bbox = (to_numpy(term) / divisor for term in (terms.cls, terms.bbox))  # [B,N], [B,N]
    owners = np.stack([gt_indices(assigned, b) for b in range(len(cls))])  # [B,N]
    background = np.where(owners > 0, 0, cls)
    positive = cls - background

    title = f"Where the loss comes from: class {cls.sum():.3f} ({background.sum():.3f} of it background)"
    figure = new_figure(f"{title}, box {bbox.sum():.3f}", 3.0)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.3])
    grid = levels(points)
    parts = dict(zip(PARTS, (positive, bbox, background), strict=True))
    bars = {name: np.array([part[:, level.where].sum() for level in grid]) for name, part in parts.items()}
    _stack(left, [f"stride {level.stride}" for level in grid], bars)
    left.set_title("by level")

    own = {}  # two boxes of one image may have the same name
    for b, assigned_to in enumerate(owners):
        image = "" if names is not None else f", image {b}"
        for g, name in named((np.unique(assigned_to[assigned_to > 0]) - 1).tolist(), names).items():
            mine = assigned_to == g + 1
            own[b, g] = f"{name}{image}", float(positive[b][mine].sum()), float(bbox[b][mine].sum())
    rows = sorted(own.values(), key=lambda row: -sum(row[1:]))
    if rest := rows[most:]:
        rows[most:] = [
            (f"{len(rest)} more boxes", math.fsum(row[1] for row in rest), math.fsum(row[2] for row in rest))
        ]
    _stack(right, [row[0] for row in rows], {part: np.array([row[i] for row in rows]) for part, i in OWN.items()})
    right.set_title("by box, the largest first")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _stack(ax: "matplotlib.axes.Axes", names: Sequence[str], parts: Mapping[str, np.ndarray]) -> None:
    """Horizontal bars, one a name, each stacked from its parts."""
    ends = np.zeros(len(names))
    for label, values in parts.items():
        ax.barh(range(len(names)), values, left=ends, color=PARTS[label], ec="white", lw=0.6, height=0.7, label=label)
        ends += values
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("loss")
    ax.grid(axis="y", visible=False)


@styled
def curves(
    lines: Mapping[str, Float[np.ndarray, "_"] | Sequence[float]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    x: Sequence[float] | None = None,
) -> "matplotlib.figure.Figure":
    """Up to six courses of one quantity in one frame, each with a colour and a line style of its own.

    Args:
        lines: values by name.
        title: what the figure shows, in a sentence.
        xlabel: what runs from left to right.
        ylabel: the quantity.
        x: where the values lie; 0, 1, 2, ... where left out.

    Raises:
        ValueError: for more lines than there are styles.
    """
    if len(lines) > len(BOXES):
        raise ValueError(f"{len(lines)} lines cannot be told apart: give at most {len(BOXES)}")
    figure = new_figure(title, 2.9)
    ax = figure.subplots()
    for i, (name, values) in enumerate(lines.items()):
        style = LINE_STYLES[i]
        ax.plot(
            range(len(values)) if x is None else x, to_numpy(values), color=box_color(i), ls=style, lw=1.8, label=name
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def compare_runs(
    healthy: Sequence[Mapping[str, Any]],
    others: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    title: str,
    quantities: Mapping[str, str] = COMPARED,
    log: Sequence[str] = ("loss_cls",),
) -> "matplotlib.figure.Figure":
    """Runs beside a healthy one: a row a run, a column a quantity, the healthy run grey and dashed in each.

    Args:
        healthy: what to compare with, as :func:`loss_curve` takes it: ``step`` and the quantities in each row.
        others: the other runs, by name.
        title: what the figure shows, in a sentence.
        quantities: columns of the log, and what to call them; one that a run lacks is left empty there.
        log: those with a logarithmic axis.  What is not finite is not drawn, nor zero on such an axis.

    Raises:
        ValueError: where there is no run to compare.
    """
    if not others:
        raise ValueError("there is no run to compare with the healthy one: give at least one")
    figure = new_figure(title, 1.25 * len(others) + 0.55)
    axes = figure.subplots(len(others), len(quantities), squeeze=False, sharex=True)
    for i, (name, rows) in enumerate(others.items()):
        for ax, (key, heading) in zip(axes[i], quantities.items(), strict=True):
            for label, line, color, style in (("healthy", healthy, MUTED, "--"), ("broken", rows, BOXES[5], "-")):
                steps, values = _column(line, key)
                shown = np.where(np.isfinite(values), values, np.nan)
                ax.plot(steps, shown, style, color=color, lw=1.5, label=label)
            ax.set(yscale="log") if key in log else ax.set_ylim(0, None)
            ax.margins(x=0)
            if i == 0:
                ax.set_title(heading)
            if i == len(others) - 1:
                ax.set_xlabel("step")
        axes[i, 0].set_ylabel(textwrap.fill(name, 16))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
