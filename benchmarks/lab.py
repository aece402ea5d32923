"""What the live lab weighs and how fast it answers, in the built book and an installed Chromium or Chrome.

    make book
    python benchmarks/lab.py

For each page with a lab: the bytes that its views load before anything is pressed, the time from their first file to
the first answer, and what a frame costs while a box is dragged: the assignment and all drawing.  For the live network:
its bytes, and the time of an image.  Writes ``benchmarks/results/lab.json``.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from helpers.built_site import BROWSER, SITE  # noqa: E402
from helpers.javascript import FLAGS, QuietServer  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "lab.json"
PAGES = {
    "priors": "priors",
    "costs": "costs",
    "matching": "matching",
    "losses": "losses",
    "four_assigners": "assigners",
}
SHOWN = "[...document.querySelectorAll('.lab')].every(place => 'shown' in place.dataset)"
FIRST_ANSWER = """() => {
    const first = performance.getEntriesByType('resource').find(entry => entry.name.includes('/lab/lab.js'));
    const [mark] = performance.getEntriesByName('lab-shown');
    return [mark.startTime - first.startTime, mark.startTime];
}"""
# the pointer is down on a box: move it and see how much of each frame is used when all is drawn
FRAMES = """async ([selector, count]) => {
    const svg = document.querySelector(selector);
    const {left, top, width} = svg.getBoundingClientRect();
    const times = [];
    for (let step = 0; step < count; step++) {
        const [clientX, clientY] = [left + width * (0.7 + 0.1 * Math.sin(step / 5)), top + width * 0.75];
        const frame = new Promise(done => {
            svg.dispatchEvent(new PointerEvent('pointermove', {pointerId: 1, clientX, clientY, bubbles: true}));
            requestAnimationFrame(start => done(performance.now() - start));
        });
        times.push(await frame);
    }
    return times;
}"""


def open_page(browser: Browser, address: str, name: str) -> tuple[Page, dict[str, int]]:
    """The page with all of its views shown, and the bytes of each of their files."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    loaded: dict[str, int] = {}

    def note(response: Any) -> None:
        if "/_static/lab/" in response.url and response.ok:
            loaded[response.url.partition("/_static/lab/")[2].partition("?")[0]] = len(response.body())

    page.on("response", note)
    page.goto(f"{address}/book/{name}.html", wait_until="networkidle")
    page.wait_for_function(f"document.querySelector('.lab') && {SHOWN}")
    return page, loaded


def measure(browser: Browser, address: str, name: str, frames: int) -> dict[str, Any]:
    """Bytes, first answer and frames of one page."""
    page, loaded = open_page(browser, address, name)
    answer, since_start = page.evaluate(FIRST_ANSWER)
    row = {
        "page": name,
        "bytes": sum(loaded.values()),
        "files": len(loaded),
        "first_answer_ms": round(answer),
        "first_answer_since_navigation_ms": round(since_start),
    }
    selector = f".lab[data-view={PAGES[name]}] .lab-scene:not(.still) svg"
    if page.locator(selector).count():  # the losses have no box to drag
        svg = page.locator(selector)
        svg.scroll_into_view_if_needed()
        spot = svg.bounding_box()
        assert spot is not None
        page.mouse.move(spot["x"] + 0.7 * spot["width"], spot["y"] + 0.75 * spot["height"])
        page.mouse.down()
        times = page.evaluate(FRAMES, [selector, frames])
        row |= {"frame_ms": round(median(times), 1), "frame_ms_worst": round(max(times), 1)}
    page.close()
    return row


def measure_network(browser: Browser, address: str) -> dict[str, Any]:
    """Bytes and time of the live network."""
    page, before = open_page(browser, address, "playground")
    names = set(before)
    size = (SITE / "_static" / "lab" / "network.bin").stat().st_size
    page.get_by_role("button", name="Start:").click()
    page.wait_for_selector("[data-ready]", timeout=120_000)
    told = page.locator(".lab[data-view=network] .lab-words").inner_text()
    page.close()
    assert "network.bin" not in names
    return {"bytes": size, "image_ms": int(told.split(" ms")[0].rpartition(" ")[2])}


def main() -> None:
    """Open every page, print, record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if BROWSER is None or not (SITE / "_static" / "lab").exists():
        sys.exit("This needs the built book (make book) and an installed Chromium or Chrome.")

    server = QuietServer(SITE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        rows = [measure(browser, server.address, name, args.frames) for name in PAGES]
        record = {
            "command": shlex.join(["python", "benchmarks/lab.py", *sys.argv[1:]]),
            "note": args.note,
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "browser": f"Chromium {browser.version}",
            "pages": rows,
            "network": measure_network(browser, server.address),
        }
        browser.close()
    server.shutdown()
    for row in rows:
        print(row)
    print("network", record["network"])
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
