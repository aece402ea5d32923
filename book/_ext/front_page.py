"""The site's front page, ``index.html``: it leads to the first page of the book.

The one that sphinx-external-toc would write is a bare redirect.  It names no icon, so that a browser asks the server
for a ``favicon.ico`` that is not there, and a reader without redirects sees an empty page.
"""

from html import escape
from pathlib import Path

from sphinx.application import Sphinx

PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="0; url={first}">
<link rel="canonical" href="{first}">
<link rel="icon" href="{icon}">
<title>{title}</title>
</head>
<body><p><a href="{first}">{title}</a></p></body>
</html>
"""


def write_front_page(app: Sphinx, exception: Exception | None) -> None:
    """Write ``index.html`` into the finished site."""
    if exception is not None or app.builder.format != "html":
        return
    values = {
        "language": app.config.language,
        "first": app.builder.get_target_uri(app.config.master_doc),
        "icon": f"_static/{Path(app.config.html_favicon).name}",
        "title": app.config.html_title,
    }
    page = PAGE.format_map({key: escape(value) for key, value in values.items()})
    (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook with Sphinx, before sphinx-external-toc looks whether there is a front page."""
    app.connect("build-finished", write_front_page, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
