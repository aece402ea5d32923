"""What the live lab computes with: the book's scene, and what the network said of it at each recorded moment.

All of it is written into the site's ``_static/lab/data`` when the book is built; the lab itself is the modules in
``book/_static/lab``.  A page that has a lab, which is ``<div class="lab" data-view="...">`` in its text, loads them.
Until they have drawn something, and where they cannot, the page shows a still of the view.
"""

import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sphinx.application import Sphinx

from minirtmdet import plots
from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import AssignerConfig
from minirtmdet.data.example import PRIOR, STEPS, example, recorded_maps
from minirtmdet.data.scenes import render_scene
from minirtmdet.head.pipeline import RTMDetLoss, flatten_levels
from minirtmdet.presets import PRESETS
from minirtmdet.reference import assigners, assignment

MOMENTS = (*STEPS, None)
"""Steps of the recorded run, and the finished detector."""
SCENES = 12
PLACE = re.compile(r'<div class="lab" data-view="([a-z-]+)"[^>]*>')
ALT = {
    "priors": "The scene with its priors on three levels.",
    "costs": "Maps of the class cost, the IoU cost, the centre cost and their sum for the car, on three levels.",
    "matching": "The scene with the priors that each box got.",
    "losses": "Quality focal loss against logit and soft label.",
    "assigners": "The scene four times, with the positives of four assigners.",
    "network": "The scene, as the network sees it.",
}


def flat_maps(step: int | None) -> bytes:
    """Logits ``[N,C]`` and distances ``[N,4]`` of a moment, fp32, little-endian: the numbers that Python has."""
    parts = [flatten_levels(kind)[0].flatten() for kind in recorded_maps(step)]
    return torch.cat(parts).numpy().astype("<f4").tobytes()


def content() -> dict[str, Any]:
    """What the lab knows of the scene."""
    scene, recipe = example(), asdict(AssignerConfig())
    return {
        "size": scene.image.shape[0],
        "classes": list(scene.names),
        "boxes": scene.boxes.int().tolist(),
        "labels": scene.labels.tolist(),
        "moments": [f"step {step}" for step in STEPS] + ["finished"],
        "follow": PRIOR,
        "settings": {
            "topk": recipe["topk"],
            "iouWeight": recipe["iou_weight"],
            "radius": recipe["soft_center_radius"],
        },
    }


def still(view: str) -> Any:
    """The figure that stands in a lab's place."""
    scene, loss = example(), RTMDetLoss(num_classes=16)
    logits, predicted, priors, _ = loss.flatten(*recorded_maps())
    truth = scene.boxes, scene.labels
    if view == "priors":
        return plots.priors(priors, scene.image, follow=PRIOR)
    if view == "costs":
        chosen = assignment.candidates(priors, scene.boxes)
        ious = bbox_overlaps(predicted[0, chosen], scene.boxes)
        centers = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
        costs = {
            "class": assignment.class_cost(logits[0, chosen], scene.labels, ious),
            "3 × IoU": 3 * assignment.iou_cost(ious),
            "centre": assignment.center_cost(priors[chosen], centers),
        }
        maps = {name: torch.full((3, len(priors)), torch.inf) for name in costs}
        for name, values in costs.items():
            maps[name][:, chosen] = values.T
        return plots.cost_maps(maps, priors, boxes=[1], ground_truth=scene.boxes, margin=16)
    if view == "matching":
        assigned = loss.assign(*recorded_maps(), scene.ground_truth)
        return plots.assignment(scene.image, assigned, priors, scene.ground_truth, follow=PRIOR)
    if view == "network":
        return plots.priors(priors, scene.image, follow=PRIOR)
    if view == "losses":
        return plots.soft_label_loss()
    answers = {
        "max-IoU": assigners.max_iou_assign(assigners.grid_anchors(priors).flatten(0, 1), scene.boxes),
        "FCOS": assigners.fcos_assign(priors, scene.boxes),
        "SimOTA": assigners.sim_ota_assign(logits[0].sigmoid(), predicted[0], priors, *truth).gt_inds,
        "RTMDet": assignment.assign(logits[0], predicted[0], priors, *truth).gt_inds,
    }
    return plots.answers(scene.image, answers, priors, scene.boxes, names=scene.box_names, follow=PRIOR)


def small(figure: Any) -> bytes:
    """A figure as WebP, as wide as a page's column."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, facecolor=figure.get_facecolor())
    image = cv2.imdecode(np.frombuffer(png.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    done, data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 30])
    assert done
    return data.tobytes()


def strip() -> np.ndarray:
    """Scenes that the live network has not seen in training, side by side."""
    config = PRESETS["mini-160"].data.scenes
    return np.hstack([render_scene(config, "val", index)[0] for index in range(SCENES)])


def write(folder: Path, draw: Callable[[str], Any] | None = still) -> None:
    """Write the scene, its image, the maps of each moment and the stills.

    Args:
        folder: where to.
        draw: figures of the stills by view; none are written where ``None``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scene.json").write_text(json.dumps(content()), encoding="utf-8")
    done, image = cv2.imencode(".webp", example().image, [cv2.IMWRITE_WEBP_QUALITY, 92])
    assert done
    (folder / "scene.webp").write_bytes(image.tobytes())
    done, image = cv2.imencode(".webp", strip(), [cv2.IMWRITE_WEBP_QUALITY, 80])
    assert done
    (folder / "scenes.webp").write_bytes(image.tobytes())
    for index, step in enumerate(MOMENTS):
        (folder / f"moment-{index}.bin").write_bytes(flat_maps(step))
    for view in ALT if draw else ():
        (folder / f"still-{view}.webp").write_bytes(small(draw(view)))


def write_into_site(app: Sphinx, exception: Exception | None) -> None:
    """Write the files into the finished site."""
    if exception is None and app.builder.format == "html":
        write(Path(app.outdir) / "_static" / "lab" / "data")


def bring_to_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """On a page with a lab: the modules, their style, and a still above the words in each place."""
    body = context.get("body", "")
    if not PLACE.search(body):
        return
    static = "../" * pagename.count("/") + "_static/lab/"

    def with_still(place: re.Match[str]) -> str:
        view = place[1]
        if view not in ALT:
            return place[0]
        image = f'<img class="lab-still" src="{static}data/still-{view}.webp" alt="{ALT[view]}">'
        return f'{place[0]}<div class="lab-room">{image}</div>'

    context["body"] = PLACE.sub(with_still, body)
    app.add_css_file("lab/lab.css")
    app.add_js_file("lab/lab.js", type="module", loading_method=None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks with Sphinx."""
    app.connect("build-finished", write_into_site)
    app.connect("html-page-context", bring_to_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
