"""The lab in a browser: each view by mouse, finger and keyboard, against the package; and where it cannot run."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from helpers.built_site import SITE

from minirtmdet.configs import AssignerConfig
from minirtmdet.data.example import PRIOR, STEP, STEPS, example, recorded_maps
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.reference import assignment
from minirtmdet.structures import GroundTruth

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = {"priors": "priors", "costs": "costs", "matching": "matching", "losses": "losses"}
CHAPTERS |= {"assigners": "four_assigners"}
FIRST_VIEW = 150_000
"""Bytes that a view loads before anything is pressed, its still and the scene included."""
BALL_DOWN = "122 66 142 86"


@pytest.fixture(scope="module")
def lab() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(BOOK / "_ext" / "lab.py")))


def package(step: int | None, boxes: torch.Tensor, **settings: Any) -> list[int]:
    """The owner of each prior, from the package's assigner."""
    loss = RTMDetLoss(num_classes=16, assigner=AssignerConfig(**settings))
    truth = GroundTruth.from_list([boxes], [example().labels])
    return loss.assign(*recorded_maps(step), truth).gt_inds[0].tolist()


def test_files_have_the_numbers_of_the_package(lab: SimpleNamespace, tmp_path: Path) -> None:
    lab.write(tmp_path, draw=None)
    for index, step in enumerate((*STEPS, None)):
        numbers = torch.frombuffer(bytearray((tmp_path / f"moment-{index}.bin").read_bytes()), dtype=torch.float32)
        logits, distances = numbers[: 525 * 16].view(525, 16), numbers[525 * 16 :].view(525, 4)
        cls_scores, bbox_preds = recorded_maps(step)
        assert torch.equal(logits, torch.cat([level[0].flatten(1).T for level in cls_scores]))
        assert torch.equal(distances, torch.cat([level[0].flatten(1).T for level in bbox_preds]))


def test_a_still_is_brought_to_its_page(lab: SimpleNamespace) -> None:
    added: list[str] = []
    app = SimpleNamespace(
        add_css_file=lambda name: added.append(name), add_js_file=lambda name, **options: added.append(name)
    )
    context = {"body": '<p>a</p><div class="lab" data-view="costs" data-start="moment=6">\n<p>b</p></div>'}
    lab.bring_to_page(app, "book/costs", "page.html", context, None)
    assert '<div class="lab-room"><img class="lab-still" src="../_static/lab/data/still-costs' in context["body"]
    assert added == ["lab/lab.css", "lab/lab.js"]
    lab.bring_to_page(app, "book/glance", "page.html", context := {"body": "<p>no lab</p>"}, None)
    assert len(added) == 2
    assert context["body"] == "<p>no lab</p>"


def test_the_code_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (BOOK / "playground.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "playground.md", "exec"), {})
    assert capsys.readouterr().out == "positives of the ball: 1\n"


# --- in a browser ----------------------------------------------------------------------------------------------------

site = pytest.mark.skipif(not (SITE / "_static" / "lab").exists(), reason="there is no built book: run make book")


class View:
    """One view of a page."""

    def __init__(self, page: Any, name: str) -> None:
        self.page, self.name = page, name
        self.root = page.locator(f".lab[data-view={name}]")
        page.wait_for_selector(f".lab[data-view={name}][data-shown]")
        self.root.scroll_into_view_if_needed()

    def settle(self) -> None:
        """Two frames: the first draws what has changed."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def boxes(self) -> torch.Tensor:
        self.settle()
        texts = self.root.locator(".lab-scene:not(.still) .lab-box").evaluate_all("all => all.map(b => b.dataset.box)")
        return torch.tensor([[float(side) for side in text.split()] for text in texts]).reshape(-1, 4)

    def box(self, number: int) -> Any:
        return self.root.locator(".lab-scene:not(.still) .lab-box").nth(number)

    def cells(self) -> list[list[str]]:
        self.settle()
        rows = self.root.locator(".lab-table tbody tr")
        return rows.evaluate_all("rows => rows.map(row => [...row.children].map(cell => cell.textContent))")

    def words(self) -> str:
        self.settle()
        return str(self.root.locator(".lab-words").first.inner_text())

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A place of the image on the screen."""
        svg = self.root.locator(".lab-scene svg").first
        svg.scroll_into_view_if_needed()
        spot = svg.bounding_box()
        return spot["x"] + x * spot["width"] / 160, spot["y"] + y * spot["height"] / 160

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        (x1, y1), (x2, y2) = self.place(*start), self.place(*end)
        mouse.move(x1, y1)
        mouse.down()
        mouse.move((x1 + x2) / 2, (y1 + y2) / 2)
        mouse.move(x2, y2)
        mouse.up()

    def slide(self, name: str, value: float) -> None:
        self.root.locator(f"input[name={name}]").fill(str(value))

    def counts(self) -> list[list[int]]:
        """Of the matching view: k and positives of each box."""
        return [[int(row[1]), int(row[3])] for row in self.cells()]


@pytest.fixture
def open_view(tab: Any, address: str) -> Any:
    def open_(name: str, words: str = "", page: str = "playground") -> View:
        tab.set_viewport_size({"width": 1200, "height": 1000})
        tab.goto(f"{address}/book/{page}.html{words}")
        return View(tab, name)

    return open_


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()

    def open_(name: str) -> View:
        page.goto(f"{address}/book/playground.html")
        return View(page, name)

    yield open_
    context.close()


def finger(view: View, start: tuple[float, float], end: tuple[float, float]) -> None:
    touch = view.page.context.new_cdp_session(view.page)
    (x1, y1), (x2, y2) = view.place(*start), view.place(*end)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x1, "y": y1}]})
    for step in range(1, 9):
        place = {"x": x1 + (x2 - x1) * step / 8, "y": y1 + (y2 - y1) * step / 8}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def sums(owners: list[int], boxes: int = 3) -> list[int]:
    return [owners.count(box + 1) for box in range(boxes)]


@pytest.mark.site
@site
class TestViews:
    @pytest.mark.parametrize("name", CHAPTERS)
    def test_a_chapter_has_its_view(self, tab: Any, address: str, name: str) -> None:
        """Within its bytes, without a fault, and without a jump of what stands below it."""
        loaded: dict[str, int] = {}
        faults: list[str] = []

        def note(answer: Any) -> None:
            if "/_static/lab/" in answer.url:
                loaded[answer.url] = len(answer.body())

        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("response", note)
        tab.goto(f"{address}/book/{CHAPTERS[name]}.html", wait_until="networkidle")
        View(tab, name)
        assert faults == []
        assert 40_000 < sum(loaded.values()) < FIRST_VIEW

    @pytest.mark.parametrize(("width", "touch"), [(1200, False), (390, True)])
    @pytest.mark.parametrize("name", CHAPTERS)
    def test_nothing_jumps_when_it_appears(
        self, browser: Any, address: str, name: str, width: int, touch: bool
    ) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, has_touch=touch, is_mobile=touch)
        page = context.new_page()
        page.route("**/_static/lab/lab.js", lambda route: (page.wait_for_timeout(1000), route.continue_()))
        page.goto(f"{address}/book/{CHAPTERS[name]}.html", wait_until="commit")
        page.wait_for_selector(f".lab[data-view={name}]")
        page.wait_for_timeout(500)  # styles and the still image come before the lab, on a busy machine a little later
        before = page.evaluate("document.querySelector('.lab').getBoundingClientRect().height")
        page.wait_for_selector(f".lab[data-view={name}][data-shown]")
        after = page.evaluate("document.querySelector('.lab').getBoundingClientRect().height")
        context.close()
        assert abs(after - before) <= 24

    @pytest.mark.parametrize("name", CHAPTERS)
    def test_targets_are_large_enough_for_a_finger(self, phone: Any, name: str) -> None:
        view = phone(name)
        small = view.root.evaluate(
            """root => [...root.querySelectorAll('button, select, input, label')].flatMap(one => {
                const {width, height} = one.getBoundingClientRect();
                return width && (width < 24 || height < 24) ? [`${one.outerHTML.slice(0, 80)} ${width} ${height}`] : [];
            })"""
        )
        assert small == []
        assert view.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0

    @pytest.mark.parametrize("name", CHAPTERS)
    def test_without_script_the_figure_stays(self, browser: Any, address: str, name: str) -> None:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"{address}/book/{CHAPTERS[name]}.html")
        still = page.locator(f".lab[data-view={name}] img.lab-still")
        still.scroll_into_view_if_needed()
        assert still.bounding_box()["height"] > 100
        assert page.locator(f".lab[data-view={name}] a").count() == 1
        context.close()

    @pytest.mark.parametrize("missing", ["lab/assignment.js", "lab/data/scene.json"])
    def test_where_a_file_fails_the_figure_stays(self, tab: Any, address: str, missing: str) -> None:
        tab.route(f"**/_static/{missing}", lambda route: route.abort())
        tab.goto(f"{address}/book/costs.html", wait_until="networkidle")
        still = tab.locator(".lab[data-view=costs] img.lab-still")
        assert still.evaluate("image => image.complete && image.naturalWidth") > 300
        assert tab.locator(".lab[data-shown]").count() == 0

    def test_priors(self, open_view: Any) -> None:
        view = open_view("priors", page="priors")
        assert view.cells() == [
            ["panda", "132", "30", "6", "168"],
            ["car", "36", "8", "2", "46"],
            ["tennis ball", "4", "1", "1", "6"],
        ]
        view.drag((132, 36), (134, 38))
        chosen = assignment.candidates(RTMDetLoss(16).flatten(*recorded_maps())[2], view.boxes()[2:])
        assert view.cells()[2][-1] == str(int(chosen.sum()))
        view.root.get_by_text("in the middle").click()
        assert view.cells()[0][1:] != ["132", "30", "6", "168"]
        assert view.root.locator("tbody").inner_text() != ""

    def test_costs_say_which_moved(self, open_view: Any) -> None:
        """A reader drags the car at the top of the chapter and is told which of the three costs changed most."""
        view = open_view("costs", page="costs")
        start = {row[0]: row[2] for row in view.cells()}
        outputs = RTMDetLoss(16).flatten(*recorded_maps(STEP))
        logits, predicted, priors = outputs[0][0, PRIOR : PRIOR + 1], outputs[1][0, PRIOR : PRIOR + 1], outputs[2]

        def expected(car: torch.Tensor) -> list[float]:
            ious = assignment.bbox_overlaps(predicted, car)
            label = example().labels[1:2]
            center = (car[:, :2] + car[:, 2:]) / 2
            parts = [
                assignment.class_cost(logits, label, ious),
                3 * assignment.iou_cost(ious),
                assignment.center_cost(priors[PRIOR : PRIOR + 1], center),
            ]
            return [float(part) for part in parts]

        def told(column: int) -> list[float]:
            return [float(row[column]) for row in view.cells()[:3]]

        assert told(2) == pytest.approx(expected(example().boxes[1:2]), abs=0.006)
        assert "has changed most" not in view.words()
        view.drag((130, 112), (106, 112))
        car = view.boxes()[1:2]
        assert car[0].tolist() != example().boxes[1].tolist()
        assert told(1) == pytest.approx(expected(car), rel=0.01, abs=0.006)
        assert {row[0]: row[2] for row in view.cells()} == start
        changes = [abs(new - old) for new, old in zip(told(1), told(2), strict=True)]
        names = ("class", "IoU", "centre")
        assert f"the {names[changes.index(max(changes))]} cost has changed most" in view.words()
        view.root.get_by_role("button", name="Undo").click()
        assert view.boxes()[1].tolist() == example().boxes[1].tolist()

    def test_costs_of_a_prior_under_the_pointer(self, open_view: Any) -> None:
        view = open_view("costs")
        figure = view.root.locator('.lab-map[data-cost="total"][data-stride="8"] > div')
        figure.scroll_into_view_if_needed()
        spot = figure.bounding_box()
        view.page.mouse.move(spot["x"] + spot["width"] * 12.5 / 20, spot["y"] + spot["height"] * 13.5 / 20)
        assert view.words().startswith("Prior 272, level 0, at 96, 104, for the car: rank ")
        ring = view.root.locator(".lab-ring")
        ring.focus()
        view.page.keyboard.press("ArrowDown")
        assert view.words().startswith(f"Prior {PRIOR}, ")
        view.page.keyboard.press("PageDown")
        assert view.words().startswith("Prior 476, level 1, at 96, 112, ")

    def test_matching_by_keyboard(self, open_view: Any) -> None:
        view = open_view("matching")
        assert view.counts() == [[9, 9], [10, 10], [3, 3]]
        view.box(2).focus()
        for _ in range(40):
            view.page.keyboard.press("ArrowDown")
        view.settle()
        assert view.box(2).get_attribute("data-box") == BALL_DOWN
        assert view.counts() == [[9, 9], [10, 10], [1, 1]]
        for _ in range(40):
            view.page.keyboard.press("Shift+ArrowLeft")
        view.settle()
        assert view.box(2).get_attribute("data-box") == "122 66 126 86"  # no box becomes thinner than four pixels
        view.page.keyboard.press("Control+z")
        view.settle()
        assert view.box(2).get_attribute("data-box") == "122 26 142 46"  # keys in a row are one step
        view.box(2).focus()
        view.page.keyboard.press("Delete")
        assert len(view.counts()) == 2
        view.root.get_by_role("button", name="Back to the start").click()
        assert view.counts() == [[9, 9], [10, 10], [3, 3]]

    def test_matching_by_mouse(self, open_view: Any) -> None:
        view = open_view("matching")
        view.drag((132, 36), (-80, 46))
        assert view.boxes()[2].tolist() == [0, 36, 20, 56]  # it stops at the border
        view.drag((66, 92), (36, 92))  # the car's left upper corner
        car = view.boxes()[1].tolist()
        assert abs(car[0] - (example().boxes[1, 0].item() - 30)) <= 1
        owners = package(None, view.boxes())
        assert [row[1] for row in view.counts()] == sums(owners)

    def test_matching_by_finger(self, phone: Any) -> None:
        """On a phone a finger on a box moves the box, not the page."""
        view = phone("matching")
        view.place(0, 0)
        top = view.page.evaluate("scrollY")
        finger(view, (132, 36), (132, 76))
        view.page.wait_for_function(f"document.querySelector('.lab[data-view=matching] [data-box=\"{BALL_DOWN}\"]')")
        assert view.page.evaluate("scrollY") == top
        assert view.counts() == [[9, 9], [10, 10], [1, 1]]

    def test_settings(self, open_view: Any) -> None:
        view = open_view("matching")
        settings: dict[str, Any] = {}
        for name, setting, value in (
            ("topk", "topk", 1),
            ("iouWeight", "iou_weight", 0.5),
            ("radius", "soft_center_radius", 1.5),
            ("topk", "topk", 30),
        ):
            view.slide(name, value)
            settings |= {setting: value}
            assert [row[1] for row in view.counts()] == sums(package(None, example().boxes, **settings))
        view.slide("moment", 0)
        view.page.wait_for_load_state("networkidle")
        assert [row[1] for row in view.counts()] == sums(package(0, example().boxes, **settings))
        assert view.root.locator("label:has(input[name=moment]) .value").inner_text() == "step 0"

    def test_steps(self, open_view: Any) -> None:
        """The car laid over the panda: each step says what it does, and the car loses three of nine."""
        panda = [int(side) for side in example().boxes[0].tolist()]
        rows = "_".join(".".join(map(str, row)) for row in ([5, *panda], [10, *panda], [13, 122, 26, 142, 46]))
        view = open_view("matching", f"#lab&boxes={rows}&step=0")
        assert view.counts() == [[9, 9], [9, 6], [3, 3]]
        told = []
        for step in ("candidates", "costs", "k", "requests", "conflicts", "positives"):
            view.root.locator(".lab-choice").get_by_text(step, exact=True).click()
            told.append(view.words())
        assert told[0].startswith("174 of 525 priors lie inside a box")
        assert "k is 9" in told[2]
        assert "are taken more than once" in told[3]
        assert "contested: each goes to the box that it costs least" in told[4]
        assert told[5] == "Positives: panda 9, car 6, tennis ball 3."

    def test_film(self, open_view: Any) -> None:
        view = open_view("matching")
        view.root.get_by_role("button", name="Play the training").click()
        view.page.wait_for_function(
            "document.querySelector('.lab[data-view=matching] input[name=moment]').value === '2'", timeout=20_000
        )
        view.root.get_by_role("button", name="Stop the film").click()
        view.settle()
        assert [row[1] for row in view.counts()] == sums(package(STEPS[2], example().boxes))

    def test_boxes_by_name(self, open_view: Any) -> None:
        from playwright.sync_api import expect  # waits for the frame that shows it

        view = open_view("matching")
        view.root.get_by_role("button", name="Add a box").click()
        assert len(view.counts()) == 4
        view.root.get_by_label("Class of box 3").select_option("taxi")
        assert view.cells()[3][0] == "taxi"
        for _ in range(4):
            view.root.get_by_role("button", name="Add a box").click()
        expect(view.root.get_by_role("button", name="Add a box")).to_be_disabled()
        for _ in range(8):
            view.root.get_by_role("button", name="Remove box 0").click()
        assert view.counts() == []
        assert view.words() == "There is no box: every prior is background."
        view.root.get_by_role("button", name="Undo").click()
        assert len(view.counts()) == 1

    def test_a_link_brings_everything_back(self, open_view: Any) -> None:
        view = open_view("matching")
        view.drag((132, 36), (132, 76))
        view.slide("topk", 5)
        counts, boxes = view.counts(), view.boxes()
        view.root.get_by_role("button", name="Copy a link").click()
        words = "#" + view.page.evaluate("location.hash.slice(1)")
        view.page.goto("about:blank")
        faults: list[str] = []
        view.page.on("pageerror", lambda error: faults.append(str(error)))
        again = open_view("matching", words)
        assert torch.equal(again.boxes(), boxes)
        assert again.counts() == counts
        assert faults == []

    def test_views_share_one_scene(self, open_view: Any) -> None:
        view = open_view("matching")
        view.drag((132, 36), (132, 76))
        assert torch.equal(View(view.page, "priors").boxes(), view.boxes())

    def test_losses(self, open_view: Any) -> None:
        view = open_view("losses", page="losses")
        view.slide("logit", 0)
        view.slide("target", 0)
        assert view.cells() == [["0.50", "0.00", "0.173", "+0.298"]]  # ln 2 / 4; (1/4 + ln 2 / 2) / 2
        view.slide("target", 0.5)
        assert "nothing pulls" in view.words()
        frame = view.root.locator(".lab-landscape")
        frame.scroll_into_view_if_needed()
        spot = frame.bounding_box()
        view.page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] - 1)
        assert view.cells()[0][1] == "0.00"
        view.root.get_by_text("8 × the number").click()
        view.slide("raw", 5)
        view.settle()
        assert "40.0 pixels to the right" in view.root.locator(".lab-words").nth(1).inner_text()

    def test_four_assigners(self, open_view: Any) -> None:
        """The numbers of the chapter's first paragraph: 31, 12, 6 and 8 for the panda, at step 400."""
        view = open_view("assigners", page="four_assigners")
        assert view.cells()[0] == ["panda", "31", "12", "6", "8"]
        view.drag((132, 36), (132, 76))
        assert view.boxes()[2].tolist() == [122, 66, 142, 86]
        assert int(view.cells()[2][4]) == sums(package(STEP, view.boxes()))[2]

    def test_network(self, open_view: Any, tmp_path: Path) -> None:
        """It finds the scene's things; takes another scene and a reader's image, and says where one is none."""
        view = open_view("network")
        view.root.get_by_role("button", name="Start:").click()
        view.page.wait_for_selector(".lab [data-ready]", timeout=120_000)
        assert "car 0." in view.words()
        assert "panda 0." in view.words()
        assert view.root.locator(".lab-map").count() == 11
        second = view.root.locator(".lab-found button").nth(1)
        second.click()
        assert second.get_attribute("aria-pressed") == "true"
        words = view.words()
        view.root.get_by_role("button", name="Another scene").click()
        self.other_words(view, words)
        image = tmp_path / "wide.png"
        cv2.imwrite(str(image), cv2.resize(example().image, (640, 320)))
        words = view.words()
        view.root.locator("input[type=file]").set_input_files(image)
        self.other_words(view, words)
        text = tmp_path / "no.png"
        text.write_text("no image")
        words = view.words()
        view.root.locator("input[type=file]").set_input_files(text)
        self.other_words(view, words)
        assert view.words() == "no.png cannot be read as an image."

    def test_network_that_cannot_be_loaded(self, open_view: Any) -> None:
        view = open_view("network")
        view.page.context.route("**/network.bin", lambda route: route.fulfill(status=404))
        view.root.get_by_role("button", name="Start:").click()
        view.root.get_by_role("button", name="Try again").wait_for(timeout=30_000)
        assert "could not be loaded" in view.words()
        view.page.context.unroute("**/network.bin")
        view.root.get_by_role("button", name="Try again").click()
        view.page.wait_for_selector(".lab [data-ready]", timeout=120_000)

    @staticmethod
    def other_words(view: View, before: str) -> None:
        view.page.wait_for_function(
            "before => document.querySelector('.lab[data-view=network] .lab-words').innerText !== before",
            arg=before,
            timeout=60_000,
        )

    @pytest.mark.parametrize("name", CHAPTERS)
    def test_everything_can_be_reached_by_the_tabulator(self, open_view: Any, name: str) -> None:
        view = open_view(name, page=CHAPTERS[name])
        wanted = view.root.evaluate("root => root.querySelectorAll('button:not(:disabled), select, input').length")
        named = view.root.evaluate(
            """root => [...root.querySelectorAll('button, select, input, [tabindex]')]
                .every(one => one.getAttribute('aria-label') || one.textContent || one.closest('label'))"""
        )
        assert named
        assert wanted > 3
