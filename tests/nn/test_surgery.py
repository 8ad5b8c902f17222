import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from assay.nn.surgery import replace


class Scaled(nn.Module):
    """A wrapper: twice the layer's output."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


class OtherLinear(nn.Linear):
    """Another class over the same parameters."""

    @classmethod
    def of(cls, linear):
        new = cls(linear.in_features, linear.out_features, device="meta")
        new.weight, new.bias = linear.weight, linear.bias
        return new


def to_other(name, layer):
    return OtherLinear.of(layer) if type(layer) is nn.Linear else None


def fresh_linear(name, layer):
    return OtherLinear(layer.in_features, layer.out_features) if type(layer) is nn.Linear else None


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), nn.Linear(3, 2))


def snapshot(model):
    """All that undo must bring back, by identity."""
    hooks = [k for k in vars(nn.Module()) if k.endswith("_hooks")]
    return [
        (name, id(m), m.training, [id(getattr(m, k)) for k in hooks], [dict(getattr(m, k)) for k in hooks])
        for name, m in model.named_modules(remove_duplicate=False)
    ] + [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]


def test_outputs_keys_and_parameters_are_kept_when_the_rule_hands_them_over(model):
    x = torch.randn(5, 4)
    before, keys, parameters = model(x), list(model.state_dict()), list(map(id, model.parameters()))
    surgery = replace(model, to_other)
    assert surgery.model is model
    assert list(surgery.replaced) == ["0", "1.1", "2"]
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert list(map(id, model.parameters())) == parameters


def test_a_second_time_changes_nothing(model):
    replace(model, to_other)
    layers = list(model.modules())
    assert replace(model, to_other).replaced == {}
    assert list(model.modules()) == layers


def test_a_wrapping_rule_is_idempotent_with_its_own_type_excluded(model):
    def wrap(name, layer):
        return Scaled(layer) if isinstance(layer, nn.Linear) else None

    replace(model, wrap, exclude=Scaled)
    assert replace(model, wrap, exclude=Scaled).replaced == {}
    assert sum(isinstance(m, Scaled) for m in model.modules()) == 3


def test_the_rule_sees_each_layer_once_parents_first_and_not_beneath_what_it_replaced(model):
    model.append(model[0])
    seen = []

    def rule(name, layer):
        seen.append(name)
        return nn.Identity() if name == "1" else None

    replace(model, rule)
    assert seen == ["", "0", "1", "2"]


def test_a_shared_layer_gets_one_replacement_in_all_places(model):
    model.append(nn.Sequential(model[0]))
    surgery = replace(model, to_other)
    assert isinstance(model[0], OtherLinear)
    assert model[0] is model[3][0]
    surgery.undo()
    assert type(model[0]) is nn.Linear
    assert model[0] is model[3][0]


def test_the_model_itself_can_be_replaced():
    layer = nn.Linear(2, 2)
    surgery = replace(layer, to_other)
    assert isinstance(surgery.model, OtherLinear)
    assert surgery.model.weight is layer.weight
    assert surgery.undo() is layer


def test_undo_is_exact(model):
    model[0].register_forward_hook(lambda m, a, out: out)
    model[1][1].eval()
    before, values = snapshot(model), copy.deepcopy(model.state_dict())
    replace(model, fresh_linear).undo()
    assert snapshot(model) == before
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values.values(), strict=True))


def test_the_context_manager_undoes_also_after_an_error(model):
    before = snapshot(model)

    def treat():
        with replace(model, to_other) as changed:
            assert changed is model
            assert isinstance(model[0], OtherLinear)
            raise KeyError

    with pytest.raises(KeyError):
        treat()
    assert snapshot(model) == before


def test_undo_twice_does_nothing_more(model):
    surgery = replace(model, to_other)
    surgery.undo()
    later = replace(model, to_other)
    surgery.undo()
    assert isinstance(model[0], OtherLinear)
    later.undo()


def test_undo_out_of_order_is_refused_and_changes_nothing(model):
    first = replace(model, to_other)
    replace(model, lambda name, layer: nn.Identity() if name == "2" else None)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="'2' was replaced again"):
        first.undo()
    assert snapshot(model) == before


def test_an_optimizer_built_before_trains_the_replacement(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    surgery = replace(model, to_other)
    before = model[0].weight.clone()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    trained = model[0].weight.clone()
    surgery.undo()
    assert torch.equal(model[0].weight, trained)


def test_mode_is_taken_over_and_followed_back(model):
    model[2].eval()
    surgery = replace(model, fresh_linear)
    assert [model[0].training, model[2].training] == [True, False]
    model.eval()
    surgery.undo()
    assert not any(m.training for m in model.modules())


def test_a_wrapped_layer_keeps_its_own_mode(model):
    model[0].eval()
    model.append(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval()))
    replace(model, lambda name, layer: Scaled(layer) if name in ("0", "3") else None)
    assert not model[0].training
    assert model[3].training
    assert not model[3].inner[1].training


def test_tensors_made_anew_take_the_layers_dtype_and_device(model):
    model.to(torch.bfloat16)
    replace(model, fresh_linear)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    meta = nn.Sequential(nn.Linear(2, 2, device="meta"))
    replace(meta, fresh_linear)
    assert {p.device.type for p in meta.parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_move_to_another_device_in_between_is_followed_back(model):
    model.append(nn.BatchNorm1d(2))

    def rule(name, layer):
        if type(layer) is not nn.BatchNorm1d:
            return None
        new = nn.SyncBatchNorm(2)
        new.weight, new.bias, new.running_mean = layer.weight, layer.bias, layer.running_mean
        return new

    surgery = replace(model, rule)
    model.cuda()
    surgery.undo()
    assert {t.device.type for t in model.state_dict().values()} == {"cuda"}


def test_shared_tensors_that_were_exchanged_in_between_come_back_with_undo(model):
    surgery = replace(model, to_other)
    values = {k: torch.full_like(v, 7.0) for k, v in model.state_dict().items()}
    model.load_state_dict(values, assign=True)
    surgery.undo()
    assert all((p == 7).all() for p in model.parameters())


def test_hooks_move_and_their_handles_still_work(model):
    calls = []
    layer = model[0]
    handles = [
        layer.register_forward_pre_hook(lambda m, a, k: calls.append(("pre", m)), with_kwargs=True),
        layer.register_forward_hook(lambda m, a, out: calls.append(("forward", m)), always_call=True),
        layer.register_full_backward_pre_hook(lambda m, g: calls.append(("backward_pre", m))),
        layer.register_full_backward_hook(lambda m, i, o: calls.append(("backward", m))),
        layer.register_state_dict_pre_hook(lambda m, prefix, keep: calls.append(("state_pre", m))),
        layer.register_state_dict_post_hook(lambda m, state, prefix, meta: calls.append(("state", m))),
        layer.register_load_state_dict_pre_hook(lambda m, *a: calls.append(("load_pre", m))),
        layer.register_load_state_dict_post_hook(lambda m, keys: calls.append(("load", m))),
    ]
    kinds = ["pre", "forward", "backward_pre", "backward", "state_pre", "state", "load_pre", "load"]

    def use():
        calls.clear()
        model(torch.randn(3, 4, requires_grad=True)).sum().backward()
        model.load_state_dict(model.state_dict())
        return list(calls)

    surgery = replace(model, to_other)
    new = model[0]
    gc.collect()
    assert use() == [(kind, new) for kind in kinds]
    surgery.undo()
    assert use() == [(kind, layer) for kind in kinds]
    replace(model, to_other)
    for handle in handles:
        handle.remove()
    assert use() == []


def test_a_wrapper_leaves_the_hooks_on_the_layer_inside(model):
    calls = []
    layer = model[0]
    layer.register_forward_hook(lambda m, a, out: calls.append(m))
    replace(model, lambda name, x: Scaled(x) if name == "0" else None)
    model(torch.randn(3, 4))
    assert calls == [layer]


def test_tied_parameters_stay_one(model):
    model.append(nn.Linear(3, 2))
    model[3].weight = model[2].weight
    replace(model, to_other)
    assert model[3].weight is model[2].weight
    assert isinstance(model[3], OtherLinear)


@pytest.mark.parametrize("exclude", [None, "2"])
def test_a_replacement_that_would_break_a_tie_is_refused(model, exclude):
    model.append(nn.Linear(3, 2))
    model[3].weight = model[2].weight
    before = snapshot(model)
    with pytest.raises(ValueError, match="does not hold its parameter 'weight'"):
        replace(model, fresh_linear, exclude=exclude)
    assert snapshot(model) == before
    replace(model, fresh_linear, exclude=["2", "3"])


def test_layers_that_compute_their_own_weight_are_refused(model):
    parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match="'0' is parametrized"):
        replace(model, lambda name, layer: nn.Identity() if name == "0" else None)
    prune.l1_unstructured(model[2], "weight", 0.5)
    before = snapshot(model)
    with pytest.raises(ValueError, match="'2' has a hook that works on itself"):
        replace(model, lambda name, layer: nn.Identity() if name == "2" else None)
    assert snapshot(model) == before
    replace(model, lambda name, layer: Scaled(layer) if name in ("0", "2") else None)
    model(torch.randn(3, 4)).sum().backward()


def test_hooks_on_both_sides_are_refused(model):
    model[0].register_forward_hook(lambda m, a, out: None)

    def rule(name, layer):
        new = to_other(name, layer)
        if new is not None:
            new.register_forward_hook(lambda m, a, out: None)
        return new

    with pytest.raises(ValueError, match="hooks of its own"):
        replace(model, rule)


def test_multihead_attention_is_offered_whole_but_not_taken_apart():
    model = nn.Sequential(nn.MultiheadAttention(4, 2))
    seen = []
    replace(model, lambda name, layer: seen.append(name))
    assert seen == ["", "0"]


@pytest.mark.parametrize(
    ("include", "exclude", "want"),
    [
        ("1", None, ["1.1"]),
        ("1.*", None, ["1.1"]),
        (["0", "2"], None, ["0", "2"]),
        (nn.Linear, "0", ["1.1", "2"]),
        (None, ["1", "0"], ["2"]),
        (nn.Sequential, nn.Linear, []),
        (OtherLinear, None, []),
    ],
)
def test_include_and_exclude_choose_layers_by_name_or_type(model, include, exclude, want):
    assert list(replace(model, to_other, include=include, exclude=exclude).replaced) == want


def test_a_shared_layer_excluded_in_one_place_is_left_in_all(model):
    model.append(nn.Sequential(model[0]))
    assert list(replace(model, to_other, exclude="3").replaced) == ["1.1", "2"]


def test_a_name_that_fits_nothing_is_an_error(model):
    with pytest.raises(ValueError, match="include='layer1' fits no layer"):
        replace(model, to_other, include="layer1")


def test_bad_rules_are_refused_before_anything_is_changed(model):
    before = snapshot(model)
    with pytest.raises(TypeError, match="must return a module or None, got int for '2'"):
        replace(model, lambda name, layer: 3 if name == "2" else to_other(name, layer))
    only = nn.Identity()
    with pytest.raises(ValueError, match="of its own for each layer"):
        replace(model, lambda name, layer: only if type(layer) is nn.Linear else None)
    assert snapshot(model) == before
