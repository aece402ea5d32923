"""Where the built book is, and the browser that looks at it."""

import os
import shutil
from pathlib import Path

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
BROWSER = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
