"""Recurrences with layer normalisation over a whole sequence, forward and backward in closed form.

What a step does is written once, plainly, in `rnn_step`, `lstm_step` and `gru_step`, and `loop` does it step by step. A
scan does the same as one autograd node: what is left in a step depends on the state, in as few calls as torch's kernels
allow, and the gradients of weights, gains and biases are taken over all steps at once. Backward goes through the
statistics. benchmarks/layernorm_rnn.py times all this; compiling the step with torch.compile instead gained nothing,
since entering compiled code costs as much as the calls that it saves.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.nn.layer_norm import layer_norm

Norm = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
_normalise = torch.native_layer_norm
_normalise_back = torch.ops.aten.native_layer_norm_backward
_sigmoid_back = torch.ops.aten.sigmoid_backward
_tanh_back = torch.ops.aten.tanh_backward


# One step ---------------------------------------------------------------------------------------------------------


def rnn_step(x: Tensor, h: Tensor, weight: Tensor, norm: Norm, nonlinearity: str) -> Tensor:
    """The state h' = f(LN(h U + x)), x being the input's product."""
    y = norm((F.linear(h, weight) + x).to(h.dtype))  # under autocast products are in half precision, states are not
    return torch.tanh(y) if nonlinearity == "tanh" else torch.relu(y)


def lstm_step(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, norm: Norm, norm_c: Norm) -> tuple[Tensor, Tensor]:
    """State h' = s(o) tanh(LN(c')) and cell c' = s(f) c + s(i) tanh(g), where i, f, g, o = LN(h U) + x, x being the
    input's part."""
    i, f, g, o = (norm(F.linear(h, weight)) + x).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm_c(c)), c


def gru_step(x: Tensor, h: Tensor, weight: Tensor, norm: Norm, norm_n: Norm) -> Tensor:
    """The state h' = z h + (1 - z) n, where r, z = s(LN(h U) + x) and n = tanh(x_n + r LN(h U_n)), x and x_n being the
    input's part."""
    d = h.shape[-1]
    gates, candidate = torch.split(x, [2 * d, d], -1)
    r, z = torch.sigmoid(norm(F.linear(h, weight[: 2 * d])) + gates).chunk(2, -1)
    n = torch.tanh(candidate + r * norm_n(F.linear(h, weight[2 * d :])))
    return z * h + (1 - z) * n


def loop(
    step: Callable[[Tensor, State], State], x: Tensor, state: State, padding: Tensor | None = None
) -> tuple[Tensor, State]:
    """One step after another.

    Args:
        step: from an input's part and a state to the next state.
        x: the inputs' parts [steps, batch, features].
        state: the first one; its first tensor is what the outside sees.
        padding: bool [steps, batch], true where a step is none: the state is carried over it.

    Returns:
        what the outside sees [steps, batch, d], and the last state.
    """
    seen = []
    for t, x_t in enumerate(x.unbind(0)):
        new = step(x_t, state)
        if padding is not None:
            held = padding[t, :, None]
            new = tuple(torch.where(held, old, this) for old, this in zip(state, new, strict=True))
        state = new
        seen.append(state[0])
    return torch.stack(seen), state


# All steps --------------------------------------------------------------------------------------------------------


def rnn_scan(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    eps: float,
    nonlinearity: str,
    padding: Tensor | None = None,
) -> Tensor:
    """`rnn_step` for every x [steps, batch, d], from the state h [batch, d]; the states [steps, batch, d].

    Args:
        x: products of the inputs.
        h: first state.
        weight: U^T [d, d].
        gain, bias: of the normalisation.
        eps: beside its variance.
        nonlinearity: `tanh` or `relu`.
        padding: bool [steps, batch], true where a step is none: the state is carried over it.
    """
    kind = _TANH if nonlinearity == "tanh" else _RELU
    states: Tensor = _scan(kind, eps, padding, x, h, weight, gain, bias)[0]
    return states


def lstm_scan(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight: Tensor,
    gain: Tensor,
    gain_c: Tensor,
    bias_c: Tensor | None,
    eps: float,
    padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`lstm_step` for every x [steps, batch, 4 d]; the states [steps, batch, d] and the last cell.

    Args:
        x: the inputs' part of the gates, with all that is added to them, the bias of LN(h U) too.
        h, c: first state and cell [batch, d].
        weight: U^T [4 d, d], gates in the order i, f, g, o.
        gain: of LN(h U).
        gain_c, bias_c: of the cell's normalisation.
        eps, padding: as in `rnn_scan`.
    """
    states, cell = _scan(_LSTM, eps, padding, x, h, c, weight, gain, gain_c, bias_c)
    return states, cell


def gru_scan(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    gain: Tensor,
    gain_n: Tensor,
    bias_n: Tensor | None,
    eps: float,
    padding: Tensor | None = None,
) -> Tensor:
    """`gru_step` for every x [steps, batch, 3 d]; the states [steps, batch, d].

    Args:
        x: the inputs' part of gates and candidate, with all that is added to them, the bias of LN(h U) too.
        h: first state [batch, d].
        weight: U^T [3 d, d], in the order r, z, n.
        gain: of the gates' LN(h U).
        gain_n, bias_n: of the candidate's.
        eps, padding: as in `rnn_scan`.
    """
    states: Tensor = _scan(_GRU, eps, padding, x, h, weight, gain, gain_n, bias_n)[0]
    return states


class _Kind(NamedTuple):
    """A recurrence. `plain` and `forward` take (eps, padding, *tensors) and give the outputs, `forward` with what
    `backward(padding, tensors, saved, gradients)` needs beside the tensors."""

    plain: Callable[..., tuple[Tensor, ...]]
    forward: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    backward: Callable[..., tuple[Tensor | None, ...]]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _scan(kind: _Kind, eps: float, padding: Tensor | None, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    given = [t for t in tensors if t is not None]
    with torch.autocast(given[0].device.type, enabled=False):
        if any(t.dtype != given[0].dtype for t in given):  # under autocast: products may be in half precision
            wide = torch.promote_types(given[0].dtype, torch.float32)
            tensors = tuple(t if t is None else t.to(wide) for t in tensors)
        return _Scan.apply(kind, eps, padding, *tensors)  # type: ignore[no-any-return, no-untyped-call]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kind: _Kind, eps: float, padding: Tensor | None, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, saved = kind.forward(eps, padding, *tensors)
        ctx.kind, ctx.eps, ctx.count = kind, eps, len(tensors)
        ctx.save_for_backward(padding, *tensors, *saved)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        padding, *rest = ctx.saved_tensors
        tensors, saved = rest[: ctx.count], rest[ctx.count :]
        with torch.autocast(gradients[0].device.type, enabled=False):
            if torch.is_grad_enabled():  # these gradients are to be differentiated themselves
                return None, None, None, *_differentiable(ctx, padding, tensors, gradients)
            return None, None, None, *ctx.kind.backward(padding, tensors, saved, gradients)


def _differentiable(
    ctx: Any, padding: Tensor | None, tensors: list[Any], gradients: tuple[Tensor, ...]
) -> Iterator[Tensor | None]:
    """The gradients by autograd, through the plain loop."""
    # views, so that what one tensor owes another stays outside
    inputs = [None if t is None else t.view_as(t) for t in tensors]
    outputs = ctx.kind.plain(ctx.eps, padding, *inputs)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True))
    return (next(found) if t is not None and t.requires_grad else None for t in inputs)


def _each(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors' slices of one step after another."""
    return zip(*(t.unbind(0) for t in tensors), strict=True)


def _back(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Likewise, from the last step to the first."""
    return zip(*(reversed(t.unbind(0)) for t in tensors), strict=True)


def _held(padding: Tensor | None, steps: int) -> list[Tensor | None]:
    """For each step its padding [batch, 1], or `None` where there is none in it."""
    if padding is None:
        return [None] * steps
    ragged = padding.any(1).tolist()
    return [column if some else None for column, some in zip(padding[:, :, None].unbind(0), ragged, strict=True)]


def _states(first: Tensor, steps: int) -> Tensor:
    """Room for the states [steps + 1, batch, d], the first being there."""
    states = first.new_empty(steps + 1, *first.shape)
    states[0] = first
    return states


def _stacked(statistics: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Means and reciprocal deviations [steps, batch, 1]."""
    means, reciprocals = zip(*statistics, strict=True)
    return torch.stack(means), torch.stack(reciprocals)


def _affine_back(
    dy: Tensor, z: Tensor, mean: Tensor, reciprocal: Tensor, gain: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of gain and bias, over all steps."""
    want = (False, True, bias is not None)
    _, dgain, dbias = _normalise_back(dy, z, gain.shape, mean, reciprocal, gain, bias, want)
    return dgain, dbias


def _weight_back(dz: list[Tensor], h: Tensor) -> Tensor:
    """The weight's gradient: one product over all steps. `dz` runs from the last step to the first."""
    return torch.cat(dz[::-1]).t() @ h.flatten(0, 1)


_INPUT_ONLY = (True, False, False)


# RNN --------------------------------------------------------------------------------------------------------------


def _rnn_plain(nonlinearity: str, eps: float, padding: Tensor | None, *tensors: Any) -> tuple[Tensor, ...]:
    x, first, weight, gain, bias = tensors

    def step(x: Tensor, state: State) -> State:
        return (rnn_step(x, state[0], weight, lambda y: layer_norm(y, gain, bias, eps), nonlinearity),)

    return (loop(step, x, (first,), padding)[0],)


def _rnn_forward(
    nonlinearity: str, eps: float, padding: Tensor | None, *tensors: Any
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    x, first, weight, gain, bias = tensors
    across = weight.t().contiguous()
    z, h = x.new_empty(x.shape), _states(first, len(x))
    statistics = []
    held = _held(padding, len(x))
    for pad, (x_t, z_t, h_t, h_next) in zip(held, _each(x, z, h[:-1], h[1:]), strict=True):
        torch.addmm(x_t, h_t, across, out=z_t)
        y, *found = _normalise(z_t, gain.shape, gain, bias, eps)
        statistics.append(found)
        torch.tanh(y, out=h_next) if nonlinearity == "tanh" else torch.clamp(y, min=0, out=h_next)
        if pad is not None:
            torch.where(pad, h_t, h_next, out=h_next)
    return (h[1:],), (h, z, *_stacked(statistics))


def _rnn_backward(
    nonlinearity: str,
    padding: Tensor | None,
    tensors: list[Any],
    saved: list[Tensor],
    gradients: tuple[Tensor, ...],
) -> tuple[Tensor | None, ...]:
    (_, _, weight, gain, bias), (h, z, mean, reciprocal), (dh_out,) = tensors, saved, gradients
    slope = 1 - h[1:] * h[1:] if nonlinearity == "tanh" else (h[1:] > 0).to(h.dtype)
    if padding is not None:
        slope.masked_fill_(padding[:, :, None], 0)
    dy, dzs, dh = torch.empty_like(z), [], torch.zeros_like(h[0])
    held = reversed(_held(padding, len(z)))
    for pad, (dh_t, s_t, z_t, m_t, r_t, dy_t) in zip(held, _back(dh_out, slope, z, mean, reciprocal, dy), strict=True):
        dh = dh + dh_t
        torch.mul(dh, s_t, out=dy_t)
        dz, _, _ = _normalise_back(dy_t, z_t, gain.shape, m_t, r_t, gain, bias, _INPUT_ONLY)
        dzs.append(dz)
        dh = dz @ weight if pad is None else torch.addmm(dh * pad, dz, weight)
    dgain, dbias = _affine_back(dy, z, mean, reciprocal, gain, bias)
    return torch.stack(dzs[::-1]), dh, _weight_back(dzs, h[:-1]), dgain, dbias


# LSTM -------------------------------------------------------------------------------------------------------------


def _lstm_plain(eps: float, padding: Tensor | None, *tensors: Any) -> tuple[Tensor, ...]:
    x, first, first_c, weight, gain, gain_c, bias_c = tensors

    def step(x: Tensor, state: State) -> State:
        h, c = state
        return lstm_step(
            x, h, c, weight, lambda y: layer_norm(y, gain, None, eps), lambda y: layer_norm(y, gain_c, bias_c, eps)
        )

    states, (_, cell) = loop(step, x, (first, first_c), padding)
    return states, cell


def _lstm_forward(eps: float, padding: Tensor | None, *tensors: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    x, first, first_c, weight, gain, gain_c, bias_c = tensors
    steps, d = len(x), first.shape[1]
    across = weight.t().contiguous()  # a product with the transposed view takes half as long again
    z, gates, squashed = x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(steps, *first.shape)
    h, c = _states(first, steps), _states(first_c, steps)
    i, f, g, o = torch.split(gates, d, 2)
    both = gates[:, :, : 2 * d]
    statistics, statistics_c = [], []
    rows = _each(x, z, gates, both, i, f, g, o, squashed, h[:-1], h[1:], c[:-1], c[1:])
    for pad, (x_t, z_t, p_t, if_t, i_t, f_t, g_t, o_t, s_t, h_t, h_next, c_t, c_next) in zip(
        _held(padding, steps), rows, strict=True
    ):
        torch.mm(h_t, across, out=z_t)
        y, *found = _normalise(z_t, gain.shape, gain, None, eps)
        statistics.append(found)
        torch.add(y, x_t, out=p_t)
        if_t.sigmoid_()
        g_t.tanh_()
        o_t.sigmoid_()
        torch.mul(f_t, c_t, out=c_next)
        c_next.addcmul_(i_t, g_t)
        if pad is not None:
            torch.where(pad, c_t, c_next, out=c_next)
        y, *found = _normalise(c_next, gain_c.shape, gain_c, bias_c, eps)
        statistics_c.append(found)
        torch.tanh(y, out=s_t)
        torch.mul(o_t, s_t, out=h_next)
        if pad is not None:
            torch.where(pad, h_t, h_next, out=h_next)
    return (h[1:], c[-1].clone()), (h, c, z, gates, squashed, *_stacked(statistics), *_stacked(statistics_c))


def _lstm_backward(
    padding: Tensor | None, tensors: list[Any], saved: list[Tensor], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    _, _, _, weight, gain, gain_c, bias_c = tensors
    h, c, z, gates, squashed, mean, reciprocal, mean_c, reciprocal_c = saved
    dh_out, dc = gradients
    d = h.shape[2]
    i, f, g, o = torch.split(gates, d, 2)
    # what each summed input takes of its cell's gradient, or for o and the cell's norm of its state's
    to_i, to_f, to_g = _sigmoid_back(g, i), _sigmoid_back(c[:-1], f), _tanh_back(i, g)
    to_o, to_norm = _sigmoid_back(squashed, o), _tanh_back(o, squashed)
    if padding is not None:
        for share in (to_i, to_f, to_g, to_o, to_norm):
            share.masked_fill_(padding[:, :, None], 0)
        f = f.masked_fill(padding[:, :, None], 1)
    dp, dy, dzs, dh = torch.empty_like(z), torch.empty_like(squashed), [], torch.zeros_like(h[0])
    rows = _back(
        dh_out, to_i, to_f, to_g, to_o, to_norm, f, c[1:], z, mean, reciprocal, mean_c, reciprocal_c,
        dp, *torch.split(dp, d, 2), dy,
    )  # fmt: skip
    for pad, (
        dh_t, to_i_t, to_f_t, to_g_t, to_o_t, to_norm_t, f_t, c_t, z_t, m_t, r_t, mc_t, rc_t,
        dp_t, di_t, df_t, dg_t, do_t, dy_t,
    ) in zip(reversed(_held(padding, len(z))), rows, strict=True):  # fmt: skip
        dh = dh + dh_t
        torch.mul(dh, to_norm_t, out=dy_t)
        through, _, _ = _normalise_back(dy_t, c_t, gain_c.shape, mc_t, rc_t, gain_c, bias_c, _INPUT_ONLY)
        dc = dc + through
        torch.mul(dc, to_i_t, out=di_t)
        torch.mul(dc, to_f_t, out=df_t)
        torch.mul(dc, to_g_t, out=dg_t)
        torch.mul(dh, to_o_t, out=do_t)
        dz, _, _ = _normalise_back(dp_t, z_t, gain.shape, m_t, r_t, gain, None, _INPUT_ONLY)
        dzs.append(dz)
        dh = dz @ weight if pad is None else torch.addmm(dh * pad, dz, weight)
        dc.mul_(f_t)
    dgain, _ = _affine_back(dp, z, mean, reciprocal, gain, None)
    dgain_c, dbias_c = _affine_back(dy, c[1:], mean_c, reciprocal_c, gain_c, bias_c)
    return dp, dh, dc, _weight_back(dzs, h[:-1]), dgain, dgain_c, dbias_c


# GRU --------------------------------------------------------------------------------------------------------------


def _gru_plain(eps: float, padding: Tensor | None, *tensors: Any) -> tuple[Tensor, ...]:
    x, first, weight, gain, gain_n, bias_n = tensors

    def step(x: Tensor, state: State) -> State:
        norm_n = partial(layer_norm, gain=gain_n, bias=bias_n, eps=eps)
        return (gru_step(x, state[0], weight, lambda y: layer_norm(y, gain, None, eps), norm_n),)

    return (loop(step, x, (first,), padding)[0],)


def _gru_forward(eps: float, padding: Tensor | None, *tensors: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    x, first, weight, gain, gain_n, bias_n = tensors
    steps, d = len(x), first.shape[1]
    across, across_n = (part.t().contiguous() for part in torch.split(weight, [2 * d, d]))
    x_gates, x_n = torch.split(x, [2 * d, d], 2)
    v, gates = x.new_empty(x_gates.shape), x.new_empty(x_gates.shape)
    v_n, n = x.new_empty(x_n.shape), x.new_empty(x_n.shape)
    h = _states(first, steps)
    r, z = torch.split(gates, d, 2)
    inner, statistics, statistics_n = [], [], []
    rows = _each(x_gates, x_n, v, v_n, gates, r, z, n, h[:-1], h[1:])
    for pad, (x_t, xn_t, v_t, vn_t, p_t, r_t, z_t, n_t, h_t, h_next) in zip(_held(padding, steps), rows, strict=True):
        torch.mm(h_t, across, out=v_t)
        y, *found = _normalise(v_t, gain.shape, gain, None, eps)
        statistics.append(found)
        torch.add(y, x_t, out=p_t).sigmoid_()
        torch.mm(h_t, across_n, out=vn_t)
        y, *found = _normalise(vn_t, gain_n.shape, gain_n, bias_n, eps)
        statistics_n.append(found)
        inner.append(y)
        torch.addcmul(xn_t, r_t, y, out=n_t).tanh_()
        torch.lerp(n_t, h_t, z_t, out=h_next)
        if pad is not None:
            torch.where(pad, h_t, h_next, out=h_next)
    return (h[1:],), (h, v, v_n, gates, torch.stack(inner), n, *_stacked(statistics), *_stacked(statistics_n))


def _gru_backward(
    padding: Tensor | None, tensors: list[Any], saved: list[Tensor], gradients: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    _, _, weight, gain, gain_n, bias_n = tensors
    h, v, v_n, gates, inner, n, mean, reciprocal, mean_n, reciprocal_n = saved
    (dh_out,) = gradients
    d = h.shape[2]
    r, z = torch.split(gates, d, 2)
    # what each summed input takes of its state's gradient
    to_n = _tanh_back(1 - z, n)
    to_z, to_r, to_norm = _sigmoid_back(h[:-1] - n, z), _sigmoid_back(inner * to_n, r), r * to_n
    if padding is not None:
        for share in (to_n, to_z, to_r, to_norm):
            share.masked_fill_(padding[:, :, None], 0)
        z = z.masked_fill(padding[:, :, None], 1)
    w, w_n = torch.split(weight, [2 * d, d])
    dp, dy, dhs = torch.empty_like(v), torch.empty_like(v_n), torch.empty_like(n)
    dr, dz = torch.split(dp, d, 2)
    dvs, dvs_n, dh = [], [], torch.zeros_like(h[0])
    for (
        dh_t, to_z_t, to_r_t, to_norm_t, z_t, v_t, vn_t, m_t, s_t, mn_t, sn_t, dp_t, dr_t, dz_t, dy_t, total_t,
    ) in _back(
        dh_out, to_z, to_r, to_norm, z, v, v_n, mean, reciprocal, mean_n, reciprocal_n, dp, dr, dz, dy, dhs
    ):  # fmt: skip
        torch.add(dh, dh_t, out=total_t)
        torch.mul(total_t, to_r_t, out=dr_t)
        torch.mul(total_t, to_z_t, out=dz_t)
        torch.mul(total_t, to_norm_t, out=dy_t)
        dv, _, _ = _normalise_back(dp_t, v_t, gain.shape, m_t, s_t, gain, None, _INPUT_ONLY)
        dv_n, _, _ = _normalise_back(dy_t, vn_t, gain_n.shape, mn_t, sn_t, gain_n, bias_n, _INPUT_ONLY)
        dvs.append(dv)
        dvs_n.append(dv_n)
        dh = (total_t * z_t).addmm_(dv, w).addmm_(dv_n, w_n)
    dx = torch.cat((dp, dhs.mul_(to_n)), 2)
    dweight = torch.cat((_weight_back(dvs, h[:-1]), _weight_back(dvs_n, h[:-1])))
    dgain, _ = _affine_back(dp, v, mean, reciprocal, gain, None)
    dgain_n, dbias_n = _affine_back(dy, v_n, mean_n, reciprocal_n, gain_n, bias_n)
    return dx, dh, dweight, dgain, dgain_n, dbias_n


def _rnn(nonlinearity: str) -> _Kind:
    return _Kind(
        partial(_rnn_plain, nonlinearity), partial(_rnn_forward, nonlinearity), partial(_rnn_backward, nonlinearity)
    )


_TANH, _RELU = _rnn("tanh"), _rnn("relu")
_LSTM = _Kind(_lstm_plain, _lstm_forward, _lstm_backward)
_GRU = _Kind(_gru_plain, _gru_forward, _gru_backward)
