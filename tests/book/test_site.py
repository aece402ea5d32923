"""The built book, page by page, as a reader meets it: run with ``pytest -m site`` after ``make book``.

Most of it reads the files and needs nothing; the rest looks with a browser that is already installed (Chromium or
Chrome on the path, or named by the environment variable ``CHROMIUM``) and is skipped where there is none.
"""

import functools
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, SoupStrainer
from helpers.built_site import PAGES, SITE, needs_vendor, of_the_site

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))

from you_are_here import CHAPTERS

pytestmark = of_the_site


LOOKED_AT = SoupStrainer(["head", "link", "script", "img", "iframe", "a"])
"""What a page loads and where it leads; to take all the rest of it apart takes longer than these tests."""


@functools.cache
def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(text(path), "html.parser", parse_only=LOOKED_AT)


@functools.cache
def anchors(path: Path) -> set[str]:
    tags = re.sub(r"<script.*?</script>", "", text(path), flags=re.DOTALL)
    return {unescape(name) for name in re.findall(r'<\w[^<>]*\sid="([^"]*)"', tags)}


@pytest.mark.parametrize("page", PAGES)
def test_local_links_lead_somewhere(page: str) -> None:
    broken = []
    for tag in parse(SITE / page).find_all(["a", "link", "script", "img"]):
        address = str(tag.get("href") or tag.get("src") or "")
        parts = urlsplit(address)
        # "#" alone is the theme's mark for "this page" in menus
        if parts.scheme or parts.netloc or address in ("", "#"):
            continue
        target = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
        target = (target / "index.html" if target.is_dir() else target).resolve()
        fragment = unquote(parts.fragment)
        if not target.is_file() or (target.suffix == ".html" and fragment and fragment not in anchors(target)):
            broken.append(address)
    assert not broken


@needs_vendor
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_another_site(page: str) -> None:
    addresses = [
        str(tag.get("src") or tag.get("href")) for tag in parse(SITE / page).find_all(["script", "img", "iframe"])
    ]
    addresses += [str(tag["href"]) for tag in parse(SITE / page).find_all("link", rel="stylesheet")]
    assert [address for address in addresses if urlsplit(address).netloc] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_has_title_and_icon(page: str) -> None:
    """A page without an icon makes the browser ask for one that is not there."""
    titles, icons = parse(SITE / page).select("head > title"), parse(SITE / page).select("head > link[rel=icon]")
    assert all(title.get_text(strip=True) for title in titles)
    assert (len(titles), len(icons)) == (1, 1)
    assert ((SITE / page).parent / str(icons[0]["href"])).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_images_have_words(page: str) -> None:
    assert [str(img.get("src"))[:80] for img in parse(SITE / page).find_all("img") if not img.get("alt")] == []


def test_front_page_leads_into_the_book(tab: Any, address: str) -> None:
    """What the front page asks for is there; that the browser drops its requests as it moves on is no fault."""
    missing: list[str] = []
    tab.on("response", lambda response: response.ok or missing.append(f"{response.status} {response.url}"))
    tab.goto(f"{address}/")
    tab.wait_for_url(f"{address}/book/intro.html", wait_until="networkidle")
    assert missing == []


def test_a_click_shows_an_image_alone(tab: Any, address: str) -> None:
    """On a phone an image is half as wide as it was drawn: alone, it can be seen as it is."""
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(f"{address}/book/costs.html")
    image = tab.locator("article .cell_output img").first
    shown, source = image.bounding_box()["width"], image.get_attribute("src")
    image.click()
    tab.wait_for_url(f"**/{source.rsplit('/', 1)[-1]}")
    assert tab.evaluate("document.images[0].naturalWidth") > 2 * shown


def test_a_closed_solution_is_as_high_as_its_title(tab: Any, address: str) -> None:
    """What it hides may begin with a margin."""
    tab.goto(f"{address}/book/losses.html")
    tab.wait_for_selector(".toggle-hidden .toggle-button")
    gaps = tab.evaluate(
        "[...document.querySelectorAll('.admonition.toggle-hidden')].map("
        "e => e.getBoundingClientRect().height - e.querySelector('.admonition-title').getBoundingClientRect().height)"
    )
    assert gaps
    assert max(gaps) < 1
    tab.locator(".toggle-hidden .toggle-button").first.click()
    assert tab.locator("article .solution").first.bounding_box()["height"] > 100


@pytest.mark.parametrize("page", ["constants", "backbone_neck", "targets"])
def test_titles_of_neighbours_break_between_words_on_a_phone(tab: Any, address: str, page: str) -> None:
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(f"{address}/book/{page}.html")
    broken = tab.evaluate("""
        [...document.querySelectorAll(".prev-next-title, .prev-next-title *")]
          .flatMap((element) => [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE))
          .flatMap((text) => [...text.data.matchAll(/\\S+/g)].filter((word) => {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            return range.getClientRects().length > 1;
          }).map((word) => word[0]))
    """)
    assert broken == []


def test_a_chapter_begins_with_something_to_see(tab: Any, address: str) -> None:
    """A figure, a view of the lab or what an experiment printed, on the first screen; or the commands of a project."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    below = {}
    for chapter in CHAPTERS:
        tab.goto(f"{address}/book/{chapter}.html", wait_until="domcontentloaded")
        seen = tab.locator("article").locator("figure, .lab, .cell_output, .highlight-bash").first
        if (top := seen.bounding_box()["y"]) > 850:
            below[chapter] = top
    assert below == {}


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("book/")])
def test_page_says_what_it_is(page: str) -> None:
    """What search engines and previews of links show: sentences, and the name of the book."""
    head = parse(SITE / page).head
    assert head is not None
    said = {
        str(tag.get("property") or tag.get("name")): str(tag["content"]) for tag in head.find_all("meta", content=True)
    }
    assert said["og:site_name"] == "RTMDet from the head down"
    assert said["og:description"] == said["description"]
    assert "Module:" not in said["description"]
    assert "og:url" not in said or urlsplit(said["og:url"]).netloc
