"""The first cell of every notebook, which fetches the package where it is missing, on Colab for one.

    python book/_ext/install_cell.py book/*.ipynb

writes it, with the repository's address out of ``_config.yml``.  Where none is set, Colab says which repository the
notebook was opened from; elsewhere the cell says how to install.
"""

import sys
from pathlib import Path

import nbformat
import yaml

CONFIG = Path(__file__).parents[2] / "_config.yml"
CELL = """\
# where the package is missing, on Colab for one, this fetches what is not there
import importlib.util

REPOSITORY = "{address}"
if importlib.util.find_spec("minirtmdet") is None:
    import json
    import re
    import socket
    import subprocess
    import sys
    from importlib.metadata import distributions
    from pathlib import Path
    from urllib.parse import unquote
    from urllib.request import urlopen

    if "google.colab" in sys.modules and not REPOSITORY:
        # its server knows the address that this notebook was opened from
        server = f"http://{{socket.gethostbyname(socket.gethostname())}}:9000"
        opened = unquote(json.load(urlopen(f"{{server}}/api/sessions"))[0]["path"])
        place = re.search(r"(https://[^/]+/[^/]+/[^/]+)/blob/([^/]+)/", opened)
        REPOSITORY = f"{{place[1]}}@{{place[2]}}" if place else ""
    assert REPOSITORY, "minirtmdet is not installed: the README says how"
    wanted = f"minirtmdet[convert,onnx] @ git+{{REPOSITORY}}"
    # torch and numpy are loaded already: what is installed goes by them
    there = [(one.name.lower(), one.version) for one in distributions()]
    kept = [f"{{name}}=={{v}}" for name, v in there if name in ("numpy", "torch")]
    Path("kept.txt").write_text("\\n".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", wanted]
    subprocess.run([*pip, "--constraint", "kept.txt"], check=True)
    Path("kept.txt").unlink()
"""


def install_cell() -> nbformat.NotebookNode:
    """The cell, not shown on the page."""
    address = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["repository"]["url"]
    source = CELL.format(address=address).strip()
    return nbformat.v4.new_code_cell(source, execution_count=1, id="install", metadata={"tags": ["remove-cell"]})


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
