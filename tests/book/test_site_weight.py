"""What the built pages weigh, and that nothing was lost to make them light: run with ``pytest -m site``."""

import re
from typing import Any

import pytest
from helpers.built_site import PAGES, SITE, of_the_site

BOOK = [page for page in PAGES if page.startswith("book/")]
API = [page for page in BOOK if page.startswith("book/api")]
pytestmark = of_the_site
MOST_API = 200_000
"""Bytes of a page of the API."""


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
    used = set().union(*(icons(page) for page in [*BOOK, "search.html", "genindex.html"]))
    assert {"fa-bars", "fa-magnifying-glass", "fa-sun"} <= used
    assert used <= drawn


def test_the_icons_font_and_script_are_gone() -> None:
    assert [page for page in [*BOOK, "search.html"] if "fontawesome" in text(page)] == []
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
