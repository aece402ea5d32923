"""The fields of dataclasses and NamedTuples appear in the API once each, and in their own words."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import typing

NAMES = re.compile(r"^ {4}[a-z]\w*(, [a-z]\w*)+(?=: )")


def skip_alias(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the accessors that Python documents as "Alias for field number 0": the class docstring says more."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def tidy_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep napoleon from reading words as types.

    In a field's own docstring it would take what stands before a colon: an empty comment in front stops it.  In a
    class's list of attributes it would split ``x, y: ...`` at the space: a zero-width one takes its place.
    """
    if what in ("attribute", "data") and lines:
        lines[:0] = ["..", ""]
    elif what == "class":
        lines[:] = [
            re.sub(r"^ {4}[a-z]\w*(, [a-z]\w*)+(?=: )", lambda m: m[0].replace(", ", ",\u200b"), line) for line in lines
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks with autodoc, before napoleon's."""
    # Python 3.13 defines it in pathlib._local, which nobody imports from and no inventory has
    typing._INVALID_BUILTIN_CLASSES[Path] = "pathlib.Path"
    app.connect("autodoc-skip-member", skip_alias)
    app.connect("autodoc-process-docstring", tidy_fields, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
