"""What a browser shows of the pages; each is opened once wide and once narrow, and several tests ask what was seen."""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from helpers.built_site import PAGES, SITE, VENDOR, needs_vendor, of_the_site

CHAPTERS = [page for page in PAGES if page.startswith("book/") and page.count("/") == 1]
LARGEST = 3
"""Of the pages that are made from code, so many of each folder are looked at with the browser: they are all alike."""
MOST = 1_000_000
"""Bytes that a page may load when it is opened, as they lie on the server."""
NETWORK = "network.bin"
"""The live network of the lab, which is loaded when somebody asks it."""
WIDTHS = (1280, 390)
pytestmark = of_the_site


def with_signatures() -> list[str]:
    """The pages whose column could be too narrow: the chapters, and two of the API with long signatures."""
    return [*CHAPTERS, "book/api/ground_floor/configs.html", "book/api/head/assignment.html"]


def to_look_at() -> list[str]:
    """Those, whatever else somebody wrote, and the largest of each kind that is made from code.

    Each list begins with the one before: pytest keeps tests of one place in their lists together, so that each page is
    opened for all of them at once.
    """
    folders = ("_modules", "_tests", "book/api")
    written = [page for page in PAGES if not page.startswith(tuple(f"{folder}/" for folder in folders))]
    made: list[str] = []
    for folder in folders:
        pages = [page for page in PAGES if page.startswith(f"{folder}/")]
        made += sorted(pages, key=lambda page: (SITE / page).stat().st_size)[-LARGEST:]
    return list(dict.fromkeys(with_signatures() + [page for page in written if page != "index.html"] + made))


class Visit(NamedTuple):
    """What was seen of a page.

    Attributes:
        page: its path.
        problems: in a window of 1280 pixels, and when that became wider, narrower, dark and light again.
        loaded: paths of what it had asked for when it was there.
        wider: per width of a new window, what reaches beyond the column and does not scroll inside itself.
    """

    page: str
    problems: list[str]
    loaded: set[str]
    wider: dict[int, list[str]]


WIDER = """column => {
  const right = document.querySelector(column).getBoundingClientRect().right + 1;
  const scrolls = e => e && (/auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  return [...document.querySelectorAll(`${column} *`)]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > right && !scrolls(e.parentElement))
    .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`).slice(0, 5);
}"""
ARTICLE = "article.bd-article"


@pytest.fixture(scope="module")
def visit(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A page in a new context, which has kept nothing of another."""
    context = browser.new_context(color_scheme="light", viewport={"width": WIDTHS[0], "height": 900})
    asked: list[str] = []
    problems: list[str] = []
    tab = context.new_page()
    tab.on("console", lambda message: message.type == "error" and problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    tab.goto(f"{address}/{request.param}", wait_until="load")
    loaded = {unquote(urlsplit(url).path).lstrip("/") for url in asked}
    wide = what_is_wider(tab)
    problems += try_it(tab) if VENDOR else []
    problems += [f"asks {url}" for url in asked if not url.startswith((address, "data:", "blob:"))]
    narrow = context.new_page()
    narrow.set_viewport_size({"width": WIDTHS[1], "height": 900})
    narrow.goto(f"{address}/{request.param}", wait_until="load")
    yield Visit(request.param, problems, loaded, dict(zip(WIDTHS, (wide, what_is_wider(narrow)), strict=True)))
    context.close()


def what_is_wider(tab: Any) -> list[str]:
    return tab.evaluate(WIDER, ARTICLE) if tab.locator(ARTICLE).count() else ["there is no column"]


def try_it(tab: Any) -> list[str]:
    """Wait for formulas, make the window wider and narrower, and let it be dark and light again."""
    problems = []
    if tab.locator(".math").count():
        tab.wait_for_function(
            "[...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))", timeout=20_000
        )
    for width in (1400, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        over = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if over > 0:
            problems.append(f"{over} px wider than a window of {width}")
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'", timeout=20_000)
    return problems


@needs_vendor
@pytest.mark.parametrize("visit", to_look_at(), indirect=True)
def test_page_is_quiet_and_fits(visit: Visit) -> None:
    """No console error, no failed or outside request, all formulas set, nothing beyond the window."""
    assert not visit.problems


@needs_vendor
@pytest.mark.parametrize("visit", CHAPTERS, indirect=True)
def test_opening_a_page_loads_less_than_a_megabyte(visit: Visit) -> None:
    sizes = {path: (SITE / path).stat().st_size for path in visit.loaded if (SITE / path).is_file()}
    assert visit.page in sizes
    assert NETWORK not in " ".join(sizes)
    assert sum(sizes.values()) < MOST, sorted(sizes.items(), key=lambda item: -item[1])[:6]


@pytest.mark.parametrize("visit", with_signatures(), indirect=True)
def test_nothing_is_wider_than_the_column(visit: Visit) -> None:
    """What is too wide scrolls inside itself."""
    assert visit.wider == {width: [] for width in WIDTHS}
