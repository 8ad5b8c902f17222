import pytest
import torch
from torch import nn

from assay.nn.affine import affine_parameters, init_batchnorm_, scales
from assay.nn.ghost_batch_norm import to_ghost_batch_norm


class FrozenBatchNorm2d(nn.Module):
    """As in detection libraries: scale and shift are buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(3))


class ConvBatchNorm(nn.Conv2d):
    """Named after what it folds; its weight is a convolution's."""


def every_kind():
    return nn.ModuleDict(
        {
            "one": nn.BatchNorm1d(2),
            "two": nn.BatchNorm2d(3),
            "three": nn.BatchNorm3d(4),
            "sync": nn.SyncBatchNorm(5),
            "ghost": to_ghost_batch_norm(nn.BatchNorm2d(6), 4),
            "plain": nn.BatchNorm2d(7, affine=False),
            "folded": ConvBatchNorm(2, 2, 1),
            "layer": nn.LayerNorm([2, 2]),
            "group": nn.GroupNorm(2, 4),
            "root": nn.RMSNorm(3),
            "linear": nn.Linear(2, 2),
        }
    )


def test_batch_norms_of_every_kind_are_found_and_other_layers_are_not():
    found = affine_parameters(every_kind())
    names = ("one", "two", "three", "sync", "ghost")
    assert list(found) == [f"{name}.{end}" for name in names for end in ("weight", "bias")]
    assert sum(p.numel() for p in found.values()) == 2 * (2 + 3 + 4 + 5 + 6)


def test_all_normalisation_is_found_where_it_is_asked_for():
    model = every_kind()
    found = affine_parameters(model, "norm")
    assert set(found) - set(affine_parameters(model)) == {
        "layer.weight", "layer.bias", "group.weight", "group.bias", "root.weight"
    }  # fmt: skip
    assert list(scales(model, "norm")) == ["one", "two", "three", "sync", "ghost", "layer", "group", "root"]
    assert scales(nn.BatchNorm1d(2)).keys() == {""}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (FrozenBatchNorm2d(), "layer '0' is a FrozenBatchNorm2d, whose scale is a buffer"),
        (nn.LazyBatchNorm2d(), "layer '0' is a LazyBatchNorm2d without a shape yet"),
    ],
)
def test_batch_norms_that_cannot_be_trained_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        affine_parameters(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("scheme", "low", "high", "shift"),
    [("uniform", 0, 1, 0), ("fixed", 1, 1, 0), ("oneone", 1, 1, 1), ("positivenegative", -1, 1, 0)],
)
def test_starts_have_their_ranges_and_leave_the_rest_alone(scheme, low, high, shift):
    model = nn.Sequential(nn.Conv2d(1, 5000, 1), nn.BatchNorm2d(5000, dtype=torch.float64), nn.GroupNorm(1, 2))
    with torch.no_grad():
        model[1].bias.fill_(7)
        model[1].running_mean.fill_(3)
        model[2].weight.fill_(7)
    before = model[0].weight.clone()
    init_batchnorm_(model, scheme, generator=torch.Generator().manual_seed(0))
    gamma = model[1].weight
    assert gamma.min() >= low
    assert gamma.max() <= high
    error = (high - low) / (12 * 5000) ** 0.5  # of the mean of uniform draws
    assert gamma.mean().item() == pytest.approx((low + high) / 2, abs=4 * error)
    assert gamma.std().item() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    assert (model[1].bias == shift).all()
    assert (model[1].running_mean == 3).all()
    assert (model[2].weight == 7).all()
    assert torch.equal(model[0].weight, before)


def test_equal_seeds_start_alike():
    layers = [nn.BatchNorm1d(9) for _ in range(3)]
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        init_batchnorm_(layer, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].weight, layers[2].weight)


def test_a_start_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="must hold a BatchNorm layer with affine parameters"):
        init_batchnorm_(nn.BatchNorm1d(3, affine=False))
    with pytest.raises((ValueError, TypeError), match="scheme"):  # TypeError where the tests check types
        init_batchnorm_(nn.BatchNorm1d(3), "normal")
