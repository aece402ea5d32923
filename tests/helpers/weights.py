"""What tests of files of weights share: small models, and the file that MMEngine's Runner wrote."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minirtmdet import build_detector
from minirtmdet.configs import ModelConfig
from minirtmdet.detector import RTMDet

RUNNER = Path(__file__).parents[1] / "parity/fixtures/runner.pth"
SMALL = ModelConfig(0.1, 0.125, 1, num_classes=3)
CLASSES = ("cat", "dog", "hen")


def small(num_classes: int = 3, seed: int = 0) -> RTMDet:
    torch.manual_seed(seed)
    return build_detector(SMALL, num_classes=num_classes)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Toy(nn.Module):
    """What the recorded Runner trained."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 2, 1)
        self.neck = nn.BatchNorm2d(2)


CFG = """
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[{mean}], std=[{std}], bgr_to_rgb={rgb}, batch_augments=None),
    backbone=dict(type='CSPNeXt', deepen_factor=0.1, widen_factor=0.125),
    neck=dict(type='CSPNeXtPAFPN', num_csp_blocks=1),
    bbox_head=dict(
        type='RTMDetSepBNHead', num_classes=3, stacked_convs=2, with_objectness=False, exp_on_reg={exp},
        share_conv=True, pred_kernel_size=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset={offset}, strides=[8, 16, 32])))
"""
BGR = {"mean": "103.53, 116.28, 123.675", "std": "57.375, 57.12, 58.395", "rgb": False, "exp": True, "offset": 0}
NARROW = replace(SMALL, exp_on_reg=False)


def write_mmdet(path: Path, state: dict[str, Tensor], **changes: object) -> Path:
    """A file of MMEngine's Runner, whose meta has the config as text."""
    torch.save({"state_dict": state, "meta": {"cfg": CFG.format(**{**BGR, **changes})}}, path)
    return path
