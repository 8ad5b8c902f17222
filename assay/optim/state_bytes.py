"""How much memory an optimizer's state takes."""

from torch import Tensor
from torch.optim import Optimizer


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors that the optimizer keeps for its parameters, of a sharded one those of this process."""
    return sum(_bytes(value) for state in optimizer.state.values() for value in state.values())


def _bytes(value: object) -> int:
    if not isinstance(value, Tensor):
        return 0
    held: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return held.nbytes
