"""The role ``{test}``: a link to the test that holds a sentence, and a page with the source of each test that is named.

``{test}`test_boxes.py::test_points_on_the_border_are_outside` `` reads "points on the border are outside".  Paths are
those below ``tests/``; one case of a test follows in brackets.  A name that is not there is a warning, which the strict
build does not pass, so that a page cannot outlive its tests.
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

logger = logging.getLogger(__name__)
TESTS = Path(__file__).parents[2] / "tests"
FOLDER = "_tests"
"""Where the pages of sources go."""


class Target(NamedTuple):
    """A test by its parts."""

    file: str
    name: str
    case: str

    @property
    def page(self) -> str:
        """The page of its source."""
        return f"{FOLDER}/{self.file.removesuffix('.py')}"

    @property
    def words(self) -> str:
        """Its name as a reader has it."""
        sentence = self.name.removeprefix("test_").replace("_", " ")
        return f"{sentence}: {self.case}" if self.case else sentence


def parse(text: str) -> Target | None:
    """The test that a role names, or nothing where there is none."""
    match = re.fullmatch(r"([\w/]+\.py)::(test_\w+)(?:\[(.+)\])?", text)
    if match is None or not (TESTS / match[1]).is_file() or match[2] not in lines_of_tests(match[1]):
        return None
    return Target(match[1], match[2], match[3] or "")


def lines_of_tests(file: str) -> dict[str, int]:
    """The line, from 0, that each test of a file begins on."""
    lines = (TESTS / file).read_text(encoding="utf-8").splitlines()
    return {found[1]: i for i, line in enumerate(lines) if (found := re.match(r"def (test_\w+)", line))}


class TestRole(SphinxRole):
    """Links to the test."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """One reference, or a warning and the plain text."""
        target = parse(self.text)
        if target is None:
            logger.warning("there is no test %s", self.text, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        if not hasattr(self.env, "tests_named"):
            self.env.tests_named = {}  # type: ignore[attr-defined]
        self.env.tests_named.setdefault(self.env.docname, set()).add(target.file)  # type: ignore[attr-defined]
        uri = self.env.app.builder.get_relative_uri(self.env.docname, target.page)
        link = nodes.reference(
            "", target.words, internal=True, refuri=f"{uri}#{target.name}", reftitle=f"tests/{self.text}"
        )
        return [link], []


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page that is read again names its tests again."""
    getattr(env, "tests_named", {}).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
    """Take in what another process has read."""
    if not hasattr(env, "tests_named"):
        env.tests_named = {}  # type: ignore[attr-defined]
    found = getattr(other, "tests_named", {})
    env.tests_named.update({name: found[name] for name in docnames if name in found})


def sources(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file that some page names, with an anchor at every test."""
    if app.builder.format != "html":
        return
    files = sorted(set().union(*getattr(app.env, "tests_named", {}).values()))
    for file in files:
        code = (TESTS / file).read_text(encoding="utf-8")
        block = app.builder.highlighter.highlight_block(code, "python")  # type: ignore[attr-defined]
        opening, body = block.split("<pre>", 1)
        lines = body.splitlines()
        for name, line in lines_of_tests(file).items():
            lines[line] = f'<span id="{name}"></span>{lines[line]}'
        title = f"tests/{file}"
        yield (
            f"{FOLDER}/{file.removesuffix('.py')}",
            {"parents": [], "title": title, "body": f"<h1>{html.escape(title)}</h1>{opening}<pre>" + "\n".join(lines)},
            "page.html",
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role and the pages with Sphinx."""
    app.add_role("test", TestRole())
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("html-collect-pages", sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
