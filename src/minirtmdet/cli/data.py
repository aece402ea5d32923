"""``minirtmdet scenes``: the embedded data set."""

from pathlib import Path
from typing import Annotated

import tyro

from minirtmdet.cli.loading import checked
from minirtmdet.configs import ScenesConfig
from minirtmdet.data.scenes import make_scenes


@checked
def scenes(config: Annotated[ScenesConfig, tyro.conf.arg(name="")] = ScenesConfig(), root: Path | None = None) -> None:
    """Make the embedded data set, or find it made, and print its folder.

    Args:
        config: what to make.
        root: the folder; where left out, one in your cache directory.
    """
    print(make_scenes(config, root))
