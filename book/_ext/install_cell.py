"""The first cell of every notebook, which fetches the package where it is missing, on Colab for one.

    python book/_ext/install_cell.py book/*.ipynb

writes it, with the repository's address out of ``_config.yml``; where none is set, the cell says how to install.
"""

import sys
from pathlib import Path

import nbformat
import yaml

CONFIG = Path(__file__).parents[2] / "_config.yml"
CELL = """\
# where the package is missing, on Colab for one, this fetches it
import importlib.util

REPOSITORY = "{address}"
if importlib.util.find_spec("minirtmdet") is None:
    assert REPOSITORY, "minirtmdet is not installed: the README says how"
    %pip install --quiet git+$REPOSITORY
"""


def install_cell() -> nbformat.NotebookNode:
    """The cell, not shown on the page."""
    address = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]["url"]
    return nbformat.v4.new_code_cell(
        CELL.format(address=address).strip(), id="install", metadata={"tags": ["remove-cell"]}
    )


def main(paths: list[str]) -> None:
    """Put the cell first, or bring it up to date."""
    for path in paths:
        book = nbformat.read(path, as_version=4)
        cells = [cell for cell in book.cells if cell.id != "install"]
        # after the title: a page takes its name from its first cell
        book.cells = [cells[0], install_cell(), *cells[1:]]
        nbformat.write(book, path)


if __name__ == "__main__":
    main(sys.argv[1:])
