"""Where the built book is, and the browser that looks at it."""

import os
import shutil
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
# pages without a text of their own are among them: a redirect, and what Sphinx makes for search and for the code
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("**/*.html") if "_static" not in path.parts)
of_the_site = [
    pytest.mark.site,
    pytest.mark.skipif(not PAGES, reason="there is no built book in _build/html: run make book"),
]
BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
# make book says so when it could not copy MathJax, and the pages then ask a CDN by design
VENDOR = (SITE / "_static" / "vendor" / "mathjax").exists()
needs_vendor = pytest.mark.skipif(not VENDOR, reason="built without npm: pages load scripts from a CDN")
