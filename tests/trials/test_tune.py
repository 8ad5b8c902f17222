"""Every arm is tuned as much, on the validation split alone, and the same whatever does the runs."""

import math
from dataclasses import replace
from functools import partial

import pytest
from tiny import NoTest, Scale, Tiny, Twice

from assay.engine import Metric, Recipe, Record
from assay.errors import AssayError, Interrupted, UnknownName
from assay.methods.cutmix import CutMix
from assay.trials import Arm, SerialExecutor, trial
from assay.trials.tune import tune, tuning_seeds, with_settings

compare = partial(trial.compare, evaluations=1)
ACCURACY = Metric("accuracy", "max", 0.0)


def landscape(recipe: Recipe) -> Record:
    """A figure that is best at lr = 0.3, and a divergence above 3."""
    record = Record({"name": "fake"}, recipe.describe(), 0, [], "1steps")
    if recipe.lr > 3:
        return replace(record, status="diverged")
    return replace(record, metrics={"valid": {"accuracy": 1 - abs(math.log10(recipe.lr / 0.3))}})


def search(spaces, recipes=None, trials=8, metric=ACCURACY, rounds=None):
    def run(asked):
        if rounds is not None:
            rounds.append(len(asked))
        return [landscape(recipe) for _, recipe, _ in asked]

    return tune(recipes or {"base": Recipe()}, spaces, trials=trials, metric=metric, seeds=[7], run=run)


def settings(found, arm="base"):
    return [trial["settings"] for trial in found[arm].history["trials"]]


def test_lists_are_tried_in_all_combinations_and_the_best_is_chosen():
    found = search({"lr": [0.03, 0.3, 30.0], "momentum": [0.0, 0.9]})
    assert len(settings(found)) == 7
    assert settings(found)[0] == {"lr": 0.1, "momentum": 0.9}
    assert found["base"].history["chosen"] == {"lr": 0.3, "momentum": 0.0}, "ties go to the first"
    assert found["base"].recipe == Recipe(lr=0.3, momentum=0.0)
    diverged = [t for t in found["base"].history["trials"] if t["status"] == "diverged"]
    assert {(t["settings"]["lr"], t["value"]) for t in diverged} == {(30.0, 0.0)}


def test_the_least_is_best_where_the_metric_is_to_be_minimised():
    found = search({"lr": [0.03, 0.3]}, metric=Metric("accuracy", "min", 9.0))
    assert found["base"].history["chosen"] == {"lr": 0.03}


def test_arms_with_other_defaults_are_tried_on_the_same_grid():
    found = search({"lr": [0.03, 0.3]}, {"a": Recipe(lr=0.1), "b": Recipe(lr=0.5)})
    assert settings(found, "a")[0] == {"lr": 0.1}
    assert settings(found, "b")[0] == {"lr": 0.5}
    assert sorted(s["lr"] for s in settings(found, "a")) == sorted(s["lr"] for s in settings(found, "b"))


@pytest.mark.parametrize("space", [None, (0.01, 1.0)])
def test_a_search_begins_with_the_recipe_and_finds_better(space):
    rounds = []
    found = search({"lr": space}, {"a": Recipe(), "b": Recipe()}, trials=11, rounds=rounds)
    assert rounds == [8, 8, 6], "rounds of four an arm, however many workers there are"
    assert settings(found, "a") == settings(found, "b")
    assert settings(found, "a")[0] == {"lr": 0.1}
    assert all(0.01 <= s["lr"] <= 1.0 for s in settings(found, "a"))
    values = [trial["value"] for trial in found["a"].history["trials"]]
    assert landscape(found["a"].recipe).metrics["valid"]["accuracy"] == max(values) > values[0]
    assert settings(search({"lr": space}, trials=11)) == settings(found, "a")


def test_a_recipe_outside_the_range_is_still_the_first_tried():
    found = search({"lr": (1e-4, 1e-2)}, trials=5)
    assert settings(found)[0] == {"lr": 0.1}
    assert all(s["lr"] <= 1e-2 for s in settings(found)[1:])
    assert len(settings(found)) == 5


def test_lists_and_ranges_mix_and_whole_numbers_stay_whole():
    found = search({"lr": (0.01, 1.0), "momentum": [0.0, 0.9], "batch_size": None, "weight_decay": None}, trials=9)
    assert {s["momentum"] for s in settings(found)} <= {0.0, 0.9}
    assert {s["batch_size"] for s in settings(found)} <= {16, 32, 64, 128, 256}
    assert all(isinstance(s["batch_size"], int) for s in settings(found))
    whole = search({"batch_size": (8, 512)}, trials=6)
    assert all(isinstance(s["batch_size"], int) and 8 <= s["batch_size"] <= 512 for s in settings(whole))


def test_a_methods_setting_is_tuned_in_the_arms_that_have_it():
    recipes = {"base": Recipe(), "scale": Recipe().with_methods([Scale(1.0)])}
    found = search({"scale.factor": [0.5, 2.0], "lr": [0.3]}, recipes)
    assert settings(found, "base") == [{"lr": 0.1}, {"lr": 0.3}]
    assert len(settings(found, "scale")) == 3
    chosen = found["scale"].recipe
    assert (chosen.lr, chosen.methods) == (0.3, (Scale(0.5),))
    alone = search({"scale.factor": [0.5]}, recipes)
    assert alone["base"].history["trials"] == []
    assert alone["base"].recipe == recipes["base"]


@pytest.mark.parametrize(
    ("spaces", "says"),
    [
        ({"lrr": None}, "unknown setting to tune 'lrr'; did you mean 'lr'"),
        ({"scale.factor": None}, "unknown setting to tune"),
        ({"lr": []}, "at least one value"),
        ({"lr": (1.0, 0.1)}, r"range of lr must be \(low, high\)"),
        ({"lr": (0.1, 0.2, 0.3)}, r"range of lr must be \(low, high\)"),
        ({"lr": (-0.1, 0.2)}, "lr must be positive"),
        ({"lr": ["fast"]}, "lr must be a number"),
        ({"precision": None}, "no ordinary space for precision"),
        ({"schedule": ("constant", "cosine")}, "range of schedule"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(spaces, says):
    with pytest.raises(AssayError, match=says):
        search(spaces)


def test_a_task_without_validation_figures_cannot_be_tuned():
    with pytest.raises(AssayError, match="'fake' has no validation figure of 'f1'"):
        search({"lr": [0.3]}, metric=Metric("f1", "max", 0.0))


def test_no_run_of_the_trial_has_the_seed_of_tuning():
    assert tuning_seeds([0, 1]) == tuning_seeds(range(100)) == [1000003]
    assert tuning_seeds([1000003, 1000005], 3) == [1000004, 1000006, 1000007]
    with pytest.raises(AssayError, match="tune_seeds must be at least 1, got 0"):
        tuning_seeds([0], 0)


def test_a_setting_is_judged_by_the_mean_of_its_seeds():
    luck = {(0.03, 1): 0.9, (0.03, 2): 0.1, (0.3, 1): 0.6, (0.3, 2): 0.6}

    def run(asked):
        return [
            replace(landscape(recipe), metrics={"valid": {"accuracy": luck[recipe.lr, seed]}})
            for _, recipe, seed in asked
        ]

    def chosen(seeds):
        found = tune({"base": Recipe(lr=0.03)}, {"lr": [0.3]}, trials=8, metric=ACCURACY, seeds=seeds, run=run)
        return found["base"].history

    assert chosen([1])["chosen"] == {"lr": 0.03}
    both = chosen([1, 2])
    assert (both["chosen"], both["seeds"]) == ({"lr": 0.3}, [1, 2])
    assert [(t["values"], t["value"]) for t in both["trials"]] == [([0.9, 0.1], 0.5), ([0.6, 0.6], 0.6)]


def test_a_setting_that_diverges_from_one_seed_is_known_to():
    def run(asked):
        return [replace(landscape(recipe), status="diverged" if seed == 2 else "finished") for _, recipe, seed in asked]

    history = tune({"base": Recipe(lr=0.3)}, {"lr": [0.3]}, trials=8, metric=ACCURACY, seeds=[1, 2], run=run)[
        "base"
    ].history
    assert [(t["status"], t["values"]) for t in history["trials"]] == [("diverged", [1.0, 0.0])]


class Recording(SerialExecutor):
    """Keeps its jobs, and is interrupted before the run number `stop`."""

    def __init__(self, stop=None):
        self.jobs, self.stop = [], stop

    def run(self, jobs, **kwargs):
        for job in jobs:
            if len(self.jobs) == self.stop:
                raise Interrupted("stopped")
            self.jobs.append(job)
            super().run([job], **kwargs)


def arms():
    recipe = Tiny().recipe
    return [Arm("base", recipe), Arm("twice", recipe.with_methods([Twice()]))]


def test_a_tuned_trial_uses_what_was_chosen_and_its_control_inherits_it():
    executor = Recording()
    result = compare(Tiny(), arms(), seeds=2, tune={"lr": (0.001, 1.0)}, tune_trials=5, executor=executor)
    tuning = [job for job in executor.jobs if job.label.startswith("tuning")]
    assert [job.label for job in tuning].count("tuning base") == 5
    assert [job.label for job in tuning].count("tuning twice") == 5
    assert {(job.seed, job.test) for job in tuning} == {(1000003, False)}
    base, twice, control = result.arms
    assert base.recipe["lr"] == base.tuned["chosen"]["lr"] == control.recipe["lr"]
    assert (len(base.tuned["trials"]), len(twice.tuned["trials"]), control.tuned) == (5, 5, None)
    best = max(base.tuned["trials"], key=lambda trial: trial["value"])
    assert base.recipe["lr"] == best["settings"]["lr"]


def test_every_setting_is_run_from_every_tuning_seed():
    executor = Recording()
    result = compare(Tiny(), arms(), seeds=1, tune={"lr": [0.01, 0.1]}, tune_seeds=3, executor=executor)
    ran = [(job.recipe.lr, job.seed) for job in executor.jobs if job.label == "tuning base"]
    assert sorted(ran) == [(lr, seed) for lr in (0.01, 0.1) for seed in (1000003, 1000004, 1000005)]
    assert all(len(set(trial["values"])) > 1 for trial in result.arms[0].tuned["trials"]), "the seeds differ"


def test_tuning_never_reads_the_test_split():
    executor = Recording()
    with pytest.raises(AssayError, match="the test split was read"):
        compare(NoTest(), arms(), seeds=1, tune={"lr": [0.01, 0.1]}, executor=executor)
    assert [job.label for job in executor.jobs] == ["tuning base"] * 2 + ["tuning twice"] * 2 + ["base, seed 0"]


@pytest.mark.parametrize("stop", [1, 6, 11])
def test_stopped_anywhere_tuning_goes_on_and_chooses_the_same(tmp_path, stop):
    options = {"seeds": 1, "tune": {"lr": (0.001, 1.0)}, "tune_trials": 5}
    whole = compare(Tiny(), arms(), executor=Recording(), **options)
    first, second = Recording(stop), Recording()
    with pytest.raises(Interrupted):
        compare(Tiny(), arms(), store=tmp_path / "s.sqlite", executor=first, **options)
    result = compare(Tiny(), arms(), store=tmp_path / "s.sqlite", executor=second, **options)
    done = [job.key for job in first.jobs + second.jobs]
    assert len(done) == len(set(done)) == 13
    assert [arm.tuned for arm in result.arms] == [arm.tuned for arm in whole.arms]
    assert result.comparisons == whole.comparisons


def test_an_unknown_setting_names_the_methods_settings_too():
    with pytest.raises(UnknownName, match=r"did you mean 'scale\.factor'"):
        search({"scale.factr": None}, {"scale": Recipe().with_methods([Scale()])})


def test_settings_of_methods_given_as_text_are_read_as_their_types():
    recipe = Recipe().with_methods([CutMix()])
    (method,) = with_settings(recipe, {"cutmix.prob": "0.25", "cutmix.mode": "mixup"}).methods
    assert (method.prob, method.mode) == (0.25, "mixup")
    with pytest.raises(AssayError, match=r"cutmix.prob must be a number, got 'often'"):
        with_settings(recipe, {"cutmix.prob": "often"})
