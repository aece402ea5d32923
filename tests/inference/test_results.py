import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.toy import unchecked
from helpers.weights import CLASSES, SMALL, small

from minirtmdet import load_detector
from minirtmdet.configs import DataConfig, PredictConfig, TrainConfig
from minirtmdet.inference.load import LoadedDetector, _listed
from minirtmdet.inference.results import ImageDetections
from minirtmdet.inference.tiles import Tiles
from minirtmdet.structures import Detections
from minirtmdet.weights.checkpoint import save_checkpoint

RUN = TrainConfig(model=SMALL, data=DataConfig(input_size=64), predict=PredictConfig(clip="content"))
FOUND = ImageDetections(
    Detections(torch.tensor([[10.0, 20, 40, 50], [0, 0, 5, 8]]), torch.tensor([0.75, 0.5]), torch.tensor([2, 0])),
    ("cat", "dog", "hen"),
    (60, 80),
    pixels=np.zeros((60, 80, 3), np.uint8),
)
NOTHING = ImageDetections(
    Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()), FOUND.classes, (60, 80), Path("a.png")
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedDetector:
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best.pt", small().state_dict(), RUN, CLASSES)
    return load_detector(folder, device="cpu")


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_paths_folders_and_pixels_give_the_same(loaded: LoadedDetector, tmp_path: Path):
    images = [noise(90, 70), noise(64, 64, 1), noise(30, 100, 2)]
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    everything = {"threshold": 0.0, "batch_size": 2}
    ways = [
        images,
        tmp_path,
        str(tmp_path),
        [tmp_path / "0.png", images[1], str(tmp_path / "2.png")],
        [tmp_path / "0.png", images[1:][0], images[2]],
    ]
    first = loaded.predict(images, **everything)
    assert [one.size for one in first] == [(70, 90), (64, 64), (100, 30)]
    for way in ways:
        for ours, theirs in zip(first, loaded.predict(way, **everything), strict=True):
            assert len(ours) == len(theirs) > 0
            torch.testing.assert_close(ours.boxes, theirs.boxes)
            assert (theirs.path is None) != (theirs.pixels is None)
            np.testing.assert_array_equal(ours.draw(), theirs.draw())
            height, width = theirs.size
            assert (theirs.boxes >= 0).all()
            assert (theirs.boxes <= torch.tensor([width, height] * 2)).all()
    (alone,) = loaded.predict(tmp_path / "1.png", threshold=0.0)
    torch.testing.assert_close(alone.scores, first[1].scores)


def test_thresholds_are_of_all_or_of_each_class(loaded: LoadedDetector):
    image = noise(64, 64)
    (everything,) = loaded.predict(image, threshold=0.0)
    middle = float(everything.scores.median())
    (some,) = loaded.predict(image, threshold=middle)
    assert some.scores.tolist() == [score for score in everything.scores.tolist() if score > middle]
    (cats,) = loaded.predict(image, threshold=[0.0, 1.0, 1.0])
    assert 0 < len(cats) == everything.names.count(CLASSES[0])
    assert set(cats.names) == {CLASSES[0]}


def test_large_images_are_divided(loaded: LoadedDetector):
    image = noise(150, 100)
    (whole,), (tiled,) = (loaded.predict(image, threshold=0.0, tiles=tiles) for tiles in (None, Tiles()))
    assert len(tiled) != len(whole)
    assert tiled.size == whole.size == (100, 150)


def test_a_detector_streams(loaded: LoadedDetector, tmp_path: Path):
    """Nothing is read before it is its turn."""
    cv2.imwrite(str(tmp_path / "a.png"), noise(40, 40))
    (tmp_path / "b.png").write_bytes(b"broken")
    stream = loaded.stream(tmp_path, batch_size=1)
    assert next(stream).path == tmp_path / "a.png"
    with pytest.raises(ValueError, match=r"b\.png cannot be decoded"):
        next(stream)


def test_an_iterator_is_asked_for_a_batch_at_a_time(loaded: LoadedDetector):
    """As frames of a video come; what is no image is found when it is its turn."""
    asked = []

    def frames():
        for number in range(5):
            asked.append(number)
            yield noise(40, 40, number)
        yield noise(40, 40)[..., 0]

    stream = loaded.stream(frames(), batch_size=2, threshold=0.0)
    first = [next(stream) for _ in range(4)]
    assert asked == [0, 1, 2, 3]
    np.testing.assert_array_equal(first[3].pixels, noise(40, 40, 3))
    with pytest.raises(ValueError, match=r"image 5 is uint8 \(40, 40\)"):
        next(stream)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (noise(4, 4).astype(np.float32), ValueError, r"image 0 is float32 \(4, 4, 3\): expected a path, or BGR"),
        ([noise(4, 4), noise(4, 4)[..., 0]], ValueError, r"image 1 is uint8 \(4, 4\): expected a path"),
        ([noise(4, 4)[:0]], ValueError, r"image 0 is uint8 \(0, 4, 3\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ValueError, r"image 0 is torch.uint8 \(3, 8, 8\)"),
        ([None], ValueError, "image 0 is NoneType"),
        (3, ValueError, "image 0 is int: expected a path"),
        ("nope.png", FileNotFoundError, r"no image or folder nope\.png"),
    ],
)
def test_what_is_no_image_is_named(images: object, error: type, words: str):
    with pytest.raises(error, match=words):
        unchecked(_listed)(images)


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        ([0.5], "1 thresholds for 3 classes: give one, or one for each"),
        (1.5, r"the threshold is 1\.5"),
        (float("nan"), "the threshold is nan"),
    ],
)
def test_thresholds_are_checked(loaded: LoadedDetector, threshold: float, words: str):
    with pytest.raises(ValueError, match=words):
        loaded.predict(noise(4, 4), threshold=threshold)


def test_coco_rows():
    assert FOUND.to_coco(7) == [
        {"image_id": 7, "category_id": 3, "bbox": [10.0, 20.0, 30.0, 30.0], "score": 0.75},
        {"image_id": 7, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 8.0], "score": 0.5},
    ]
    assert [row["category_id"] for row in FOUND.to_coco(7, (18, 2, 90))] == [90, 18]
    with pytest.raises(ValueError, match="2 category ids for 3 classes"):
        FOUND.to_coco(7, (1, 2))
    assert NOTHING.to_coco(1) == []


def test_rows_and_drawing():
    assert FOUND.rows()[0] == {
        **{"file": None, "x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 50.0},
        **{"score": 0.75, "label": 2, "class": "hen"},
    }
    assert (FOUND.names, len(FOUND)) == (["hen", "cat"], 2)
    drawn = FOUND.draw()
    assert drawn[50, 10:41].any(1).all()
    assert FOUND.pixels is not None
    assert not FOUND.pixels.any()


def test_supervision_gets_what_its_constructor_documents(monkeypatch: pytest.MonkeyPatch):
    """Types and shapes that ``supervision.Detections`` checks; the real one, where it is installed."""
    try:
        import supervision
    except ModuleNotFoundError:
        supervision = SimpleNamespace(Detections=lambda **fields: SimpleNamespace(**fields))
        monkeypatch.setitem(sys.modules, "supervision", supervision)
    found = FOUND.to_supervision()
    np.testing.assert_array_equal(found.xyxy, [[10, 20, 40, 50], [0, 0, 5, 8]])
    assert (found.xyxy.dtype, found.confidence.tolist(), found.class_id.tolist()) == (np.float32, [0.75, 0.5], [2, 0])
    assert found.data["class_name"].tolist() == ["hen", "cat"]
    assert found.mask is None
    nothing = NOTHING.to_supervision()
    assert (nothing.xyxy.shape, nothing.class_id.shape, nothing.data["class_name"].shape) == ((0, 4), (0,), (0,))


def test_pandas_has_a_row_per_detection():
    pytest.importorskip("pandas")
    frame = FOUND.to_pandas()
    assert frame["class"].tolist() == ["hen", "cat"]
    assert list(NOTHING.to_pandas().columns) == list(frame.columns)


@pytest.mark.parametrize(("name", "method"), [("pandas", "to_pandas"), ("supervision", "to_supervision")])
def test_what_is_not_installed_is_named(name: str, method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"{name} is not installed, and this needs it: pip install {name}"):
        getattr(FOUND, method)()
