"""The figure of the costs that the README shows: a copy of what its chapter stores, since a README shows files alone.

    python book/_ext/readme_figure.py

writes it anew.
"""

import base64
from pathlib import Path

import nbformat

BOOK = Path(__file__).parents[1]
FILE = BOOK / "_static" / "cost-maps.png"


def figure() -> bytes:
    """The first figure of the chapter on costs, as PNG."""
    cells = nbformat.read(BOOK / "costs.ipynb", as_version=4).cells
    stored = (output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {}))
    return base64.b64decode(next(stored).data["image/png"])


if __name__ == "__main__":
    FILE.write_bytes(figure())
