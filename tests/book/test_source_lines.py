"""Lines of MMDetection that the book points to are where it says, where MMDetection is at hand."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb")])
sys.path.insert(0, str(ROOT / "book/_ext"))
from mmdet_source import PATTERN  # noqa: E402

sys.path.remove(str(ROOT / "book/_ext"))
USES = sorted({use for page in PAGES for use in PATTERN.findall(page.read_text(encoding="utf-8"))})


def test_the_page_of_calls_points_into_mmdetection():
    assert {"loss_by_feat", "get_targets", "assign", "dynamic_k_matching", "unmap"} <= {
        name.rpartition(".")[2] for name, _, _ in USES
    }


@pytest.mark.parametrize(("name", "file", "line"), USES)
def test_a_name_is_defined_on_its_line(name: str, file: str, line: str):
    [*found] = ROOT.glob(f".venv-reference/lib/python*/site-packages/mmdet/{file}")
    if not found:
        pytest.skip("MMDetection is not in .venv-reference: bash tests/parity/reference_env/setup.sh .venv-reference")
    text = found[0].read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"\s*(def|class) {name.rpartition('.')[2]}\b", text), text
