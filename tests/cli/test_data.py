from pathlib import Path

from helpers.commands import Output

from minirtmdet.cli import main


def test_scenes_prints_the_folder(tmp_path: Path, capsys: Output):
    root = tmp_path / "scenes"
    for _ in range(2):
        assert main(["scenes", "--train", "2", "--val", "1", "--size", "64", "--root", str(root)]) == 0
        assert capsys.readouterr().out == f"{root}\n"
    assert (root / "train.json").exists()
