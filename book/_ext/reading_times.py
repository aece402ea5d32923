"""How long a chapter takes to read, worked out from its text and stated below its title.

Prose counts at 200 words per minute; code, what cells print, and formulas at 250 tokens.  Folded code counts nothing.
The exercises, which are the section of that name, are counted apart.
"""

import math
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
WORDS, TOKENS = 200, 250
"""What is read in a minute."""
TOKEN = re.compile(r"\w+|[^\w\s]+")
FOLDED = {"tag_hide-input", "tag_hide-cell", "tag_remove-input", "tag_remove-cell"}
LINE = re.compile(r"^Modules?: ")
"""How the line that the time is added to begins."""
TYPED = re.compile(r" · Reading time: .*$")
"""A time that somebody typed gives way to the one that is worked out."""


def minutes(node: nodes.Node) -> float:
    """The time that a node and what is in it take."""
    if isinstance(node, nodes.literal_block | nodes.math | nodes.math_block):
        return len(TOKEN.findall(node.astext())) / TOKENS
    if isinstance(node, nodes.Text):
        return len(node.astext().split()) / WORDS
    if isinstance(node, nodes.Element):
        return sum(minutes(child) for child in node.children if not is_hidden(child))
    return 0.0


def is_hidden(node: nodes.Node) -> bool:
    """Whether a reader does not see a node before asking for it, or sees no text."""
    if isinstance(node, nodes.comment | nodes.raw | nodes.system_message | nodes.substitution_definition):
        return True
    if not isinstance(node, nodes.Element) or node.get("nb_element") != "cell_code_source":
        # one output comes in several forms, of which a page shows the first that it can
        return isinstance(node, nodes.Element) and node.get("mime_type", "text/plain") != "text/plain"
    return bool(FOLDED & set(node.parent.get("classes", [])))


def exercises(document: nodes.document) -> list[nodes.section]:
    """The sections with exercises."""
    return [one for one in document.findall(nodes.section) if one[0].astext() in ("Exercise", "Exercises")]


def state(app: Sphinx, document: nodes.document) -> None:
    """Add both times to the line of a chapter that names its modules."""
    line = next((one for one in document.findall(nodes.paragraph) if LINE.match(one.astext())), None)
    if line is None or not app.env.doc2path(app.env.docname).endswith(".ipynb"):
        return
    last = line[-1]
    if isinstance(last, nodes.Text):
        line.replace(last, nodes.Text(TYPED.sub("", last.astext())))
    everything, apart = minutes(document), sum(map(minutes, exercises(document)))
    words = f"{math.ceil(everything - apart)} minutes"
    if apart:
        words += f", {math.ceil(everything)} with exercises"
    line += nodes.Text(f" · Reading time: {words}")
    logger.info("%s takes %s", app.env.docname, words)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook with Sphinx."""
    app.connect("doctree-read", state)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
