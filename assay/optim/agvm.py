"""AGVM, the adaptive gradient variance modulator: modules of a network learn at rates that even out their noise.

    Phi_i = 1 - cos(G_a, G_b)                                 of module i, gradients of the two halves of a batch
    r_i   = sqrt(clamp((Phi_1 + eps) / (Phi_i + eps), 0.5, 10))          module 1 is the anchor, the backbone
    mu_i <- alpha mu_i + (1 - alpha) r_i                                 every `interval` steps
    lr_i  = mu_i lr                                                      at every step

Source: Xue et al., "Large-batch Optimization for Dense Visual Predictions" (NeurIPS 2022), and the authors' code, from
which the bounds of the ratio, `eps` and the average's place after the root are taken.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.optim import LBFGS, Adam, AdamW, Optimizer

from assay.optim.layerwise import check_not_negative, gradient, refuse_complex, working_dtype

Tensors = list[Tensor]


def gradient_variance(grads_a: Tensors, grads_b: Tensors) -> Float[Tensor, ""]:
    """1 - cos(a, b) of two gradients, each given as tensors that are taken as one vector.

    The scale of neither matters. Of g + s n and g + s n', where n and n' have independent entries of variance 1, it is
    about s^2 / (s^2 + mean(g^2)).

    Args:
        grads_a: tensors of any shapes, at least one.
        grads_b: as many, of the same shapes.

    Returns:
        float64, in [0, 2] but for rounding above 2; not a number where a gradient is zero or not finite.

    Raises:
        ValueError: there are no tensors, or their shapes differ.

    Source: Xue et al. 2022.
    """
    if not grads_a or [t.shape for t in grads_a] != [t.shape for t in grads_b]:
        raise ValueError(f"grads_a and grads_b must have equal shapes, got {_shapes(grads_a)} and {_shapes(grads_b)}")
    a, b = ([t.to(working_dtype(t.dtype)) for t in half] for half in (grads_a, grads_b))
    size_a, size_b, _ = _sizes(zip(a, b, strict=True))
    ratio = size_b / size_a  # of like size they keep the digits of a small variance
    return _variance(*_sizes((t * ratio, u) for t, u in zip(a, b, strict=True)))


def _shapes(tensors: Tensors) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tensors]


def _sizes(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """|a|, |b| and |a - b|. Pairs are looked at one by one, so that what is made for one need not leave the cache."""
    norms = [_norm(t) for a, b in pairs for t in (a, b, a - b)]
    stacked = torch.stack([norm.to(norms[0].device) for norm in norms])
    whole = stacked.full_tensor() if hasattr(stacked, "full_tensor") else stacked
    a, b, apart = whole.square().view(-1, 3).sum(0).sqrt()
    return a, b, apart


def _norm(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=working_dtype(tensor.dtype)).double()
    return norm


def _variance(a: Tensor, b: Tensor, apart: Tensor) -> Tensor:
    """By the law of cosines, 1 - cos = (|a - b|^2 - (|a| - |b|)^2) / (2 |a| |b|): exactly 0 for equal gradients."""
    return ((apart.square() - (a - b).square()) / (2 * a * b)).clamp_min(0)


def module_of_parameters(model: nn.Module, modules: Sequence[str] | None = None) -> dict[str, str]:
    """Which module each parameter belongs to, by name.

    Args:
        model: the network.
        modules: dotted names of its modules, the anchor first, such as `["backbone", "neck", "roi_head.bbox_head"]`;
            by default its children that train anything. Of names one inside the other the longer counts. What lies in
            none of them goes to the anchor, so that nothing is left untrained.

    Returns:
        parameter name to module name, of the parameters that require a gradient.

    Raises:
        ValueError: a module is not there or trains nothing, there are less than two, or two share a parameter.
    """
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    if modules is None:
        modules = [name for name, child in model.named_children() if any(p.requires_grad for p in child.parameters())]
    if len(modules) < 2:
        raise ValueError(f"modules must be two or more, got {list(modules)}")
    found = {}
    for name in trained:
        around = [module for module in modules if name.startswith(f"{module}.")]
        found[name] = max(around, key=len, default=modules[0])
    owners: dict[Tensor, str] = {}
    for name, parameter in trained.items():
        if owners.setdefault(parameter, found[name]) != found[name]:
            raise ValueError(f"modules must share no parameter, but {owners[parameter]!r} has {name!r} too")
    if empty := [module for module in modules if module not in found.values()]:
        raise ValueError(f"modules must hold parameters that are trained, {empty[0]!r} has none")
    return found


def module_param_groups(model: nn.Module, modules: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Optimizer groups, one a module, for `AGVM`.

    Args:
        model: the network.
        modules: as in `module_of_parameters`.

    Returns:
        groups with `params` and the name of their `module`, the anchor's first.

    Raises:
        ValueError: as `module_of_parameters`.
    """
    return split_groups([{"params": list(model.parameters())}], model, modules)


def split_groups(
    groups: Sequence[Mapping[str, Any]], model: nn.Module, modules: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Optimizer groups divided by module, each part with the settings of its group and the name of its `module`.

    Args:
        groups: such as `assay.optim.decay_groups` gives; what is not trained is left out, what is no parameter of the
            network goes to the anchor.
        model: the network.
        modules: as in `module_of_parameters`.

    Raises:
        ValueError: as `module_of_parameters`.
    """
    found = module_of_parameters(model, modules)
    members = {model.get_parameter(name): module for name, module in found.items()}
    names = list(modules or dict.fromkeys(found.values()))
    parts = [
        {
            **group,
            "params": [p for p in group["params"] if p.requires_grad and members.get(p, names[0]) == module],
            "module": module,
        }
        for module in names
        for group in groups
    ]
    return [part for part in parts if part["params"]]


class AGVM:
    """Keeps the relative gradient variances of a network's modules together while any optimizer trains it.

    Every `interval` steps the batch goes through in two halves; their gradients add up to the batch's as usual:

        optimizer = SGD(module_param_groups(model, ["backbone", "neck", "head"]), lr=0.1, momentum=0.9)
        agvm = AGVM(optimizer)
        ...
        for half in (batch.chunk(2) if agvm.due else [batch]):
            (loss(half) * len(half) / len(batch)).backward()
            agvm.split(len(half) / len(batch))          # counts after the first half, else changes nothing
        agvm.measure()                                   # before unscaling and clipping; changes no gradient
        optimizer.step()                                 # at the modulated rates

    Under `DistributedDataParallel` the first and the second half of the processes are the halves, and nothing is done
    twice: `model.register_comm_hook(None, agvm.split_ranks)` takes the place of `split`.

    It hooks into `optimizer.step()`: the rates are multiplied before and put back after it, so that schedulers see
    their own. Weight decay that goes with the rate is scaled as well; momentum is untouched. Normalisation over the
    batch sees each half by itself. The loss must be a mean over samples.

    Steps are counted from 0. The device is waited for once every `interval` steps.

    Args:
        optimizer: its groups are the modules: groups that name the same `module` are one, others each their own.
        anchor: the module whose variance the others follow; by default that of the first group.
        alpha: weight of the past in the average, in [0, 1]; 1 leaves the optimizer as it is.
        interval: steps between measurements, from 1.
        start_step: the first step with modulation; the authors' is 100 after the warm-up.
        stop_step: the last one; none by default.
        clamp: bounds of the ratio of variances, of which the factor is the root.
        eps: added to both variances.
        precondition: compare gradients as Adam scales them, g / (sqrt(beta2 v + (1 - beta2) g^2) + eps) with v the
            second moments before the step. By default for torch's Adam and AdamW; any other that keeps `exp_avg_sq`,
            and has `betas` and `eps` in its groups, may ask for it.
        gradient_scale: what g is multiplied by before that. The authors' code has 1 / (number of processes).
        clip_steps: from the first to the last of these steps the gradient is clipped to `clip_norm`. The authors do so
            from 100 steps before the end of the warm-up to 100 after it.
        clip_norm: largest 2-norm there.

    Attributes:
        factors: mu by module.
        variances: Phi by module, as last measured.
        steps: of the optimizer, so far.
        loss_scale: what the loss was multiplied by before backward; set it to `scaler.get_scale()` where a `GradScaler`
            is used with `precondition`.

    Raises:
        ValueError: a setting is out of range, there are less than two modules, or no such anchor.
        TypeError: the optimizer computes its gradients several times a step (LBFGS).

    Source: Xue et al. 2022 and the authors' code.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        anchor: str | None = None,
        *,
        alpha: float = 0.97,
        interval: int = 10,
        start_step: int = 0,
        stop_step: int | None = None,
        clamp: tuple[float, float] = (0.5, 10.0),
        eps: float = 1e-6,
        precondition: bool | None = None,
        gradient_scale: float = 1.0,
        clip_steps: tuple[int, int] | None = None,
        clip_norm: float = 1.0,
    ) -> None:
        if isinstance(optimizer, LBFGS):
            raise TypeError("optimizer must compute gradients once a step, got LBFGS")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        if not 0 < clamp[0] <= 1 <= clamp[1] < math.inf:
            raise ValueError(f"clamp must be finite bounds about 1, got {clamp}")
        for name, value in (("eps", eps), ("gradient_scale", gradient_scale), ("clip_norm", clip_norm)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        check_not_negative({"start_step": start_step}, "start_step")
        if precondition is None:
            precondition = isinstance(optimizer, Adam | AdamW)
        if precondition and not all({"betas", "eps"} <= group.keys() for group in optimizer.param_groups):
            raise ValueError(f"precondition needs groups with betas and eps, which {type(optimizer).__name__} lacks")
        refuse_complex(p for group in optimizer.param_groups for p in group["params"])
        self.optimizer = optimizer
        modules = list(self._modules())
        self.anchor = modules[0] if anchor is None else anchor
        if len(modules) < 2 or self.anchor not in modules:
            raise ValueError(f"optimizer must have groups of two modules or more, {self.anchor!r} one, got {modules}")
        self.alpha, self.interval, self.start_step, self.stop_step = alpha, interval, start_step, stop_step
        self.clamp, self.eps, self.precondition, self.gradient_scale = clamp, eps, precondition, gradient_scale
        self.clip_steps, self.clip_norm, self.loss_scale = clip_steps, clip_norm, 1.0
        self.steps = 0
        self.factors = dict.fromkeys(modules, 1.0)
        self.variances: dict[str, float] = {}
        self._first: dict[Tensor, Tensor] = {}  # gradients so far times the share of the first half
        self._share = 0.0  # 0 where the batch has not been divided
        self._measured = False
        self._rates: list[tuple[dict[str, Any], float | Tensor]] = []  # to be put back
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    @property
    def acting(self) -> bool:
        """Whether the next step is modulated."""
        return self.start_step <= self.steps and (self.stop_step is None or self.steps <= self.stop_step)

    @property
    def due(self) -> bool:
        """Whether variances are measured before the next step, so that its batch must be divided."""
        return self.acting and self.steps % self.interval == 0

    @torch.no_grad()
    def split(self, share: float = 0.5) -> None:
        """Say that the gradients are now those of the first half of the batch. The first call before a measurement
        counts; where none is due nothing happens.

        Args:
            share: of the batch's samples that the first half has, in (0, 1); the gradients are that share of its mean.

        Raises:
            ValueError: `share` is out of range.
            TypeError: a gradient is sparse.
        """
        if not self.due or self._share:
            return
        if not 0 < share < 1:
            raise ValueError(f"share must lie in (0, 1), got {share}")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._first = {p: gradient(p).clone() for p in parameters if p.grad is not None}
        self._share = share

    def split_ranks(
        self,
        group: Any,
        bucket: distributed.GradBucket,  # type: ignore[name-defined]  # defined where torch is built with it
    ) -> torch.futures.Future[Tensor]:
        """Average gradients over processes as DDP does and, where a measurement is due, keep the first half's sum, by
        the same all-reduce: `model.register_comm_hook(group, agvm.split_ranks)`.

        Args:
            group: the processes of the model; `None` for all there are.
            bucket: DDP's, of gradients.

        Returns:
            the future of the averaged bucket.

        Raises:
            ValueError: there is but one process.
        """
        size, rank = distributed.get_world_size(group), distributed.get_rank(group)
        if size < 2:
            raise ValueError("split_ranks needs two processes or more, got one; divide the batch instead")
        joined = total = bucket.buffer().div_(size)
        if self.due:
            first = total if rank < size // 2 else torch.zeros_like(total)
            joined = torch.cat([total, first])  # in this order: DDP reads what it is given from its storage's beginning
            for p, g in zip(bucket.parameters(), bucket.gradients(), strict=True):
                place = len(total) + g.storage_offset() - total.storage_offset()
                self._first[p] = joined.as_strided(p.shape, p.stride(), place)  # as DDP lays gradients out
            total = joined[: len(total)]
            self._share = size // 2 / size
        work = distributed.all_reduce(joined, group=group, async_op=True)
        averaged: torch.futures.Future[Tensor] = work.get_future().then(lambda _: total)
        return averaged

    @torch.no_grad()
    def measure(self) -> None:
        """Compare the halves and move the factors, where that is due. The gradients are now the whole batch's, not yet
        unscaled or clipped.

        A module keeps its factor if it or the anchor has no gradient in one of the halves; if one is not finite, with a
        warning.

        Raises:
            RuntimeError: the batch has not been divided.
            TypeError: a gradient is sparse.
        """
        if not self.due:
            return
        if not self._share:
            raise RuntimeError(f"step {self.steps} measures: call split() after the backward pass of its first half")
        found = self._read()
        self.variances |= found
        self._first, self._share, self._measured = {}, 0.0, True
        for module, variance in found.items() if self.anchor in found else ():
            ratio = (found[self.anchor] + self.eps) / (variance + self.eps)
            factor = math.sqrt(min(max(ratio, self.clamp[0]), self.clamp[1]))
            self.factors[module] = self.alpha * self.factors.get(module, 1.0) + (1 - self.alpha) * factor

    def state_dict(self) -> dict[str, Any]:
        """Steps and factors; the optimizer's own state is its own."""
        return {"steps": self.steps, "factors": dict(self.factors), "variances": dict(self.variances)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: it is the state of other modules.
        """
        if state["factors"].keys() != self.factors.keys():
            raise ValueError(f"state must be of modules {list(self.factors)}, got {list(state['factors'])}")
        self.steps, self.factors = state["steps"], dict(state["factors"])
        self.variances = dict(state["variances"])

    def _modules(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for index, group in enumerate(self.optimizer.param_groups):
            found.setdefault(_module(group, index), []).append(group)
        return found

    def _read(self) -> dict[str, float]:
        """Phi of the modules of which it can be told."""
        found = {}
        for module, groups in self._modules().items():
            if any(p.grad is not None for group in groups for p in group["params"]):
                a, b, apart = _sizes(self._halves(groups))
                found[module] = torch.stack([_variance(a, b, apart), a * b])
        if not found:
            return {}
        device = next(iter(found.values())).device
        values = torch.stack([pair.to(device) for pair in found.values()]).tolist()  # one wait for all
        broken = [module for module, (_, size) in zip(found, values, strict=True) if not math.isfinite(size)]
        if broken:
            warnings.warn(f"step {self.steps}: gradients of {', '.join(broken)} are not finite", stacklevel=3)
        return {module: phi for module, (phi, _) in zip(found, values, strict=True) if math.isfinite(phi)}

    def _halves(self, groups: list[dict[str, Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradients of the two halves, each on a scale of its own unless they are preconditioned."""
        for group in groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                whole = gradient(parameter).to(working_dtype(parameter.dtype))
                # a module may see nothing of one half, as a mask head without an object
                a = self._first[parameter].to(whole.dtype) if parameter in self._first else torch.zeros_like(whole)
                b = whole - a
                if self.precondition:
                    a = self._as_adam_scales(a, self._share, parameter, group)
                    b = self._as_adam_scales(b, 1 - self._share, parameter, group)
                yield a, b

    def _as_adam_scales(self, part: Tensor, share: float, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        g = part * (self.gradient_scale / (share * self.loss_scale))
        beta2, state = group["betas"][1], self.optimizer.state.get(parameter, {})
        second = state["exp_avg_sq"].to(g.dtype) if "exp_avg_sq" in state else torch.zeros_like(g)  # at the first step
        return g.div_((beta2 * second).addcmul_(g, g, value=1 - beta2).sqrt_().add_(group["eps"]))

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._restore()  # after a step that failed
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is not None:  # it measures, so that the rates depend on it
            with torch.enable_grad():
                loss = closure()
            args, kwargs = (optimizer, lambda: loss), {}
        if self.due and not self._measured:
            raise RuntimeError(f"step {self.steps} measures: call measure() before the optimizer's step")
        groups = optimizer.param_groups
        if self.clip_steps is not None and self.clip_steps[0] <= self.steps <= self.clip_steps[1]:
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.clip_norm)
        if self.acting:
            self._rates = [(group, group["lr"]) for group in groups]
            for index, group in enumerate(groups):
                group["lr"] = group["lr"] * self.factors.get(_module(group, index), 1.0)
        return args, kwargs

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._restore()
        self.steps += 1
        self._measured = False

    def _restore(self) -> None:
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates = []


def _module(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("module", index))
