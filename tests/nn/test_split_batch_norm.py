import copy

import pytest
import torch
from torch import nn

from assay.nn.ghost_batch_norm import GhostBatchNorm
from assay.nn.split_batch_norm import SplitBatchNorm, keep_stream, to_split_batch_norm, use_stream
from assay.optim.roles import Role, parameter_roles


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4),
                         nn.BatchNorm1d(4))  # fmt: skip


def batch(seed, shift=0.0):
    return torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) + shift


def test_each_stream_is_a_batch_norm_that_sees_its_own_batches_alone():
    model, alone = to_split_batch_norm(network()), {"main": network(), "adversarial": network()}
    for step, stream in enumerate(["main", "adversarial", "adversarial", "main", "adversarial"]):
        x = batch(step, shift=3.0 * (stream == "adversarial"))
        with use_stream(model, stream):
            torch.testing.assert_close(model(x), alone[stream](x), rtol=0, atol=0)
    for stream, plain in alone.items():
        kept = keep_stream(copy.deepcopy(model), stream)
        assert [type(layer) for layer in kept] == [type(layer) for layer in plain]
        for (name, found), want in zip(kept.state_dict().items(), plain.state_dict().values(), strict=True):
            assert torch.equal(found, want), (stream, name)
    assert not torch.equal(alone["main"][1].running_mean, alone["adversarial"][1].running_mean)


def test_evaluation_uses_the_main_stream_only():
    model = to_split_batch_norm(network())
    with use_stream(model, "adversarial"):
        model(batch(0))
    model.eval()
    torch.testing.assert_close(model(batch(1)), network().eval()(batch(1)), rtol=0, atol=0)


def test_streams_have_parameters_of_their_own_and_share_the_rest():
    model = to_split_batch_norm(network())
    with use_stream(model, "adversarial"):
        model(batch(0)).square().sum().backward()
    assert model[1].streams["main"].weight.grad is None
    assert model[1].streams["adversarial"].weight.grad is not None
    assert model[0].weight.grad is not None
    roles = parameter_roles(model)
    assert roles["1.streams.adversarial.weight"] is Role.NORM


def test_the_stream_is_put_back_after_an_error_and_inside_another():
    model = to_split_batch_norm(network())
    with use_stream(model, "adversarial"):
        with use_stream(model, "main"):
            assert model[1].stream == "main"
        assert model[1].stream == "adversarial"
    with pytest.raises(RuntimeError), use_stream(model, "adversarial"):
        model(torch.zeros(1))
    assert model[1].stream == "main"


def test_splitting_keeps_the_layers_and_a_second_time_changes_nothing():
    model = network()
    layer, handle = model[1], []
    layer.register_forward_hook(lambda *_: handle.append(1))
    once = to_split_batch_norm(model)
    assert once[1].streams["main"] is layer
    names = list(once.state_dict())
    assert list(to_split_batch_norm(once).state_dict()) == names
    once(batch(0))
    assert handle == [1]
    ghost = nn.Sequential(GhostBatchNorm(4, 2))
    assert type(to_split_batch_norm(ghost)[0].streams["adversarial"]) is GhostBatchNorm


def test_state_goes_round_and_plain_models_keep_theirs():
    one, other = to_split_batch_norm(network()), to_split_batch_norm(network())
    with use_stream(one, "adversarial"):
        one(batch(0, 2.0))
    other.load_state_dict(one.state_dict())
    x = batch(1)
    for stream in ("main", "adversarial"):
        with use_stream(one.eval(), stream), use_stream(other.eval(), stream):
            assert torch.equal(one(x), other(x))
    plain = network()
    assert keep_stream(plain) is plain


def test_gradients_are_right_and_the_compiled_layer_is_the_same():
    layer = SplitBatchNorm(nn.BatchNorm1d(3)).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with use_stream(layer, "adversarial"):
        assert torch.autograd.gradcheck(lambda x: layer(x), x)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for stream in layer.streams:
        with use_stream(layer, stream):
            torch.testing.assert_close(compiled(x), layer(x))


def test_bfloat16_autocast():
    model = to_split_batch_norm(network())
    with torch.autocast("cpu", dtype=torch.bfloat16), use_stream(model, "adversarial"):
        assert model(batch(0)).isfinite().all()
    assert model[1].streams["adversarial"].running_mean.dtype == torch.float32


@pytest.mark.parametrize("streams", [("one",), ("same", "same"), ()])
def test_streams_that_are_none_are_refused(streams):
    with pytest.raises(ValueError, match="streams must be at least two different names"):
        to_split_batch_norm(network(), streams)


def test_what_cannot_be_split_or_used_is_refused():
    with pytest.raises(ValueError, match="model must hold a BatchNorm layer to split, got Linear without one"):
        to_split_batch_norm(nn.Linear(2, 2))
    model = to_split_batch_norm(network())
    for use in (lambda: use_stream(model, "mixed").__enter__(), lambda: keep_stream(model, "mixed")):
        with pytest.raises(ValueError, match="stream must be one of main, adversarial, got 'mixed'"):
            use()
