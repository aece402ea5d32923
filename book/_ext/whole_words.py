"""What is read as one word stays whole: ``--threshold 0.5``, ``(x, y)`` and 640 × 640 go to the next line, not over it.

Browsers break lines after hyphens, slashes and spaces, in code and numbers as in prose.  Long pieces of code need that
on a phone, and so do the narrow columns of a table.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 22
"""Characters of a piece of code that finds room on every line of a phone."""
NUMBER = r"\d[\d.,]*"
TORN = re.compile(rf"({NUMBER} %|{NUMBER}(?: × {NUMBER})+|{NUMBER}e-\d+)")
"""Numbers that a line may end in: 20 %, 640 × 640, 1e-5."""


def keep_code_whole(app: Sphinx, document: nodes.document) -> None:
    """Give short literals a class that ``custom.css`` does not break."""
    for literal in document.findall(nodes.literal):
        text = literal.astext()
        if len(text) <= LONGEST and any(mark in text for mark in " -/") and not in_table(literal):
            literal["classes"].append("whole")


def keep_numbers_whole(app: Sphinx, document: nodes.document) -> None:
    """Give numbers in sentences the same class; the text stays as it is, so that it can be copied."""
    for block in [*document.findall(nodes.paragraph), *document.findall(nodes.caption)]:
        if in_table(block):
            continue
        for text in [text for text in block.findall(nodes.Text) if TORN.search(text)]:
            if isinstance(text.parent, nodes.literal | nodes.math | nodes.raw):
                continue
            pieces = TORN.split(text)  # every second one is a number
            whole = [nodes.inline("", piece, classes=["whole"]) for piece in pieces[1::2]]
            around = [nodes.Text(piece) for piece in pieces[::2]]
            text.parent.replace(
                text, [one for both in zip(around, [*whole, nodes.Text("")], strict=True) for one in both]
            )


def in_table(node: nodes.Node) -> bool:
    """Whether a node stands in a cell of a table."""
    parent = node.parent
    while parent is not None:
        if isinstance(parent, nodes.entry):
            return True
        parent = parent.parent
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("doctree-read", keep_code_whole)
    app.connect("doctree-read", keep_numbers_whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
