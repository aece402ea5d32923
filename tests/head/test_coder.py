import torch

from minirtmdet.head.coder import DistancePointBBoxCoder

CODER = DistancePointBBoxCoder()
POINT = torch.tensor([[16.0, 24.0]])
BOX = torch.tensor([[10.0, 4.0, 60.0, 30.0]])


def test_order_is_left_top_right_bottom():
    distances = [[6.0, 20.0, 44.0, 6.0]]
    assert CODER.encode(POINT, BOX).tolist() == distances
    assert CODER.decode(POINT, torch.tensor(distances)).tolist() == BOX.tolist()


def test_there_and_back():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 50, 2, generator=generator) * 100
    boxes = torch.rand(3, 50, 4, generator=generator) * 100
    torch.testing.assert_close(CODER.decode(points, CODER.encode(points, boxes)), boxes)


def test_encode_clamps_to_max_dis():
    assert CODER.encode(POINT, BOX, max_dis=20.0).tolist() == [
        [6, torch.tensor(19.9).item(), torch.tensor(19.9).item(), 6]
    ]
    outside = torch.tensor([[0.0, 0.0]])
    assert CODER.encode(outside, BOX).tolist() == [[-10, -4, 60, 30]]
    assert CODER.encode(outside, BOX, max_dis=100.0).tolist() == [[0, 0, 60, 30]]


def test_decode_clips_to_height_and_width():
    distances = torch.tensor([[100.0, 100.0, 100.0, 100.0]])
    assert CODER.decode(POINT, distances, max_shape=(40, 80)).tolist() == [[0, 0, 80, 40]]
    assert DistancePointBBoxCoder(clip_border=False).decode(POINT, distances, (40, 80)).tolist() == [
        [-84, -76, 116, 124]
    ]


def test_decode_clips_each_image_to_its_own_shape():
    distances = torch.full((2, 1, 4), 100.0)
    boxes = CODER.decode(POINT, distances, torch.tensor([[40, 80], [30, 20]]))
    assert boxes.tolist() == [[[0, 0, 80, 40]], [[0, 0, 20, 30]]]


def test_decode_has_a_gradient_to_all_four_distances():
    distances = torch.ones(1, 4, requires_grad=True)
    (CODER.decode(POINT, distances) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert distances.grad.tolist() == [[-1, -2, 3, 4]]
