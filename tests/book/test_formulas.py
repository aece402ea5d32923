"""Formulas are set when the book is built, where MathJax and node are there, and by the pages themselves elsewhere."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docutils import nodes
from sphinx.errors import ExtensionError

EXTENSIONS = Path(__file__).parents[2] / "book" / "_ext"


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module("formulas")


def site(formulas: Any, folder: Path, *tex: str) -> SimpleNamespace:
    """As much of Sphinx as the hooks ask for, with a page of formulas."""
    config = SimpleNamespace(html_math_renderer=formulas.RENDERER)
    env = SimpleNamespace(docname="page")
    app = SimpleNamespace(config=config, env=env, outdir=str(folder), builder=SimpleNamespace(format="html"))
    document = nodes.document(None, None)
    document += [nodes.math_block("", one) for one in tex]
    formulas.collect(app, document)
    return app


@pytest.mark.parametrize("there", [True, False])
def test_pages_load_mathjax_where_it_cannot_run(formulas: Any, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(formulas.shutil, "which", lambda name: "/usr/bin/node" if there else None)
    monkeypatch.setattr(formulas, "MATHJAX", SimpleNamespace(complete=SimpleNamespace(exists=lambda: True)))
    config = SimpleNamespace()
    formulas.choose(None, config)
    assert config.html_math_renderer == (formulas.RENDERER if there else "mathjax")


def test_a_page_that_is_read_again_names_its_formulas_again(formulas: Any, tmp_path: Path) -> None:
    app = site(formulas, tmp_path, "a", "b")
    assert {one.tex for one in app.env.formulas["page"]} == {"a", "b"}
    formulas.forget(app, app.env, "page")
    assert app.env.formulas == {}


def test_a_formula_is_characters_a_style_and_mathml(formulas: Any, tmp_path: Path) -> None:
    if not (formulas.MATHJAX.complete.exists() and formulas.shutil.which("node")):
        pytest.skip("MathJax is fetched by make book, and needs node")
    app = site(formulas, tmp_path, r"\frac{a}{b}")
    formulas.set_all(app, app.env)
    [shown] = app.formulas.values()
    assert "<mjx-mfrac>" in shown
    assert "<mfrac><mi>a</mi><mi>b</mi></mfrac>" in shown
    assert "mjx-mfrac" in (tmp_path / "_static" / formulas.SHEET).read_text(encoding="utf-8")


def test_a_formula_with_a_mistake_ends_the_build(formulas: Any, tmp_path: Path) -> None:
    if not (formulas.MATHJAX.complete.exists() and formulas.shutil.which("node")):
        pytest.skip("MathJax is fetched by make book, and needs node")
    app = site(formulas, tmp_path, r"\frac{a}{")
    with pytest.raises(ExtensionError, match=r"brace.*in \\frac\{a\}"):
        formulas.set_all(app, app.env)
