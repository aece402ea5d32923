"""The finished pages without what they do not need, so that one can be read over a phone's line.

- The theme's icons come with a font and a script of 1.8 MB, FontAwesome.  ``icons.css`` has the few that it shows.
- A figure is two pixels per pixel of the page, as PNG.  Those above 60 kB become WebP, and all but a page's first wait
  until somebody scrolls towards them; their sizes are stated, so that nothing jumps when they arrive.
- The themes' style sheets keep the rules of classes that some page has (``used_styles.py``).
- Maps from minified scripts and styles to their sources are not part of the site.
"""

import re
import shutil
from pathlib import Path

from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.display import status_iterator
from used_styles import used_rules

FONTAWESOME = re.compile(r"\s*<(?:link|script)[^>]*vendor/fontawesome[^>]*>(?:</script>)?")
IMAGE = re.compile(r'<img (?![^>]*\bloading=)([^>]*?src="((?:\.\./)*_images/[^"]+)"[^>]*?)\s*/?>')
SHEETS = ("styles/bootstrap.css", "styles/pydata-sphinx-theme.css", "sphinx-design.min.css", "mystnb.*.css")
"""Style sheets of components of which the pages show a few."""
HEAVY = 60_000
"""Bytes of a PNG that is made lighter."""


def to_webp(path: Path) -> None:
    """Put a WebP in the place of a PNG: what a figure draws stays as it is, photographs lose what nobody sees."""
    with Image.open(path) as image:
        image.save(path.with_suffix(".webp"), quality=90, method=4, exact=True)
    path.unlink()


def sized(tag: re.Match[str], page: Path, wait: bool) -> str:
    """An image's tag with its size."""
    path = page.parent / tag[2]
    if path.suffix == ".svg" or not path.is_file():
        return tag[0]
    with Image.open(path) as image:
        width, height = image.size
    size = "" if "width=" in tag[1] else f' width="{width}" height="{height}"'
    return f'<img {tag[1]}{size} loading="{"lazy" if wait else "eager"}" />'


def lighten(page: Path, images: Path) -> None:
    """Rewrite a page, where there is something to leave out."""
    text = page.read_text(encoding="utf-8")
    light = FONTAWESOME.sub("", text)
    light = re.sub(
        r"(_images/[\w.-]+)\.png",
        lambda name: f"{name[1]}.webp" if (images / f"{name[1][8:]}.webp").is_file() else name[0],
        light,
    )
    seen = 0

    def one(tag: re.Match[str]) -> str:
        nonlocal seen
        seen += 1
        return sized(tag, page, wait=seen > 1)

    light = IMAGE.sub(one, light)
    if light != text:
        page.write_text(light, encoding="utf-8")


def lighten_sheets(site: Path) -> None:
    """Leave out the rules of classes that neither a page nor a script mentions."""
    static = site / "_static"
    scripts = [*static.glob("*.js"), *static.glob("scripts/*.js"), *static.glob("lab/**/*.js")]
    words: set[str] = set()
    for path in [*site.rglob("*.html"), *scripts]:
        words.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    for path in [path for sheet in SHEETS for path in static.glob(sheet)]:
        path.write_text(used_rules(path.read_text(encoding="utf-8"), words), encoding="utf-8")


def lighten_site(app: Sphinx, exception: Exception | None) -> None:
    """Go through the finished site."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    images = site / "_images"
    heavy = sorted(path for path in images.glob("*.png") if path.stat().st_size > HEAVY)
    for path in status_iterator(heavy, "lightening figures... ", "brown", len(heavy), app.verbosity, lambda p: p.name):
        to_webp(path)
    for page in sorted(site.rglob("*.html")):
        lighten(page, images)
    lighten_sheets(site)
    shutil.rmtree(site / "_static" / "vendor" / "fontawesome", ignore_errors=True)
    for path in (site / "_static").rglob("*.map"):
        path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook, after those that write pages and copy images."""
    app.connect("build-finished", lighten_site, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
