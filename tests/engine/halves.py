"""What data parallelism means, in one process: the parts of a batch one after another, their gradients added."""

import torch

from assay.engine import Batch, Recipe
from assay.engine.devices import part


def in_parts(kind, size=2):
    """The task class `kind` with a step that treats a batch as `size` devices would.

    Each part is normalised by itself, and begins with the buffers that the first part of the last batch left.
    """

    class InParts(kind):
        def step(self, run, batch):
            total, first, before = 0.0, None, buffers(run)
            for rank in range(size):
                put(run, before)
                rows = part(len(batch.ids), rank, size)
                piece = Batch(batch.x[rows], batch.y[rows], batch.ids[rows])
                share = len(piece.ids) / len(batch.ids)
                loss = run.objective(piece)
                run.backward(loss * share)
                total += loss.detach() * share
                first = first or buffers(run)
            put(run, first)
            run.update()
            return total

    return InParts


def buffers(run):
    return {name: buffer.clone() for name, buffer in run.model.named_buffers()}


@torch.no_grad()
def put(run, kept):
    for name, buffer in run.model.named_buffers():
        buffer.copy_(kept[name])


def told(run, record):
    """All of a run that several devices must find as one does, as tensors and numbers."""
    flat = {f"{i}/{k}": v for i, point in enumerate(record.curve) for k, v in point.items() if k != "seconds"}
    return {
        "status": record.status,
        "numbers": {name: getattr(record, name) for name in ("steps", "epochs", "samples", "flops", "parameters")},
        "curve": flat,
        "extras": record.extras,
        "metrics": {f"{part}/{k}": v for part, found in record.metrics.items() for k, v in found.items()},
        "outcomes": {name: torch.from_numpy(values.copy()) for name, values in record.outcomes.items()},
        "weights": whole(run),
    }


def whole(run):
    """Parameters and buffers, gathered where they are sharded; all ranks call it."""
    held = run.model.state_dict()
    tensors = {name: t for name, t in held.items() if isinstance(t, torch.Tensor)}
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).clone() for name, t in tensors.items()}


def same(found, expected, rtol=1e-9, atol=1e-9):
    """Assert that two runs are the same to rounding, and in all counts exactly."""
    assert found["status"] == expected["status"]
    assert found["numbers"] == expected["numbers"]
    for kind in ("curve", "metrics", "outcomes", "extras", "weights"):
        assert found[kind].keys() == expected[kind].keys(), kind
        for name, value in found[kind].items():
            a, b = torch.as_tensor(value), torch.as_tensor(expected[kind][name])
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


EXACT = Recipe(lr=0.1, batch_size=16, precision="64-true")
