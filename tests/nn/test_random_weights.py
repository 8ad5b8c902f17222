import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW

from assay.models.resnet import cifar_resnet
from assay.nn.random_weights import RandomWeights, add_random_weights, merge_random_weights
from assay.nn.trainable import trainable_only


def treated(model, per_channel=2, seed=0):
    add_random_weights(model, per_channel, generator=torch.Generator().manual_seed(seed))
    trainable_only(model, "random")
    return model


def convolutions(model):
    return {name: m.weight.detach().clone() for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def small():
    torch.manual_seed(0)
    return cifar_resnet(8, width=4).double()


def data(size=16):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(size, 3, 8, 8, generator=draw, dtype=torch.float64)
    return x, torch.randint(10, (size,), generator=draw)


def test_nothing_changes_before_the_first_step():
    model, (x, _) = small(), data()
    want, weights = model.eval()(x), convolutions(model)
    treated(model)
    assert torch.equal(model(x), want)
    assert all(torch.equal(a, b) for a, b in zip(convolutions(model).values(), weights.values(), strict=True))


@pytest.mark.parametrize("per_channel", [1, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: AdamW(p, 0.1, weight_decay=0.5),
    ],
)
def test_exactly_so_many_weights_a_channel_move_under_momentum_and_decay(per_channel, make):
    model = treated(small(), per_channel)
    before, rest = convolutions(model), copy.deepcopy(model.state_dict())
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for _ in range(4):
        x, y = data()
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, weight in convolutions(model).items():
        moved = (weight != before[name]).flatten(1).sum(dim=1)
        assert (moved == per_channel).all(), name
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in held) == per_channel * sum(len(weight) for weight in before.values())
    for name, value in model.state_dict().items():
        if not name.endswith((".values", "running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, rest[name]), name


def test_gradients_are_the_entries_of_the_whole_weights_gradient():
    plain, (x, y) = small(), data()
    model = treated(copy.deepcopy(plain))
    cross_entropy(plain(x), y).backward()
    cross_entropy(model(x), y).backward()
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d):
            found = model.get_submodule(f"{name}.parametrizations.weight.0")
            for channel, places in enumerate(found.index.tolist()):
                wanted = layer.weight.grad[channel].flatten()[places]
                torch.testing.assert_close(found.values.grad[channel], wanted)
            assert model.get_submodule(f"{name}.parametrizations.weight").original.grad is None


def test_every_place_is_as_likely_and_none_is_taken_twice():
    draw = torch.Generator().manual_seed(0)
    index = RandomWeights(torch.zeros(6000, 3, 2), 2, draw).index
    assert (index[:, 0] < index[:, 1]).all()
    shares = torch.bincount(index.flatten(), minlength=6) / 6000
    torch.testing.assert_close(shares, torch.full((6,), 1 / 3), atol=5 * (2 / 9 / 6000) ** 0.5, rtol=0)


def test_places_follow_the_seed():
    one, same, other = (treated(small(), seed=seed).conv.parametrizations.weight[0].index for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_first_order_gradients_are_right():
    layer = RandomWeights(torch.randn(3, 2, 2, dtype=torch.float64), 2, torch.Generator().manual_seed(0))
    start = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def f(values, start):
        return torch.func.functional_call(layer, {"values": values}, (start,))

    assert torch.autograd.gradcheck(f, (layer.values, start))


def test_merging_keeps_the_function_and_gives_plain_layers_back():
    plain, (x, y) = small(), data()
    model = treated(copy.deepcopy(plain))
    cross_entropy(model(x), y).backward()
    SGD([p for p in model.parameters() if p.requires_grad], 0.5).step()
    want = model.eval()(x)
    merge_random_weights(model)
    assert torch.equal(model(x), want)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    merge_random_weights(model)


def test_state_dict_goes_to_a_model_treated_alike():
    model, (x, y) = treated(small()), data()
    cross_entropy(model(x), y).backward()
    SGD([p for p in model.parameters() if p.requires_grad], 0.5).step()
    torch.manual_seed(5)
    other = treated(cifar_resnet(8, width=4).double(), seed=9)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("make", "per_channel", "message"),
    [
        (lambda: nn.Linear(3, 3), 2, "must hold a convolution"),
        (lambda: nn.Conv2d(1, 3, 1), 2, "at most 1, the weights a channel of '', got 2"),
        (lambda: nn.Conv2d(1, 3, 3), 0, "per_channel must be positive, got 0"),
        (lambda: treated(nn.Conv2d(1, 3, 3)), 2, "has random weights already"),
    ],
)
def test_what_cannot_be_treated_is_refused(make, per_channel, message):
    with pytest.raises(ValueError, match=message):
        add_random_weights(make(), per_channel)


@pytest.mark.skipif(hasattr(add_random_weights, "__wrapped__"), reason="the checks of shapes break the graph")
def test_compiles_without_a_graph_break():
    model = treated(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    x = torch.randn(2, 3, 6, 6)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
