"""Weight standardisation and the normalisations that go with it, as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from assay.engine import Method, Recipe, Task
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.nn.batch_channel_norm import to_batch_channel_norm, to_group_norm
from assay.nn.weight_standardization import to_weight_standardized

if TYPE_CHECKING:
    from assay.engine import Run

NORMS = ("keep", "gn", "bcn", "bcn-estimate")


@dataclass
class WeightStandardization(Method):
    """Standardised convolutions, and in place of every BatchNorm a normalisation that micro-batches can live with.

    Args:
        ws: standardise the weights of every convolution that a normalisation follows.
        norm: `bcn`, batch-channel normalisation by the batch's statistics; `bcn-estimate`, the same by running
            estimates, for micro-batches; `gn`, group normalisation; `keep` what the network has.
        num_groups: of the normalisation over channels; must divide the channels of every layer. The paper's networks,
            of 64 channels and more, have 32.
        update_rate: weight of a new statistic in the running estimates of `bcn-estimate`.

    Raises:
        AssayError: a setting is out of its range.
    """

    name: ClassVar[str] = "ws-bcn"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    ws: bool = True
    norm: Literal["keep", "gn", "bcn", "bcn-estimate"] = "bcn"
    num_groups: int = 8
    update_rate: float = 0.1

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UnknownName("norm", self.norm, NORMS)
        if self.num_groups < 1:
            raise AssayError(f"num_groups must be positive, got {self.num_groups}")
        if not 0 <= self.update_rate <= 1:
            raise AssayError(f"update_rate must lie in [0, 1], got {self.update_rate:g}")

    def check(self, task: Task, recipe: Recipe) -> None:
        super().check(task, recipe)
        if not self.ws and self.norm == "keep":
            raise CannotTreat("method 'ws-bcn' changes nothing with ws=false and norm=keep: turn one of them on")

    def check_devices(self, recipe: Recipe, devices: int, strategy: str) -> None:
        super().check_devices(recipe, devices, strategy)
        if self.norm == "bcn-estimate":
            raise CannotTreat(
                "method 'ws-bcn' with norm=bcn-estimate trains on running estimates, which several devices would take "
                "from the first one's part of each batch alone; give norm=bcn or norm=gn, or devices=1"
            )

    def setup(self, run: "Run") -> None:
        try:
            if self.ws:
                run.model = to_weight_standardized(run.model)
            if self.norm == "gn":
                run.model = to_group_norm(run.model, self.num_groups)
            elif self.norm != "keep":
                estimate = self.norm == "bcn-estimate"
                run.model = to_batch_channel_norm(
                    run.model, self.num_groups, estimate=estimate, update_rate=self.update_rate if estimate else None
                )
        except ValueError as error:
            raise CannotTreat(f"method 'ws-bcn' cannot treat task {run.task.name!r}: {error}") from error
