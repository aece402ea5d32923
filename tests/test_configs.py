import dataclasses
import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest

from minirtmdet import configs
from minirtmdet.configs import ScenesConfig, TrainConfig, config_from_json, config_to_json
from minirtmdet.presets import PRESETS


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


def test_settings_survive_as_text():
    config = replace(PRESETS["tiny-320"], weights=Path("a/b.pth"), data=replace(PRESETS["tiny-320"].data, workers=3))
    config = replace(config, data=replace(config.data, scenes=ScenesConfig(backgrounds=Path("photos"))))
    assert config_from_json(config_to_json(config, ["café"])) == (config, ("café",))
    with pytest.raises(ValueError, match=r"unknown setting config\.optim\.lrr"):
        config_from_json('{"classes": [], "config": {"optim": {"lrr": 1}}}')
    assert config_from_json('{"classes": [], "config": {"epochs": 3}}')[0] == TrainConfig(epochs=3)
