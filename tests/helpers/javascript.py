"""Modules of the lab asked from Python, by node where it is installed, else by a browser."""

import functools
import json
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.built_site import BROWSER

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--no-sandbox")


class QuietServer(ThreadingHTTPServer):
    """A folder on 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args: Any) -> None:
        """Say nothing: a closing page hangs up in the middle of an answer."""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def ask(module: str, given: Any) -> Any:
    """What the function ``answers`` of a module says; JSON both ways.

    Args:
        module: path from the repository's root.
        given: its one argument.
    """
    node = shutil.which("node")
    if node is not None:
        return _ask_node(node, module, given)
    if BROWSER is not None:
        return _ask_browser(module, given)
    pytest.skip("neither node nor Chromium or Chrome is installed to run JavaScript")


def _ask_node(node: str, module: str, given: Any) -> Any:
    program = (
        f"import {{ answers }} from {json.dumps((ROOT / module).as_uri())};"
        "let text = '';"
        "for await (const part of process.stdin.setEncoding('utf8')) text += part;"
        "process.stdout.write(JSON.stringify(await answers(JSON.parse(text))));"
    )
    done = subprocess.run(
        [node, "--input-type=module", "--eval", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _ask_browser(module: str, given: Any) -> Any:
    from playwright.sync_api import sync_playwright

    server = QuietServer(ROOT)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
            page = browser.new_page()
            page.goto(f"{server.address}/tests/book/lab/")  # the page that lists the folder
            return page.evaluate(f"async (given) => (await import('/{module}')).answers(given)", given)
    finally:
        server.shutdown()
