from collections.abc import Callable
from pathlib import Path

from helpers.commands import MODEL, Output

from minirtmdet import build_detector
from minirtmdet.cli import main
from minirtmdet.detector import RTMDet


def test_weights_are_downloaded_after_saying_so(publish: Callable[[str, RTMDet], None], tmp_path: Path, capsys: Output):
    publish("nano", build_detector("nano", num_classes=3))
    file = tmp_path / "cache/minirtmdet/weights/rtmdet_nano.pth"
    for said in (f"downloading {tmp_path.as_uri()}/rtmdet_nano.pth to {file.parent}\n", ""):
        capsys.readouterr()
        assert main(["weights", "nano"]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{file}\n"
        assert printed.err.startswith(said)
    assert printed.err == ""


def test_a_download_that_fails_ends_with_one_line(
    publish: Callable[[str, RTMDet], None], tmp_path: Path, capsys: Output
):
    publish("s", build_detector(MODEL))
    (tmp_path / "rtmdet_s.pth").write_bytes(b"something else")
    assert main(["weights", "s"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"minirtmdet: error: {tmp_path.as_uri()}/rtmdet_s.pth: what arrived has SHA-256 ")
    (tmp_path / "rtmdet_s.pth").unlink()
    assert main(["weights", "s"]) == 2
    assert "No such file" in capsys.readouterr().err.splitlines()[-1]
