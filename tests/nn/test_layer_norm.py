import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn.layer_norm import LayerNorm, layer_norm

DOUBLE = {"dtype": torch.float64}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def by_hand(x, gain, bias, eps, eps_on):
    rows = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        below = (variance + eps) ** 0.5 if eps_on == "variance" else variance**0.5 + eps
        rows.append([g * (v - mean) / below + b for v, g, b in zip(row, gain.tolist(), bias.tolist(), strict=True)])
    return torch.tensor(rows, **DOUBLE).view_as(x)


def test_reference_vectors(vectors):
    data = {
        name: torch.from_numpy(value) for name, value in np.load(vectors / "layernorm.npz").items() if "ln_" in name
    }
    found = layer_norm(data["ln_x"], data["ln_gain"], data["ln_bias"])
    torch.testing.assert_close(found, data["ln_y"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_is_its_formula_with_eps_where_it_is_said_to_be(eps_on, shape):
    x, gain, bias = draw(*shape), draw(5, seed=1), draw(5, seed=2)
    found = layer_norm(x, gain, bias, 0.3, eps_on=eps_on)
    torch.testing.assert_close(found, by_hand(x, gain, bias, 0.3, eps_on), rtol=0, atol=1e-12)


def test_torchs_layer_is_the_same_function_where_eps_is_beside_the_variance_and_only_there():
    x = draw(4, 6)
    torch.testing.assert_close(layer_norm(x, eps=0.1), F.layer_norm(x, (6,), eps=0.1), rtol=0, atol=1e-12)
    assert not torch.allclose(layer_norm(x, eps=0.1, eps_on="deviation"), F.layer_norm(x, (6,), eps=0.1), atol=1e-3)


@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
def test_mean_is_zero_and_variance_one_before_the_affine_map(eps_on):
    y = layer_norm(3 * draw(7, 50) + 2, eps=1e-12, eps_on=eps_on)
    torch.testing.assert_close(y.mean(-1), torch.zeros(7, **DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.var(-1, correction=0), torch.ones(7, **DOUBLE), rtol=0, atol=1e-9)


def test_invariances_are_those_of_the_papers_table():
    x, weight = draw(4, 3), draw(6, 3, seed=1)

    def output(x, weight):
        return layer_norm(x @ weight.T, eps=1e-14)

    want = output(x, weight)
    same = {
        "the weight matrix rescaled": output(x, 5 * weight),
        "the weight matrix re-centred": output(x, weight + draw(3, seed=2)),
        "single cases rescaled": output(x * draw(4, 1, seed=3).abs(), weight),
    }
    for what, found in same.items():
        torch.testing.assert_close(found, want, rtol=0, atol=1e-9, msg=lambda m, what=what: f"{what}: {m}")
    one_vector = weight.clone()
    one_vector[0] *= 5
    assert not torch.allclose(output(x, one_vector), want, atol=1e-2)
    assert not torch.allclose(output(x + 1, weight), want, atol=1e-2)  # the data set re-centred


@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
def test_a_constant_vector_gives_the_bias_and_a_gradient_of_the_scale_that_eps_sets(eps_on):
    x, bias = torch.full((1, 4), 3.0, **DOUBLE, requires_grad=True), draw(4)
    y = layer_norm(x, None, bias, 1e-4, eps_on=eps_on)
    torch.testing.assert_close(y[0], bias)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0], **DOUBLE)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    scale = 1e2 if eps_on == "variance" else 1e4
    torch.testing.assert_close(gradient[0], scale * (weights - weights.mean()))


@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
def test_gradients_of_first_and_second_order(eps_on):
    x, gain, bias = (t.requires_grad_() for t in (draw(3, 5), draw(5, seed=1), draw(5, seed=2)))

    def f(x, gain, bias):
        return layer_norm(x, gain, bias, 0.1, eps_on=eps_on)

    assert torch.autograd.gradcheck(f, (x, gain, bias))
    assert torch.autograd.gradgradcheck(f, (x, gain, bias))


@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_its_statistics_in_float32(eps_on, dtype):
    x = (100 + 4 * draw(3, 64)).to(dtype)  # squares of 100 cancel to nothing in half precision
    found = layer_norm(x, eps_on=eps_on)
    assert found.dtype == dtype
    torch.testing.assert_close(found, layer_norm(x.double(), eps_on=eps_on).to(dtype))


def test_the_layer_has_torchs_state_and_starts_as_the_plain_normalisation():
    layer, plain = LayerNorm(6, **DOUBLE), nn.LayerNorm(6, **DOUBLE)
    x = draw(4, 6)
    torch.testing.assert_close(layer(x), by_hand(x, torch.ones(6), torch.zeros(6), 1e-5, "variance"))
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(LayerNorm(6, elementwise_affine=False)(x), LayerNorm(6, **DOUBLE)(x))
    assert LayerNorm(6, bias=False).bias is None


@pytest.mark.skipif(hasattr(layer_norm, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("eps_on", ["variance", "deviation"])
def test_compiles_without_a_graph_break(eps_on):
    layer, x = LayerNorm(5, eps_on=eps_on), torch.randn(4, 5)
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


def test_what_cannot_be_normalised_is_refused():
    with pytest.raises(ValueError, match="normalized_shape must be positive, got 0"):
        LayerNorm(0)
    with pytest.raises((ValueError, TypeError), match="eps_on"):
        LayerNorm(3, eps_on="mean")
    with pytest.raises(ValueError, match=r"must have 3 features last, got \[2, 4\]"):
        LayerNorm(3)(torch.zeros(2, 4))
