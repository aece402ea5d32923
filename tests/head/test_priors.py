import math

import pytest
import torch

from minirtmdet.head.priors import MlvlPointGenerator, border_flags
from minirtmdet.reference import priors as reference


def test_corner_priors_by_hand():
    levels = MlvlPointGenerator().grid_priors([(4, 4), (2, 2), (1, 1)])
    assert [len(level) for level in levels] == [16, 4, 1]
    assert levels[0][5].tolist() == [8, 8, 8, 8]  # row 1, column 1
    assert levels[1].tolist() == [[0, 0, 16, 16], [16, 0, 16, 16], [0, 16, 16, 16], [16, 16, 16, 16]]


def test_8400_priors_at_640():
    assert sum(map(len, MlvlPointGenerator().grid_priors([(80, 80), (40, 40), (20, 20)]))) == 8400


def test_centre_offset():
    level = MlvlPointGenerator(strides=[32], offset=0.5).grid_priors([(1, 2)])[0]
    assert level.tolist() == [[16, 16, 32, 32], [48, 16, 32, 32]]


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("size", [(3, 5), (1, 7), (6, 1)])
def test_reading_lane_agrees_on_rectangular_maps(size, offset):
    for stride in (8, 32):
        ours = MlvlPointGenerator([stride], offset).grid_priors([size])[0]
        assert torch.equal(ours, reference.grid_priors(*size, stride, offset))


@pytest.mark.parametrize("pad_shape", [(64, 64), (40, 64), (64, 33), (8, 8), (1, 1), (0, 64), (65, 200)])
def test_valid_flags_agree_and_count_ceil(pad_shape):
    sizes = [(8, 8), (4, 4), (2, 2)]
    generator = MlvlPointGenerator()
    flags = generator.valid_flags(sizes, torch.tensor([pad_shape, (64, 64)]))
    for level, (height, width), stride in zip(flags, sizes, generator.strides, strict=True):
        assert torch.equal(level[0], reference.valid_flags(height, width, stride, pad_shape))
        rows = min(math.ceil(pad_shape[0] / stride), height)
        columns = min(math.ceil(pad_shape[1] / stride), width)
        assert level[0].sum() == rows * columns
        assert level[1].all()


def test_dtype_is_kept():
    assert MlvlPointGenerator().grid_priors([(1, 1)] * 3, dtype=torch.float64)[2].dtype == torch.float64


def test_wrong_number_of_levels():
    generator = MlvlPointGenerator()
    with pytest.raises(ValueError, match=r"2 feature maps for 3 strides \(8, 16, 32\)"):
        generator.grid_priors([(4, 4), (2, 2)])
    with pytest.raises(ValueError, match="2 feature maps for 3 strides"):
        generator.valid_flags([(4, 4), (2, 2)], torch.tensor([[32, 32]]))


def test_border_test_is_made_for_points():
    priors = MlvlPointGenerator([8], offset=0.5).grid_priors([(2, 3)])[0]  # x 4, 12, 20; y 4, 12
    shapes = torch.tensor([[16, 24], [8, 12], [0, 0]])
    assert border_flags(priors, shapes, 0).tolist() == [[True] * 6, [True, False, False] + [False] * 3, [False] * 6]
    assert border_flags(priors, shapes, 1)[1].tolist() == [True, True, False] + [False] * 3
    assert border_flags(priors, shapes, -1).all()
