import copy

import pytest
import torch
from torch import nn

from assay.engine import Recipe, Run, Splits
from assay.errors import CannotTreat, UnknownName
from assay.methods.calibration import Calibration
from assay.metrics.calibration.bins import expected_calibration_error
from assay.nn.logit_scaling import TemperatureScaling
from assay.papers import make_method
from assay.tasks import load

HOWS = ["temperature", "temperature-ece", "vector", "matrix", "isotonic", "histogram"]


def trained(*methods, spec="digits:model=mlp", budget="2epochs", **settings):
    task = load(spec)
    run = Run(task, task.recipe.with_settings(settings).with_methods(methods), budget=budget, evaluations=2)
    record = run.train()
    assert record.status == "finished"
    return run, record


@pytest.fixture(scope="module")
def plain():
    return trained()


def logits_of(run, part):
    x, y = part.batch(torch.arange(len(part)))
    with torch.no_grad():
        return run.model.eval()(x), y


@pytest.mark.parametrize("how", HOWS)
def test_training_is_that_of_the_network_alone_and_its_logits_are_mapped(how, plain):
    run, record = trained(Calibration(how))
    for name, tensor in plain[0].model.state_dict().items():
        assert torch.equal(run.model[0].state_dict()[name], tensor)
    assert record.curve[0] | {"seconds": 0} == plain[1].curve[0] | {"seconds": 0}
    z, _ = logits_of(plain[0], run.splits.test)
    mapped, y = logits_of(run, run.splits.test)
    torch.testing.assert_close(mapped, run.model[1](z))
    assert record.metrics["test"]["ece"] == pytest.approx(float(expected_calibration_error(mapped, y)), abs=1e-6)
    assert record.metrics["test"]["ece"] != plain[1].metrics["test"]["ece"]


def test_the_temperature_is_fitted_on_validation_data_alone_and_logged(plain):
    record = trained(Calibration())[1]
    want = TemperatureScaling().fit(*logits_of(plain[0], plain[0].splits.valid)).temperature
    assert record.extras["calibration/temperature"] == pytest.approx(float(want), rel=1e-6)
    assert record.outcomes["test/accuracy"].tolist() == plain[1].outcomes["test/accuracy"].tolist()
    assert record.metrics["valid"]["loss"] <= plain[1].metrics["valid"]["loss"] + 1e-6


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("how", ["temperature", "isotonic", "matrix"])
def test_other_precisions(how, precision):
    _, record = trained(Calibration(how), precision=precision, budget="3steps")
    assert record.metrics["test"]["loss"] > 0


def test_it_is_named_by_the_paper_and_told_apart_by_its_map():
    assert make_method("calibration:how=isotonic") == Calibration("isotonic")
    assert Calibration("vector").settings() == {"how": "vector"}
    with pytest.raises(UnknownName, match="did you mean 'temperature'"):
        make_method("calibration:how=temperatur")


def test_tasks_without_classes_or_validation_data_are_refused():
    with pytest.raises(CannotTreat, match="it needs classification"):
        Run(load("text:width=16,depth=1,context=16"), Recipe(methods=(Calibration(),)))
    task = copy.copy(load("digits"))
    whole = task.splits
    task.splits = lambda seed: Splits(whole(seed).train, None, whole(seed).test)
    with pytest.raises(CannotTreat, match="fits on validation data, and task 'digits' has none"):
        Run(task, task.recipe.with_methods([Calibration()]), budget="1steps").train()


def test_a_loop_that_shows_no_data_is_refused():
    from assay.integrations.session import Session

    with pytest.raises(CannotTreat, match="the data sets"):
        Session(nn.Linear(4, 2), [Calibration()], nn.functional.cross_entropy, Recipe(), traits={"classification"})
