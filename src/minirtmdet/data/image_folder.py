"""The images of a folder, found by what label files call them."""

from pathlib import Path, PurePosixPath

from minirtmdet.data.file_names import SUFFIXES
from minirtmdet.data.images import inspect_image, read_image

SHOWN = 3
"""Examples that a message names."""


class ImageFolder:
    """The images below a folder, found by what labels call them.

    Args:
        folder: looked through with all that lies below.

    Raises:
        FileNotFoundError: for a folder that is missing, or has no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder of images")
        self.folder = folder
        self.names = sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
        )
        if not self.names:
            raise FileNotFoundError(
                f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}): give the folder of the images with --images"
            )
        self._all = set(self.names)
        self._by: dict[str, list[str]] = {}
        for name in self.names:
            for key in {PurePosixPath(name).name.casefold(), _stem(name)}:
                self._by.setdefault(key, []).append(name)

    def find(self, name: str) -> str | None:
        """The image that a file name of a label file means, by its path, its name, or its name without ending.

        Raises:
            ValueError: where several could be meant.
        """
        name = name.replace("\\", "/")
        if name in self._all:
            return name
        for key in (PurePosixPath(name).name.casefold(), _stem(name)):
            found = self._by.get(key, [])
            # of equal names in several folders, the one whose path ends alike
            parents = PurePosixPath(name).with_suffix("").parts
            for depth in range(len(parents), 1, -1):
                near = [one for one in found if PurePosixPath(one).with_suffix("").parts[-depth:] == parents[-depth:]]
                if len(near) == 1:
                    return near[0]
            if len(found) > 1:
                raise ValueError(f"{name} could be {' or '.join(found[:SHOWN])} in {self.folder}")
            if found:
                return found[0]
        return None

    def __contains__(self, name: str) -> bool:
        """Whether a file name means an image, or several."""
        try:
            return self.find(name) is not None
        except ValueError:
            return True

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) as viewers show the image, its EXIF orientation applied.

        Raises:
            ValueError: for a file that is no image, or is cut off.
        """
        path = self.folder / name
        header = inspect_image(path)
        if header is not None:
            return header.size
        height, width = read_image(path).shape[:2]
        return height, width


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()
