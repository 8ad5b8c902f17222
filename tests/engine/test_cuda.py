"""The same promises on a GPU."""

import pytest
import torch
from workloads import Blobs, bits

from assay.engine import Recipe, Run
from assay.errors import Interrupted

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def make(precision, folder=None, budget="30steps", **options):
    recipe = Recipe(precision=precision, schedule="cosine", clip_norm=1.0, batch_size=16)
    return Run(Blobs(noisy=True), recipe, budget=budget, folder=folder, accelerator="cuda", evaluations=5, **options)


def found(run):
    record = run.train()
    run.model.cpu()
    return bits(run, record)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed"])
def test_a_run_on_a_gpu_goes_on_exactly_and_evaluation_does_not_disturb_it(precision, tmp_path):
    whole = found(make(precision))
    assert whole["record"]["status"] == "finished"
    for at in (7, 20):
        run = make(precision, tmp_path, checkpoint_every=0.0)
        run.watch = lambda run, at=at: run.stop() if run.steps == at else None
        with pytest.raises(Interrupted, match=f"after {at} steps"):
            run.train()
    assert found(make(precision, tmp_path)) == whole
    never = make(precision)
    never.evaluations = 0
    assert found(never)["weights"] == whole["weights"]


def test_the_weights_a_run_starts_from_are_those_of_a_cpu():
    on_gpu, on_cpu = make("32-true"), Run(Blobs(noisy=True))
    on_gpu.build()
    on_cpu.build()
    pairs = zip(on_gpu.model.parameters(), on_cpu.model.parameters(), strict=True)
    assert all(a.device.type == "cuda" and torch.equal(a.cpu(), b) for a, b in pairs)


def test_seconds_and_peak_memory_are_the_devices():
    record = make("32-true", budget="0.2s").train()
    assert 0.2 <= record.seconds < 0.4
    assert 1e4 < record.peak_memory < 1e9
    assert record.environment["device"] == torch.cuda.get_device_name(0)
