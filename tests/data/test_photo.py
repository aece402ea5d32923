"""The recorded outputs for the photograph: MMDetection's answer from the same weights, and what would be learned."""

import torch

from minirtmdet.boxes import bbox_overlaps
from minirtmdet.data.photo import BOX, photo, photo_maps
from minirtmdet.head.pipeline import RTMDetLoss
from minirtmdet.head.postprocess import predict_by_feat

# MMDetection's, as in tests/parity/test_nano_person.py; its right edge lies in the padding and is cut here
FOUND, SCORE = [14.4463, 22.8173, 512.0, 598.6708], 0.90128


def test_the_record_decodes_to_the_answer_of_mmdetection() -> None:
    shown = photo()
    (found,) = predict_by_feat(*photo_maps(), img_shapes=[shown.content], scale_factors=[shown.scale])
    torch.testing.assert_close(found.boxes[0], torch.tensor(FOUND), rtol=0, atol=0.05)
    torch.testing.assert_close(found.scores[0], torch.tensor(SCORE), rtol=0, atol=1e-3)
    assert found.scores[1] < 0.3
    assert bbox_overlaps(found.boxes[:1], torch.tensor([BOX])).item() > 0.97


def test_one_box_around_the_person_is_learned_on_the_coarsest_level_alone() -> None:
    loss = RTMDetLoss(num_classes=1)
    assigned = loss.assign(*photo_maps(), photo().ground_truth)
    priors = loss.flatten(*photo_maps())[2]
    positive = assigned.gt_inds[0] > 0
    assert priors[positive, 2].tolist() == [32] * 12
    assert assigned.max_overlaps[0, positive].min() > 0.97


def test_the_input_is_the_photograph_and_grey_beside_it() -> None:
    shown = photo()
    assert shown.images.shape == (1, 3, 320, 320)
    assert (shown.images[..., shown.content[1] :] == 114).all()
    assert shown.images[..., : shown.content[1]].float().std() > 50
