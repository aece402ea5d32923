"""Buttons that need the repository's address: Colab, Binder, "edit this page" and issues.

``repository: {url: ...}`` in ``_config.yml`` switches all of them on, and so does the environment variable
``REPOSITORY_URL``, with which a workflow publishes any copy of the repository.  Without either there are none, rather
than buttons that lead to Jupyter Book's own repository, which is its default address.
"""

import os

from sphinx.application import Sphinx
from sphinx.config import Config


def add_buttons(app: Sphinx, config: Config) -> None:
    """Switch the buttons on where the repository's address is known."""
    options = config.html_theme_options
    if address := os.environ.get("REPOSITORY_URL"):
        options["repository_url"] = address
    if not options.get("repository_url"):
        options.pop("repository_url", None)
        return
    options |= {"use_repository_button": True, "use_edit_page_button": True, "use_issues_button": True}
    options["launch_buttons"] = options.get("launch_buttons", {}) | {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook with Sphinx, before the theme reads its options."""
    app.connect("config-inited", add_buttons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
