"""Recurrent cells and layers with layer normalisation: LN-RNN, LN-LSTM and LN-GRU.

    LN-RNN    h' = f(LN(h U + x W))
    LN-LSTM   i, f, g, o = LN(h U) + LN(x W) + b;   c' = s(f) c + s(i) tanh(g);   h' = s(o) tanh(LN(c'))
    LN-GRU    r, z = s(LN(h U) + LN(x W));   n = tanh(LN(x W_n) + r LN(h U_n));   h' = z h + (1 - z) n

Each LN has a gain and a bias of its own, and takes one mean and variance over all gates together. What is carried on is
the cell before its normalisation. Gates are in torch's order and matrices in torch's shapes.

Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), section 3.1 and the equations of its supplement. There the
GRU's z weighs the new state; here, as in torch, the old one.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from assay.nn.layer_norm import LayerNorm
from assay.nn.layer_norm_scan import State, gru_scan, gru_step, loop, lstm_scan, lstm_step, rnn_scan, rnn_step

Reference = Literal["paper", "theano", "lua"]


class _PerGate(nn.GroupNorm):
    """Layer normalisation of each of several gates by itself."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1, self.num_channels)).view_as(input)


class _Cell(nn.Module):
    """What the three cells share. A subclass gives `inputs`, which takes those of any number of steps at once, `step`,
    from one state to the next, and `scan`, all steps in one call, see `assay.nn.layer_norm_scan`."""

    gates: ClassVar[int]
    parts: ClassVar[int] = 1  # tensors of a state

    def __init__(
        self, input_size: int, hidden_size: int, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        if input_size < 1:
            raise ValueError(f"input_size must be positive, got {input_size}")
        if hidden_size < 2:
            raise ValueError(f"hidden_size must be at least 2, got {hidden_size}: a single neuron normalised is 0")
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Start anew, as the authors' code does: recurrent matrices orthogonal gate by gate, input matrices normal of
        deviation 0.01, gains 1, biases 0."""
        nn.init.normal_(self.weight_ih, std=0.01)
        for block in torch.split(self.weight_hh, self.hidden_size):
            nn.init.orthogonal_(block)
        for norm in self.children():
            if isinstance(norm, nn.LayerNorm | nn.GroupNorm):
                norm.reset_parameters()
        bias = getattr(self, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)

    def inputs(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, x: Tensor, state: State) -> State:
        raise NotImplementedError

    def scan(self, x: Tensor, state: State, padding: Tensor | None) -> tuple[Tensor, State]:
        raise NotImplementedError

    @property
    def scannable(self) -> bool:
        """Whether all norms are the kind that `scan` computes."""
        norms = list(self.children())
        return all(type(norm) is LayerNorm and norm.eps_on == "variance" for norm in norms)

    def _start(self, x: Tensor, hx: Any) -> State:
        state = (hx,) if isinstance(hx, Tensor) else hx
        shape = (*x.shape[:-1], self.hidden_size)
        if x.shape[-1] != self.input_size or x.ndim > 2:
            raise ValueError(f"input must be [batch, {self.input_size}] or [{self.input_size}], got {list(x.shape)}")
        if state is None:
            return (x.new_zeros(shape, dtype=self.weight_hh.dtype),) * self.parts
        return _checked(state, self.parts, shape)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def _checked(state: Sequence[Tensor], parts: int, shape: Sequence[int]) -> State:
    if len(state) != parts or any(list(part.shape) != list(shape) for part in state):
        got = [list(part.shape) for part in state]
        raise ValueError(f"hx must be {parts} of shape {list(shape)}, got {got}")
    return tuple(state)


class LayerNormRNNCell(_Cell):
    """h' = f(LN(h U + x W)): one LN, of the sum; its bias is the cell's.

    Args:
        input_size: features of an input.
        hidden_size: d, at least 2.
        bias: with a bias.
        nonlinearity: f, `tanh` or `relu`.
        eps: of the LN.

    Raises:
        ValueError: a size is out of range, or `nonlinearity` unknown.

    Source: Ba et al. 2016, section 3.1.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, device, dtype)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be tanh or relu, got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.norm = LayerNorm(hidden_size, eps, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        state = self._start(input, hx)
        return self.step(self.inputs(input), state)[0]

    def inputs(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih)

    def step(self, x: Tensor, state: State) -> State:
        (h,) = state
        return (rnn_step(x, h, self.weight_hh, self.norm, self.nonlinearity),)

    def scan(self, x: Tensor, state: State, padding: Tensor | None) -> tuple[Tensor, State]:
        (h,), norm = state, self.norm
        states = rnn_scan(
            self.inputs(x), h, self.weight_hh, norm.weight, norm.bias, norm.eps, self.nonlinearity, padding
        )
        return states, (states[-1],)


class LayerNormLSTMCell(_Cell):
    """i, f, g, o = LN(h U) + LN(x W) + b;   c' = s(f) c + s(i) tanh(g);   h' = s(o) tanh(LN(c')).

    Args:
        input_size: features of an input.
        hidden_size: d, at least 2.
        bias: with biases, b and those of the LNs.
        joint: one mean and variance over all four gates; else one a gate, as many libraries have it.
        normalize_cell: with LN(c'), else c' itself.
        reference: `"paper"`; `"theano"`, the authors' code, where b enters twice, LN(x W + b) + b; `"lua"`, their other
            code, where LN(c') is the only LN and eps is on its deviation.
        eps: of every LN.

    Raises:
        ValueError: a size is out of range, `reference` is unknown, or `"lua"` is left without any LN.

    Source: Ba et al. 2016, supplement.
    """

    gates, parts = 4, 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        joint: bool = True,
        normalize_cell: bool = True,
        reference: Reference = "paper",
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, device, dtype)
        if reference not in get_args(Reference):
            raise ValueError(f"reference must be one of {', '.join(get_args(Reference))}, got {reference!r}")
        if reference == "lua" and not normalize_cell:
            raise ValueError("normalize_cell must be true for reference='lua', whose only LN is the cell's")
        self.reference, self.joint = reference, joint
        rows = 4 * hidden_size
        self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None
        self.norm_ih: Any = nn.Identity()
        self.norm_hh: Any = nn.Identity()
        self.norm_c: Any = nn.Identity()
        if reference != "lua":
            self.norm_ih, self.norm_hh = (_norm(rows, 4, bias, joint, eps, device, dtype) for _ in range(2))
        if normalize_cell:
            on: Literal["deviation", "variance"] = "deviation" if reference == "lua" else "variance"
            self.norm_c = LayerNorm(hidden_size, eps, bias=bias, eps_on=on, device=device, dtype=dtype)
        self.reset_parameters()

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        state = self._start(input, hx)
        h, c = self.step(self.inputs(input), state)
        return h, c

    def _product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias if self.reference == "theano" else None)

    def inputs(self, x: Tensor) -> Tensor:
        part: Tensor = self.norm_ih(self._product(x))
        return part if self.bias is None else part + self.bias

    def step(self, x: Tensor, state: State) -> State:
        h, c = state
        return lstm_step(x, h, c, self.weight_hh, self.norm_hh, self.norm_c)

    def scan(self, x: Tensor, state: State, padding: Tensor | None) -> tuple[Tensor, State]:
        (h, c), first, second, cell = state, self.norm_ih, self.norm_hh, self.norm_c
        # the three biases that are added to the gates are added up first
        shift = None if self.bias is None else first.bias + second.bias + self.bias
        inputs = F.layer_norm(self._product(x), first.weight.shape, first.weight, shift, first.eps)
        states, last = lstm_scan(inputs, h, c, self.weight_hh, second.weight, cell.weight, cell.bias, cell.eps, padding)
        return states, (states[-1], last)


class LayerNormGRUCell(_Cell):
    """r, z = s(LN(h U) + LN(x W));   n = tanh(LN(x W_n) + r LN(h U_n));   h' = z h + (1 - z) n.

    Args:
        input_size: features of an input.
        hidden_size: d, at least 2.
        bias: with biases.
        joint: one mean and variance over r and z together, else one for each.
        reference: `"paper"`, or `"theano"`, the authors' code, where a further bias stands inside the inputs' LNs.
        eps: of every LN.

    Raises:
        ValueError: a size is out of range, or `reference` unknown.

    Source: Ba et al. 2016, supplement.
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        joint: bool = True,
        reference: Literal["paper", "theano"] = "paper",
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, device, dtype)
        if reference not in ("paper", "theano"):
            raise ValueError(f"reference must be paper or theano, got {reference!r}")
        self.reference, self.joint = reference, joint
        inner = bias and reference == "theano"
        self.bias = nn.Parameter(torch.empty(3 * hidden_size, device=device, dtype=dtype)) if inner else None
        self.norm_ih, self.norm_hh = (_norm(2 * hidden_size, 2, bias, joint, eps, device, dtype) for _ in range(2))
        self.norm_in, self.norm_hn = (_norm(hidden_size, 1, bias, True, eps, device, dtype) for _ in range(2))
        self.reset_parameters()

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        state = self._start(input, hx)
        return self.step(self.inputs(input), state)[0]

    def inputs(self, x: Tensor) -> Tensor:
        gates, candidate = self._products(x)
        return torch.cat((self.norm_ih(gates), self.norm_in(candidate)), -1)

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        d = self.hidden_size
        gates, candidate = torch.split(F.linear(x, self.weight_ih, self.bias), [2 * d, d], -1)
        return gates, candidate

    def step(self, x: Tensor, state: State) -> State:
        (h,) = state
        return (gru_step(x, h, self.weight_hh, self.norm_hh, self.norm_hn),)

    def scan(self, x: Tensor, state: State, padding: Tensor | None) -> tuple[Tensor, State]:
        (h,), first, second, candidate = state, self.norm_ih, self.norm_hh, self.norm_hn
        products, products_n = self._products(x)
        shift = None if first.bias is None else first.bias + second.bias
        gates = F.layer_norm(products, first.weight.shape, first.weight, shift, first.eps)
        inputs = torch.cat((gates, self.norm_in(products_n)), -1)
        states = gru_scan(
            inputs, h, self.weight_hh, second.weight, candidate.weight, candidate.bias, candidate.eps, padding
        )
        return states, (states[-1],)


def _norm(
    size: int,
    gates: int,
    bias: bool,
    joint: bool,
    eps: float,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Any:
    if joint:
        return LayerNorm(size, eps, bias=bias, device=device, dtype=dtype)
    norm = _PerGate(gates, size, eps, device=device, dtype=dtype)
    if not bias:
        norm.register_parameter("bias", None)
    return norm


class _Layers(nn.Module):
    """Layers and directions of cells over a sequence; the interface of torch's recurrent layers."""

    cell: ClassVar[type[_Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        fused: bool,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be positive, got {num_layers}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional, self.fused = batch_first, dropout, bidirectional, fused
        self.directions = 2 if bidirectional else 1
        sizes = [input_size] + [hidden_size * self.directions] * (num_layers - 1)
        self.cells = nn.ModuleList(
            self.cell(size, hidden_size, **settings) for size in sizes for _ in range(self.directions)
        )

    def forward(self, input: Tensor | PackedSequence, hx: Any = None, mask: Tensor | None = None) -> tuple[Any, Any]:
        """Run over a sequence.

        Args:
            input: [steps, batch, input_size], [batch, steps, input_size] with `batch_first`, [steps, input_size]
                without a batch, or a packed sequence.
            hx: first states [num_layers * directions, batch, hidden_size] (for an LSTM, h and c), zeros by default.
            mask: bool [steps, batch], or [batch, steps] with `batch_first`: true at real steps. States are carried
                over the others, where the output repeats the state before.

        Returns:
            outputs [steps, batch, directions * hidden_size] in the form of `input`, and the last states in that of
            `hx`.

        Raises:
            ValueError: shapes do not fit, there is no step, or `mask` comes with a packed sequence.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx, mask)
        if input.ndim == 2:
            if mask is not None:
                raise ValueError("mask must come with a batch, got an input of 2 axes")
            y, last = self.forward(input.unsqueeze(1 - self.batch_first), _map(lambda t: t.unsqueeze(1), hx))
            return y.squeeze(1 - self.batch_first), _map(lambda t: t.squeeze(1), last)
        if input.ndim != 3 or input.shape[2] != self.input_size:
            raise ValueError(f"input must have 2 or 3 axes, the last of {self.input_size}, got {list(input.shape)}")
        x = input.transpose(0, 1) if self.batch_first else input
        if mask is not None:
            mask = mask.transpose(0, 1) if self.batch_first and mask.ndim == 2 else mask
            if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
                wants = list(input.shape[:2])
                raise ValueError(f"mask must be bool {wants}, got {mask.dtype} {list(mask.shape)}")
        y, last = self._run(x, hx, None if mask is None else ~mask)
        return y.transpose(0, 1) if self.batch_first else y, last

    def _packed(self, input: PackedSequence, hx: Any, mask: Tensor | None) -> tuple[PackedSequence, Any]:
        if mask is not None:
            raise ValueError("mask must not come with a packed sequence, which has its lengths already")
        order, back = input.sorted_indices, input.unsorted_indices
        x, lengths = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))  # longest first, as they lie
        padding = torch.arange(len(x))[:, None] >= lengths
        if hx is not None and order is not None:
            hx = _map(lambda t: t.index_select(1, order), hx)
        y, last = self._run(x, hx, padding.to(x.device))
        data = pack_padded_sequence(y, lengths).data
        if back is not None:
            last = _map(lambda t: t.index_select(1, back), last)
        return PackedSequence(data, input.batch_sizes, order, back), last

    def _run(self, x: Tensor, hx: Any, padding: Tensor | None) -> tuple[Tensor, Any]:
        if len(x) < 1:
            raise ValueError("input must have at least one step, got none")
        parts, shape = self.cell.parts, (len(self.cells), x.shape[1], self.hidden_size)
        if hx is None:
            first: State = (x.new_zeros(shape, dtype=next(self.parameters()).dtype),) * parts
        else:
            first = _checked((hx,) if isinstance(hx, Tensor) else hx, parts, shape)
        last = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(self.directions):
                index = layer * self.directions + direction
                y, state = self._over(self.cells[index], x, tuple(s[index] for s in first), padding, direction == 1)
                outputs.append(y)
                last.append(state)
            x = torch.cat(outputs, 2) if self.bidirectional else outputs[0]
        stacked = tuple(torch.stack(states) for states in zip(*last, strict=True))
        return x, stacked if parts > 1 else stacked[0]

    def _over(self, cell: Any, x: Tensor, state: State, padding: Tensor | None, backward: bool) -> tuple[Tensor, State]:
        if backward:
            y, state = self._over(cell, x.flip(0), state, None if padding is None else padding.flip(0), False)
            return y.flip(0), state
        if self.fused and cell.scannable:
            y, state = cell.scan(x, state, padding)
            return y, state
        return loop(cell.step, cell.inputs(x), state, padding)

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, batch_first={self.batch_first}, "
            f"dropout={self.dropout}, bidirectional={self.bidirectional}"
        )


def _map(act: Any, tree: Any) -> Any:
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else act(tree)
    return tuple(act(part) for part in tree)


class LayerNormRNN(_Layers):
    """`nn.RNN` with layer normalisation.

    The products of all inputs are taken at once. What remains of a step runs in one autograd node for the whole
    sequence, whose gradients are in closed form; gradients of gradients go through the plain loop. Under
    `torch.compile` that node stays outside the graph, as torch's own recurrent layers do; under autocast it computes in
    float32. `fused=False` runs the plain loop throughout, which calls every norm as a module, hooks and all, which
    `torch.func` can transform, and which a compiler unrolls.

    Args:
        input_size: features of an input.
        hidden_size: d, at least 2.
        num_layers: each on the outputs of the one before.
        nonlinearity: `tanh` or `relu`.
        bias: with biases.
        batch_first: inputs and outputs are [batch, steps, features].
        dropout: rate between layers, in training.
        bidirectional: a second cell of each layer goes from the end to the beginning.
        eps: of every LN.
        fused: run each sequence as one node.

    Raises:
        ValueError: an argument is out of its range.

    Source: Ba et al. 2016, section 3.1.
    """

    cell = LayerNormRNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        eps: float = 1e-5,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        settings = {"bias": bias, "nonlinearity": nonlinearity, "eps": eps, "device": device, "dtype": dtype}
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, fused, settings)


class LayerNormLSTM(_Layers):
    """`nn.LSTM` with layer normalisation; how it runs is said at `LayerNormRNN`.

    Args:
        input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, fused: as in `LayerNormRNN`.
        bias, joint, normalize_cell, reference, eps: as in `LayerNormLSTMCell`. Cells that are not the paper's or the
            Theano code's run in the plain loop.

    Raises:
        ValueError: an argument is out of its range.

    Source: Ba et al. 2016, supplement.
    """

    cell = LayerNormLSTMCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        joint: bool = True,
        normalize_cell: bool = True,
        reference: Reference = "paper",
        eps: float = 1e-5,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        settings = {
            "bias": bias, "joint": joint, "normalize_cell": normalize_cell, "reference": reference, "eps": eps,
            "device": device, "dtype": dtype,
        }  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, fused, settings)


class LayerNormGRU(_Layers):
    """`nn.GRU` with layer normalisation; how it runs is said at `LayerNormRNN`.

    Args:
        input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, fused: as in `LayerNormRNN`.
        bias, joint, reference, eps: as in `LayerNormGRUCell`. Without `joint`, cells run in the plain loop.

    Raises:
        ValueError: an argument is out of its range.

    Source: Ba et al. 2016, supplement.
    """

    cell = LayerNormGRUCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        joint: bool = True,
        reference: Literal["paper", "theano"] = "paper",
        eps: float = 1e-5,
        fused: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        settings = {
            "bias": bias, "joint": joint, "reference": reference, "eps": eps, "device": device, "dtype": dtype,
        }  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, fused, settings)
