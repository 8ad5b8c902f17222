"""Lanczos against dense eigenvalues and the identities of Gauss quadrature."""

import pytest
import torch

from assay.analysis.lanczos import draw_starts, lanczos


def matrix(eigenvalues, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=draw, dtype=torch.float64))
    return ((q * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T).to(dtype)


def product(a):
    return lambda v: v @ a


def starts(count, size, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    return torch.randn(count, size, generator=draw, dtype=torch.float64).to(dtype)


DECAY = torch.cat([torch.tensor([50.0, 20.0, -3.0]), torch.logspace(-8, 0, 57)]).double()


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_steps_as_dimensions_give_the_eigenvalues(count):
    eigenvalues = torch.linspace(-1, 4, 40).double().pow(3)
    for ritz in lanczos(product(matrix(eigenvalues)), starts(count, 40), 99):
        torch.testing.assert_close(ritz.values, eigenvalues, rtol=1e-9, atol=1e-9)


def test_one_step_gives_the_rayleigh_quotient():
    a, v = matrix(DECAY), starts(1, 60)
    (ritz,) = lanczos(product(a), v, 1)
    torch.testing.assert_close(ritz.values, (v @ a @ v.T / (v @ v.T))[0])
    assert ritz.weights.tolist() == [1.0]


def test_the_quadrature_is_exact_for_polynomials_up_to_twice_the_steps():
    a, v = matrix(torch.linspace(-1, 1, 30).double()), starts(2, 30)
    unit = v / v.norm(dim=1, keepdim=True)
    for i, ritz in enumerate(lanczos(product(a), v, 5)):
        for power in range(10):
            want = unit[i] @ torch.linalg.matrix_power(a, power) @ unit[i]
            torch.testing.assert_close((ritz.weights * ritz.values**power).sum(), want)
        assert (
            abs(float((ritz.weights * ritz.values**10).sum() - unit[i] @ torch.linalg.matrix_power(a, 10) @ unit[i]))
            > 1e-6
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_eigenvalues_that_have_converged_do_not_come_again(dtype, tolerance):
    (ritz,) = lanczos(product(matrix(DECAY, dtype)), starts(1, 60, dtype), 60)
    top = DECAY.sort().values[-20:]
    torch.testing.assert_close(ritz.values[-20:], top, rtol=0, atol=50 * tolerance)
    (again,) = lanczos(product(matrix(DECAY, dtype)), starts(1, 60, dtype), 60, reorthogonalize=False)
    assert (again.values > 49.9).sum() > 1  # what the reorthogonalisation is for


def test_an_eigenvalue_lies_within_the_error():
    eigenvalues = torch.linspace(-1, 1, 200).double()
    for ritz in lanczos(product(matrix(eigenvalues)), starts(3, 200), 20):
        away = (ritz.values[:, None] - eigenvalues).abs().amin(1)
        assert (away <= ritz.errors + 1e-12).all()
        assert ritz.errors[-1] < 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_stops_where_the_space_is_exhausted_each_start_by_itself(dtype):
    a = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0], dtype=dtype))
    rows = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0, 0]], dtype=dtype)
    three, one, two = lanczos(product(a), rows, 7)
    torch.testing.assert_close(three.values, torch.tensor([0.0, 1.0, 2.0]).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(three.weights, torch.tensor([3.0, 1.0, 3.0]).double() / 7, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.values, torch.tensor([2.0]).double())
    torch.testing.assert_close(two.values, torch.tensor([1.0, 2.0]).double())


def test_a_block_gives_what_its_rows_give():
    a, v = matrix(DECAY), starts(3, 60)
    for row, ritz in zip(v, lanczos(product(a), v, 15), strict=True):
        (alone,) = lanczos(product(a), row[None], 15)
        torch.testing.assert_close(alone.values, ritz.values)


def test_starts_come_from_the_generator():
    drawn = [draw_starts(2, 50, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert set(drawn[0].unique().tolist()) == {-1.0, 1.0}
    assert draw_starts(1, 5, kind="gaussian", like=torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="steps must be positive"):
        lanczos(product(torch.eye(3)), torch.ones(1, 3), 0)
    with pytest.raises(ValueError, match="no zero vector"):
        lanczos(product(torch.eye(3)), torch.zeros(1, 3), 2)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match="not finite"):
            lanczos(lambda v, bad=bad: v * bad, torch.ones(1, 3), 3)
    with pytest.raises(ValueError, match="count and size"):
        draw_starts(0, 3)
    if not hasattr(draw_starts, "__wrapped__"):  # else the types are checked before
        with pytest.raises(ValueError, match="rademacher or gaussian"):
            draw_starts(1, 3, kind="uniform")
