"""What a paper's own runs cost, counted on networks without weights."""

from dataclasses import dataclass

from assay.claims.card import Scale
from assay.trials.gpus import Estimate, Gpu, estimate


@dataclass(frozen=True)
class ScalePrice:
    """A `Scale` in figures.

    Attributes:
        what, note: as there.
        flops: of the whole run.
        memory: bytes of weights, gradients and activations of a step on one device, float32, without the optimizer's
            state; `None` where it cannot be counted.
    """

    what: str
    note: str
    flops: float
    memory: int | None

    def on(self, gpu: Gpu, *, price: float | None = None, utilisation: float | None = None) -> Estimate:
        """The same on one GPU, in bfloat16; see `assay.trials.gpus.estimate`."""
        return estimate(gpu, gpu.seconds_at_peak(self.flops, "bf16-mixed", 0.0), price=price, utilisation=utilisation)


def price_scale(scale: Scale) -> ScalePrice:
    """Count one step of `scale` on the meta device, on which nothing is computed."""
    if scale.network is None:
        return ScalePrice(scale.what, scale.note, scale.samples * float(scale.flops or 0), None)
    import torch

    from assay.engine.flops import flop_counter
    from assay.trials.memory import TensorMemory

    with torch.device("meta"):
        model = scale.network().train(scale.trains)
        shape = (scale.batch, *scale.sample)
        x = torch.empty(shape) if len(scale.sample) > 1 else torch.empty(shape, dtype=torch.long)
    memory = TensorMemory()
    memory.hold([x, *model.parameters(), *model.buffers()])
    with memory, flop_counter() as counter, torch.set_grad_enabled(scale.trains):
        outputs = model(x)
        if scale.trains:
            outputs.sum().backward()
    return ScalePrice(scale.what, scale.note, scale.samples * counter.get_total_flops() / scale.batch, memory.peak)
