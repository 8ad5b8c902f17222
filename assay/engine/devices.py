"""One run on several devices: a process each, which share every batch and hold to the same clock.

    loss = sum_r n_r / n loss_r        for parts of n_r of a batch's n samples

DDP keeps the whole network on every device and averages gradients while they are computed; FSDP keeps a part of each
layer on each device and gathers a layer when it is used. Both are torch's own (`DistributedDataParallel`,
`fully_shard`): Fabric's strategies would wrap the same two, and bring their own launcher and their own checkpoints.

The processes are those of torchrun, or are started as torchrun starts them; see `assay.trials.ranks`.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from assay.engine import chance
from assay.errors import AssayError, BadCheckpoint, CannotTreat, UnknownName

if TYPE_CHECKING:
    from assay.engine.recipe import Recipe
    from assay.engine.stream import SharedStream, Stream
    from assay.engine.task import Task

STRATEGIES = ("ddp", "fsdp")
Item = TypeVar("Item")
Found = TypeVar("Found")


def check(task: "Task", recipe: "Recipe", devices: int, strategy: str | None, accelerator: str) -> str | None:
    """The strategy in force, or `None` on one device.

    Raises:
        AssayError: there are not so many devices, or the task, the recipe or a method cannot be shared by them.
    """
    from assay.engine.task import Task

    if devices < 1:
        raise AssayError(f"devices must be at least 1, got {devices}")
    if strategy is not None and strategy not in STRATEGIES:
        raise UnknownName("strategy", strategy, STRATEGIES)
    if devices == 1:
        if strategy is not None:
            raise AssayError(f"strategy {strategy} is about several devices; give devices, from 2 up, or no strategy")
        return None
    strategy = strategy or "ddp"
    if accelerator == "cuda" and devices > (there := torch.cuda.device_count()):
        raise AssayError(f"devices must be at most {there}, as many GPUs as there are here, got {devices}")
    if recipe.batch_size < devices:
        raise AssayError(f"a batch of {recipe.batch_size} cannot be shared by {devices} devices; raise batch_size")
    if strategy == "fsdp" and recipe.precision == "16-mixed":
        raise AssayError("precision 16-mixed has no loss scaler for strategy fsdp; give bf16-mixed")
    if type(task).step is not Task.step:
        raise CannotTreat(
            f"task {task.name!r} has a training step of its own, of which several devices cannot know what to share; "
            "give devices=1"
        )
    if type(task).objective is not Task.objective and not task.divisible:
        raise CannotTreat(
            f"task {task.name!r} has an objective of its own; if that is a mean over the samples of a batch, say "
            "divisible = True in the task, else give devices=1"
        )
    for method in recipe.methods:
        method.check_devices(recipe, devices, strategy)
    return strategy


def is_rank() -> bool:
    """Whether this process is one of several that torchrun, or whoever acts as it does, has started."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def part(samples: int, rank: int, size: int) -> slice:
    """The rows of a batch that are one rank's: neighbours, the parts' sizes differing by one at most."""
    return slice(samples * rank // size, samples * (rank + 1) // size)


def join(size: int, strategy: str | None, accelerator: str) -> "Alone":
    """This process's place among the `size` of a run.

    Raises:
        AssayError: it is not one of so many processes.
    """
    if size == 1:
        return Alone(accelerator)
    from torch import distributed

    if not distributed.is_initialized():
        if not is_rank():
            raise AssayError(
                f"a run on {size} devices is {size} processes: start it with torchrun --nproc-per-node {size}, or give "
                "devices to assay.trials.compare, which starts them itself"
            )
        distributed.init_process_group("cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo")
    if distributed.get_world_size() != size:
        raise AssayError(f"devices is {size}, but this process is one of {distributed.get_world_size()}")
    return Ranks(accelerator, str(strategy))


def share(stream: "Stream", ranks: "Alone", task: str) -> "SharedStream":
    """Have `stream` give this rank's part of every batch from here on.

    Raises:
        AssayError: the stream cannot, or its batches are smaller than there are ranks.
    """
    from assay.engine.stream import SharedStream

    if not isinstance(stream, SharedStream):
        raise CannotTreat(
            f"task {task!r} has a stream of batches of its own ({type(stream).__name__}) that several devices cannot "
            "share: it needs batch_size and share(), as in assay.engine.stream.SharedStream; or give devices=1"
        )
    if stream.batch_size < ranks.size:
        raise AssayError(f"a batch of {stream.batch_size} samples cannot be shared by {ranks.size} devices")
    stream.share(ranks.rank, ranks.size)
    return stream


class Alone:
    """The only process of a run: it has nothing to share and nobody to agree with.

    Attributes:
        rank, size: the place of this process among those of the run.
        device: what it computes on.
    """

    rank, size = 0, 1

    def __init__(self, accelerator: str) -> None:
        self.device = torch.device("cuda", 0) if accelerator == "cuda" else torch.device("cpu")

    def check_gradients(self, model: nn.Module) -> None:
        """Refuse a network part of which the loss does not depend on.

        Raises:
            AssayError: a parameter that is trained has no gradient.
        """

    def agree(self, now: float, stop: bool, flops: float) -> tuple[float, bool, float]:
        """The first rank's time, whether any is to stop, and the FLOPs of all; of the same step on every rank."""
        return now, stop, flops

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks."""
        return values

    def most(self, value: int) -> int:
        """The largest of the ranks' values."""
        return value

    def each(self, value: Any) -> list[Any]:
        """What every rank has, in the order of ranks."""
        return [value]

    def seed(self, seed: int, when: int = 0) -> int:
        """`seed` for this rank's own draws, from step `when` on; the first rank's is `seed` itself at the beginning."""
        return seed if self.rank == 0 == when else chance.seed_of(f"rank {self.rank} from step {when}", seed)

    def distribute(self, model: nn.Module, computing: nn.Module) -> nn.Module:
        """What trains as `computing` does, which computes by `model`'s parameters, on all ranks' parts together."""
        return computing

    def same_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of the first."""

    def divided(self, judge: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """`judge` of every item, in their order; each rank does a share."""
        return [judge(item) for item in items]

    def whole(self, state: Any) -> Any:
        """`state` with its tensors whole; on the first rank only, where they are sharded."""
        return state

    def load(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Put a whole state into the network, however that is held."""
        model.load_state_dict(state)

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Put a whole state into an optimizer of the network's parameters, however these are held."""
        optimizer.load_state_dict(state)

    def like(self, value: Any, parameter: Tensor) -> Any:
        """A whole `value` held as `parameter` is, if it is a tensor of its shape."""
        return value


class Ranks(Alone):
    """One of a run's processes; all call the same methods in the same order."""

    def __init__(self, accelerator: str, strategy: str) -> None:
        from torch import distributed
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor

        super().__init__(accelerator)
        self.strategy, self._dist, self._sharded = strategy, distributed, DTensor
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        if accelerator == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.rank)))
            torch.cuda.set_device(self.device)
        self._mesh = init_device_mesh(accelerator, (self.size,)) if strategy == "fsdp" else None

    def check_gradients(self, model: nn.Module) -> None:
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if without:
            raise AssayError(
                f"the loss does not depend on {', '.join(without)}: on several devices every parameter that is trained "
                "must take part in it; freeze what does not (requires_grad_(False))"
            )

    def agree(self, now: float, stop: bool, flops: float) -> tuple[float, bool, float]:
        told = torch.zeros(self.size, 3, dtype=torch.float64)
        told[self.rank] = torch.tensor([now, stop, flops], dtype=torch.float64)
        self._dist.all_reduce(told)  # one message, and a row is the sum of itself and zeros
        return float(told[0, 0]), bool(told[:, 1].any()), float(told[:, 2].sum())

    def total(self, values: Tensor) -> Tensor:
        summed = values.double()
        self._dist.all_reduce(summed)
        return summed

    def most(self, value: int) -> int:
        return int(max(self.each(value)))

    def each(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        self._dist.all_gather_object(found, value)
        return found

    def distribute(self, model: nn.Module, computing: nn.Module) -> nn.Module:
        if isinstance(model, nn.ModuleDict):
            raise CannotTreat("a task of several networks cannot be trained on several devices; give devices=1")
        if self.strategy == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for module in (*_blocks(model), model):
                # always, so that the network's parameters are the sharded ones whenever somebody looks
                fully_shard(module, mesh=self._mesh, reshard_after_forward=True)
            model.register_forward_pre_hook(self._before_training)
            return computing
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(computing, device_ids=None if self.device.type == "cpu" else [self.device])

    def _before_training(self, model: nn.Module, given: Any) -> None:
        if torch.is_grad_enabled():  # as DDP does of itself
            self.same_buffers(model)

    def same_buffers(self, model: nn.Module) -> None:
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            kinds.setdefault(buffer.dtype, []).append(buffer)
        for buffers in kinds.values():  # one message a type, since a network has very many small ones
            joined = torch.cat([buffer.flatten() for buffer in buffers])
            self._dist.broadcast(joined, 0)
            for buffer, value in zip(buffers, torch.split(joined, [b.numel() for b in buffers]), strict=True):
                buffer.copy_(value.view_as(buffer))

    def divided(self, judge: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        rounds = math.ceil(len(items) / self.size)
        if self.strategy == "fsdp":  # a layer is gathered by all or none, so that nobody may sit out the last round
            mine = [items[min(k * self.size + self.rank, len(items) - 1)] for k in range(rounds)]
        else:
            mine = list(items[self.rank :: self.size])
        shares = self.each([judge(item) for item in mine])
        return [shares[i % self.size][i // self.size] for i in range(len(items))]

    def whole(self, state: Any) -> Any:
        def gathered(tensor: Any) -> Any:
            full = tensor.full_tensor()
            return full.cpu() if self.rank == 0 else None  # one at a time, so that nobody holds all of them

        return tree_map_only(self._sharded, gathered, state)

    def load(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        held = model.state_dict()
        if state.keys() == held.keys():
            state = {name: self.like(value, held[name]) for name, value in state.items()}
        model.load_state_dict(state)

    def load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        keys = [key for group in state["param_groups"] for key in group["params"]]
        held = {
            key: {name: self.like(value, parameter) for name, value in state["state"][key].items()}
            for key, parameter in zip(keys, parameters, strict=True)
            if key in state["state"]
        }
        optimizer.load_state_dict(state | {"state": held})

    def like(self, value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, self._sharded) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(self.device), parameter.device_mesh, parameter.placements)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def check_same(ranks: Alone, steps: int) -> None:
    """Refuse checkpoints of different steps.

    Raises:
        BadCheckpoint: the ranks do not read the same folder.
    """
    if len(set(found := ranks.each(steps))) > 1:
        raise BadCheckpoint(f"the ranks of a run must share a folder of checkpoints, but are after steps {found}")


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists and sequences of layers, to be gathered one at a time; none where they share
    parameters."""
    if len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False))):
        return
    yield from _members(model)


def _members(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from _members(child)
