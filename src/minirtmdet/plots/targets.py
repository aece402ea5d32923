"""An image of what every prior is trained towards."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from minirtmdet.plots.canvas import (
    CARD,
    FAINT,
    INK,
    MUTED,
    bare,
    box_color,
    draw_box,
    halo,
    panels,
    points_per_pixel,
    styled,
    to_numpy,
)
from minirtmdet.plots.grids import levels
from minirtmdet.structures import Targets

if TYPE_CHECKING:
    import matplotlib.figure

WEIGHTS = {"label weight 1": FAINT, "label weight 0": MUTED}


@styled
def target_maps(
    targets: Targets,
    points: Float[Tensor, "priors 4"],
    classes: Sequence[str],
    *,
    index: int = 0,
    follow: int | None = None,
) -> "matplotlib.figure.Figure":
    """The targets of one image as maps: class and box, label weight, soft label; a row a level.

    Args:
        targets: of a batch.
        points: ``(x, y, stride, stride)`` in pixels.
        classes: name of each class; what comes after them is background.
        index: which image of the batch.
        follow: index of a prior to ring.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    grid = levels(points)
    labels, weights, boxes, metrics = (to_numpy(field[index]) for field in targets)
    positive = labels < len(classes)
    present = sorted(set(labels[positive].tolist()))
    colors = {label: box_color(label) for label in present} | {len(classes): FAINT}

    silent = (weights == 0).sum()
    title = f"Of {len(labels)} priors {positive.sum()} learn a class and a box, "
    title += f"{len(labels) - positive.sum() - silent} background, {silent} nothing"
    figure, axes = panels(title, len(grid), 3, grid[0].rows / grid[0].columns, share=0.78, headings=False)
    class_colors = np.array([to_rgb(colors[label]) for label in labels.tolist()])  # [N,3]
    weight_colors = np.array([to_rgb(list(WEIGHTS.values())[int(weight == 0)]) for weight in weights])
    for row, level in zip(axes, grid, strict=True):
        for ax, values in zip(row, (class_colors.T, weight_colors.T), strict=False):
            ax.imshow(np.moveaxis(level.map(values), 0, -1), extent=level.extent, interpolation="nearest")
        soft = np.where(level.map(positive), level.map(metrics), np.nan)
        row[2].imshow(soft, vmin=0, vmax=1, extent=level.extent, interpolation="nearest")
        row[2].set_facecolor(FAINT)
        left, right, bottom, top = level.extent
        for ax in row:
            bare(ax)
            for line in range(level.columns + 1):
                ax.axvline(left + line * level.stride, color=CARD, lw=0.4)
            for line in range(level.rows + 1):
                ax.axhline(top + line * level.stride, color=CARD, lw=0.4)
        for label, *box in sorted({(int(labels[i]), *boxes[i].tolist()) for i in positive.nonzero()[0]}):
            if (boxes[level.where][positive[level.where]] == box).all(-1).any():
                draw_box(row[0], np.array(box), colors[label], dashed=True)
        row[0].set(xlim=(left, right), ylim=(bottom, top))
        row[0].set_ylabel(f"stride {level.stride}")
    for ax, name in zip(axes[0], ("label and box target", "label weight", "soft label"), strict=True):
        ax.set_title(name)
    keys = [Patch(color=colors[label], label=f"{label}: {classes[label]}") for label in present]
    keys += [Patch(color=FAINT, label=f"{len(classes)}: background")]
    keys += [Patch(color=color, label=name) for name, color in WEIGHTS.items()]
    figure.legend(handles=keys, loc="outside right center")
    figure.colorbar(
        ScalarMappable(norm=None), ax=axes, label="soft label (IoU)", location="bottom", shrink=0.4, aspect=25
    )
    if follow is not None:
        figure.draw_without_rendering()
        for row, level in zip(axes, grid, strict=True):
            if level.where.start <= follow < level.where.stop:
                size = (0.9 * np.clip(level.stride * points_per_pixel(row[0]), 6, 20)) ** 2
                for ax in row:
                    x, y = level.points[follow - level.where.start]
                    ax.scatter(x, y, size, "none", edgecolors=INK, lw=1.2, path_effects=halo(2.6), label="follow")
    return figure
