"""The built book in a browser."""

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.built_site import BROWSER, SITE
from helpers.javascript import FLAGS, QuietServer


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The built book's own server."""
    server = QuietServer(SITE)
    yield server.address
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium or Chrome."""
    from playwright.sync_api import sync_playwright

    if BROWSER is None:
        pytest.skip("no Chromium or Chrome found: install one, or set CHROMIUM")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """An empty page."""
    context = browser.new_context(color_scheme="light")
    yield context.new_page()
    context.close()
