"""Pages that ask no other site for anything: MathJax is copied next to them, thebe is dropped.

MathJax sets formulas, when the book is built (``formulas.py``).  Its files come from a pinned npm package, once, into
``book/_static/vendor``, which git ignores.  Where npm is missing, or cannot reach its registry, the build says so and
the pages load the same version from a CDN.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

logger = logging.getLogger(__name__)
VENDOR = Path(__file__).parent.parent / "_static" / "vendor"


class Package(NamedTuple):
    """One npm package and the part of it that the pages need."""

    name: str
    version: str
    sha512: str
    """Of the packed archive, as npm states it."""
    folder: str
    """Folder inside the archive that becomes ``vendor/<name>``."""
    wanted: tuple[str, ...]
    """Which files below that folder are kept."""
    entry: str
    """The file that a page loads."""

    @property
    def complete(self) -> Path:
        """Written last, and named by version and files: an interrupted copy, or an older one, is made again."""
        return VENDOR / self.name / f"{self.version}-{zlib.crc32(' '.join(self.wanted).encode()):08x}.complete"

    @property
    def url(self) -> str:
        """The same file on a CDN."""
        return f"https://cdn.jsdelivr.net/npm/{self.name}@{self.version}/{self.folder}/{self.entry}"


MATHJAX = Package(
    "mathjax",
    "3.2.2",
    "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
    "es5",
    (
        *("node-main.js", "adaptors/liteDOM.js", "input/tex-base.js", "input/tex/extensions/ams.js"),
        *("output/chtml.js", "output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2/*"),
    ),
    "tex-chtml.js",
)


def fetch(package: Package) -> None:
    """Copy the wanted files of a package into ``vendor/<name>``; nothing is done where they are there.

    Raises:
        OSError: npm is missing, fails, or hands over another archive than the pinned one.
    """
    if package.complete.exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    spec = f"{package.name}@{package.version}"
    logger.info("copying %s from its npm package", spec)
    with tempfile.TemporaryDirectory() as folder:
        try:
            # pack downloads one archive and runs none of its scripts, unlike install
            subprocess.run(
                [npm, "pack", "--silent", spec], cwd=folder, check=True, capture_output=True, text=True, timeout=300
            )
        except subprocess.CalledProcessError as error:
            raise OSError(f"npm pack {spec} failed: {error.stderr.strip()[-300:]}") from error
        except subprocess.TimeoutExpired as error:
            raise OSError(f"npm pack {spec} gave no answer in 300 s") from error
        archive = next(Path(folder).glob("*.tgz"))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != package.sha512:
            raise OSError(f"{spec} is not the pinned archive: sha512 {digest}")
        extract(archive, package)


def extract(archive: Path, package: Package) -> None:
    """Unpack the wanted files and replace ``vendor/<name>`` by them."""
    target = VENDOR / package.name
    shutil.rmtree(target, ignore_errors=True)
    root = PurePosixPath("package") / package.folder
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            source = tar.extractfile(member) if path.is_relative_to(root) else None
            if source is None or not any(path.relative_to(root).match(pattern) for pattern in package.wanted):
                continue
            place = target / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read())
    package.complete.touch()


def use_local_assets(app: Sphinx, config: Config) -> None:
    """Fetch MathJax, or point the pages to a CDN."""
    try:
        fetch(MATHJAX)
    except OSError as error:
        # not a warning: the strict build is complete without npm, the pages only need a network
        logger.info("NOTE: %s. Pages will load %s %s from a CDN.", error, MATHJAX.name, MATHJAX.version)
        config.mathjax_path = MATHJAX.url


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out thebe, which Jupyter Book loads from a CDN even when its button is off."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in str(getattr(script, "filename", script)) + str(getattr(script, "attributes", {}).get("body"))
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the two hooks with Sphinx."""
    app.connect("config-inited", use_local_assets)
    # late, so that scripts added by other extensions are seen
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
