import time
from itertools import pairwise

import pytest
import torch
from torch import nn
from workloads import Blobs, Ones

from assay.engine import Batch, Method, Recipe, Run


def mlp_step_flops(batch: int, sizes: tuple[int, ...]) -> int:
    """Forward and weight gradient of every layer, input gradient of all but the first: 2 m n k each."""
    layers = [2 * batch * a * b for a, b in pairwise(sizes)]
    return 3 * sum(layers) - layers[0]


def test_flops_of_an_mlp_are_the_closed_form():
    record = Run(Blobs(features=8, hidden=16, classes=4), Recipe(batch_size=16), budget="7steps").train()
    assert record.flops == 7 * mlp_step_flops(16, (8, 16, 4))


def test_flops_follow_the_shape_of_the_batch_however_it_is_nested():
    class Nested(Ones):
        def stream(self, run):
            stream = super().stream(run)
            plain = stream.next

            def nested():
                batch = plain()
                n = 1 + stream.position % 2  # all else about the batch stays as it is
                return Batch({"left": [batch.x[:n]], "right": (batch.x[:1],)}, batch.y, batch.ids)

            stream.next = nested
            return stream

        def objective(self, run, batch):
            return run.forward(batch.x["left"][0]).mean() + run.forward(batch.x["right"][0]).mean()

    record = Run(Nested(samples=40), Recipe(batch_size=4), budget="6steps").train()
    row = 2 * mlp_step_flops(1, (3, 1)) // 2
    assert record.flops == 3 * (2 + 1) * row + 3 * (1 + 1) * row


def test_counting_does_not_change_a_step_by_a_bit():
    """Of a network with every kind of layer at hand: the first step of each run is the counted one."""

    class Conv(Blobs):
        def model(self):
            return nn.Sequential(
                nn.Unflatten(1, (1, 8)),
                nn.Conv1d(1, 6, 3, padding=1),
                nn.BatchNorm1d(6),
                nn.GELU(),
                nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1),
                Take(),
                nn.LayerNorm(8),
                nn.Dropout(0.2),
                nn.Flatten(),
                nn.Linear(48, 4),
            )

    class Take(nn.Module):
        def forward(self, pair):
            return pair[0]

    class Same(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x, x, x)

    class Attending(Conv):
        def model(self):
            layers = list(super().model())
            layers[4] = Same(layers[4])
            return nn.Sequential(*layers)

    def weights(forget):
        class Recount(Method):
            name = "recount"

            def updated(self, run):
                if forget:
                    run.recount()

        recipe = Recipe(optimizer="adamw", lr=0.01, batch_size=16).with_methods([Recount()])
        run = Run(Attending(), recipe, budget="12steps", evaluations=0)
        record = run.train()
        return record.flops, [p.detach().clone() for p in run.model.state_dict().values()]

    (once, a), (always, b) = weights(False), weights(True)
    assert once == always > 0
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_changed_network_is_counted_anew_when_it_says_so():
    class Shrink(Method):
        name = "shrink"

        def updated(self, run):
            if run.steps == 2:
                run.model[1] = nn.Identity()
                run.model[2] = nn.Identity()
                run.recount()

    class Deep(Blobs):
        def model(self):
            return nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 4))

    run = Run(Deep(), Recipe(batch_size=16).with_methods([Shrink()]), budget="10steps", evaluations=0)
    assert run.train().flops == 3 * mlp_step_flops(16, (8, 4, 4, 4)) + 7 * mlp_step_flops(16, (8, 4))


@pytest.mark.parametrize("hook", ["setup", "batch", "epoch", "finish"])
def test_what_a_method_computes_and_takes_outside_the_step_is_counted(hook):
    def work(self, run, batch=None):
        torch.ones(10, 20) @ torch.ones(20, 30)
        time.sleep(0.02)
        return batch

    times = {"setup": 1, "batch": 10, "epoch": 2, "finish": 1}[hook]
    busy = type("Busy", (Method,), {"name": "busy", hook: work})()
    plain, treated = (
        Run(Ones(samples=20), Recipe(batch_size=4).with_methods(methods), budget="2epochs").train()
        for methods in ([], [busy])
    )
    assert treated.flops - plain.flops == times * 2 * 10 * 20 * 30
    assert treated.seconds > times * 0.02


def test_evaluation_and_its_flops_are_no_part_of_training():
    seldom, often = (Run(Blobs(), budget="20steps", evaluations=n).train() for n in (0, 20))
    assert seldom.flops == often.flops
    assert often.wall_seconds > often.seconds


def test_all_currencies_are_in_the_record_and_along_the_curve():
    record = Run(Blobs(), Recipe(batch_size=16), budget="2epochs", evaluations=4).train()
    assert [point["steps"] for point in record.curve] == [5, 10, 15, 20]
    assert [point["samples"] for point in record.curve] == [80, 160, 240, 320]
    assert [point["epochs"] for point in record.curve] == [0.5, 1.0, 1.5, 2.0]
    for unit in ("seconds", "flops"):
        values = [point[unit] for point in record.curve]
        assert values == sorted(values)
        assert values[-1] == getattr(record, unit)
    assert (record.parameters, record.trainable) == (8 * 16 + 16 + 16 * 4 + 4,) * 2


def test_the_curves_training_loss_is_the_mean_since_the_point_before():
    seen = []

    class Note(Method):
        name = "note"

        def objective(self, run, batch, proceed):
            loss = proceed(batch)
            seen.append(loss.item())
            return loss

    record = Run(Blobs(), Recipe().with_methods([Note()]), budget="6steps", evaluations=2).train()
    assert [p["train_loss"] for p in record.curve] == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:]) / 3], rel=1e-12)


def test_more_points_than_steps_make_one_point_a_step():
    record = Run(Blobs(), budget="3steps", evaluations=100).train()
    assert [point["steps"] for point in record.curve] == [1, 2, 3]


def test_samples_are_those_drawn_whatever_a_method_does_with_them():
    class Half(Method):
        name = "half"

        def batch(self, run, batch):
            return Batch(batch.x[::2], batch.y[::2], batch.ids[::2])

    assert Run(Ones(), Recipe(batch_size=4).with_methods([Half()]), budget="5steps").train().samples == 20


def test_the_watch_is_called_now_and_then_and_at_the_end():
    seen = []
    run = Run(Ones(), Recipe(batch_size=4), budget="200steps", evaluations=0)
    run.watch = lambda run: seen.append(run.steps)
    record = run.train()
    # before the first step, at each of three windows, at the last step and after the curve's only point
    assert (seen[0], seen[-1]) == (0, 200)
    assert 6 <= len(seen) <= 6 + record.seconds
