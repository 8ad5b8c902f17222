import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from assay.losses.class_correlation import class_correlation_loss
from assay.nn.alpha_batch_norm import AlphaBatchNorm, alpha_bn
from assay.nn.core_adapter import CoreAdapter


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(**settings):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, **settings), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


def batches(count=4):
    return [3 * draw((8, 2, 4, 4), seed) + 1 for seed in range(count)]


def states(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(model, state):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}


def by_hand(model, alpha, xs, make, loss=class_correlation_loss, steps=1):
    """The loop that the adapter spares its user."""
    model = alpha_bn(copy.deepcopy(model), alpha).model
    optimizer = make([model[1].weight, model[1].bias])
    found = []
    for x in xs:
        for step in range(steps):
            logits = model(x)
            if step == 0:
                found.append(logits.detach())
            optimizer.zero_grad()
            loss(logits).backward()
            optimizer.step()
    return found


def entropy(logits):
    return -(F.log_softmax(logits, 1) * logits.softmax(1)).sum(1).mean()


SGD_ = partial(SGD, lr=0.3, momentum=0.9)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("name", "loss"), [("core", class_correlation_loss), ("entropy", entropy)])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_stream_equals_the_loop_by_hand(alpha, name, loss, steps):
    model, xs = network(), batches()
    adapter = CoreAdapter(model, alpha, loss=name, optimizer=SGD_, steps=steps)
    with torch.no_grad():
        found = [adapter(x) for x in xs]
    for got, want in zip(found, by_hand(model, alpha, xs, SGD_, loss, steps), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        assert not got.requires_grad


def test_the_default_optimizer_is_adam():
    model, xs = network(), batches()
    found = [adapter(x) for adapter in [CoreAdapter(model, 0.5, lr=0.02)] for x in xs]
    want = by_hand(model, 0.5, xs, partial(torch.optim.Adam, lr=0.02))
    torch.testing.assert_close(torch.cat(found), torch.cat(want), rtol=1e-4, atol=1e-5)


def test_a_loss_of_ones_own_is_followed():
    model, xs = network(), batches()
    found = [adapter(x) for adapter in [CoreAdapter(model, 0.5, loss=entropy, optimizer=SGD_)] for x in xs]
    torch.testing.assert_close(
        torch.cat(found), torch.cat(by_hand(model, 0.5, xs, SGD_, entropy)), rtol=1e-4, atol=1e-5
    )


def test_each_step_lowers_the_loss_of_its_batch():
    x = batches()[0]
    adapter = CoreAdapter(network(), 0.5, lr=1e-2)
    losses = [class_correlation_loss(adapter(x)).item() for _ in range(8)]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_only_gamma_and_beta_change_and_the_source_model_not_at_all():
    model = network()
    state, layers = states(model), list(model.modules())
    wanted = [p.requires_grad for p in model.parameters()]
    adapter = CoreAdapter(model, 0.5, lr=0.1)
    for x in batches():
        adapter(x)
    assert differing(model, state) == set()
    assert list(model.modules()) == layers
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert differing(adapter.model, state) == {"1.weight", "1.bias"}
    assert all(p.grad is None for p in adapter.parameters())


def test_reset_restores_the_source_to_the_bit_and_the_stream_repeats():
    model = network()
    adapter = CoreAdapter(model, 0.5, lr=0.1)
    first = [adapter(x) for x in batches()]
    adapter.reset()
    assert differing(adapter.model, states(model)) == set()
    assert adapter.optimizer.state_dict()["state"] == {}
    again = [adapter(x) for x in batches()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_in_place_adapts_the_model_itself_and_release_gives_it_back():
    model = network().train()
    model[1].weight.requires_grad_(False)
    state, layers = states(model), list(model.modules())
    adapter = CoreAdapter(model, 0.5, lr=0.1, in_place=True)
    for x in batches():
        adapter(x)
    assert differing(model, state) == {"1.weight", "1.bias"}
    assert adapter.release() is model
    assert differing(model, state) == set()
    assert list(model.modules()) == layers
    assert model.training
    assert not model[1].weight.requires_grad
    assert model[1].bias.requires_grad


def test_episodic_batches_know_nothing_of_each_other_and_are_predicted_after_their_step():
    model, xs = network(), batches()
    adapter = CoreAdapter(model, 0.5, optimizer=SGD_, episodic=True, steps=2)
    found = [adapter(x) for x in xs]
    for x, got in zip(xs, found, strict=True):
        # a continual stream of the same batch predicts before its steps: the second time, after the first's
        want = by_hand(model, 0.5, [x, x], SGD_, steps=2)[1]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(adapter(x), got) for x, got in reversed(list(zip(xs, found, strict=True))))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_passed_over(poison):
    xs = batches()
    adapter, clean = (CoreAdapter(network(), 0.5, lr=0.1) for _ in range(2))
    for x in xs:
        adapter(x)
        adapter(x * poison)
        clean(x)
    assert adapter.skipped == 4
    assert clean.skipped == 0
    assert torch.equal(adapter(xs[0]), clean(xs[0]))


def test_a_batch_of_one_and_a_single_class_are_defined():
    adapter = CoreAdapter(network(), 0.5)
    for seed in range(3):
        assert adapter(draw((1, 2, 4, 4), seed)).isfinite().all()
    single = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)).eval()
    adapter = CoreAdapter(single, 0.5)
    adapter(draw((4, 3)))
    assert differing(adapter.model, states(single)) == set()  # one class has no other to be confused with
    assert adapter.skipped == 0


def test_dropout_is_off_in_whatever_mode():
    model, x = network(), batches()[0]
    want = alpha_bn(copy.deepcopy(model), 0.5).model(x).detach()
    adapter = CoreAdapter(model, 0.5).train()
    assert adapter.training
    assert torch.equal(adapter(x), want)


def test_a_stream_goes_on_from_a_state_dict_to_the_same_bits(tmp_path):
    xs = batches()
    adapter = CoreAdapter(network(), 0.5, lr=0.1)
    for x in xs[:2]:
        adapter(x)
    adapter(xs[0] * float("nan"))
    torch.save(adapter.state_dict(), tmp_path / "adapter.pt")
    other = CoreAdapter(
        network().apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None), 0.5, lr=0.1
    )
    other.load_state_dict(torch.load(tmp_path / "adapter.pt", weights_only=True))
    assert other.skipped == 1
    for x in xs[2:]:
        assert torch.equal(other(x), adapter(x))
    other.reset()
    assert differing(other.model, states(network())) == set()


def test_works_under_no_grad_and_refuses_inference_mode():
    xs = batches()
    one, other = CoreAdapter(network(), 0.5, lr=0.1), CoreAdapter(network(), 0.5, lr=0.1)
    for x in xs:
        with torch.no_grad():
            silent = one(x)
        assert torch.equal(silent, other(x))
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"call it under torch.no_grad\(\)"):
        one(xs[0])


def test_bfloat16_autocast_adapts_in_float32():
    adapter, full = CoreAdapter(network(), 0.5, lr=0.1), CoreAdapter(network(), 0.5, lr=0.1)
    x = batches()[0]
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = adapter(x)
        want = full(x)
    assert found.dtype == torch.bfloat16
    assert adapter.model[1].weight.dtype == torch.float32
    torch.testing.assert_close(found.float(), want, rtol=0.05, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu():
    one, other = CoreAdapter(network(), 0.5, lr=0.1), CoreAdapter(network(), 0.5, lr=0.1).cuda()
    for x in batches():
        torch.testing.assert_close(other(x.cuda()).cpu(), one(x), rtol=1e-3, atol=1e-3)
    other.reset()
    assert differing(other.cpu().model, states(network())) == set()


def test_layers_left_out_are_not_adapted():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    adapter = CoreAdapter(model, 0.5, lr=0.1, exclude="0")
    adapter(draw((8, 3)))
    assert differing(adapter.model, states(model)) == {"2.weight", "2.bias"}
    assert not isinstance(adapter.model[0], AlphaBatchNorm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"alpha": 2.0}, r"alpha must lie in \[0, 1\]"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CoreAdapter(network(), **settings)
    with pytest.raises((ValueError, TypeError), match="loss"):
        CoreAdapter(network(), loss="mcc")


def test_a_model_with_nothing_to_adapt_is_refused_and_left_alone():
    model = network(affine=False)
    with pytest.raises(ValueError, match="with gamma and beta to adapt"):
        CoreAdapter(model, in_place=True)
    assert type(model[1]) is nn.BatchNorm2d
    with pytest.raises(ValueError, match="must hold a BatchNorm layer"):
        CoreAdapter(nn.Linear(2, 2))
