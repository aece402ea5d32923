from pathlib import Path

import torch
from helpers.commands import Output, fails

from minirtmdet import build_detector
from minirtmdet.cli import main
from minirtmdet.presets import PRESETS


def test_info(run: Path, tmp_path: Path, capsys: Output):
    assert main(["info", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "best.pt: widen_factor 0.125, 3 classes" in printed
    assert "classes: cat, dog, hen" in printed
    assert "AP 0.500  AP50 0.750  AP75 0.250" in printed
    assert main(["info", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("4,896,168 parameters (backbone 2,348,700, neck 2,188,944")
    assert main(["info", "mini-160"]) == 0
    assert "160 px" in capsys.readouterr().out
    torch.save({"state_dict": build_detector("s").state_dict()}, tmp_path / "s.pth")
    assert main(["info", str(tmp_path / "s.pth")]) == 0
    assert "widen_factor 0.5 (as s), 80 classes" in capsys.readouterr().out
    presets = ", ".join(PRESETS)
    assert f"presets are {presets}, sizes nano, tiny, s, m, l, x" in fails(capsys, "info", "xxl")
