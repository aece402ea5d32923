"""The official recipe over its epochs, and how far the average of the weights is behind them."""

from functools import cache

from torch import nn

from drawings.svg import Place, Sheet, course
from minirtmdet.configs import OptimConfig
from minirtmdet.engine.ema import ExpMomentumEMA
from minirtmdet.engine.optim import FlatCosine
from minirtmdet.presets import PRESETS

RECIPE = PRESETS["rtmdet-s"]
IMAGES = 117_266
"""Of COCO's train2017, those with boxes: what an epoch of the official recipe sees."""
LEFT, RIGHT = 40, 348


def draw(place: Place) -> list[Sheet]:
    """Two sheets."""
    return [stages(), lag()]


def stages() -> Sheet:
    """Both stages of the augmentation above the learning rate."""
    sheet, epochs = Sheet(360, 232), RECIPE.epochs
    second = RECIPE.augment.stage2_epochs
    optim = RECIPE.optim
    per_epoch = IMAGES // optim.base_batch
    rate = FlatCosine.from_config(optim, epochs, per_epoch, optim.base_batch)
    switch = across(epochs - second, epochs)
    sheet.text(LEFT, 10, f"{epochs} epochs of the official recipe", "title start")
    sheet.add("rect", kind="box accent", x=LEFT, y=26, width=switch - LEFT, height=40)
    sheet.add("rect", kind="box", x=switch, y=26, width=RIGHT - switch, height=40)
    sheet.text((LEFT + switch) / 2, 39, "stage 1", "name")
    sheet.text((LEFT + switch) / 2, 54, "mosaic, MixUp, crop, colours, flip", "")
    sheet.text(RIGHT, 80, f"stage 2: the last {second}, without mosaic and MixUp", "small end")
    top, bottom = 104, 200
    frame(sheet, top, bottom)
    steps = [*range(0, optim.warmup_iters + 1, 250), *range(per_epoch * 4, rate.total_steps + 1, 2 * per_epoch)]
    points = [(across(s, rate.total_steps), bottom - (bottom - top) * rate(s) / rate.lr) for s in steps]
    sheet.add("path", kind="curve accent-line", d=course(points))
    sheet.add("path", kind="line dashed", d=f"M{switch:.1f} 90V{bottom}")
    sheet.text(LEFT - 6, top, f"{rate.lr:g}", "small end")
    sheet.text(LEFT - 6, bottom, "0", "small end")
    sheet.text(LEFT + 8, bottom - 14, f"learning rate, for {optim.base_batch} images per step", "small start")
    for epoch, kind in ((0, ""), (epochs // 2, ""), (epochs - second, " end"), (epochs, "")):
        sheet.text(across(epoch, epochs), bottom + 14, str(epoch), f"small{kind}")
    sheet.text((LEFT + RIGHT) / 2, bottom + 28, "epoch", "small")
    return sheet


@cache
def ages(momentum: float, ramp: int, steps: int) -> list[float]:
    """How many steps old the average's weights are in the mean, after each update.

    An update makes what is there a step older, and gives the newest weights, which are of age 0, their share.
    """
    average = ExpMomentumEMA(nn.Linear(1, 1), momentum, ramp)
    found, age = [], 0.0
    for step in range(steps):
        age = (1 - average.momentum_at(step)) * (age + 1)
        found.append(age)
    return found


def lag() -> Sheet:
    """Age of the average in the course of a run, with the official settings and with mini-160's."""
    sheet, steps = Sheet(360, 232), 40_000
    official, mini = OptimConfig(), PRESETS["mini-160"].optim
    course_of = ages(official.ema_momentum, official.ema_ramp, steps)
    top, bottom = 34, 200
    highest = 1 / official.ema_momentum
    sheet.text(LEFT, 10, "how old the averaged weights are", "title start")
    frame(sheet, top, bottom)
    unit = (bottom - top) / (1.1 * highest)
    points = [(across(step, steps), bottom - unit * course_of[step]) for step in range(0, steps, 400)]
    sheet.add("path", kind="curve accent-line", d=course(points))
    goal = bottom - unit * highest
    epochs = highest * official.base_batch / IMAGES
    sheet.add("path", kind="line dashed", d=f"M{LEFT} {goal:.1f}H{RIGHT}")
    sheet.text(
        LEFT + 8, goal - 9, f"1 / {official.ema_momentum:g} = {highest:,.0f} steps, {epochs:.0f} epochs", "small start"
    )
    short = ages(mini.ema_momentum, mini.ema_ramp, 1250)
    sheet.text(RIGHT, bottom - 34, f"mini-160, with {mini.ema_momentum:g}:", "small end")
    sheet.text(RIGHT, bottom - 18, f"{short[-1]:.0f} steps at its end", "small end")
    for step in range(0, steps + 1, 10_000):
        sheet.text(across(step, steps), bottom + 14, f"{step:,}", "small" + " end" * (step == steps))
    sheet.text((LEFT + RIGHT) / 2, bottom + 28, "step", "small")
    for value in (0, int(highest)):
        sheet.text(LEFT - 6, bottom if not value else goal, f"{value:,}", "small end")
    return sheet


def across(value: float, most: float) -> float:
    """Where a value lies between the left side of a frame and the right."""
    return LEFT + (RIGHT - LEFT) * value / most


def frame(sheet: Sheet, top: float, bottom: float) -> None:
    """Two axes."""
    sheet.add("path", kind="line", d=f"M{LEFT} {top - 6}V{bottom}H{RIGHT}")
