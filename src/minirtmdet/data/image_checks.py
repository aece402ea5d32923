"""Looking at every image of a data set before any is used, and the errors that say which cannot be."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minirtmdet.data.images import Expected, Header, find_damage, inspect_image
from minirtmdet.messages import shorten

SKIP = "bad_images='skip' (--bad-images skip) leaves them out"
"""What to do about bad images, in the words of the commands that prepare data."""


class Unusable(Exception):
    """Data that cannot be used as it is: what is wrong, and what whoever reads it can do about it.

    Attributes:
        problem: the first half of the message.
    """

    problem = ""

    @classmethod
    def of(cls, problem: str, remedy: str) -> "Unusable":
        """An error of both halves."""
        error = cls(f"{problem}; {remedy}")
        error.problem = problem
        return error

    def instead(self, remedy: str) -> "Unusable":
        """The same error for a reader who can do something else about it."""
        return type(self).of(self.problem, remedy)


class BadImages(Unusable, ValueError):
    """Images that are missing, broken, too large, or of another size than annotations say."""


class MissingImages(Unusable, FileNotFoundError):
    """Images that are not there."""


class OutsideFiles(Unusable, ValueError):
    """File names that lead out of the folder of the images."""


def inspect_images(
    paths: Sequence[Path],
    expected: Sequence[Expected | None] | None = None,
    *,
    max_pixels: int | None = None,
    full: bool = False,
) -> tuple[dict[int, str], dict[int, Header]]:
    """What is wrong with images that cannot be used, and the headers of the others, by their places in ``paths``.

    Args:
        paths: the files.
        expected: what each should be, where that is known.
        max_pixels: an image of more is not decoded; any is where not given.
        full: decode every image, in place of looking at the first and the last bytes of its file.
    """
    wanted = expected or [None] * len(paths)

    def inspect(place: int) -> Header | str | None:
        try:
            return inspect_image(paths[place], max_pixels=max_pixels, expected=wanted[place])
        except (OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = dict(enumerate(pool.map(inspect, range(len(paths)))))
    problems = {place: problem for place, problem in found.items() if isinstance(problem, str)}
    if full:
        whole = [place for place in found if place not in problems]
        damaged = find_damage([paths[i] for i in whole], max_pixels=max_pixels, expected=[wanted[i] for i in whole])
        problems |= {whole[place]: problem for place, problem in damaged.items()}
    headers = {place: header for place, header in found.items() if isinstance(header, Header)}
    return dict(sorted(problems.items())), headers


def describe_bad_images(problems: Collection[str], count: int, verb: str) -> str:
    """How many of ``count`` images have problems, what becomes of them, and the first of them.

    >>> describe_bad_images(["a.png is empty", "b.png is empty"], 9, "left out")
    '2 of 9 images left out: a.png is empty; b.png is empty'
    """
    return f"{len(problems)} of {count} images {verb}: {shorten(list(problems), separator='; ')}"


def note_bad_images(problems: Collection[str], count: int, source: object, bad_images: str) -> list[str]:
    """A line that counts the images that are left out; no line where there are none.

    Args:
        problems: what is wrong with each.
        count: of all images.
        source: what the message begins with.
        bad_images: ``raise`` or ``skip``.

    Raises:
        BadImages: where they are to be raised for.
        ValueError: where no image is left.
    """
    if not problems:
        return []
    if len(problems) == count:
        raise ValueError(f"{source}: {describe_bad_images(problems, count, 'cannot be used')}")
    if bad_images == "raise":
        raise BadImages.of(f"{source}: {describe_bad_images(problems, count, 'cannot be used')}", SKIP)
    return [describe_bad_images(problems, count, "left out")]


def note_missing_images(missing: Sequence[str], count: int, folder: Path, source: object, bad_images: str) -> list[str]:
    """As :func:`note_bad_images`, for images that are not in their folder, by name."""
    if not missing:
        return []
    lost = f"{source}: {len(missing)} of {count} images are not in {folder}: {shorten(missing)}"
    remedy = "give the folder that has them with --images"
    if len(missing) == count:
        raise MissingImages.of(lost, remedy)
    if bad_images == "raise":
        raise MissingImages.of(lost, f"{remedy}, or {SKIP}")
    return [f"{lost}; left out"]
