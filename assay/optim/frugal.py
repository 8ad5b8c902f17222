"""FRUGAL: state for a small and changing part of every weight matrix, a stateless rule for the rest.

    G_full = P(G)                   G_free = G - P^-1(G_full)
    W <- (1 - lr lambda) W
    W <- W - lr s P^-1(u(G_full)) - lr s s_free sign(G_free)

P chooses anew every `update_gap` steps, and the state of u, such as Adam's, starts anew with it.

Source: Zmushko et al., "FRUGAL: Memory-Efficient Optimization by Reducing State Overhead for Scalable Training" (2025),
algorithm 1; the authors' code, fzmushko/FRUGAL, where the text leaves it open.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.optim.optimizer import ParamsT

from assay.optim import layerwise, subspace
from assay.optim.roles import Role, role_groups

PROJECTIONS = ("block", *subspace.COORDINATES, *subspace.DIRECTIONS)
BLOCK_ORDERS = ("random", "ascending", "descending", "mirror")
STATES = {"adamw": ("exp_avg", "exp_avg_sq"), "sgdm": ("momentum_buffer",), "lion": ("exp_avg",)}
STATE_FREE = ("sign_sgd", "sgd", "none")
PIECE = 1 << 18  # elements of a matrix that are walked together, so that they stay in cache


class FRUGAL(layerwise.LayerwiseOptimizer):
    """FRUGAL: the memory of a low-rank method, with updates of full rank.

    `frugal_groups` tells the weights that are projected from those that keep all their state. With `state_free="none"`
    it is GaLore (`projection="svd"`, `reset_statistics=False`, `lr_scale=0.25`) or a BAdam (`projection="block"`).

    For P elements the state is about 2 `density` P numbers of float32 at least, one for the rules with one moment.
    Exactly, of a matrix [m, n] for each moment: `columns` m floor(density n), `rows` floor(density m) n, `randk`
    floor(density m n), `random` and `svd` max(m, n) round(density min(m, n)), `block` all of m n in round(density
    tensors) tensors and nothing in the others. Beside these it holds the subspace: an int32 for each chosen column, row
    or entry, or a matrix of min(m, n) times the rank; and a count of steps.

    Convolutions are matrices of their output channels. What `columns` rounds down to no column is stepped without
    state. The subspace is a function of `seed`, of the position in the group and of the number of the refresh, so all
    ranks choose alike. Without a gradient at a refresh, a parameter keeps its state and chooses at its next gradient; a
    block whose turn is over loses its state all the same. Half-precision weights are updated in float32 and rounded
    once. Where a gradient is not finite, neither are the state-full weights after the step; the sign of an infinite
    number is 1, that of NaN 0. Sharded (`DTensor`) parameters can be projected by `block` alone. Under
    `torch.compile` a step runs as it is.

    Args:
        params: parameters, named parameters or groups; a group may set every option below.
        lr: learning rate, a number or a tensor without dimensions.
        betas: decay of the first and second moment, each in [0, 1); the first is the momentum of `sgdm`.
        eps: added to the root of the second moment, not negative.
        weight_decay: lambda, not negative; decoupled, of all weights, at the rate `lr` without scales.
        projection: `block` (some tensors whole), `columns`, `rows`, `randk`, `random`, `svd`; `None` for a group that
            keeps all its state and never resets it.
        density: share that has state, in [0, 1].
        update_gap: steps between two choices of the subspace, positive.
        block_order: in which tensors take turns: a `random` choice each time, `ascending`, `descending` from the last,
            or `mirror`, in pairs from both ends.
        state_full: `adamw`, `sgdm` (momentum without dampening, from zero) or `lion`.
        state_free: `sign_sgd`, `sgd` or `none`.
        lr_scale: s, of both parts of a projected group, positive.
        state_free_lr_scale: s_free, not negative; the paper has 1 in pre-training, 0.1 in fine-tuning.
        reset_statistics: start the state anew with each subspace; `False` keeps the numbers, as GaLore does.
        seed: of the choices.
        foreach: fused kernels, in pieces that stay in cache; `False` goes tensor by tensor in plain arithmetic, as is
            always done for sharded or strided tensors and where `lr` is a tensor.

    Raises:
        ValueError: a setting lies outside its range, or a parameter of less than two dimensions is projected by another
            projection than `block`.
        TypeError: a parameter is complex, or sharded and projected by another projection than `block`; in `step`, a
            gradient is sparse.

    Source:
        Zmushko et al. (2025), algorithm 1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        projection: str | None = "block",
        density: int | float = 0.25,
        update_gap: int = 200,
        block_order: str = "random",
        state_full: str = "adamw",
        state_free: str = "sign_sgd",
        lr_scale: int | float = 1.0,
        state_free_lr_scale: int | float = 1.0,
        reset_statistics: bool = True,
        seed: int = 0,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "projection": projection,
            "density": density,
            "update_gap": update_gap,
            "block_order": block_order,
            "state_full": state_full,
            "state_free": state_free,
            "lr_scale": lr_scale,
            "state_free_lr_scale": state_free_lr_scale,
            "reset_statistics": reset_statistics,
            "seed": seed,
            "foreach": foreach,
            "steps": 0,
        }
        super().__init__(params, defaults)

    def _check(self, settings: Mapping[str, Any]) -> None:
        known = {
            "projection": (*PROJECTIONS, None),
            "block_order": BLOCK_ORDERS,
            "state_full": tuple(STATES),
            "state_free": STATE_FREE,
        }
        for name, values in known.items():
            if settings[name] not in values:
                raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {settings[name]!r}")
        if not all(0 <= beta < 1 for beta in settings["betas"]):
            raise ValueError(f"betas must lie in [0, 1), got {settings['betas']}")
        if not 0 <= settings["density"] <= 1:
            raise ValueError(f"density must lie in [0, 1], got {settings['density']}")
        if settings["update_gap"] < 1 or not settings["lr_scale"] > 0:
            name = "update_gap" if settings["update_gap"] < 1 else "lr_scale"
            raise ValueError(f"{name} must be positive, got {settings[name]}")
        layerwise.check_not_negative(settings, "state_free_lr_scale", "seed")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings take the place of the defaults."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["projection"] in (None, "block"):
            return
        for parameter in group["params"]:
            if parameter.ndim < 2:
                raise ValueError(
                    f"projection {group['projection']!r} needs parameters of two dimensions or more, got shape "
                    f"{tuple(parameter.shape)}; give these a group with projection=None, as frugal_groups does"
                )
            if hasattr(parameter, "to_local"):
                raise TypeError(
                    f"projection {group['projection']!r} needs whole parameters, got a sharded "
                    f"{type(parameter).__name__}; use projection='block'"
                )

    def _loaded(self, parameter: Tensor, name: str, saved: Any) -> Any:
        if not isinstance(saved, Tensor):
            return saved
        cast = name != "step" and saved.is_floating_point()
        dtype = layerwise.working_dtype(parameter.dtype) if cast else saved.dtype
        return saved.to(device=parameter.device, dtype=dtype, copy=True)

    @_disable_dynamo  # torch.compiler.disable does the same, but imports the compiler with this module
    def _step_group(self, group: dict[str, Any]) -> None:
        params, projection = group["params"], group["projection"]
        layers = [(i, p, layerwise.gradient(p)) for i, p in enumerate(params) if p.grad is not None and p.numel()]
        refresh, group["steps"] = group["steps"] // group["update_gap"], group["steps"] + 1
        if projection in subspace.COORDINATES + subspace.DIRECTIONS:
            for i, p, g in layers:
                self._step_matrix(i, p, g, refresh, group)
            return
        full = set(range(len(params)))
        if projection == "block":
            full = active_blocks(len(params), group["density"], group["block_order"], group["seed"], refresh)
            for i, p in enumerate(params):
                if i not in full:
                    self.state.pop(p, None)
        _step_full([self._full(p, g, refresh, group) for i, p, g in layers if i in full], group)
        _step_free([(p, g) for i, p, g in layers if i not in full], group)

    def _full(self, p: Tensor, g: Tensor, refresh: int, group: dict[str, Any]) -> "list[Tensor]":
        if self._is_due(p, refresh if group["projection"] else 0, group):
            self._start(p, torch.empty_like(p, dtype=layerwise.working_dtype(p.dtype)), group)
        state = self.state[p]
        return [p, g, state["step"], *(state[name] for name in STATES[group["state_full"]])]

    def _is_due(self, p: Tensor, refresh: int, group: dict[str, Any]) -> bool:
        """Note the number of the refresh that `p` is at, and say whether its moments have to start anew."""
        state = self.state[p]
        new = state.get("refresh") != refresh
        state["refresh"] = refresh
        return "step" not in state or (new and group["reset_statistics"])

    def _start(self, p: Tensor, like: Tensor, group: dict[str, Any]) -> None:
        self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        for name in STATES[group["state_full"]]:
            self.state[p][name] = torch.zeros_like(like)

    def _step_matrix(self, i: int, p: Tensor, g: Tensor, refresh: int, group: dict[str, Any]) -> None:
        """Step a weight part of which has state, as the matrix of its first dimension and all others."""
        projection, state = group["projection"], self.state[p]
        dtype = layerwise.working_dtype(p.dtype)
        x, g = (t.to(dtype).contiguous().flatten(1) for t in (p, g))
        if state.get("refresh") != refresh:
            chance = subspace.generator(group["seed"], i, refresh)
            state["subspace"] = subspace.draw(projection, group["density"], g, chance)
        if self._is_due(p, refresh, group):
            self._start(p, subspace.down(projection, g, state["subspace"]), group)
        state["step"].add_(1)
        moments = [state[name] for name in STATES[group["state_full"]]]
        step = _step_coordinates if projection in subspace.COORDINATES else _step_directions
        _, together = layerwise.split([(x, g, *moments)], _fused(group))
        step(x, g, state["subspace"], state["step"], moments, group, fused=bool(together))
        if x.data_ptr() != p.data_ptr():
            p.copy_(x.view(p.shape))


class Rates(NamedTuple):
    """What a group's settings come to.

    Attributes:
        full: rate of the state-full part.
        decay: what makes `full * decay` the share by which weights shrink.
        free: rate of the stateless part.
        shrink: the factor by which weights shrink.
    """

    full: float | Tensor
    decay: float
    free: float | Tensor
    shrink: float | Tensor


def active_blocks(count: int, density: int | float, order: str, seed: int, refresh: int) -> set[int]:
    """Which of `count` tensors have state after the given refresh: round(density count) of them.

    Args:
        count: tensors of the group.
        density: share, in [0, 1].
        order: `random`, `ascending`, `descending` or `mirror`.
        seed: of the random choice.
        refresh: its number, from 0.
    """
    active = round(density * count)
    if order == "random":
        return set(torch.randperm(count, generator=subspace.generator(seed, refresh))[:active].tolist())
    turns = list(range(count))
    if order == "descending":
        turns.reverse()
    elif order == "mirror":
        turns = [i for pair in zip(turns, reversed(turns), strict=True) for i in pair][:count]
    return {turns[(refresh * active + k) % count] for k in range(active)}


def frugal_groups(
    model: nn.Module,
    overrides: Mapping[str, Role | str] | None = None,
    *,
    project: Sequence[Role | str] = (Role.MATRIX,),
) -> list[dict[str, Any]]:
    """Groups by which the weights of layers are projected and everything else keeps all its state.

    That is: vectors, normalisation, embeddings, and the output, which is the last linear layer that the model
    registers. Tables held as a bare parameter by a module that is no layer count as embeddings.

    Args:
        model: the network.
        overrides: role by pattern of parameter name, as in `assay.optim.roles.parameter_roles`.
        project: roles to project; `embedding` and `readout` may join, `norm` and `vector` for `block` alone.

    Returns:
        groups by role; those not projected set `projection=None`.

    Raises:
        ValueError: a pattern matches no parameter, or a role is unknown.
    """
    chosen = {Role(role) for role in project}
    told = dict(overrides or {})
    names = {id(p): name for name, p in model.named_parameters()}
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for p in linear[-1].parameters() if linear else ():
        told.setdefault(names[id(p)], Role.READOUT)
    for module in model.modules():
        if not isinstance(module, LAYERS):
            tables = [p for p in module.parameters(recurse=False) if p.ndim > 1]
            told |= {names[id(p)]: Role.EMBEDDING for p in tables if names[id(p)] not in told}
    return role_groups(model, {role: {"projection": None} for role in Role if role not in chosen}, told)


LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)


def _rates(group: dict[str, Any]) -> Rates:
    lr, scale, decay = group["lr"], group["lr_scale"] if group["projection"] else 1.0, group["weight_decay"]
    return Rates(lr * scale, decay / scale, lr * scale * group["state_free_lr_scale"], 1 - lr * decay)


def _step_full(layers: Sequence[list[Tensor]], group: dict[str, Any]) -> None:
    """Whole tensors with state: each a weight, its gradient, its count of steps and its moments."""
    rates = _rates(group)
    for layer in layers:
        layer[2].add_(1)
    alone, together = layerwise.split(list(layers), _fused(group))
    for p, g, step, *moments in alone:
        x = p.to(moments[0].dtype)
        _advance([x], [g.to(x.dtype)], [step], [[m] for m in moments], rates.full, rates.decay, group, fused=False)
        if x is not p:
            p.copy_(x)
    for same in together:
        dtype = layerwise.working_dtype(same[0][0].dtype)
        for _, (ps, gs, steps, *states) in layerwise.blocks(same):
            xs = [p.to(dtype) for p in ps]
            _advance(xs, [g.to(dtype) for g in gs], steps, states, rates.full, rates.decay, group, fused=True)
            if xs[0] is not ps[0]:
                torch._foreach_copy_(ps, xs)


def _step_free(layers: Sequence[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
    """Whole tensors without state."""
    alone, together = layerwise.split(list(layers), _fused(group))
    pieces = [([p], [g], False) for p, g in alone]
    pieces += [(ps, gs, True) for same in together for _, (ps, gs) in layerwise.blocks(same, PIECE)]
    rates = _rates(group)
    for ps, gs, fused in pieces:
        dtype = layerwise.working_dtype(ps[0].dtype)
        xs = [p.to(dtype) for p in ps]
        _move_free(xs, [g.to(dtype) for g in gs], rates, group, fused=fused)
        for p, x in zip(ps, xs, strict=True):
            if x is not p:
                p.copy_(x)


def _step_coordinates(
    x: Tensor, g: Tensor, chosen: Tensor, step: Tensor, moments: list[Tensor], group: dict[str, Any], *, fused: bool
) -> None:
    """Some columns, rows or entries have state: these are kept aside, so that the stateless step may go over all."""
    projection, rates = group["projection"], _rates(group)
    chosen = chosen.long()  # which index_copy_ wants
    parts = [(x, g, *moments)]
    if projection == "columns" and x.device.type == "cpu":  # rows can be taken some at a time
        rows = max(PIECE // x.shape[1], 1)
        parts = list(zip(*(torch.split(t, rows) for t in parts[0]), strict=True))
    for x_part, g_part, *moments_part in parts:
        kept, low = (subspace.down(projection, t, chosen) for t in (x_part, g_part))
        for _, (xs, gs) in layerwise.blocks([(x_part, g_part)], PIECE):
            _move_free(xs, gs, rates, group, fused=fused)
        states = [[m] for m in moments_part]
        _advance([kept], [low], [step], states, rates.full, rates.decay, group, fused=fused)
        subspace.put(projection, x_part, chosen, kept)


def _step_directions(
    x: Tensor, g: Tensor, chosen: Tensor, step: Tensor, moments: list[Tensor], group: dict[str, Any], *, fused: bool
) -> None:
    """Some directions have state; the stateless step is that of what they leave of the gradient."""
    rates = _rates(group)
    low = subspace.down(group["projection"], g, chosen)
    rest = subspace.rest(g, chosen, low) if group["state_free"] != "none" else g
    moved = torch.zeros_like(low)
    _advance([moved], [low], [step], [[m] for m in moments], rates.full, 0.0, group, fused=fused)
    _move_free([x], [rest], rates, group, fused=fused)
    subspace.add_up(x, chosen, moved, out=x)


def _fused(group: dict[str, Any]) -> bool:
    return group["foreach"] and not isinstance(group["lr"], Tensor)


def _advance(
    xs: list[Tensor],
    gs: list[Tensor],
    steps: list[Tensor],
    states: list[list[Tensor]],
    rate: float | Tensor,
    decay: float,
    group: dict[str, Any],
    *,
    fused: bool,
) -> None:
    """`x <- (1 - rate decay) x - rate u` by the state-full rule; `states` has a list for each moment."""
    beta1, beta2 = group["betas"]
    if group["state_full"] == "adamw" and fused:
        m, v = states
        torch._fused_adamw_(
            xs, gs, m, v, [], steps, lr=float(rate), beta1=beta1, beta2=beta2, weight_decay=decay, eps=group["eps"],
            amsgrad=False, maximize=False,
        )  # fmt: skip
        return
    for x, g, step, *moments in zip(xs, gs, steps, *states, strict=True):
        u = _direction(g, step, moments, group)
        if decay:
            x.mul_(1 - rate * decay)
        x.sub_(u * rate)


def _direction(g: Tensor, step: Tensor, moments: list[Tensor], group: dict[str, Any]) -> Tensor:
    """The u of the state-full rule, whose moments take in the gradient."""
    beta1, beta2 = group["betas"]
    if group["state_full"] == "adamw":
        m, v = moments
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        t = step.to(m.dtype)
        v_hat = v / layerwise.one_minus_power(beta2, t)
        u: Tensor = m / layerwise.one_minus_power(beta1, t) / (v_hat.sqrt() + group["eps"])
        return u
    (m,) = moments
    if group["state_full"] == "sgdm":  # from zero: the authors' code has a copy of the gradient or of the weight in it
        return m.mul_(beta1).add_(g)
    u = torch.lerp(m, g, 1 - beta1).sign_()
    m.lerp_(g, 1 - beta2)
    return u


def _move_free(xs: list[Tensor], gs: list[Tensor], rates: Rates, group: dict[str, Any], *, fused: bool) -> None:
    """`x <- (1 - lr lambda) x - rate d` by the stateless rule."""
    if group["state_free"] == "none" or not group["state_free_lr_scale"]:
        if group["weight_decay"]:
            torch._foreach_mul_(xs, rates.shrink)
        return
    ds = torch._foreach_sign(gs) if group["state_free"] == "sign_sgd" else gs
    if fused:
        decay = rates.decay / group["state_free_lr_scale"]  # the kernel multiplies it by the rate
        torch._fused_sgd_(
            xs, ds, [], weight_decay=decay, momentum=0.0, lr=float(rates.free), dampening=0.0, nesterov=False,
            maximize=False, is_first_step=False,
        )  # fmt: skip
        return
    if group["weight_decay"]:
        torch._foreach_mul_(xs, rates.shrink)
    if isinstance(rates.free, Tensor):
        torch._foreach_sub_(xs, torch._foreach_mul(ds, rates.free))
    else:
        torch._foreach_add_(xs, ds, alpha=-rates.free)
