"""A strip below the title of each chapter: the detector as a row of stations, those marked that the chapter explains.

It is added to the page when that is written, by the name of the document, so that no notebook has to have it.  Each
station leads to its chapter.  Where there is no room for words the strip has icons alone; its height is fixed, so that
nothing moves while the page loads.
"""

from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple

from sphinx.application import Sphinx


class Station(NamedTuple):
    """A part of the detector or of its training.

    Attributes:
        name: what the strip calls it.
        page: the chapter that explains it.
        icon: what is drawn in a square of 24 units.
    """

    name: str
    page: str
    icon: str


def grid(side: int) -> str:
    """A square of so many cells."""
    lines = "".join(f"M{4 + 16 * i / side:g} 4v16M4 {4 + 16 * i / side:g}h16" for i in range(1, side))
    return f'<path d="M4 4h16v16h-16z{lines}"/>'


DOTS = '<path class="dots" d="' + "".join(f"M{x} {y}h0" for y in (5, 12, 19) for x in (5, 12, 19)) + '"/>'
STATIONS = {
    "data": Station("data", "data", '<path d="M4 5h16v14h-16z"/><path d="M4 16l5-5 4 4 3-3 4 4"/>'),
    "backbone": Station("backbone", "backbone_neck", '<path d="M4 3v18M10 6v12M15 8.5v7M19 10.5v3"/>'),
    "neck": Station("neck", "backbone_neck", '<path d="M4 8h14l-3-3M20 16h-14l3 3"/>'),
    "head": Station("head", "head_construction", '<path d="M4 12h7M11 5h9M11 12h9M11 19h9M11 5v14"/>'),
    "priors": Station("priors", "priors", DOTS),
    "flags": Station("flags", "valid_flags", '<path d="M6 21v-17h12l-3 4 3 4h-12"/>'),
    "boxes": Station("boxes", "coder", '<path d="M4 6h16v12h-16z"/><path class="dots" d="M11 13h0"/>'),
    "costs": Station("costs", "costs", grid(4)),
    "choice": Station(
        "choice", "matching", '<path d="M4 6h16v12h-16z"/><path class="dots" d="M9 12h0M12 9h0M12 14h0M15 11h0"/>'
    ),
    "sampling": Station("sampling", "sampling", '<path d="M4 5h16l-6 7v7l-4-2v-5z"/>'),
    "targets": Station("targets", "targets", '<circle cx="12" cy="12" r="8"/><circle cx="12" cy="12" r="3.5"/>'),
    "losses": Station("losses", "losses", '<path d="M4 4v16h16M6 7c3 9 7 10 13 10.5"/>'),
    "results": Station("results", "evaluation", '<path d="M4 7h10v12h-10z"/><path d="M9 12l3 3 8-10"/>'),
}
GROUPS = {
    "network": ("backbone", "neck", "head"),
    "places": ("priors", "flags", "boxes"),
    "training": ("costs", "choice", "sampling", "targets", "losses"),
}
NETWORK, ASSIGNMENT = GROUPS["network"], ("costs", "choice")
CHAPTERS: dict[str, tuple[str, ...]] = {
    "glance": tuple(STATIONS),
    "head_construction": ("head",),
    "priors": ("priors",),
    "valid_flags": ("flags",),
    "coder": ("boxes",),
    "costs": ("costs",),
    "matching": ("choice",),
    "sampling": ("sampling",),
    "targets": ("targets",),
    "losses": ("losses",),
    "backbone_neck": ("backbone", "neck"),
    "data": ("data",),
    "training": ("data", *NETWORK, *GROUPS["training"]),
    "evaluation": ("results",),
    "weights": NETWORK,
    "fast": GROUPS["training"],
    "four_assigners": ASSIGNMENT,
    "debugging": ("data", *NETWORK, *GROUPS["training"]),
    "masks": ("head", *ASSIGNMENT, "losses", "results"),
    "own_data": ("data", "results"),
    "small_objects": ("data", "priors", "results"),
    "deployment": (*NETWORK, "boxes", "results"),
}
"""The stations that each chapter explains."""


def described(here: tuple[str, ...]) -> str:
    """Where a chapter is, for those who do not see the strip.

    >>> described(("costs",)), described(("backbone", "neck"))
    ('You are here: costs', 'You are here: backbone and neck')
    """
    if here == tuple(STATIONS):
        return "You are here: the whole detector"
    names = [STATIONS[key].name for key in here]
    return "You are here: " + (f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0])


def strip(chapter: str, address: Callable[[str], str]) -> str:
    """The strip of a chapter as HTML.

    Args:
        chapter: the page's name.
        address: from the name of a page to how this one reaches it.
    """
    here = CHAPTERS[chapter]
    places = []
    for key, station in STATIONS.items():
        marked = ' class="here"' if key in here else ""
        current = ' aria-current="page"' if station.page == chapter else ""
        name = escape(station.name)
        places.append(
            f'<li{marked}><a href="{escape(address(station.page))}" title="{name}"{current}>'
            f'<svg viewBox="0 0 24 24" aria-hidden="true">{station.icon}</svg><span>{name}</span></a></li>'
        )
    words = escape(described(here))
    return f'<nav class="you-are-here" aria-label="{words}"><ol>{"".join(places)}</ol><p>{words}</p></nav>'


def add_strip(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the strip behind the title of a chapter."""
    folder, _, chapter = pagename.rpartition("/")
    # minirtmdet.plots.costs has pages too, in the API and of its source
    if folder != "book" or chapter not in CHAPTERS or "</h1>" not in context.get("body", ""):
        return

    def address(page: str) -> str:
        return app.builder.get_relative_uri(pagename, f"{folder}/{page}")

    title, rest = context["body"].split("</h1>", 1)
    context["body"] = f"{title}</h1>\n{strip(chapter, address)}{rest}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the strip with Sphinx."""
    app.add_css_file("drawings.css")
    app.connect("html-page-context", add_strip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
