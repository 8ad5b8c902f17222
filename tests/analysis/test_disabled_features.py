import copy
import math

import pytest
import torch
from torch import nn

from assay.analysis.disabled_features import Disabled, disabled_features, disabled_share, zeroed_features
from assay.models.resnet import cifar_resnet
from assay.models.transformer import Transformer


def with_gammas(*values, dtype=torch.float32):
    layer = nn.BatchNorm1d(len(values), dtype=dtype)
    layer.weight.data = torch.tensor(values, dtype=dtype)
    return layer


def network():
    torch.manual_seed(0)
    return cifar_resnet(8, width=4).double().eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_features_are_counted_by_the_size_of_gamma(dtype):
    layer = with_gammas(0.0, -0.0, 0.0098, -0.0098, 0.01, -0.01, 0.0102, -1.0, 1e-9, -1e-9, dtype=dtype)
    assert disabled_features(nn.Sequential(layer)) == {"0": Disabled(6, 10)}
    assert disabled_features(layer, 0.5) == {"": Disabled(9, 10)}


def test_a_gamma_that_is_no_number_is_not_counted_as_off():
    assert disabled_features(with_gammas(math.nan, 0.0)) == {"": Disabled(1, 2)}


def test_layers_come_by_depth_and_their_counts_add_up():
    model = network()
    with torch.no_grad():
        model.bn.weight[:3] = 0
        model.blocks[2].bn2.weight[:5] = 0.001
        model.blocks[1].shortcut[1].weight.fill_(0.5)
    counts = disabled_features(model, 0.002)
    names = ["bn", *(f"blocks.{i}.{n}" for i in range(3) for n in ("bn1", "bn2", *(["shortcut.1"] if i else [])))]
    assert list(counts) == names
    assert (counts["bn"].disabled, counts["bn"].share) == (3, 0.75)
    assert counts["blocks.2.bn2"].disabled >= 5
    assert counts["blocks.1.shortcut.1"] == Disabled(0, 8)
    total = sum(int((m.weight.abs() < 0.002).sum()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert disabled_share(counts) == total / (4 + 2 * 4 + 3 * 8 + 3 * 16)


def test_uniform_gammas_are_off_by_chance_as_often_as_the_threshold_says():
    torch.manual_seed(0)
    share = disabled_share(disabled_features(cifar_resnet(110)))
    assert share == pytest.approx(0.01, abs=5 * (0.01 / 4144) ** 0.5)


def test_only_normalisation_counts_and_none_is_no_share():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))
    assert disabled_features(model) == {}
    assert math.isnan(disabled_share({}))
    assert disabled_features(model, norms="norm") == {"2": Disabled(0, 2)}
    text = Transformer(width=8, depth=1, heads=2, context=4)
    assert disabled_share(disabled_features(text, 2.0, norms="norm")) == 1.0


def test_zeroing_what_is_zero_already_changes_no_output():
    model = network()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight[layer.weight < 0.3] = 0
    want = model(x)
    with zeroed_features(model, 0.3) as zeroed:
        assert torch.equal(zeroed(x), want)


def test_zeroing_is_multiplying_gamma_by_a_mask_and_beta_stays():
    model = network()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (m for net in (model, masked) for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            layer.bias.copy_(torch.linspace(-1, 1, len(layer.bias)))
        for layer in (m for m in masked.modules() if isinstance(m, nn.BatchNorm2d)):
            layer.weight.mul_(layer.weight.abs() >= 0.4)
    before = copy.deepcopy(model.state_dict())
    want, plain = masked(x), model(x)
    assert not torch.equal(want, plain)
    with zeroed_features(model, 0.4):
        assert torch.equal(model(x), want)
        with torch.no_grad():
            model.bn.weight[model.bn.weight != 0] = 7  # what is not zeroed may be trained meanwhile
    kept = before["bn.weight"] < 0.4
    assert torch.equal(model.bn.weight[kept], before["bn.weight"][kept])
    assert (model.bn.weight[~kept] == 7).all()
    assert torch.equal(model.blocks[0].bn1.weight, before["blocks.0.bn1.weight"])


def test_gammas_come_back_after_an_error():
    model = network()
    before = model.bn.weight.detach().clone()
    with pytest.raises(RuntimeError), zeroed_features(model, 0.5):
        raise RuntimeError
    assert torch.equal(model.bn.weight, before)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_a_threshold_that_is_not_positive_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be positive"):
        disabled_features(network(), threshold)
