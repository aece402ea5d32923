"""``minirtmdet quantize``: an exported file in 8 bits."""

from pathlib import Path

import tyro

from minirtmdet.cli.loading import checked
from minirtmdet.distributed import check_alone
from minirtmdet.files import check_not_read, check_writable
from minirtmdet.inference.exported import OnnxDetector
from minirtmdet.inference.images import find_images
from minirtmdet.inference.quantize import batches_of, quantize_onnx
from minirtmdet.settings import Count


@checked
def quantize(
    exported: tyro.conf.Positional[Path], images: tyro.conf.Positional[tuple[Path, ...]], out: Path, count: Count = 200
) -> None:
    """Write an exported file once more with its convolutions in 8 bits: less than a third of the size.

    Compare the accuracy of both by eval; speed depends on the processor.

    Args:
        exported: a file that export wrote.
        images: files and folders of images like those that it will see, such as the training images; no labels are
            needed.  On them is measured which values occur.
        out: the file, .onnx.
        count: look at so many of the images at most.
    """
    check_alone("quantize")
    if not images:
        raise ValueError("no images: name files or folders after the exported file")
    found = [file.path for file in find_images(images)]
    check_writable(out.parent)
    check_not_read([out], [exported])
    before = OnnxDetector(exported, "cpu").info
    info = quantize_onnx(exported, out, batches_of(found, before, count))
    sizes = [path.stat().st_size / 1e6 for path in (exported, out)]
    print(f"written: {out}, {info.describe()}; {sizes[1]:.1f} MB in place of {sizes[0]:.1f}")
    print(f"its AP: python -m minirtmdet eval {out} --data.root FOLDER, and the same of {exported}")
