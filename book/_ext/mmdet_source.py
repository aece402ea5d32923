"""The role ``{mmdet}``: a link to a line of MMDetection 3.3.0.

``{mmdet}`loss_by_feat <models/dense_heads/rtmdet_head.py:212>` `` reads "loss_by_feat".  Paths are those below
``mmdet/``.  ``tests/book/test_source_lines.py`` holds each name to its line.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole

logger = logging.getLogger(__name__)
SOURCE = "https://github.com/open-mmlab/mmdetection/blob/v3.3.0/mmdet"
TARGET = r"([\w/]+\.py):(\d+)"
PATTERN = re.compile(rf"\{{mmdet\}}`([^<`]+) <{TARGET}>`")
"""A use of the role in a page: name, file, line."""


class MmdetRole(ReferenceRole):
    """Links to the line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The name, in the type of code."""
        match = re.fullmatch(TARGET, self.target)
        if match is None or not self.has_explicit_title:
            logger.warning("expected name <path.py:line>, found %s", self.text, location=self.get_location())
            return [nodes.literal("", self.title)], []
        file, line = match.groups()
        name = nodes.literal("", self.title)
        where = {"refuri": f"{SOURCE}/{file}#L{line}", "reftitle": f"mmdet/{file}, line {line}"}
        return [nodes.reference("", "", name, internal=False, **where)], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the role."""
    app.add_role("mmdet", MmdetRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
