"""Two devices are one: the same network, figures and counts, and checkpoints that any number goes on from.

All that needs two processes is done in one start of them; the tests look at what they found.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from halves import EXACT, in_parts, same, told
from ranks import on_two_ranks
from torch import distributed, nn
from unusual import Corner, DigitsGAN
from workloads import Blobs, NoisyGradients

from assay.engine import Method, Recipe, Run, Splits, TensorExamples
from assay.engine.devices import part
from assay.errors import AssayError, CannotTreat, Interrupted, UnknownName

STRATEGIES = ("ddp", "fsdp")
ADAM = EXACT.with_settings({"optimizer": "adam", "lr": 0.01, "clip_norm": 0.05, "schedule": "cosine"})


class Plain(Blobs):
    """No augmentation; it is judged seven examples at a time, which leaves three."""

    def splits(self, seed):
        found = super().splits(seed)
        return Splits(TensorExamples(found.train.x, found.train.y), found.valid, found.test)

    def evaluate(self, run, examples, batch_size=500):
        return super().evaluate(run, examples, 7)


class Normed(Plain):
    """With batch norm."""

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


class Running(nn.Module):
    """Takes the running mean from its input: a buffer that takes part in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.3)
        return x - self.mean.clone()


class Estimating(Plain):
    """It trains on running means."""

    def model(self):
        return nn.Sequential(nn.Linear(8, 16), Running(), nn.ReLU(), nn.Linear(16, 4))


class Idle(Plain):
    """A layer of its network is never used."""

    def model(self):
        net = super().model()
        net.idle = nn.Linear(2, 2)
        net.forward = lambda x: nn.Sequential.forward(net[:3], x)
        return net


@dataclass
class Spoil(Method):
    """From step `at` the loss of one rank is not finite."""

    rank: int = 1
    at: int = 5
    name = "spoil"
    strategies = frozenset(STRATEGIES)

    def objective(self, run, batch, proceed):
        return proceed(batch) * (float("nan") if run.ranks.rank == self.rank and run.steps + 1 >= self.at else 1.0)


@dataclass
class Seen(Method):
    """Keeps the ids of every batch, and what dropout draws."""

    name = "seen"
    strategies = frozenset(STRATEGIES)

    def setup(self, run):
        self.ids, self.draws = [], []

    def batch(self, run, batch):
        self.ids.append(batch.ids.clone())
        self.draws.append(torch.rand(3))
        return batch


class Remembering(NoisyGradients):
    """It keeps the same on all ranks: its noise is the same on all, and the gradients are whole."""

    strategies = frozenset({"ddp"})


# name -> task, recipe and the rest; what they are compared with is made in this process
SAMENESS = {
    "sgd": (Plain, EXACT, {}),
    "adam, clipped, cosine": (Plain, ADAM, {}),
    "parts of two and three": (Plain, EXACT.with_settings({"batch_size": 5}), {"budget": "33steps"}),
    "a budget of samples": (Plain, EXACT, {"budget": "150samples"}),
    "a budget of flops": (Plain, EXACT, {"budget": "100000flops"}),
    "at once": (lambda: Plain(hidden=0), EXACT, {"evaluations": 0}),
}

NORMS = {"batch norm": Normed, "running means": Estimating}


def a_run(task, recipe, devices=1, strategy=None, seed=1, **changes):
    return Run(
        task, recipe, seed, devices=devices, strategy=strategy, **{"evaluations": 4, "budget": "12steps"} | changes
    )


def stopped(run, at):
    run.watch = lambda run: run.stop() if run.steps == at else None
    with pytest.raises(Interrupted, match=f"after {at} steps"):
        run.train()


def work(rank, folder):
    """All that two ranks have to do: what they found, by name."""
    found = {}
    two = {strategy: {"devices": 2, "strategy": strategy} for strategy in STRATEGIES}
    for strategy in STRATEGIES:
        for name, (task, recipe, changes) in SAMENESS.items():
            run = a_run(task(), recipe, **two[strategy], **changes)
            found[f"{name}/{strategy}"] = told(run, run.train())
        for name, task in NORMS.items():
            run = a_run(task(), EXACT, **two[strategy])
            found[f"{name}/{strategy}"] = told(run, run.train())

        run = a_run(Plain(), EXACT.with_methods([Seen()]), **two[strategy])
        run.train()
        (seen,) = run.methods
        found[f"seen/{strategy}"] = {"ids": torch.stack(seen.ids), "draws": torch.stack(seen.draws)}

        # chance of every kind, state of every kind: killed twice, and once more on one device in between
        methods = [Remembering()] if strategy == "ddp" else []
        noisy = Recipe(optimizer="adam", lr=0.01, schedule="cosine", warmup=0.1, clip_norm=1.0).with_methods(methods)
        common = {"checkpoint_every": 0.0, "budget": "17steps"}
        run = a_run(Blobs(noisy=True), noisy, **two[strategy], **common)
        record = run.train()
        found[f"undisturbed/{strategy}"] = told(run, record)
        for at in (3, 11):
            place = Path(folder) / f"noisy-{strategy}"
            stopped(a_run(Blobs(noisy=True), noisy, **two[strategy], **common, folder=place), at)
        run = a_run(Blobs(noisy=True), noisy, **two[strategy], **common, folder=place)
        found[f"resumed/{strategy}"] = told(run, run.train())

        common["folder"] = Path(folder) / f"moved-{strategy}"
        stopped(a_run(Plain(), ADAM, **two[strategy], **common), 4)
        if rank == 0:
            stopped(a_run(Plain(), ADAM, **common), 9)
        distributed.barrier()
        other = "fsdp" if strategy == "ddp" else "ddp"
        stopped(a_run(Plain(), ADAM, **two[other], **common), 13)
        run = a_run(Plain(), ADAM, **two[strategy], **common)
        record = run.train()
        found[f"moved/{strategy}"] = told(run, record) | {"devices": record.environment["devices"]}

        for spoiled in (0, 1):
            record = a_run(Plain(), EXACT.with_methods([Spoil(spoiled)]), **two[strategy]).train()
            found[f"diverged of {spoiled}/{strategy}"] = [record.status, record.diverged_at, record.metrics]

        run = a_run(Plain(), EXACT, **two[strategy], budget="0.3s")
        record = run.train()
        found[f"seconds/{strategy}"] = [record.steps, record.seconds]
        found[f"peak/{strategy}"] = [record.peak_memory, run._memory.bytes()]

        run = a_run(Plain(), Recipe(precision="bf16-mixed"), **two[strategy])
        found[f"bf16/{strategy}"] = told(run, run.train())
        with pytest.raises(AssayError) as error:
            a_run(Idle(), EXACT, **two[strategy]).train()
        found[f"idle/{strategy}"] = str(error.value)
        run = a_run(Plain(), EXACT, **two[strategy])  # only one rank is asked
        run.watch = lambda run: run.stop() if rank == 1 and run.steps == 6 else None
        with pytest.raises(Interrupted) as stop:
            run.train()
        found[f"asked/{strategy}"] = str(stop.value)
    with pytest.raises(AssayError) as error:
        a_run(Plain(), EXACT, devices=3).train()
    found["three"] = str(error.value)
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return on_two_ranks(work, folder, str(folder))


@pytest.fixture(scope="module")
def alone():
    """The same runs on one device."""
    found = {}
    for name, (task, recipe, changes) in SAMENESS.items():
        run = a_run(task(), recipe, **changes)
        found[name] = told(run, run.train())
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", SAMENESS)
def test_two_devices_find_what_one_does(name, strategy, ranks, alone):
    for found in ranks:
        same(found[f"{name}/{strategy}"], alone[name])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_knows_its_own_part_alone_and_keeps_the_first_devices_statistics(name, strategy, ranks):
    run = a_run(in_parts(NORMS[name])(), EXACT)
    expected = told(run, run.train())
    for found in ranks:
        same(found[f"{name}/{strategy}"], expected)
    run = a_run(NORMS[name](), EXACT)
    assert told(run, run.train())["curve"]["3/train_loss"] != pytest.approx(expected["curve"]["3/train_loss"], rel=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_device_sees_its_part_of_the_batches_that_one_would_see(strategy, ranks):
    run = a_run(Plain(), EXACT.with_methods([Seen()]))
    run.train()
    first, second = (found[f"seen/{strategy}"]["ids"] for found in ranks)
    assert torch.equal(torch.cat([first, second], 1), torch.stack(run.methods[0].ids))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_layers_draw_differs_between_devices(strategy, ranks):
    first, second = (found[f"seen/{strategy}"]["draws"] for found in ranks)
    assert not (first == second).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stopped_twice_two_devices_go_on_to_the_same_bits(strategy, ranks):
    for found in ranks:
        same(found[f"resumed/{strategy}"], found[f"undisturbed/{strategy}"], rtol=0, atol=0)
    for name, weight in ranks[0][f"resumed/{strategy}"]["weights"].items():
        assert torch.equal(weight, ranks[1][f"resumed/{strategy}"]["weights"][name]) or "running" in name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_moves_from_two_devices_to_one_and_back(strategy, ranks):
    run = a_run(Plain(), ADAM, budget="17steps")
    expected = told(run, run.train())
    other = "fsdp" if strategy == "ddp" else "ddp"
    for found in ranks:
        same(found[f"moved/{strategy}"], expected)
        assert found[f"moved/{strategy}"]["devices"] == [f"2 ({strategy})", "1", f"2 ({other})", f"2 ({strategy})"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("spoiled", [0, 1])
def test_a_loss_that_is_not_finite_on_one_device_ends_all_at_that_step(spoiled, strategy, ranks):
    for found in ranks:
        assert found[f"diverged of {spoiled}/{strategy}"] == ["diverged", 5, {}]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_of_time_is_that_of_one_clock(strategy, ranks):
    first, second = (found[f"seconds/{strategy}"] for found in ranks)
    assert first == second
    assert first[1] >= 0.3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_peak_memory_is_the_largest(strategy, ranks):
    (told_first, first), (told_second, second) = (found[f"peak/{strategy}"] for found in ranks)
    assert told_first == pytest.approx(max(first, second), rel=0.02)
    assert told_second == pytest.approx(told_first, rel=0.02)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mixed_precision_is_shared_too(strategy, ranks):
    run = a_run(Plain(), Recipe(precision="bf16-mixed"))
    expected = told(run, run.train())
    found = ranks[0][f"bf16/{strategy}"]
    assert found["numbers"] == expected["numbers"]
    assert found["curve"]["3/train_loss"] == pytest.approx(expected["curve"]["3/train_loss"], rel=0.02)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_layer_that_the_loss_does_not_depend_on_is_named(strategy, ranks):
    for found in ranks:
        assert found[f"idle/{strategy}"].startswith("the loss does not depend on idle.weight, idle.bias: on several")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_when_one_is_asked_to_stop_all_stop_after_the_same_step(strategy, ranks):
    assert [found[f"asked/{strategy}"] for found in ranks] == ["run stopped after 6 steps"] * 2


def test_a_run_on_more_devices_than_there_are_processes_is_refused(ranks):
    assert ranks[0]["three"] == "devices is 3, but this process is one of 2"


# What is refused before anything is run -----------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_are_all_of_a_batch_in_order_and_nearly_equal(samples, size):
    parts = [list(range(samples))[part(samples, rank, size)] for rank in range(size)]
    assert [row for rows in parts for row in rows] == list(range(samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_outside_torchrun_a_run_on_two_devices_says_how_to_start_it():
    run = Run(Plain(), EXACT, devices=2)
    with pytest.raises(AssayError, match=r"torchrun --nproc-per-node 2.*assay\.trials\.compare"):
        run.train()


class OwnObjective(Plain):
    def objective(self, run, batch):
        return super().objective(run, batch)


class Untested(Method):
    name = "untested"


@pytest.mark.parametrize(
    ("task", "recipe", "changes", "error", "says"),
    [
        (Plain(), EXACT, {"devices": 0}, AssayError, "devices must be at least 1, got 0"),
        (Plain(), EXACT, {"strategy": "ddp"}, AssayError, "strategy ddp is about several devices; give devices"),
        (Plain(), EXACT, {"devices": 2, "strategy": "dpp"}, UnknownName, "did you mean 'ddp'"),
        (
            Plain(),
            EXACT.with_settings({"batch_size": 1}),
            {"devices": 2},
            AssayError,
            "batch of 1 cannot be shared by 2",
        ),
        (DigitsGAN(), Recipe(), {"devices": 2}, CannotTreat, "'digits-gan' has a training step of its own"),
        (OwnObjective(), Recipe(), {"devices": 2}, CannotTreat, "divisible = True"),
        (Plain(), Recipe(methods=(Untested(),)), {"devices": 2}, CannotTreat, "'untested' is not tested on several"),
        (
            Plain(),
            Recipe(methods=(Remembering(),)),
            {"devices": 2, "strategy": "fsdp"},
            CannotTreat,
            "not tested on several devices under strategy fsdp, only under ddp",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(task, recipe, changes, error, says):
    with pytest.raises(error, match=says):
        Run(task, recipe, **changes)


def test_a_stream_that_cannot_be_shared_is_refused():
    from assay.engine import devices

    run = Run(Corner())
    run.build()
    with pytest.raises(CannotTreat, match=r"'corner' has a stream of batches of its own \(Games\)"):
        devices.share(run.stream, run.ranks, run.task.name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(AssayError, match="devices must be at most 1, as many GPUs as there are here, got 2"):
        Run(Plain(), EXACT, devices=2, accelerator="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    half = EXACT.with_settings({"precision": "16-mixed"})
    with pytest.raises(AssayError, match="16-mixed has no loss scaler for strategy fsdp"):
        Run(Plain(), half, devices=2, strategy="fsdp", accelerator="cuda")


def test_devices_and_strategy_are_part_of_what_a_run_is():
    keys = {Run(Plain(), EXACT, devices=n, strategy=s).key for n, s in ((1, None), (2, "ddp"), (2, "fsdp"), (3, "ddp"))}
    assert len(keys) == 4
    assert Run(Plain(), EXACT, devices=2).key == Run(Plain(), EXACT, devices=2, strategy="ddp").key


# On GPUs ------------------------------------------------------------------------------------------------------------


def on_gpus(rank):
    found = {}
    distributed.destroy_process_group()  # that of the CPUs alone
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    for strategy in STRATEGIES:
        run = a_run(Plain(), EXACT, devices=2, strategy=strategy, accelerator="cuda")
        found[strategy] = told(run, run.train())
    return found


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_find_what_a_cpu_does(tmp_path, alone, monkeypatch):
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    for name, value in (names | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}).items():
        monkeypatch.setenv(name, value)
    for found in on_two_ranks(on_gpus, tmp_path):
        for strategy in STRATEGIES:
            same(found[strategy], alone["sgd"], rtol=1e-6, atol=1e-6)
