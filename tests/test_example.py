from minirtmdet.boxes import bbox_overlaps, points_inside
from minirtmdet.data.example import SIZE, example
from minirtmdet.head.priors import MlvlPointGenerator


def test_boxes_are_those_of_the_pixels_and_always_the_same():
    first, second = example(), example()
    assert first.boxes.tolist() == [[13, 39, 108, 121], [66, 92, 142, 125], [122, 26, 142, 46]]
    assert [first.names[i] for i in first.labels] == ["panda", "car", "tennis ball"]
    assert (first.image == second.image).all()
    assert first.images.shape == (1, 3, SIZE, SIZE)
    assert first.ground_truth.mask.sum() == 3


def test_some_priors_lie_in_two_boxes_and_each_box_holds_some():
    scene = example()
    sizes = [(SIZE // stride, SIZE // stride) for stride in (8, 16, 32)]
    levels = MlvlPointGenerator().grid_priors(sizes)
    inside = [points_inside(level[:, :2], scene.boxes) for level in levels]  # [3,N] a level
    assert [[int(n) for n in level.sum(1)] for level in inside] == [
        [12 * 11, 9 * 4, 2 * 2],
        [6 * 5, 4 * 2, 1],
        [3 * 2, 2 * 1, 1],
    ]
    assert all((level.sum(0) == 2).any() for level in inside[:2])
    overlaps = bbox_overlaps(scene.boxes, scene.boxes)
    assert 0.1 < overlaps[0, 1] < 0.3
    assert overlaps[2, :2].max() == 0
