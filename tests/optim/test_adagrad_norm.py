"""AdaGrad-Norm against the published vectors, a float64 loop over the equations, and cases known in closed form."""

import copy
import math

import numpy as np
import pytest
import torch
from optimizer_runs import NoWaiting, close, problem, run
from torch import nn

from assay.optim import AdaGradNorm

BOTH = pytest.mark.parametrize("foreach", [True, False], ids=["together", "alone"])
EACH = pytest.mark.parametrize("granularity", ["global", "tensor", "row"])


def naive(starts, grads, granularity="global", lr=1.0, b0=0.01, eps=0.0, decay=0.0):
    """The equations, one float64 array and one step at a time."""
    xs = [x.detach().double().numpy().copy() for x in starts]
    sums = [0.0 * (x.reshape(len(x), -1)[:, 0] if x.ndim else x) if granularity == "row" else 0.0 for x in xs]
    for t in range(len(grads[0])):
        gs = [g[t].double().numpy() + decay * x for g, x in zip(grads, xs, strict=True)]
        for i, g in enumerate(gs):
            if granularity != "row":
                sums[i] += (g**2).sum()
            elif g.ndim > 1:
                sums[i] = sums[i] + [(row**2).sum() for row in g]
            else:
                last = gs[i - 1] if i and gs[i - 1].ndim > 1 and g.ndim and len(gs[i - 1]) == len(g) else None
                sums[i] = sums[i] + g**2 + (0 if last is None else [(row**2).sum() for row in last])
        for i, g in enumerate(gs):
            b = np.sqrt(b0**2 + (sum(sums) if granularity == "global" else sums[i])) + eps
            xs[i] = xs[i] - lr * (g.T / b).T
    return xs


def finished(parameters, grads, **options):
    optimizer = AdaGradNorm(parameters, **options)
    run(optimizer, parameters, grads)
    return optimizer


SHAPES = ((7, 5), (7,), (3, 4, 2, 2), (5,), (), (40, 30))


def test_reference_vectors_of_rows(vectors):
    data = np.load(vectors / "adadagrad.npz", allow_pickle=False)
    lr, initial, steps = data["an_cfg"].tolist()
    parameters = [nn.Parameter(torch.from_numpy(data[f"an_p{i}_init"])) for i in range(4)]
    optimizer = AdaGradNorm(parameters, lr, math.sqrt(initial), eps=1e-10, granularity="row")
    for t in range(int(steps)):
        for i, parameter in enumerate(parameters):
            parameter.grad = parameter.detach() - torch.from_numpy(data[f"an_target{i}"])
        optimizer.step()
        close(parameters, [data[f"an_p{i}_traj"][t] for i in range(4)], rtol=1e-10, atol=1e-12)


@BOTH
@EACH
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({}, {}),
        (
            {"lr": 0.1, "b0": 0.5, "eps": 0.01, "weight_decay": 0.3},
            {"lr": 0.1, "b0": 0.5, "eps": 0.01, "decay": 0.3},
        ),
    ],
    ids=["defaults", "all set"],
)
def test_equals_a_float64_loop(options, oracle, granularity, foreach):
    parameters, grads = problem(shapes=SHAPES)
    wanted = naive(parameters, grads, granularity, **oracle)
    finished(parameters, grads, granularity=granularity, foreach=foreach, **options)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)


@BOTH
def test_a_constant_gradient_gives_steps_of_lr_over_the_root_of_their_number(foreach):
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    g = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)  # of norm 3
    finished([x], [g.expand(20, 3)], lr=0.5, b0=0.6, foreach=foreach)
    length = sum(0.5 / math.sqrt(0.6**2 / 9 + k) for k in range(1, 21))
    torch.testing.assert_close(x.detach(), -length * g / 3, rtol=1e-14, atol=0)


@BOTH
def test_the_whole_gradient_may_be_cut_into_tensors_and_groups_at_will(foreach):
    (x,), (g,) = problem(shapes=((24,),))
    parts = [nn.Parameter(p.detach().clone()) for p in x.split(6)]
    groups = [{"params": parts[:1]}, {"params": parts[1:], "eps": 0.0}]
    optimizer = AdaGradNorm(groups, 0.3, foreach=foreach)
    run(optimizer, parts, list(g.split(6, dim=1)))
    finished([x], [g], lr=0.3, foreach=foreach)
    close([torch.cat([p.detach() for p in parts])], [x.detach()], rtol=1e-13, atol=1e-14)


def test_one_number_a_parameter_and_row_agree_where_all_is_one_row():
    ends = []
    for granularity in ("global", "tensor", "row"):
        parameters, grads = problem(shapes=((1, 9),))
        finished(parameters, grads, granularity=granularity)
        ends.append(parameters[0].detach())
    close(ends[1:], [ends[0]] * 2, rtol=1e-13, atol=1e-14)


def test_rows_of_one_entry_are_torchs_adagrad():
    ours, grads = problem(shapes=((6, 1), (4, 2), (3,)))
    ours, grads = [ours[0], ours[2]], [grads[0], grads[2]]
    theirs = copy.deepcopy(ours)
    finished(ours, grads, lr=0.1, b0=0.1, granularity="row")
    run(torch.optim.Adagrad(theirs, 0.1, initial_accumulator_value=0.1**2, eps=0), theirs, grads)
    close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-13)


@BOTH
def test_groups_have_their_own_rates_and_decay_under_one_b(foreach):
    parameters, grads = problem(shapes=((3, 3), (4,)))
    before = [p.detach().clone() for p in parameters]
    groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "weight_decay": 0.5}]
    run(AdaGradNorm(groups, 0.2, b0=1.0, foreach=foreach), parameters, [g[:1] for g in grads])
    gs = [grads[0][0], grads[1][0] + 0.5 * before[1]]
    b = math.sqrt(1 + sum((g**2).sum().item() for g in gs))
    close(parameters, [before[0] - 0.1 * gs[0] / b, before[1] - 0.2 * gs[1] / b], rtol=1e-13, atol=1e-14)


@BOTH
def test_a_parameter_without_gradient_stays_and_still_counts(foreach):
    (early, late), grads = problem(shapes=((3, 3), (4,)))
    optimizer = AdaGradNorm([early, late], foreach=foreach)
    early.grad, late.grad = grads[0][0], None
    optimizer.step()
    x, y = early.detach().clone(), late.detach().clone()
    early.grad, late.grad = None, grads[1][1]
    optimizer.step()
    assert torch.equal(early, x)
    b = math.sqrt(1e-4 + (grads[0][0] ** 2).sum() + (grads[1][1] ** 2).sum())
    close([late], [y - grads[1][1] / b], rtol=1e-13, atol=1e-14)


@BOTH
@EACH
def test_learning_rate_may_be_a_tensor(granularity, foreach):
    ours, grads = problem(shapes=SHAPES)
    other, _ = problem(shapes=SHAPES)
    rate = torch.tensor(0.25, dtype=torch.float64)
    finished(ours, grads, lr=rate, granularity=granularity, foreach=foreach)
    finished(other, grads, lr=0.25, granularity=granularity, foreach=foreach)
    close(ours, [p.detach() for p in other], rtol=1e-14, atol=0)


@BOTH
@EACH
def test_gradients_are_left_as_they_were_and_zero_ones_move_nothing(granularity, foreach):
    parameters, grads = problem(steps=2, shapes=SHAPES)
    grads = [torch.stack([g[0], 0 * g[1]]) for g in grads]
    optimizer = AdaGradNorm(parameters, granularity=granularity, weight_decay=0.0, foreach=foreach)
    run(optimizer, parameters, [g[:1] for g in grads])
    assert all(torch.equal(p.grad, g[0]) for p, g in zip(parameters, grads, strict=True))
    before = [p.detach().clone() for p in parameters]
    run(optimizer, parameters, grads, first=1)
    close(parameters, before, rtol=0, atol=0)


@BOTH
@EACH
def test_empty_parameters_are_passed_over(granularity, foreach):
    parameters, grads = problem(shapes=((0, 3), (2, 2)))
    finished(parameters, grads, granularity=granularity, foreach=foreach)
    assert parameters[0].shape == (0, 3)
    assert torch.isfinite(parameters[1]).all()


@BOTH
@EACH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_where_its_b_is_shared(bad, granularity, foreach):
    parameters, grads = problem(steps=1, shapes=((3, 4), (2, 2)))
    grads[0][0, 2, 2] = bad
    before = parameters[1].detach().clone()
    finished(parameters, grads, granularity=granularity, foreach=foreach)
    assert parameters[0][2, 2].isnan()
    if granularity != "global":
        assert (parameters[1].isfinite() & (parameters[1] != before)).all()
    elif math.isnan(bad):
        assert parameters[1].isnan().all()
    else:
        assert torch.equal(parameters[1], before)  # an infinite b


@BOTH
@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_once(dtype, granularity, foreach):
    parameters, grads = problem(dtype=dtype, steps=1, shapes=SHAPES)
    wanted = naive(parameters, grads, granularity, lr=0.5, decay=0.1)
    optimizer = finished(parameters, grads, lr=0.5, weight_decay=0.1, granularity=granularity, foreach=foreach)
    for p, x in zip(parameters, wanted, strict=True):
        half_ulp = torch.finfo(dtype).eps * np.abs(x) / 2 * 1.001
        assert (np.abs(p.detach().double().numpy() - x) <= half_ulp + 1e-7).all()
        assert optimizer.state[p]["sum"].dtype == torch.float32


@EACH
@pytest.mark.parametrize("strided", [False, True])
def test_layout_of_the_parameter_does_not_matter(granularity, strided):
    draw = torch.Generator().manual_seed(5)
    base = torch.randn(4, 6, 3, 3, generator=draw, dtype=torch.float64)
    g = torch.randn(2, 4, 6, 3, 3, generator=draw, dtype=torch.float64)
    room = torch.zeros(8, 6, 3, 3, dtype=torch.float64)
    parameter = nn.Parameter(room[::2] if strided else base.to(memory_format=torch.channels_last))
    parameter.data.copy_(base)
    finished([parameter], [g], granularity=granularity)
    close([parameter], naive([base], [g], granularity), rtol=1e-12, atol=1e-13)
    assert not room[1::2].any()


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_goes_on_from_a_saved_state(tmp_path, granularity, dtype):
    straight, grads = problem(dtype=dtype, shapes=SHAPES)
    saved = AdaGradNorm(straight, 0.3, granularity=granularity)
    run(saved, straight, [g[:2] for g in grads])
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    resumed = copy.deepcopy(straight)
    optimizer = AdaGradNorm(resumed)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for p, q in zip(straight, resumed, strict=True):
        torch.testing.assert_close(optimizer.state[q]["sum"], saved.state[p]["sum"], rtol=0, atol=0)
    twin = copy.deepcopy(saved)
    run(twin, twin.param_groups[0]["params"], grads, first=2)
    run(saved, straight, grads, first=2)
    run(optimizer, resumed, grads, first=2)
    close(resumed, [p.detach() for p in straight], rtol=0, atol=0)
    close(twin.param_groups[0]["params"], [p.detach() for p in straight], rtol=0, atol=0)


@BOTH
@EACH
def test_a_step_never_waits_for_the_device(granularity, foreach):
    parameters, grads = problem(steps=2, shapes=SHAPES)
    optimizer = AdaGradNorm(parameters, 0.1, granularity=granularity, foreach=foreach)
    with NoWaiting():
        run(optimizer, parameters, grads)


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
    optimizer = AdaGradNorm(ours)
    step = torch.compile(optimizer.step)
    for t in range(4):
        for p, g in zip(ours, grads, strict=True):
            p.grad = g[t].clone()
        step()
    finished(other, grads)
    close(ours, [p.detach() for p in other], rtol=1e-11, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
@EACH
def test_cuda_equals_cpu_without_a_sync(granularity, foreach):
    ours, grads = problem(shapes=SHAPES)
    other, _ = problem(shapes=SHAPES)
    on_device = [nn.Parameter(p.detach().cuda()) for p in ours]
    device_grads = [g.cuda() for g in grads]
    torch.cuda.set_sync_debug_mode("error")
    try:
        finished(on_device, device_grads, granularity=granularity, foreach=foreach)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    finished(other, grads, granularity=granularity)
    close([p.cpu() for p in on_device], [p.detach() for p in other], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"lr": torch.ones(2)}, "without dimensions, got shape"),
        ({"eps": -1e-6}, "eps must not be negative"),
        ({"weight_decay": math.nan}, "weight_decay must not be negative, got nan"),
        ({"b0": 0.0}, "b0 must be"),
        ({"granularity": "column"}, "granularity must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        AdaGradNorm([parameter], **settings)
    with pytest.raises(ValueError, match=message):
        AdaGradNorm([{"params": [parameter], **settings}])


def test_complex_parameters_and_sparse_gradients_are_refused():
    with pytest.raises(TypeError, match=r"must be real, got torch\.complex64"):
        AdaGradNorm([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    before = table.weight.detach().clone()
    for granularity in ("global", "row"):
        with pytest.raises(TypeError, match=r"must be dense .* got torch.sparse_coo"):
            AdaGradNorm(table.parameters(), granularity=granularity).step()
    assert torch.equal(table.weight, before)
