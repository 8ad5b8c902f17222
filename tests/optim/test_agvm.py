"""AGVM against the authors' own trajectories, float64 arrays taken as one vector, and cases known in closed form."""

import math
import warnings

import numpy as np
import pytest
import torch
from ranks import on_two_ranks
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, SGD, Adamax, AdamW
from torch.optim.lr_scheduler import StepLR

from assay.optim import AGVM, LAMB, decay_groups
from assay.optim.agvm import gradient_variance, module_of_parameters, module_param_groups, split_groups

MAKERS = {
    "sgd": lambda groups, lr=0.1: SGD(groups, lr=lr, momentum=0.9, weight_decay=0.01),
    "adamw": lambda groups, lr=0.01: AdamW(groups, lr=lr, weight_decay=0.01),
}
BOTH = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class Segmenter(nn.Module):
    """Backbone, neck and a head of two parts, in the small."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.neck = nn.Linear(8, 8)
        self.head = nn.ModuleDict({"masks": nn.Linear(8, 3), "boxes": nn.Linear(8, 2, bias=False)})
        self.to(dtype)

    def forward(self, x):
        h = self.neck(self.backbone(x)).tanh()
        return torch.cat([self.head["masks"](h), self.head["boxes"](h)], -1)


MODULES = ["backbone", "neck", "head.masks", "head.boxes"]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return Segmenter(dtype)


def data(steps, batch=12, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(2, batch, 6, generator=draw, dtype=torch.float64).to(dtype) for _ in range(steps)]


def loss(model, x, y):
    return F.mse_loss(model(x), y[:, :5])


def train(model, agvm, batches, parts=2, modify=None):
    """The loop of the docstring; the first part of the batch has `1 / parts` of it."""
    for x, y in batches:
        first = len(x) // parts
        for rows in (slice(first), slice(first, None)) if agvm.due else (slice(None),):
            share = len(x[rows]) / len(x)
            (loss(model, x[rows], y[rows]) * share).backward()
            agvm.split(share)
        agvm.measure()
        if modify is not None:
            modify()
        agvm.optimizer.step()
        agvm.optimizer.zero_grad()


def tensors(model):
    return [p.detach().clone() for p in model.parameters()]


def whole(model, module):
    """A module's gradient as one float64 vector."""
    of = module_of_parameters(model, MODULES)
    return np.concatenate(
        [p.grad.double().numpy().ravel() for name, p in model.named_parameters() if of[name] == module]
    )


def phi(a, b):
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


def two_groups(shape=(2,), dtype=torch.float64, **settings):
    """Two modules of one parameter each, under SGD."""
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for _ in range(2)]
    optimizer = SGD([{"params": [p], "module": name} for p, name in zip(parameters, "ab", strict=True)], lr=0.25)
    return parameters, AGVM(optimizer, **settings)


def step(agvm, parameters, halves_a, halves_b):
    """One step on given gradients of two equal halves."""
    for p, a in zip(parameters, halves_a, strict=True):
        p.grad = None if a is None else a.clone() / 2
    agvm.split()
    for p, b in zip(parameters, halves_b, strict=True):
        if b is not None:
            p.grad = b / 2 + (0 if p.grad is None else p.grad)
    agvm.measure()
    agvm.optimizer.step()


def angled(angle, size=1.0):
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) * size


# The authors' code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_reference_vectors(vectors, case):
    data = {name.removeprefix(f"{case}_"): v for name, v in np.load(vectors / "agvm.npz").items() if case in name}
    lr, interval, start, alpha, adam, world = data["cfg"].tolist()
    modules = data["module_of_param"].tolist()
    parameters = [nn.Parameter(torch.from_numpy(data[f"p{i}_init"])) for i in range(len(modules))]
    groups = [{"params": [p for p, m in zip(parameters, modules, strict=True) if m == k]} for k in sorted({*modules})]
    optimizer = AdamW(groups, lr, weight_decay=1e-2) if adam else SGD(groups, lr, momentum=0.9, weight_decay=1e-2)
    settings = {"alpha": alpha, "interval": int(interval), "start_step": int(start), "gradient_scale": 1 / world}
    agvm = AGVM(optimizer, **settings)
    for t, mu in enumerate(data["mu"]):
        ranks = [torch.from_numpy(data[f"p{i}_rankgrads"][t]) for i in range(len(modules))]
        for p, g in zip(parameters, ranks, strict=True):
            p.grad = g[: int(world) // 2].sum(0) / world
        agvm.split()
        for p, g in zip(parameters, ranks, strict=True):
            p.grad += g[int(world) // 2 :].sum(0) / world
        agvm.measure()
        optimizer.step()
        np.testing.assert_allclose(list(agvm.factors.values()), mu, rtol=1e-9)
        for i, p in enumerate(parameters):
            tolerance = 1e-7 if adam else 1e-9
            np.testing.assert_allclose(p.detach(), data[f"p{i}_traj"][t], rtol=tolerance, atol=tolerance)


# The variance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_variance_is_one_minus_the_cosine_of_the_joined_vectors(dtype):
    draw = torch.Generator().manual_seed(0)
    a, b = ([torch.randn(s, generator=draw).to(dtype) for s in ((3, 4), (), (0, 2), (5,))] for _ in range(2))
    joined = [np.concatenate([t.double().numpy().ravel() for t in half]) for half in (a, b)]
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    assert gradient_variance(a, b).item() == pytest.approx(phi(*joined), rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_variance_of_equal_gradients_is_zero_of_opposite_ones_two_and_of_orthogonal_ones_one(dtype):
    g = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert gradient_variance([g], [g.clone()]) == 0
    assert gradient_variance([g], [-g]).item() == pytest.approx(2)
    assert gradient_variance([g, 0 * g], [0 * g, g]).item() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e15])
def test_variance_does_not_know_scales(scale):
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=draw)
    assert gradient_variance([scale * a], [b]).item() == pytest.approx(gradient_variance([a], [b]).item(), rel=1e-5)


def test_small_variances_keep_their_digits_in_float32():
    a, b = angled(0.0).float(), angled(1e-3).float()
    assert gradient_variance([a], [b]).item() == pytest.approx(1 - math.cos(1e-3), rel=1e-4)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_variance_of_noisy_halves_is_the_share_of_the_noise(noise):
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(200_000, generator=draw, dtype=torch.float64)
    a, b = (base + noise * torch.randn(base.shape, generator=draw, dtype=torch.float64) for _ in range(2))
    assert gradient_variance([a], [b]).item() == pytest.approx(noise**2 / (noise**2 + 1), rel=0.02)


# Factors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angles", "factor"),
    [
        ((1.0, 1.0), 1.0),
        ((0.0, 0.0), 1.0),
        ((1.0, 0.9), None),
        ((0.1, 3.0), math.sqrt(0.5)),
        ((3.0, 0.1), math.sqrt(10)),
    ],
)
def test_without_memory_the_factor_evens_out_the_variances_within_its_bounds(angles, factor):
    parameters, agvm = two_groups(alpha=0.0)
    step(agvm, parameters, [angled(0.0)] * 2, [angled(angle) for angle in angles])
    assert agvm.factors["a"] == 1
    if factor is not None:
        assert agvm.factors["b"] == pytest.approx(factor, rel=1e-12)
        return
    moved = [0.25 * agvm.factors[module] for module in "ab"]
    noise = [lr**2 * (1 - math.cos(angle)) for lr, angle in zip(moved, angles, strict=True)]
    assert noise[0] == pytest.approx(noise[1], rel=1e-4), "lr^2 Phi, but for eps"


def test_the_average_comes_to_a_constant_ratio_geometrically():
    parameters, agvm = two_groups(alpha=0.9, interval=3, eps=1e-15)
    ratio = math.sqrt((1 - math.cos(1.0)) / (1 - math.cos(0.8)))
    for t in range(20):
        halves = [[angled(0.0)] * 2, [angled(1.0), angled(0.8)]]
        step(agvm, parameters, *halves)
        assert agvm.factors["b"] == pytest.approx(1 + (ratio - 1) * (1 - 0.9 ** (t // 3 + 1)), rel=1e-9)


def test_each_group_moves_at_its_own_rate_between_start_and_stop():
    parameters, agvm = two_groups(alpha=0.0, interval=2, start_step=3, stop_step=6)
    was = [torch.zeros(2, dtype=torch.float64)] * 2
    for t in range(9):
        measures = t in (4, 6)
        assert agvm.due == measures
        step(agvm, parameters, [angled(0.0)] * 2, [angled(0.5), angled(0.6)])
        mu = math.sqrt((1 - math.cos(0.5) + 1e-6) / (1 - math.cos(0.6) + 1e-6)) if 4 <= t <= 6 else 1.0
        mean = [(angled(0.0) + angled(angle)) / 2 for angle in (0.5, 0.6)]
        for k, factor in enumerate((1.0, mu)):
            torch.testing.assert_close(was[k] - parameters[k].detach(), 0.25 * factor * mean[k], rtol=1e-9, atol=0)
        was = [p.detach().clone() for p in parameters]
        assert [group["lr"] for group in agvm.optimizer.param_groups] == [0.25, 0.25]


def test_the_anchor_is_whom_one_says():
    parameters, agvm = two_groups(alpha=0.0, anchor="b")
    step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(0.9)])
    assert agvm.factors["b"] == 1
    assert agvm.factors["a"] == pytest.approx(math.sqrt((1 - math.cos(0.9)) / (1 - math.cos(1.0))), rel=1e-5)


@BOTH
def test_with_an_endless_memory_it_is_the_plain_optimizer_to_rounding(make):
    ours, theirs = network(), network()
    agvm = AGVM(make(module_param_groups(ours, MODULES)), alpha=1.0, interval=3)
    plain = make(module_param_groups(theirs, MODULES))
    train(ours, agvm, data(8))
    for x, y in data(8):
        loss(theirs, x, y).backward()
        plain.step()
        plain.zero_grad()
    assert set(agvm.factors.values()) == {1.0}
    for p, q in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


# Halves of a batch --------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("parts", [2, 4], ids=["equal halves", "a quarter and the rest"])
def test_the_loop_measures_the_halves_and_applies_the_gradient_of_the_whole(make, parts):
    model = network()
    agvm = AGVM(make(module_param_groups(model, MODULES)), alpha=0.0, interval=1)
    adam = agvm.precondition
    assert adam == (make is MAKERS["adamw"])
    second = dict.fromkeys(MODULES, 0.0)
    for x, y in data(3):
        halves = {}
        for rows in (slice(len(x) // parts), slice(len(x) // parts, None), slice(None)):
            model.zero_grad()
            loss(model, x[rows], y[rows]).backward()
            halves[rows.start, rows.stop] = {module: whole(model, module) for module in MODULES}
        first, last, mean = halves.values()
        applied = {}
        model.zero_grad()
        train(model, agvm, [(x, y)], parts, lambda to=applied: to.update({m: whole(model, m) for m in MODULES}))
        for module in MODULES:
            np.testing.assert_allclose(applied[module], mean[module], rtol=1e-10, atol=1e-14)
            a, b = first[module], last[module]
            if adam:
                a, b = (g / (np.sqrt(0.999 * second[module] + 0.001 * g**2) + 1e-8) for g in (a, b))
                second[module] = 0.999 * second[module] + 0.001 * mean[module] ** 2
            assert agvm.variances[module] == pytest.approx(phi(a, b), rel=1e-9)


def test_moments_in_half_precision_precondition_in_single():
    draw = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(500, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = AdamW([{"params": [p]} for p in parameters], lr=0.01)
    agvm = AGVM(optimizer, interval=2)
    for t in range(3):
        halves = torch.randn(2, 2, 500, generator=draw).bfloat16() + 1
        want = {}
        for p, a, b in zip(parameters, *halves, strict=True):
            p.grad = a + b
            v = optimizer.state[p]["exp_avg_sq"].double().numpy() if t else 0.0
            parts = [2 * g.numpy() for g in (a.double(), p.grad.double() - a.double())]
            want[str(len(want))] = phi(*(g / (np.sqrt(0.999 * v + 0.001 * g**2) + 1e-8) for g in parts))
            p.grad = a
        agvm.split()
        for p, a, b in zip(parameters, *halves, strict=True):
            p.grad = a + b
        if agvm.due:
            agvm.measure()
            assert agvm.variances == pytest.approx(want, rel=1e-4)
        optimizer.step()


def test_clipping_and_unscaling_after_the_measurement_change_nothing_of_it():
    one, other = network(), network()
    plain, clipped = (AGVM(MAKERS["sgd"](module_param_groups(m, MODULES)), alpha=0.0) for m in (one, other))
    train(one, plain, data(1))
    train(other, clipped, data(1), modify=lambda: nn.utils.clip_grad_norm_(other.parameters(), 1e-3))
    assert plain.factors == clipped.factors
    assert plain.factors["neck"] != 1


def test_a_scaled_loss_is_measured_as_it_would_be_unscaled():
    one, other = network(), network()
    plain, scaled = (AGVM(MAKERS["adamw"](module_param_groups(m, MODULES)), alpha=0.0) for m in (one, other))
    (x, y), scaled.loss_scale = data(1)[0], 1024.0
    for model, agvm, scale in ((one, plain, 1), (other, scaled, 1024)):
        for rows in (slice(6), slice(6, None)):
            (scale * loss(model, x[rows], y[rows]) / 2).backward()
            agvm.split()
        agvm.measure()
    assert scaled.variances == pytest.approx(plain.variances, rel=1e-12)


def test_a_closure_is_called_once_and_moves_at_the_rates_it_has_measured():
    one, other = network(), network()
    loop, closed = (AGVM(MAKERS["sgd"](module_param_groups(m, MODULES)), alpha=0.0) for m in (one, other))
    train(one, loop, data(2))
    calls = []
    for x, y in data(2):

        def closure(x=x, y=y):
            calls.append(closed.steps)
            closed.optimizer.zero_grad()
            for rows in (slice(6), slice(6, None)) if closed.due else (slice(None),):
                found = loss(other, x[rows], y[rows]) * len(x[rows]) / 12
                found.backward()
                closed.split()
            closed.measure()
            return found

        assert closed.optimizer.step(closure) > 0
    assert calls == [0, 1]
    for p, q in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_a_batch_that_was_not_divided_or_not_measured_is_an_error_not_a_plain_step():
    model = network()
    agvm = AGVM(MAKERS["sgd"](module_param_groups(model, MODULES)))
    loss(model, *data(1)[0]).backward()
    with pytest.raises(RuntimeError, match="step 0 measures: call split"):
        agvm.measure()
    with pytest.raises(RuntimeError, match="step 0 measures: call measure"):
        agvm.optimizer.step()
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\), got 1.0"):
        agvm.split(1.0)


# With the rest of a training ------------------------------------------------------------------------------------------


def test_a_schedule_sees_its_own_rates():
    parameters, agvm = two_groups(alpha=0.0)
    schedule = StepLR(agvm.optimizer, 2, 0.1)
    seen = []
    for _ in range(5):
        step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(0.9)])
        schedule.step()
        seen.append([group["lr"] for group in agvm.optimizer.param_groups])
    np.testing.assert_allclose(seen, [[0.25 * 0.1 ** ((t + 1) // 2)] * 2 for t in range(5)], rtol=1e-12)
    assert agvm.factors["b"] != 1


def test_a_rate_may_be_a_tensor_or_zero_and_is_given_back_as_it_was():
    parameters, agvm = two_groups(alpha=0.0)
    rate = torch.tensor(0.25, dtype=torch.float64)
    agvm.optimizer.param_groups[0]["lr"], agvm.optimizer.param_groups[1]["lr"] = 0.0, rate
    step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(0.9)])
    assert [group["lr"] for group in agvm.optimizer.param_groups] == [0.0, rate]
    assert agvm.optimizer.param_groups[1]["lr"] is rate
    assert rate.item() == 0.25
    assert not parameters[0].any()
    want = -0.25 * agvm.factors["b"] * (angled(0.0) + angled(0.9)) / 2
    torch.testing.assert_close(parameters[1].detach(), want)


def test_a_step_that_failed_leaves_no_rate_behind():
    parameters, agvm = two_groups(alpha=0.0)

    def fail(*_):
        raise FloatingPointError

    failing = agvm.optimizer.register_step_pre_hook(fail)
    with pytest.raises(FloatingPointError):
        step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(0.9)])
    failing.remove()
    step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(0.9)])
    assert [group["lr"] for group in agvm.optimizer.param_groups] == [0.25, 0.25]


@BOTH
def test_goes_on_from_a_saved_state_to_the_same_bits(make, tmp_path):
    straight, resumed = network(), network()
    agvm = AGVM(make(module_param_groups(straight, MODULES)), alpha=0.5, interval=3)
    train(straight, agvm, data(9)[:4])
    saved = {"model": straight.state_dict(), "optimizer": agvm.optimizer.state_dict(), "agvm": agvm.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    train(straight, agvm, data(9)[4:])
    again = AGVM(make(module_param_groups(resumed, MODULES), lr=7.0), alpha=0.5, interval=3)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["agvm"])
    train(resumed, again, data(9)[4:])
    assert again.state_dict() == agvm.state_dict()
    for p, q in zip(tensors(straight), tensors(resumed), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="state must be of modules"):
        two_groups()[1].load_state_dict(saved["agvm"])


def test_it_clips_between_two_steps_and_nowhere_else():
    parameters, agvm = two_groups(alpha=1.0, clip_steps=(1, 2), clip_norm=0.5)
    for t in range(4):
        before = torch.stack(parameters).detach().clone()
        step(agvm, parameters, [angled(0.0, 3.0)] * 2, [angled(0.0, 3.0)] * 2)
        moved = (torch.stack(parameters).detach() - before).norm().item()
        assert moved == pytest.approx(0.25 * (0.5 if t in (1, 2) else 3 * math.sqrt(2)), rel=1e-5)


def test_lamb_keeps_the_second_moments_that_preconditioning_asks_for():
    model = network(torch.bfloat16)
    optimizer = LAMB(split_groups(decay_groups(model), model, MODULES), lr=0.01)
    agvm = AGVM(optimizer, precondition=True, alpha=0.0, interval=1)
    train(model, agvm, data(3, dtype=torch.bfloat16))
    assert list(agvm.factors) == MODULES
    assert len({*agvm.factors.values()}) > 1
    with pytest.raises(ValueError, match="precondition needs groups with betas and eps, which SGD lacks"):
        AGVM(SGD(module_param_groups(model, MODULES), lr=0.1), precondition=True)
    assert not AGVM(Adamax(module_param_groups(model, MODULES))).precondition, "it keeps no second moments"


def test_mixed_precision_measures_what_full_precision_does_to_its_digits():
    full, mixed = network(torch.float32), network(torch.float32)
    (x, y) = data(1, batch=200, dtype=torch.float32)[0]
    found = []
    for model, on in ((full, False), (mixed, True)):
        agvm = AGVM(MAKERS["sgd"](module_param_groups(model, MODULES)))
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            train(model, agvm, [(x, y)])
        found.append(agvm.variances)
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@BOTH
def test_a_gpu_measures_what_a_cpu_does(make):
    found = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        agvm = AGVM(make(module_param_groups(model, MODULES)), interval=2)
        train(model, agvm, [batch.to(device) for batch in data(4)])
        found.append(agvm.factors)
    assert found[1] == pytest.approx(found[0], rel=1e-9)


# Gradients that are not as usual --------------------------------------------------------------------------------------


def test_a_module_that_sees_nothing_in_a_half_keeps_its_factor():
    g, other = angled(0.0), angled(1.0)
    for a, b in (
        ([g, None], [other, g]),
        ([g, 0 * g], [other, g]),
        ([g, None], [other, None]),
        ([g, g], [other, 0 * g]),
    ):
        parameters, agvm = two_groups(alpha=0.5)
        agvm.factors["b"] = 1.5
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step(agvm, parameters, a, b)
        assert agvm.factors == {"a": 1.0, "b": 1.5}
        assert list(agvm.variances) == ["a"]


def test_without_the_anchor_nothing_can_be_told():
    parameters, agvm = two_groups(alpha=0.5)
    agvm.factors["b"] = 1.5
    step(agvm, parameters, [None, angled(0.0)], [None, angled(1.0)])
    assert agvm.factors == {"a": 1.0, "b": 1.5}
    step(agvm, parameters, [None, None], [None, None])
    assert agvm.steps == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_keeps_its_module_s_factor_and_is_told(value):
    parameters, agvm = two_groups(alpha=0.5)
    with pytest.warns(UserWarning, match="step 0: gradients of b are not finite"):
        step(agvm, parameters, [angled(0.0)] * 2, [angled(1.0), angled(1.0) * value])
    assert agvm.factors == {"a": 1.0, "b": 1.0}


def test_a_parameter_of_half_a_module_counts_as_zero_where_it_is_missing():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2)})
    agvm = AGVM(SGD(module_param_groups(model), lr=0.1), alpha=0.0)
    weight, bias = torch.randn(2, 2), torch.randn(2)
    model["a"].weight.grad, model["b"].weight.grad = weight.clone(), weight.clone()
    agvm.split()
    model["a"].weight.grad += weight
    model["b"].weight.grad += weight
    model["b"].bias.grad = bias
    agvm.measure()
    a, b = (np.concatenate([weight.numpy().ravel(), part]) for part in (np.zeros(2), bias.numpy()))
    assert agvm.variances["b"] == pytest.approx(phi(a, b), rel=1e-5)


def test_sparse_gradients_and_complex_parameters_are_refused():
    model = nn.ModuleDict({"a": nn.Embedding(4, 2, sparse=True), "b": nn.Linear(2, 2)})
    agvm = AGVM(SGD(module_param_groups(model), lr=0.1))
    model["b"](model["a"](torch.tensor([1]))).sum().backward()
    with pytest.raises(TypeError, match="gradients must be dense"):
        agvm.split()
    parameters = [{"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]} for _ in range(2)]
    with pytest.raises(TypeError, match="must be real"):
        AGVM(SGD(parameters, lr=0.1))


def test_parameters_without_elements_do_no_harm():
    parameters, agvm = two_groups((0, 2))
    step(agvm, parameters, [torch.zeros(0, 2, dtype=torch.float64)] * 2, [torch.zeros(0, 2, dtype=torch.float64)] * 2)
    assert agvm.factors == {"a": 1.0, "b": 1.0}


# Modules --------------------------------------------------------------------------------------------------------------


def test_parameters_belong_to_the_innermost_module_named_and_the_rest_to_the_anchor():
    model = network()
    model.token = nn.Parameter(torch.zeros(3))
    of = module_of_parameters(model, ["neck", "head", "head.boxes"])
    assert of["head.boxes.weight"] == "head.boxes"
    assert of["head.masks.weight"] == of["head.masks.bias"] == "head"
    assert of["token"] == of["backbone.0.weight"] == "neck"
    groups = module_param_groups(model, ["neck", "head", "head.boxes"])
    assert [group["module"] for group in groups] == ["neck", "head", "head.boxes"]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert AGVM(SGD(groups, lr=0.1)).anchor == "neck"


def test_by_default_the_children_are_the_modules_and_what_is_frozen_is_left_out():
    model = network()
    model.token = nn.Parameter(torch.zeros(3))
    model.neck.requires_grad_(False)
    groups = module_param_groups(model)
    assert [group["module"] for group in groups] == ["backbone", "head"]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters() if p.requires_grad}


def test_groups_of_one_module_are_measured_as_one():
    one, other = network(), network()
    agvm = AGVM(SGD(module_param_groups(one, MODULES), lr=0.1), alpha=0.0)
    several = split_groups(decay_groups(other), other, MODULES)
    assert len(several) == 7
    assert {group["weight_decay"] for group in several if "weight_decay" in group} == {0.0}
    for group in several:
        group.pop("layer_adaptation", None)
    divided = AGVM(SGD(several, lr=0.1), alpha=0.0)
    train(one, agvm, data(1))
    train(other, divided, data(1))
    assert divided.factors == pytest.approx(agvm.factors, rel=1e-12)


def test_modules_that_cannot_be_told_apart_are_refused():
    model = network()
    with pytest.raises(ValueError, match=r"modules must be two or more, got \['neck'\]"):
        module_param_groups(model, ["neck"])
    with pytest.raises(ValueError, match="modules must hold parameters that are trained, 'roi' has none"):
        module_param_groups(model, ["backbone", "roi"])
    model.head["again"] = model.head["masks"]
    assert len(module_param_groups(model, ["neck", "head"])[1]["params"]) == 3, "shared inside one module"
    model.head["again"] = model.neck
    with pytest.raises(ValueError, match=r"modules must share no parameter, but 'neck' has 'head.again.weight' too"):
        module_param_groups(model, ["backbone", "neck", "head"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.1}, r"alpha must lie in \[0, 1\], got 1.1"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"start_step": -1}, "start_step must not be negative, got -1"),
        ({"clamp": (1.5, 10.0)}, "clamp must be finite bounds about 1"),
        ({"clamp": (0.0, 10.0)}, "clamp must be finite bounds about 1"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"gradient_scale": math.inf}, "gradient_scale must be positive and finite, got inf"),
        ({"anchor": "trunk"}, r"optimizer must have groups of two modules or more, 'trunk' one, got \['a', 'b'\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        two_groups(**settings)


def test_optimizers_that_cannot_be_modulated_are_refused():
    parameters = list(network().parameters())
    with pytest.raises(ValueError, match="groups of two modules or more"):
        AGVM(SGD(parameters, lr=0.1))
    with pytest.raises(TypeError, match="once a step, got LBFGS"):
        AGVM(LBFGS(parameters))
    with pytest.raises(ValueError, match="must have equal shapes"):
        gradient_variance(parameters[:1], parameters[1:2])
    with pytest.raises(ValueError, match="must have equal shapes"):
        gradient_variance([], [])


# Several processes ----------------------------------------------------------------------------------------------------


def ranks_as_halves(rank):
    found = {}
    for name, make in MAKERS.items():
        model = network()
        model.neck.weight.data = model.neck.weight.data.T.contiguous().T  # columns first, as channels-last kernels have
        joined = DistributedDataParallel(model, bucket_cap_mb=1e-4, gradient_as_bucket_view=name == "adamw")
        agvm = AGVM(make(module_param_groups(model, MODULES)), alpha=0.5, interval=2, start_step=1)
        joined.register_comm_hook(None, agvm.split_ranks)
        for x, y in data(6):
            loss(joined, *(t.chunk(2)[rank] for t in (x, y))).backward()
            agvm.measure()
            agvm.optimizer.step()
            agvm.optimizer.zero_grad()
        found[name] = {"weights": tensors(model), "factors": agvm.factors, "variances": agvm.variances}
    return found | {"sharded": sharded(rank)}


def sharded(rank):
    """The halves of a batch, of parameters of which each process holds a part."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = {}
    for name, make in MAKERS.items():
        model = network()
        for module in (model.backbone, model):
            fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
        agvm = AGVM(make(module_param_groups(model, MODULES)), alpha=0.5, interval=2, start_step=1)
        train(model, agvm, data(6))
        weights = [p.detach().full_tensor() for p in model.parameters()]
        found[name] = {"weights": weights, "factors": agvm.factors, "variances": agvm.variances}
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return on_two_ranks(ranks_as_halves, tmp_path_factory.mktemp("ranks"))


@BOTH
@pytest.mark.parametrize("kind", ["halves", "sharded"])
def test_two_processes_do_as_one_does_with_the_halves_of_the_joined_batch(make, kind, ranks):
    model = network()
    agvm = AGVM(make(module_param_groups(model, MODULES)), alpha=0.5, interval=2, start_step=1)
    train(model, agvm, data(6))
    name = next(key for key, value in MAKERS.items() if value is make)
    for found in ranks:
        own = found[name] if kind == "halves" else found["sharded"][name]
        assert own["factors"] == pytest.approx(agvm.factors, rel=1e-9)
        assert own["variances"] == pytest.approx(agvm.variances, rel=1e-9)
        for p, q in zip(own["weights"], tensors(model), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert agvm.factors["neck"] != 1


def test_one_process_alone_has_no_halves(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", f"file://{tmp_path}/alone", rank=0, world_size=1)
    try:
        model = network()
        joined = DistributedDataParallel(model)
        agvm = AGVM(MAKERS["sgd"](module_param_groups(model, MODULES)))
        joined.register_comm_hook(None, agvm.split_ranks)
        with pytest.raises((ValueError, RuntimeError), match="needs two processes or more, got one"):
            loss(joined, *data(1)[0]).backward()
    finally:
        distributed.destroy_process_group()
