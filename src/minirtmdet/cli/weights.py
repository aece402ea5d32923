"""``minirtmdet weights``: the published weights."""

import tyro

from minirtmdet.cli.loading import Size, fetch


def weights(size: tyro.conf.Positional[Size]) -> None:
    """Download the published weights of a size, or find them downloaded, and print the file.

    Args:
        size: nano finds people, the others the 80 classes of COCO.
    """
    print(fetch(size))
