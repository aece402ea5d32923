"""The book's drawings and the strip of each chapter: the package's numbers, words that fit, colours that are seen."""

import doctest
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from minirtmdet.plots.canvas import LEVELS, THINGS

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

import drawings  # noqa: E402
import you_are_here  # noqa: E402
from drawings import architecture, faults, palette, schedule, svg  # noqa: E402
from drawings.svg import Place, Step  # noqa: E402

USE = re.compile(r"```\{drawing\} (\S+)\n((?::\w+: .*\n)+)\n((?:.+\n)+)```")


def place() -> Place:
    return Place(defaultdict(lambda: "page.html"), "scene.webp")


@pytest.fixture(scope="module", params=drawings.DRAWINGS)
def drawn(request: pytest.FixtureRequest) -> list[ET.Element]:
    """The sheets of one drawing, parsed."""
    sheets = drawings.DRAWINGS[request.param](place())
    return [ET.fromstring(str(sheet.sheet if isinstance(sheet, Step) else sheet)) for sheet in sheets]


def words(sheet: ET.Element) -> list[str]:
    return [text.text or "" for text in sheet.iter("text")]


def test_words_stay_on_their_sheet_and_in_their_boxes(drawn: list[ET.Element]) -> None:
    """By an upper estimate of their width: a letter of 12.5 px is 7 px wide in the mean, one of a small size less."""
    for sheet in drawn:
        width, height = map(float, sheet.attrib["viewBox"].split()[2:])
        boxes = [[float(box.attrib[key]) for key in ("x", "y", "width", "height")] for box in sheet.iter("rect")]
        for text in sheet.iter("text"):
            kind, said = text.attrib.get("class", ""), text.text or ""
            reach = len(said) * (4.9 if "tiny" in kind else 6.5 if "small" in kind else 7.0)
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            left = x if "start" in kind else x - reach if "end" in kind else x - reach / 2
            assert left > -6, said
            assert left + reach < width + 6, said
            assert 0 < y < height, said
            around = [(w, bx) for bx, by, w, h in boxes if bx < x < bx + w and by < y < by + h]
            if around and not kind.strip("name"):  # what is centred stands in the smallest box around it
                assert reach <= min(around)[0] + 6, said


def test_arrows_end_on_their_sheet(drawn: list[ET.Element]) -> None:
    for sheet in drawn:
        width, height = map(float, sheet.attrib["viewBox"].split()[2:])
        for path in sheet.findall("path"):
            if "line" in path.attrib["class"] and not re.search("[a-z]", path.attrib["d"]):
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
                assert min(numbers) >= 0
                assert max(numbers) <= max(width, height)


def test_the_architecture_has_the_shapes_of_the_network() -> None:
    known = architecture.facts()
    assert (known.image, known.stage1) == ((3, 160, 160), (32, 40, 40))
    assert known.features == [(64, 20, 20), (128, 10, 10), (256, 5, 5)]
    assert known.mixed == [(64, 20, 20), (64, 10, 10), (64, 5, 5)]
    assert (known.convs, known.shared, known.norms) == (2, True, 3)
    said = [word for sheet in architecture.draw(place()) for word in words(ET.fromstring(str(sheet)))]
    assert {"3 × 160 × 160", "256 × 5 × 5", "16 × 20 × 20", "4 × 5 × 5", "400 priors", "25 priors"} <= set(said)
    assert "525 priors: 16 logits, 4 distances each" in said


def test_neck_and_head_have_the_channels_and_the_shared_layers_of_the_network() -> None:
    """The neck's channels, from reducing C5 to the last convolutions; two convolutions for all three levels."""
    neck = [word for sheet in drawings.DRAWINGS["neck"](place()) for word in words(ET.fromstring(str(sheet)))]
    numbers = [word for word in neck if "→" in word]
    assert numbers[:4] == ["256 → 128", "256 → 128", "128 → 64", "128 → 64"]
    assert numbers[4:] == ["128 → 128", "256 → 256", "64 → 64", "128 → 64", "256 → 64"]
    for sheet, end in zip(drawings.DRAWINGS["head"](place()), ("16 × 5 × 5", "4 × 5 × 5"), strict=True):
        said = words(ET.fromstring(str(sheet)))
        assert said[-1] == end
        assert (said.count("3 × 3 convolution, shared"), said.count("BatchNorm"), said.count("1 × 1")) == (2, 6, 3)


def test_the_steps_of_the_assignment_have_the_numbers_of_the_chapter() -> None:
    said = " ".join(step.words for step in drawings.DRAWINGS["assignment"](place()))
    for number in ("195 of 525 priors", "k is 8, 8, 2", "8 + 8 + 2", "want 6 priors", "18 priors learn", "507 learn"):
        assert number in said


@pytest.mark.parametrize("module", [palette, svg, you_are_here])
def test_examples_in_docstrings(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0


def test_the_age_of_an_average() -> None:
    """The first update copies; then what stays is a step older: 1/2 (1 - 1/e^2) of 1, 1/2 (1 - 1/e^3) of that and 1."""
    ages = schedule.ages(0.5, 1, 40)
    assert ages[:3] == pytest.approx([0, 0.4323, 0.6805], abs=1e-4)
    assert ages[-1] == pytest.approx(1)


def test_the_path_to_deployment_has_the_numbers_of_the_record() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "deploy.json").read_text(encoding="utf-8"))["rows"]
    said = [word for sheet in drawings.DRAWINGS["deployment"](place()) for word in words(ET.fromstring(str(sheet)))]
    aps = {f"{row['AP']:.3f}" for row in rows}
    shown = {number for word in said for number in re.findall(r"AP (0\.\d+)", word)}
    assert shown <= aps
    assert len(shown) == 3


def test_the_sampler_s_lists_are_those_of_the_chapter() -> None:
    said = words(ET.fromstring(str(drawings.DRAWINGS["sampling"](place())[1])))
    by_hand = {"positives": [1, 2, 5, 6, 10], "their box": [0, 0, 0, 1, 1], "negatives": [0, 4, 8, 9, 12, 13, 14]}
    for name, numbers in by_hand.items():
        first = said.index(name) + 1
        assert said[first : first + len(numbers)] == list(map(str, numbers))


def test_each_fault_of_the_record_is_a_mark_at_what_its_runs_find() -> None:
    """Thirteen of the chapter's fourteen; the other one, background as class 0, changes nothing and is not trained."""
    measured = faults.runs()
    for sheet in map(ET.fromstring, map(str, faults.draw(place()))):
        marks, _ = sheet.findall("path[@stroke-width]")
        heights = [float(y) for y in re.findall(r"M\S+ (\S+)h0", marks.attrib["d"])]
        names = [name for name in measured[0] if name not in faults.NO_FAULTS]
        assert len(heights) == len(names) == 13
        for name, y in zip(names, heights, strict=True):
            mean = sum(run[name]["found"] for run in measured) / len(measured)
            assert y == pytest.approx(180 - 136 * mean / 11, abs=0.01)


def test_colours_are_those_of_the_figures_and_can_be_seen_on_both_papers() -> None:
    colors = palette.colors()
    assert {colors[f"level-{stride}"] for stride in LEVELS} == {color for color, _ in LEVELS.values()}
    assert set(THINGS.values()) <= set(colors.values())
    for color in colors.values():
        for paper in (palette.LIGHT, palette.DARK):
            assert palette.contrast(palette.readable(color, paper), paper) >= palette.LEAST
    assert palette.readable(colors["level-8"], palette.LIGHT) == colors["level-8"]


def sources() -> dict[str, str]:
    """The text of each page."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
    for path in BOOK.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        pages[path.stem] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return pages


def test_every_drawing_is_used_named_described_and_referred_to() -> None:
    used = set()
    for page, text in sources().items():
        for kind, options, caption in USE.findall(text):
            used.add(kind)
            given = dict(re.findall(r":(\w+): (.*)", options))
            assert given["name"].startswith(f"fig-{page}-")
            assert len(given["alt"]) > 60
            assert caption.endswith(".\n")
            assert f"{{numref}}`{given['name']}`" in text
        assert text.count("```{drawing}") == len(USE.findall(text)), page
    assert used == set(drawings.DRAWINGS)


def chapters() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [Path(chapter["file"]) for part in toc["parts"] if "numbered" in part for chapter in part["chapters"]]
    return [file.name for file in files]


def test_every_chapter_has_its_place_on_the_strip() -> None:
    assert set(you_are_here.CHAPTERS) == set(chapters())
    for chapter, here in you_are_here.CHAPTERS.items():
        assert here
        assert set(here) <= set(you_are_here.STATIONS), chapter
    assert {station.page for station in you_are_here.STATIONS.values()} <= set(chapters())


def test_a_strip_marks_where_its_chapter_is_and_leads_to_the_others() -> None:
    nav = ET.fromstring(you_are_here.strip("backbone_neck", lambda page: f"{page}.html"))
    assert nav.attrib["aria-label"] == "You are here: backbone and neck"
    marked = [item.find("a/span").text for item in nav.iter("li") if "here" in item.attrib.get("class", "")]
    assert marked == ["backbone", "neck"]
    links = [link.attrib["href"] for link in nav.iter("a")]
    assert links == [f"{station.page}.html" for station in you_are_here.STATIONS.values()]
    assert [link.attrib.get("aria-current") for link in nav.iter("a")].count("page") == 2
    assert "whole detector" in you_are_here.strip("glance", str)


def test_only_chapters_get_a_strip() -> None:
    """Not the pages of a module that is called as a chapter, in the API and of its source."""
    app = SimpleNamespace(builder=SimpleNamespace(get_relative_uri=lambda one, other: f"{other}.html"))
    others = ("book/api/plots/costs", "_modules/minirtmdet/plots/costs", "book/glossary")
    for page, has in (("book/costs", True), *((other, False) for other in others)):
        context = {"body": "<h1>Costs</h1><p>Text</p>"}
        you_are_here.add_strip(app, page, "page.html", context, None)  # type: ignore[arg-type]
        assert ("</h1>\n<nav" in context["body"]) == has
