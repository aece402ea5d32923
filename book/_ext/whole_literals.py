"""Short pieces of code in a sentence stay whole: ``--threshold 0.5`` and ``(x, y)`` go to the next line, not over it.

Browsers break lines after hyphens, slashes and spaces, in code as in prose.  Long pieces need that on a phone, and so
do the narrow columns of a table.
"""

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 22
"""Characters of a piece that finds room on every line of a phone."""


def keep_whole(app: Sphinx, document: nodes.document) -> None:
    """Give short literals a class that ``custom.css`` does not break."""
    for literal in document.findall(nodes.literal):
        text = literal.astext()
        if len(text) <= LONGEST and any(mark in text for mark in " -/") and not in_table(literal):
            literal["classes"].append("whole")


def in_table(node: nodes.Node) -> bool:
    """Whether a node stands in a cell of a table."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.entry):
            return True
        parent = parent.parent
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook."""
    app.connect("doctree-read", keep_whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
