"""FRUGAL against the published vectors, a float64 loop over the equations, torch's own optimizers and limit cases."""

import copy
import math
from functools import partial

import numpy as np
import optimizer_runs
import pytest
import torch
from optimizer_runs import close, run
from torch import nn

from assay.models.transformer import Transformer
from assay.optim import FRUGAL, frugal, frugal_groups, state_bytes, subspace

BOTH = pytest.mark.parametrize("foreach", [True, False], ids=["together", "alone"])
PROJECTIONS = ("block", "columns", "rows", "randk", "random", "svd")
ALL = pytest.mark.parametrize("projection", PROJECTIONS)
SHAPES = ((9, 6), (4, 7), (5, 5), (3, 4, 2, 2))
problem = partial(optimizer_runs.problem, steps=7, shapes=SHAPES)


def drawn(monkeypatch):
    """A list that gets every subspace as it is chosen, in the order of refreshes, then of tensors."""
    made, draw = [], subspace.draw

    def noted(*given):
        made.append(draw(*given))
        return made[-1]

    monkeypatch.setattr(subspace, "draw", noted)
    return made


def naive(start, grads, maps, gap, *, lr=0.01, decay=0.1, scale=0.7, free=0.5, reset=True, full="adamw", rule="sign"):
    """The equations on one matrix, flattened, in float64: `maps` are P of each refresh, [k, elements] matrices."""
    x = start.reshape(-1).astype(np.float64)
    for t, g in enumerate(grads.reshape(len(grads), -1).astype(np.float64)):
        p = maps[t // gap]
        if t == 0 or (reset and t % gap == 0):
            m, v, count = np.zeros(len(p)), np.zeros(len(p)), 0
        low = p @ g
        rest = g - p.T @ low
        rest[np.abs(rest) < 1e-12] = 0  # what rounding leaves at selected coordinates
        count += 1
        if full == "adamw":
            m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
            u = m / (1 - 0.9**count) / (np.sqrt(v) / math.sqrt(1 - 0.999**count) + 1e-8)
        elif full == "sgdm":
            u = m = 0.9 * m + low
        else:
            u, m = np.sign(0.9 * m + 0.1 * low), 0.999 * m + 0.001 * low
        d = {"sign_sgd": np.sign(rest), "sgd": rest, "none": 0 * rest, "sign": np.sign(rest)}[rule]
        x = (1 - lr * decay) * x - lr * scale * (p.T @ u) - lr * scale * free * d
    return x.reshape(start.shape)


def as_map(projection, chosen, shape):
    """A subspace as one matrix [k, elements] on the flattened weight, by the definition of each projection."""
    rows, columns = shape[0], math.prod(shape[1:])
    eye = np.eye(rows * columns).reshape(rows, columns, rows, columns)
    if projection == "columns":
        return eye[:, chosen].reshape(-1, rows * columns)
    if projection == "rows":
        return eye[chosen].reshape(-1, rows * columns)
    if projection == "randk":
        return eye.reshape(rows * columns, -1)[chosen]
    q = chosen.numpy()
    return np.kron(np.eye(rows), q.T) if rows >= columns else np.kron(q.T, np.eye(columns))


CASES = {
    "coordcols": {"projection": "columns", "lr_scale": 1.0, "state_free_lr_scale": 0.5},
    "randk": {"projection": "randk", "lr_scale": 0.7, "state_free": "sgd"},
    "galoresvd": {"projection": "svd"},
    "galorenoreset": {"projection": "svd", "state_free": "none", "reset_statistics": False},
    "blockdesc": {"projection": "block", "block_order": "descending"},
}


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_reference_vectors(vectors, monkeypatch, case, foreach):
    data = np.load(vectors / "frugal.npz", allow_pickle=False)
    density, gap, steps = data["cfg"].tolist()
    stored = [torch.from_numpy(data[f"{case}_proj_e{e}_p{i}"]) for e in range(3) for i in range(1, 5)]
    refreshed = iter(q.T if q.ndim == 2 and len(q) < q.shape[1] else q for q in stored if q.ndim)
    monkeypatch.setattr(subspace, "draw", lambda *_: next(refreshed))
    parameters = [nn.Parameter(torch.from_numpy(data[f"{case}_p{i}_init"])) for i in range(5)]
    grads = [torch.from_numpy(data[f"{case}_p{i}_grads"]) for i in range(5)]
    groups = [{"params": parameters[:1], "projection": None}, {"params": parameters[1:]}]
    optimizer = FRUGAL(
        groups, 0.01, weight_decay=0.1, density=density, update_gap=int(gap), foreach=foreach, **CASES[case]
    )
    for t in range(int(steps)):
        run(optimizer, parameters, [g[t : t + 1] for g in grads])
        close(parameters, [data[f"{case}_p{i}_traj"][t] for i in range(5)], rtol=1e-12, atol=1e-12)
        if case == "blockdesc":
            active = [int("step" in optimizer.state.get(p, {})) for p in parameters[1:]]
            assert active == [int(q) for q in stored[4 * (t // int(gap)) :][:4]]


def test_own_singular_vectors_span_the_published_space(vectors):
    data = np.load(vectors / "frugal.npz", allow_pickle=False)
    for i in range(1, 5):
        q = subspace.draw("svd", 0.5, torch.from_numpy(data[f"galoresvd_p{i}_grads"][0]), torch.Generator())
        theirs = torch.from_numpy(data[f"galoresvd_proj_e0_p{i}"])
        theirs = theirs.T if len(theirs) < theirs.shape[1] else theirs
        torch.testing.assert_close(q @ q.T, theirs @ theirs.T, rtol=0, atol=2e-6)


@BOTH
@pytest.mark.parametrize("projection", PROJECTIONS[1:])
@pytest.mark.parametrize("full", ["adamw", "sgdm", "lion"])
@pytest.mark.parametrize("rule", ["sign_sgd", "sgd", "none"])
def test_equals_a_float64_loop(monkeypatch, projection, full, rule, foreach):
    made = drawn(monkeypatch)
    parameters, grads = problem()
    starts = [p.detach().numpy().copy() for p in parameters]
    optimizer = FRUGAL(
        parameters, 0.01, weight_decay=0.1, projection=projection, density=0.5, update_gap=3, state_full=full,
        state_free=rule, lr_scale=0.7, state_free_lr_scale=0.5, foreach=foreach,
    )  # fmt: skip
    run(optimizer, parameters, grads)
    count = len(parameters)
    assert len(made) == 3 * count
    for i, (p, start, g) in enumerate(zip(parameters, starts, grads, strict=True)):
        maps = [as_map(projection, chosen, start.shape) for chosen in made[i::count]]
        close([p], [naive(start, g.numpy(), maps, 3, full=full, rule=rule)], rtol=1e-9, atol=1e-10)


@BOTH
@pytest.mark.parametrize("reset", [True, False])
def test_blocks_are_adam_on_some_tensors_and_sign_steps_on_the_others(reset, foreach):
    parameters, grads = problem()
    starts = [p.detach().numpy().copy() for p in parameters]
    optimizer = FRUGAL(
        parameters, 0.01, weight_decay=0.1, density=0.5, update_gap=3, block_order="ascending", lr_scale=0.7,
        state_free_lr_scale=0.5, reset_statistics=reset, foreach=foreach,
    )  # fmt: skip
    run(optimizer, parameters, grads)
    for i, (p, start, g) in enumerate(zip(parameters, starts, grads, strict=True)):
        maps = [np.eye(start.size)[: start.size * (i in turn)] for turn in ({0, 1}, {2, 3}, {0, 1})]
        close([p], [naive(start, g.numpy(), maps, 3)], rtol=1e-10, atol=1e-12)


@BOTH
@pytest.mark.parametrize("projection", ["block", "columns", "rows", "randk"])  # in turned coordinates Adam is another
@pytest.mark.parametrize("reset", [True, False])
def test_density_one_is_adamw_until_its_state_is_reset(projection, reset, foreach):
    ours, grads = problem()
    theirs, _ = problem()
    optimizer = FRUGAL(
        ours, 0.01, weight_decay=0.1, projection=projection, density=1, update_gap=4, reset_statistics=reset,
        foreach=foreach,
    )  # fmt: skip
    adamw = torch.optim.AdamW(theirs, 0.01, weight_decay=0.1)
    run(optimizer, ours, [g[:4] for g in grads])
    run(adamw, theirs, [g[:4] for g in grads])
    close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-13)
    run(optimizer, ours, grads, first=4)
    run(adamw if not reset else torch.optim.AdamW(theirs, 0.01, weight_decay=0.1), theirs, grads, first=4)
    close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-13)


@BOTH
@ALL
def test_density_zero_is_the_stateless_rule(projection, foreach):
    parameters, grads = problem(steps=3)
    wanted = [p.detach() - 0.01 * g.sign().sum(0) for p, g in zip(parameters, grads, strict=True)]
    optimizer = FRUGAL(parameters, 0.01, projection=projection, density=0, foreach=foreach)
    run(optimizer, parameters, grads)
    close(parameters, wanted, rtol=1e-12, atol=1e-13)
    assert state_bytes(optimizer) <= 4 * len(parameters)  # counts of steps


@ALL
@pytest.mark.parametrize(("full", "moments"), [("adamw", 2), ("lion", 1)])
def test_memory_is_that_of_the_formula(projection, full, moments):
    model = Transformer(width=32, depth=2, heads=2, context=16)
    optimizer = FRUGAL(
        frugal_groups(model), projection=projection, density=0.25, state_full=full, block_order="descending"
    )
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    # [rows, columns] of the weights that are projected, in their order
    layers = [(96, 32), (32, 32), (128, 32), (32, 128)] * 2
    dense = 256 * 32 * 2 + 16 * 32 + 5 * 2 * 32 + 2 * (96 + 32 + 128 + 32)
    small = [min(layer) for layer in layers]
    numbers = {
        "block": 128 * 32 * 2,  # a quarter of 8 tensors, from the last
        "columns": sum(m * (n // 4) for m, n in layers),
        "rows": sum(m // 4 * n for m, n in layers),
        "randk": sum(m * n // 4 for m, n in layers),
    }.get(projection, sum(max(layer) * (min(layer) // 4) for layer in layers))
    chosen = {
        "block": 0,
        "columns": sum(n // 4 for _, n in layers),
        "rows": sum(m // 4 for m, _ in layers),
        "randk": sum(m * n // 4 for m, n in layers),
    }.get(projection, sum(s * (s // 4) for s in small))
    steps = 2 if projection == "block" else len(layers)
    tensors = sum(1 for _ in model.parameters()) - len(layers)
    assert state_bytes(optimizer) == 4 * (moments * (dense + numbers) + chosen + tensors + steps)
    assert numbers * 4 == pytest.approx(sum(m * n for m, n in layers), rel=0.34 if projection == "block" else 0)


@pytest.mark.parametrize("projection", PROJECTIONS[1:])
@pytest.mark.parametrize("shape", [(9, 6), (4, 7), (5, 5)])
def test_a_projection_splits_the_gradient(projection, shape):
    draw = torch.Generator().manual_seed(3)
    g, other = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    chosen = subspace.draw(projection, 0.5, g, draw)

    def project(t):
        up = torch.zeros_like(t)
        if projection in subspace.COORDINATES:
            subspace.put(projection, up, chosen.long(), subspace.down(projection, t, chosen))
        else:
            up = subspace.add_up(up, chosen, subspace.down(projection, t, chosen))
        return up

    torch.testing.assert_close(project(project(g)), project(g))
    inner = (project(g) * (other - project(other))).sum()
    torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-6)
    assert 0 < project(g).norm() < g.norm()


def test_svd_keeps_more_of_the_gradient_than_any_other_choice():
    g = torch.randn(30, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draw = torch.Generator().manual_seed(2)
    kept = {p: subspace.down(p, g, subspace.draw(p, 0.25, g, draw)).norm() for p in ("svd", "random", "columns")}
    torch.testing.assert_close(kept["svd"], torch.linalg.svdvals(g)[:5].norm())
    assert kept["svd"] > max(kept["random"], kept["columns"])


@pytest.mark.parametrize("projection", ["columns", "rows", "randk"])
def test_chosen_places_get_no_sign_step(projection, monkeypatch):
    made = drawn(monkeypatch)
    (parameter,), (g,) = problem(steps=1, shapes=((6, 8),))
    before = parameter.detach().clone()
    optimizer = FRUGAL([parameter], 1.0, projection=projection, density=0.5, state_free_lr_scale=100.0)
    run(optimizer, [parameter], [g])
    moved = (parameter.detach() - before).abs()
    at_chosen = subspace.down(projection, moved, made[0])
    assert (at_chosen < 1.001).all()  # Adam's first step
    assert int((moved > 99).sum()) == moved.numel() - at_chosen.numel()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
@pytest.mark.parametrize(("projection", "density", "rank"), [("svd", 1, 8), ("random", 1, 8), ("svd", 0.5, 3)])
def test_what_rounding_leaves_of_a_gradient_gets_no_sign_step(projection, density, rank, shape, dtype, foreach):
    """A subspace that holds all of the gradient leaves nothing for the stateless rule."""
    draw = torch.Generator().manual_seed(4)
    rows, columns = shape
    g = torch.randn(rows, rank, generator=draw, dtype=dtype) @ torch.randn(rank, columns, generator=draw, dtype=dtype)
    ends = []
    for rule in ("sign_sgd", "none"):
        (parameter,), _ = problem(shapes=(shape,), dtype=dtype)
        optimizer = FRUGAL([parameter], 0.1, projection=projection, density=density, state_free=rule, foreach=foreach)
        run(optimizer, [parameter], [g[None]])
        ends.append(parameter.detach())
    assert torch.equal(*ends)


@ALL
def test_zero_gradients_and_no_decay_leave_weights_alone(projection):
    parameters, grads = problem()
    before = [p.detach().clone() for p in parameters]
    run(FRUGAL(parameters, 0.1, projection=projection, update_gap=3), parameters, [0 * g for g in grads])
    close(parameters, before, rtol=0, atol=0)


@pytest.mark.parametrize("order", ["ascending", "descending", "mirror"])
@pytest.mark.parametrize("count", [4, 7, 10])
def test_cyclic_orders_visit_every_tensor(order, count):
    active = round(0.3 * count)
    visited = [frugal.active_blocks(count, 0.3, order, 0, refresh) for refresh in range(math.ceil(count / active))]
    assert set().union(*visited) == set(range(count))
    assert all(len(turn) == active for turn in visited)


def test_orders_start_where_they_say():
    turns = {order: frugal.active_blocks(6, 0.34, order, 0, 0) for order in frugal.BLOCK_ORDERS}
    assert turns["ascending"] == {0, 1}
    assert turns["descending"] == {5, 4}
    assert turns["mirror"] == {0, 5}
    assert frugal.active_blocks(6, 0.34, "mirror", 0, 1) == {1, 4}


def test_random_choices_follow_the_seed_and_differ_between_refreshes_and_tensors():
    def chosen(*seed):
        return subspace.draw("columns", 0.25, torch.ones(4, 400), subspace.generator(*seed)).tolist()

    assert chosen(1, 2, 3) == chosen(1, 2, 3)
    assert len({tuple(chosen(*seed)) for seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4
    often = [i for refresh in range(400) for i in frugal.active_blocks(8, 0.25, "random", 0, refresh)]
    assert min(often.count(i) for i in range(8)) > 70  # 100 each, by a binomial law of deviation 8.7


@ALL
def test_together_is_alone(projection):
    ends = []
    for foreach in (True, False):
        parameters, grads = problem(dtype=torch.float32)
        run(FRUGAL(parameters, 0.01, projection=projection, update_gap=3, foreach=foreach), parameters, grads)
        ends.append([p.detach() for p in parameters])
    close(ends[0], ends[1], rtol=2e-5, atol=2e-6)


def test_pieces_change_nothing(monkeypatch):
    ends = []
    for piece in (1 << 18, 12):
        monkeypatch.setattr(frugal, "PIECE", piece)
        parameters, grads = problem()
        run(FRUGAL(parameters, 0.01, projection="columns", update_gap=3), parameters, grads)
        ends.append([p.detach() for p in parameters])
    close(ends[0], ends[1], rtol=1e-14, atol=0)


@BOTH
@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_once(projection, dtype, foreach):
    ours, grads = problem(dtype=dtype, steps=1)
    other = [nn.Parameter(p.detach().float()) for p in ours]
    run(FRUGAL(ours, 0.05, projection=projection, foreach=foreach), ours, grads)
    run(FRUGAL(other, 0.05, projection=projection, foreach=foreach), other, [g.float() for g in grads])
    close(ours, [p.detach().to(dtype) for p in other], rtol=0, atol=0)


@ALL
@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_layout_of_the_parameter_does_not_matter(projection, layout):
    (plain,), (g,) = problem(shapes=((4, 6, 3, 3),))
    room = torch.zeros(8, 6, 3, 3, dtype=torch.float64)
    room[::2] = plain.detach()
    laid = room[::2] if layout == "strided" else plain.detach().clone(memory_format=torch.channels_last)
    ours = nn.Parameter(laid)
    for p in (plain, ours):
        run(FRUGAL([p], 0.01, projection=projection, update_gap=3), [p], [g])
    close([ours], [plain.detach()], rtol=1e-12, atol=1e-13)
    assert not room[1::2].any()


@BOTH
@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_goes_on_from_a_saved_state_across_a_refresh(tmp_path, projection, dtype, foreach):
    straight, grads = problem(dtype=dtype)
    settings = {"projection": projection, "density": 0.5, "update_gap": 3, "foreach": foreach}
    saved = FRUGAL(straight, 0.01, **settings)
    run(saved, straight, [g[:2] for g in grads])
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    resumed = copy.deepcopy(straight)
    optimizer = FRUGAL(resumed, 0.01, **settings)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    twin = copy.deepcopy(optimizer)
    run(saved, straight, grads, first=2)
    for other in (optimizer, twin):
        params = other.param_groups[0]["params"]
        run(other, params, grads, first=2)
        close(params, [p.detach() for p in straight], rtol=0, atol=0)
    moments = [v for state in twin.state.values() for k, v in state.items() if k.startswith("exp_avg")]
    assert all(m.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for m in moments)


def test_a_state_moves_to_another_type():
    wide, grads = problem()
    optimizer = FRUGAL(wide, 0.01, projection="randk")
    run(optimizer, wide, [g[:1] for g in grads])
    narrow = FRUGAL([nn.Parameter(p.detach().bfloat16()) for p in wide], 0.01, projection="randk")
    narrow.load_state_dict(optimizer.state_dict())
    for state in narrow.state.values():
        assert (state["exp_avg"].dtype, state["subspace"].dtype) == (torch.float32, torch.int32)


@BOTH
@ALL
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_learning_rate_may_be_a_tensor(projection, decay, foreach):
    ends = []
    for lr in (0.25, torch.tensor(0.25, dtype=torch.float64)):
        parameters, grads = problem()
        run(FRUGAL(parameters, lr, weight_decay=decay, projection=projection, foreach=foreach), parameters, grads)
        ends.append([p.detach() for p in parameters])
    close(ends[0], ends[1], rtol=1e-11, atol=1e-12)


@ALL
def test_both_parts_follow_the_learning_rate(projection):
    parameters, grads = problem()
    optimizer = FRUGAL(parameters, 0.1, projection=projection, weight_decay=0.1)
    run(optimizer, parameters, [g[:2] for g in grads])
    before = [p.detach().clone() for p in parameters]
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, parameters, grads, first=2)
    close(parameters, before, rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize("projection", ["columns", "rows", "randk", "random", "svd"])
def test_a_parameter_without_gradient_at_a_refresh_chooses_at_its_next_one(monkeypatch, projection, foreach):
    made = drawn(monkeypatch)
    (early, late), grads = problem(shapes=((6, 6), (6, 6)))
    before = late.detach().numpy().copy()
    optimizer = FRUGAL([early, late], 0.01, projection=projection, density=0.5, update_gap=3, foreach=foreach)
    for t in range(6):
        early.grad = grads[0][t]
        late.grad = grads[1][t] if t > 3 else None  # not at steps 0 and 3, where the others choose
        optimizer.step()
    assert len(made) == 3
    wanted = naive(before, grads[1][4:6].numpy(), [as_map(projection, made[2], (6, 6))], 3, decay=0, scale=1, free=1)
    close([late], [wanted], rtol=1e-9, atol=1e-10)
    assert optimizer.state[late]["step"] == 2


@BOTH
def test_a_block_without_gradient_keeps_its_weights_and_loses_its_state(foreach):
    (first, second), grads = problem(shapes=((3, 3), (3, 3)), steps=4)
    optimizer = FRUGAL([first, second], density=0.5, update_gap=2, block_order="ascending", foreach=foreach)
    run(optimizer, [first, second], [g[:2] for g in grads])
    assert first in optimizer.state
    kept = first.detach().clone()
    first.grad, second.grad = None, grads[1][2]
    optimizer.step()
    assert set(optimizer.state) == {second}
    assert torch.equal(first, kept)


@ALL
def test_empty_parameters_are_passed_over(projection):
    parameters, grads = problem(shapes=((0, 3), (4, 4)))
    run(FRUGAL(parameters, projection=projection), parameters, grads)
    assert torch.isfinite(parameters[1]).all()


@BOTH
@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_not_raise_and_stays_in_its_tensor(projection, bad, foreach):
    parameters, grads = problem(steps=1)
    grads[0][0, 2, :] = bad
    run(FRUGAL(parameters, projection=projection, density=1, foreach=foreach), parameters, grads)
    assert parameters[0][2].isnan().all()
    assert all(torch.isfinite(p).all() for p in parameters[1:])


@ALL
def test_gradients_are_left_as_they_were(projection):
    parameters, grads = problem(steps=1)
    run(FRUGAL(parameters, projection=projection), parameters, grads)
    for p, g in zip(parameters, grads, strict=True):
        assert torch.equal(p.grad, g[0])


@BOTH
def test_groups_have_their_own_settings(foreach):
    (dense, columns, blocks), grads = problem(shapes=((6,), (4, 8), (5, 5)))
    groups = [
        {"params": [dense], "projection": None, "lr": 0.02},
        {"params": [columns], "projection": "columns", "density": 1},
        {"params": [blocks], "density": 0, "lr": 0.5},
    ]
    twins = [nn.Parameter(p.detach().clone()) for p in (dense, columns)]
    wanted = blocks.detach() - 0.5 * grads[2].sign().sum(0)
    run(FRUGAL(groups, 0.1, foreach=foreach), [dense, columns, blocks], grads)
    settings = [{"params": twins[:1], "lr": 0.02}, {"params": twins[1:], "lr": 0.1}]
    run(torch.optim.AdamW(settings, weight_decay=0.0), twins, grads[:2])
    close([dense, columns, blocks], [*(p.detach() for p in twins), wanted], rtol=1e-12, atol=1e-12)


def test_groups_project_the_weights_of_layers_but_the_last():
    model = Transformer(width=16, depth=1, heads=2, context=8)
    names = {id(p): name for name, p in model.named_parameters()}

    def projected(**options):
        groups = frugal_groups(model, **options)
        assert sorted(id(p) for group in groups for p in group["params"]) == sorted(names)
        return {names[id(p)] for group in groups if "projection" not in group for p in group["params"]}

    layers = {f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.out", "up", "down")}
    assert projected() == layers
    assert projected(project=("matrix", "readout")) == layers | {"readout.weight"}
    assert projected(project=("matrix", "embedding")) == layers | {"embedding.weight", "positions"}
    assert projected(overrides={"*.up.weight": "embedding"}) == layers - {"blocks.0.up.weight"}
    tied = Transformer(width=16, depth=1, heads=2, context=8, tied=True)
    assert sum("projection" not in group and len(group["params"]) for group in frugal_groups(tied)) == 4


@pytest.mark.parametrize("projection", ["columns", "randk", "random", "svd"])
def test_memory_of_the_last_subspace_is_given_back(projection):
    parameters, grads = problem()
    optimizer = FRUGAL(parameters, projection=projection, update_gap=2)
    sizes = []
    for t in range(6):
        run(optimizer, parameters, [g[t : t + 1] for g in grads])
        sizes.append(state_bytes(optimizer))
    assert len(set(sizes)) == 1


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step():
    ours, grads = problem(shapes=((7, 5), (6, 6)))
    other, _ = problem(shapes=((7, 5), (6, 6)))
    optimizer = FRUGAL(ours, 0.01, projection="columns", update_gap=3)
    step = torch.compile(optimizer.step, backend="eager")
    for t in range(7):
        for p, g in zip(ours, grads, strict=True):
            p.grad = g[t].clone()
        step()
    run(FRUGAL(other, 0.01, projection="columns", update_gap=3), other, grads)
    close(ours, [p.detach() for p in other], rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@BOTH
@ALL
def test_cuda_equals_cpu(projection, foreach):
    ours, grads = problem()
    other, _ = problem()
    on_device = [nn.Parameter(p.detach().cuda()) for p in ours]
    settings = {"lr": 0.01, "projection": projection, "update_gap": 3, "weight_decay": 0.1}
    run(FRUGAL(on_device, foreach=foreach, **settings), on_device, [g.cuda() for g in grads])
    run(FRUGAL(other, **settings), other, grads)
    close([p.cpu() for p in on_device], [p.detach() for p in other], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative, got -1.0"),
        ({"eps": -1e-6}, "eps must not be negative"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), got"),
        ({"density": 1.5}, r"density must lie in \[0, 1\], got 1.5"),
        ({"density": math.nan}, r"density must lie in \[0, 1\], got nan"),
        ({"update_gap": 0}, "update_gap must be positive, got 0"),
        ({"lr_scale": 0.0}, "lr_scale must be positive, got 0.0"),
        ({"state_free_lr_scale": -1.0}, "state_free_lr_scale must not be negative"),
        ({"projection": "galore"}, "projection must be one of block, columns, .* got 'galore'"),
        ({"block_order": "up"}, "block_order must be one of"),
        ({"state_full": "adam"}, "state_full must be one of adamw, sgdm, lion, got 'adam'"),
        ({"state_free": "sign"}, "state_free must be one of"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    parameter = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=message):
        FRUGAL([parameter], **settings)
    with pytest.raises(ValueError, match=message):
        FRUGAL([{"params": [parameter], **settings}])


def test_what_cannot_be_projected_is_refused():
    with pytest.raises(ValueError, match=r"needs parameters of two dimensions or more, got shape \(3,\)"):
        FRUGAL([nn.Parameter(torch.ones(3))], projection="columns")
    FRUGAL([nn.Parameter(torch.ones(3))], projection="block")
    with pytest.raises(TypeError, match=r"must be real, got torch\.complex64"):
        FRUGAL([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
    table = nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    before = table.weight.detach().clone()
    with pytest.raises(TypeError, match=r"must be dense .* got torch.sparse_coo"):
        FRUGAL(table.parameters()).step()
    assert torch.equal(table.weight, before)
