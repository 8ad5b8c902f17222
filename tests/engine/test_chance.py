import random

import numpy as np
import pytest
import torch
from torch import nn
from workloads import Blobs, NoisyGradients, bits

from assay.engine import Method, Recipe, Run


class Watch(Method):
    """Notes the initial weights and every batch that a run sees, before other methods change it."""

    name = "watch"

    def setup(self, run):
        self.weights = [p.detach().clone() for p in run.model.parameters()]
        self.ids, self.x = [], []

    def batch(self, run, batch):
        self.ids.append(batch.ids)
        self.x.append(batch.x)
        return batch


class Greedy(Method):
    """Draws from every source of chance there is, at every place."""

    name = "greedy"

    def draw(self):
        torch.randn(7), np.random.rand(3), random.random()

    def setup(self, run):
        self.draw()
        self.generator = run.generator(self.name)

    def batch(self, run, batch):
        self.draw()
        return batch._replace(x=batch.x + 0.01 * torch.randn(batch.x.shape, generator=self.generator))

    def epoch(self, run):
        self.draw()

    def updated(self, run):
        self.draw()


def seen(seed, methods=(), vary=("init", "order"), task=None):
    run = Run(task or Blobs(), Recipe().with_methods([Watch(), *methods]), seed, "2epochs", vary=vary)
    run.train()
    return run.methods[0]


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_arms_of_one_seed_start_from_equal_weights_and_see_equal_batches_whatever_a_method_draws():
    plain = seen(3)
    for methods in ([Greedy()], [NoisyGradients()], [NoisyGradients(), Greedy()]):
        treated = seen(3, methods)
        assert same(plain.weights, treated.weights)
        assert same(plain.ids, treated.ids)
        assert same(plain.x, treated.x)  # augmentation too


def test_one_methods_draws_do_not_shift_anothers():
    class Init(Method):
        name = "init"

        def setup(self, run):
            self.drawn = torch.randn(3)
            self.later = torch.randn(3, generator=run.generator(self.name))

    runs = [Run(Blobs(), Recipe().with_methods([*first, Init()])) for first in ([], [Greedy()])]
    for run in runs:
        run.build()
    a, b = (run.methods[-1] for run in runs)
    assert torch.equal(a.drawn, b.drawn)
    assert torch.equal(a.later, b.later)
    assert not torch.equal(a.drawn, a.later)


@pytest.mark.parametrize("varies", ["init", "order", "split"])
def test_a_seed_redraws_what_varies_and_nothing_else(varies):
    a, b = (seen(seed, vary=(varies,)) for seed in (1, 2))
    assert same(a.weights, b.weights) == (varies != "init")
    assert same(a.ids, b.ids) == (varies != "order")
    assert same(a.x, b.x) == (varies == "init")


def test_a_seed_that_varies_nothing_changes_nothing():
    runs = [Run(Blobs(noisy=True), seed=seed, vary=(), budget="1epoch") for seed in (1, 2)]
    a, b = (bits(run, run.train()) for run in runs)
    assert a["weights"] == b["weights"]


def test_the_same_run_twice_is_the_same_to_the_bit():
    runs = [Run(Blobs(noisy=True), Recipe().with_methods([NoisyGradients()]), seed=5) for _ in range(2)]
    a, b = (bits(run, run.train()) for run in runs)
    assert a == b


def test_a_run_trains_as_a_plain_loop_of_torch_does():
    recipe = Recipe(lr=0.1, batch_size=16, weight_decay=1e-3)
    run = Run(Blobs(noisy=True), recipe, budget="25steps", evaluations=5)
    run.build()
    model, stream = run.model, run.stream
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(25):
        batch = stream.next()
        loss = nn.functional.cross_entropy(model(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    by_hand = {name: t.clone() for name, t in model.state_dict().items()}
    run.train()
    assert all(torch.equal(by_hand[name], t) for name, t in run.model.state_dict().items())


class DrawsToJudge(Blobs):
    """An evaluation that draws from every global generator, and leaves the network's modes in disorder."""

    def evaluate(self, run, examples, batch_size=500):
        Greedy().draw()
        run.model[2].train()
        return super().evaluate(run, examples, batch_size)


def test_evaluation_does_not_disturb_training():
    def weights(evaluations):
        recipe = Recipe(schedule="cosine").with_methods([NoisyGradients()])
        run = Run(DrawsToJudge(noisy=True), recipe, budget="40steps", evaluations=evaluations)
        return bits(run, run.train())

    never, often = weights(0), weights(10)
    assert len(never["record"]["curve"]) == 1
    assert len(often["record"]["curve"]) == 10
    assert never["weights"] == often["weights"]
    assert never["record"]["metrics"] == often["record"]["metrics"]
    assert never["record"]["flops"] == often["record"]["flops"]


def test_evaluation_puts_each_module_back_into_its_own_mode():
    run = Run(Blobs(noisy=True))
    run.build()
    run.model[1].eval()
    before = [module.training for module in run.model.modules()]
    run.evaluate(run.splits.valid)
    assert [module.training for module in run.model.modules()] == before
    assert before.count(False) == 1


def test_an_evaluation_meets_the_same_chance_each_time():
    class Guess(Blobs):
        def outcomes(self, model, batch):
            return {"guess": torch.rand(len(batch.ids))}

    record = Run(Guess(), budget="20steps", evaluations=4).train()
    assert len({point["valid/guess"] for point in record.curve}) == 1


def test_global_generators_are_left_as_found(pytestconfig):
    random.random(), np.random.rand(), torch.rand(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    Run(Blobs(noisy=True), Recipe().with_methods([Greedy()]), budget="5steps").train()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    if not pytestconfig.getoption("jaxtyping_packages", None):  # the checker draws from Python's generator itself
        assert random.getstate() == before[2]


def test_global_generators_are_left_as_found_by_a_run_that_fails():
    class Fails(Blobs):
        def step(self, run, batch):
            raise KeyError("a bug")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="a bug"):
        Run(Fails(), budget="5steps").train()
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_vary_is_refused():
    from assay.errors import AssayError

    class Fixed(Blobs):
        varies = frozenset({"init"})

    with pytest.raises(AssayError, match="cannot vary order, split; it can vary init"):
        Run(Fixed(), vary=("init", "order", "split"))
