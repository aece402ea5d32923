"""What is read as one word stays whole: ``--threshold 0.5``, ``(x, y)`` and 640 × 640 go to the next line, not over it.

Browsers break lines after hyphens, slashes and spaces, in code and numbers as in prose.  Long pieces of code need that
on a phone, between their words; the narrow columns of a table need it within words too, but not between ``--`` and the
name of an option.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 22
"""Characters that find room on every line of a phone."""
BREAKS = re.compile(r"[-/]")
OPTION = re.compile(r"--\w[^\s-]*")
NUMBER = r"\d[\d.,]*"
TORN = re.compile(rf"{NUMBER} %|{NUMBER}(?: [×·+−/] {NUMBER})+|{NUMBER}e-\d+")
"""Numbers that a line may end in: 20 %, 640 × 640, 3 · 0.5, 1e-5."""


def keep_code_whole(app: Sphinx, document: nodes.document) -> None:
    """Give short literals, and parts of others, a class that ``custom.css`` does not break."""
    for literal in list(document.findall(nodes.literal)):
        text, cell = literal.astext(), in_table(literal)
        if len(text) <= LONGEST and re.search(r"[-/ ]", text) and not cell:
            literal["classes"].append("whole")
        elif wholes := whole_parts(text, cell):
            literal.children = []
            literal += split_text(text, wholes)


def keep_numbers_whole(app: Sphinx, document: nodes.document) -> None:
    """Give numbers in sentences the same class; the text stays as it is, so that it can be copied."""
    for block in [*document.findall(nodes.paragraph), *document.findall(nodes.caption)]:
        if in_table(block):
            continue
        for text in list(block.findall(nodes.Text)):
            wholes = [number.span() for number in TORN.finditer(text) if len(number[0]) <= LONGEST]
            if wholes and not isinstance(text.parent, nodes.literal | nodes.math | nodes.raw):
                text.parent.replace(text, split_text(text, wholes))


def whole_parts(text: str, cell: bool) -> list[tuple[int, int]]:
    """Where the parts of a long literal, or of one in a table, start and end that stay whole.

    >>> [slice(*part) for part in whole_parts("eval a-b.onnx --augment-recipe-of-the-paper", False)]
    [slice(5, 13, None), slice(14, 23, None)]
    """
    parts = []
    for word in re.finditer(r"\S+", text):
        if len(word[0]) <= LONGEST and BREAKS.search(word[0]) and not cell:
            parts.append(word.span())
        else:
            parts += [option.span() for option in OPTION.finditer(text, *word.span())]
    return parts


def split_text(text: str, wholes: list[tuple[int, int]]) -> list[nodes.Node]:
    """The text, with its whole parts in elements of their own."""
    found: list[nodes.Node] = []
    last = 0
    for start, end in wholes:
        found += [nodes.Text(text[last:start]), nodes.inline("", text[start:end], classes=["whole"])]
        last = end
    return [*found, nodes.Text(text[last:])]


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
