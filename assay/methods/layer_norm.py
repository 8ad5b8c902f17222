"""Layer normalisation as a method of a run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from assay.engine import Method
from assay.errors import CannotTreat, UnknownName
from assay.nn.to_layer_norm import add_layer_norm, batch_norm_to_layer_norm, to_layer_norm_rnn

if TYPE_CHECKING:
    from assay.engine import Run

TREATS = ("auto", "recurrent", "batchnorm", "hidden")
REFERENCES = ("paper", "theano", "lua")


@dataclass
class LayerNorm(Method):
    """Layer normalisation put into the network, whose weights are kept.

    Args:
        treat: `recurrent`, each RNN, LSTM and GRU gets its layer-normalised form; `batchnorm`, layer normalisation in
            place of each BatchNorm; `hidden`, on the summed inputs of each hidden linear layer; `auto`, the first of
            these for which the network has layers.
        reference: of recurrent layers, as in `assay.nn.layer_norm_rnn`: `paper`, or one of the authors' two codes.

    Raises:
        AssayError: a setting is unknown.
    """

    name: ClassVar[str] = "layernorm"
    strategies: ClassVar[frozenset[str]] = frozenset({"ddp", "fsdp"})

    treat: Literal["auto", "recurrent", "batchnorm", "hidden"] = "auto"
    reference: Literal["paper", "theano", "lua"] = "paper"

    def __post_init__(self) -> None:
        for name, known in (("treat", TREATS), ("reference", REFERENCES)):
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)

    def setup(self, run: "Run") -> None:
        treat = self.treat if self.treat != "auto" else _first(run.model)
        if treat == "recurrent" and run.strategy == "fsdp":
            raise CannotTreat(
                "method 'layernorm' computes recurrent layers from the weights of their cells, of which a device has "
                "parts under strategy fsdp; give strategy ddp"
            )
        try:
            if treat == "recurrent":
                run.model = to_layer_norm_rnn(run.model, reference=self.reference)
            elif self.reference != "paper":
                raise ValueError(f"reference={self.reference} is about recurrent layers, and none is treated")
            else:
                run.model = {"batchnorm": batch_norm_to_layer_norm, "hidden": add_layer_norm}[treat](run.model)
        except ValueError as error:
            lacks = "; nor has it recurrent layers or BatchNorm" if treat == "hidden" != self.treat else ""
            has = "; it has layer normalisation already" if _has(run.model, nn.LayerNorm) else ""
            raise CannotTreat(f"method 'layernorm' cannot treat task {run.task.name!r}: {error}{lacks}{has}") from error


def _first(model: nn.Module) -> str:
    if _has(model, nn.RNNBase, nn.RNNCellBase):
        return "recurrent"
    return "batchnorm" if _has(model, _BatchNorm) else "hidden"


def _has(model: nn.Module, *kinds: type[nn.Module]) -> bool:
    return any(isinstance(layer, kinds) for layer in model.modules())
