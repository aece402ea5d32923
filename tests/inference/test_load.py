from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.published import publisher
from helpers.weights import CLASSES, SMALL, equal, small

from minirtmdet import build_detector, load_detector
from minirtmdet.configs import INS_MODELS, INS_PREDICT, MODELS, DataConfig, PredictConfig, TrainConfig
from minirtmdet.detector import RTMDet
from minirtmdet.inference.export import export_onnx
from minirtmdet.inference.exported import ExportError, OnnxDetector
from minirtmdet.weights.checkpoint import save_checkpoint
from minirtmdet.weights.formats import CheckpointError
from minirtmdet.weights.origins import published_origin
from minirtmdet.weights.published import OFFICIAL, DownloadError

RUN = TrainConfig(model=SMALL, data=DataConfig(input_size=64), predict=PredictConfig(score_threshold=0.2))
PIXELS = torch.arange(2 * 3 * 64 * 64).remainder(251).to(torch.uint8).view(2, 3, 64, 64)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, RTMDet], None]:
    monkeypatch.chdir(tmp_path)
    return publisher(tmp_path, monkeypatch, CLASSES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "raw.onnx"
    export_onnx(small().eval(), path, input_size=64, classes=CLASSES, predict=RUN.predict, preset="small")
    return path


def test_a_run_is_its_best_weights_and_what_it_was_trained_with(tmp_path: Path):
    source = small()
    save_checkpoint(tmp_path / "best.pt", source.state_dict(), RUN, CLASSES)
    save_checkpoint(tmp_path / "last.pt", small(seed=1).state_dict(), RUN, CLASSES)
    loaded = load_detector(tmp_path, device="cpu")
    assert loaded.source == tmp_path / "best.pt"
    assert equal(dict(loaded.model.state_dict()), dict(source.state_dict()))
    assert not loaded.model.training
    assert loaded.model.device == torch.device("cpu")
    assert (loaded.classes, loaded.names, loaded.num_classes) == (CLASSES, CLASSES, 3)
    assert (loaded.limits, loaded.data) == (RUN.predict, RUN.data)
    assert loaded.input_side(None) == loaded.input_size == 64
    assert loaded.input_side(96) == 96
    assert loaded.description == f"{tmp_path / 'best.pt'}: widen_factor 0.125, 3 classes, on cpu"
    assert len(loaded.model.predict(PIXELS, loaded.limits)) == 2


def test_a_file_that_says_nothing_needs_a_size_and_has_classes_by_number(tmp_path: Path):
    source = build_detector("nano", num_classes=2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    loaded = load_detector(str(tmp_path / "w.pth"), model="nano", device="cpu")
    assert equal(dict(loaded.model.state_dict()), dict(source.state_dict()))
    assert (loaded.classes, loaded.names) == (None, ("class 0", "class 1"))
    assert (loaded.input_size, loaded.limits, loaded.data) == (640, PredictConfig(), None)
    assert load_detector(tmp_path / "w.pth", model="nano", classes=["a", "b"], device="cpu").names == ("a", "b")


def test_a_size_is_its_published_weights_at_the_size_they_were_measured_at(
    publish: Callable[[str, RTMDet], None], tmp_path: Path
):
    source = build_detector("nano", num_classes=3)
    publish("nano", source)
    loaded = load_detector("nano", device="cpu")
    assert loaded.source == tmp_path / "cache/minirtmdet/weights/rtmdet_nano.pth"
    assert equal(dict(loaded.model.state_dict()), dict(source.state_dict()))
    assert (loaded.classes, loaded.input_size, loaded.data) == (CLASSES, 96, None)
    (tmp_path / "rtmdet_nano.pth").unlink()
    assert load_detector("nano", device="cpu").source == loaded.source  # downloaded once
    loaded.source.unlink()
    with pytest.raises(DownloadError, match="No such file"):
        load_detector("nano", device="cpu")


def test_a_size_with_masks_predicts_as_published_until_a_run_says_otherwise(
    publish: Callable[[str, RTMDet], None], tmp_path: Path
):
    source = build_detector("ins-tiny", num_classes=3)
    publish("ins-tiny", source)
    loaded = load_detector("ins-tiny", device="cpu")
    assert isinstance(loaded.model, RTMDet)
    assert loaded.model.config == source.config
    assert (loaded.limits, loaded.input_size) == (INS_PREDICT, 96)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"does not say which model.*looks like widen_factor 0.375 \(as ins-tiny"):
        load_detector(tmp_path / "w.pth")
    assert load_detector(tmp_path / "w.pth", model="ins-tiny", device="cpu").limits == INS_PREDICT
    save_checkpoint(tmp_path / "run.pt", source.state_dict(), replace(RUN, model=source.config), CLASSES)
    assert load_detector(tmp_path / "run.pt", device="cpu").limits == RUN.predict


@pytest.mark.parametrize("size", OFFICIAL)
def test_published_files_are_known_by_their_names(size: str, tmp_path: Path):
    origin = published_origin(tmp_path / OFFICIAL[size].url.rpartition("/")[2])
    assert origin is not None
    assert origin.model == (MODELS | INS_MODELS)[size]


def test_a_folder_of_a_sizes_name_comes_before_what_is_published(
    publish: Callable[[str, RTMDet], None], tmp_path: Path
):
    publish("nano", build_detector("nano", num_classes=3))
    (tmp_path / "nano").mkdir()
    with pytest.raises(FileNotFoundError, match=r"nano holds neither best\.pt nor last\.pt"):
        load_detector("nano")
    save_checkpoint(tmp_path / "nano/last.pt", small().state_dict(), RUN, CLASSES)
    assert load_detector("nano", device="cpu").source == Path("nano/last.pt")
    assert not (tmp_path / "cache").exists()


def test_an_exported_file_is_made_for_one_size_and_predicts_as_its_model(exported: Path):
    loaded = load_detector(exported, device="cpu")
    assert isinstance(loaded.model, OnnxDetector)
    assert (loaded.source, loaded.classes, loaded.num_classes) == (exported, CLASSES, 3)
    assert (loaded.limits, loaded.data) == (RUN.predict, None)
    assert loaded.description == f"{exported}: ONNX of small, 3 classes, 64 px, all priors"
    assert loaded.input_side(None) == loaded.input_side(64) == 64
    with pytest.raises(ValueError, match=r"raw\.onnx is made for 64 pixels, not for 96: export it again"):
        loaded.input_side(96)
    config = PredictConfig(score_threshold=0.0)
    for ours, theirs in zip(loaded.model.predict(PIXELS, config), small().eval().predict(PIXELS, config), strict=True):
        assert len(ours.scores) == len(theirs.scores) > 0
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-5)
    assert load_detector(exported, classes=["a", "b", "c"], device="cpu").names == ("a", "b", "c")


def test_what_cannot_be_loaded_says_why(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_checkpoint(tmp_path / "best.pt", small().state_dict(), RUN, CLASSES)
    torch.save(build_detector("nano", num_classes=2).state_dict(), tmp_path / "w.pth")
    (tmp_path / "b.onnx").write_bytes(b"no model")
    for what, more, error, words in (
        ("nope", {}, FileNotFoundError, "no checkpoint nope: expected a file, a run's folder, or a size such as tiny"),
        ("nope.onnx", {}, FileNotFoundError, r"no exported detector nope\.onnx"),
        (tmp_path / "w.pth", {}, CheckpointError, r"w\.pth does not say which model it belongs to"),
        (tmp_path / "w.pth", {"model": "xl"}, ValueError, "unknown model 'xl'"),
        (tmp_path / "w.pth", {"model": "s"}, CheckpointError, r"expected widen_factor 0\.5 \(as s\)"),
        (tmp_path, {"classes": ["a", "b"]}, CheckpointError, r"best\.pt has 3 classes, but 2 names: a, b"),
        (tmp_path, {"device": "cuda"}, ValueError, "PyTorch finds no CUDA GPU"),
        (tmp_path / "b.onnx", {}, ExportError, r"b\.onnx is no ONNX file"),
        (exported, {"model": "tiny"}, ValueError, r"raw\.onnx says itself which model it is: leave --model out"),
        (exported, {"classes": ["a"]}, ValueError, r"raw\.onnx has 3 classes, but 1 names were given"),
    ):
        with pytest.raises(error, match=words):
            load_detector(what, **more)
