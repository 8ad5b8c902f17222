import pytest
import torch

from assay.engine import Run
from assay.errors import AssayError, CannotTreat
from assay.integrations import Session
from assay.methods.wta_crs import WTACRS
from assay.models.transformer import Transformer
from assay.nn.wta_crs import WTACRSLinear
from assay.papers import make_method
from assay.tasks import load

SPEC = "text:context=16,width=16,depth=1,heads=2,train_size=32"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"the quick brown fox jumps over the lazy dog; " * 100)
    return str(file)


def run_of(*methods, path=None, spec=SPEC, budget="5steps", **given):
    task = load(spec, path=path) if path else load(spec)
    return Run(task, task.recipe.with_methods(methods), seed=3, budget=budget, evaluations=0, test=False, **given)


def weights(run):
    return [p.detach() for p in run.model.parameters()]


def test_a_text_is_learnt_with_fewer_activations(path):
    exact, sampled = (run_of(WTACRS(ratio), path=path) for ratio in (1.0, 0.1))
    kept = []
    for run in (exact, sampled):
        record = run.train()
        assert record.status == "finished"
        kept.append(record.extras["saved_activation_bytes"])
    assert kept[1] < kept[0]
    assert sum(isinstance(layer, WTACRSLinear) for layer in sampled.model.modules()) == 5


def test_all_rows_train_to_the_weights_of_the_plain_run(path):
    runs = [run_of(*methods, path=path) for methods in ((WTACRS(1.0),), (), (WTACRS(0.3),))]
    for run in runs:
        run.train()
    for all_rows, plain in zip(weights(runs[0]), weights(runs[1]), strict=True):
        assert torch.equal(all_rows, plain)
    assert not torch.equal(weights(runs[2])[0], weights(runs[1])[0])


def test_the_norms_of_an_epoch_are_known_in_the_next(path):
    run = run_of(WTACRS(), path=path, budget="1epochs")
    run.train()
    tables = run.methods[0].state_dict()
    assert set(tables) == {n for n, layer in run.model.named_modules() if isinstance(layer, WTACRSLinear)}
    for table in tables.values():
        assert table.shape == (32, 16)
        assert table.isfinite().all()
    run = run_of(WTACRS(cache=False), path=path)
    run.train()
    assert run.methods[0].state_dict() == {}


def test_a_stopped_run_goes_on_to_the_same_bits(path, tmp_path):
    whole, folder = run_of(WTACRS(), path=path), tmp_path / "run"
    record = whole.train()
    run_of(WTACRS(), path=path, folder=folder, checkpoint_every=0.0).train()
    max(folder.iterdir()).unlink()  # back to the checkpoint of the step before the last
    again = run_of(WTACRS(), path=path, folder=folder, checkpoint_every=0.0)
    assert again.train().extras == record.extras
    for mine, other in zip(weights(again), weights(whole), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("spec", ["digits:model=mlp", "digits"])
def test_a_network_whose_rows_are_samples_is_refused(spec):
    with pytest.raises(CannotTreat, match=r"'wta-crs' cannot treat task 'digits': .* no linear layer on token rows"):
        run_of(WTACRS(), spec=spec).train()


def test_a_network_without_linear_layers_is_refused():
    network = torch.nn.Sequential(torch.nn.Conv1d(3, 2, 1))
    with pytest.raises(CannotTreat, match="must hold a linear layer, got Sequential without one"):
        Session(network, [WTACRS()], torch.nn.functional.mse_loss, ids=True)


def test_a_loop_of_any_make_carries_it_if_it_tells_the_ids():
    def model():
        torch.manual_seed(0)
        return Transformer(vocabulary=7, context=12, width=8, depth=1, heads=2)

    def loss(outputs, targets, reduction="mean"):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction=reduction)

    with pytest.raises(CannotTreat, match="'wta-crs' needs the ids of samples"):
        Session(model(), [WTACRS()], loss)
    session = Session(model(), [WTACRS(min_rows=2)], loss, ids=True)
    session.begin(optimizer=torch.optim.SGD(session.trained(), lr=0.1))
    tokens = torch.randint(7, (4, 12), generator=torch.Generator().manual_seed(1))
    losses = [session.step((tokens, tokens, torch.arange(4))).item() for _ in range(20)]
    assert losses[-1] < losses[0]


def test_options_are_those_of_the_command_line_and_out_of_range_refused():
    assert make_method("wta-crs:ratio=0.1,estimator=crs,cache=False") == WTACRS(0.1, "crs", cache=False)
    for text, says in (
        ("ratio=0", r"ratio must lie in \(0, 1\], got 0"),
        ("min_rows=0", "min_rows must be positive, got 0"),
        ("estimator=best", "estimator"),
    ):
        with pytest.raises(AssayError, match=says):
            make_method(f"wta-crs:{text}")


def test_several_devices_are_refused():
    with pytest.raises(CannotTreat, match="'wta-crs' is not tested on several devices"):
        run_of(WTACRS(), devices=2)
