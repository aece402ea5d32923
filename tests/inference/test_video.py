import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_sets import FPS, write_video

from minirtmdet.configs import PredictConfig
from minirtmdet.inference.follow import follow
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.video import find_videos, open_video, predict_video
from minirtmdet.structures import Detections


class Stub:
    """Finds one box in each frame, at a score that tells the frame's grey; stops where it is told to."""

    device = torch.device("cpu")

    def __init__(self, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt):
        self.batches: list[int] = []
        self.stop_at, self.error = stop_at, error

    def predict(
        self, images: torch.Tensor, config: PredictConfig, shapes: Sequence, scales: Sequence
    ) -> list[Detections]:
        if self.stop_at is not None and len(self.batches) == self.stop_at:
            raise self.error("stopped")
        self.batches.append(len(images))
        greys = [float(image[0, 5, 5]) / 255 for image in images]
        box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
        return [Detections(box, torch.tensor([0.1 + grey]), torch.tensor([1])) for grey in greys]


def detector(model: Stub) -> LoadedDetector:
    return LoadedDetector(model, Path("m"), ("cat", "dög"), 2, 64, PredictConfig(), None, "")


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as (_, frames):
        return [frame.pixels for frame in frames]


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_frame_is_drawn_and_described(tmp_path: Path):
    source = write_video(tmp_path / "a.mp4")
    model = Stub()
    out = tmp_path / "out/a.mp4"
    result = predict_video(
        detector(model), source, out, tmp_path / "out/a.jsonl", threshold=0.3, batch_size=4, progress=False
    )
    assert model.batches == [4, 4, 2]  # never more than a batch
    rows = lines_of(tmp_path / "out/a.jsonl")
    assert [row["frame"] for row in rows] == list(range(10))
    assert [row["seconds"] for row in rows] == pytest.approx([i / FPS for i in range(10)], abs=0.002)
    found = [row["detections"] for row in rows]
    assert [len(one) for one in found] == [0, 0, 0, *[1] * 7]  # 0.1 + 20 i / 255 > 0.3
    assert found[9][0]["class"] == "dög"
    assert found[9][0]["box"] == [8.0, 8.0, 24.0, 24.0]
    assert (result.frames, result.detections) == (10, 7)
    with open_video(out) as (info, frames):
        drawn = [frame.pixels for frame in frames]
    assert info.fps == pytest.approx(FPS)
    assert [image.shape for image in drawn] == [(48, 64, 3)] * 10
    plain = [float(np.ptp(image[6:28, 6:28].astype(int))) for image in drawn]
    assert max(plain[:3]) < 30 < min(plain[3:])  # a box, or none
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.jsonl", "a.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_done_stays_whole_however_it_ends(tmp_path: Path, error: type[BaseException]):
    source = write_video(tmp_path / "a.mp4")
    out, rows = tmp_path / "out/a.mp4", tmp_path / "out/a.jsonl"
    with pytest.raises(error):
        predict_video(detector(Stub(2, error)), source, out, rows, batch_size=3, progress=False)
    assert len(lines_of(rows)) == len(frames_of(out)) == 6
    assert sorted(path.name for path in out.parent.iterdir()) == ["a.jsonl", "a.mp4"]


def test_an_earlier_result_stays_where_nothing_new_is_written(tmp_path: Path):
    source = write_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt):
        predict_video(detector(Stub(0)), source, tmp_path / "b.mp4", tmp_path / "b.jsonl", progress=False)
    assert (tmp_path / "b.mp4").read_bytes() == b"earlier"
    assert not (tmp_path / "b.jsonl").exists()


def test_broken_videos_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no video .*no\.mp4"):
        find_videos([tmp_path / "no.mp4"])
    with pytest.raises(ValueError, match=r"rtsp:/camera/1\.mp4 is an address"):
        find_videos([Path("rtsp://camera/1.mp4")])
    with pytest.raises(FileNotFoundError, match=r"no video .*no\.mp4"):
        frames_of(tmp_path / "no.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match=r"bad\.mp4 holds no frame that OpenCV can decode"):
        frames_of(tmp_path / "bad.mp4")


def test_a_video_that_ends_early_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write_video(tmp_path / "a.mp4")
    real = cv2.VideoCapture(str(source))

    def get(what: int) -> float:
        return 100.0 if what == cv2.CAP_PROP_FRAME_COUNT else real.get(what)

    cut = SimpleNamespace(read=real.read, get=get, release=real.release)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: cut)
    with pytest.warns(UserWarning, match=r"a\.mp4: 10 of 100 frames could be read"):
        assert len(frames_of(source)) == 10


def test_videos_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    paths = [tmp_path / name for name in ("a/x.mp4", "b/X.avi", "c/y.mov")]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    videos = find_videos(paths)
    assert [str(video.name) for video in videos] == ["x.mp4", "X-2.mp4", "y.mp4"]


class TestFollow:
    def test_each_image_comes_once_when_it_is_whole(self, tmp_path: Path):
        folder, out = tmp_path / "in", tmp_path / "in/predictions"
        out.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(b"1")
        looks = follow([folder], out, wait=lambda _: None)

        def names() -> list[str]:
            return [str(one.name) for one in next(looks)]

        assert names() == []  # may be half written
        assert names() == ["a.jpg"]
        (folder / "b.bmp").write_bytes(b"1")
        (folder / "notes.txt").write_bytes(b"1")
        (folder / ".c.jpg").write_bytes(b"1")
        (out / "a.jpg").write_bytes(b"drawn")
        assert names() == []
        (folder / "b.bmp").write_bytes(b"12")  # it grows
        assert names() == []
        assert names() == ["b.png"]
        assert names() == []
        (folder / "a.jpg").write_bytes(b"another")  # a camera that writes one file again and again
        assert names() == []
        assert names() == ["a.jpg"]
        (folder / "b.bmp").unlink()
        assert names() == []

    def test_several_folders_have_names_of_their_own(self, tmp_path: Path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(b"1")
        looks = follow([tmp_path / "one", tmp_path / "two"], tmp_path / "out", wait=lambda _: None)
        next(looks)
        assert sorted(str(one.name) for one in next(looks)) == ["one/a.png", "two/a.png"]

    def test_nothing_is_written_over_what_was_written_of_another_image(self, tmp_path: Path):
        cameras = [tmp_path / "hall/cam", tmp_path / "door/cam"]
        for folder in cameras:
            folder.mkdir(parents=True)
            for name in ("a.png", "a.bmp"):
                (folder / name).write_bytes(b"1")
        looks = follow(cameras, tmp_path / "out", wait=lambda _: None)
        next(looks)
        first = {one.path: one.name for one in next(looks)}
        assert sorted(map(str, first.values())) == ["cam/a-2.png", "cam/a-3.png", "cam/a-4.png", "cam/a.png"]
        (cameras[1] / "a.bmp").write_bytes(b"12")  # what comes again keeps its name
        next(looks)
        assert next(looks) == [(cameras[1] / "a.bmp", first[cameras[1] / "a.bmp"])]

    def test_only_folders_can_be_followed(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match=r"no folder .*nope to follow"):
            next(follow([tmp_path / "nope"], tmp_path / "out"))
