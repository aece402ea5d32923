"""One training step as a loop, and inference beside it."""

from drawings.svg import Box, Place, Sheet

IMAGES, NETWORK, OUTPUTS = Box(8, 30, 104, 42), Box(128, 30, 104, 42), Box(248, 22, 104, 58)


def draw(place: Place) -> list[Sheet]:
    """Two sheets that begin alike."""
    return [training(place), inference(place)]


def begin(place: Place, title: str) -> Sheet:
    """From images to predictions."""
    sheet = Sheet(360, 350)
    sheet.text(8, 10, title, "title start")
    sheet.box(IMAGES, ["images", "B × 3 × H × W"], "data")
    sheet.box(NETWORK, ["network", "weights"], link=place.pages["head_construction"])
    sheet.box(OUTPUTS, ["predictions", "B × N × C", "B × N × 4"], "data")
    sheet.arrow(IMAGES.right, NETWORK.left)
    sheet.arrow(NETWORK.right, OUTPUTS.left)
    return sheet


def training(place: Place) -> Sheet:
    """Predictions choose what they learn; the gradient goes round the choice."""
    pages, sheet = place.pages, begin(place, "training")
    truth = sheet.box(Box(8, 126, 104, 42), ["true boxes", "B × G × 4"], "data")
    choice = Box(128, 118, 132, 58)
    sheet.box(choice, ["assignment", "which prior learns", "which box?"], "accent", pages["costs"])
    targets = sheet.box(Box(128, 206, 132, 42), ["targets", "of each prior"], link=pages["targets"])
    losses = sheet.box(Box(128, 282, 224, 42), ["two losses", "classes and boxes"], link=pages["losses"])
    sheet.arrow(truth.right, choice.left)
    sheet.arrow((258, 80), (258, 98), (194, 98), (194, 118), kind="dashed")
    sheet.text(188, 98, "no gradient", "small end")
    sheet.arrow(choice.bottom, targets.top)
    sheet.arrow(targets.bottom, (targets.bottom[0], losses.y))
    sheet.arrow((278, 80), (278, losses.y))
    sheet.arrow((342, losses.y), (342, 80), kind="back")
    sheet.arrow((300, 22), (300, 10), (180, 10), (180, 30), kind="back")
    sheet.text(310, 176, "gradient", "small back-name")
    return sheet


def inference(place: Place) -> Sheet:
    """Predictions become detections."""
    sheet = begin(place, "inference")
    pages = place.pages
    above = sheet.box(Box(128, 110, 224, 42), ["decode", "distances to boxes"], link=pages["coder"])
    sheet.arrow(OUTPUTS.bottom, (OUTPUTS.bottom[0], above.y))
    for i, lines in enumerate((["threshold", "drop low scores"], ["NMS", "of overlapping boxes, the best"])):
        box = sheet.box(Box(128, 170 + 60 * i, 224, 42), lines, link=pages["evaluation"])
        sheet.arrow(above.bottom, box.top)
        above = box
    found = sheet.box(Box(128, 290, 224, 42), ["detections", "boxes, scores, classes"], "data")
    sheet.arrow(above.bottom, found.top)
    return sheet
