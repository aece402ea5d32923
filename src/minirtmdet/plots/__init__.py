"""Figures of what the detector does; each function returns a Matplotlib figure.

They take plain tensors and the structures of :mod:`minirtmdet.structures`, so they draw any model's.
Matplotlib is imported when the first image is drawn.
"""

from minirtmdet.plots.assigners import answers, courses, level_bars
from minirtmdet.plots.assigning import Changed, assignment, changed_choices, conflict, dynamic_k
from minirtmdet.plots.canvas import save
from minirtmdet.plots.costs import cost_maps
from minirtmdet.plots.dataset import box_sizes, contact_sheet
from minirtmdet.plots.evaluation import precision_recall, precision_recall_by_iou, worst_images
from minirtmdet.plots.film import animate, film
from minirtmdet.plots.head import distances, priors, valid_flags
from minirtmdet.plots.images import augmentation_steps, before_and_after, detection_sheet, feature_maps
from minirtmdet.plots.masks import coordinates, kernel_matrices, masks_over, prototypes
from minirtmdet.plots.network import influence, influence_middle, norm_statistics, score_maps
from minirtmdet.plots.speed import growth, ratios, shares, steps_undone, timeline
from minirtmdet.plots.targets import target_changes, target_maps
from minirtmdet.plots.thresholds import confusions, mistake_counts, reliability, threshold_curves
from minirtmdet.plots.tiles import resized_or_tile, tile_layout
from minirtmdet.plots.training import compare_runs, curves, loss_breakdown, loss_curve, soft_label_loss

__all__ = [
    "Changed",
    "animate",
    "answers",
    "assignment",
    "augmentation_steps",
    "before_and_after",
    "box_sizes",
    "changed_choices",
    "compare_runs",
    "conflict",
    "confusions",
    "contact_sheet",
    "coordinates",
    "cost_maps",
    "courses",
    "curves",
    "detection_sheet",
    "distances",
    "dynamic_k",
    "feature_maps",
    "film",
    "growth",
    "influence",
    "influence_middle",
    "kernel_matrices",
    "level_bars",
    "loss_breakdown",
    "loss_curve",
    "masks_over",
    "mistake_counts",
    "norm_statistics",
    "precision_recall",
    "precision_recall_by_iou",
    "priors",
    "prototypes",
    "ratios",
    "reliability",
    "resized_or_tile",
    "save",
    "score_maps",
    "shares",
    "soft_label_loss",
    "steps_undone",
    "target_changes",
    "target_maps",
    "threshold_curves",
    "tile_layout",
    "timeline",
    "valid_flags",
    "worst_images",
]
