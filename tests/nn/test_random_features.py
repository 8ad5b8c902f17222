import pytest
import torch
from torch import nn

from assay.nn.random_features import INITS, init_weights_


def network():
    return nn.Sequential(nn.Conv2d(8, 100, 3, groups=2), nn.BatchNorm2d(100), nn.Flatten(), nn.Linear(100, 60))


@pytest.mark.parametrize("scheme", INITS)
def test_weights_have_the_second_moment_that_keeps_a_signal_through_relus(scheme):
    model = network()
    init_weights_(model, scheme, generator=torch.Generator().manual_seed(0))
    for layer, fan_in in ((model[0], 4 * 9), (model[3], 100)):
        weight = layer.weight.detach()
        # E w^2 = 2 / fan_in, as every row of an orthogonal one (no fewer columns than rows) has squared norm 2
        rows = 2 if scheme != "orthogonal" or len(weight) <= fan_in else 2 * fan_in / len(weight)
        wanted = rows / fan_in
        assert weight.square().mean().item() == pytest.approx(wanted, rel=0.06)
        assert weight.mean().item() == pytest.approx(0, abs=5 * (wanted / weight.numel()) ** 0.5)


def test_each_scheme_has_its_own_shape():
    model = network()
    draws = {}
    for scheme in INITS:
        init_weights_(model, scheme, generator=torch.Generator().manual_seed(0))
        draws[scheme] = model[0].weight.detach().clone(), model[3].weight.detach().clone()
    assert draws["kaiming_normal"][1].abs().max() > (6 / 100) ** 0.5  # beyond what a uniform draw can give
    assert draws["kaiming_uniform"][1].abs().max() <= (6 / 100) ** 0.5
    for weight, fan_in in zip(draws["binary"], (36, 100), strict=True):
        torch.testing.assert_close(weight.abs(), torch.full_like(weight, (2 / fan_in) ** 0.5))
    torch.testing.assert_close(draws["binary"][0].sign(), draws["kaiming_normal"][0].sign())
    linear = draws["orthogonal"][1]
    torch.testing.assert_close(linear @ linear.T, 2 * torch.eye(60), atol=1e-5, rtol=0)


def test_biases_and_normalisation_stay_as_they_were():
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    init_weights_(model)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"0.weight", "3.weight"}


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="must hold a convolution or a linear layer"):
        init_weights_(nn.BatchNorm1d(3))
    with pytest.raises((ValueError, TypeError), match="scheme"):
        init_weights_(network(), "zeros")
