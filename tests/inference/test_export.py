import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import matplotlib
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.toy import random_boxes
from parity.fill import fill
from torch import nn

from minirtmdet.configs import MODELS, ModelConfig, PredictConfig
from minirtmdet.data.example import example
from minirtmdet.data.images import read_image
from minirtmdet.detector import GREY, RTMDet
from minirtmdet.head.postprocess import batched_nms
from minirtmdet.inference import export, exported
from minirtmdet.inference.export import export_onnx
from minirtmdet.inference.exported import KEY, MAPS, ExportError, ExportInfo, OnnxDetector
from minirtmdet.inference.load import load_detector
from minirtmdet.presets import PRESETS
from minirtmdet.structures import Detections

PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
SMALL = ModelConfig(0.1, 0.125, 1, num_classes=3)
SIZE = 160
CASES: dict[str, ModelConfig] = {
    "nano": MODELS["nano"],
    "tiny": MODELS["tiny"],
    "shared": replace(SMALL, separate_bn=False),
    "objectness": replace(SMALL, with_objectness=True, exp_on_reg=False, prior_offset=0.5),
}


def detector(config: ModelConfig) -> RTMDet:
    """Weights that make outputs spread like a trained network's, so that a difference would be seen."""
    model = fill(RTMDet(config)).eval()
    with torch.no_grad():
        for prediction, factor, bias in ((model.bbox_head.rtm_cls, 15, -2), (model.bbox_head.rtm_reg, 3, 1)):
            for conv in prediction.modules():
                if isinstance(conv, nn.Conv2d):
                    conv.weight *= factor
                    conv.bias.fill_(bias)
    return model


def photos(size: int) -> torch.Tensor:
    """A photo, and two scenes of the embedded set."""
    inputs = np.full((3, size, size, 3), GREY, np.uint8)
    for canvas, image in zip(inputs, [read_image(PHOTO), example().image, example().image[::-1]], strict=True):
        factor = size / max(image.shape[:2])
        height, width = (round(length * factor) for length in image.shape[:2])
        canvas[:height, :width] = cv2.resize(image, (width, height))
    return torch.from_numpy(inputs).permute(0, 3, 1, 2)


def limits(model: RTMDet) -> PredictConfig:
    """A threshold that few scores are over, and none so near that rounding could lift it over."""
    with torch.no_grad():
        scores = torch.cat([level.sigmoid().flatten() for level in model(photos(SIZE))[0]]).sort().values
    tail = scores[int(0.98 * len(scores)) : int(0.995 * len(scores))]
    gap = tail.diff().argmax()
    return PredictConfig(score_threshold=float(tail[gap : gap + 2].mean()))


def assert_same(found: list[Detections], expected: list[Detections]) -> None:
    """The same boxes with the same labels and scores; of scores that are equal up to rounding, in any order."""
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.scores) == len(theirs.scores)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)
        near = (ours.boxes[:, None] - theirs.boxes).abs().amax(-1) < 1e-4 * SIZE
        near &= (ours.scores[:, None] - theirs.scores).abs() < 1e-4
        near &= ours.labels[:, None] == theirs.labels
        assert near.any(0).all()
        assert near.any(1).all()


@pytest.fixture(scope="module", params=CASES)
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RTMDet, OnnxDetector]:
    model = detector(CASES[request.param])
    path = tmp_path_factory.mktemp("raw") / f"{request.param}.onnx"
    export_onnx(model, path, input_size=SIZE, preset=request.param)
    return model, OnnxDetector(path)


@pytest.mark.parametrize("batch", [1, 3])
def test_raw_outputs_equal_torch(raw: tuple[RTMDet, OnnxDetector], batch: int):
    model, exported = raw
    images = photos(SIZE)[:batch]
    found = exported.outputs(images)
    with torch.no_grad():
        cls_scores, bbox_preds = model(images)
    for name, expected in zip(MAPS, [*cls_scores, *bbox_preds], strict=True):
        assert found[name].shape == expected.shape
        assert (found[name] - expected).abs().max() < 1e-4 * expected.abs().max()
    scores = torch.cat([level.flatten(2).mT.sigmoid() for level in cls_scores], 1)
    assert scores.std() > 0.05
    torch.testing.assert_close(found["scores"], scores, rtol=0, atol=1e-4)
    assert found["boxes"].shape == (batch, 400 + 100 + 25, 4)
    # the first prior of the last level
    origin = 32 * model.config.prior_offset
    left, top, right, bottom = bbox_preds[2][:, :, 0, 0].unbind(1)
    corners = torch.stack([origin - left, origin - top, origin + right, origin + bottom], 1).clamp(0, SIZE)
    torch.testing.assert_close(found["boxes"][:, 500], corners, rtol=0, atol=1e-4 * SIZE)


def test_raw_files_detect_what_torch_does(raw: tuple[RTMDet, OnnxDetector]):
    model, exported = raw
    shapes, scales = [(160, 128), (160, 160), (160, 160)], [(0.5, 0.25), (1.0, 1.0), (2.0, 2.0)]
    usual = limits(model)
    for config in (usual, replace(usual, clip="content", max_per_image=7)):
        expected = model.predict(photos(SIZE), config, shapes, scales)
        assert sum(len(found.scores) for found in expected) > 10
        assert_same(exported.predict(photos(SIZE), config, shapes, scales), expected)


@pytest.fixture(scope="module")
def nms(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RTMDet, Path, ExportInfo]:
    model = detector(request.param)
    # three levels of 400, 100 and 25 priors: the limit binds on the first
    config = replace(limits(model), nms_pre=150, max_per_image=50)
    path = tmp_path_factory.mktemp("nms") / "nms.onnx"
    return model, path, export_onnx(model, path, input_size=SIZE, nms=True, predict=config)


MINI = PRESETS["mini-160"].model


@pytest.mark.parametrize("nms", [CASES["objectness"], MINI], ids=["objectness", "mini"], indirect=True)
def test_nms_files_detect_what_torch_does(nms: tuple[RTMDet, Path, ExportInfo]):
    model, path, info = nms
    config, exported = info.predict, OnnxDetector(path)
    assert exported.info == info
    scales = [(0.5, 0.25), (1.0, 1.0), (2.0, 2.0)]
    expected = model.predict(photos(SIZE), config, scale_factors=scales)
    assert all(len(found.scores) > 10 for found in expected)
    assert_same(exported.predict(photos(SIZE), scale_factors=scales), expected)
    stricter = replace(config, score_threshold=float(expected[1].scores[3:5].mean()), max_per_image=5)
    expected = model.predict(photos(SIZE)[1:2], stricter)
    assert len(expected[0].scores) == 4
    assert_same(exported.predict(photos(SIZE)[1:2], stricter), expected)
    found = exported.outputs(photos(SIZE))
    assert found["boxes"].shape == (3, 50, 4)
    assert found["num_dets"].tolist() == [len(f.scores) for f in exported.predict(photos(SIZE))]
    # images that take a part of the input: boxes end with them before they are suppressed
    shapes = [(100, 160), (160, 70), (160, 160)]
    for clip in ("content", "input"):
        clipped = replace(config, clip=clip)
        expected = model.predict(photos(SIZE), clipped, shapes, scales)
        assert_same(exported.predict(photos(SIZE), clipped, shapes, scales), expected)
        ends = expected[0].boxes[:, 3].max() * 0.25
        assert ends <= 100 if clip == "content" else ends > 100


@pytest.mark.parametrize("nms", [MINI], ids=["mini"], indirect=True)
def test_nms_files_of_an_earlier_version_say_that_they_know_no_content(
    nms: tuple[RTMDet, Path, ExportInfo], tmp_path: Path
):
    _, new, info = nms
    assert "content: optional" in info.input
    old = onnx.load(new)
    (content,) = (value for value in old.graph.input if value.name == "content")
    old.graph.input.remove(content)
    onnx.save(old, tmp_path / "old.onnx")
    exported = OnnxDetector(tmp_path / "old.onnx")
    assert_same(exported.predict(photos(SIZE)), OnnxDetector(new).predict(photos(SIZE)))
    with pytest.raises(ValueError, match=r"old\.onnx has no input for where images end: export it again"):
        exported.predict(photos(SIZE), replace(info.predict, clip="content"), img_shapes=[(64, 32)] * 3)


def suppress(boxes: torch.Tensor, scores: torch.Tensor, config: PredictConfig) -> dict[str, np.ndarray]:
    """The suppression alone, run by onnxruntime."""
    model = export._suppression(boxes.shape[1], scores.shape[2], 120, config)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"decoded": boxes.numpy(), "all_scores": scores.numpy()})
    return dict(zip(names, values, strict=True))


def test_suppression_by_hand():
    # the second box overlaps the first by 0.8, the third by 0.5
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 5.0]]).repeat(2, 1, 1)
    scores = torch.zeros(2, 3, 2)
    scores[0] = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.3, 0.25]])
    found = suppress(boxes, scores, PredictConfig(score_threshold=0.25, max_per_image=4))
    # class 0: the first suppresses the second; class 1: the second stands alone, 0.25 is not over the threshold
    assert found["num_dets"].tolist() == [3, 0]
    np.testing.assert_allclose(found["scores"], [[0.9, 0.7, 0.3, 0], [0] * 4])
    assert found["labels"].tolist() == [[0, 1, 0, -1], [-1] * 4]
    assert found["boxes"][0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [0] * 4]
    assert not found["boxes"][1].any()
    assert suppress(boxes, scores, PredictConfig(score_threshold=0.25, max_per_image=1))["labels"].tolist() == [
        [0],
        [-1],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_ours(seed: int):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(60, 100, 120, generator, smallest=30) for _ in range(3)])
    scores = torch.rand(3, 60, 4, generator=generator)
    config = PredictConfig(score_threshold=0.3, max_per_image=40)
    found = suppress(boxes, scores, config)
    for image in range(3):
        prior, label = (scores[image] > 0.3).nonzero(as_tuple=True)
        candidates, values = boxes[image, prior], scores[image, prior, label]
        keep = batched_nms(candidates, values, label, config.nms_iou_threshold, 40)
        assert 20 < len(keep) < len(prior)
        count = found["num_dets"][image]
        np.testing.assert_array_equal(found["boxes"][image, :count], candidates[keep])
        np.testing.assert_array_equal(found["labels"][image, :count], label[keep])
        np.testing.assert_array_equal(found["scores"][image, :count], values[keep])


def test_the_file_says_what_it_is_and_the_model_stays_and_an_odd_size_is_padded_inside(tmp_path: Path):
    model = detector(SMALL).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = tmp_path / "new" / "small.onnx"
    info = export_onnx(
        model, path, input_size=100, classes=["a", "b", "ç"], preset="mini", predict=PredictConfig(score_threshold=0.5)
    )
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["small.onnx"], "weights in the same file"
    content = onnx.load(path)
    assert [entry.version for entry in content.opset_import] == [18]
    (shape,) = ([d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in content.graph.input)
    assert shape == ["batch", 3, 100, 100]
    (stored,) = (json.loads(entry.value) for entry in content.metadata_props if entry.key == KEY)
    assert stored == json.loads(json.dumps(asdict(info)))
    assert (stored["kind"], stored["input_size"], stored["classes"], stored["preset"]) == (
        "raw",
        100,
        ["a", "b", "ç"],
        "mini",
    )
    assert stored["predict"]["score_threshold"] == 0.5
    assert "uint8 BGR" in stored["input"]
    assert {name.rstrip("*") for name in stored["outputs"]} == {"boxes", "scores", "cls_score_", "bbox_pred_"}
    exported = OnnxDetector(path)
    for images in (torch.zeros(1, 3, 100, 32, dtype=torch.uint8), torch.zeros(1, 3, 100, 100)):
        with pytest.raises(ValueError, match=r"small.onnx takes uint8 images \[batch, 3, 100, 100\] in BGR .*, found"):
            exported.predict(images)
    found = exported.outputs(photos(100))
    assert found["cls_score_32"].shape[2:] == (4, 4)
    assert found["boxes"].max() == 100
    config = limits(model.eval())
    assert_same(exported.predict(photos(100), config), model.predict(photos(100), config))


def test_what_cannot_be_exported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = detector(SMALL)
    for message, path, settings in (
        ("ends with .onnx", "a.pt", {}),
        ("2 names for 3 classes", "a.onnx", {"classes": ["a", "b"]}),
        ("a positive number of pixels", "a.onnx", {"input_size": 0}),
        ("the batch is of 0 images", "a.onnx", {"batch": 0}),
        ("expected 0 or more", "a.onnx", {"nms": True, "predict": PredictConfig(score_threshold=-1.0)}),
    ):
        with pytest.raises(ExportError, match=message):
            export_onnx(model, tmp_path / path, **{"input_size": 64, **settings})
    missing = SimpleNamespace(name="onnxscript")

    def fail(name: str):
        raise ModuleNotFoundError(f"No module named {name}", name=missing.name)

    monkeypatch.setattr(exported, "import_module", fail)
    with pytest.raises(ExportError, match="needs onnxscript, which is not installed: pip install onnx onnxscript"):
        export_onnx(model, tmp_path / "a.onnx", input_size=64)
    (tmp_path / "b.onnx").touch()
    with pytest.raises(ExportError, match=r"running .*b\.onnx needs onnx"):
        OnnxDetector(tmp_path / "b.onnx")


def test_files_that_are_no_export_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        OnnxDetector(tmp_path / "nothing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not at all")
    with pytest.raises(ExportError, match=r"broken\.onnx is no ONNX file that onnxruntime can run"):
        OnnxDetector(tmp_path / "broken.onnx")
    foreign = export._suppression(3, 2, 64, PredictConfig())
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match=r"foreign\.onnx is no export of this package"):
        OnnxDetector(tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(foreign, {KEY: "{}"})
    onnx.save(foreign, tmp_path / "newer.onnx")
    with pytest.raises(ExportError, match=r"newer\.onnx was written by another version"):
        OnnxDetector(tmp_path / "newer.onnx")
    for device in ("mps", "tensorrt"):
        with pytest.raises(ValueError, match=rf"^device '{device}' was asked for, and this onnxruntime runs"):
            OnnxDetector(tmp_path / "newer.onnx", device=device)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("device", exported.GPU)
def test_a_gpu_that_cannot_be_started_is_no_cpu(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An onnxruntime whose libraries are missing would go on with the CPU, and say so in its log alone."""
    onnx.save(export._suppression(3, 2, 64, PredictConfig()), tmp_path / "a.onnx")
    there = [*exported.GPU.values(), "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    with pytest.raises(ValueError, match=f"^device '{device}' was asked for, and onnxruntime cannot start it"):
        OnnxDetector(tmp_path / "a.onnx", device=device)


# -- masks -----------------------------------------------------------------------------------------------------------


def with_masks() -> RTMDet:
    """Kernels that are large enough for masks to be neither everything nor nothing."""
    model = detector(replace(SMALL, masks=True, exp_on_reg=False))
    with torch.no_grad():
        for conv in model.bbox_head.rtm_kernel:
            conv.weight *= 6
    return model


def assert_same_masks(found: list[Detections], expected: list[Detections], shapes: list[tuple[int, int]]) -> None:
    """The same detections, in the same order, with masks of their image's size and the same pixels."""
    for ours, theirs, shape in zip(found, expected, shapes, strict=True):
        assert ours.masks.shape == theirs.masks.shape == (len(theirs.scores), *shape)
        torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=0, atol=1e-4 * SIZE)
        assert (ours.masks != theirs.masks).sum() <= 1e-4 * ours.masks.numel()  # where a logit is nearly 0


SHAPES, SCALES = [(160, 128), (160, 160), (100, 160)], [(0.5, 0.25), (1.0, 1.0), (2.0, 2.0)]
ORIGINALS = [(640, 256), (160, 160), (50, 80)]


@pytest.mark.parametrize(("nms", "batch"), [(False, None), (True, None), (True, 2)])
def test_files_with_masks_find_what_torch_does(nms: bool, batch: int | None, tmp_path: Path):
    model = with_masks()
    config = replace(limits(model), max_per_image=30)
    info = export_onnx(model, tmp_path / "a.onnx", input_size=SIZE, nms=nms, predict=config, batch=batch)
    loaded = load_detector(tmp_path / "a.onnx", device="cpu")
    assert isinstance(loaded.model, OnnxDetector)
    assert loaded.model.info == info
    assert ("with masks" in loaded.description, "2 images at a time" in loaded.description) == (True, batch == 2)
    shape = onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim[0]
    assert (shape.dim_value or shape.dim_param) == (batch or "batch")

    expected = model.predict(photos(SIZE), config, SHAPES, SCALES)
    coverage = torch.cat([found.masks.flatten(1).float().mean(1) for found in expected])
    assert ((coverage > 0.02) & (coverage < 0.98)).sum() > 10
    assert_same_masks(loaded.model.predict(photos(SIZE), None, SHAPES, SCALES), expected, ORIGINALS)
    assert_same_masks(loaded.model.predict(photos(SIZE)[:1]), model.predict(photos(SIZE)[:1], config), [(SIZE, SIZE)])
    few = replace(config, clip="content", max_per_image=3)
    expected = model.predict(photos(SIZE), few, SHAPES, SCALES)
    assert_same_masks(loaded.model.predict(photos(SIZE), few, SHAPES, SCALES), expected, ORIGINALS)
    if nms:
        assert set(info.outputs) == {"num_dets", "boxes", "scores", "labels", "masks"}
        found = loaded.model.outputs(photos(SIZE))
        assert found["masks"].shape == (3, 30, 20, 20)
        assert all(not masks[count:].any() for masks, count in zip(found["masks"], found["num_dets"], strict=True))
        assert_last_step(loaded.model, model, config)


def assert_last_step(exported: OnnxDetector, model: RTMDet, config: PredictConfig) -> None:
    """What the file says about its masks, done by hand."""
    assert "enlarge 8 times (bilinear" in exported.info.outputs["masks"]
    config = replace(config, swap_mask_sides="never")
    (expected,) = model.predict(photos(SIZE)[:1], config, [(160, 120)], [(0.25, 0.5)])
    found = exported.outputs(photos(SIZE)[:1])
    for row, mask in enumerate(expected.masks.numpy()):
        logits = cv2.resize(found["masks"][0, row].numpy(), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        by_hand = cv2.resize(logits[:, :120], (480, 320), interpolation=cv2.INTER_LINEAR) > 0
        assert (by_hand != mask).mean() < 5e-3  # near the cut, where no padding is mixed in
