"""LAMB against the published vectors, a float64 loop over the equations, and cases known in closed form."""

import copy
import math
from functools import partial

import numpy as np
import optimizer_runs
import pytest
import torch
from optimizer_runs import NoWaiting, close, run
from torch import nn

from assay.optim import LAMB, layerwise

BOTH = pytest.mark.parametrize("foreach", [True, False], ids=["together", "alone"])
SHAPES = ((7, 5), (), (1,), (3, 4, 2, 2), (11,), (40, 30))
problem = partial(optimizer_runs.problem, shapes=SHAPES)


def naive(start, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, decay=0.01, correct=True, adapt=True, bounds=None):
    """The equations, one float64 array and one step at a time."""
    x, m, v = start.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(grads.astype(np.float64), start=1):
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = (m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)) if correct else (m, v)
        u = m_hat / (np.sqrt(v_hat) + eps) + decay * x
        weight_norm, direction_norm = math.sqrt((x**2).sum()), math.sqrt((u**2).sum())
        if bounds is not None:
            weight_norm = min(max(weight_norm, bounds[0]), bounds[1])
        ratio = weight_norm / direction_norm if adapt and weight_norm > 0 and direction_norm > 0 else 1.0
        x = x - lr * ratio * u
    return x


@BOTH
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_reference_vectors(vectors, case, foreach):
    data = np.load(vectors / "lamb.npz")
    lr, decay, beta1, beta2, eps = data[f"{case}_cfg"][:5].tolist()
    count = sum(key.startswith(case) and key.endswith("_init") for key in data)
    parameters = [nn.Parameter(torch.from_numpy(data[f"{case}_p{i}_init"])) for i in range(count)]
    optimizer = LAMB(parameters, lr, (beta1, beta2), eps, decay, foreach=foreach)
    for t in range(len(data[f"{case}_p0_grads"])):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.from_numpy(data[f"{case}_p{i}_grads"][t])
        optimizer.step()
        wanted = [data[f"{case}_p{i}_lamb"][t] for i in range(count)]
        close(parameters, wanted, rtol=1e-12, atol=1e-12)


@BOTH
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({}, {}),
        ({"lr": 0.1, "betas": (0.0, 0.0), "weight_decay": 0.0}, {"lr": 0.1, "betas": (0.0, 0.0), "decay": 0.0}),
        ({"bias_correction": False, "weight_decay": 0.3}, {"correct": False, "decay": 0.3}),
        ({"layer_adaptation": False}, {"adapt": False}),
        ({"norm_bounds": (0.5, 2.0), "eps": 0.01}, {"bounds": (0.5, 2.0), "eps": 0.01}),
    ],
    ids=["defaults", "no memory", "no bias correction", "no adaptation", "bounded norm"],
)
def test_equals_a_float64_loop(options, oracle, foreach):
    parameters, grads = problem()
    wanted = [naive(p.detach().numpy(), g.numpy(), **oracle) for p, g in zip(parameters, grads, strict=True)]
    run(LAMB(parameters, foreach=foreach, **options), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@BOTH
def test_float32_equals_the_float64_loop_to_float32(foreach):
    parameters, grads = problem(dtype=torch.float32)
    wanted = [naive(p.detach().numpy(), g.numpy()) for p, g in zip(parameters, grads, strict=True)]
    run(LAMB(parameters, foreach=foreach), parameters, grads)
    close(parameters, wanted, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("block", "span"), [(1, 1), (16, 1), (16, 64), (64, 2000)])
def test_cutting_into_blocks_changes_nothing(monkeypatch, block, span):
    parameters, grads = problem()
    parameters[3].data = parameters[3].data.contiguous(memory_format=torch.channels_last)
    grads[3] = torch.stack([g.contiguous(memory_format=torch.channels_last) for g in grads[3]])
    wanted = [naive(p.detach().numpy(), g.numpy()) for p, g in zip(parameters, grads, strict=True)]
    monkeypatch.setattr(layerwise, "BLOCK", block)
    monkeypatch.setattr(layerwise, "SPAN", span)
    run(LAMB(parameters), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


def test_a_torch_without_the_fused_kernel_steps_alike(monkeypatch):
    parameters, grads = problem()
    wanted = [naive(p.detach().numpy(), g.numpy()) for p, g in zip(parameters, grads, strict=True)]
    monkeypatch.delattr(torch, "_fused_adam_")
    run(LAMB(parameters), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@BOTH
def test_an_adapted_layer_moves_by_lr_times_its_norm(foreach):
    parameters, grads = problem(steps=1)
    before = [p.detach().clone() for p in parameters]
    run(LAMB(parameters, lr=0.03, foreach=foreach), parameters, grads)
    for x, p in zip(before, parameters, strict=True):
        torch.testing.assert_close((p - x).norm(), 0.03 * x.norm())


@BOTH
def test_scale_of_the_gradient_does_not_matter_without_eps(foreach):
    ends = []
    for scale in (1.0, 1e4):
        parameters, grads = problem()
        run(LAMB(parameters, eps=0.0, foreach=foreach), parameters, [scale * g for g in grads])
        ends.append([p.detach() for p in parameters])
    close(ends[0], ends[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_without_adaptation_it_is_adamw(decay):
    ours, grads = problem()
    theirs, _ = problem()
    run(LAMB(ours, 0.01, eps=1e-6, weight_decay=decay, layer_adaptation=False), ours, grads)
    run(torch.optim.AdamW(theirs, 0.01, eps=1e-6, weight_decay=decay), theirs, grads)
    close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-13)


@BOTH
def test_a_zero_layer_takes_an_adam_step_first(foreach):
    parameter = nn.Parameter(torch.zeros(6, dtype=torch.float64))
    grads = [torch.linspace(1, 2, 6, dtype=torch.float64)[None]]
    run(LAMB([parameter], lr=0.1, eps=0.0, foreach=foreach), [parameter], grads)
    close([parameter], [np.full(6, -0.1)])


@BOTH
def test_zero_gradient_and_no_decay_leave_weights_alone(foreach):
    parameters, grads = problem(steps=2)
    before = [p.detach().clone() for p in parameters]
    run(LAMB(parameters, weight_decay=0.0, foreach=foreach), parameters, [0 * g for g in grads])
    close(parameters, before, rtol=0, atol=0)


@BOTH
def test_groups_have_their_own_settings(foreach):
    parameters, grads = problem()
    wanted = [
        naive(p.detach().numpy(), g.numpy(), lr=0.1, decay=0.0, adapt=False)
        if p.ndim < 2
        else naive(p.detach().numpy(), g.numpy(), lr=0.02)
        for p, g in zip(parameters, grads, strict=True)
    ]
    plain = {"params": [p for p in parameters if p.ndim < 2], "lr": 0.1, "weight_decay": 0.0, "layer_adaptation": False}
    run(LAMB([{"params": [p for p in parameters if p.ndim > 1]}, plain], 0.02, foreach=foreach), parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@BOTH
def test_counts_its_own_steps_for_each_parameter(foreach):
    (early, late), grads = problem(shapes=((3, 3), (4,)))
    wanted = [naive(early.detach().numpy(), grads[0].numpy()), naive(late.detach().numpy(), grads[1][2:].numpy())]
    optimizer = LAMB([early, late], foreach=foreach)
    for t in range(4):
        early.grad = grads[0][t]
        late.grad = grads[1][t] if t >= 2 else None
        optimizer.step()
    close([early, late], wanted, rtol=1e-12, atol=1e-13)
    assert optimizer.state[late]["step"] == 2


@BOTH
def test_learning_rate_may_be_a_tensor(foreach):
    ours, grads = problem()
    other, _ = problem()
    run(LAMB(ours, torch.tensor(0.25, dtype=torch.float64), foreach=foreach), ours, grads)
    run(LAMB(other, 0.25, foreach=foreach), other, grads)
    close(ours, [p.detach() for p in other], rtol=1e-14, atol=0)


@BOTH
def test_gradients_are_left_as_they_were(foreach):
    parameters, grads = problem(steps=1)
    run(LAMB(parameters, foreach=foreach), parameters, grads)
    for p, g in zip(parameters, grads, strict=True):
        assert torch.equal(p.grad, g[0])


@BOTH
def test_empty_parameters_are_passed_over(foreach):
    parameters, grads = problem(shapes=((0, 3), (2, 2)))
    run(LAMB(parameters, foreach=foreach), parameters, grads)
    assert parameters[0].shape == (0, 3)
    assert torch.isfinite(parameters[1]).all()


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_its_own_tensor_only(bad, foreach):
    parameters, grads = problem(steps=1)
    grads[0][0, 2, 2] = bad
    run(LAMB(parameters, foreach=foreach), parameters, grads)
    assert parameters[0][2, 2].isnan()
    assert all(torch.isfinite(p).all() for p in parameters[1:])


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_once(dtype, foreach):
    parameters, grads = problem(dtype=dtype, steps=1)
    wanted = [
        naive(p.detach().float().numpy(), g.float().numpy(), lr=0.05) for p, g in zip(parameters, grads, strict=True)
    ]
    optimizer = LAMB(parameters, lr=0.05, foreach=foreach)
    run(optimizer, parameters, grads)
    for p, x in zip(parameters, wanted, strict=True):
        one_ulp = torch.finfo(dtype).eps * np.abs(x) / 2 * 1.001
        assert (np.abs(p.detach().double().numpy() - x) <= one_ulp + 1e-7).all()
        assert optimizer.state[p]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("strided", [False, True])
def test_layout_of_the_parameter_does_not_matter(strided):
    draw = torch.Generator().manual_seed(5)
    base = torch.randn(4, 6, 3, 3, generator=draw, dtype=torch.float64)
    g = torch.randn(2, 4, 6, 3, 3, generator=draw, dtype=torch.float64)
    room = torch.zeros(8, 6, 3, 3, dtype=torch.float64)
    parameter = nn.Parameter(room[::2] if strided else base.to(memory_format=torch.channels_last))
    parameter.data.copy_(base)
    run(LAMB([parameter]), [parameter], [g])
    close([parameter], [naive(base.numpy(), g.numpy())], rtol=1e-12, atol=1e-13)
    assert not room[1::2].any()


@pytest.mark.parametrize("saver", [True, False])
@pytest.mark.parametrize("loader", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_goes_on_from_a_saved_state(tmp_path, saver, loader, dtype):
    straight, grads = problem(dtype=dtype)
    saved = LAMB(straight, foreach=saver)
    run(saved, straight, [g[:2] for g in grads])
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    resumed = copy.deepcopy(straight)
    optimizer = LAMB(resumed)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for group in optimizer.param_groups:
        group["foreach"] = loader
    for p, q in zip(straight, resumed, strict=True):
        for name in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(optimizer.state[q][name], saved.state[p][name], rtol=0, atol=0)
    run(saved, straight, grads, first=2)
    run(optimizer, resumed, grads, first=2)
    rtol = 0.0 if saver == loader else 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    close(resumed, [p.detach() for p in straight], rtol=rtol, atol=0)


def test_a_deep_copy_goes_on_alike():
    parameters, grads = problem()
    optimizer = LAMB(parameters)
    run(optimizer, parameters, [g[:2] for g in grads])
    twin = copy.deepcopy(optimizer)
    twins = twin.param_groups[0]["params"]
    run(optimizer, parameters, grads, first=2)
    run(twin, twins, grads, first=2)
    close(twins, [p.detach() for p in parameters], rtol=0, atol=0)


@BOTH
def test_a_step_never_waits_for_the_device(foreach):
    parameters, grads = problem(steps=2)
    optimizer = LAMB(parameters, torch.tensor(0.1, dtype=torch.float64), foreach=foreach)
    with NoWaiting():
        run(optimizer, parameters, grads)
        with pytest.raises(AssertionError, match="waits"):
            parameters[0].sum().item()


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step():
    pytest.importorskip("torch._inductor")
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as missing:
        pytest.skip(f"no C++ compiler: {missing}")
    ours, grads = problem(shapes=((7, 5), (11,)))
    other, _ = problem(shapes=((7, 5), (11,)))
    optimizer = LAMB(ours)
    step = torch.compile(optimizer.step)
    for t in range(4):
        for p, g in zip(ours, grads, strict=True):
            p.grad = g[t].clone()
        step()
    run(LAMB(other), other, grads)
    close(ours, [p.detach() for p in other], rtol=1e-11, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
def test_cuda_equals_cpu_without_a_sync(foreach):
    ours, grads = problem()
    other, _ = problem()
    on_device = [nn.Parameter(p.detach().cuda()) for p in ours]
    device_grads = [g.cuda() for g in grads]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(LAMB(on_device, foreach=foreach), on_device, device_grads)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run(LAMB(other), other, grads)
    close([p.cpu() for p in on_device], [p.detach() for p in other], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"lr": math.nan}, "lr must not be negative, got nan"),
        ({"lr": torch.ones(2)}, "without dimensions, got shape"),
        ({"eps": -1e-6}, "eps must not be negative"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got"),
        ({"norm_bounds": (2.0, 1.0)}, "norm_bounds must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        LAMB([parameter], **settings)
    with pytest.raises(ValueError, match=message):
        LAMB([{"params": [parameter], **settings}])


def test_complex_parameters_and_sparse_gradients_are_refused():
    with pytest.raises(TypeError, match=r"must be real, got torch\.complex64"):
        LAMB([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    before = table.weight.detach().clone()
    with pytest.raises(TypeError, match=r"must be dense .* got torch.sparse_coo"):
        LAMB(table.parameters()).step()
    assert torch.equal(table.weight, before)
