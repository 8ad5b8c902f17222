"""Intersection over union against scikit-learn, which sees all pixels as samples of one classification."""

import pytest
import torch
from sklearn.metrics import jaccard_score

from assay.metrics.segmentation import Overlap, mean_iou, overlap


def pictures(classes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (5, 7, 9), generator=draw)
    wrong = torch.rand(target.shape, generator=draw) < 0.3
    return torch.where(wrong, torch.randint(classes, target.shape, generator=draw), target), target


@pytest.mark.parametrize("classes", [2, 7])
def test_mean_iou_is_the_macro_jaccard_score_of_all_pixels(classes):
    found, target = pictures(classes)
    want = jaccard_score(target.flatten(), found.flatten(), average="macro")
    assert mean_iou(overlap(found, target, classes)).item() == pytest.approx(want)


def test_each_picture_is_counted_by_itself():
    found, target = pictures(3)
    whole = overlap(found, target, 3)
    for i in range(5):
        alone = overlap(found[i : i + 1], target[i : i + 1], 3)
        assert torch.equal(whole.intersection[i], alone.intersection[0])
        assert torch.equal(whole.union[i], alone.union[0])
        for c in range(3):
            assert whole.intersection[i, c] == ((found[i] == c) & (target[i] == c)).sum()
            assert whole.union[i, c] == ((found[i] == c) | (target[i] == c)).sum()


def test_a_class_that_occurs_nowhere_is_left_out_and_one_that_is_missed_counts_as_zero():
    target = torch.tensor([[[0, 0, 1, 1]]])
    assert mean_iou(overlap(target, target, 5)) == 1
    assert mean_iou(overlap(torch.zeros_like(target), target, 5)).item() == pytest.approx((2 / 4 + 0) / 2)
    assert mean_iou(Overlap(torch.tensor([[1, 0]]), torch.tensor([[2, 0]]))) == 0.5
