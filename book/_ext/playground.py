"""What the page "Playground" computes with: the package's own assigner as an ONNX file, and the book's scene.

Both are made when the book is built and lie in the site's ``_static/playground``.  The program that runs the file in a
browser is onnxruntime-web, see :mod:`offline_assets`.
"""

import json
from pathlib import Path

import cv2
import torch
from sphinx.application import Sphinx
from torch import Tensor, nn

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.configs import AssignerConfig
from minirtmdet.data.example import PRIOR, STEPS, example, recorded_maps
from minirtmdet.head import assignment
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.inference.export import OPSET, quiet_tracing
from minirtmdet.structures import GroundTruth

STAGES = (*STEPS, None)
"""Steps of the recorded run, and the finished detector."""
OUTPUTS = ("owners", "ious", "ks")
MOST = 13
"""The largest ``topk`` of the slider, and the recipe's."""


class Playground(nn.Module):
    """:class:`minirtmdet.head.assignment.DynamicSoftLabelAssigner`, with its settings as inputs.

    The functions are the assigner's own, in its order; a test holds the answers to the assigner's.
    """

    logits: Tensor
    predicted: Tensor
    background: Tensor
    priors: Tensor
    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        scene, loss = example(), RTMDetLoss(num_classes=16)
        flat = [loss.flatten(*recorded_maps(step)) for step in STAGES]
        logits = torch.cat([one[0] for one in flat])  # [S,N,C]
        self.register_buffer("logits", logits)
        self.register_buffer("background", assignment.background_loss(logits))  # [S,N]
        self.register_buffer("predicted", torch.cat([one[1] for one in flat]))  # [S,N,4]
        self.register_buffer("priors", flat[0][2])  # [N,4]
        self.register_buffer("labels", scene.labels[None])  # [1,G]

    def forward(
        self, boxes: Tensor, stage: Tensor, radius: Tensor, iou_weight: Tensor, topk: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The owner of each prior (0: nobody) ``[N]``, its IoU with that box ``[N]``, and each box's k ``[G]``.

        Args:
            boxes: ``[1,G,4]`` in pixels.
            stage: index into ``STAGES``, ``[1]`` like all settings.
            radius: of the soft centre, in strides.
            iou_weight: weight of the IoU cost.
            topk: how many of a box's best IoUs are summed, at most ``MOST``.
        """
        logits, predicted, background = (
            one.index_select(0, stage) for one in (self.logits, self.predicted, self.background)
        )
        candidates = assignment.inside_any(self.priors, boxes)  # [1,N]
        background = torch.where(candidates, background, torch.inf)
        ious = bbox_overlaps(boxes, torch.where(candidates[..., None], predicted, 0))  # [1,G,N]
        cost = (
            assignment.class_cost(logits, self.labels, ious, background)
            + iou_weight * assignment.iou_cost(ious)
            + assignment.center_cost(self.priors, (boxes[..., :2] + boxes[..., 2:]) / 2, radius)
        )
        ks = (ious.topk(MOST).values * (torch.arange(MOST) < topk)).sum(-1).long().clamp(min=1)  # [1,G]
        owner, positive = assignment.match(cost, ks, MOST)  # [1,N], [1,N]
        overlap = ious.gather(1, owner[:, None])[0, 0] * positive[0]
        return torch.where(positive, owner + 1, 0)[0], overlap, ks[0]


def inputs(boxes: Tensor, stage: int, config: AssignerConfig) -> dict[str, Tensor]:
    """The inputs of :class:`Playground`, by name."""
    return {
        "boxes": boxes[None],
        "stage": torch.tensor([stage]),
        "radius": torch.tensor([config.soft_center_radius]),
        "iou_weight": torch.tensor([config.iou_weight]),
        "topk": torch.tensor([config.topk]),
    }


def ask(boxes: Tensor, stage: int, config: AssignerConfig) -> list[int]:
    """The owner of each prior, from the package's assigner."""
    maps = recorded_maps(STAGES[stage])
    loss = RTMDetLoss(num_classes=16, assigner=config)
    return loss.assign(*maps, GroundTruth.from_list([boxes], [example().labels])).gt_inds[0].tolist()


def write(folder: Path, runtime: str) -> None:
    """Write ``assigner.onnx``, ``scene.png`` and ``scene.json``.

    Args:
        folder: where to.
        runtime: address of onnxruntime-web, from the site's root or on a CDN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene, model, recipe = example(), Playground().eval(), AssignerConfig()
    given = inputs(scene.boxes, len(STEPS), recipe)
    with quiet_tracing():
        program = torch.onnx.export(
            model,
            tuple(given.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(given),
            output_names=OUTPUTS,
            verbose=False,
        )
    assert program is not None
    (folder / "assigner.onnx").write_bytes(program.model_proto.SerializeToString())
    cv2.imwrite(str(folder / "scene.png"), scene.image)
    with torch.no_grad():
        answer = dict(zip(OUTPUTS, (one.tolist() for one in model(*given.values())), strict=True))
    content = {
        "runtime": runtime,
        "priors": model.priors.int().tolist(),
        "follow": PRIOR,
        "boxes": scene.boxes.int().tolist(),
        "names": [scene.names[label] for label in scene.labels],
        "stages": [f"step {step}" for step in STEPS] + ["finished"],
        "settings": {name: given[name].item() for name in ("stage", "radius", "iou_weight", "topk")},
        "answer": answer,
    }
    (folder / "scene.json").write_text(json.dumps(content), encoding="utf-8")


def write_into_site(app: Sphinx, exception: Exception | None) -> None:
    """Write the files into the finished site."""
    if exception is None and app.builder.format == "html":
        write(Path(app.outdir) / "_static" / "playground", app.config.playground_runtime)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook, and the setting by which :mod:`offline_assets` says where onnxruntime-web is."""
    app.add_config_value("playground_runtime", "_static/vendor/onnxruntime-web/ort.wasm.min.mjs", "html", str)
    app.connect("build-finished", write_into_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
