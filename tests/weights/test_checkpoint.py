import datetime
import functools
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.fill import fill
from torch import Tensor, nn

from minirtmdet import build_detector, load_checkpoint
from minirtmdet.configs import MODELS, ModelConfig, ScenesConfig, TrainConfig, config_from_json, config_to_json
from minirtmdet.detector import RTMDet
from minirtmdet.files import atomic_path
from minirtmdet.presets import PRESETS
from minirtmdet.weights.checkpoint import find_checkpoint, read_checkpoint, save_checkpoint
from minirtmdet.weights.formats import CheckpointError, _safe_types, load_tensors_only
from minirtmdet.weights.load import build_from_checkpoint

RUNNER = Path(__file__).parents[1] / "parity/fixtures/runner.pth"
SMALL = ModelConfig(0.1, 0.125, 1, num_classes=3)
CLASSES = ("cat", "dog", "hen")


def small(num_classes: int = 3, seed: int = 0) -> RTMDet:
    torch.manual_seed(seed)
    return build_detector(SMALL, num_classes=num_classes)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_save_and_load_give_the_same_weights(tmp_path: Path, name: str):
    model, config = small(), TrainConfig(model=SMALL)
    save_checkpoint(tmp_path / name, model.state_dict(), config, CLASSES, metrics={"AP": 0.5})
    assert os.listdir(tmp_path) == [name]
    other = small(seed=1)
    report = load_checkpoint(other, tmp_path / name)
    assert equal(other.state_dict(), model.state_dict())
    assert report.fits
    assert report.loaded == len(model.state_dict())
    checkpoint = read_checkpoint(tmp_path / name)
    assert (checkpoint.config, checkpoint.classes, checkpoint.metrics) == (config, CLASSES, {"AP": 0.5})


def test_own_files_hold_nothing_but_data(tmp_path: Path):
    save_checkpoint(tmp_path / "w.pt", small().state_dict(), TrainConfig(), CLASSES, training={"step": 3})
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    assert content["training"] == {"step": 3}
    assert config_from_json(content["minirtmdet"])[1] == CLASSES


def test_safetensors_takes_no_training_state(tmp_path: Path):
    with pytest.raises(ValueError, match="weights alone"):
        save_checkpoint(tmp_path / "w.safetensors", {}, TrainConfig(), CLASSES, training={})


def test_settings_survive_as_text():
    config = replace(PRESETS["tiny-320"], weights=Path("a/b.pth"), data=replace(PRESETS["tiny-320"].data, workers=3))
    config = replace(config, data=replace(config.data, scenes=ScenesConfig(backgrounds=Path("photos"))))
    assert config_from_json(config_to_json(config, ["café"])) == (config, ("café",))
    with pytest.raises(CheckpointError, match=r"unknown setting config\.optim\.lrr"):
        config_from_json('{"classes": [], "config": {"optim": {"lrr": 1}}}')
    assert config_from_json('{"classes": [], "config": {"epochs": 3}}')[0] == TrainConfig(epochs=3)


# ---------------------------------------------------------------------------------- MMDetection's files


class Toy(nn.Module):
    """What the recorded Runner trained."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        self.neck = nn.BatchNorm2d(2)


def test_a_file_of_mmengines_runner_loads_as_it_is():
    with pytest.raises(pickle.UnpicklingError):
        torch.load(RUNNER, weights_only=True)  # else there would be nothing to prove
    model = Toy()
    report = load_checkpoint(model, RUNNER)
    assert report.fits
    # its state_dict is the moving average already: neck.weight began at 1 and moved by at most 0.1 a step
    torch.testing.assert_close(model.neck.weight, torch.tensor([0.7986, 0.7986]), rtol=0, atol=1e-4)
    assert model.neck.num_batches_tracked == 1
    checkpoint = read_checkpoint(RUNNER)
    assert checkpoint.classes == ("cat", "dog")
    assert "data_preprocessor.mean" not in checkpoint.state_dict


def test_class_names_before_mmengine_0_2(tmp_path: Path):
    meta = {"dataset_meta": {"CLASSES": ("a", "b"), "PALETTE": [(1, 2, 3)]}}
    torch.save({"state_dict": Toy().state_dict(), "meta": meta}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").classes == ("a", "b")
    torch.save({"state_dict": Toy().state_dict(), "meta": {"dataset_meta": {"classes": "person"}}}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").classes == ("person",)


@pytest.mark.parametrize("wrap", ["ema_state_dict", "ddp", "plain"])
def test_other_layouts(tmp_path: Path, wrap: str):
    source, model = Toy(), Toy()
    state = dict(source.state_dict())
    prefixed = {f"module.{key}": value for key, value in state.items()}
    content = {
        "ema_state_dict": {"ema_state_dict": {**prefixed, "steps": torch.tensor(3)}},
        "ddp": {"state_dict": prefixed},
        "plain": state,
    }[wrap]
    torch.save(content, tmp_path / "w.pth")
    assert load_checkpoint(model, tmp_path / "w.pth").fits
    assert equal(dict(model.state_dict()), state)


class Asks:
    """Pickles as a call, which a careless reader would make."""

    def __init__(self, function: Callable[..., object], *args: object):
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


RUN = ("touch owned",)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Asks(os.system, *RUN), "posix.system"),
        (Asks(eval, "open('owned', 'w')"), "eval"),
        (Asks(__import__, "os"), "__import__"),
        (Asks(pickle.loads, pickle.dumps(Asks(os.system, *RUN))), "pickle.loads"),
        (Asks(torch.load, "owned"), "torch.serialization.load"),
        (functools.partial(os.system, *RUN), "functools.partial"),
        (np.array([Asks(os.system, *RUN)], dtype=object), "numpy.dtypes.ObjectDType"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (datetime.date(2020, 1, 1), "datetime.date"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "among", "instead"])
def test_a_file_that_asks_for_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, name: str, zipped: bool, place: str
):
    monkeypatch.chdir(tmp_path)
    state = dict(Toy().state_dict())
    whole = {
        "beside": {"state_dict": state, "message_hub": content},
        "among": {"state_dict": {**state, "more": content}},
        "instead": content,
    }[place]
    torch.save(whole, "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=rf"w\.pth refused: it asks for ((__builtin__|builtins)\.)?{re.escape(name)}, and"
    ):
        load_checkpoint(Toy(), "w.pth")
    assert not Path("owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int):
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_bytes(pickle.dumps({"state_dict": Asks(os.system, *RUN)}, protocol))
    with pytest.raises(CheckpointError, match=r"w\.pth refused: it asks for posix\.system, and"):
        load_checkpoint(Toy(), "w.pth")
    assert not Path("owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(2, 6))
def test_an_older_file_is_refused_by_what_it_asks_for_alone(tmp_path: Path, protocol: int):
    """Several pickles in a row, the first of them a number; of a protocol of 4 and more PyTorch names nothing."""
    content = {"state_dict": dict(Toy().state_dict()), "meta": Asks(os.system, *RUN)}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"w\.pth refused: it asks for posix\.system, and"):
        read_checkpoint(tmp_path / "w.pth")


def test_what_publish_model_writes_is_no_zip_and_loads(tmp_path: Path):
    """MMDetection's tool keeps meta and weights, and saves as PyTorch did before 1.6."""
    with torch.serialization.safe_globals(_safe_types()):
        content = torch.load(RUNNER, weights_only=True)
    path = tmp_path / "published.pth"
    kept = {key: content[key] for key in ("meta", "state_dict")}
    torch.save(kept, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    model = Toy()
    assert load_checkpoint(model, path).fits
    torch.testing.assert_close(model.neck.weight, torch.tensor([0.7986, 0.7986]), rtol=0, atol=1e-4)
    assert read_checkpoint(path).classes == ("cat", "dog")


def test_getattr_is_never_the_real_one(tmp_path: Path):
    # getattr(tuple, "__class__"), written out: the stand-in gives None, the real one would give type
    code = b"\x80\x02}q\x00X\x05\x00\x00\x00foundq\x01cbuiltins\ngetattr\nq\x02)X\x09\x00\x00\x00__class__\x86Rs."
    assert pickle.loads(code) == {"found": tuple}
    path = tmp_path / "w.pth"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, code if name.endswith("data.pkl") else data)
    assert load_tensors_only(path) == {"found": None}


def test_npz_with_code_or_without_names_is_refused(tmp_path: Path):
    np.savez(tmp_path / "w.npz", weight=np.array([object()]))
    with pytest.raises(CheckpointError, match=r"w\.npz is not an \.npz file of plain arrays: .*allow_pickle"):
        load_checkpoint(Toy(), tmp_path / "w.npz")
    np.save(tmp_path / "w.npy", np.zeros(2))
    (tmp_path / "w.npy").rename(tmp_path / "w.npz")
    with pytest.raises(CheckpointError, match=r"is not an \.npz file of plain arrays"):
        load_checkpoint(Toy(), tmp_path / "w.npz")
    for content in (b"", b"nothing", b"PK\x03\x04 cut off"):
        (tmp_path / "w.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"w\.npz is not an \.npz file"):
            load_checkpoint(Toy(), tmp_path / "w.npz")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, suffix: str):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\{suffix} is not a"):
        read_checkpoint(path)


def test_files_without_weights(tmp_path: Path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="expected a state_dict, found epoch, lr"):
        read_checkpoint(tmp_path / "w.pt")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_checkpoint(tmp_path / "w.pt")


def test_a_run_means_its_best_weights(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds neither"):
        find_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        find_checkpoint(tmp_path / "nope.pt")
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(tmp_path).name == "last.pt"
    (tmp_path / "best.pt").touch()
    assert find_checkpoint(tmp_path).name == "best.pt"


# ------------------------------------------------------------------------------------- what fits a model


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


@pytest.mark.parametrize("name", ["official.pth", "own.pt", "own.safetensors"])
def test_a_file_with_masks_loads_strictly_under_both_names(tmp_path: Path, name: str):
    model = fill(build_detector(replace(SMALL, masks=True)))
    if name == "official.pth":  # as MMEngine writes it, each name a tensor of its own
        content = {key: value.clone() for key, value in model.state_dict().items()}
        torch.save({"meta": {"dataset_meta": {"classes": CLASSES}}, "state_dict": content}, tmp_path / name)
    else:
        save_checkpoint(tmp_path / name, model.state_dict(), TrainConfig(model=model.config), CLASSES)
    loaded = build_from_checkpoint(tmp_path / name, model=model.config)
    assert loaded.report.loaded == len(model.state_dict())
    assert loaded.classes == CLASSES
    assert equal(loaded.model.state_dict(), model.state_dict())


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


def test_weights_with_masks_are_told_from_those_without():
    with torch.device("meta"):
        states = [build_detector(name).state_dict() for name in ("s", "ins-s")]
    assert [describe_weights(state) for state in states] == [
        "widen_factor 0.5 (as s), 80 classes",
        "widen_factor 0.5 (as ins-s), 80 classes",
    ]


def test_a_prefix_loads_a_part(tmp_path: Path):
    source = small()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = small(seed=1).backbone
    assert load_checkpoint(backbone, tmp_path / "w.pth", prefix="backbone.").fits
    assert equal(dict(backbone.state_dict()), dict(source.backbone.state_dict()))


# --------------------------------------------------------------------- what weights mean beside their shapes

NARROW = replace(SMALL, exp_on_reg=False)
CFG = """
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[{mean}], std=[{std}], bgr_to_rgb={rgb}, batch_augments=None),
    backbone=dict(type='CSPNeXt', deepen_factor=0.1, widen_factor=0.125),
    neck=dict(type='CSPNeXtPAFPN', num_csp_blocks=1),
    bbox_head=dict(
        type='RTMDetSepBNHead', num_classes=3, stacked_convs=2, with_objectness=False, exp_on_reg={exp},
        share_conv=True, pred_kernel_size=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset={offset}, strides=[8, 16, 32])))
"""
BGR = {"mean": "103.53, 116.28, 123.675", "std": "57.375, 57.12, 58.395", "rgb": False, "exp": True, "offset": 0}
RGB = {"mean": "123.675, 116.28, 103.53", "std": "58.395, 57.12, 57.375", "rgb": True}


def write_mmdet(path: Path, state: dict[str, Tensor], **changes: object) -> Path:
    """A file of MMEngine's Runner, whose meta has the config as text."""
    torch.save({"state_dict": state, "meta": {"cfg": CFG.format(**{**BGR, **changes})}}, path)
    return path


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


def test_a_distance_is_what_it_was_in_training(tmp_path: Path):
    """A raw output of 3 on stride 8 is 24 px without the exponential, and 160.7 px with it."""
    source = build_detector(NARROW).eval()
    with torch.no_grad():
        for conv in source.bbox_head.rtm_reg:
            conv.weight.zero_()
            conv.bias.fill_(3)
    path = write_mmdet(tmp_path / "w.pth", source.state_dict(), exp=False)
    for model in (None, SMALL):
        if model is not None:
            with pytest.raises(CheckpointError, match="exp_on_reg"):
                build_from_checkpoint(path, model=model)
            continue
        loaded = build_from_checkpoint(path)
        assert loaded.model.config == NARROW
        with torch.no_grad():
            distances = loaded.model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1]
        assert [level.unique().tolist() for level in distances] == [[24.0], [48.0], [96.0]]


# --------------------------------------------------------------------------------- a model from a file


def test_a_detector_from_its_own_file(tmp_path: Path):
    source = small()
    save_checkpoint(tmp_path / "best.pt", source.state_dict(), TrainConfig(model=SMALL), CLASSES)
    loaded = build_from_checkpoint(tmp_path)
    assert loaded.classes == CLASSES
    assert not loaded.model.training
    assert equal(dict(loaded.model.state_dict()), dict(source.state_dict()))
    with pytest.raises(CheckpointError, match="has 3 classes, but 2 names: a, b"):
        build_from_checkpoint(tmp_path, classes=["a", "b"])


def test_a_detector_from_weights_alone(tmp_path: Path):
    source = build_detector("tiny", num_classes=2)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"looks like widen_factor 0.375 \(as tiny\), 2 classes\): give .* --model"
    ):
        build_from_checkpoint(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"expected widen_factor 0.5 \(as s\)"):
        build_from_checkpoint(tmp_path / "w.pth", model="s")
    with pytest.raises(ValueError, match="unknown model 'xl'"):
        build_from_checkpoint(tmp_path / "w.pth", model="xl")
    loaded = build_from_checkpoint(tmp_path / "w.pth", model="tiny")
    assert loaded.classes is None
    assert loaded.model.config.num_classes == 2


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "w.pt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert os.listdir(tmp_path) == ["w.pt"]
    assert path.read_text() == "old"


def test_what_is_brought_to_the_disk_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows refuses any other file: ``os.fsync`` of one that is open for reading ends each save with an error."""
    written = []

    def fsync(descriptor: int) -> None:
        written.append(os.write(descriptor, b""))  # an error where it is not open for writing

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_path(tmp_path / "w.pt") as temporary:
        temporary.write_text("whole")
    assert written == [0]
    assert (tmp_path / "w.pt").read_text() == "whole"
