"""Every method there is, each in each host: carried to the end, or refused by its name before anything is trained."""

import warnings

import pytest
import torch
from hosts import HOSTS, SIZE, TRAITS, Data, Epochs, Network, lightning_module, lightning_trainer, transformers_trainer
from torch.nn import functional as F

from assay.engine import Recipe
from assay.errors import CannotTreat
from assay.integrations import Session
from assay.papers import make_method, methods

pytest.importorskip("lightning")
pytest.importorskip("transformers")

RECIPE = Recipe(lr=0.05, batch_size=SIZE)
OPTIONS = {"ghost-batchnorm": "ghost_batch_size=4", "ws-bcn": "num_groups=2"}  # what so small a problem needs
AT_FIRST_STEP = {"wta-crs"}  # they refuse what a network is given, which shows only then


def loop(method, folder):
    session = Session(Network(), [method], F.cross_entropy, RECIPE, traits=TRAITS)
    session.begin(total_steps=5, steps_per_epoch=5)

    def train():
        for batch in Epochs(Data(RECIPE)):
            session.step(batch[:2])
        session.finish()
        return session

    return train


def lightning(method, folder):
    from assay.integrations.lightning import Methods

    module = lightning_module()
    carried = Methods(module, [method], RECIPE, loss="loss", traits=TRAITS)

    def train():
        lightning_trainer(carried, max_epochs=1, inference_mode=False).fit(module, Epochs(Data(RECIPE)))
        return carried.session

    return train


def transformers(method, folder):
    trainer = transformers_trainer([method], RECIPE, str(folder), max_steps=5)

    def train():
        trainer.train()
        return trainer.session

    return train


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", methods())
def test_a_method_that_is_not_refused_by_name_is_carried_to_the_end(name, host, tmp_path):
    put = {"loop": loop, "lightning": lightning, "transformers": transformers}[host]
    method = make_method(f"{name}:{OPTIONS[name]}" if name in OPTIONS else name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = ""
        try:
            train = put(method, tmp_path)
            if name in AT_FIRST_STEP:
                train()
        except CannotTreat as refused:
            said = str(refused)
        if said:
            assert f"'{method.name}'" in said
            return
        session = train()
        session.begin_evaluation()
        session.model.eval()
        assert session.model(torch.randn(SIZE, 1, 4, 4)).isfinite().all()
        assert session.steps == 5


def test_not_all_are_refused():
    carried = []
    for name in methods():
        try:
            loop(make_method(f"{name}:{OPTIONS[name]}" if name in OPTIONS else name), None)
        except CannotTreat:
            continue
        carried.append(name)
    assert {"alpha-bn", "bn-only", "cosine", "cutmix", "label-smoothing", "lamb", "layernorm"} <= set(carried)
    assert {"ghost-batchnorm", "multi-sample-dropout", "weight-distance", "ws-bcn"} <= set(carried)
