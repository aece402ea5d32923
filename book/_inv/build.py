"""Writes the small inventories that let the API page link to other projects while offline.

Run it after adding a name: ``python book/_inv/build.py``.  Sphinx then knows the page of every name below;
without an inventory, or with a name missing, the strict build calls each such link broken.
"""

import zlib
from pathlib import Path

# (name, role, page); "$" at the end of a page stands for the name itself
TORCH = [
    ("Tensor", "class", "tensors.html#torch.Tensor"),  # as it stands inside Float[Tensor, "..."]
    ("torch.Tensor", "class", "tensors.html#$"),
    ("torch.device", "class", "tensor_attributes.html#$"),
    ("torch.dtype", "class", "tensor_attributes.html#$"),
    ("torch.Generator", "class", "generated/torch.Generator.html#$"),
    ("torch.nn.Module", "class", "generated/torch.nn.Module.html#$"),
    ("torch.nn.modules.module.Module", "class", "generated/torch.nn.Module.html#torch.nn.Module"),
    ("torch.nn.Sequential", "class", "generated/torch.nn.Sequential.html#$"),
    ("torch.nn.ModuleList", "class", "generated/torch.nn.ModuleList.html#$"),
    ("torch.nn.Conv2d", "class", "generated/torch.nn.Conv2d.html#$"),
    ("torch.nn.BatchNorm2d", "class", "generated/torch.nn.BatchNorm2d.html#$"),
    ("torch.nn.Parameter", "class", "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter"),
    ("torch.optim.Optimizer", "class", "optim.html#$"),
    ("torch.optim.AdamW", "class", "generated/torch.optim.AdamW.html#$"),
    ("torch.optim.adamw.AdamW", "class", "generated/torch.optim.AdamW.html#torch.optim.AdamW"),
    ("torch.optim.lr_scheduler.LambdaLR", "class", "generated/torch.optim.lr_scheduler.LambdaLR.html#$"),
]
JAXTYPING = [
    (f"jaxtyping.{name}", "class", "api/array/")
    for name in ("Bool", "Float", "Float32", "Float64", "Int", "Int32", "Int64", "Num", "Shaped", "UInt8")
]
NUMPY = [
    (name, "class", "reference/generated/numpy.ndarray.html#numpy.ndarray")
    for name in ("numpy.ndarray", "np.ndarray", "ndarray")
] + [
    ("numpy.dtype", "class", "reference/generated/numpy.dtype.html#$"),
    ("numpy.random._generator.Generator", "class", "reference/random/generator.html#numpy.random.Generator"),
]
MATPLOTLIB = [
    ("matplotlib.axes.Axes", "class", "api/_as_gen/matplotlib.axes.Axes.html#$"),
    ("matplotlib.figure.Figure", "class", "api/_as_gen/matplotlib.figure.Figure.html#$"),
]
PILLOW = [("PIL.Image.Image", "class", "reference/Image.html#$")]
PYTHON = [
    ("bool", "class", "library/functions.html#$"),
    ("bytes", "class", "library/stdtypes.html#$"),
    ("dict", "class", "library/stdtypes.html#$"),
    ("float", "class", "library/functions.html#$"),
    ("int", "class", "library/functions.html#$"),
    ("list", "class", "library/stdtypes.html#$"),
    ("object", "class", "library/functions.html#$"),
    ("set", "class", "library/stdtypes.html#$"),
    ("str", "class", "library/stdtypes.html#$"),
    ("tuple", "class", "library/stdtypes.html#$"),
    ("type", "class", "library/functions.html#$"),
    ("None", "data", "library/constants.html#$"),
    ("FileNotFoundError", "exception", "library/exceptions.html#$"),
    ("KeyboardInterrupt", "exception", "library/exceptions.html#$"),
    ("KeyError", "exception", "library/exceptions.html#$"),
    ("Exception", "exception", "library/exceptions.html#$"),
    ("SystemExit", "exception", "library/exceptions.html#$"),
    ("OSError", "exception", "library/exceptions.html#$"),
    ("RuntimeError", "exception", "library/exceptions.html#$"),
    ("TypeError", "exception", "library/exceptions.html#$"),
    ("ValueError", "exception", "library/exceptions.html#$"),
    ("collections.abc.Callable", "class", "library/collections.abc.html#$"),
    ("collections.abc.Iterable", "class", "library/collections.abc.html#$"),
    ("collections.abc.Iterator", "class", "library/collections.abc.html#$"),
    ("collections.abc.Mapping", "class", "library/collections.abc.html#$"),
    ("collections.abc.Sequence", "class", "library/collections.abc.html#$"),
    ("pathlib.Path", "class", "library/pathlib.html#$"),
    ("typing.Any", "data", "library/typing.html#$"),
    ("typing.Literal", "data", "library/typing.html#$"),
    ("typing.NamedTuple", "class", "library/typing.html#$"),
]


def write(path: Path, project: str, names: list[tuple[str, str, str]]) -> None:
    """Write one inventory in Sphinx's format: four plain lines, then compressed ones."""
    header = "# Sphinx inventory version 2\n" + f"# Project: {project}\n# Version: \n"
    header += "# The remainder of this file is compressed using zlib.\n"
    lines = "".join(f"{name} py:{role} 1 {page} -\n" for name, role, page in names)
    path.write_bytes(header.encode() + zlib.compress(lines.encode(), 9))


if __name__ == "__main__":
    for project, names in {
        "jaxtyping": JAXTYPING,
        "matplotlib": MATPLOTLIB,
        "numpy": NUMPY,
        "pillow": PILLOW,
        "python": PYTHON,
        "torch": TORCH,
    }.items():
        write(Path(__file__).parent / f"{project}.inv", project, names)
