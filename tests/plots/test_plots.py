"""Images are tested by what they draw: which data, where, in which colour, and what they say."""

import io
import itertools
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image
from torch import nn

from minirtmdet import plots
from minirtmdet.data.example import example
from minirtmdet.evaluation.matching import Match, match_detections
from minirtmdet.evaluation.thresholds import Curve
from minirtmdet.head.losses import QualityFocalLoss
from minirtmdet.head.priors import MlvlPointGenerator
from minirtmdet.plots.canvas import (
    BOXES,
    CARD,
    FAINT,
    LEVELS,
    LOSSES,
    MUTED,
    STYLE,
    THINGS,
    box_color,
    class_colors,
    ink_on,
    panels,
    show_image,
    to_rgb,
)
from minirtmdet.plots.evaluation import FALSE, HIT, MISSED
from minirtmdet.plots.grids import levels
from minirtmdet.plots.labels import draw_labels
from minirtmdet.plots.training import moving_average
from minirtmdet.reference.dynamic import parse_kernel, relative_coordinates
from minirtmdet.structures import AssignResult, Detections, GroundTruth, LossTerms, Targets

SIDE = 64
SIZES = [(8, 8), (4, 4), (2, 2)]
PRIORS = torch.cat(MlvlPointGenerator().grid_priors(SIZES))  # 64 + 16 + 4
IMAGE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
BOXES_TRUE = torch.tensor([[4.0, 4.0, 36.0, 36.0], [20.0, 20.0, 60.0, 52.0]])
TRUTH = GroundTruth.from_list([BOXES_TRUE], [torch.tensor([0, 1])])
CLASSES = ("cat", "dog", "owl")


def gt_inds(**owners: list[int]) -> torch.Tensor:
    """Priors by box: ``gt_inds(box0=[9, 70])``."""
    inds = torch.zeros(len(PRIORS), dtype=torch.int64)
    for name, priors in owners.items():
        inds[priors] = int(name.removeprefix("box")) + 1
    return inds


def result(inds: torch.Tensor, iou: float = 0.5) -> AssignResult:
    return AssignResult(inds[None], (inds > 0)[None] * iou, inds[None] - 1)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
    )


def costs(boxes: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(boxes, len(PRIORS), generator=generator) for name in ("class", "IoU", "centre")}


def log_rows(steps: int) -> list[dict[str, float]]:
    return [
        {"step": i, "loss_cls": 2.0 / (i + 1), "loss_bbox": 1.0 / (i + 1), "lr": 0.004, "num_pos": 9.0}
        for i in range(steps)
    ]


def terms(seed: int = 0, batch: int = 1) -> LossTerms:
    cls, bbox = torch.rand(2, batch, len(PRIORS), generator=torch.Generator().manual_seed(seed))
    return LossTerms(cls.requires_grad_(), bbox, torch.tensor(4.0))


def steps(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(image=IMAGE[: 32 + 8 * i], boxes=BOXES_TRUE.numpy()) for i in range(count)]


NONE = torch.zeros(0, 4)
NO_TRUTH = GroundTruth.from_list([NONE], [torch.zeros(0, dtype=torch.int64)])
MANY = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)).mul(50).repeat(1, 2) + torch.tensor([0, 0, 9, 9])
MANY_FOUND = Detections(MANY, torch.linspace(1, 0.31, 300), torch.arange(300) % 3)
ANSWERS = {
    "points": gt_inds(box0=[9, 70], box1=[20]),
    # three anchors at each prior: (8, 8) has two of box 0, (16, 8) one of each box, (32, 16) one of box 1
    "anchors": torch.zeros(len(PRIORS), 3, dtype=torch.int64)
    .index_put((torch.tensor([9, 9, 10, 10, 70]), torch.tensor([0, 1, 0, 2, 1])), torch.tensor([1, 1, 1, 2, 2]))
    .flatten(),
}
MANY_INDS = torch.arange(len(PRIORS)) % 301
LTRB = torch.tensor([4.0, 8.0, 28.0, 24.0])
FRAMES = {"step 0": result(gt_inds(box0=[9])), "step 10": result(gt_inds(box0=[9, 70], box1=[81]))}
CURVE = np.linspace(1, 0, 101)
THRESHOLDS = Curve(CURVE, CURVE, CURVE[::-1], np.full(101, 0.1), boxes=1)  # F1 lies low, where a legend might
# two classes: the first is as good at every overlap, the second at half of them
PRECISION = np.stack([np.tile(CURVE, (10, 1)), (np.arange(10) < 5)[:, None] * CURVE, -np.ones((10, 101))], -1)


def match(detections: Detections) -> Match:
    """Beside two boxes, a cat and a dog."""
    return match_detections(detections, BOXES_TRUE, torch.tensor([0, 1]), torch.tensor([False, False]))


# the cat is found; the owl is false, and so the dog is missed
MATCH = match(found([[4.0, 4.0, 36.0, 34.0], [20.0, 20.0, 60.0, 52.0]], [0.9, 0.8], [0, 2]))

HALF = torch.arange(SIDE).expand(SIDE, SIDE) < SIDE // 2
# both overlap in the left half, where the first is on top
WITH_MASKS = Detections(BOXES_TRUE, torch.tensor([0.9, 0.8]), torch.tensor([0, 2]), torch.stack([HALF, HALF | True]))
COORDINATES = relative_coordinates(PRIORS[9], 8, 8)
TARGETS = Targets(
    labels=torch.tensor([[1] * 3 + [3] * 81]),
    label_weights=torch.tensor([[1.0] * 80 + [0.0] * 4]),
    bbox_targets=torch.cat([BOXES_TRUE[:1].expand(3, 4), torch.zeros(81, 4)])[None],
    assign_metrics=torch.tensor([[0.25, 0.5, 0.75] + [0.0] * 81]),
)

# prior 2 has become background, and prior 80, on the coarsest level, learns it again
LATER = TARGETS._replace(labels=TARGETS.labels.clone(), label_weights=TARGETS.label_weights.clone())
LATER.labels[0, 2] = 3
LATER.label_weights[0, 80] = 1

DRAW = {
    "targets": lambda: plots.target_maps(TARGETS, PRIORS, CLASSES, follow=1),
    "targets, nothing to learn": lambda: plots.target_maps(
        Targets(*(field[:, :1] * 0 + 3 for field in TARGETS)), PRIORS[-1:] * 0 + 32, CLASSES
    ),
    "target changes": lambda: plots.target_changes(TARGETS, LATER, PRIORS, CLASSES, follow=1),
    "curves": lambda: plots.curves({"a": [1.0, 2.0], "b": CURVE}, title="Two courses", xlabel="step", ylabel="loss"),
    "compared": lambda: plots.compare_runs(log_rows(3), {"a": log_rows(3), "b": log_rows(2)}, title="Two broken runs"),
    "priors": lambda: plots.priors(PRIORS, IMAGE, follow=70),
    "priors, no image": lambda: plots.priors(PRIORS),
    "valid flags": lambda: plots.valid_flags([IMAGE, IMAGE], torch.ones(2, len(PRIORS), dtype=torch.bool), PRIORS),
    "distances": lambda: plots.distances(IMAGE, PRIORS[9, :2], {"right": LTRB, "wrong": -LTRB}, BOXES_TRUE[0]),
    "distances, no box": lambda: plots.distances(IMAGE, PRIORS[9, :2], {"from a point": LTRB}),
    "costs": lambda: plots.cost_maps(costs(), PRIORS, ground_truth=TRUTH, chosen=costs()["IoU"] > 0.9, boxes=[1]),
    "costs, no box": lambda: plots.cost_maps(costs(0), PRIORS),
    "costs, 300 boxes": lambda: plots.cost_maps(costs(300), PRIORS, boxes=[299]),
    "dynamic k": lambda: plots.dynamic_k(costs()["IoU"], PRIORS),
    "dynamic k, no box": lambda: plots.dynamic_k(costs(0)["IoU"]),
    "dynamic k, 300 boxes": lambda: plots.dynamic_k(costs(300)["IoU"], PRIORS),
    "conflict": lambda: plots.conflict(IMAGE, costs()["IoU"] > 0.8, gt_inds(box0=[9], box1=[70]), PRIORS, TRUTH),
    "conflict, no box": lambda: plots.conflict(
        IMAGE, torch.zeros(0, len(PRIORS), dtype=torch.bool), gt_inds(), PRIORS, NONE
    ),
    "assignment": lambda: plots.assignment(IMAGE, result(gt_inds(box0=[9, 70])), PRIORS, TRUTH, follow=9),
    "assignment, no box": lambda: plots.assignment(IMAGE, result(gt_inds()), PRIORS, NO_TRUTH),
    "assignment, 300 boxes": lambda: plots.assignment(IMAGE, MANY_INDS, PRIORS, MANY),
    "film": lambda: plots.film(IMAGE, FRAMES, PRIORS, TRUTH, follow=9),
    "film, no box": lambda: plots.film(IMAGE, {"now": result(gt_inds())}, PRIORS, NO_TRUTH),
    "film, 300 boxes": lambda: plots.film(IMAGE, dict.fromkeys("abcd", MANY_INDS), PRIORS, MANY),
    "answers": lambda: plots.answers(IMAGE, ANSWERS, PRIORS, TRUTH, follow=9),
    "answers, no box": lambda: plots.answers(IMAGE, {"now": gt_inds()}, PRIORS, NO_TRUTH),
    "level bars": lambda: plots.level_bars(
        "Positives of two boxes", {"cat": {"now": [3, 1, 0], "then": [0, 0, 0]}}, (8, 16, 32)
    ),
    "courses": lambda: plots.courses("Positives of two boxes", {"cat": {"now": [3, 1], "then": [0, 0]}}, ("0", "10")),
    "breakdown": lambda: plots.loss_breakdown(terms(), result(gt_inds(box0=[9, 70], box1=[81])), PRIORS),
    "breakdown, no box": lambda: plots.loss_breakdown(terms(), result(gt_inds()), PRIORS),
    "breakdown, 300 boxes": lambda: plots.loss_breakdown(terms(), result(MANY_INDS), PRIORS),
    "soft label": plots.soft_label_loss,
    "loss curve": lambda: plots.loss_curve([*log_rows(40), {"step": 40, "AP": 0.5}]),
    "loss curve, one step": lambda: plots.loss_curve(log_rows(1)),
    "precision": lambda: plots.precision_recall({"cat": CURVE, "dog": CURVE**2, "owl": -np.ones(101)}),
    "precision, 80 classes": lambda: plots.precision_recall({str(i): CURVE ** (1 + i) for i in range(80)}),
    "precision, nothing to find": lambda: plots.precision_recall({"owl": -np.ones(101)}),
    "precision by IoU": lambda: plots.precision_recall_by_iou(PRECISION, CLASSES),
    "precision by IoU, 80 classes": lambda: plots.precision_recall_by_iou(
        np.tile(PRECISION[..., :2], 40), [f"class {i}" for i in range(80)]
    ),
    "precision by IoU, nothing to find": lambda: plots.precision_recall_by_iou(-np.ones((10, 101, 1)), ["cat"]),
    "worst": lambda: plots.worst_images([IMAGE] * 5, [MATCH] * 5, CLASSES, ["a" * 60, *"bcde"]),
    "worst, nothing found": lambda: plots.worst_images([IMAGE], [match(found([], [], []))], CLASSES),
    "worst, 300 detections": lambda: plots.worst_images([IMAGE], [match(MANY_FOUND)], CLASSES, ["many"]),
    "detections": lambda: plots.detection_sheet(
        [IMAGE] * 5, [found([[8, 8, 40, 40]], [0.9], [1])] * 5, CLASSES, [BOXES_TRUE] * 5
    ),
    "detections, none": lambda: plots.detection_sheet([IMAGE], [found([], [], [])], CLASSES),
    "detections, 300": lambda: plots.detection_sheet([IMAGE], [MANY_FOUND], CLASSES),
    "detections, with masks": lambda: plots.detection_sheet([IMAGE], [WITH_MASKS], CLASSES),
    "worst, with masks": lambda: plots.worst_images([IMAGE], [match(WITH_MASKS)], CLASSES),
    "prototypes": lambda: plots.prototypes(torch.randn(1, 8, 8, 8), image=IMAGE),
    "prototypes, no image": lambda: plots.prototypes(torch.zeros(1, 8, 8, 12)),
    "kernels": lambda: plots.kernel_matrices(parse_kernel(torch.arange(169.0) - 80)),
    "coordinates": lambda: plots.coordinates(
        {"prior 9": COORDINATES, "prior 70": COORDINATES / 2}, [(8.0, 8.0), (16.0, 32.0)]
    ),
    "masks over": lambda: plots.masks_over(
        IMAGE, {"a": HALF, "b": ~HALF, "none": HALF & False}, truth=HALF, point=(8.0, 8.0)
    ),
    "masks over, nothing true": lambda: plots.masks_over(IMAGE, {"a": HALF}, truth=HALF & False),
    "features": lambda: plots.feature_maps([torch.rand(2, 6, *size) for size in SIZES], image=IMAGE),
    "scores": lambda: plots.score_maps([torch.rand(1, 3, *size) for size in SIZES], PRIORS, {0: "cat", 2: "owl"}),
    "scores over an image": lambda: plots.score_maps(
        [torch.rand(1, 1, *size) for size in SIZES], PRIORS, {0: "cat"}, image=IMAGE
    ),
    "changed choices": lambda: plots.changed_choices(
        {"one": plots.Changed(IMAGE, TRUTH, gt_inds(box0=[9]), gt_inds(box1=[9, 70]))},
        PRIORS,
        title="What two choices have in common",
    ),
    "norms": lambda: plots.norm_statistics({8: nn.BatchNorm2d(4), 16: nn.BatchNorm2d(4)}),
    "thresholds": lambda: plots.threshold_curves(THRESHOLDS, {"cat": THRESHOLDS, "dog": THRESHOLDS}),
    "influence": lambda: plots.influence({8: torch.rand(8, 8), 16: torch.rand(8, 8)}, {8: (4, 4), 16: (0, 0)}),
    "influence, its middle": lambda: plots.influence_middle(torch.rand(8, 8), {"corner": (2.0, 2.0)}),
    "features, one channel": lambda: plots.feature_maps([torch.rand(1, 1, 4, 4)]),
    "before and after": lambda: plots.before_and_after([tuple(steps(2))], ["resize"]),
    "augmentation": lambda: plots.augmentation_steps(steps(4), ["mosaic", "resize", "crop", "flip"]),
}


def texts(figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def words(figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def labelled(ax, label: str) -> list:
    """Point clouds and lines by their label."""
    return [artist for artist in [*ax.collections, *ax.lines] if artist.get_label() == label]


def rectangles(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if type(patch) is Rectangle]


def xyxy(patch: Rectangle) -> list[float]:
    return [*patch.get_xy(), patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height()]


def drawn_ticks(axis) -> list[Text]:
    """The labels of ticks between an axis's ends, which alone are drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() + axis.get_minor_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


@pytest.mark.parametrize("name", DRAW)
def test_every_image_is_a_card_that_can_be_read(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure = DRAW[name]()
    assert dict(matplotlib.rcParams) == before, "the reader's style has changed"
    assert figure.get_figwidth() == 7
    assert figure.dpi == 200
    assert to_hex(figure.get_facecolor()) == CARD
    assert len(figure.get_suptitle()) > 10

    frame = figure.bbox
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    # ticks beyond an axis exist, but are not drawn; labels in an image end with it
    unseen = {label for axis in axes for label in axis.get_ticklabels(which="both")}
    unseen |= {text for ax in figure.axes for text in ax.texts if text.get_clip_on()}
    for text in texts(figure):
        assert text.get_fontsize() >= 8, text.get_text()
        box = text.get_window_extent()
        if text in unseen:
            continue
        assert frame.x0 <= box.x0 + 1, text.get_text()
        assert box.x1 <= frame.x1 + 1, text.get_text()
        assert frame.y0 <= box.y0 + 1, text.get_text()
        assert box.y1 <= frame.y1 + 1, text.get_text()
    headings = [ax._left_title for ax in figure.axes if ax._left_title.get_text()]
    ticks = [label for ax in figure.axes if ax.axison for axis in (ax.xaxis, ax.yaxis) for label in drawn_ticks(axis)]
    beside = [(text.get_text(), text.get_window_extent()) for text in headings + ticks]
    for (one, box), (other, other_box) in itertools.combinations(beside, 2):
        assert not box.overlaps(other_box), f"{one} overlaps {other}"
    for ax in figure.axes:
        legend = ax.get_legend()
        for line in ax.lines if legend else []:
            points = line.get_transform().transform(line.get_xydata())
            assert not legend.get_window_extent().count_contains(points), f"the legend hides {line.get_label()}"
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert frame.x0 <= box.x0, "the legend begins outside the card"
        assert box.x1 <= frame.x1, "the legend ends outside the card"


def test_the_readers_style_does_not_leak_in() -> None:
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "xtick.labelsize": 30, "lines.linewidth": 9}
    ):
        figure = plots.loss_curve(log_rows(30))
    assert max(text.get_fontsize() for text in texts(figure)) == STYLE["figure.titlesize"]
    assert {to_hex(ax.get_facecolor()) for ax in figure.axes} == {CARD}


def test_thousands_are_separated_where_there_are_many() -> None:
    long = plots.curves({"a": [0.0, 300_000.0]}, title="A long way", xlabel="step", ylabel="loss").axes[0]
    assert {label.get_text() for label in drawn_ticks(long.yaxis)} >= {"0", "100,000", "300,000"}
    assert {label.get_text() for label in drawn_ticks(long.xaxis)} >= {"0.0", "1.0"}


def test_matplotlib_is_imported_on_use_and_pyplot_never() -> None:
    code = (  # in a process of its own: this one has imported both
        "import sys; from minirtmdet import plots; assert 'matplotlib' not in sys.modules;"
        "plots.soft_label_loss(); assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_notebook_gets_a_png_of_twice_its_reading_size() -> None:
    png, metadata = plots.precision_recall({"cat": CURVE})._repr_png_()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    assert image.width == 1400 == 2 * metadata["width"]
    assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((2, 2))) == CARD


def test_a_photograph_gets_a_palette_where_its_png_would_be_large() -> None:
    """Noise is the worst of photographs: as it is, 7 inches of it take more than 4 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    large, _ = plots.detection_sheet([noise], [nothing], CLASSES)._repr_png_()
    small, _ = plots.detection_sheet([np.zeros_like(noise)], [nothing], CLASSES)._repr_png_()
    assert [Image.open(io.BytesIO(png)).mode for png in (large, small)] == ["P", "RGBA"]


def test_choices_are_compared_prior_by_prior_and_box_by_box() -> None:
    """9 is kept, 10 lost, 11 won, and 12 changes its box, so that it is both lost and won."""
    both = plots.Changed(IMAGE, TRUTH, gt_inds(box0=[9, 10, 12]), gt_inds(box0=[9, 11], box1=[12]))
    figure = plots.changed_choices({"one": both, "other": both}, PRIORS, title="Two choices")
    places = {
        label: labelled(figure.axes[1], label)[0].get_offsets().tolist()
        for label in ("chosen either way", "only before", "only after")
    }
    at = PRIORS[:, :2].tolist()
    assert places == {"chosen either way": [at[9]], "only before": [at[10], at[12]], "only after": [at[11], at[12]]}
    with pytest.raises(ValueError, match="give at least one scene"):
        plots.changed_choices({}, PRIORS, title="Nothing")


def test_scores_hide_the_image_only_where_they_are_high() -> None:
    logits = [torch.full((1, 1, *size), -9.0) for size in SIZES]
    logits[0][0, 0, 2, 3] = 3
    below, above = plots.score_maps(logits, PRIORS, {0: "cat"}, image=IMAGE).axes[0].images
    assert (below.get_array()[..., 0] == below.get_array()[..., 1]).all()  # grey
    assert above.get_alpha()[2, 3] == pytest.approx(0.9)
    assert np.delete(above.get_alpha().ravel(), 2 * 8 + 3).max() < 0.01


def test_save_makes_the_folder_and_leaves_the_old_file_when_it_fails(tmp_path) -> None:
    path = tmp_path / "run" / "curve.png"
    assert plots.save(plots.loss_curve(log_rows(3)), path) == path
    assert Image.open(path).width == 1400
    old = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        plots.save(SimpleNamespace(savefig=fail, dpi=200, get_facecolor=lambda: "w"), path)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]


# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(
    ("palette", "least"), [([color for color, _ in LEVELS.values()], 30), (BOXES, 12), (LOSSES, 30)]
)
def test_palettes_are_told_apart_by_every_eye(palette, least: float, vision: str) -> None:
    seen = [cielab(np.array(VISION[vision]) @ linear(color)) for color in palette]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > least


@pytest.mark.parametrize("color", [*BOXES, CARD, "#ffffff", "#000000", "#767676"])
def test_labels_contrast_with_their_ground(color: str) -> None:
    luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
    ink = {"black": 0.0, "white": 1.0}[ink_on(color)]
    bright, dark = max(luminance, ink), min(luminance, ink)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_levels_of_rectangular_maps() -> None:
    priors = torch.cat(MlvlPointGenerator(offset=0.5).grid_priors([(4, 6), (2, 3), (1, 2)]))
    fine, middle, coarse = levels(priors)
    assert [(level.stride, level.rows, level.columns) for level in (fine, middle, coarse)] == [
        (8, 4, 6),
        (16, 2, 3),
        (32, 1, 2),
    ]
    assert middle.where == slice(24, 30)
    assert fine.extent == (0, 48, 32, 0)  # a centred prior's cell begins at the image's edge
    assert middle.map(torch.arange(32)[None]).tolist() == [[[24, 25, 26], [27, 28, 29]]]


@pytest.mark.parametrize("broken", [PRIORS[1:], PRIORS.flip(0), PRIORS[torch.tensor([0, 1, 8])]])
def test_priors_that_are_no_grid_are_refused(broken: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="are not a full grid, row by row"):
        levels(broken)


def test_images_are_shown_in_rgb_and_in_pixel_coordinates() -> None:
    blue = np.zeros((4, 6, 3), np.uint8)
    blue[..., 0] = 255
    for image in (blue, torch.from_numpy(blue).permute(2, 0, 1)):
        _, axes = panels("Only the upper left pixel", 1, 1, 4 / 6)
        show_image(axes[0, 0], image)
        [shown] = axes[0, 0].images
        assert shown.get_array()[0, 0].tolist() == [0, 0, 255]
        assert shown.get_extent() == [0, 6, 4, 0]


@pytest.mark.parametrize("image", [IMAGE.astype(np.float32), IMAGE[..., 0]])
def test_images_that_are_not_bgr_pixels_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected BGR as a uint8 array \[H, W, 3\]"):
        to_rgb(image)


def test_priors_have_a_panel_colour_and_shape_a_level() -> None:
    figure = plots.priors(PRIORS, IMAGE, follow=70)
    assert "84 priors (64 + 16 + 4)" in figure.get_suptitle()
    for ax, (color, _), level in zip(figure.axes, LEVELS.values(), levels(PRIORS), strict=True):
        [dots] = labelled(ax, "priors")
        assert to_hex(dots.get_facecolor()[0]) == color
        assert dots.get_offsets().tolist() == level.points.tolist()
    assert [len(labelled(ax, "follow")) for ax in figure.axes] == [0, 1, 0]
    [ring] = labelled(figure.axes[1], "follow")
    assert ring.get_offsets().tolist() == [PRIORS[70, :2].tolist()]
    assert "prior 70 is ringed" in figure.get_suptitle()


def test_priors_have_index_and_coordinates_where_there_is_room() -> None:
    small = torch.cat(MlvlPointGenerator([8, 16], offset=0.5).grid_priors([(4, 4), (2, 2)]))
    fine, coarse = plots.priors(small).axes
    assert [text.get_text() for text in fine.texts] == [str(i) for i in range(16)]
    assert [(text.get_text(), text.xy) for text in coarse.texts][1] == ("17", (24, 8))
    assert [label.get_text() for label in fine.get_xticklabels()] == ["4", "12", "20", "28"]
    assert [label.get_text() for label in coarse.get_yticklabels()] == ["8", "24"]
    for ax in plots.priors(PRIORS).axes:  # none where the finest level has no room
        assert not ax.texts
        assert not ax.get_xlabel()


def test_valid_flags_fill_what_is_valid() -> None:
    pad_shapes = torch.tensor([[64, 64], [40, 24]])
    flags = torch.cat(MlvlPointGenerator().valid_flags(SIZES, pad_shapes), 1)
    figure = plots.valid_flags([IMAGE, IMAGE], flags, PRIORS, pad_shapes=pad_shapes)
    # 40 x 24 px: 5 x 3, 3 x 2 and 2 x 1 cells
    assert [ax.get_title(loc="left") for ax in figure.axes[3:]] == [
        "stride 8: 15 of 64",
        "stride 16: 6 of 16",
        "stride 32: 2 of 4",
    ]
    assert f"{84 + 23} of 168 priors" in figure.get_suptitle()
    for ax, level in zip(figure.axes[3:], levels(PRIORS), strict=True):
        valid, not_valid = labelled(ax, "valid") + labelled(ax, "not valid")
        assert valid.get_offsets().tolist() == level.points[flags[1, level.where].numpy()].tolist()
        assert len(not_valid.get_offsets()) == len(level.points) - len(valid.get_offsets())
        assert to_hex(valid.get_facecolor()[0]) == LEVELS[level.stride][0]
        assert to_hex(not_valid.get_facecolor()[0]) == "#ffffff"
        assert xyxy(rectangles(ax)[0]) == [0, 0, 24, 40]


def test_cost_maps_hold_the_costs_and_outline_the_chosen() -> None:
    parts = costs()
    chosen = torch.zeros(2, len(PRIORS), dtype=torch.bool)
    chosen[0, [9, 70]] = True
    chosen[1, 81] = True
    candidates = torch.ones(len(PRIORS), dtype=torch.bool)
    candidates[5] = False
    parts["centre"][1, 6] = torch.inf
    figure = plots.cost_maps(parts, PRIORS, image=IMAGE, chosen=chosen, candidates=candidates, ground_truth=TRUTH)
    maps = np.array(figure.axes[:24]).reshape(2, 3, 4)  # box, level, part
    assert [ax.get_title(loc="left") for ax in maps[0, 0]] == ["class", "IoU", "centre", "sum"]
    assert [ax.get_ylabel() for ax in maps[:, 1, 0]] == ["box 0\nstride 16", "box 1\nstride 16"]

    total = sum(parts.values())
    usable = total[:, torch.arange(len(PRIORS)) != 5]
    least = usable.min().item()
    for g, (row, level) in itertools.product(range(2), enumerate(levels(PRIORS))):
        for ax, values in zip(maps[g, row], [*parts.values(), total], strict=True):
            below, shown = ax.images
            assert below.get_extent() == [0, SIDE, SIDE, 0]
            assert np.ptp(below.get_array(), axis=-1).max() == 0, "the image is grey"
            limits = (least, 10 * least) if values is total else (0.01, 100)
            assert (shown.norm.vmin, shown.norm.vmax) == pytest.approx(limits)
            cells = shown.get_array().filled(np.nan)
            wanted = level.map(values[g].clamp(*limits))
            drawn = np.isfinite(cells)
            np.testing.assert_allclose(cells[drawn], wanted[drawn], rtol=1e-6)
            assert (~drawn).sum() == (row == 0) * (1 + g)  # no candidate, and the infinite cost of box 1
            [outlined] = labelled(ax, "chosen")
            middles = [path.get_extents().get_points().mean(0).tolist() for path in outlined.get_paths()]
            assert middles == level.points[chosen[g, level.where].numpy()].tolist()
            assert xyxy(rectangles(ax)[0]) == BOXES_TRUE[g].tolist()
    assert [ax.get_xlabel() for ax in figure.axes[24:]] == ["cost", "sum"]


def test_cost_maps_zoom_on_a_box() -> None:
    figure = plots.cost_maps(costs(), PRIORS, ground_truth=TRUTH, boxes=[1], margin=4.0)
    assert figure.axes[0].get_xlim() == (40 - 24, 40 + 24)  # 40 px wide: 20 and 4 on each side of its centre
    assert figure.axes[0].get_ylim() == (36 + 24, 36 - 24)
    assert figure.axes[0].get_ylabel() == "box 1\nstride 8"


def test_boxes_are_called_by_their_names() -> None:
    names = ["panda", "car"]
    close = plots.cost_maps(costs(), PRIORS, ground_truth=TRUTH, boxes=[1], names=names)
    assert close.axes[0].get_ylabel() == "car\nstride 8"
    assert close.get_suptitle() == "Car: what each prior would cost"
    bars = plots.dynamic_k(costs()["IoU"], PRIORS, names=names).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == names
    before = torch.ones(2, len(PRIORS), dtype=torch.bool)
    rivals = plots.conflict(IMAGE, before, gt_inds(box0=[9]), PRIORS, TRUTH, names=names)
    assert {text.get_text() for text in rivals.axes[0].texts} == set(names)
    assigned = plots.assignment(IMAGE, gt_inds(box0=[9]), PRIORS, TRUTH, names=names)
    assert assigned.get_suptitle() == "1 of 84 priors learns a box, the others background; none learns car"
    assert "panda: 1 positive\n" in words(assigned)
    assert "panda and car" in plots.film(IMAGE, FRAMES, PRIORS, TRUTH, names=names).get_suptitle()
    own = plots.loss_breakdown(terms(), result(gt_inds(box0=[9, 70], box1=[81])), PRIORS, names=names).axes[1]
    assert {label.get_text() for label in own.get_yticklabels()} == set(names)


def test_boxes_without_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="box 1 has no name: names has 1"):
        plots.assignment(IMAGE, gt_inds(), PRIORS, TRUTH, names=["panda"])
    inds = torch.stack([gt_inds(box0=[9]), gt_inds()])
    with pytest.raises(ValueError, match="the batch has 2 images"):
        plots.loss_breakdown(terms(batch=2), AssignResult(inds, inds * 0.1, inds - 1), PRIORS, names=["panda"])


def test_things_keep_one_colour_among_boxes_and_classes() -> None:
    scene = example()
    for name, color in THINGS.items():
        assert box_color(scene.box_names.index(name)) == color
        assert class_colors(scene.names)[scene.names.index(name)] == color
        assert class_colors(scene.names).count(color) == 1
    assert class_colors(CLASSES) == list(BOXES[:3])
    assert class_colors([str(i) for i in range(7)])[6] == BOXES[0]


def test_cost_maps_say_which_box_there_is_not() -> None:
    with pytest.raises(ValueError, match="box 2 cannot be drawn: it is none of the 2 boxes"):
        plots.cost_maps(costs(), PRIORS, boxes=[2])
    with pytest.raises(ValueError, match="a margin around boxes needs ground_truth"):
        plots.cost_maps(costs(), PRIORS, margin=4.0)
    assert "no box" in plots.cost_maps(costs(0), PRIORS).get_suptitle()
    with pytest.raises(ValueError, match="box 2 cannot be drawn: it is none of the 2 boxes"):  # but padding
        plots.cost_maps(costs(8), PRIORS, ground_truth=TRUTH, boxes=[2])
    assert "Box 0 and box 1: what" in plots.cost_maps(costs(300), PRIORS).get_suptitle()


def test_dynamic_k_stacks_the_best_ious_in_their_levels_colours() -> None:
    ious = torch.zeros(2, len(PRIORS))
    ious[0, [3, 70, 82]] = torch.tensor([0.5, 0.9, 0.75])
    figure = plots.dynamic_k(ious, PRIORS, topk=3)
    bars = np.array(figure.axes[0].patches).reshape(2, 3)
    np.testing.assert_allclose([bar.get_width() for bar in bars[0]], [0.9, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose([bar.get_x() for bar in bars[0]], [0, 0.9, 1.65], rtol=1e-6)
    assert [to_hex(bar.get_facecolor()) for bar in bars[0]] == [LEVELS[s][0] for s in (16, 32, 8)]
    ks = [lines.get_segments()[0][0, 0] for lines in figure.axes[0].collections]
    assert ks == [2, 1]  # 2.15 rounded down; never less than one
    assert "sum 2.15, k = 2" in words(figure)
    assert "sum 0.00, k = 1" in words(figure)
    assert {to_hex(bar.get_facecolor()) for bar in plots.dynamic_k(ious, topk=3).axes[0].patches[:3]} == {BOXES[0]}


def test_dynamic_k_of_fewer_priors_than_topk_and_of_chosen_boxes() -> None:
    ious = torch.rand(300, 5)
    figure = plots.dynamic_k(ious, boxes=[299, 7])
    assert len(figure.axes[0].patches) == 2 * 5
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["box 299", "box 7"]


def test_conflict_shows_both_claims_and_then_one_owner() -> None:
    before = torch.zeros(2, len(PRIORS), dtype=torch.bool)
    before[0, [9, 10]] = True
    before[1, [10, 11]] = True
    figure = plots.conflict(IMAGE, before, gt_inds(box0=[9], box1=[10, 11]), PRIORS, TRUTH)
    assert "1 of 3 chosen priors" in figure.get_suptitle()
    left, right = figure.axes
    for g, claims in enumerate(([9, 10], [10, 11])):
        [dots] = labelled(left, f"box {g}")
        assert dots.get_offsets().tolist() == PRIORS[claims, :2].tolist()
        assert to_hex(dots.get_facecolor()[0]) == BOXES[g]
    first, second = labelled(left, "box 0")[0].get_sizes()[1], labelled(left, "box 1")[0].get_sizes()[0]
    assert second < first  # both are seen
    assert labelled(right, "box 0")[0].get_offsets().tolist() == PRIORS[[9], :2].tolist()
    assert labelled(right, "box 1")[0].get_offsets().tolist() == PRIORS[[10, 11], :2].tolist()
    assert labelled(right, "contested")[0].get_offsets().tolist() == PRIORS[[10], :2].tolist()


def test_conflict_can_be_seen_close_up() -> None:
    before = torch.zeros(2, len(PRIORS), dtype=torch.bool)
    before[:, 10] = True
    before[0, 0] = True  # at (0, 0), outside of the view
    figure = plots.conflict(IMAGE, before, gt_inds(box0=[0, 10]), PRIORS, TRUTH, margin=0.0)
    left, right = figure.axes
    together = [BOXES_TRUE[:, :2].min().item(), BOXES_TRUE[:, 2:].max().item()]
    assert left.get_xlim() == right.get_xlim() == tuple(together)
    for ax in figure.axes:
        assert labelled(ax, "box 0")[0].get_offsets().tolist() == PRIORS[[10], :2].tolist()
        assert {text.get_text() for text in ax.texts} == {"box 0", "box 1"}


def test_assignment_shows_box_level_and_iou() -> None:
    ious = torch.zeros(len(PRIORS))
    ious[[9, 70, 81]] = torch.tensor([1.0, 0.5, 0.25])
    figure = plots.assignment(IMAGE, gt_inds(box0=[9, 70], box1=[81]), PRIORS, BOXES_TRUE, ious=ious, follow=9)
    [ax] = figure.axes
    fine, coarse = labelled(ax, "box 0")  # one cloud a level, since shapes differ
    assert fine.get_offsets().tolist() == PRIORS[[9], :2].tolist()
    assert coarse.get_offsets().tolist() == PRIORS[[70], :2].tolist()
    assert fine.get_paths()[0].vertices.shape != coarse.get_paths()[0].vertices.shape
    np.testing.assert_allclose(coarse.get_sizes() / fine.get_sizes(), 0.55)
    [other] = labelled(ax, "box 1")
    assert to_hex(other.get_facecolor()[0]) == BOXES[1]
    assert [xyxy(patch) for patch in rectangles(ax)] == BOXES_TRUE.tolist()
    assert labelled(ax, "follow")[0].get_offsets().tolist() == [PRIORS[9, :2].tolist()]
    assert "box 0: 2 positives" in words(figure)
    assert figure.get_suptitle() == "3 of 84 priors learn a box, the others background"


@pytest.mark.parametrize("inds", [gt_inds(box0=[18, 69]), gt_inds(box0=[18], box1=[69]), gt_inds(box0=[69], box1=[18])])
def test_a_fine_prior_is_seen_over_a_coarse_one_at_the_same_place(inds: torch.Tensor) -> None:
    assert PRIORS[18, :2].tolist() == PRIORS[69, :2].tolist()
    [ax] = plots.assignment(IMAGE, inds, PRIORS, BOXES_TRUE).axes
    below, above = sorted(labelled(ax, "box 0") + labelled(ax, "box 1"), key=lambda dots: dots.get_zorder())
    assert below.get_zorder() < above.get_zorder()
    assert len(below.get_paths()[0].vertices) < len(above.get_paths()[0].vertices)  # a square, a circle


def test_assignment_of_a_batch_draws_the_chosen_image_without_padding_and_ignored_boxes() -> None:
    truth = GroundTruth.from_list(
        [BOXES_TRUE[:1], BOXES_TRUE],
        [torch.tensor([0]), torch.tensor([0, 0])],
        ignore=[torch.tensor([False]), torch.tensor([True, False])],
    )
    inds = torch.stack([gt_inds(box0=[9]), gt_inds(box1=[81]) - (torch.arange(len(PRIORS)) == 3).long()])
    assigned = AssignResult(inds, (inds > 0) * 0.5, inds - 1)
    figure = plots.assignment(IMAGE, assigned, PRIORS, truth, index=1)
    [ax] = figure.axes
    assert [xyxy(patch) for patch in rectangles(ax)] == [BOXES_TRUE[1].tolist()]
    assert figure.get_suptitle() == "1 of 84 priors learns a box, the others background"
    assert labelled(ax, "box 1")[0].get_offsets().tolist() == PRIORS[[81], :2].tolist()


def test_assignment_names_the_boxes_that_got_nothing() -> None:
    assert "none learns box 1" in plots.assignment(IMAGE, gt_inds(box0=[9]), PRIORS, BOXES_TRUE).get_suptitle()
    figure = plots.assignment(IMAGE, MANY_INDS, PRIORS, MANY)
    assert len(rectangles(figure.axes[0])) == 300
    assert "and 288 boxes more" in words(figure)


def test_labels_stay_in_the_image_and_off_each_other() -> None:
    figure, axes = panels("Three boxes, two of them at the same place", 1, 1, 1.0)
    [[ax]] = axes
    show_image(ax, IMAGE)
    figure.draw_without_rendering()
    boxes = np.array([[0.0, 0, 20, 20], [0, 0, 20, 20], [60, 60, 64, 64]])
    draw_labels(ax, boxes, ["one", "two", "three"], list(BOXES[:3]))
    figure.draw_without_rendering()
    frames = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(frames, 2))
    for frame in frames:
        assert ax.bbox.x0 <= frame.x0 < frame.x1 <= ax.bbox.x1
        assert ax.bbox.y0 <= frame.y0 < frame.y1 <= ax.bbox.y1


def test_in_a_crowd_the_first_labels_can_be_read_and_the_others_are_left_out() -> None:
    figure, axes = panels("Twelve boxes at one place, in a small image", 1, 4, 1.0)
    figure.set_dpi(STYLE["figure.dpi"])
    ax = axes[0, 0]
    show_image(ax, IMAGE)
    figure.draw_without_rendering()
    names = [f"tennis ball 0.{i:02}" for i in range(12)]
    draw_labels(ax, np.tile([[22.0, 22, 42, 42]], (12, 1)), names, ["#000000"] * 12)
    figure.draw_without_rendering()
    frames = [text.get_window_extent() for text in ax.texts]
    assert 4 <= len(frames) < 12
    assert [text.get_text() for text in ax.texts] == names[: len(frames)]
    for earlier, later in itertools.combinations(frames, 2):
        both = earlier.intersection(earlier, later)
        assert both is None or both.width * both.height <= 0.4 * earlier.width * earlier.height


def test_detections_are_filtered_named_and_coloured_by_class() -> None:
    detections = found([[8, 8, 40, 40], [20, 20, 60, 60], [0, 0, 9, 9]], [0.3, 0.9, 0.5], [0, 2, 0])
    figure = plots.detection_sheet([IMAGE], [detections], CLASSES, TRUTH)
    [ax] = figure.axes
    dashed = [patch for patch in rectangles(ax) if patch.get_linestyle() == "--"]
    solid = [patch for patch in rectangles(ax) if patch not in dashed]
    assert [xyxy(patch) for patch in dashed] == BOXES_TRUE.tolist()
    assert [xyxy(patch) for patch in solid] == [[0, 0, 9, 9], [20, 20, 60, 60]]  # the best on top; 0.3 is not above 0.3
    assert [to_hex(patch.get_edgecolor()) for patch in solid] == [BOXES[0], BOXES[2]]
    assert all(line.get_linewidth() < solid[0].get_linewidth() for line in dashed)
    assert [text.get_text() for text in ax.texts] == ["owl 0.90", "cat 0.50"]
    assert figure.get_suptitle() == "What the detector finds, with scores above 0.3; dashed: the true boxes"


def test_a_sheet_has_an_image_for_each_image() -> None:
    nothing = found([], [], [])
    images = torch.from_numpy(IMAGE).permute(2, 0, 1).expand(5, -1, -1, -1)
    figure = plots.detection_sheet(images, [nothing] * 4 + [found([[1, 1, 9, 9]], [0.9], [0])], CLASSES)
    assert len(figure.axes) == 5
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 3)  # rows as equal as can be
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["nothing found"] * 4 + ["cat 0.90"]


def test_class_names_are_not_read_as_formulas() -> None:
    [ax] = plots.detection_sheet([IMAGE], [found([[8, 8, 40, 40]], [0.9], [0])], ["$1 or $\\nothing"]).axes
    assert not ax.texts[0].get_parse_math()


def test_three_hundred_detections_are_drawn_and_the_best_twelve_named() -> None:
    [ax] = plots.detection_sheet([IMAGE], [MANY_FOUND], CLASSES).axes
    assert len(rectangles(ax)) == 300
    assert [text.get_text() for text in ax.texts][:2] == ["cat 1.00", "dog 1.00"]
    assert len(ax.texts) == 12


def test_a_sheet_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="1 images with 0 detections"):
        plots.detection_sheet([IMAGE], [], CLASSES)
    with pytest.raises(ValueError, match="0 images"):
        plots.detection_sheet([], [], CLASSES)
    with pytest.raises(ValueError, match=r"image 0: labels 3\.\.3, but only 3 class names"):
        plots.detection_sheet([IMAGE], [found([[1, 1, 9, 9]], [0.9], [3])], CLASSES)


def test_loss_curve_draws_every_step_and_its_mean() -> None:
    rows = [*log_rows(40), {"step": 40, "AP": 0.25}, {"step": 80, "AP": 0.5}]
    figure = plots.loss_curve(rows, window=5)
    losses, *below = figure.axes
    for key, name in (("loss_cls", "class loss"), ("loss_bbox", "box loss")):
        values = [row[key] for row in rows if key in row]
        [smooth] = labelled(losses, name)
        raw = next(line for line in losses.lines if line.get_marker() == "." and line.get_color() == smooth.get_color())
        assert raw.get_ydata().tolist() == values
        np.testing.assert_allclose(smooth.get_ydata(), moving_average(np.array(values), 5))
        assert smooth.get_ydata()[20] == pytest.approx(np.mean(values[18:23]))
    assert [ax.get_title(loc="left") for ax in below] == ["learning rate", "positives per image", "AP"]
    assert below[2].lines[0].get_xydata().tolist() == [[40, 0.25], [80, 0.5]]
    assert "AP 0.500" in figure.get_suptitle()
    single = plots.loss_curve(rows[:-1])
    assert [ax.get_title(loc="left") for ax in single.axes[1:]] == ["learning rate", "positives per image"]
    assert "AP 0.250" in single.get_suptitle()


def test_loss_curve_reads_a_log_file_and_leaves_out_what_is_empty(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("epoch,step,lr,loss_cls,loss_bbox,AP\n0,1,0.1,2,1,\n0,1,,,,0.5\n0,2,0.1,1,0.5,\n0,2,,,,0.75\n")
    figure = plots.loss_curve(path)
    assert [ax.get_title(loc="left") for ax in figure.axes[1:]] == ["learning rate", "AP"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 2], [2, 1]]
    assert "class loss 2.00 to 1.00" in figure.get_suptitle()


def test_a_loss_that_is_not_finite_is_marked_and_not_hidden() -> None:
    rows = log_rows(10)
    rows[6]["loss_cls"] = float("nan")
    [crosses] = labelled(plots.loss_curve(rows).axes[0], "not finite")
    assert crosses.get_xdata().tolist() == [6]
    assert not labelled(plots.loss_curve(log_rows(10)).axes[0], "not finite")


@pytest.mark.parametrize("rows", [[], [{"loss_cls": 1.0}]])
def test_a_log_without_steps_is_refused(rows: list) -> None:
    with pytest.raises(ValueError, match="at least one row, and a 'step' in each"):
        plots.loss_curve(rows)


@pytest.mark.parametrize(("n", "window"), [(0, 3), (1, 1), (2, 9), (7, 4)])
def test_moving_average_keeps_length_and_constants(n: int, window: int) -> None:
    np.testing.assert_allclose(moving_average(np.full(n, 2.5), window), np.full(n, 2.5))


def test_soft_label_landscape_is_the_loss_itself() -> None:
    left, right, _ = plots.soft_label_loss().axes
    surface = left.collections[0].get_array().reshape(101, 241)
    assert surface[50, 120] == 0  # logit 0, label 0.5
    expected = QualityFocalLoss()(torch.tensor([[6.0]]), torch.tensor([0]), torch.tensor([0.25])).item()
    assert surface[25, -1] == pytest.approx(expected)
    valley = left.lines[0].get_xydata()
    np.testing.assert_allclose(1 / (1 + np.exp(-valley[:, 0])), valley[:, 1], rtol=1e-5)
    assert [line.get_label() for line in right.lines] == ["0", "0.25", "0.5", "0.75", "1"]
    np.testing.assert_allclose(right.lines[1].get_ydata(), surface[25])


def test_breakdown_adds_up_by_level_and_by_box() -> None:
    loss = terms(batch=2)
    inds = torch.stack([gt_inds(box0=[9, 70], box1=[81]), gt_inds(box0=[82])])
    figure = plots.loss_breakdown(loss, AssignResult(inds, inds * 0.1, inds - 1), PRIORS)
    cls, bbox = loss.cls.detach().double() / 4, loss.bbox.double() / 4
    left, right = figure.axes
    # rows of class on positives, box, and class on background; a column a level
    widths = np.array([bar.get_width() for bar in left.patches]).reshape(3, 3)
    assert widths.sum() == pytest.approx(float(cls.sum() + bbox.sum()))
    assert widths[0, 0] == pytest.approx(float(cls[0, 9]))
    assert widths[1].tolist() == pytest.approx([float(level.map(bbox).sum()) for level in levels(PRIORS)])
    assert widths[2, 2] == pytest.approx(float(cls[:, 80:].sum() - cls[0, 81] - cls[1, 82]))

    names = [text.get_text() for text in right.get_yticklabels()]
    bars = np.array([bar.get_width() for bar in right.patches]).reshape(2, 3)
    by_name = dict(zip(names, bars.T, strict=True))
    assert by_name["box 0, image 0"] == pytest.approx([float(v[0, [9, 70]].sum()) for v in (cls, bbox)])
    assert by_name["box 0, image 1"] == pytest.approx([float(v[1, 82]) for v in (cls, bbox)])
    assert bars.sum(0).tolist() == sorted(bars.sum(0), reverse=True)
    assert figure.get_suptitle().startswith(f"Where the loss comes from: class {cls.sum():.3f}")


def test_breakdown_of_many_boxes_adds_the_small_ones() -> None:
    right = plots.loss_breakdown(terms(), result(MANY_INDS), PRIORS, most=10).axes[1]
    names = [text.get_text() for text in right.get_yticklabels()]
    assert len(names) == 11
    assert names[-1] == "73 more boxes"  # priors 1..83 have one box each
    loss = terms()
    drawn = sum(bar.get_width() for bar in right.patches)
    assert drawn == pytest.approx(float((loss.cls + loss.bbox).detach()[0, 1:].sum() / 4), rel=1e-5)


def test_breakdown_divides_by_one_where_nothing_was_assigned() -> None:
    loss = terms()._replace(iou_sum=torch.tensor(0.0), bbox=torch.zeros(1, len(PRIORS)))
    figure = plots.loss_breakdown(loss, result(gt_inds()), PRIORS)
    total = f"{loss.cls.sum().item():.3f}"
    assert f"class {total} ({total} of it background), box 0.000" in figure.get_suptitle().replace("\n", " ")
    assert not figure.axes[1].patches


def test_target_maps_show_class_weight_and_soft_label() -> None:
    figure = plots.target_maps(TARGETS, PRIORS, CLASSES, follow=1)
    assert figure.get_suptitle() == "3 of 84 priors learn a class and a box, 4 nothing, the others background"
    label, weight, soft = figure.axes[:3]
    assert to_hex(label.images[0].get_array()[0, 2]) == BOXES[1]
    assert to_hex(label.images[0].get_array()[0, 3]) != BOXES[1]
    assert len({to_hex(cell) for cell in weight.images[0].get_array().reshape(-1, 3)}) == 1
    np.testing.assert_allclose(soft.images[0].get_array()[0, :3], [0.25, 0.5, 0.75])
    assert soft.images[0].get_array()[0, 3:].mask.all()
    assert [xyxy(box) for box in rectangles(label)] == [BOXES_TRUE[0].tolist()]
    assert not rectangles(figure.axes[3]), "a box is drawn on the levels that learn it"
    assert labelled(soft, "follow")[0].get_offsets().tolist() == [[8, 0]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["dog", "background", "label weight 1", "label weight 0"]


def test_target_changes_outline_what_has_changed() -> None:
    figure = plots.target_changes(TARGETS, LATER, PRIORS, CLASSES, follow=1)
    assert "outlined: the 2 priors for which it has changed" in figure.get_suptitle()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["stride 8: 1 changed", "stride 16: 0 changed", "stride 32: 1 changed"]
    fine, _, coarse = figure.axes
    assert to_hex(fine.images[0].get_array()[0, 1]) == BOXES[1]
    assert to_hex(fine.images[0].get_array()[0, 2]) == FAINT
    assert [to_hex(cell) for cell in coarse.images[0].get_array().reshape(-1, 3)] == [FAINT] + [MUTED] * 3
    around = [np.array(labelled(ax, "changed")[0].get_segments()) for ax in figure.axes]
    assert [len(lines) for lines in around] == [4, 0, 4]
    assert [around[0].min((0, 1)).tolist(), around[0].max((0, 1)).tolist()] == [[12, -4], [20, 4]]  # around (16, 0)
    assert labelled(fine, "follow")[0].get_offsets().tolist() == [[8, 0]]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dog", "background", "nothing: label weight 0"]


def test_neighbours_that_changed_have_one_outline() -> None:
    later = TARGETS._replace(label_weights=TARGETS.label_weights.clone())
    later.label_weights[0, :2] = 0
    [lines] = labelled(plots.target_changes(TARGETS, later, PRIORS, CLASSES).axes[0], "changed")
    assert len(lines.get_segments()) == 6


def test_curves_keep_their_values_and_refuse_too_many() -> None:
    figure = plots.curves({"a": [1.0, 4.0]}, title="One course", xlabel="x", ylabel="y", x=[2.0, 8.0])
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[2, 1], [8, 4]]
    with pytest.raises(ValueError, match="7 lines cannot be told apart"):
        plots.curves({str(i): [0.0] for i in range(7)}, title="Too many", xlabel="x", ylabel="y")


def test_each_run_is_drawn_beside_the_healthy_one() -> None:
    healthy = [{"step": i, "loss_cls": 1.0, "iou": 0.5} for i in range(3)]
    broken = [{"step": i, "loss_cls": value, "iou": 0.1} for i, value in enumerate((100.0, float("nan"), 90.0))]
    names = {"loss_cls": "class loss", "iou": "IoU"}
    figure = plots.compare_runs(healthy, {"no bias": broken, "twin": healthy}, title="Two runs", quantities=names)
    loss, iou, twin, _ = figure.axes
    assert [ax.get_yscale() for ax in (loss, iou)] == ["log", "linear"]
    assert loss.lines[0].get_ydata().tolist() == [1, 1, 1]
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [100, np.nan, 90])
    assert iou.lines[1].get_ydata().tolist() == [0.1] * 3
    assert loss.lines[0].get_color() != loss.lines[1].get_color()
    assert (loss.get_title(loc="left"), iou.get_title(loc="left")) == ("class loss", "IoU")
    assert (loss.get_ylabel(), twin.get_ylabel()) == ("no bias", "twin")
    with pytest.raises(ValueError, match="no run to compare"):
        plots.compare_runs(healthy, {}, title="None")


def test_precision_recall_draws_the_curves_with_their_area() -> None:
    curves = {"cat": CURVE, "dog": np.ones(11), "owl": -np.ones(101)}
    figure = plots.precision_recall(curves, seen="cats, at IoU .50")
    [ax] = figure.axes
    assert ax.get_title("left") == "cats, at IoU .50"
    assert [line.get_label() for line in ax.lines] == ["cat: 0.500", "dog: 1.000"]
    assert ax.lines[0].get_xydata()[[0, 50, 100]].tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert "mean AP 0.750; nothing to find for owl" in figure.get_suptitle()
    assert plots.precision_recall({"before": CURVE, "after": CURVE}, title="A fault").get_suptitle() == "A fault"
    many = plots.precision_recall({str(i): np.full(101, i / 79) for i in range(80)}).axes[0].lines
    assert len(many) == 81
    assert many[-1].get_label() == "mean: 0.500"
    assert len({line.get_color() for line in many[:-1]}) == 1


def test_distances_point_to_the_sides_of_the_box_that_they_span() -> None:
    figure = plots.distances(IMAGE, PRIORS[9, :2], {"right": LTRB, "swapped": LTRB[[2, 1, 0, 3]]}, BOXES_TRUE[0])
    right, swapped = figure.axes
    assert PRIORS[9, :2].tolist() == [8, 8]
    assert [xyxy(patch) for patch in rectangles(right)] == [BOXES_TRUE[0].tolist(), [4, 0, 36, 32]]
    assert xyxy(rectangles(swapped)[1]) == [-20, 0, 12, 32]
    assert [text.get_text() for text in right.texts if text.get_text()] == ["l 4", "t 8", "r 28", "b 24"]
    ends = [text.xy for text in right.texts if not text.get_text()]
    assert ends == [(4, 8), (8, 0), (36, 8), (8, 32)]


def test_distances_close_up_and_below_zero() -> None:
    figure = plots.distances(IMAGE, PRIORS[9, :2], {"outside": torch.tensor([-4.0, 4, 14, 6])}, margin=3.0)
    [ax] = figure.axes
    assert ax.get_xlim() == (9, 25)  # the box from 12 to 22, three pixels more on each side
    assert ax.get_ylim() == (17, 1)  # as high as it is wide, with the box from 4 to 14 in the middle
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["l −4", "t 4", "r 14", "b 6"]


def test_film_counts_the_positives_of_each_moment() -> None:
    figure = plots.film(IMAGE, FRAMES, PRIORS, TRUTH, follow=9)
    first, second = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == ["step 0: 1 + 0", "step 10: 2 + 1"]
    assert sum(len(dots.get_offsets()) for dots in labelled(first, "box 0")) == 1
    assert sum(len(dots.get_offsets()) for dots in labelled(second, "box 0")) == 2
    assert labelled(second, "follow")[0].get_offsets().tolist() == [[8, 8]]
    with pytest.raises(ValueError, match="at least one assignment"):
        plots.film(IMAGE, {}, PRIORS, TRUTH)


def test_answers_count_anchors_and_draw_priors() -> None:
    one, nine = plots.answers(IMAGE, ANSWERS, PRIORS, TRUTH, follow=9).axes
    assert [ax.get_title("left") for ax in (one, nine)] == ["points: 2 + 1", "anchors: 3 + 2"]
    names = ("box 0, stride 8", "box 1, stride 8", "box 1, stride 16")
    first, second, coarse = (labelled(nine, name)[0] for name in names)
    assert first.get_offsets().tolist() == [[8, 8], [16, 8]]
    assert second.get_offsets().tolist() == [[16, 8]]
    assert coarse.get_offsets().tolist() == [[32, 16]]
    assert labelled(one, "follow")[0].get_offsets().tolist() == [[8, 8]]
    with pytest.raises(ValueError, match="at least one assigner"):
        plots.answers(IMAGE, {}, PRIORS, TRUTH)


def test_answers_have_the_colours_of_their_boxes_which_are_named() -> None:
    figure = plots.answers(IMAGE, ANSWERS, PRIORS, TRUTH, names=["panda", "car"])
    nine = figure.axes[1]
    for ax in figure.axes:
        assert [to_hex(patch.get_edgecolor()) for patch in rectangles(ax)] == list(BOXES[:2])
        for dots in ax.collections:
            assert {to_hex(color) for color in dots.get_facecolor()} <= {BOXES[int(dots.get_label()[4])]}
    # (16, 8) belongs to both: the second box's disc lies on the first one's and is smaller
    below, above = (labelled(nine, f"box {g}, stride 8")[0] for g in (0, 1))
    assert above.get_sizes()[0] == pytest.approx(below.get_sizes()[1] / 4)
    [legend] = figure.legends
    keys = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert list(keys) == ["panda", "car", "stride 8", "stride 16", "stride 32"]
    assert [keys[name].get_color() for name in ("panda", "car")] == list(BOXES[:2])
    assert len({keys[f"stride {stride}"].get_marker() for stride in (8, 16, 32)}) == 3
    with pytest.raises(ValueError, match="box 1 has no name"):
        plots.answers(IMAGE, ANSWERS, PRIORS, TRUTH, names=["panda"])


def test_level_bars_stack_the_levels() -> None:
    counts = {"cat": {"now": [3, 1, 0], "then": [0, 0, 0]}, "dog": {"now": [0, 2, 5], "then": [1, 0, 0]}}
    cat, dog = plots.level_bars("Positives of two boxes", counts, (8, 16, 32)).axes
    assert [(bar.get_x(), bar.get_width()) for bar in dog.patches[:3]] == [(0, 0), (0, 2), (2, 5)]
    assert [label.get_text() for label in cat.get_yticklabels()] == ["now", "then"]
    assert "none" in [text.get_text() for text in cat.texts]
    assert "none" not in [text.get_text() for text in dog.texts]


def test_courses_draw_a_line_a_row() -> None:
    [ax] = plots.courses("Positives of two boxes", {"cat": {"now": [3, 1], "then": [0, 2]}}, ("0", "10")).axes
    assert {line.get_label(): line.get_ydata().tolist() for line in ax.lines} == {"now": [3, 1], "then": [0, 2]}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "10"]


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_animation_has_a_frame_a_moment_and_rests_on_the_last(ending: str, tmp_path) -> None:
    path = tmp_path / "run" / f"film.{ending}"
    assert plots.animate(path, IMAGE, FRAMES, PRIORS, TRUTH, seconds=0.5) == path
    moving = Image.open(path)
    assert moving.n_frames == 2
    assert moving.width == 1400
    durations, pixels = [], []
    for frame in range(2):
        moving.seek(frame)
        durations.append(moving.info["duration"])
        pixels.append(np.asarray(moving.convert("RGB")))
    assert durations == [500, 1500]
    assert moving.info["loop"] == 0
    assert (pixels[0] != pixels[1]).any()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_animation_refuses_what_does_not_move(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"does not end in .gif or .png"):
        plots.animate(tmp_path / "film.jpg", IMAGE, FRAMES, PRIORS, TRUTH)
    with pytest.raises(ValueError, match="at least one assignment"):
        plots.animate(tmp_path / "film.gif", IMAGE, {}, PRIORS, TRUTH)
    assert not list(tmp_path.iterdir())


def test_feature_maps_show_the_mean_and_the_liveliest_channels() -> None:
    features = torch.zeros(2, 5, 4, 6)
    features[1, 2] = torch.linspace(-3, 3, 24).reshape(4, 6)
    features[1, 4] = torch.linspace(-1, 1, 24).reshape(4, 6)
    features[0, 0] = torch.randn(4, 6) * 100
    figure = plots.feature_maps([features], image=IMAGE, index=1, channels=2)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["", "mean |x|", "channel 2", "channel 4"]
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), features[1].abs().mean(0).numpy())
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), features[1, 2].numpy())
    assert figure.axes[1].get_ylabel() == "5 × 4 × 6"


def test_precision_by_iou_shows_what_is_lost_by_boxes_that_do_not_fit() -> None:
    figure = plots.precision_recall_by_iou(PRECISION, CLASSES)
    loose, mean = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == ["at IoU .50", "mean over IoU .50 to .95"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["recall"] * 2
    assert loose.get_ylabel() == "precision"
    for ax, dog in ((loose, CURVE), (mean, CURVE / 2)):
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines], [CURVE, dog, (CURVE + dog) / 2])
    [legend] = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["cat: 0.500 / 0.500", "dog: 0.500 / 0.250", "mean: 0.500 / 0.375"]
    assert "AP50 0.500, AP 0.375 over 2 classes; nothing to find for owl" in figure.get_suptitle().replace("\n", " ")
    one = plots.precision_recall_by_iou(PRECISION[..., :1], ["cat"])
    assert [len(ax.lines) for ax in one.axes] == [1, 1], "one class is its own mean"
    many = plots.precision_recall_by_iou(np.tile(PRECISION[..., :2], 40), [str(i) for i in range(80)])
    assert [len(ax.lines) for ax in many.axes] == [81, 81]
    assert [text.get_text() for text in many.legends[0].get_texts()] == ["mean: 0.500 / 0.375"]
    with pytest.raises(ValueError, match="precision of 3 classes, but 2 names"):
        plots.precision_recall_by_iou(PRECISION, ["cat", "dog"])


def test_worst_images_tell_hits_from_misses() -> None:
    figure = plots.worst_images([IMAGE], [MATCH], CLASSES, ["0001.jpg"])
    [ax] = figure.axes
    drawn = {(to_hex(patch.get_edgecolor()), patch.get_linestyle()): xyxy(patch) for patch in rectangles(ax)}
    assert drawn == {
        (HIT, "solid"): [4, 4, 36, 34],
        (FALSE, "solid"): [20, 20, 60, 52],
        (MISSED, "solid"): [20, 20, 60, 52],
        ("#ffffff", "--"): [4, 4, 36, 36],
    }
    assert [text.get_text() for text in ax.texts] == ["dog", "owl 0.80", "cat 0.90"]
    assert ax.get_title("left") == "F1 0.50: 1 missed, 1 false"
    assert ax.get_xlabel() == "0001.jpg"
    assert figure.get_suptitle() == "1 box missed, 1 false detection"
    [legend] = figure.legends
    meaning = {
        text.get_text(): to_hex(line.get_color()) for text, line in zip(legend.texts, legend.get_lines(), strict=True)
    }
    assert [meaning[word] for word in ("found", "false", "missed")] == [HIT, FALSE, MISSED]
    with pytest.raises(ValueError, match="1 images with 2 matches and 1 names"):
        plots.worst_images([IMAGE], [MATCH] * 2, CLASSES)


def test_half_precision_is_drawn() -> None:
    figure = plots.feature_maps([torch.ones(1, 1, 2, 2, dtype=torch.bfloat16, requires_grad=True)])
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 1], [1, 1]]


def test_before_and_after_show_a_pair_for_each_transform() -> None:
    before, after, again = steps(3)
    figure = plots.before_and_after([(before, after), (after, again)], ["resize", "flip"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "before: 64 × 32 px",
        "resize: 64 × 40 px",
        "before: 64 × 40 px",
        "flip: 64 × 48 px",
    ]
    for ax in figure.axes:
        assert [xyxy(patch) for patch in rectangles(ax)] == BOXES_TRUE.tolist()
    with pytest.raises(ValueError, match="1 pairs with 2 names"):
        plots.before_and_after([(before, after)], ["a", "b"])


def test_augmentation_steps_show_each_image_with_its_boxes() -> None:
    figure = plots.augmentation_steps(steps(3), ["crop", "resize", "flip"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "crop: 64 × 32 px",
        "resize: 64 × 40 px",
        "flip: 64 × 48 px",
    ]
    for ax in figure.axes:
        assert [xyxy(patch) for patch in rectangles(ax)] == BOXES_TRUE.tolist()
    assert figure.get_suptitle() == "One image, step by step: crop, resize, flip"
    assert plots.augmentation_steps(steps(1), ["crop"], title="A crop").get_suptitle() == "A crop"
    with pytest.raises(ValueError, match="2 samples with 1 names"):
        plots.augmentation_steps(steps(2), ["crop"])


def test_score_maps_show_probabilities_in_one_scale_and_place() -> None:
    logits = [torch.full((1, 3, *size), -4.0) for size in SIZES]
    logits[1][0, 2, 3, 1] = 2.0
    figure = plots.score_maps(logits, PRIORS, {2: "owl", 0: "cat"}, ground_truth=TRUTH, follow=70)
    assert "owl 0.88, cat 0.02" in figure.get_suptitle().replace("\n", " ")
    owl = figure.axes[1].images[0]
    assert owl.get_array()[3, 1] == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert owl.get_extent() == [-8, 56, 56, -8]  # the prior is in the middle of its pixel
    assert {image.get_clim() for ax in figure.axes[:6] for image in ax.images} == {(0, owl.get_array().max())}
    assert [len(labelled(ax, "follow")) for ax in figure.axes[:6]] == [0, 1, 0, 0, 1, 0]
    assert len(rectangles(figure.axes[5])) == 2


def test_norm_statistics_keep_one_order_of_channels() -> None:
    norms = {8: nn.BatchNorm2d(3), 16: nn.BatchNorm2d(3)}
    norms[8].running_var.copy_(torch.tensor([9.0, 1.0, 4.0]))
    norms[16].running_mean.copy_(torch.tensor([5.0, 6.0, 7.0]))
    mean, deviation = plots.norm_statistics(norms).axes
    assert deviation.lines[0].get_ydata().tolist() == [1, 2, 3]
    assert mean.lines[1].get_ydata().tolist() == [6, 7, 5]


def test_influence_falls_with_the_distance_from_a_cell() -> None:
    inner = torch.zeros(8, 8)
    inner[3:5, 3:5] = 3.0  # the four pixels around (4, 4): three quarters of all
    inner[1:7, 1], inner[1:7, 6], inner[1, 2:6], inner[6, 2:6] = 0.2, 0.2, 0.2, 0.2  # 20 pixels from 2 to 3 away
    figure = plots.influence({8: inner, 32: torch.ones(8, 8)}, {8: (4.0, 4.0), 32: (0.0, 0.0)})
    falling, growing = figure.axes
    assert figure.get_suptitle() == "Half of what moves a cell lies within 1 px at stride 8, 6 px at stride 32"
    assert [line.get_color() for line in falling.lines] == [LEVELS[8][0], LEVELS[32][0]]
    assert falling.lines[0].get_linestyle() != falling.lines[1].get_linestyle()
    fine, coarse, _ = growing.lines
    assert fine.get_xdata().tolist() == [0, 1, 2, 3, 4]
    assert fine.get_ydata().tolist() == pytest.approx([0, 0.75, 0.75, 1, 1])
    assert coarse.get_ydata().tolist() == pytest.approx([(i / 8) ** 2 for i in range(9)])
    assert falling.lines[1].get_ydata().tolist() == pytest.approx([1] * 8)


def test_the_middle_of_the_influence_is_marked_along_x_and_along_y() -> None:
    values = torch.zeros(4, 6)
    values[1, 2], values[2, 3] = 1.0, 3.0
    across, down = plots.influence_middle(values, {"corner": (2.0, 1.0), "centre": (3.0, 2.0)}).axes
    for chart, places, middle in ((across, [2, 3], 3.25), (down, [1, 2], 2.25)):
        lines = {line.get_label(): line.get_xdata() for line in chart.lines}
        assert [lines[name][0] for name in ("corner", "centre")] == places
        assert lines["middle of the influence"][0] == pytest.approx(middle)  # 1/4 at the first pixel's, 3/4 at the next
    part = plots.influence_middle(values, {"corner": (102.0, 101.0)}, start=100).axes
    assert [chart.get_xlim() for chart in part] == [(100, 106), (100, 104)]
    assert [chart.lines[1].get_xdata()[0] for chart in part] == pytest.approx([103.25, 102.25])


def layer(ax) -> np.ndarray:
    """What lies over the image."""
    _, above = ax.images
    return above.get_array()


def test_masks_lie_over_the_image_in_the_colours_of_their_boxes_the_best_on_top() -> None:
    above = layer(plots.detection_sheet([IMAGE], [WITH_MASKS], CLASSES).axes[0])
    assert to_hex(above[5, 5, :3] / 255) == BOXES[0]
    assert to_hex(above[5, 60, :3] / 255) == BOXES[2]
    assert set(above[..., 3].flat) == {128}
    few = plots.detection_sheet([IMAGE], [WITH_MASKS], CLASSES, score_threshold=0.85)
    assert layer(few.axes[0])[5, 60, 3] == 0
    (alone,) = plots.detection_sheet([IMAGE], [Detections(*WITH_MASKS)], CLASSES).axes[0].images
    assert alone.get_array().shape == IMAGE.shape


def test_masks_of_right_and_wrong_detections_have_their_colours() -> None:
    above = layer(plots.worst_images([IMAGE], [match(WITH_MASKS)], CLASSES).axes[0])
    assert to_hex(above[5, 5, :3] / 255) == HIT
    assert to_hex(above[5, 60, :3] / 255) == FALSE


def test_kernels_are_drawn_with_their_biases() -> None:
    first, second, third, _ = plots.kernel_matrices(parse_kernel(torch.arange(169.0) - 80)).axes
    shown = first.images[0].get_array()
    assert shown.shape == (8, 10 + 1 + 1)
    assert (shown[0, 0], shown[7, 9], shown[0, 11]) == (-80, -1, 72)
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["x", "y", *"12345678", "b"]
    assert (second.images[0].get_array()[0, 0], third.images[0].get_array()[0, 9]) == (0, 88)


def test_coordinates_are_zero_at_their_prior() -> None:
    x, y, *_ = plots.coordinates({"prior 9": COORDINATES}, [(8.0, 8.0)]).axes
    assert x.images[0].get_array()[3, :3].tolist() == [0.125, 0, -0.125]
    assert y.images[0].get_array()[:3, 3].tolist() == [0.125, 0, -0.125]
    assert labelled(x, "prior")[0].get_offsets().tolist() == [[8, 8]]
