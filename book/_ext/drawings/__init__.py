"""The directive ``{drawing}``: a figure of vectors whose ink is the page's and whose numbers are the package's.

    ```{drawing} architecture
    :name: fig-glance-architecture
    :alt: What somebody hears who does not see it.

    What it says, in a sentence.
    ```

A drawing is a function in one of the modules beside this one, listed in :data:`DRAWINGS`.  It is called when the book
is built, and asks the package for every shape, count and cost that it shows, so that none of them can grow old.
"""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from drawings import (
    architecture,
    assignment,
    deployment,
    faults,
    head,
    layers,
    loop,
    neck,
    palette,
    sampling,
    schedule,
)
from drawings.svg import Place, Sheet, Step

SCENE = "_static/lab/data/scene.webp"
"""The image of the book, as the lab writes it into the site."""
DRAWINGS: dict[str, Callable[[Place], Sequence[Sheet | Step]]] = {
    "architecture": architecture.draw,
    "assignment": assignment.draw,
    "csp-and-spp": layers.draw,
    "neck": neck.draw,
    "head": head.draw,
    "loop": loop.draw,
    "schedule": schedule.draw,
    "deployment": deployment.draw,
    "sampling": sampling.draw,
    "faults": faults.draw,
}


def addresses(app: Sphinx, docname: str) -> Place:
    """How the page reaches the other pages of its folder."""
    folder = docname.rpartition("/")[0]
    names = [name.rpartition("/")[2] for name in app.env.found_docs if name.rpartition("/")[0] == folder]
    pages = {name: app.builder.get_relative_uri(docname, f"{folder}/{name}".lstrip("/")) for name in names}
    return Place(pages, "../" * docname.count("/") + SCENE)


def as_html(sheets: Sequence[Sheet | Step], alt: str) -> str:
    """Sheets side by side where there is room; where each has words, as a list of steps."""
    role = "group" if any("<a " in str(sheet) for sheet in sheets) else "img"
    label = f'role="{role}" aria-label="{escape(alt)}"'
    if not isinstance(sheets[0], Step):
        return f'<div class="drawing" {label}>{"".join(map(str, sheets))}</div>'
    steps = "".join(f"<li>{step.sheet}<p>{step.words}</p></li>" for step in sheets if isinstance(step, Step))
    return f'<ol class="drawing drawing-steps" aria-label="{escape(alt)}">{steps}</ol>'


class Drawing(SphinxDirective):
    """A figure with a drawing in place of an image."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged_required, "alt": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The figure, with its caption and its name."""
        name = self.arguments[0]
        if name not in DRAWINGS:
            raise self.error(f"there is no drawing {name!r}: expected one of {', '.join(DRAWINGS)}")
        if "alt" not in self.options or not self.content:
            raise self.error(f"the drawing {name} needs an :alt: and a caption")
        sheets = DRAWINGS[name](addresses(self.env.app, self.env.docname))
        figure = nodes.figure(align="default", classes=["drawn"])
        figure += nodes.raw("", as_html(sheets, self.options["alt"]), format="html")
        words = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, words)
        figure += nodes.caption(words[0].rawsource, "", *words[0].children)
        self.set_source_info(figure)
        self.add_name(figure)
        return [figure]


def write_palette(app: Sphinx, exception: Exception | None) -> None:
    """Write the style sheet of colours into the finished site."""
    if exception is None and app.builder.format == "html":
        (Path(app.outdir) / "_static" / "palette.css").write_text(palette.css(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and its colours with Sphinx."""
    app.add_directive("drawing", Drawing)
    app.add_css_file("palette.css")
    app.add_css_file("drawings.css")
    app.connect("build-finished", write_palette)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
