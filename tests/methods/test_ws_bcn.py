import pytest
import torch
from torch import nn

from assay.engine import Run
from assay.errors import AssayError, CannotTreat, UnknownName
from assay.methods.ghost_batch_norm import GhostBatchNorm
from assay.methods.weight_standardization import WeightStandardization
from assay.nn.batch_channel_norm import BatchChannelNorm, EstimatedBatchNorm
from assay.nn.weight_standardization import WeightStandardizedConv2d
from assay.tasks.digits import Digits


def run(*methods, model="cnn", batch_size=2, budget="3steps", **settings):
    task = Digits(model=model)
    recipe = task.recipe.with_settings({"batch_size": batch_size}).with_methods(methods)
    return Run(task, recipe, budget=budget, evaluations=0, test=False, **settings)


def layers(made):
    return [type(layer) for layer in made.model.features if not isinstance(layer, nn.ReLU)]


@pytest.mark.parametrize(
    ("settings", "convolution", "norm", "batch_part"),
    [
        ({}, WeightStandardizedConv2d, BatchChannelNorm, nn.BatchNorm2d),
        ({"norm": "bcn-estimate"}, WeightStandardizedConv2d, BatchChannelNorm, EstimatedBatchNorm),
        ({"norm": "gn"}, WeightStandardizedConv2d, nn.GroupNorm, None),
        ({"norm": "keep"}, WeightStandardizedConv2d, nn.BatchNorm2d, None),
        ({"norm": "gn", "ws": False}, nn.Conv2d, nn.GroupNorm, None),
        ({"norm": "bcn", "ws": False}, nn.Conv2d, BatchChannelNorm, nn.BatchNorm2d),
    ],
)
def test_each_setting_exchanges_its_layers_and_trains_all_of_them(settings, convolution, norm, batch_part):
    made = run(WeightStandardization(**settings))
    made.build()
    before = [p.detach().clone() for p in made.model.parameters()]
    assert layers(made) == [convolution, norm] * 2
    assert type(made.model.readout) is nn.Linear
    if batch_part:
        assert type(made.model.features[1].batch_norm) is batch_part
    assert made.train().status == "finished"
    assert all(not torch.equal(p, q) for p, q in zip(made.model.parameters(), before, strict=True))


def test_the_settings_reach_the_layers():
    made = run(WeightStandardization(norm="bcn-estimate", num_groups=4, update_rate=0.3))
    made.build()
    assert made.model.features[1].channel_norm.num_groups == 4
    assert made.model.features[1].batch_norm.momentum == 0.3


def test_arms_begin_with_the_same_weights():
    plain, treated = run(), run(WeightStandardization())
    plain.build()
    treated.build()
    assert torch.equal(plain.model.features[0].weight, treated.model.features[0].weight)


def test_single_images_train_by_estimates():
    made = run(WeightStandardization(norm="bcn-estimate"), model="cnn6", batch_size=1)
    assert made.train().status == "finished"


def test_what_it_cannot_treat_is_refused():
    with pytest.raises(CannotTreat, match="changes nothing with ws=false and norm=keep"):
        run(WeightStandardization(ws=False, norm="keep"))
    with pytest.raises(CannotTreat, match="cannot treat task 'digits': model must hold a convolution before"):
        run(WeightStandardization(), model="mlp").build()
    with pytest.raises(CannotTreat, match=r"layer 'features\.1': num_groups must divide the 32 channels, got 5"):
        run(WeightStandardization(num_groups=5)).build()
    with pytest.raises(AssayError, match="num_groups must be positive, got 0"):
        WeightStandardization(num_groups=0)
    with pytest.raises(AssayError, match=r"update_rate must lie in \[0, 1\], got 2"):
        WeightStandardization(update_rate=2.0)
    with pytest.raises((UnknownName, TypeError), match="norm"):  # the checks of types may come first
        WeightStandardization(norm="bcm")


def test_it_works_with_ghost_batch_norm_before_it():
    methods = [GhostBatchNorm(ghost_batch_size=4), WeightStandardization()]
    assert run(*methods, batch_size=16).train().status == "finished"


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    method = WeightStandardization(norm="bcn-estimate")
    whole = run(method)
    whole.train()
    first = run(method, folder=tmp_path, checkpoint_every=0.0)
    first.train()
    newest = max(tmp_path.iterdir())
    newest.unlink()  # back to the checkpoint of the step before the last
    again = run(method, folder=tmp_path)
    again.train()
    for (name, a), b in zip(again.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
