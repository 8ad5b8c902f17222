import json
import math

import numpy as np
import pytest
from workloads import Blobs, NoisyGradients

import assay
from assay.engine import Method, Recipe, Record, Run, record
from assay.engine.record import code_version, file_digest, own_code, run_key

BASE = {"seed": 0, "budget": "5steps", "vary": ("init", "order"), "evaluations": 3, "test": True}


def key(task=None, recipe=None, **changes) -> str:
    return Run(task or Blobs(), recipe or Recipe(), **(BASE | changes)).key


def test_a_record_survives_json():
    run = Run(Blobs(), budget="5steps")
    found = run.train()
    again = Record.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)), found.outcomes)
    assert again.to_json() == found.to_json()
    assert again.outcomes.keys() == {"valid/accuracy", "valid/loss", "test/accuracy", "test/loss"}
    assert all(values.dtype == np.float32 and values.shape == (80,) for values in again.outcomes.values())


def test_figures_are_means_of_the_outcomes():
    found = Run(Blobs(), budget="5steps").train()
    for part in ("valid", "test"):
        for name, figure in found.metrics[part].items():
            assert figure == pytest.approx(found.outcomes[f"{part}/{name}"].astype(np.float64).mean(), rel=1e-12)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"budget": "6steps"},
        {"budget": "5samples"},
        {"vary": ("init",)},
        {"evaluations": 4},
        {"test": False},
        {"task": Blobs(hidden=8)},
        {"recipe": Recipe(lr=0.2)},
        {"recipe": Recipe(methods=(NoisyGradients(),))},
        {"recipe": Recipe(methods=(NoisyGradients(0.02),))},
    ],
    ids=" ".join,  # the names of what changed
)
def test_the_key_changes_with_each_ingredient(changed):
    assert key(**changed) != key()


def test_every_ingredient_has_its_own_key():
    recipes = [Recipe(), *(Recipe(methods=(NoisyGradients(s),)) for s in (0.01, 0.02))]
    assert len({key(recipe=recipe, seed=seed) for recipe in recipes for seed in range(3)}) == 9


def test_the_key_changes_with_nothing_else(tmp_path):
    assert key() == key(folder=tmp_path, checkpoint_every=1.0, watch=print)
    assert key() == key(budget="5 steps", vary=["order", "init", "init"])
    assert key(accelerator="auto") == key(accelerator="cpu")  # there is no other device where tests run


def test_the_key_changes_with_the_code(monkeypatch):
    before = key()
    monkeypatch.setattr("assay.engine.run.code_version", lambda: code_version() | {"digest": "0" * 16})
    assert key() != before


def test_the_code_digest_sees_what_can_change_figures_and_nothing_else(tmp_path, monkeypatch):
    def digest(files):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        monkeypatch.setattr(assay, "__file__", str(root / "__init__.py"))
        code_version.cache_clear()
        try:
            return code_version()["digest"]
        finally:
            code_version.cache_clear()

    base = {
        "__init__.py": "",
        "losses/a.py": "1",
        "trials/t.py": "1",
        "papers/p.py": "1",
        "cli/a.py": "1",
        "claims/c.py": "1",
    }
    assert digest(base) == digest(base)
    assert digest(base | {"losses/a.py": "2"}) != digest(base)
    assert digest(base | {"losses/b.py": "1"}) != digest(base)
    for outside in ("trials/t.py", "papers/p.py", "cli/a.py", "claims/c.py"):
        assert digest(base | {outside: "2"}) == digest(base)


def test_a_users_task_and_methods_are_known_by_their_file():
    code = Run(Blobs(), Recipe(methods=(NoisyGradients(),)), budget="1step").identity()["code"]
    theirs = file_digest(Blobs.splits.__code__.co_filename)
    assert code["task"] == code["method noisy-gradients"] == theirs
    assert own_code(record.Record({}, {}, 0, [], "")) == ""


def test_a_task_may_name_its_own_source():
    task = Blobs()
    task.source = "feed"
    assert Run(task, budget="1step").identity()["code"]["task"] == "feed"


def test_the_address_is_of_the_content_and_not_of_its_order():
    assert run_key({"a": 1, "b": [2.5, None]}) == run_key({"b": [2.5, None], "a": 1})
    assert len(run_key({})) == 40
    with pytest.raises(ValueError, match="JSON"):
        run_key({"a": float("nan")})


def test_peak_memory_sees_what_a_step_holds():
    import torch
    from workloads import Ones

    def hungry(run, batch):
        held = torch.ones(40_000_000)  # 160 MB, touched
        return run.objective(batch) + 0 * held.sum()

    lean, fat = (Run(Ones(step), budget="3steps").train().peak_memory for step in (None, hungry))
    assert 100e6 < fat - lean < 250e6
    assert lean > 50e6


def test_a_traced_figure_takes_room_where_it_changes_alone():
    class Traced(Method):
        name = "traced"

        def updated(self, run):
            run.trace("thirds", run.steps // 3)
            run.trace("odd", math.nan if run.steps == 2 else 5)

    found = Run(Blobs(), Recipe().with_methods([Traced()]), budget="8steps").train()
    assert found.series == {"thirds": [[0, 0.0], [3, 1.0], [6, 2.0]], "odd": [[0, 5.0], [3, 5.0]]}
    assert Record.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))).series == found.series
    assert Run(Blobs(), budget="2steps").train().series == {}
