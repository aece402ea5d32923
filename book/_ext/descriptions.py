"""What a page says about itself to search engines, and to whoever shows a link to it: its first paragraph.

sphinxext-opengraph would take the first two hundred characters, and end in the middle of the line that names modules.
"""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CITATION = re.compile(r" \[[^\]]*\d{4}[a-z]?\]")
LONGEST = 300
"""Characters; what is longer ends with a sentence, or a word."""


def description(document: nodes.document) -> str:
    """The first paragraph as text, or the title where a page has none."""
    first = next((one for one in document.findall(nodes.paragraph) if one.astext().strip()), None)
    text = " ".join((first or next(document.findall(nodes.title), document)).astext().split())
    text = CITATION.sub("", text)
    if len(text) <= LONGEST:
        return text
    end = text.rfind(". ", 0, LONGEST)
    return text[: end + 1] if end > 0 else text[:LONGEST].rpartition(" ")[0] + " ..."


def describe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Hand the description to the theme's head and to sphinxext-opengraph."""
    if doctree:
        text = description(doctree)
        context["meta"] = (context.get("meta") or {}) | {"og:description": text}
        context["metatags"] += f'<meta name="description" content="{escape(text)}" />\n'


def drop_relative_address(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out ``og:url`` where nobody said where the site will be: a relative one is wrong."""
    if not app.config.ogp_site_url:
        context["metatags"] = re.sub(r'<meta property="og:url"[^>]*>\n?', "", context.get("metatags", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks before and after sphinxext-opengraph's."""
    app.connect("html-page-context", describe, priority=400)
    app.connect("html-page-context", drop_relative_address, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
