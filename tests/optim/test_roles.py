"""Roles of parameters, and the groups made of them."""

import pytest
import torch
from torch import nn

from assay.optim import LAMB, LARS, Role, decay_groups, parameter_roles, role_groups


class OwnRMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class MyBN(nn.BatchNorm1d):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 6, 4))
        self.conv = nn.Conv1d(4, 4, 3)
        self.norms = nn.ModuleList([nn.LayerNorm([4, 6]), nn.GroupNorm(2, 4), MyBN(4), OwnRMSNorm(4)])
        self.scale = nn.Parameter(torch.ones(()))
        self.gru = nn.GRU(4, 4)
        self.head = nn.Linear(4, 10)


def test_every_parameter_has_the_role_of_its_module_and_shape():
    roles = parameter_roles(Net())
    norms = {f"norms.{i}.{name}": "norm" for i in range(3) for name in ("weight", "bias")}
    gru = {
        f"gru.{kind}_{end}_l0": "matrix" if kind == "weight" else "vector"
        for kind in ("weight", "bias")
        for end in ("ih", "hh")
    }
    assert roles == {
        "tokens.weight": "embedding",
        "pos_embed": "matrix",
        "conv.weight": "matrix",
        "conv.bias": "vector",
        **norms,
        "norms.3.weight": "norm",
        "scale": "vector",
        **gru,
        "head.weight": "matrix",
        "head.bias": "vector",
    }
    assert list(roles) == [name for name, _ in Net().named_parameters()]


def test_the_first_pattern_that_matches_overrides():
    roles = parameter_roles(Net(), {"head.bias": "no_decay", "head.*": Role.READOUT, "*pos_embed": "embedding"})
    assert (roles["head.bias"], roles["head.weight"], roles["pos_embed"]) == ("no_decay", "readout", "embedding")


def test_a_pattern_without_a_match_and_an_unknown_role_are_refused():
    with pytest.raises(ValueError, match=r"'haed\.\*' matches no parameter"):
        parameter_roles(Net(), {"haed.*": "readout"})
    with pytest.raises(ValueError, match="'output' is not a valid Role"):
        parameter_roles(Net(), {"head.*": "output"})
    with pytest.raises(ValueError, match="'biases' is not a valid Role"):
        role_groups(Net(), {"biases": {"lr": 1.0}})


def test_tied_weights_count_once_as_the_first():
    net = Net()
    net.head.weight = net.tokens.weight
    assert parameter_roles(net)["tokens.weight"] == "embedding"
    assert "head.weight" not in parameter_roles(net)
    members = [id(p) for group in role_groups(net, {}) for p in group["params"]]
    assert len(members) == len(set(members)) == len(list(net.parameters()))


def test_groups_hold_every_trainable_parameter_once_with_their_settings():
    net = Net()
    net.conv.requires_grad_(False)
    groups = role_groups(net, {"norm": {"weight_decay": 0.0}, "readout": {"lr": 3.0}}, {"head.weight": "readout"})
    by_role = {group["role"]: group for group in groups}
    assert sorted(by_role) == ["embedding", "matrix", "norm", "readout", "vector"]
    assert by_role["norm"]["weight_decay"] == 0.0
    assert by_role["readout"]["lr"] == 3.0
    assert [p is net.head.weight for p in by_role["readout"]["params"]] == [True]
    assert set(by_role["matrix"]) == {"params", "role"}
    members = {p for group in groups for p in group["params"]}
    assert members == {p for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize("optimizer", [LAMB, LARS])
def test_decay_groups_decay_and_adapt_all_but_vectors_and_norms(optimizer):
    net = Net()
    groups = optimizer(decay_groups(net, {"pos_embed": "no_decay"}), lr=0.1, weight_decay=0.3).param_groups
    excluded = {p for group in groups if not group["layer_adaptation"] for p in group["params"]}
    undecayed = {p for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    decayed = {net.tokens.weight, net.conv.weight, net.gru.weight_ih_l0, net.gru.weight_hh_l0, net.head.weight}
    assert excluded == undecayed == set(net.parameters()) - decayed
    assert all(group["weight_decay"] == 0.3 for group in groups if group["layer_adaptation"])


def test_groups_survive_a_checkpoint(tmp_path):
    net = Net()
    torch.save(LAMB(decay_groups(net)).state_dict(), tmp_path / "state.pt")
    fresh = LAMB(decay_groups(net), lr=7.0)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [group["role"] for group in fresh.param_groups] == ["matrix", "vector", "norm", "embedding"]
    assert fresh.param_groups[0]["lr"] == 1e-3
