import pytest

from minirtmdet.configs import INS_MODELS, MODELS, ModelConfig
from minirtmdet.detector import MEAN, STD
from minirtmdet.weights.origins import mmdet_origin

# the parts of MMDetection's rtmdet_s_8xb32-300e_coco.py that say what the network is, as its Runner writes them
SMALL = """
default_scope = 'mmdet'
img_scale = (640, 640)
model = dict(
    backbone=dict(
        act_cfg=dict(inplace=True, type='SiLU'), arch='P5', channel_attention=True, deepen_factor=0.33,
        expand_ratio=0.5, norm_cfg=dict(type='SyncBN'), type='CSPNeXt', widen_factor=0.5),
    bbox_head=dict(
        anchor_generator=dict(offset=0, strides=[8, 16, 32], type='MlvlPointGenerator'),
        exp_on_reg=False, feat_channels=128, in_channels=128, num_classes=80, pred_kernel_size=1, share_conv=True,
        stacked_convs=2, type='RTMDetSepBNHead', with_objectness=False),
    data_preprocessor=dict(
        batch_augments=None, bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395],
        type='DetDataPreprocessor'),
    neck=dict(in_channels=[128, 256, 512], num_csp_blocks=1, out_channels=128, type='CSPNeXtPAFPN'),
    train_cfg=dict(allowed_border=-1, pos_weight=-1),
    type='RTMDet')
"""


def test_a_config_says_the_whole_network():
    origin = mmdet_origin(SMALL)
    assert origin is not None
    assert origin.model == MODELS["s"]
    assert (origin.channels, origin.mean, origin.std, origin.certain) == ("BGR", MEAN, STD, True)


def test_what_is_left_out_has_mmdetections_defaults():
    # RTMDetSepBNHead, ATSSHead, MlvlPointGenerator, CSPNeXt and CSPNeXtPAFPN of MMDetection 3.3.0
    origin = mmdet_origin("model = dict(bbox_head=dict(type='mmdet.RTMDetSepBNHead'))")
    assert origin is not None
    assert origin.model == ModelConfig(
        exp_on_reg=False, stacked_convs=4, with_objectness=True, prior_offset=0.5, share_conv=True
    )
    assert (origin.channels, origin.mean) == (None, None)
    shared = mmdet_origin("model = {'bbox_head': {'type': 'RTMDetHead', 'exp_on_reg': False}}")
    assert shared is not None
    assert shared.model is not None
    assert (shared.model.separate_bn, shared.model.exp_on_reg, shared.model.pred_kernel_size) == (False, True, 3)


def test_a_config_with_masks_says_so():
    origin = mmdet_origin(SMALL.replace("RTMDetSepBNHead", "RTMDetInsSepBNHead"))
    assert origin is not None
    assert origin.model == INS_MODELS["ins-s"]
    bare = mmdet_origin("model = dict(bbox_head=dict(type='mmdet.RTMDetInsSepBNHead'))")
    assert bare is not None
    assert bare.model == ModelConfig(exp_on_reg=False, stacked_convs=4, prior_offset=0.5, masks=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model = dict(",
        "model = 3",
        "model = dict(bbox_head=dict(type='YOLOXHead'))",
        "model = dict(bbox_head=3)",
        "model = __import__('os').system('touch owned')",
        "model = dict(**__import__('os').environ)",
        "(" * 100_000,
        "x = 1\n" * 200_000,
    ],
    ids=["empty", "broken", "number", "other", "part", "call", "stars", "deep", "long"],
)
def test_other_texts_say_nothing_and_run_nothing(text: str):
    assert mmdet_origin(text) is None


def test_a_value_that_is_no_number_leaves_the_network_unknown():
    origin = mmdet_origin("model = dict(backbone=dict(widen_factor=w), bbox_head=dict(type='RTMDetSepBNHead'))")
    assert origin is not None
    assert origin.model is None
