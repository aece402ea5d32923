"""Formulas are set when the book is built: a page has their characters and a style, and no MathJax of 1.2 MB.

MathJax runs once, in node, which comes with npm.  Without it the pages load MathJax from a CDN, as ``offline_assets``
says.  Screen readers are given MathML.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from offline_assets import MATHJAX, VENDOR
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.math import get_node_equation_number

RENDERER = "set when built"
SCRIPT = Path(__file__).with_suffix(".js")
SHEET = "formulas.css"
FONTS = "vendor/mathjax/output/chtml/fonts/woff-v2"
"""As the style sheet has it."""


class Formula(NamedTuple):
    """TeX, and whether it stands on lines of its own."""

    tex: str
    display: bool


def formula(node: nodes.Node) -> Formula:
    """What a node says, in one line where it is one."""
    return Formula(node.astext().strip(), isinstance(node, nodes.math_block))


def choose(app: Sphinx, config: Config) -> None:
    """Set formulas here where the files for it could be fetched and node is installed."""
    if MATHJAX.complete.exists() and shutil.which("node"):
        config.html_math_renderer = RENDERER
    else:
        config.html_math_renderer = "mathjax"


def collect(app: Sphinx, document: nodes.document) -> None:
    """Remember a page's formulas."""
    found = {formula(node) for kind in (nodes.math, nodes.math_block) for node in document.findall(kind)}
    formulas_of(app.env)[app.env.docname] = found


def formulas_of(env: BuildEnvironment) -> dict[str, set[Formula]]:
    """The formulas of every page."""
    if not hasattr(env, "formulas"):
        env.formulas = {}  # type: ignore[attr-defined]
    return env.formulas  # type: ignore[attr-defined]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page that is read again names its formulas again."""
    formulas_of(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
    """Take in what another process has read."""
    formulas_of(env).update({name: found for name, found in formulas_of(other).items() if name in docnames})


def set_all(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Run MathJax on all formulas, and write their style sheet."""
    formulas = sorted(set().union(*formulas_of(env).values()))
    if app.builder.format != "html" or app.config.html_math_renderer != RENDERER or not formulas:
        return []
    command = ["node", str(SCRIPT), str(VENDOR / MATHJAX.name), FONTS]
    done = subprocess.run(command, input=json.dumps(formulas), capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise ExtensionError(f"MathJax could not set a formula: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout)
    app.formulas = {}  # type: ignore[attr-defined]
    for one, html, mathml in zip(formulas, answer["html"], answer["mathml"], strict=True):
        shown = html.replace("<mjx-math ", '<mjx-math aria-hidden="true" ', 1)
        spoken = re.sub(r"\n\s*", "", mathml)
        kind = "block" if one.display else "inline"
        app.formulas[one] = shown.replace(  # type: ignore[attr-defined]
            "</mjx-container>", f'<mjx-assistive-mml display="{kind}">{spoken}</mjx-assistive-mml></mjx-container>'
        )
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    (static / SHEET).write_text(answer["css"], encoding="utf-8")
    return []


def visit_inline(self: Any, node: nodes.math) -> None:
    """A formula in a line of text."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(self.builder.app.formulas[formula(node)] + "</span>")
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(self.builder.app.formulas[formula(node)] + "</div>\n")
    raise nodes.SkipNode


def add_sheet(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Load the style where a page has a formula."""
    if "<mjx-container" in context.get("body", ""):
        app.add_css_file(SHEET)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer with Sphinx."""
    app.add_html_math_renderer(RENDERER, (visit_inline, None), (visit_block, None))
    # after offline_assets, which fetches MathJax
    app.connect("config-inited", choose, priority=600)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", set_all)
    app.connect("html-page-context", add_sheet)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
