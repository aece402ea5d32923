import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.weights import CLASSES, NARROW, SMALL, equal, small, write_mmdet
from parity.fill import fill

from minirtmdet import build_detector, load_checkpoint
from minirtmdet.configs import MODELS, TrainConfig
from minirtmdet.weights.build import build_from_checkpoint
from minirtmdet.weights.checkpoint import save_checkpoint
from minirtmdet.weights.formats import CheckpointError

RGB = {"mean": "123.675, 116.28, 103.53", "std": "58.395, 57.12, 57.375", "rgb": True}


def test_strict_says_what_was_expected_and_found_and_changes_nothing(tmp_path: Path):
    torch.save({"state_dict": build_detector("tiny").state_dict()}, tmp_path / "tiny.pth")
    model = build_detector("s", num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, tmp_path / "tiny.pth")
    message = str(error.value)
    assert "expected widen_factor 0.5 (as s), 3 classes, found widen_factor 0.375 (as tiny), 80 classes" in message
    assert "backbone.stem.0.conv.weight (expected [16, 3, 3, 3], found [12, 3, 3, 3])" in message
    assert "36 missing in the file" in message  # s has one block more in two stages
    assert equal(dict(model.state_dict()), before)


def test_not_strict_loads_what_fits(tmp_path: Path):
    source = small()
    state = dict(source.state_dict())
    stem = state.pop("backbone.stem.0.conv.weight")
    state["backbone.stem.1.conv.weight"] = torch.zeros(1)
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    model = small(seed=1)
    report = load_checkpoint(model, tmp_path / "w.pth", strict=False)
    assert report.missing == ("backbone.stem.0.conv.weight",)
    assert report.unexpected == ("extra",)
    assert report.mismatched == (("backbone.stem.1.conv.weight", (4, 4, 3, 3), (1,)),)
    assert not report.fits
    assert torch.equal(model.neck.out_convs[0].conv.weight, source.neck.out_convs[0].conv.weight)
    assert not torch.equal(model.backbone.stem[0].conv.weight, stem)


def test_new_classes_start_fresh_and_nothing_else(tmp_path: Path):
    source = small(num_classes=5)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"expected .* 2 classes, found .* 5 classes"):
        load_checkpoint(small(num_classes=2), tmp_path / "w.pth")
    model = small(num_classes=2, seed=1)
    initial = model.bbox_head.rtm_cls[0].weight.clone()
    report = load_checkpoint(model, tmp_path / "w.pth", new_classes=True)
    assert report.fresh == tuple(
        f"bbox_head.rtm_cls.{level}.{kind}" for level in range(3) for kind in ("bias", "weight")
    )
    assert "6 starting fresh: bbox_head.rtm_cls.0.bias" in str(report)
    assert torch.equal(model.bbox_head.rtm_cls[0].weight, initial)
    assert torch.equal(model.bbox_head.rtm_reg[0].weight, source.bbox_head.rtm_reg[0].weight)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(build_detector("tiny", num_classes=2), tmp_path / "w.pth", new_classes=True)


def test_a_shared_tensor_needs_to_be_in_the_file_once(tmp_path: Path):
    source = small()
    state = {key: value for key, value in source.state_dict().items() if "cls_convs.1." not in key or ".bn." in key}
    assert len(state) < len(source.state_dict())
    torch.save(state, tmp_path / "w.pth")
    model = small(seed=1)
    assert load_checkpoint(model, tmp_path / "w.pth").fits
    assert equal(dict(model.state_dict()), dict(source.state_dict()))


def test_a_file_whose_levels_differ_does_not_fit_a_model_that_shares_them(tmp_path: Path):
    torch.save(build_detector(replace(SMALL, share_conv=False)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="12 shared in the model, different in the file: bbox_head"):
        load_checkpoint(small(), tmp_path / "w.pth")


def test_a_prefix_loads_a_part(tmp_path: Path):
    source = small()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = small(seed=1).backbone
    assert load_checkpoint(backbone, tmp_path / "w.pth", prefix="backbone.").fits
    assert equal(dict(backbone.state_dict()), dict(source.backbone.state_dict()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"exp": False}, "exp_on_reg is False (MMDetection's config in it), and True in the model: build it with exp_"),
        (
            {"offset": 0.5},
            "prior_offset is 0.5 (MMDetection's config in it), and 0.0 in the model: build it with prior",
        ),
        (RGB, "the colours are RGB (MMDetection's config in it), and BGR in the model: reverse the input channels of"),
        (
            {"mean": "0, 0, 0"},
            "mean of the pixels is (0.0, 0.0, 0.0) (MMDetection's config in it), and (103.53, 116.28",
        ),
        ({"std": "1.0, 1.0, 1.0"}, "std of the pixels is (1.0, 1.0, 1.0) (MMDetection's config in it), and (57.375"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(tmp_path: Path, changes: dict, words: str | None):
    path = write_mmdet(tmp_path / "w.pth", small(seed=1).state_dict(), **changes)
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if words is None:
        assert load_checkpoint(model, path).fits
        return
    with pytest.raises(CheckpointError, match=re.escape(words)) as error:
        load_checkpoint(model, path)
    assert len(str(error.value).splitlines()) == 2  # RGB's mean backwards is ours
    assert equal(dict(model.state_dict()), before)
    assert not load_checkpoint(model, path, strict=False).fits


def test_own_files_are_compared_too(tmp_path: Path):
    save_checkpoint(tmp_path / "w.pt", small().state_dict(), TrainConfig(model=SMALL), CLASSES)
    with pytest.raises(CheckpointError, match=r"exp_on_reg is True \(its own settings\), and False in the model"):
        load_checkpoint(build_detector(NARROW), tmp_path / "w.pt")
    head = build_detector(NARROW).bbox_head
    with pytest.raises(CheckpointError, match="exp_on_reg is True"):
        load_checkpoint(head, tmp_path / "w.pt", prefix="bbox_head.")
    assert load_checkpoint(build_detector(NARROW).neck, tmp_path / "w.pt", prefix="neck.").fits


def test_a_published_file_is_known_by_its_name_and_any_other_doubted_by_its_shapes(tmp_path: Path):
    state = build_detector("tiny").state_dict()
    published = tmp_path / "rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth"
    for path in (published, tmp_path / "tiny.pth"):
        torch.save({"state_dict": state}, path)
    model = build_detector(replace(MODELS["tiny"], exp_on_reg=True))
    with pytest.raises(CheckpointError, match=r"False \(it is the published tiny by its name\), and True in the model"):
        load_checkpoint(model, published)
    report = load_checkpoint(model, tmp_path / "tiny.pth")
    assert report.fits
    assert "exp_on_reg is False (as in the published tiny, which the file looks like), and True" in str(report)
    assert build_from_checkpoint(published).model.config.exp_on_reg is False


def test_the_pixels_that_an_older_file_names_are_compared(tmp_path: Path):
    for mean, words in (([103.53, 116.28, 123.675], None), ([123.675, 116.28, 103.53], "RGB"), ([1.0, 2, 3], "mean")):
        std = [57.375, 57.12, 58.395] if mean[0] < 120 else [58.395, 57.12, 57.375]
        named = {"data_preprocessor.mean": torch.tensor(mean), "data_preprocessor.std": torch.tensor(std)}
        state = {**small().state_dict(), **named}
        torch.save({"state_dict": state}, tmp_path / "w.pth")
        report = load_checkpoint(small(), tmp_path / "w.pth", strict=False)
        assert report.fits is (words is None)
        assert words is None or words in report.contradictions[0]


def test_one_name_of_the_tower_is_enough_and_two_that_differ_are_named(tmp_path: Path):
    model = fill(build_detector(replace(SMALL, masks=True)))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    once = {key: value for key, value in state.items() if "reg_convs" not in key}
    torch.save({"state_dict": once}, tmp_path / "once.pth")
    assert load_checkpoint(build_detector(model.config), tmp_path / "once.pth").fits
    state["bbox_head.reg_convs.1.0.bn.weight"] += 1
    torch.save({"state_dict": state}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"bbox_head\.cls_convs\.1\.0\.bn\.weight"):
        load_checkpoint(build_detector(model.config), tmp_path / "two.pth")
