"""The precision of a run: how its networks compute, its loss goes backward and its optimizers step.

Mixed precision is Lightning Fabric's. At full precision there would be nothing in Fabric to do, and importing it takes
seconds, so it is left out there.
"""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


class Arithmetic:
    """Computing at one of `recipe.PRECISIONS` on one kind of device.

    Args:
        precision: Fabric's name for it.
        accelerator: `cpu` or `cuda`.
    """

    def __init__(self, precision: str, accelerator: str) -> None:
        self.precision = precision
        self.fabric: Any = None
        if precision.endswith("-mixed"):
            from lightning_fabric import Fabric

            self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]

    def wrap(self, model: nn.Module) -> nn.Module:
        """What computes as `model` does, at this precision; of a `ModuleDict`, one of each entry."""
        if self.precision == "32-true":
            return model
        if isinstance(model, nn.ModuleDict):
            return nn.ModuleDict({name: self.wrap(part) for name, part in model.items()})
        if self.fabric is None:  # Fabric's own for 64-true gives float32 outputs, and so gradients rounded to float32
            return _Double(model)
        return _Mixed(model, self.fabric.strategy.precision)

    def backward(self, loss: Tensor, inputs: list[Tensor] | None) -> None:
        if self.fabric is None:
            loss.backward(inputs=inputs)  # type: ignore[no-untyped-call]
        else:
            self.fabric.backward(loss, inputs=inputs)

    def unscale(self, optimizer: Optimizer) -> None:
        """Undo, in the gradients, what a loss scaler did."""
        if self.fabric is not None:
            self.fabric.strategy.precision.unscale_gradients(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        if self.fabric is None:
            optimizer.step()
        else:
            self.fabric.strategy.optimizer_step(optimizer)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.fabric.strategy.precision.state_dict()) if self.fabric is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.fabric is not None:
            self.fabric.strategy.precision.load_state_dict(state)


class _Mixed(nn.Module):
    """`module` at a precision of Fabric's. Fabric's own wrapper gives no gradients but by its `backward`, and an attack
    needs those with respect to inputs."""

    def __init__(self, module: nn.Module, precision: Any) -> None:
        super().__init__()
        self.module, self._precision = module, precision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._precision.convert_input((args, kwargs))
        with self._precision.forward_context():
            outputs = self.module(*args, **kwargs)
        return self._precision.convert_output(outputs)


class _Double(nn.Module):
    """`module` on float64 inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.double()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs))
        return self.module(*args, **kwargs)
