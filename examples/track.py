"""Follow objects through a video, so that each keeps its number: pip install 'minirtmdet[track]'.

python track.py runs/cards clip.mp4 tracked.mp4
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

try:
    import supervision
    from trackers import ByteTrackTracker
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed: pip install trackers supervision")

from minirtmdet import load_detector
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.video import open_video


def track(
    detector: LoadedDetector, frames: Iterable[np.ndarray], fps: float, threshold: float = 0.3
) -> Iterator[tuple[np.ndarray, supervision.Detections]]:
    """Each frame (BGR) with the detections that have a number, ``tracker_id``; a few frames in memory at a time."""
    sure = {"track_activation_threshold": threshold, "high_conf_det_threshold": threshold}
    tracker = ByteTrackTracker(frame_rate=fps, minimum_consecutive_frames=1, **sure)
    # weak detections begin no track, but go on with one: an object that is half hidden keeps its number
    for found in detector.stream(iter(frames), threshold=threshold / 3):
        tracked = tracker.update(found.to_supervision())
        yield found.pixels, tracked[tracked.tracker_id >= 0]


def main(source: str, video: str, out: str) -> None:
    """Write the video with numbered boxes."""
    if Path(out).exists():
        sys.exit(f"{out} exists: name another file for the video")
    by_track = {"color_lookup": supervision.ColorLookup.TRACK}
    boxes, labels = supervision.BoxAnnotator(**by_track), supervision.LabelAnnotator(**by_track)
    writer = None
    with open_video(Path(video)) as (info, frames):
        for pixels, tracked in track(load_detector(source), (frame.pixels for frame in frames), info.fps):
            names = [f"{name} {number}" for name, number in zip(tracked["class_name"], tracked.tracker_id, strict=True)]
            drawn = labels.annotate(boxes.annotate(pixels.copy(), tracked), tracked, names)
            size = (drawn.shape[1], drawn.shape[0])
            writer = writer or cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), info.fps, size)
            writer.write(drawn)
            print(*names, sep=", ")
    writer.release()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("a detector and two videos are needed: python track.py runs/cards clip.mp4 tracked.mp4")
    main(*sys.argv[1:])
