import pytest
import torch
from torch import nn

from assay.engine import Run
from assay.errors import AssayError, CannotTreat
from assay.methods.layer_norm import LayerNorm
from assay.nn.layer_norm_rnn import LayerNormGRU, LayerNormLSTM
from assay.tasks import load


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"the quick brown fox jumps over the lazy dog; " * 100)
    return file


def run_of(spec, *methods, **given):
    task = load(spec, **given)
    return Run(task, task.recipe.with_methods(methods), seed=3, budget="3steps", evaluations=0)


def built(*args, **given):
    run = run_of(*args, **given)
    run.build()
    return run


@pytest.mark.parametrize(("model", "kind"), [("lstm", LayerNormLSTM), ("gru", LayerNormGRU)])
def test_a_recurrent_network_starts_from_the_baselines_matrices_and_trains_every_parameter(path, model, kind):
    spec = f"text:model={model},context=16,width=16"
    treated, plain = built(spec, LayerNorm(), path=str(path)), built(spec, path=str(path))
    assert isinstance(treated.model.layers, kind)
    assert torch.equal(treated.model.layers.cells[0].weight_hh, plain.model.layers.weight_hh_l0)
    assert torch.equal(treated.model.readout.weight, plain.model.readout.weight)
    trained = {id(p) for group in treated.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in treated.model.parameters()}
    assert run_of(spec, LayerNorm(), path=str(path)).train().status == "finished"


def test_it_costs_an_lstm_no_more_flops(path):
    """The products are the same; torch's counter takes no account of the rest."""
    costs = [
        run_of("text:model=lstm,context=16,width=16", *methods, path=str(path)).train().flops
        for methods in ((), (LayerNorm(),))
    ]
    assert costs[0] == costs[1] > 0


def test_the_reference_reaches_the_cells(path):
    run = built("text:model=lstm,context=16,width=16", LayerNorm(reference="lua"), path=str(path))
    assert run.model.layers.cells[0].reference == "lua"


def test_batch_norm_is_replaced_and_hidden_layers_get_their_norm():
    run = built("digits", LayerNorm())
    kinds = [type(m) for m in run.model.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == 2
    run = built("digits:model=mlp", LayerNorm())
    assert sum(isinstance(m, nn.LayerNorm) for m in run.model.modules()) == 2
    run = built("digits:model=mlp", LayerNorm(treat="hidden"))
    assert run.train().status == "finished"


def test_what_it_cannot_change_is_refused_and_why_is_said(path):
    text = {"path": str(path)}
    has = "nor has it recurrent layers or BatchNorm; it has layer normalisation already"
    with pytest.raises(CannotTreat, match=f"task 'text': .* got Transformer without one; {has}"):
        built("text:context=16,width=16", LayerNorm(), **text)
    with pytest.raises(CannotTreat, match="must hold a BatchNorm layer to replace"):
        built("digits:model=mlp", LayerNorm(treat="batchnorm"))
    with pytest.raises(CannotTreat, match="must hold a recurrent layer"):
        built("digits", LayerNorm(treat="recurrent"))
    with pytest.raises(CannotTreat, match="reference=lua is about recurrent layers"):
        built("digits", LayerNorm(reference="lua"))
    with pytest.raises(CannotTreat, match="reference must be paper or theano for a GRU"):
        built("text:model=gru,context=16,width=16", LayerNorm(reference="lua"), **text)
    for setting in ("treat", "reference"):
        with pytest.raises((AssayError, TypeError), match=setting):  # TypeError where the tests check types
            LayerNorm(**{setting: "rnn"})
