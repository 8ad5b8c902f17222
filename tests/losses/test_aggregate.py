"""The aggregate losses are what naive loops over bags make them, at any size of bags and of numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import huber_loss, log_softmax

from assay.losses.aggregate import InterpolatedAggregateLoss, bag_loss, instance_loss


def ragged(seed, sizes, *outputs, dtype=torch.float64):
    """Predictions, bags in a random order, and a generator for the targets."""
    generator = torch.Generator().manual_seed(seed)
    bags = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    bags = bags[torch.randperm(len(bags), generator=generator)]
    return torch.randn(len(bags), *outputs, generator=generator, dtype=dtype), bags, generator


def entropy(p, y):
    """-sum y log p in float64, nothing where y is 0."""
    return -sum(float(b) * math.log(float(a)) for a, b in zip(p, y, strict=True) if b)


def naive(f, y, bags, rho, kind):
    total = 0.0
    for a in range(len(y)):
        own = f[bags == a]
        if kind == "mse":
            bag, instance = ((own.mean(0) - y[a]) ** 2).mean(), ((own - y[a]) ** 2).mean()
        elif kind == "bce":
            p = own.sigmoid()
            bag = entropy([p.mean(), 1 - p.mean()], [y[a], 1 - y[a]])
            instance = sum(entropy([q, 1 - q], [y[a], 1 - y[a]]) for q in p) / len(p)
        else:
            p = own.softmax(1)
            bag, instance = entropy(p.mean(0), y[a]), sum(entropy(q, y[a]) for q in p) / len(p)
        total += (1 - rho) * float(bag) + rho * float(instance)
    return total / len(y)


def example(kind, sizes, seed=0):
    f, bags, generator = ragged(seed, sizes, *{"mse": (2,), "bce": (), "ce": (3,)}[kind])
    shape = {"mse": (len(sizes), 2), "bce": (len(sizes),), "ce": (len(sizes), 3)}[kind]
    y = torch.rand(shape, generator=generator, dtype=torch.float64)
    return f, y / y.sum(1, keepdim=True) if kind == "ce" else y, bags


@pytest.mark.parametrize("kind", ["mse", "bce", "ce"])
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), rho=st.sampled_from([0.0, 0.3, 1.0]))
def test_it_is_what_a_loop_over_bags_finds(kind, sizes, rho):
    f, y, bags = example(kind, sizes, seed=sum(sizes))
    assert InterpolatedAggregateLoss(rho, loss=kind)(f, y, bags).item() == pytest.approx(naive(f, y, bags, rho, kind))


@pytest.mark.parametrize("kind", ["mse", "bce", "ce"])
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_bags_of_equal_size_give_the_same_with_and_without_numbers(kind, rho):
    f, y, bags = example(kind, [4] * 5)
    loss = InterpolatedAggregateLoss(rho, loss=kind, reduction="none")
    stacked = f[bags.argsort(stable=True)].unflatten(0, (5, 4))
    torch.testing.assert_close(loss(stacked, y), loss(f, y, bags))
    assert loss(f, y, bags).shape == (5,)


def test_for_squared_errors_the_two_differ_by_the_variance_within_bags():
    f, bags, generator = ragged(1, [1, 2, 5, 3])
    y = torch.randn(4, generator=generator, dtype=torch.float64)
    spread = torch.stack([f[bags == a].var(correction=0) for a in range(4)]).mean()
    difference = instance_loss(f, y, bags) - bag_loss(f, y, bags)
    torch.testing.assert_close(difference, spread, rtol=0, atol=1e-12)
    for rho in (0.0, 0.25, 1.0):
        torch.testing.assert_close(InterpolatedAggregateLoss(rho)(f, y, bags), bag_loss(f, y, bags) + rho * spread)


@pytest.mark.parametrize("kind", ["mse", "bce", "ce"])
def test_with_one_sample_a_bag_all_are_the_ordinary_loss(kind):
    f, y, bags = example(kind, [1] * 6)
    f, bags = f[bags.argsort()], torch.arange(6)
    ordinary = {
        "mse": lambda: ((f - y) ** 2).mean(),
        "bce": lambda: torch.nn.functional.binary_cross_entropy_with_logits(f, y),
        "ce": lambda: torch.nn.functional.cross_entropy(f, y),
    }[kind]()
    for rho in (0.0, 0.4, 1.0):
        torch.testing.assert_close(InterpolatedAggregateLoss(rho, loss=kind)(f, y, bags), ordinary)


@pytest.mark.parametrize("kind", ["bce", "ce", "huber"])
def test_a_convex_loss_of_instances_is_no_less_than_that_of_the_bag(kind):
    f, y, bags = example("mse" if kind == "huber" else kind, [2, 3, 7, 4])
    loss = (lambda f, y: huber_loss(f, y.expand_as(f), reduction="none")) if kind == "huber" else kind
    instance, bag = (loss_of(3 * f, y, bags, loss=loss, reduction="none") for loss_of in (instance_loss, bag_loss))
    assert (instance >= bag - 1e-12).all()
    assert (instance > bag + 0.1).any()


def test_a_function_is_taken_as_the_loss_of_an_element():
    f, y, bags = example("mse", [2, 3])
    absolute = InterpolatedAggregateLoss(0.5, loss=lambda f, y: (f - y).abs())
    wanted = sum(
        0.5 * (f[bags == a].mean(0) - y[a]).abs().mean() + 0.5 * (f[bags == a] - y[a]).abs().mean() for a in range(2)
    )
    torch.testing.assert_close(absolute(f, y, bags), wanted / 2)


@pytest.mark.parametrize("kind", ["mse", "bce", "ce"])
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_gradients_are_right(kind, rho):
    f, y, bags = example(kind, [1, 3, 2])
    loss = InterpolatedAggregateLoss(rho, loss=kind)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss(f, y, bags), f)
    assert torch.autograd.gradgradcheck(lambda f: loss(f, y, bags), f)


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("kind", ["bce", "ce"])
def test_logits_of_any_size_leave_loss_and_gradient_finite(kind, numbered):
    rows = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, -1e4, -1e4]], dtype=torch.float32)
    f = (rows if kind == "ce" else rows[:, 0]).clone().requires_grad_()
    y = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]]) if kind == "ce" else torch.tensor([0.0, 1.0])
    given = (f, y, torch.tensor([0, 1, 1, 0])) if numbered else (f.unflatten(0, (2, 2)), y)
    for rho in (0.0, 0.5, 1.0):
        loss = InterpolatedAggregateLoss(rho, loss=kind)(*given)
        (gradient,) = torch.autograd.grad(loss, f)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_a_bag_that_is_surely_wrong_costs_the_logarithm_of_its_probability():
    f = torch.full((3,), -200.0)
    assert bag_loss(f, torch.ones(1), torch.zeros(3, dtype=torch.int64), loss="bce").item() == pytest.approx(200)


def test_the_mean_is_of_probabilities_and_not_of_logits():
    f = torch.tensor([[[0.0, 4.0], [4.0, 0.0]]])
    even = torch.tensor([[0.5, 0.5]])
    assert bag_loss(f, even, loss="ce").item() == pytest.approx(math.log(2))
    assert instance_loss(f, even, loss="ce").item() == pytest.approx(-float(log_softmax(f[0, 0], 0).mean()))


def test_reductions_are_over_bags():
    f, y, bags = example("mse", [1, 4, 2])
    each = bag_loss(f, y, bags, reduction="none")
    torch.testing.assert_close(bag_loss(f, y, bags, reduction="sum"), each.sum())
    torch.testing.assert_close(bag_loss(f, y, bags), each.mean())


def test_it_is_computed_in_float32_under_autocast():
    f, y, bags = example("ce", [3, 2])
    with torch.autocast("cpu", torch.bfloat16):
        found = bag_loss(f.bfloat16(), y.bfloat16(), bags, loss="ce")
    assert found.dtype == torch.float32
    wanted = bag_loss(f.bfloat16().double(), y.bfloat16().double(), bags, loss="ce")
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_the_same_on_a_gpu():
    f, y, bags = example("ce", [3, 2, 4])
    found = InterpolatedAggregateLoss(0.3, loss="ce")(f.cuda(), y.cuda(), bags.cuda())
    torch.testing.assert_close(found.cpu(), InterpolatedAggregateLoss(0.3, loss="ce")(f, y, bags))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: InterpolatedAggregateLoss(-0.1), "rho must be at least 0 and finite, got -0.1"),
        (lambda: InterpolatedAggregateLoss(math.nan), "rho must be at least 0 and finite"),
        (lambda: bag_loss(torch.ones(3), torch.ones(2), torch.tensor([0, 0, 0])), "bag 1 is empty"),
        (lambda: bag_loss(torch.ones(3), torch.ones(3), torch.tensor([0, 2, 2])), "bag 1 is empty"),
        (lambda: bag_loss(torch.ones(3), torch.ones(2), torch.tensor([0, 1, 2])), "bags must lie below 2, got 2"),
        (lambda: bag_loss(torch.ones(2), torch.ones(2), torch.tensor([0, -1])), "from 0 up"),
        (lambda: bag_loss(torch.ones(3), torch.ones(2), torch.tensor([0, 1])), "bags \\[samples\\]"),
        (lambda: bag_loss(torch.ones(3, 2), torch.ones(2), torch.tensor([0, 1, 1])), "predictions must be"),
        (lambda: bag_loss(torch.ones(3, 2), torch.ones(2)), "predictions without bags must be"),
        (lambda: bag_loss(torch.ones(2, 0), torch.ones(2)), "at least one bag and sample"),
        (lambda: bag_loss(torch.ones(1, 2), torch.tensor([math.nan])), "targets must be finite"),
        (lambda: bag_loss(torch.ones(1, 2), torch.tensor([1.5]), loss="bce"), "must lie in \\[0, 1\\]"),
        (lambda: bag_loss(torch.ones(1, 2, 2), torch.tensor([[0.5, 0.1]]), loss="ce"), "must sum to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(("option", "says"), [({"loss": "mae"}, "mae"), ({"reduction": "max"}, "max")])
def test_unknown_words_are_refused(option, says):
    with pytest.raises((ValueError, TypeError), match=says):  # a TypeError where types are checked
        InterpolatedAggregateLoss(**option)


def test_a_weight_above_one_warns():
    with pytest.warns(UserWarning, match="rho is usually in \\[0, 1\\], got 2"):
        InterpolatedAggregateLoss(2.0)
