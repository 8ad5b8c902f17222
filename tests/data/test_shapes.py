"""Pictures of shapes hold what they say, and are those of their seed."""

import math

import pytest
import torch

from assay.data.shapes import CLASSES, NOISE, draw_shapes


def drawn(pictures=400, side=32, seed=0):
    return draw_shapes(pictures, side, torch.Generator().manual_seed(seed))


def test_the_same_seed_makes_the_same_pictures_and_another_others():
    (x, y), (again, labels), (other, _) = drawn(), drawn(), drawn(seed=1)
    assert torch.equal(x, again)
    assert torch.equal(y, labels)
    assert not torch.equal(x, other)
    assert (x.shape, y.shape) == ((400, 3, 32, 32), (400, 32, 32))


def test_every_class_occurs_and_the_ground_most():
    _, y = drawn()
    shares = torch.bincount(y.flatten(), minlength=len(CLASSES)) / y.numel()
    assert len(shares) == len(CLASSES) == 7
    assert 0.5 < shares[0] < 0.8
    assert (shares[1:] > 0.02).all()


def test_the_ground_changes_slowly_plain_shapes_have_one_colour_and_striped_ones_two():
    """Spread of each channel within one class of one picture: by noise alone, or by two colours besides."""
    x, y = drawn(side=64)
    spread = {"plain": [], "striped": []}
    for picture, labels in zip(x, y, strict=True):
        present = labels.unique()
        if len(present) == 2 and present[0] == 0 and (labels > 0).sum() > 100:  # likely a single shape
            inside = picture[:, labels == present[1]]
            spread["plain" if present[1] < 4 else "striped"].append(inside.std(1).mean().item())
    plain, striped = (torch.tensor(spread[kind]) for kind in ("plain", "striped"))
    assert plain.median().item() == pytest.approx(NOISE, rel=0.1)
    assert striped.median() > 3 * NOISE


@pytest.mark.parametrize(
    ("kind", "share"), [("disc", 1.0), ("box", 2.8 / (1.49 * math.pi)), ("triangle", 3 * 3**0.5 / (4 * math.pi))]
)
def test_a_shape_covers_the_share_of_the_circle_around_it_that_its_kind_does(kind, share):
    _, y = drawn(600, side=64)
    edge = torch.cat([y[:, 0], y[:, -1], y[:, :, 0], y[:, :, -1]], 1).any(1)
    found = []
    for labels in y[~edge]:
        ground, *classes = labels.unique().tolist()
        if ground == 0 and len(classes) == 1 and CLASSES[classes[0]].endswith(kind):  # most are a single shape
            places = labels.nonzero().double()
            radius = (places - places.mean(0)).norm(dim=1).max() + 0.5
            found.append(len(places) / (math.pi * radius**2))
    assert len(found) > 10
    assert torch.tensor(found).median().item() == pytest.approx(share, rel=0.1)
