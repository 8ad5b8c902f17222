"""LARS against the published vectors, a float64 loop over the equations, and cases known in closed form."""

import math
from functools import partial

import numpy as np
import optimizer_runs
import pytest
import torch
from optimizer_runs import NoWaiting, close, run
from torch import nn

from assay.optim import LARS, layerwise

BOTH = pytest.mark.parametrize("foreach", [True, False], ids=["together", "alone"])
VARIANTS = pytest.mark.parametrize("variant", ["2017", "joint", "2020"])
SHAPES = ((7, 5), (), (1,), (3, 4, 2, 2), (40, 30))
problem = partial(optimizer_runs.problem, seed=1, shapes=SHAPES)


def size(x):
    return math.sqrt((x**2).sum())


def naive(start, grads, variant, lr=0.1, mu=0.9, decay=0.05, tc=0.02, eps=0.0, nesterov=False, adapt=True):
    """The equations, one float64 array and one step at a time."""
    x = start.astype(np.float64)
    buf = np.zeros_like(x)
    for g in grads.astype(np.float64):
        d = g + decay * x
        if variant == "2020":
            buf = mu * buf + (1 - mu) * d
            ratio = size(x) / size(buf) if adapt and size(x) > 0 and size(buf) > 0 else 1.0
            x = x - lr * ratio * buf
            continue
        top, bottom = size(x), size(g if variant == "2017" else d)
        local = 1.0
        if adapt and top > 0 and bottom > 0:
            local = tc * top / (bottom + (decay * top if variant == "2017" else 0.0) + eps)
        buf = mu * buf + lr * local * d
        x = x - (lr * local * d + mu * buf if nesterov else buf)
    return x


@BOTH
@pytest.mark.parametrize(
    ("case", "variant", "key"), [("c0", "joint", "optax"), ("c1", "joint", "optax"), ("c0", "2020", "paper")]
)
def test_reference_vectors(vectors, case, variant, key, foreach):
    data = np.load(vectors / "lamb.npz")
    lr, decay, beta1, _, _, trust, momentum = data[f"{case}_cfg"].tolist()
    count = sum(name.startswith(case) and name.endswith("_init") for name in data)
    parameters = [nn.Parameter(torch.from_numpy(data[f"{case}_p{i}_init"])) for i in range(count)]
    momentum = beta1 if variant == "2020" else momentum
    optimizer = LARS(parameters, lr, momentum, decay, trust_coefficient=trust, variant=variant, foreach=foreach)
    for t in range(len(data[f"{case}_p0_grads"])):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(data[f"{case}_p{i}_grads"][t])
        optimizer.step()
        close(parameters, [data[f"{case}_p{i}_lars_{key}"][t] for i in range(count)], rtol=1e-12, atol=1e-12)


@BOTH
@VARIANTS
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({}, {}),
        ({"momentum": 0.0, "weight_decay": 0.0}, {"mu": 0.0, "decay": 0.0}),
        ({"eps": 0.7, "trust_coefficient": 0.5}, {"eps": 0.7, "tc": 0.5}),
        ({"nesterov": True}, {"nesterov": True}),
        ({"nesterov": True, "momentum": 0.0}, {"nesterov": True, "mu": 0.0}),
        ({"layer_adaptation": False}, {"adapt": False}),
    ],
    ids=["usual", "no memory, no decay", "eps", "nesterov", "nesterov without momentum", "no adaptation"],
)
def test_equals_a_float64_loop(variant, options, oracle, foreach):
    if variant == "2020" and "nesterov" in options:
        with pytest.raises(ValueError, match="nesterov must be False"):
            LARS(problem()[0], 0.1, variant=variant, **options)
        return
    parameters, grads = problem()
    wanted = [naive(p.detach().numpy(), g.numpy(), variant, **oracle) for p, g in zip(parameters, grads, strict=True)]
    settings = {"weight_decay": 0.05, "trust_coefficient": 0.02} | options
    run(LARS(parameters, 0.1, variant=variant, foreach=foreach, **settings), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@VARIANTS
def test_cutting_into_blocks_changes_nothing(monkeypatch, variant):
    parameters, grads = problem()
    wanted = [naive(p.detach().numpy(), g.numpy(), variant) for p, g in zip(parameters, grads, strict=True)]
    monkeypatch.setattr(layerwise, "BLOCK", 16)
    monkeypatch.setattr(layerwise, "SPAN", 64)
    run(LARS(parameters, 0.1, 0.9, 0.05, trust_coefficient=0.02, variant=variant), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@BOTH
@VARIANTS
@pytest.mark.parametrize("scale", [1.0, 1e12])
def test_float32_equals_the_float64_loop_to_float32_however_large_the_gradient(variant, scale, foreach):
    parameters, grads = problem(dtype=torch.float32)
    grads = [scale * g for g in grads]
    wanted = [naive(p.detach().numpy(), g.numpy(), variant, lr=0.3) for p, g in zip(parameters, grads, strict=True)]
    optimizer = LARS(parameters, 0.3, 0.9, 0.05, trust_coefficient=0.02, variant=variant, foreach=foreach)
    run(optimizer, parameters, grads)
    close(parameters, wanted, rtol=3e-6, atol=1e-6)


@BOTH
def test_2020_without_momentum_is_normalised_gradient_descent(foreach):
    (x,), (g,) = problem(steps=1, shapes=((6, 3),))
    wanted = x.detach() - 0.1 * x.detach().norm() * g[0] / g[0].norm()
    run(LARS([x], 0.1, 0.0, variant="2020", foreach=foreach), [x], [g])
    close([x], [wanted])


@BOTH
def test_2017_moves_the_first_step_by_lr_times_trust_times_norm_without_decay(foreach):
    (x,), (g,) = problem(steps=1, shapes=((6, 3),))
    before = x.detach().clone()
    run(LARS([x], 2.0, trust_coefficient=0.01, foreach=foreach), [x], [g])
    torch.testing.assert_close((x - before).norm(), 0.02 * before.norm())


@BOTH
def test_without_adaptation_it_is_sgd_with_momentum(foreach):
    ours, grads = problem()
    theirs, _ = problem()
    run(LARS(ours, 0.1, 0.9, 0.05, layer_adaptation=False, foreach=foreach), ours, grads)
    run(torch.optim.SGD(theirs, 0.1, 0.9, weight_decay=0.05), theirs, grads)
    close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-13)


@BOTH
@VARIANTS
def test_a_zero_layer_moves_by_its_plain_direction_first(variant, foreach):
    x = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    g = torch.arange(1.0, 5.0, dtype=torch.float64)[None]
    run(LARS([x], 0.1, 0.5, variant=variant, foreach=foreach), [x], [g])
    close([x], [-0.1 * g[0] * (0.5 if variant == "2020" else 1.0)])


@BOTH
@VARIANTS
def test_a_zero_gradient_without_decay_leaves_weights_alone(variant, foreach):
    parameters, grads = problem(steps=2)
    before = [p.detach().clone() for p in parameters]
    run(LARS(parameters, 0.1, variant=variant, foreach=foreach), parameters, [0 * g for g in grads])
    close(parameters, before, rtol=0, atol=0)


@BOTH
@VARIANTS
def test_half_precision_is_float32_rounded_once(variant, foreach):
    parameters, grads = problem(dtype=torch.bfloat16, steps=1)
    wanted = [
        naive(p.detach().float().numpy(), g.float().numpy(), variant) for p, g in zip(parameters, grads, strict=True)
    ]
    optimizer = LARS(parameters, 0.1, 0.9, 0.05, trust_coefficient=0.02, variant=variant, foreach=foreach)
    run(optimizer, parameters, grads)
    for p, x in zip(parameters, wanted, strict=True):
        half_ulp = torch.finfo(torch.bfloat16).eps * np.abs(x) / 2 * 1.001
        assert (np.abs(p.detach().double().numpy() - x) <= half_ulp + 1e-7).all()
        assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32


@VARIANTS
def test_goes_on_from_a_saved_state(tmp_path, variant):
    straight, grads = problem()
    resumed, _ = problem()
    saved = LARS(straight, 0.1, variant=variant, foreach=False)
    run(saved, straight, [g[:2] for g in grads])
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    for p, q in zip(straight, resumed, strict=True):
        q.data.copy_(p.data)
    optimizer = LARS(resumed, 7.0)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    optimizer.param_groups[0]["foreach"] = True
    run(saved, straight, grads, first=2)
    run(optimizer, resumed, grads, first=2)
    close(resumed, [p.detach() for p in straight], rtol=1e-12, atol=1e-13)


@BOTH
@VARIANTS
def test_learning_rate_may_be_a_tensor_and_no_step_waits_for_the_device(variant, foreach):
    ours, grads = problem()
    other, _ = problem()
    optimizer = LARS(ours, torch.tensor(0.25, dtype=torch.float64), variant=variant, foreach=foreach)
    with NoWaiting():
        run(optimizer, ours, grads)
    run(LARS(other, 0.25, variant=variant, foreach=foreach), other, grads)
    close(ours, [p.detach() for p in other], rtol=1e-14, atol=0)


@BOTH
@VARIANTS
def test_a_gradient_that_is_not_finite_shows_in_its_own_tensor_only(variant, foreach):
    parameters, grads = problem(steps=1)
    grads[0][0, 2, 2] = math.nan
    run(LARS(parameters, 0.1, variant=variant, foreach=foreach), parameters, grads)
    assert parameters[0][2, 2].isnan()
    assert all(torch.isfinite(p).all() for p in parameters[1:])


@BOTH
def test_parameters_without_gradient_or_elements_are_passed_over(foreach):
    (idle, empty, moved), (_, none, g) = problem(steps=1, shapes=((3,), (0, 2), (2, 2)))
    before = idle.detach().clone()
    empty.grad, moved.grad = none[0], g[0]
    start = moved.detach().clone()
    LARS([idle, empty, moved], 0.1, foreach=foreach).step()
    assert torch.equal(idle, before)
    assert not torch.equal(moved, start)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"trust_coefficient": 0.0}, "trust_coefficient must be positive"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"variant": "2018"}, "variant must be one of 2017, joint, 2020, got '2018'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LARS([nn.Parameter(torch.ones(2))], **({"lr": 0.1} | settings))


def test_complex_parameters_and_sparse_gradients_are_refused():
    with pytest.raises(TypeError, match="must be real"):
        LARS([nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1)
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="must be dense"):
        LARS(table.parameters(), 0.1).step()
