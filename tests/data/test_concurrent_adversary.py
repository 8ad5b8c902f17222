import copy
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assay.data.concurrent_adversary import ConcurrentAdversary, Moved, concurrent_loss
from assay.nn.split_batch_norm import to_split_batch_norm, use_stream

EPSILON, LR = 0.1, 0.3
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def network(norm=True, dtype=torch.float64):
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 3)).to(dtype)


def batches(count=6, size=5, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    return [(torch.rand(size, 6, generator=draw, dtype=dtype), torch.randint(3, (size,), generator=draw))
            for _ in range(count)]  # fmt: skip


def trained(model, data, *, staleness=1, steps=4, device="cpu", autocast=False, **how):
    """The weights after some steps of the loop that the docstring shows, and the adversarial batches used."""
    model = model.to(device)
    data = [(x.to(device), y.to(device)) for x, y in data]
    adversary = ConcurrentAdversary(model, EPSILON, staleness=staleness, **how)
    optimizer, used = torch.optim.SGD(model.parameters(), LR, momentum=0.5), []
    for t in range(steps):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            moved = adversary.start(*data[t + staleness])
            loss = concurrent_loss(model, *data[t], moved)
        loss.backward()
        adversary.wait()
        optimizer.step()
        optimizer.zero_grad()
        used.append(moved)
    return [p.detach() for p in model.parameters()], used


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def clean_gradient(weights, biases, x, y):
    """Gradients of a linear softmax model by hand: of the weights, of the biases, and the signs of those of x."""
    p = (x @ weights.T + biases).softmax(1) - F.one_hot(y, len(weights))
    return p.T @ x / len(x), p.mean(0), (p @ weights).sign()


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_training_is_the_unrolled_recursion_with_weights_that_are_so_many_steps_old(staleness):
    data, model = batches(8), nn.Linear(6, 3).double()
    w, b = model.weight.detach().clone(), model.bias.detach().clone()
    past, buf = [], [torch.zeros_like(w), torch.zeros_like(b)]
    for t in range(5):
        x, y = data[t]
        past.append((w.clone(), b.clone()))
        gw, gb, _ = clean_gradient(w, b, x, y)
        if t >= staleness:
            sign = clean_gradient(*past[t - staleness], x, y)[2]
            moved = (x + EPSILON * sign).clamp(0, 1)
            aw, ab, _ = clean_gradient(w, b, moved, y)
            gw, gb = gw + aw, gb + ab
        buf = [0.5 * buf[0] + gw, 0.5 * buf[1] + gb]
        w, b = w - LR * buf[0], b - LR * buf[1]
    (found_w, found_b), used = trained(model, data, staleness=staleness, steps=5)
    torch.testing.assert_close(found_w, w)
    torch.testing.assert_close(found_b, b)
    assert [moved is None for moved in used] == [t < staleness for t in range(5)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("how", [{}, {"staleness": 2}, {"random_start": 0.5, "targeted": True}])
def test_both_forms_give_the_same_bits(how, device):
    found = {}
    for concurrent in (False, True):
        model = to_split_batch_norm(network(dtype=torch.float32))
        generator = torch.Generator().manual_seed(3)
        data = batches(8, 64, torch.float32)
        weights, used = trained(model, data, steps=6, device=device, generator=generator, concurrent=concurrent, **how)
        found[concurrent] = [*weights, *model.buffers(), *(moved.x for moved in used if moved), generator.get_state()]
    assert equal(found[False], found[True])


def test_bits_are_the_same_under_autocast_too():
    found = {}
    for concurrent, autocast in ((False, True), (True, True), (True, False)):
        data = batches(dtype=torch.float32, size=64)
        weights, used = trained(network(dtype=torch.float32), data, autocast=autocast, concurrent=concurrent)
        found[concurrent, autocast] = [*weights, *(moved.x for moved in used if moved)]
    assert equal(found[False, True], found[True, True])
    assert not equal(found[True, True], found[True, False])


class Slow(nn.Linear):
    """Tells which threads are inside at once."""

    def __deepcopy__(self, memo):
        view = Slow.__new__(Slow)
        view.__dict__ = dict(self.__dict__)
        return view

    def __init__(self):
        super().__init__(6, 3)
        self.inside, self.most = set(), []

    def forward(self, x):
        self.inside.add(threading.get_ident())
        end = time.monotonic() + 5
        while len(self.inside) < 2 and time.monotonic() < end:
            time.sleep(0.001)
        self.most.append(len(self.inside))
        return super().forward(x)


def test_attack_and_step_are_in_the_network_at_the_same_time():
    model = Slow()
    adversary = ConcurrentAdversary(model, EPSILON)
    (x, y), (next_x, next_y) = batches(2, dtype=torch.float32)
    adversary.start(next_x, next_y)
    concurrent_loss(model, x, y, None).backward()
    adversary.wait()
    assert model.most == [2, 2]


def test_an_epsilon_of_zero_without_split_norms_is_the_clean_gradient_times_one_plus_the_weight():
    model, (x, y) = network(), batches(1)[0]
    adversary = ConcurrentAdversary(model, 0.0, staleness=0)
    moved = adversary.start(x, y)
    assert torch.equal(moved.x, x)
    assert moved.y is y
    clean = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for reduction, factor in (("sum", 1.7), ("mean", 1.0)):
        loss = concurrent_loss(model, x, y, moved, adv_weight=0.7, reduction=reduction)
        for found, want in zip(torch.autograd.grad(loss, list(model.parameters())), clean, strict=True):
            torch.testing.assert_close(found, factor * want)


def test_a_linear_models_adversary_has_the_loss_of_its_closed_form():
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(6, 1, generator=draw, dtype=torch.float64)
    x, sign = 0.4 + 0.2 * torch.rand(20, 6, generator=draw, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    sign[::2] = -1
    model = nn.Linear(6, 1, bias=False).double()
    model.weight.data.copy_(w.T)

    def logistic(h, y, reduction="none"):
        return F.softplus(-y * h.squeeze(1))

    moved = ConcurrentAdversary(model, EPSILON, staleness=0, loss=logistic).start(x, sign)
    torch.testing.assert_close(moved.x, x - EPSILON * sign[:, None] * w.T.sign())
    want = torch.log1p(torch.exp(-sign * (x @ w).squeeze(1) + EPSILON * w.abs().sum()))
    torch.testing.assert_close(logistic(model(moved.x), sign), want)


def test_inputs_stay_in_the_ball_and_in_the_range_of_pixels_whatever_the_normalisation():
    mean, std = (0.3,), (0.2,)
    x, y = batches(1, 40)[0]
    for how in ({}, {"random_start": 1.0}, {"step_size": 0.5}, {"random_start": 1.0, "targeted": True}):
        how = {"generator": torch.Generator().manual_seed(0), "mean": mean, "std": std} | how
        adversary = ConcurrentAdversary(network(), EPSILON, staleness=0, **how)
        pixels = adversary.start((x - 0.3) / 0.2, y).x * 0.2 + 0.3
        assert (pixels - x).abs().max() <= EPSILON + 1e-12
        assert pixels.min() >= -1e-12
        assert pixels.max() <= 1 + 1e-12
        assert (pixels - x).abs().max() > EPSILON / 2


def test_a_targeted_attack_descends_to_wrong_classes_each_equally_often():
    model, size = nn.Linear(6, 3).double(), 3000
    x, y = torch.full((size, 6), 0.5, dtype=torch.float64), torch.arange(size) % 3
    adversary = ConcurrentAdversary(
        model, EPSILON, staleness=0, targeted=True, generator=torch.Generator().manual_seed(0)
    )
    moved = adversary.start(x, y)
    assert torch.equal(moved.y, y)
    towards = {}
    for target in range(3):  # one step to a target decreases its loss as much as the gradient's sign can
        given = x[:1].clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(given), torch.tensor([target])), given)
        towards[target] = (0.5 - EPSILON * g.sign()).flatten()
    for true in range(3):
        rows = moved.x[y == true]
        shares = [(rows == towards[target]).all(1).double().mean() for target in range(3)]
        assert shares[true] == 0
        assert sum(shares) == 1
        assert all(share == pytest.approx(0.5, abs=0.06) for target, share in enumerate(shares) if target != true)


def test_random_starts_come_with_their_probability():
    adversary = ConcurrentAdversary(
        network(), EPSILON, step_size=1e-9, staleness=0, random_start=0.8, generator=torch.Generator().manual_seed(0)
    )
    x, y = batches(1)[0]
    far = [bool(((adversary.start(x, y).x - x).abs() > 1e-6).any()) for _ in range(150)]
    assert sum(far) / 150 == pytest.approx(0.8, abs=0.1)


def test_the_attack_uses_adversarial_batch_norm_by_batch_statistics_and_changes_nothing():
    model = to_split_batch_norm(network())
    model[3].p = 0.5  # dropout, which an attack has not
    with use_stream(model, "adversarial"), torch.no_grad():
        model[1].streams["adversarial"].weight.mul_(torch.linspace(-1, 1, 8))
        model(torch.randn(9, 6, dtype=torch.float64))
    before = copy.deepcopy(model.state_dict())
    x, y = batches(1)[0]
    moved = ConcurrentAdversary(model, EPSILON, staleness=0).start(x, y)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    given = x.clone().requires_grad_()
    h = given @ model[0].weight.T + model[0].bias
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
    norm = model[1].streams["adversarial"]
    loss = F.cross_entropy(model[4](torch.tanh(h * norm.weight + norm.bias)), y)
    (g,) = torch.autograd.grad(loss, given)
    torch.testing.assert_close(moved.x, (x + EPSILON * g.sign()).clamp(0, 1))


def test_streams_never_mix():
    model = to_split_batch_norm(network())
    x, y = batches(1)[0]
    concurrent_loss(model, x, y, Moved(x + 5, y))
    h = model[0](x).detach()
    torch.testing.assert_close(model[1].streams["main"].running_mean, 0.1 * h.mean(0))
    h = model[0](x + 5).detach()
    torch.testing.assert_close(model[1].streams["adversarial"].running_mean, 0.1 * h.mean(0))


def test_buffers_are_those_of_the_model_when_an_attack_starts():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            return self.scale * self.linear(x)

    model = Shifted()
    adversary = ConcurrentAdversary(model, EPSILON, staleness=0)
    x, y = torch.full((4, 6), 0.5), torch.zeros(4, dtype=torch.long)
    once = adversary.start(x, y).x
    model.scale.neg_()
    torch.testing.assert_close(adversary.start(x, y).x, 1 - once)


def test_a_run_goes_on_from_saved_state_to_the_same_bits():
    data = batches(8)

    def steps(adversary, model, optimizer, some):
        for t in some:
            moved = adversary.start(*data[t + 2])
            concurrent_loss(model, *data[t], moved).backward()
            adversary.wait()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach().clone() for p in model.parameters()]

    model = network()
    adversary = ConcurrentAdversary(model, EPSILON, staleness=2)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    steps(adversary, model, optimizer, range(3))
    kept = copy.deepcopy((model.state_dict(), adversary.state_dict()))
    whole = steps(adversary, model, optimizer, range(3, 6))
    again = network()
    again.load_state_dict(kept[0])
    other = ConcurrentAdversary(again, EPSILON, staleness=2)
    other.load_state_dict(kept[1])
    assert equal(steps(other, again, torch.optim.SGD(again.parameters(), LR), range(3, 6)), whole)


def test_a_flop_counter_sees_the_attack():
    model, (x, y) = nn.Linear(6, 3).double(), batches(1)[0]
    with FlopCounterMode(display=False) as counter:
        ConcurrentAdversary(model, EPSILON).start(x, y)
    assert counter.get_total_flops() == 2 * (2 * 5 * 6 * 3)  # forward, and backward to the inputs alone


def test_an_error_in_the_attack_comes_out_of_wait():
    adversary = ConcurrentAdversary(nn.Linear(5, 3), EPSILON)
    adversary.start(torch.rand(4, 6), torch.zeros(4, dtype=torch.long))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        adversary.wait()


@pytest.mark.parametrize("concurrent", [True, False])
def test_starting_again_without_waiting_is_refused(concurrent):
    adversary = ConcurrentAdversary(network(), EPSILON, concurrent=concurrent)
    adversary.start(*batches(1)[0])
    with pytest.raises(RuntimeError, match=r"start\(\) was called again without wait\(\)"):
        adversary.start(*batches(1)[0])
    adversary.wait()
    adversary.wait()  # a second time there is nothing to wait for


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"staleness": -1}, "staleness must be at least 0, got -1"),
        ({"random_start": 1.5}, r"random_start must lie in \[0, 1\], got 1.5"),
        ({"step_size": -0.1}, "step_size must be positive"),
        ({"epsilon": -0.1}, "epsilon must be at least 0"),
        ({"random_start": 0.5}, "generator must be given"),
        ({"targeted": True}, "generator must be given"),
    ],
)
def test_settings_out_of_range_are_refused(how, says):
    with pytest.raises(ValueError, match=says):
        ConcurrentAdversary(network(), **{"epsilon": EPSILON} | how)


def test_losses_and_inputs_that_make_no_sense_are_refused():
    x, y = batches(1)[0]
    with pytest.raises(ValueError, match="adv_weight must be at least 0, got -1"):
        concurrent_loss(network(), x, y, None, adv_weight=-1.0)
    with pytest.raises(ValueError, match="x must be a batch of a floating type"):
        ConcurrentAdversary(network(), EPSILON, staleness=0).start((255 * x).byte(), y)
