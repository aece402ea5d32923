"""Every name and shape of MMDetection's checkpoints, and how many numbers they hold.

``keys/keys.json.gz`` lists the state_dicts of the ten official configs, built by MMDetection 3.3.0, and the arrays of
the published nano person detector, whose BatchNorms are folded into the convolutions.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from minirtmdet.configs import MODELS
from minirtmdet.detector import RTMDet, build_detector

KEYS = json.loads(gzip.decompress((Path(__file__).parent / "keys" / "keys.json.gz").read_bytes()))


def on_paper(model, **options) -> RTMDet:
    with torch.device("meta"):  # shapes only
        return build_detector(model, **options)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


INS = ["ins-tiny", "ins-s", "ins-m", "ins-l", "ins-x"]


@pytest.mark.parametrize("name", ["tiny", "s", "m", "l", "x", *INS])
def test_state_dict_is_that_of_mmdetection(name):
    state = {key: list(value.shape) for key, value in on_paper(name).state_dict().items()}
    assert state == KEYS[name]
    assert list(state) == list(KEYS[name]), "same keys in another order"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *[("tiny", 476), ("s", 512), ("m", 692), ("l", 872), ("x", 1052)],
        *zip(INS, (546, 582, 762, 942, 1122), strict=True),
    ],
)
def test_shared_convolutions_are_listed_once_a_level(name, keys):
    assert len(on_paper(name).state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "backbone", "neck", "head", "total"),
    [
        ("tiny", 2_348_700, 2_188_944, 358_524, 4_896_168),
        ("s", 4_378_320, 3_883_200, 625_404, 8_886_924),
        ("m", 12_279_432, 11_049_408, 1_380_348, 24_709_188),
        ("l", 26_138_912, 23_746_688, 2_430_204, 52_315_804),
        ("x", 47_569_560, 43_511_040, 3_774_972, 94_855_572),
        ("ins-tiny", 2_348_700, 2_188_944, 1_100_543, 5_638_187),
        ("ins-s", 4_378_320, 3_883_200, 1_921_791, 10_183_311),
        ("ins-m", 12_279_432, 11_049_408, 4_246_271, 27_575_111),
        ("ins-l", 26_138_912, 23_746_688, 7_480_063, 57_365_663),
        ("ins-x", 47_569_560, 43_511_040, 11_623_167, 102_703_767),
    ],
)
def test_unique_parameters(name, backbone, neck, head, total):
    model = on_paper(name)
    assert [count(part) for part in (model.backbone, model.neck, model.bbox_head)] == [backbone, neck, head]
    assert count(model) == total


@pytest.mark.parametrize(
    ("name", "mask_head", "kernels"),
    [
        ("ins-tiny", 361_064, 547_995),
        ("ins-s", 641_160, 951_675),
        ("ins-m", 1_440_968, 2_090_811),
        ("ins-l", 2_560_264, 3_672_315),
        ("ins-x", 3_999_048, 5_696_187),
    ],
)
def test_parameters_that_masks_cost(name, mask_head, kernels):
    head = on_paper(name).bbox_head
    assert (count(head.mask_head), count(head.kernel_convs) + count(head.rtm_kernel)) == (mask_head, kernels)


def test_nano_person_has_the_published_arrays():
    expected = {}
    for key, value in on_paper("nano", num_classes=1).named_parameters():
        if not key.endswith("bn.weight"):  # what folding a BatchNorm into its convolution leaves is a bias
            expected[key.replace(".bn.bias", ".conv.bias")] = list(value.shape)
    assert expected == KEYS["nano_person_fused"]


def test_nano_person_parameters():
    # 994,618 is what MMDetection's head class has by default, with an objectness branch of 3 x (64 + 1);
    # the published arrays hold none
    nano = replace(MODELS["nano"], num_classes=1)
    assert count(on_paper(nano)) == 994_423
    assert count(on_paper(replace(nano, with_objectness=True))) == 994_618
