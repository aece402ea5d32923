"""The example that tracks, on a video of three things that move."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from minirtmdet.configs import PredictConfig
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.video import open_video
from minirtmdet.structures import Detections

EXAMPLE = Path(__file__).parents[2] / "examples/track.py"
FRAMES, FPS = 24, 12.5
HIDDEN, WEAK = {10, 11, 12}, {5, 6}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    for name in ("supervision", "trackers"):
        pytest.importorskip(name, reason="the tracking example stands on it: pip install 'minirtmdet[track]'")
    spec = importlib.util.spec_from_file_location("track_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BrightThings:
    """Finds what is bright; of the topmost it is not sure in two frames, and it does not see the lowest in three."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.frames = 0

    def predict(self, images, config, shapes, scales) -> list[Detections]:
        return [self.look(image[0].numpy()) for image in images]

    def look(self, pixels: np.ndarray) -> Detections:
        count, _, stats, _ = cv2.connectedComponentsWithStats((pixels > 180).astype(np.uint8))
        rows = sorted(([x, y, x + w, y + h], y) for x, y, w, h, _ in stats[1:count].tolist())
        rows = [box for box, y in rows if not (y > 60 and self.frames in HIDDEN)]
        weak = self.frames in WEAK
        scores = [0.2 if weak and box[1] < 20 else 0.9 for box in rows]
        self.frames += 1
        return Detections(
            torch.tensor(rows).float().reshape(-1, 4), torch.tensor(scores), torch.zeros(len(rows)).long()
        )


def write_things(path: Path) -> Path:
    """One thing goes right, one goes left below it, and the third goes down."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (128, 128))
    for i in range(FRAMES):
        image = np.full((128, 128, 3), 60, np.uint8)
        for x, y in ((4 + 4 * i, 4), (100 - 4 * i, 34), (60, 66 + i)):
            image[y : y + 20, x : x + 20] = 250
        writer.write(image)
    writer.release()
    return path


def test_each_thing_keeps_its_number_through_the_clip(example: ModuleType, tmp_path: Path):
    detector = LoadedDetector(BrightThings(), Path("m"), ("thing",), 1, 128, PredictConfig(), None, "")
    seen: dict[str, set[int]] = {"first": set(), "second": set(), "third": set()}
    counts = []
    with open_video(write_things(tmp_path / "clip.mp4")) as (info, frames):
        for pixels, tracked in example.track(detector, (frame.pixels for frame in frames), info.fps):
            assert pixels.shape == (128, 128, 3)
            counts.append(len(tracked))
            for (_, y1, _, _), number in zip(tracked.xyxy, tracked.tracker_id, strict=True):
                seen["first" if y1 < 20 else "second" if y1 < 60 else "third"].add(int(number))
    assert [len(numbers) for numbers in seen.values()] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3
    # in its first frame a thing has no number yet
    assert counts[1:] == [2 if frame in HIDDEN else 3 for frame in range(1, FRAMES)]


def test_the_command_writes_a_video(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    detector = LoadedDetector(BrightThings(), Path("m"), ("thing",), 1, 128, PredictConfig(), None, "")
    monkeypatch.setattr(example, "load_detector", lambda source: detector)
    out = tmp_path / "tracked.mp4"
    example.main("runs/x", str(write_things(tmp_path / "clip.mp4")), str(out))
    with open_video(out) as (_, frames):
        assert len(list(frames)) == FRAMES
    assert sorted(capsys.readouterr().out.splitlines()[-1].split(", ")) == ["thing 0", "thing 1", "thing 2"]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(SystemExit, match="supervision is not installed: pip install trackers supervision"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_files_that_are_not_named_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    for name in ("supervision", "trackers"):
        pytest.importorskip(name, reason="the tracking example stands on it: pip install 'minirtmdet[track]'")
    monkeypatch.setattr(sys, "argv", ["track.py", "runs/cards"])
    with pytest.raises(SystemExit, match=r"a detector and two videos are needed: python track\.py"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
