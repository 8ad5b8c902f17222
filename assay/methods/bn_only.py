"""Training BatchNorm and only BatchNorm as a method of a run, with the arms it is compared with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from torch.optim import Optimizer

from assay.analysis.disabled_features import Disabled, disabled_features, disabled_share
from assay.engine import Method, Recipe
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.nn.affine import affine_parameters, init_batchnorm_
from assay.nn.random_features import INITS, init_weights_
from assay.nn.random_weights import add_random_weights
from assay.nn.trainable import PARTS, trainable_only

if TYPE_CHECKING:
    from assay.engine import Run

STARTS = ("keep", "uniform", "fixed", "oneone", "positivenegative")


@dataclass
class BatchNormOnly(Method):
    """Only a part of the network is trained: the affine parameters of its batch norms, or another part to compare with.

    The record's extras have the share of features with |gamma| < `threshold`: `disabled at start` and `disabled`, of
    all features, and `disabled/<number>/<layer>`, of each layer, numbered by depth.

    Args:
        train: `batchnorm`; `random`, two random weights of each output channel of each convolution; `output`;
            `shortcuts`; `norm`; `others`; `all`; or several joined by `/`: `batchnorm/output`.
        batchnorm_init: gammas ~ U[0, 1] by default; `keep` leaves them as the task starts them.
        weight_init: of convolutions and linear layers, such as `binary`; `keep` leaves them as the task starts them.
        per_channel: trained weights of a channel, where `train` has `random`.
        threshold: under which |gamma| counts as disabled.

    Raises:
        AssayError: a setting is unknown or out of its range.
    """

    name: ClassVar[str] = "bn-only"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp"})

    train: str = "batchnorm"
    batchnorm_init: Literal["keep", "uniform", "fixed", "oneone", "positivenegative"] = "uniform"
    weight_init: Literal["keep", "kaiming_normal", "kaiming_uniform", "orthogonal", "binary"] = "keep"
    per_channel: int = 2
    threshold: float = 0.01

    def __post_init__(self) -> None:
        for part in self.train.split("/"):
            if part not in PARTS:
                raise UnknownName("part to train", part, PARTS)
        if self.batchnorm_init not in STARTS:
            raise UnknownName("batchnorm_init", self.batchnorm_init, STARTS)
        if self.weight_init not in ("keep", *INITS):
            raise UnknownName("weight_init", self.weight_init, ("keep", *INITS))
        if self.per_channel < 1:
            raise AssayError(f"per_channel must be positive, got {self.per_channel}")
        if not self.threshold > 0:
            raise AssayError(f"threshold must be positive, got {self.threshold:g}")

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        if strategy == "fsdp":
            raise CannotTreat(
                "method 'bn-only' reads and draws whole layers, and under strategy fsdp a "
                "device has parts of them; give strategy ddp"
            )
        super().check_devices(recipe, devices, strategy)

    def setup(self, run: "Run") -> None:
        try:
            self._freeze(run)
        except ValueError as error:
            raise CannotTreat(f"method 'bn-only' cannot treat task {run.task.name!r}: {error}") from error
        run.log("disabled at start", disabled_share(self._count(run)))
        inner = run.make_optimizer

        def make_optimizer(parameters: Any) -> Optimizer:
            kept = _trainable(parameters)
            if not kept:
                task = run.task.name
                raise CannotTreat(
                    f"method 'bn-only' cannot treat task {task!r}: one of its optimizers is left with nothing"
                )
            return inner(kept)

        run.make_optimizer = make_optimizer

    def _freeze(self, run: "Run") -> None:
        # each draw has a stream of its own, so that arms which differ in one of them share the others
        if self.weight_init != "keep":
            init_weights_(run.model, self.weight_init, generator=run.generator("bn-only weights"))
        if self.batchnorm_init != "keep":
            if not affine_parameters(run.model):
                raise ValueError(
                    f"it has no batch norm to start {self.batchnorm_init!r}; batchnorm_init=keep needs none"
                )
            init_batchnorm_(run.model, self.batchnorm_init, generator=run.generator("bn-only gammas"))
        if "random" in self.train.split("/"):
            add_random_weights(run.model, self.per_channel, generator=run.generator("bn-only places"))
        trainable_only(run.model, self.train)

    def finish(self, run: "Run") -> None:
        counts = self._count(run)
        run.log("disabled", disabled_share(counts))
        for i, (layer, count) in enumerate(counts.items()):
            run.log(f"disabled/{i:03d}/{layer}", count.share)

    def _count(self, run: "Run") -> dict[str, Disabled]:
        every = "norm" in self.train.split("/")
        return disabled_features(run.model, self.threshold, norms="norm" if every else "batchnorm")


def _trainable(parameters: Iterable[Any]) -> list[Any]:
    """Tensors or groups without what is frozen, for tasks that name their parameters themselves."""
    kept: list[Any] = []
    for given in parameters:
        if isinstance(given, Tensor):
            kept += [given] if given.requires_grad else []
            continue
        params = given["params"]
        trained = _trainable([params] if isinstance(params, Tensor) else params)
        kept += [given | {"params": trained}] if trained else []
    return kept
