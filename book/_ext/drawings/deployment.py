"""From a trained detector to a file that another program runs, with the sizes and APs of the record."""

import json
from pathlib import Path
from typing import Any

from drawings.svg import Box, Place, Sheet

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "deploy.json"


def rows() -> dict[str, Any]:
    """What ``benchmarks/deploy.py`` measured, by the form of the detector."""
    return {row["form"]: row for row in json.loads(RECORD.read_text(encoding="utf-8"))["rows"]}


def said(form: str) -> str:
    """Size and AP of a form."""
    row = rows()[form]
    return f"{row['mb']:.1f} MB · AP {row['AP']:.3f}"


def draw(place: Place) -> list[Sheet]:
    """Three files, and who runs them."""
    return [files(place), runtimes()]


def files(place: Place) -> Sheet:
    """Commands, and what each writes."""
    sheet = Sheet(360, 352)
    forms = (
        ("minirtmdet train", "best.pt", "PyTorch", "PyTorch"),
        ("minirtmdet export", "cards.onnx", "pixels in, BatchNorms folded", "ONNX, all priors"),
        ("minirtmdet quantize", "cards-int8.onnx", "convolutions in 8 bits", "int8 but the last convolutions"),
    )
    above = sheet.box(Box(60, 2, 240, 28), ["images and boxes"], "data", place.pages["own_data"])
    for i, (command, name, what, form) in enumerate(forms):
        box = Box(60, 66 + 98 * i, 240, 60)
        sheet.arrow(above.bottom, box.top)
        sheet.text(188, box.y - 20, command, "code start")
        above = sheet.box(box, [name, what, said(form)])
    sheet.arrow(above.bottom, (180, 350))
    sheet.text(188, 336, "to a device", "small start")
    return sheet


def runtimes() -> Sheet:
    """What runs the exported file, and what comes out of it there."""
    sheet = Sheet(360, 352)
    known = rows()
    sheet.text(2, 12, "the same file, in two runtimes", "title start")
    columns = (("onnxruntime", "ONNX, all priors", "int8 but the last convolutions"),)
    columns += (("OpenVINO", "ONNX, OpenVINO", "int8 but the last convolutions, OpenVINO"),)
    for i, (runtime, whole, small) in enumerate(columns):
        x = 2 + 182 * i
        sheet.box(Box(x, 30, 174, 34), [runtime])
        aps = known[whole]["AP"], known[small]["AP"]
        loss = f"{aps[0] - aps[1]:.3f} less"
        sheet.box(Box(x, 84, 174, 48), ["cards.onnx", f"AP {aps[0]:.3f}"])
        sheet.box(Box(x, 152, 174, 64), ["cards-int8.onnx", f"AP {aps[1]:.3f}", loss])
        for upper, lower in ((64, 84), (132, 152)):
            sheet.arrow((x + 87, upper), (x + 87, lower))
    lines = ["your program", "resize to fit, grey to the right and below,", "threshold, boxes back to the image"]
    sheet.box(Box(2, 250, 356, 80), lines, "data")
    sheet.arrow((89, 216), (89, 250))
    sheet.arrow((271, 216), (271, 250))
    return sheet
