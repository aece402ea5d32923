"""Signatures in the API as short as a reader would write them.

Autodoc's own can be longer than a screen: with marks that the command line reads (``Annotated[int, Range(...)]``), with
settings as defaults, printed with everything in them, with constants that are whole tables, and with the fields of
settings, which follow below one by one.  All of it can be seen in the source, which is a click away.
"""

import inspect
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import sphinx.ext.autodoc
import sphinx.util.inspect
import sphinx.util.typing
from sphinx.application import Sphinx
from sphinx.ext.autodoc import AttributeDocumenter, DataDocumenter
from sphinx.ext.autodoc.preserve_defaults import DefaultValue
from sphinx.pycode import ModuleAnalyzer

LONGEST = 72
"""Characters of a value that is shown."""
CHOICES = 6
"""Names of a ``Literal`` that are shown; a longer one is a string whose values its docstring has."""
stringify = sphinx.util.typing.stringify_annotation


def short_type(annotation: Any, *args: Any, **options: Any) -> str:
    """A type without its marks."""
    while get_origin(annotation) is Annotated:
        annotation = annotation.__origin__
    if get_origin(annotation) is Literal and len(get_args(annotation)) > CHOICES:
        annotation = str
    return stringify(annotation, *args, **options)


def short_default(value: Any) -> Any:
    """A default without what is in it, where that is long or the settings of a dataclass."""
    if isinstance(value, Path):
        return DefaultValue(f"Path('{value.as_posix()}')")
    if is_dataclass(value) or (not isinstance(value, DefaultValue) and len(repr(value)) > LONGEST):
        return DefaultValue(f"{type(value).__name__}(...)")
    return value


def shorten_defaults(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Shorten the defaults that are not in the source of a function, as those of a dataclass."""
    # builtins have no signature, and slots no place for one
    with suppress(AttributeError, TypeError, ValueError):
        signature = inspect.signature(obj)
        shortened = [one.replace(default=short_default(one.default)) for one in signature.parameters.values()]
        obj.__signature__ = signature.replace(parameters=shortened)


def leave_out_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Leave out the arguments of a dataclass whose fields are all described below it."""
    if what != "class" or not is_dataclass(obj):
        return None
    described = ModuleAnalyzer.for_module(obj.__module__).find_attr_docs()
    return ("", None) if all((obj.__name__, field.name) in described for field in fields(obj)) else None


class ShortData(DataDocumenter):
    """A constant with its value where it is short."""

    def should_suppress_value_header(self) -> bool:
        """Whether the value stays away."""
        return super().should_suppress_value_header() or len(repr(self.object)) > LONGEST


class ShortAttribute(AttributeDocumenter):
    """A field with its default where it is short, and none of the contents beside the page."""

    def add_directive_header(self, signature: str) -> None:
        """Write the field's own line, and that it has no entry: a page of settings would list them all twice."""
        super().add_directive_header(signature)
        self.add_line("   :no-contents-entry:", self.get_sourcename())

    def should_suppress_value_header(self) -> bool:
        """Whether the value stays away."""
        return super().should_suppress_value_header() or len(repr(self.object)) > LONGEST


def setup(app: Sphinx) -> dict[str, bool]:
    """Put the short forms in the place of autodoc's."""
    # autodoc has no event for a type
    for module in (sphinx.util.typing, sphinx.util.inspect, sphinx.ext.autodoc):
        module.stringify_annotation = short_type  # type: ignore[attr-defined]
    app.add_autodocumenter(ShortData, override=True)
    app.add_autodocumenter(ShortAttribute, override=True)
    app.connect("autodoc-before-process-signature", shorten_defaults, priority=900)
    app.connect("autodoc-process-signature", leave_out_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
