"""A page for each module of the package, written when the book is built.

``book/api`` has a page for each room of the house, with a list of the room's modules.  What is on the list gets a page
in the room's folder, which git ignores: its text is the module's docstrings.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

API = Path(__file__).parents[1] / "api"
LISTED = re.compile(r"^   ~(minirtmdet\.[\w.]+)$", flags=re.MULTILINE)
"""A module in a room's list."""
PAGE = """\
# {module}

```{{eval-rst}}
.. automodule:: {module}
   :members:
```
"""


def pages(folder: Path = API) -> dict[Path, str]:
    """The path and the text of each module's page."""
    return {
        folder / room.stem / f"{module.rpartition('.')[2]}.md": PAGE.format(module=module)
        for room in sorted(folder.glob("*.md"))
        for module in LISTED.findall(room.read_text(encoding="utf-8"))
    }


def write_pages(app: Sphinx, config: Config) -> None:
    """Write the pages that are new or differ, and remove those of modules that are gone."""
    wanted = pages()
    for path in set(API.glob("*/*.md")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook, before the table of contents is read."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
