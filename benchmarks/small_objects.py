"""AP on small objects in large images: resized to the input, in tiles of the input's size, and whole at full size.

    python benchmarks/small_objects.py runs/mini-160
    python benchmarks/small_objects.py tiny --data path/to/val.json --images path/to/val --record small_objects_photos

Without ``--data`` the images are scenes of the embedded glyphs: squares of one scene, of 2 x 2, 4 x 4 and 6 x 6, with
the same things at the same size in all of them, on a background of their own.  A scene is as large as the input, so
that one alone shows what the detector can do, and the larger ones what is left of that.  Sizes are those of COCO, in
pixels of the image: small is below 32 x 32.  All ways see the same images; in tiles they are evaluated as by
``minirtmdet eval --tiles``.  Writes ``benchmarks/results/small_objects.json``.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from train import RESULTS, surroundings

from minirtmdet import load_detector
from minirtmdet.configs import STRIDES, ScenesConfig
from minirtmdet.data.backgrounds import pattern_background
from minirtmdet.data.coco import CocoDataset
from minirtmdet.data.compose import compose
from minirtmdet.data.scenes import CLASSES, plan_scene
from minirtmdet.data.splits import Split, find_images
from minirtmdet.evaluation.coco import evaluate_images
from minirtmdet.files import write_json
from minirtmdet.inference.detect import Pixels, detect
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.inference.images import inside_image
from minirtmdet.inference.load import LoadedDetector
from minirtmdet.inference.tiles import Tiles
from minirtmdet.structures import Detections

SHOWN = ("AP", "AP50", "APs", "APm", "APl")
Way = Callable[[Pixels], Detections]


def write_scenes(folder: Path, side: int, cells: int, count: int) -> Split:
    """A set of ``count`` scenes of the validation part, ``cells`` x ``cells`` in each image."""
    config = ScenesConfig(size=side)
    images, annotations = [], []
    folder.mkdir()
    for number in range(count // cells**2):
        things = [
            thing._replace(x=thing.x + side * (cell % cells), y=thing.y + side * (cell // cells))
            for cell in range(cells**2)
            for thing in plan_scene(config, "val", number * cells**2 + cell)
        ]
        background = pattern_background(np.random.default_rng((cells, number)), side * cells)
        scene = compose(background, things)
        name = f"{number:04}.png"
        cv2.imwrite(str(folder / name), scene.image[..., ::-1])
        images.append({"id": number + 1, "file_name": name, "width": side * cells, "height": side * cells})
        for (x1, y1, x2, y2), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            row = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": label + 1, "iscrowd": 0}
            annotations.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    split = Split(folder.with_suffix(".json"), folder)
    write_json(split.json_file, {"images": images, "annotations": annotations, "categories": categories})
    return split


def ways(loaded: LoadedDetector, side: int, overlaps: Sequence[float]) -> dict[str, Way]:
    """By name, from an image to its detections, which end where the image ends."""

    def at_full_size(image: Pixels) -> Detections:
        fits = -(-max(image.shape[:2]) // STRIDES[-1]) * STRIDES[-1]
        return inside_image(detect(loaded.model, [image], loaded.limits, input_size=fits, resize=False)[0], image)

    found = {"resized": loaded.finder(input_size=side)}
    found |= {f"tiles, overlap {one:g}": loaded.finder(input_size=side, tiles=Tiles(one)) for one in overlaps}
    # a file is made for one size
    return found if isinstance(loaded.model, OnnxDetector) else found | {"whole, at full size": at_full_size}


def measure(loaded: LoadedDetector, split: Split, side: int, overlaps: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each way, on the same images."""
    dataset = CocoDataset(*split, categories=loaded.classes)
    sizes = [max(dataset.entry(index).size) for index in range(len(dataset))]
    about = {"images": len(dataset), "longer side": int(np.median(sizes)), "boxes": sum(dataset.count_boxes().values())}
    rows = []
    for name, way in ways(loaded, side, overlaps).items():
        metrics = evaluate_images(way, dataset).metrics
        rows.append({**about, "way": name, **{key: metrics[key] for key in SHOWN}})
        numbers = "  ".join(f"{key} {'-' if metrics[key] < 0 else format(metrics[key], '.3f'):>5}" for key in SHOWN)
        print(f"{about['longer side']:5} px  {name:<20} {numbers}", flush=True)
    return rows


def main(words: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", help="a run's folder, a file, or a size")
    parser.add_argument("--model", help="the size, for files that do not say")
    parser.add_argument("--classes", nargs="+", help="names in label order, for files that do not say")
    parser.add_argument("--input-size", type=int, help="side of the input; the detector's own where left out")
    parser.add_argument("--data", type=Path, help="COCO JSON of large images, in place of the scenes")
    parser.add_argument("--images", type=Path, help="their folder, where it is not found beside the JSON")
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 2, 4, 6], help="scenes along a side")
    parser.add_argument("--count", type=int, default=144, help="scenes in all, the same in each row")
    parser.add_argument("--overlap", type=float, nargs="+", default=[0.25, 0.5], help="of tiles, as shares")
    parser.add_argument("--note", default="", help="what the data and the detector are")
    parser.add_argument("--record", default="small_objects")
    parser.add_argument("--out", type=Path, help="where to write; among the results where left out")
    given = sys.argv[1:] if words is None else words
    args = parser.parse_args(given)
    loaded = load_detector(args.detector, model=args.model, classes=args.classes, device="cpu")
    side = loaded.input_side(args.input_size)
    rows = []
    if args.data:
        rows += measure(loaded, Split(args.data, args.images or find_images(args.data)), side, args.overlap)
    else:
        with TemporaryDirectory() as folder:
            for cells in args.cells:
                split = write_scenes(Path(folder) / f"{cells}x{cells}", side, cells, args.count)
                rows += measure(loaded, split, side, args.overlap)
    # the folders of somebody's data are nobody else's business
    places = {"--data": "path/to/val.json", "--images": "path/to/val"}
    shown = [places.get(before, word) for before, word in zip(["", *given[1:]], given[1:], strict=False)]
    record = {
        "command": shlex.join(["python", "benchmarks/small_objects.py", _named(args.detector), *shown]),
        "about": "sizes of boxes by COCO, in pixels of the image: small is below 32 x 32",
        "note": args.note,
        "input_size": side,
        **surroundings(),
        "rows": rows,
    }
    write_json(args.out or RESULTS / f"{args.record}.json", record)
    return record


def _named(detector: str) -> str:
    """A run by its name, a file without its folder, a size as it is."""
    path = Path(detector)
    return f"runs/{path.name}" if path.is_dir() else f"path/to/{path.name}" if path.exists() else detector


if __name__ == "__main__":
    main()
