"""The sources of the book and the README: what they name exists, and the API leaves no module out."""

import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from helpers.weights import CLASSES, SMALL, small

from minirtmdet.cli import main
from minirtmdet.configs import DataConfig, TrainConfig
from minirtmdet.inference.images import write_image
from minirtmdet.weights.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "minirtmdet"
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
"""What is read where the repository is, beside the book's pages."""
PAGES = [*DOCUMENTS, *sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "book").glob("*.ipynb"))]


def contents() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    rooms = [room for chapter in chapters for room in chapter.get("sections", [])]
    return [toc["root"], *(page["file"] for page in chapters + rooms)]


def test_every_page_of_the_contents_exists() -> None:
    missing = [page for page in contents() if not any((ROOT / f"{page}{end}").exists() for end in (".md", ".ipynb"))]
    assert not missing


def test_every_notebook_is_in_the_contents() -> None:
    assert {f"book/{path.stem}" for path in (ROOT / "book").glob("*.ipynb")} <= set(contents())


def test_every_notebook_can_fetch_the_package() -> None:
    cell = runpy.run_path(str(ROOT / "book" / "_ext" / "install_cell.py"))["install_cell"]()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        second = nbformat.read(path, as_version=4).cells[1]
        assert (second.id, second.source, second.metadata) == (cell.id, cell.source, cell.metadata), (
            f"{path.name}: make refresh writes the cell that installs the package"
        )


def test_the_api_has_every_module_in_the_room_that_it_stands_in() -> None:
    modules = set()
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if not name.endswith("__main__"):
            modules.add(name.removesuffix(".__init__"))
    sources = [ROOT / "book" / "api.md", *(ROOT / "book" / "api").glob("*.md")]
    listed = [name for path in sources for name in re.findall(r"automodule:: (\S+)", path.read_text(encoding="utf-8"))]
    pages = runpy.run_path(str(ROOT / "book" / "_ext" / "api_pages.py"))["pages"]()
    for path, text in pages.items():
        module = re.findall(r"automodule:: (\S+)", text)[0]
        listed.append(module)
        assert path.stem == module.rpartition(".")[2]
        assert path.parent.name in (module.split(".")[1], "ground_floor", "network"), f"{module} is in another room"
    assert len(listed) == len(set(listed))
    assert set(listed) == modules, "book/api has a page for each room of the house: list the module there"


def test_every_room_of_the_api_shows_its_pages() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    [api] = [page for part in toc["parts"] for page in part["chapters"] if page["file"] == "book/api"]
    rooms = {page["file"]: page["sections"] for page in api["sections"]}
    assert set(rooms) == {f"book/api/{path.stem}" for path in (ROOT / "book" / "api").glob("*.md")}
    assert all(sections == [{"glob": f"{room}/*"}] for room, sections in rooms.items())


@pytest.mark.parametrize("page", ["README.md", "book/start.md"])
def test_the_code_on_first_pages_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with runs and images where its commands have them."""
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(model=SMALL, data=DataConfig(input_size=64))
    for name in ("cards", "mini-160"):
        Path("runs", name).mkdir(parents=True)
        save_checkpoint(Path("runs", name, "best.pt"), small().state_dict(), config, CLASSES)
    for name in ("path/to/images/1.png", "photo.jpg"):
        write_image(Path(name), np.zeros((40, 60, 3), np.uint8))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


class Parsed(Exception):
    """A command line was understood; what it asks for is not done."""


def commands() -> list[tuple[str, str]]:
    """Each page with each command of the package that stands on a line of its own in it."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
        lines = re.sub(r"\\\n\s*", "", text)
        words = re.findall(r"^(?:\S*python -m |torchrun .*-m |%)minirtmdet (.+)$", lines, flags=re.MULTILINE)
        found += [(path.name, line) for line in dict.fromkeys(words) if "`" not in line]
    return found


def test_every_command_on_a_page_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, options and numbers; what a notebook fills in is left out, but for its seed."""

    def stop(*_: object) -> None:
        raise Parsed

    monkeypatch.setattr("minirtmdet.cli.loading.out_of_range", stop)  # asked before a command does anything
    monkeypatch.setattr("minirtmdet.cli.weights.fetch", stop)
    found = commands()
    assert {page for page, _ in found} >= {"README.md", "start.md", "long_runs.md", "own_data.ipynb"}
    for page, line in found:
        args = shlex.split(re.sub(r"\{\w+\}", "", line.replace("{SEED}", "0")), comments=True)
        try:
            main(args)  # of commands without numbers, info is run: it needs nothing
        except Parsed:
            continue
        except SystemExit as end:
            if end.code:  # 0 after --help
                pytest.fail(f"{page}: minirtmdet {line}")


def test_every_script_on_a_page_exists() -> None:
    for path in PAGES:
        named = re.findall(r"python ((?:examples|benchmarks|tests)/\S+\.py)\b", path.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).is_file()] == [], path.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_of_a_document_lead_somewhere(path: Path) -> None:
    """To files, and to headings, which GitHub names by their words."""
    missing = []
    for name, heading in re.findall(r"\]\(([^\s)#:]*)(?:#([^\s)]+))?\)", path.read_text(encoding="utf-8")):
        target = path.parent / name if name else path
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        words = [re.sub(r"[^\w\- ]", "", title).replace(" ", "-").lower() for title in headings]
        if not target.exists() or (heading and heading not in words):
            missing.append(f"{name}#{heading}")
    assert missing == []


def test_the_readme_has_the_numbers_of_the_records() -> None:
    recorded: dict[str, list[float | None]] = {}
    for place, name in enumerate(("cpu.json", "cpu-avx512.json")):
        for row in json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]:
            ratios = recorded.setdefault(row["name"], [None] * 4)
            ratios[2 * place : 2 * place + 2] = row.get("ratio"), row.get("ratio_compiled")
    number = r" \| ?([\d.]*)"
    table = re.findall(rf"^\| (\w[^|:]*?\d[^|:]*?)(?:: times less)?{number * 4} \|$", README, flags=re.MULTILINE)
    assert len(table) == 10
    for name, *numbers in table:
        assert [float(number) if number else None for number in numbers] == recorded[name], name

    rows = json.loads((RESULTS / "inference.json").read_text(encoding="utf-8"))["rows"]
    (head,) = re.findall(r"^\| detection on [^|]* \| (.*) \|$", README, flags=re.MULTILINE)
    for row in rows:
        ratios = " | ".join(str(row["forms"][form]["ratio"]) for form in head.split(" | "))
        assert f"| {row['name']} | {ratios} |" in README

    parity = json.loads((RESULTS / "parity.json").read_text(encoding="utf-8"))
    assert f"MMDetection {parity['reference']['mmdet']}" in README
    assert {row["cases"] for row in parity["rows"] if row["kind"] == "assign"} == {500}
    assert [row["kind"] for row in parity["rows"] if row["failed"] or row["largest"] > 1e-5] == []


def test_the_readme_shows_the_costs_as_their_chapter_does() -> None:
    copy = runpy.run_path(str(ROOT / "book" / "_ext" / "readme_figure.py"))
    assert copy["FILE"].relative_to(ROOT).as_posix() in README
    assert copy["FILE"].read_bytes() == copy["figure"](), "python book/_ext/readme_figure.py copies it"


def test_the_readme_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_every_place_names_the_same_pythons() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = [row.rpartition(" ")[2] for row in project["classifiers"] if "Python :: 3" in row]
    first, last = pythons[0], pythons[-1]
    after = f"3.{int(last.partition('.')[2]) + 1}"
    assert project["requires-python"] == f">={first},<{after}"
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    assert tests["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"({first.replace('.', ', ')}) <= sys.version_info[:2] <= ({last.replace('.', ', ')})" in makefile
    assert " ".join(f"python{version}" for version in reversed(pythons)) in makefile
    for text in ("README.md", "book/intro.md", "requirements.txt"):
        assert f"Python {first} to {last}" in (ROOT / text).read_text(encoding="utf-8"), text
