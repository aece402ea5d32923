"""What the built pages weigh, and that nothing was lost to make them light: run with ``pytest -m site``."""

import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from helpers.built_site import SITE, needs_vendor

PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("book/**/*.html"))
CHAPTERS = [page for page in PAGES if page.count("/") == 1]
API = [page for page in PAGES if page.startswith("book/api")]
pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not PAGES, reason="there is no built book in _build/html: run make book"),
]
MOST = 1_000_000
"""Bytes that a page may load when it is opened, as they lie on the server."""
MOST_API = 200_000
"""Bytes of a page of the API."""
NETWORK = "network.bin"
"""The live network of the lab, which is loaded when somebody asks it."""


def text(page: str) -> str:
    return (SITE / page).read_text(encoding="utf-8")


def icons(page: str) -> set[str]:
    """The names of the theme's icons on a page."""
    found = re.findall(r'class="([^"]*\bfa[srb]?[ -][^"]*)"', text(page))
    names = {name for classes in found for name in classes.split() if name.startswith("fa-")}
    return names - {"fa-solid", "fa-regular", "fa-brands", "fa-lg"}


def test_every_icon_is_drawn() -> None:
    sheet = (SITE / "_static" / "icons.css").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^\.(fa-[\w-]+) \{\n  --icon", sheet, flags=re.MULTILINE))
    used = set().union(*(icons(page) for page in [*PAGES, "search.html", "genindex.html"]))
    assert {"fa-bars", "fa-magnifying-glass", "fa-sun"} <= used
    assert used <= drawn


def test_the_icons_font_and_script_are_gone() -> None:
    assert [page for page in [*PAGES, "search.html"] if "fontawesome" in text(page)] == []
    assert not (SITE / "_static" / "vendor" / "fontawesome").exists()


@pytest.mark.parametrize("page", API)
def test_a_page_of_the_api_is_small(page: str) -> None:
    assert len((SITE / page).read_bytes()) < MOST_API
    assert not re.search(r"(Range|Config)\(<[^>]*>\w+=", text(page)), "settings are printed with everything in them"


def test_links_to_functions_lead_to_the_page_of_their_module() -> None:
    found = re.findall(r'href="([^"]*)#minirtmdet\.head\.dynamic\.fold"', text("book/api/head/dynamic.html"))
    assert found
    module = re.findall(r'href="([^"]*)#module-minirtmdet\.head\.dynamic"', text("book/masks.html"))
    assert set(module) == {"api/head/dynamic.html"}


@needs_vendor
@pytest.mark.parametrize("page", CHAPTERS)
def test_opening_a_page_loads_less_than_a_megabyte(tab: Any, address: str, page: str) -> None:
    loaded: set[str] = set()
    tab.on("request", lambda request: loaded.add(unquote(urlsplit(request.url).path).lstrip("/")))
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(f"{address}/{page}", wait_until="load")
    sizes = {path: (SITE / path).stat().st_size for path in loaded if (SITE / path).is_file()}
    assert f"{page}" in sizes
    assert NETWORK not in " ".join(sizes)
    assert sum(sizes.values()) < MOST, sorted(sizes.items(), key=lambda item: -item[1])[:6]


@pytest.mark.parametrize("page", ["book/masks.html", "book/costs.html"])
def test_an_image_comes_when_it_is_scrolled_to_and_nothing_jumps(tab: Any, address: str, page: str) -> None:
    tab.goto(f"{address}/{page}", wait_until="load")
    last = tab.locator("article .cell_output img").last
    place = "image => image.getBoundingClientRect().top + window.scrollY"
    width, height = last.evaluate("image => [image.width, image.height]")
    before = last.evaluate(place)
    assert last.get_attribute("loading") == "lazy"
    assert width > 100
    assert height > 50
    last.scroll_into_view_if_needed()
    tab.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=last.element_handle())
    assert last.evaluate(place) == pytest.approx(before, abs=2)


@pytest.mark.parametrize("page", ["book/losses.html", "book/api/head/losses.html", "_tests/test_boxes.html"])
def test_code_is_large_enough_to_read(tab: Any, address: str, page: str) -> None:
    tab.goto(f"{address}/{page}", wait_until="load")
    sizes = "[...document.querySelectorAll('.highlight pre')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(tab.evaluate(sizes), default=14) >= 14


WIDER = """column => {
  const right = document.querySelector(column).getBoundingClientRect().right + 1;
  const scrolls = e => e && (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll(`${column} *`)]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > right && !scrolls(e.parentElement))
    .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`).slice(0, 5);
}"""


@pytest.mark.parametrize("page", [*CHAPTERS, "book/api/ground_floor/configs.html", "book/api/head/assignment.html"])
def test_nothing_is_wider_than_the_column(tab: Any, address: str, page: str) -> None:
    """What is too wide scrolls inside itself."""
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(f"{address}/{page}", wait_until="load")
        assert tab.evaluate(WIDER, "article.bd-article") == [], width
