import numpy as np
import pytest
import torch

from assay.losses.class_correlation import class_correlation_loss


def draw(*shape, seed=0, dtype=torch.float64):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_matrix(logits, temperature=1.0, certainty_weighting=False):
    """The definition, entry by entry of the K x K matrix."""
    p = np.exp(logits.double().numpy() / temperature)
    p /= p.sum(1, keepdims=True)
    batch, classes = p.shape
    w = np.ones(batch)
    if certainty_weighting:
        w = 1 + np.exp((p * np.log(p + 1e-5)).sum(1))
        w *= batch / w.sum()
    total = 0.0
    for j in range(classes):
        row = [sum(w[i] * p[i, j] * p[i, k] for i in range(batch)) for k in range(classes)]
        total += (sum(row) - row[j]) / sum(row)
    return total / classes


@pytest.mark.parametrize("case", [0, 1])
def test_reference_vectors(vectors, case):
    data = np.load(vectors / "alpha-bn.npz", allow_pickle=False)
    logits = torch.from_numpy(data["mcc_logits"]).requires_grad_()
    loss = class_correlation_loss(logits, temperature=float(data["mcc_T"][case]), certainty_weighting=True)
    assert loss.item() == pytest.approx(data["mcc_loss"][case], abs=1e-10)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.from_numpy(data["mcc_grad"][case]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(9, 7), (1, 4), (6, 1), (3, 12)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("certainty_weighting", [False, True])
def test_equals_the_class_correlation_matrix_of_the_definition(shape, temperature, certainty_weighting):
    logits = draw(*shape)
    found = class_correlation_loss(logits, temperature=temperature, certainty_weighting=certainty_weighting)
    assert found.item() == pytest.approx(by_matrix(logits, temperature, certainty_weighting), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5, 10])
def test_certain_predictions_of_every_class_give_zero_and_uniform_ones_the_most(classes):
    certain = 200 * torch.eye(classes, dtype=torch.float64).repeat(3, 1)
    assert class_correlation_loss(certain).item() == pytest.approx(0, abs=1e-12)
    uniform = torch.zeros(4, classes, dtype=torch.float64)
    assert class_correlation_loss(uniform).item() == pytest.approx((classes - 1) / classes)


def test_the_names_of_classes_and_the_order_of_samples_do_not_matter():
    logits = draw(9, 5)
    for certainty_weighting in (False, True):
        want = class_correlation_loss(logits, certainty_weighting=certainty_weighting)
        found = class_correlation_loss(
            logits[torch.randperm(9)][:, [3, 1, 4, 0, 2]], certainty_weighting=certainty_weighting
        )
        torch.testing.assert_close(found, want)


def test_a_rare_class_has_the_same_say_as_a_common_one():
    # two classes apart from the rest; the second pair's mass is a thousandth of the first's
    common, rare = draw(1, 4), draw(1, 4)
    common[0, 2:], rare[0, :2] = -200, -200
    logits = torch.cat([common.expand(1000, 4), rare])
    balanced = torch.cat([common, rare])
    torch.testing.assert_close(class_correlation_loss(logits), class_correlation_loss(balanced))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_gradients_of_first_and_second_order(temperature):
    def f(logits):
        return class_correlation_loss(logits, temperature=temperature)

    logits = draw(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(f, logits)
    assert torch.autograd.gradgradcheck(f, logits)


def test_the_certainty_of_a_sample_has_no_gradient():
    logits = draw(6, 4).requires_grad_()
    p = logits.softmax(1)
    w = 1 + (p * (p + 1e-5).log()).sum(1).exp().detach()
    c = p.T @ (w[:, None] * p)
    want = ((c.sum(1) - c.diagonal()) / c.sum(1)).mean()
    found = class_correlation_loss(logits, certainty_weighting=True)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (found, want)))


def test_classes_without_any_mass_count_nothing_and_keep_gradients_finite():
    logits = torch.tensor([[0.0, 1.0, -500.0], [1.0, 0.0, -500.0]], requires_grad=True)  # exp(-500) is 0 in float32
    loss = class_correlation_loss(logits)
    assert loss.item() == pytest.approx(2 / 3 * class_correlation_loss(logits[:, :2]).item())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    logits = draw(64, 10, dtype=torch.float32).to(dtype)
    found = class_correlation_loss(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, class_correlation_loss(logits.float()), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(class_correlation_loss(logits), found, rtol=0, atol=0)


@pytest.mark.skipif(hasattr(class_correlation_loss, "__wrapped__"), reason="the checks of shapes break the graph")
def test_compiles_without_a_graph_break():
    compiled = torch.compile(class_correlation_loss, backend="aot_eager", fullgraph=True)
    logits = draw(9, 5)
    torch.testing.assert_close(
        compiled(logits, certainty_weighting=True), class_correlation_loss(logits, certainty_weighting=True)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu():
    logits = draw(9, 5)
    torch.testing.assert_close(class_correlation_loss(logits.cuda()).cpu(), class_correlation_loss(logits))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0\.0"):
        class_correlation_loss(draw(2, 2), temperature=0.0)
    with pytest.raises(ValueError, match="at least one sample"):
        class_correlation_loss(draw(0, 2))
