"""The playground: its file answers as the package's assigner does, and so does the page, whatever is moved."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from helpers.built_site import SITE

from minirtmdet.configs import AssignerConfig
from minirtmdet.data.example import PRIOR, example

EXTENSIONS = Path(__file__).parents[2] / "book" / "_ext"


@pytest.fixture(scope="module")
def playground() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXTENSIONS / "playground.py")))


@pytest.mark.compile  # an export, like a compilation, stumbles over the import hook
def test_the_file_answers_as_the_assigner(playground: SimpleNamespace, tmp_path: Path) -> None:
    playground.write(tmp_path, runtime="")
    session = onnxruntime.InferenceSession(tmp_path / "assigner.onnx")
    generator = torch.Generator().manual_seed(0)

    def draw(least: int, most: int, count: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.randint(least, most + 1, count, generator=generator)

    positives = 0
    for case in range(60):
        corner = draw(0, 120, (3, 2)).float()
        boxes = torch.cat([corner, corner + draw(4, 40, (3, 2))], 1)
        config = AssignerConfig(
            topk=int(draw(1, 13)), iou_weight=float(draw(0, 12)) / 2, soft_center_radius=float(draw(1, 12)) / 2
        )
        stage = case % len(playground.STAGES)
        given = {name: value.numpy() for name, value in playground.inputs(boxes, stage, config).items()}
        owners, _, _ = session.run(None, given)
        assert owners.tolist() == playground.ask(boxes, stage, config)
        positives += int((owners > 0).sum())
    assert positives > 200


def test_the_code_on_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXTENSIONS.parent / "playground.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(code, "playground.md", "exec"), {})
    assert capsys.readouterr().out == "positives of the ball: 1\n"


@pytest.mark.site
@pytest.mark.skipif(not (SITE / "_static" / "playground").exists(), reason="there is no built book: run make book")
@pytest.mark.skipif(
    not (SITE / "_static" / "vendor" / "onnxruntime-web").exists(),
    reason="built without npm: the page loads onnxruntime-web from a CDN",
)
class TestPage:
    """The page in a browser, against the package."""

    @pytest.fixture
    def page(self, tab: Any, address: str) -> Any:
        tab.set_viewport_size({"width": 1000, "height": 1400})
        tab.goto(f"{address}/book/playground.html")
        tab.get_by_role("button", name="Start:").click()
        tab.wait_for_selector("#playground-widget[data-ready]:not([data-busy])", timeout=60_000)
        return tab

    @staticmethod
    def check(page: Any, playground: SimpleNamespace, stage: int = 9, **settings: Any) -> list[int]:
        """That owners, counts and words on the page are those of its boxes; the number of positives of each box."""
        page.wait_for_selector("#playground-widget[data-ready]:not([data-busy])")
        boxes = torch.tensor(
            [
                [float(side) for side in text.split()]
                for text in page.evaluate(
                    """['panda', 'car', 'tennis ball'].map(name =>
                    document.querySelector(`.box[aria-label^="${name}"]`).dataset.box)"""
                )
            ]
        )
        owners = page.evaluate("[...document.querySelectorAll('.prior')].map(mark => Number(mark.dataset.owner))")
        assert owners == playground.ask(boxes, stage, AssignerConfig(**settings))
        counts = [owners.count(box + 1) for box in range(3)]
        assert [int(text) for text in page.locator("tbody td:nth-child(3)").all_inner_texts()] == counts
        words = ", ".join(
            f"{name} {count}" for name, count in zip(("panda", "car", "tennis ball"), counts, strict=True)
        )
        assert page.locator(".playground-status").inner_text() == f"Positives: {words}."
        return counts

    def test_start(self, tab: Any, address: str, playground: SimpleNamespace) -> None:
        """What is shown before anything is loaded is the finished detector's answer."""
        tab.goto(f"{address}/book/playground.html")
        tab.wait_for_selector("#playground-widget[data-shown]")
        owners = tab.evaluate("[...document.querySelectorAll('.prior')].map(mark => Number(mark.dataset.owner))")
        assert owners == playground.ask(example().boxes, 9, AssignerConfig())
        assert owners[PRIOR] == 2

    def test_keyboard(self, page: Any, playground: SimpleNamespace) -> None:
        assert self.check(page, playground) == [9, 10, 3]
        ball = page.locator(".box[aria-label^='tennis ball']")
        ball.focus()
        for _ in range(40):
            page.keyboard.press("ArrowDown")
        assert ball.get_attribute("data-box") == "122 66 142 86"
        assert self.check(page, playground) == [9, 10, 1]
        for _ in range(200):
            page.keyboard.press("Shift+ArrowLeft")
        assert ball.get_attribute("data-box") == "122 66 126 86"  # no box becomes thinner than four pixels
        self.check(page, playground)
        page.get_by_role("button", name="Back to the start").click()
        assert self.check(page, playground) == [9, 10, 3]

    def test_mouse(self, page: Any, playground: SimpleNamespace) -> None:
        ball = page.locator(".box[aria-label^='tennis ball']")
        spot = ball.locator(".side").bounding_box()
        middle = spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2
        pixel = page.locator("#playground-widget svg").bounding_box()["width"] / 160
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] - 200 * pixel, middle[1] + 10 * pixel, steps=5)
        page.mouse.up()
        assert ball.get_attribute("data-box") == "0 36 20 56"  # it stops at the border
        self.check(page, playground)
        corner = page.locator(".box[aria-label^='car'] .corner[data-corner='0 1']")
        spot = corner.bounding_box()
        page.mouse.move(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
        page.mouse.down()
        page.mouse.move(spot["x"] + spot["width"] / 2 - 30 * pixel, spot["y"] + spot["height"] / 2, steps=3)
        page.mouse.up()
        x1 = int(page.locator(".box[aria-label^='car']").get_attribute("data-box").split()[0])
        assert abs(x1 - (int(example().boxes[1, 0]) - 30)) <= 1
        self.check(page, playground)

    def test_finger(self, browser: Any, address: str, playground: SimpleNamespace) -> None:
        """On a phone a finger on a box moves the box, not the page."""
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        page = context.new_page()
        page.goto(f"{address}/book/playground.html")
        page.get_by_role("button", name="Start:").tap()
        page.wait_for_selector("#playground-widget[data-ready]:not([data-busy])", timeout=60_000)
        ball = page.locator(".box[aria-label^='tennis ball']")
        spot = ball.locator(".side").bounding_box()
        x, y = spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2
        pixel = page.locator("#playground-widget svg").bounding_box()["width"] / 160
        touch = context.new_cdp_session(page)
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for step in range(1, 9):
            place = {"x": x, "y": y + 5 * step * pixel}
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [place]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_function("document.querySelector('.box[aria-label^=\"tennis\"]').dataset.box === '122 66 142 86'")
        assert self.check(page, playground) == [9, 10, 1]
        context.close()

    def test_sliders(self, page: Any, playground: SimpleNamespace) -> None:
        settings: dict[str, Any] = {}
        for name, setting, value in (
            ("topk", "topk", 1),
            ("iou_weight", "iou_weight", 0.5),
            ("radius", "soft_center_radius", 1.5),
        ):
            page.locator(f"input[name={name}]").fill(str(value))
            self.check(page, playground, **(settings := settings | {setting: value}))
        page.locator("input[name=stage]").fill("0")
        assert page.locator("label:has(input[name=stage]) .value").inner_text() == "step 0"
        assert self.check(page, playground, stage=0, **settings) == [1, 1, 1]

    def test_what_the_page_says(self, page: Any, playground: SimpleNamespace) -> None:
        """The numbers in "Things to try": the car's box laid over the panda's loses three of its nine."""
        car = page.locator(".box[aria-label^='car']")
        target = [int(side) for side in example().boxes[0].tolist()]
        car.focus()
        for place, names in ((0, "ArrowLeft ArrowRight"), (1, "ArrowUp ArrowDown")):
            less, more = names.split()
            while (now := int(car.get_attribute("data-box").split()[place])) != target[place]:
                page.keyboard.press(less if now > target[place] else more)
        for place, names in ((2, "ArrowLeft ArrowRight"), (3, "ArrowUp ArrowDown")):
            less, more = names.split()
            while (now := int(car.get_attribute("data-box").split()[place])) != target[place]:
                page.keyboard.press(f"Shift+{less if now > target[place] else more}")
        assert self.check(page, playground) == [9, 6, 3]
        assert page.locator("tbody td:nth-child(2)").all_inner_texts() == ["9", "9", "3"]
