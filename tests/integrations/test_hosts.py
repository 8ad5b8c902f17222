"""What hosts have beyond plain steps: evaluation, checkpoints, optimizers of their own, gradients that add up."""

import subprocess
import sys
import warnings

import pytest
import torch
from hosts import (
    SEED,
    SIZE,
    STEPS,
    TRAITS,
    Data,
    Epochs,
    Network,
    Noise,
    Tiny,
    by_engine,
    by_loop,
    lightning_module,
    lightning_trainer,
    start,
    transformers_trainer,
)
from torch.nn import functional as F
from torch.utils.data import DataLoader

from assay.engine import Method, Recipe, chance
from assay.errors import AssayError
from assay.integrations import Session, batches
from assay.methods.alpha_bn import AlphaBN
from assay.methods.cutmix import CutMix
from assay.methods.label_smoothing import LabelSmoothing

pytest.importorskip("lightning")
pytest.importorskip("transformers")

RECIPE = Recipe(lr=0.05, batch_size=SIZE, schedule="linear")


class Drift(Method):
    """Noise on the gradients by a running mean of their norm: a method with a state and a generator."""

    name = "drift"

    def setup(self, run):
        self.mean = torch.zeros(())

    def gradients(self, run):
        for p in run.model.parameters():
            self.mean = 0.9 * self.mean + 0.1 * p.grad.norm()
            p.grad += 0.1 * torch.randn(p.shape, generator=run.generator("drift")) / (1 + self.mean)

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


class Calls(Method):
    """Counts its calls, and what it is called with."""

    name = "calls"

    def setup(self, run):
        self.batches, self.gradient_calls, self.update_calls, self.ids = 0, 0, 0, []

    def batch(self, run, batch):
        self.batches += 1
        self.ids.append(batch.ids)
        return batch

    def gradients(self, run):
        self.gradient_calls += 1

    def updated(self, run):
        self.update_calls += 1


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", ["alpha", "core"])
def test_a_method_that_adapts_as_it_is_judged_is_judged_alike(mode, tmp_path):
    method = AlphaBN(mode, batch_size=20)
    run = by_engine([method], RECIPE)
    wanted = torch.from_numpy(run.evaluate(run.splits.valid).outcomes["loss"])
    data = Tiny().splits(0).valid
    halves = [data.batch(torch.arange(i, i + 20)) for i in (0, 20)]

    with pytest.warns(UserWarning, match="'alpha-bn' is to be judged 20 examples at a time"):
        session = by_loop([method], RECIPE)
    session.model.eval()
    for _ in range(2):
        session.begin_evaluation()
        with torch.no_grad():
            got = torch.cat([F.cross_entropy(session.model(x), y, reduction="none") for x, y in halves])
        assert torch.equal(got, wanted)

    from assay.integrations.lightning import Methods

    module = lightning_module()
    methods = Methods(module, [Noise(), method], RECIPE, loss="loss", traits=TRAITS, seed=SEED)
    trainer = lightning_trainer(methods, inference_mode=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, Epochs(Data(RECIPE)))
        for _ in range(2):
            module.validated.clear()
            trainer.validate(module, DataLoader(halves, batch_size=None), verbose=False)
            outputs = torch.cat([outputs for outputs, _ in module.validated])
            assert torch.equal(F.cross_entropy(outputs, torch.cat([y for _, y in halves]), reduction="none"), wanted)

    rows = [{"x": x, "labels": y} for x, y in zip(data.x, data.y, strict=True)]
    trainer = transformers_trainer(
        [method], RECIPE, str(tmp_path), eval_dataset=rows, per_device_eval_batch_size=20, remove_unused_columns=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
        for _ in range(2):
            logits = torch.from_numpy(trainer.predict(rows).predictions)
            assert torch.equal(F.cross_entropy(logits, data.y, reduction="none"), wanted)


class EachStep(Method):
    """Dropout's noise is a function of the step."""

    name = "each-step"

    def batch(self, run, batch):
        chance.seed_all(run.seed_for(f"noise {run.steps}"))
        return batch


HALF = STEPS // 2
RESUMED = [EachStep(), Drift(), CutMix(prob=0.5)]
STEADY = Recipe(lr=0.05, batch_size=SIZE)


def rest(recipe: Recipe, **form) -> Epochs:
    loader = Epochs(Data(recipe, **form))
    loader.taken = HALF
    return loader


@pytest.fixture(scope="module")
def uninterrupted():
    return by_engine(RESUMED, STEADY).model.state_dict()


def test_a_loop_that_was_saved_goes_on_to_the_same_weights(uninterrupted, tmp_path):
    def begun():
        session = Session(start(), [Noise(), *RESUMED], F.cross_entropy, STEADY, traits=TRAITS, seed=SEED)
        session.begin(total_steps=STEPS)
        return session

    first = begun()
    for batch in Epochs(Data(STEADY)).batches[:HALF]:
        first.step(batch)
    state = {
        "session": first.state_dict(),
        "model": first.model.state_dict(),
        "optimizer": first.optimizer.state_dict(),
    }
    torch.save(state, tmp_path / "state.pt")

    second, state = begun(), torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(state["session"])
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    for batch in rest(STEADY).batches[HALF:]:
        second.step(batch)
    assert same(second.model.state_dict(), uninterrupted)


def test_lightnings_checkpoints_hold_the_methods_state(uninterrupted, tmp_path):
    from assay.integrations.lightning import Methods

    def fit(steps, loader, **settings):
        module = lightning_module()
        methods = Methods(module, [Noise(), *RESUMED], STEADY, loss="loss", traits=TRAITS, seed=SEED)
        trainer = lightning_trainer(methods, max_steps=steps, max_epochs=-1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            trainer.fit(module, loader, **settings)
        return trainer

    fit(HALF, Epochs(Data(STEADY))).save_checkpoint(tmp_path / "half.ckpt")
    trainer = fit(STEPS, rest(STEADY), ckpt_path=tmp_path / "half.ckpt")
    assert trainer.global_step == STEPS
    assert same(trainer.lightning_module.model.state_dict(), uninterrupted)


def test_hugging_faces_checkpoints_hold_the_methods_state(uninterrupted, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": HALF}
    transformers_trainer(RESUMED, STEADY, str(tmp_path), **saving).train()
    trainer = transformers_trainer(RESUMED, STEADY, str(tmp_path), loader=rest(STEADY, named=True))
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{HALF}"))
    assert trainer.session.steps == STEPS
    assert same(trainer.model.state_dict(), uninterrupted)


class Sway(Method):
    """`step`: every batch twice, at rates that a state of its own lets sway; momentum sways at the end of epochs."""

    name = "sway"

    def setup(self, run):
        self.calls = torch.zeros(())

    def step(self, run, batch, proceed):
        self.calls += 1
        with torch.no_grad():
            for p in run.model.parameters():
                p *= 1 - 0.01 * self.calls.sin().abs() - 0.1 * run.optimizer.param_groups[0]["lr"]
        return proceed(batch)

    def epoch(self, run):
        for state in run.optimizer.state.values():
            state["momentum_buffer"] *= self.calls.cos()

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def test_a_method_around_the_step_goes_on_with_its_schedule_from_a_checkpoint_of_each_host(tmp_path):
    """The checkpoint is one of a training that went on to its end."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from assay.integrations.lightning import Methods

    methods = [EachStep(), Drift(), Sway()]
    wanted = by_engine(methods, RECIPE).model.state_dict()

    def by_lightning(loader, **settings):
        module = lightning_module()
        carried = Methods(module, [Noise(), *methods], RECIPE, loss="loss", traits=TRAITS, seed=SEED)
        trainer = lightning_trainer(carried, enable_checkpointing=True, default_root_dir=tmp_path)
        trainer.callbacks.append(ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=HALF, save_top_k=-1))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            trainer.fit(module, loader, **settings)
        return module.model.state_dict()

    assert same(by_lightning(Epochs(Data(RECIPE))), wanted)
    assert same(by_lightning(rest(RECIPE), ckpt_path=tmp_path / f"step={HALF}.ckpt"), wanted)

    saving = {"save_strategy": "steps", "save_steps": HALF}
    transformers_trainer(methods, RECIPE, str(tmp_path), **saving).train()
    trainer = transformers_trainer(methods, RECIPE, str(tmp_path), loader=rest(RECIPE, named=True))
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{HALF}"))
    assert same(trainer.model.state_dict(), wanted)


def test_a_state_of_other_methods_or_of_none_is_refused(tmp_path):
    from lightning.pytorch import Trainer

    from assay.integrations.lightning import Methods

    state = Session(Network(), [Drift()], F.cross_entropy, RECIPE).state_dict()
    with pytest.raises(AssayError, match="the state is of other methods: drift; here are sway, drift"):
        Session(Network(), [Sway(), Drift()], F.cross_entropy, RECIPE).load_state_dict(state)

    (tmp_path / f"checkpoint-{HALF}").mkdir()
    with pytest.raises(AssayError, match=r"checkpoint-10 has no assay.pt: it was written without methods"):
        transformers_trainer([Drift()], RECIPE, str(tmp_path)).train(str(tmp_path / f"checkpoint-{HALF}"))

    module = lightning_module()
    plain = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    carried = Methods(treated := lightning_module(), [Drift()], RECIPE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        plain.fit(module, Epochs(Data(RECIPE)))
        plain.save_checkpoint(tmp_path / "plain.ckpt")
        with pytest.raises(AssayError, match="cannot go on from this checkpoint: it was written without methods"):
            lightning_trainer(carried).fit(treated, Epochs(Data(RECIPE)), ckpt_path=tmp_path / "plain.ckpt")


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def test_a_host_may_keep_its_own_optimizer(tmp_path):
    """Which here is the recipe's, so that the weights must be those of the engine."""
    from assay.integrations.lightning import Methods

    methods = [LabelSmoothing(), Drift()]
    wanted = by_engine(methods, STEADY).model.state_dict()

    session = Session(start(), [Noise(), *methods], F.cross_entropy, traits=TRAITS, seed=SEED)
    session.begin(optimizer=plain_sgd(session.model))
    for batch in Epochs(Data(STEADY)).batches:
        session.step(batch)
    assert same(session.model.state_dict(), wanted)

    module = lightning_module()
    carried = Methods(module, [Noise(), *methods], loss="loss", traits=TRAITS, seed=SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        lightning_trainer(carried).fit(module, Epochs(Data(STEADY)))
    assert same(module.model.state_dict(), wanted)

    model = start()
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer := plain_sgd(model), lambda step: 1.0)
    trainer = transformers_trainer(methods, None, str(tmp_path), model=model, optimizers=(optimizer, constant))
    trainer.train()
    assert same(trainer.model.state_dict(), wanted)


def test_where_gradients_add_up_methods_see_each_batch_and_each_update(tmp_path):
    from assay.integrations.lightning import Methods

    module = lightning_module()
    carried = Methods(module, [Calls()], RECIPE, traits=TRAITS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        lightning_trainer(carried, accumulate_grad_batches=2, max_steps=6).fit(module, Epochs(Data(RECIPE)))
    trainer = transformers_trainer([Calls()], RECIPE, str(tmp_path), gradient_accumulation_steps=2, max_steps=6)
    trainer.train()
    for session in (carried.session, trainer.session):
        calls = session.methods[-1]
        # epochs of five batches: two, two, and one that is left
        assert (calls.batches, calls.gradient_calls, calls.update_calls) == (10, 6, 6)
        assert (session.steps, session.samples, session.epochs) == (6, 10 * SIZE, 2.0)


def test_validation_has_the_plain_loss():
    from assay.integrations.lightning import Methods

    module = lightning_module()
    methods = Methods(module, [LabelSmoothing(0.5)], RECIPE, loss="loss", traits=TRAITS)
    x, y, _ = Epochs(Data(RECIPE)).batches[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning_trainer(methods, max_steps=1)
        trainer.fit(module, *[DataLoader([(x, y)], batch_size=None)] * 2)
    outputs, loss = module.validated[-1]
    assert torch.equal(loss, F.cross_entropy(outputs, y))


def test_hugging_face_evaluates_by_the_plain_loss(tmp_path):
    data = Tiny().splits(0).valid
    rows = [{"x": x, "labels": y} for x, y in zip(data.x, data.y, strict=True)]
    trainer = transformers_trainer([LabelSmoothing(0.5)], RECIPE, str(tmp_path), remove_unused_columns=False)
    said = trainer.predict(rows)
    wanted = F.cross_entropy(torch.from_numpy(said.predictions), data.y)
    assert said.metrics["test_loss"] == pytest.approx(wanted.item(), rel=1e-6)


def test_samples_keep_their_ids_and_get_new_numbers_where_they_have_none():
    data = Data(RECIPE)
    for ids in (True, False):
        session = Session(Network(), [Calls()], F.cross_entropy, RECIPE, ids=ids)
        session.begin(total_steps=STEPS)
        for batch in Epochs(data).batches:
            session.step(batch if ids else batch[:2])
        seen = torch.cat(session.methods[0].ids)
        wanted = torch.stack([row[2] for row in data.rows]) if ids else torch.arange(len(data))
        assert torch.equal(seen, wanted)


@pytest.mark.parametrize(
    "raw",
    [
        (torch.zeros(2, 3), torch.ones(2)),
        [torch.zeros(2, 3), torch.ones(2), torch.tensor([5, 6])],
        {"x": torch.zeros(2, 3), "labels": torch.ones(2)},
        {"x": torch.zeros(2, 3), "mask": torch.ones(2, 3), "labels": torch.ones(2), "ids": torch.tensor([5, 6])},
    ],
)
def test_a_batch_comes_back_in_the_hosts_form(raw):
    batch, back = batches.read(raw, 7)
    assert batch.ids.tolist() == ([5, 6] if len(raw) == 4 or isinstance(raw, list) else [7, 8])
    assert set(batch.x) == {"x", "mask"} if len(raw) == 4 else torch.equal(batch.x, torch.zeros(2, 3))
    again = back(batch._replace(y=batch.y + 1))
    assert type(again) is type(raw)
    assert len(again) == len(raw)
    assert torch.equal(again["labels"] if isinstance(raw, dict) else again[1], torch.full((2,), 2.0))


def test_what_a_method_puts_into_evaluation_mode_stays_there(tmp_path):
    class Frozen(Method):
        name = "frozen"

        def setup(self, run):
            run.model.features[1].eval()

    wanted = by_engine([Frozen()], RECIPE).model.state_dict()
    assert torch.equal(wanted["features.1.running_mean"], torch.zeros(4))
    trainer = transformers_trainer([Frozen()], RECIPE, str(tmp_path))
    trainer.train()
    assert same(trainer.model.state_dict(), wanted)


def test_importing_assay_imports_neither_host():
    code = "import sys, assay.integrations; sys.exit(any(m in sys.modules for m in ('lightning', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
