import inspect
import re
from dataclasses import replace

import pytest

from minirtmdet import presets
from minirtmdet.configs import MODELS, STRIDES, DataConfig, TrainConfig
from minirtmdet.presets import PRESETS


@pytest.mark.parametrize(("name", "function"), [("mini-160", presets._mini_160), ("tiny-320", presets._tiny_320)])
def test_a_preset_says_how_many_images_it_sees(name, function):
    config = PRESETS[name]
    assert config.name == name
    assert config.data.input_size % STRIDES[-1] == 0
    seen = config.epochs * (config.data.scenes.train // config.batch_size) * config.batch_size
    stated = re.search(r"([\d,]+) images in (\d+) epochs", inspect.getdoc(function))
    assert int(stated[1].replace(",", "")) == seen
    assert int(stated[2]) == config.epochs


# what rtmdet_*_8xb32-300e_coco.py give: (mosaic cache, MixUp's probability and cache, smallest scale)
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("tiny", (20, 0.5, 10, 0.5)),
        ("s", (40, 1.0, 20, 0.5)),
        ("m", (40, 1.0, 20, 0.1)),
        ("l", (40, 1.0, 20, 0.1)),
        ("x", (40, 1.0, 20, 0.1)),
    ],
)
def test_the_published_recipes(size, expected):
    config = PRESETS[f"rtmdet-{size}"]
    augment, optim = config.augment, config.optim
    assert (augment.mosaic_cache, augment.mixup, augment.mixup_cache, augment.scale[0]) == expected
    assert (augment.mosaic, augment.scale[1], augment.hsv, augment.flip) == (1.0, 2.0, (5, 30, 30), 0.5)
    assert (augment.stage2_epochs, augment.empty_crops, augment.min_box_size) == (20, "redraw", 0.0)
    assert (config.epochs, config.eval_every, config.batch_size, config.data.input_size) == (300, 10, 32, 640)
    assert (optim.lr, optim.base_batch, optim.weight_decay) == (0.004, 256, 0.05)
    assert (optim.warmup_iters, optim.warmup_factor, optim.flat_fraction, optim.final_factor) == (1000, 1e-5, 0.5, 0.05)
    assert (optim.ema_momentum, optim.ema_ramp) == (2e-4, 2000)
    assert config.model == MODELS[size]


def test_without_settings_it_is_the_recipe_of_l():
    assert TrainConfig() == replace(PRESETS["rtmdet-l"], name="run", data=DataConfig())


def test_the_steps_of_few_images_are_as_stated():
    config = PRESETS["few-320"]
    stated = re.search(r"(\d+) images make ([\d,]+) steps", inspect.getdoc(presets._few_320))
    assert config.epochs * (int(stated[1]) // config.batch_size) == int(stated[2].replace(",", ""))
