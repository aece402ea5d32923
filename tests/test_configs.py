import dataclasses
import inspect
import re

import pytest

from minirtmdet import configs
from minirtmdet.configs import PRESETS, STRIDES, TrainConfig


@pytest.mark.parametrize(("name", "function"), [("mini-160", configs._mini_160), ("tiny-320", configs._tiny_320)])
def test_a_preset_says_how_many_images_it_sees(name, function):
    config = PRESETS[name]
    assert config.name == name
    assert config.data.input_size % STRIDES[-1] == 0
    seen = config.epochs * (config.data.scenes.train // config.batch_size) * config.batch_size
    stated = re.search(r"([\d,]+) images in (\d+) epochs", inspect.getdoc(function))
    assert int(stated[1].replace(",", "")) == seen
    assert int(stated[2]) == config.epochs


def every_field(kind, prefix=""):
    for field in dataclasses.fields(kind):
        yield kind, field
        if dataclasses.is_dataclass(field.type):
            yield from every_field(field.type, f"{prefix}{field.name}.")


def test_every_setting_has_its_reason_below_it():
    source = inspect.getsource(configs)
    for kind, field in every_field(TrainConfig):
        if not dataclasses.is_dataclass(field.type):
            body = source[source.index(f"class {kind.__name__}") :]
            assert re.search(rf"\n    {field.name}: [^\n]+\n    \"\"\"", body), f"{kind.__name__}.{field.name}"


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["mini-160"].epochs = 7
