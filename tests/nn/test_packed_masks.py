import pytest
import torch
from torch import nn

from assay.analysis.saved_activations import SavedActivations
from assay.nn.packed_masks import PackedDropout, PackedReLU, pack, to_packed_masks, unpack


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("shape", [(0,), (1,), (8,), (3, 5), (2, 4, 9)])
def test_a_mask_comes_back_from_an_eighth_of_its_bytes(shape):
    mask = draw(*shape).detach() > 0
    packed = pack(mask)
    assert len(packed) == -(-mask.numel() // 8)
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_relu_is_torchs_with_zero_and_what_is_not_finite_among_its_inputs():
    x, upstream, found = draw(4, 33), draw(4, 33, seed=1).detach(), []
    with torch.no_grad():
        x[0, :4] = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf])
    for layer in (PackedReLU(), nn.ReLU()):
        y = layer(x)
        found.append((y, *torch.autograd.grad(y, x, upstream)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_dropout_is_torchs_for_the_same_seed():
    x, found = draw(5, 21), []
    for layer in (PackedDropout(0.3), nn.Dropout(0.3)):
        torch.manual_seed(4)
        y = layer(x)
        found.append((y, torch.autograd.grad(y, x, torch.ones_like(y))[0]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert (found[0][0] == 0).any()
    assert torch.equal(PackedDropout(0.3).eval()(x), x)
    assert torch.equal(PackedDropout(0.0)(x), x)


@pytest.mark.parametrize("layer", [PackedReLU(), PackedDropout(0.5)])
def test_a_bit_a_number_is_kept(layer):
    x = draw(64, 32)
    with SavedActivations(layer) as saved:
        y = layer(x)
    assert saved.bytes == y.numel() // 8


def test_the_gradient_is_right_and_is_not_differentiated():
    x = draw(4, 4).detach().double().requires_grad_()
    assert torch.autograd.gradcheck(PackedReLU(), x)
    (dx,) = torch.autograd.grad(PackedReLU()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_surgery_changes_relu_and_dropout_alone_and_keeps_the_dtype_under_autocast():
    model = to_packed_masks(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.2), nn.GELU()))
    assert [type(layer) for layer in model] == [nn.Linear, PackedReLU, PackedDropout, nn.GELU]
    assert list(to_packed_masks(model)) == list(model)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(draw(3, 8))
    assert y.dtype == torch.bfloat16
    y.sum().backward()


def test_a_rate_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\), got 1"):
        PackedDropout(1.0)
