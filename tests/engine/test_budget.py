from types import SimpleNamespace

import pytest
from workloads import Blobs, Ones

from assay.engine import Budget, Recipe, Run, Stream
from assay.errors import AssayError


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("10epochs", 10, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("0.5epochs", 0.5, "epochs"),
        (".5 epochs", 0.5, "epochs"),
        ("500 steps", 500, "steps"),
        ("1e3steps", 1000, "steps"),
        ("20000samples", 20000, "samples"),
        ("60s", 60, "seconds"),
        ("1.5 Seconds", 1.5, "seconds"),
        ("2min", 120, "seconds"),
        ("2 minutes", 120, "seconds"),
        ("1e12flops", 1e12, "flops"),
        ("1e+12FLOPs", 1e12, "flops"),
    ],
)
def test_text_is_read_as_amount_and_unit(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize("budget", [Budget(10, "epochs"), Budget(0.1, "epochs"), Budget(1e15, "flops")])
def test_what_is_written_is_read_back(budget):
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("10", "10epochs"),
        ("ten epochs", "ten epochs"),
        ("10 parsecs", "parsecs"),
        ("-3steps", "-3steps"),
        ("0steps", "positive"),
        ("1e999s", "finite"),
        ("1.5steps", "whole"),
        ("2.5samples", "whole"),
        ("", "cannot read"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text, names):
    with pytest.raises(AssayError, match=names):
        Budget.parse(text)


def test_an_unknown_unit_is_refused():
    with pytest.raises(AssayError, match="must be one of steps"):
        Budget(1, "hours")


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ("7steps", 7),
        ("2epochs", 20),  # 160 samples in batches of 16
        ("0.5epochs", 5),
        ("1.1epochs", 11),
        ("2.3epochs", 23),
        ("0.51epochs", 6),  # the first step at or past the amount
        ("48samples", 3),
        ("49samples", 4),
    ],
)
def test_a_run_ends_at_the_first_step_that_spends_its_budget(budget, steps):
    record = Run(Blobs(), budget=budget, evaluations=0).train()
    assert (record.steps, record.samples) == (steps, 16 * steps)
    assert record.epochs == pytest.approx(steps / 10)


def test_a_flops_budget_ends_at_the_first_step_past_it():
    one = Run(Blobs(), budget="1step", evaluations=0).train().flops
    assert Run(Blobs(), budget=f"{3.5 * one:.0f}flops", evaluations=0).train().steps == 4
    assert Run(Blobs(), budget=f"{3 * one:.0f}flops", evaluations=0).train().steps == 3


def test_a_seconds_budget_counts_training_and_not_evaluation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("assay.engine.run.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(run, batch):
        now[0] += 0.5
        return Ones.step(Ones(), run, batch)

    class SlowToJudge(Ones):
        def evaluate(self, run, examples, batch_size=500):
            now[0] += 100.0
            return super().evaluate(run, examples, batch_size)

    record = Run(SlowToJudge(slow), budget="10s", evaluations=5).train()
    assert (record.steps, record.seconds) == (20, 10.0)
    assert record.wall_seconds == 10.0 + 6 * 100.0  # five points and the test split
    assert [point["seconds"] for point in record.curve] == [2.0, 4.0, 6.0, 8.0, 10.0]


class NoEpochs(Ones):
    def stream(self, run):
        stream = super().stream(run)

        class Endless:
            epoch, steps_per_epoch = 0.0, None
            next, state_dict, load_state_dict = stream.next, stream.state_dict, stream.load_state_dict

        endless: Stream = Endless()
        return endless


def test_epochs_of_a_task_without_epochs_are_refused():
    with pytest.raises(AssayError, match=r"'ones' has no epochs.*steps, samples, seconds or flops"):
        Run(NoEpochs(), budget="1epoch").train()
    assert Run(NoEpochs(), budget="3steps").train().epochs == 0.0


def test_a_budget_that_steps_never_spend_is_refused_instead_of_running_for_ever():
    def free(run, batch):
        return batch.x.sum()

    with pytest.raises(AssayError, match="spends no flops"):
        Run(Ones(free), budget="1e6flops").train()


def test_epochs_are_the_streams_own_where_batches_grow():
    class Growing(Ones):
        def stream(self, run):
            stream = super().stream(run)
            plain = stream.next

            def two_at_once():
                plain()
                return plain()

            stream.next = two_at_once
            return stream

    record = Run(Growing(samples=40), Recipe(batch_size=4), budget="2epochs").train()
    assert (record.steps, record.epochs) == (10, 2.0)
