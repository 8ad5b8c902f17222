"""Batch sizes that grow when a test finds the gradient of the batch too noisy.

norm test              V / b <= eta^2 |g|^2                                 V = sum_j Var_i(g_ij)
coordinate-wise        Var_i(g_ij) / b <= eta^2 g_j^2 for every j
inner-product test     Var_i <g_i, g> / b <= theta^2 |g|^4
orthogonality test     E_i |g_i - <g_i, g> / |g|^2 g|^2 / b <= nu^2 |g|^2     (both of them: the augmented test)

g_i is the gradient of sample i and g their mean. Exact tests take all the data and ask of a batch drawn from them with
replacement; approximate ones take the batch itself, and divide by n - 1. A test that fails asks for the batch size at
which it would have passed.

Source: Lau, Liu and Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods" (2024), section 3;
the norm test is of Byrd et al. (2012), the inner-product tests are of Bollapragada, Byrd and Nocedal (2018).
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from assay.optim.gradient_moments import GradientMoments

Test = Literal["norm", "inner-product", "augmented", "coordinate"]


class BatchTest(NamedTuple):
    """What a test found.

    Attributes:
        passed: the batch is large enough.
        needed: the batch size, not rounded, from which on the test passes; infinite where a gradient that varies has
            mean zero.
        variance: of what is tested, for one sample.
        grad_sq_norm: |g|^2.
    """

    passed: bool
    needed: float
    variance: float
    grad_sq_norm: float


def norm_test(moments: GradientMoments, eta: float, *, batch_size: int | None = None) -> BatchTest:
    """V / b <= eta^2 |g|^2: the error of the gradient is small beside it.

    Args:
        moments: of the batch, at least two samples; or of all data where `batch_size` is given.
        eta: positive; in theory below 1.
        batch_size: b, for the exact test. `None` for the approximate one, of the batch that the moments are of.

    Raises:
        ValueError: `eta` or `batch_size` is not positive, or there are too few samples.
        FloatingPointError: a gradient is not finite.

    Source: Lau et al. 2024, section 3.
    """
    _check(eta=eta)
    variance, square = moments.variances(_correction(batch_size)).sum(), moments.mean_squares().sum()
    return _judged(moments, batch_size, variance, eta**2 * square, square)


def inner_product_test(
    moments: GradientMoments, theta: float, *, batch_size: int | None = None, per_tensor: bool = False
) -> BatchTest:
    """Var <g_i, g> / b <= theta^2 |g|^4: the batch's gradient descends, with high probability.

    Args:
        moments: as in `norm_test`, with inner products.
        theta: positive.
        batch_size: as in `norm_test`.
        per_tensor: add up the variances of each parameter's own inner products, as the authors' code does; the paper's
            inner products are of the whole gradient.

    Raises:
        ValueError: as in `norm_test`, or inner products are missing.

    Source: Lau et al. 2024, section 3.
    """
    _check(theta=theta)
    correction, square = _correction(batch_size), moments.mean_squares().double().sum()
    along, total = _along(moments, correction, per_tensor).sum(), moments.variances(correction).double().sum()
    # divided by |g|^2, as inner products with a mean of zero are all alike, and no reason to pass
    tested = torch.where(square > 0, along / square, total)
    return _judged(moments, batch_size, tested, theta**2 * square, square, along)


def orthogonality_test(
    moments: GradientMoments, nu: float, *, batch_size: int | None = None, per_tensor: bool = False
) -> BatchTest:
    """What varies at right angles to g is small beside it.

    By Pythagoras that variance is V - Var <g_i, g> / |g|^2.

    Args:
        moments: as in `norm_test`, with inner products.
        nu: positive.
        batch_size: as in `norm_test`.
        per_tensor: each parameter's gradient against its own mean, as in the authors' code.

    Raises:
        ValueError: as in `norm_test`, or inner products are missing.

    Source: Lau et al. 2024, section 3.
    """
    _check(nu=nu)
    correction, squares = _correction(batch_size), moments.mean_squares().double()
    total, along = moments.variances(correction), _along(moments, correction, per_tensor)
    base = squares if per_tensor else squares.sum()
    across = (total if per_tensor else total.sum()) - torch.where(base > 0, along / base, 0.0)
    return _judged(moments, batch_size, across.clamp(min=0).sum(), nu**2 * squares.sum(), squares.sum())


def coordinate_norm_test(
    moments: GradientMoments, eta: float, *, batch_size: int | None = None, quantile: float = 1.0
) -> BatchTest:
    """The norm test of every coordinate by itself, on which the theory of AdaGrad rests.

    One coordinate whose mean is near zero asks for a batch without bound, so that of many parameters the paper's test
    takes the largest batch at once. A `quantile` below 1 lets the worst of them fail.

    Args:
        moments: as in `norm_test`.
        eta: positive.
        batch_size: as in `norm_test`.
        quantile: share of the coordinates that must pass, in (0, 1]; 1 in the paper.

    Raises:
        ValueError: as in `norm_test`, or `quantile` is out of its range.

    Source: Lau et al. 2024, section 3.
    """
    _check(eta=eta)
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    n = moments.degrees(_correction(batch_size))
    variance = torch.cat([squares.flatten() for squares in moments.squares]) / n
    square = torch.cat([mean.flatten() for mean in moments.mean]).square()
    needed = torch.where(variance == 0, 0.0, variance / (eta**2 * square))
    worst = needed.kthvalue(math.ceil(quantile * len(needed))).values
    return _judged(moments, batch_size, worst, torch.ones_like(worst), square.sum(), variance.sum())


class AdaptiveBatchSize:
    """The batch size of a training, by one of the tests; it never falls.

        rule = AdaptiveBatchSize(8, len(data), eta=0.5)
        for every step of rule.batch_size samples, with gradients at the weights before the update:
            rule.update(moments if rule.due else None)

    A norm test asks a batch that is all noise for about b / eta^2 samples, so that eta bounds the growth of a step.

    Args:
        batch_size: of the first step, at least 2.
        max_batch_size: where growth and testing end; usually the size of the data set.
        test: `norm`; `inner-product`; `augmented`, that and orthogonality; `coordinate`.
        eta: of the norm tests, positive.
        theta: of the inner-product test, positive.
        nu: of the orthogonality test, positive.
        quantile: of the coordinate-wise test, in (0, 1].
        interval: steps from one test to the next; the first step is tested.

    Attributes:
        batch_size: of the next step.
        steps: updates so far.

    Raises:
        ValueError: a setting is out of its range.

    Source: Lau et al. 2024, Algorithm 1.
    """

    def __init__(
        self,
        batch_size: int,
        max_batch_size: int,
        test: str = "norm",
        *,
        eta: float = 0.5,
        theta: float = 0.5,
        nu: float = 1.0,
        quantile: float = 1.0,
        interval: int = 1,
    ) -> None:
        if not 2 <= batch_size <= max_batch_size:
            raise ValueError(f"batch_size must lie in 2..max_batch_size={max_batch_size}, got {batch_size}")
        if test not in get_args(Test):
            raise ValueError(f"test must be one of {', '.join(get_args(Test))}, got {test!r}")
        if interval < 1:
            raise ValueError(f"interval must be positive, got {interval}")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
        _check(eta=eta, theta=theta, nu=nu)
        self.batch_size, self.max_batch_size, self.test, self.interval = batch_size, max_batch_size, test, interval
        self.eta, self.theta, self.nu, self.quantile = eta, theta, nu, quantile
        self.steps = 0

    @property
    def due(self) -> bool:
        """Whether the next `update` is a test."""
        return self.steps % self.interval == 0 and self.batch_size < self.max_batch_size

    @property
    def needs_products(self) -> bool:
        """Whether the test wants moments with inner products."""
        return self.test in ("inner-product", "augmented")

    def update(self, moments: GradientMoments | None, *, exact: bool = False) -> int:
        """Count a step, and test if one is due.

        Args:
            moments: of the step's batch, or of all data for the exact test; not looked at unless a test is due.
            exact: they are of all data.

        Returns:
            the size of the next batch.

        Raises:
            ValueError: a test is due and there are no moments, or they are of too few samples.
            FloatingPointError: they are not finite.
        """
        if self.due:
            if moments is None:
                raise ValueError(f"step {self.steps} is to be tested: give its moments")
            needed = max(found.needed for found in self._tests(moments, self.batch_size if exact else None))
            self.batch_size = max(self.batch_size, math.ceil(min(needed, self.max_batch_size)))
        self.steps += 1
        return self.batch_size

    def _tests(self, moments: GradientMoments, batch_size: int | None) -> list[BatchTest]:
        if self.test == "norm":
            return [norm_test(moments, self.eta, batch_size=batch_size)]
        if self.test == "coordinate":
            return [coordinate_norm_test(moments, self.eta, batch_size=batch_size, quantile=self.quantile)]
        tests = [inner_product_test(moments, self.theta, batch_size=batch_size)]
        return tests + ([orthogonality_test(moments, self.nu, batch_size=batch_size)] * (self.test == "augmented"))

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"batch_size": self.batch_size, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.batch_size, self.steps = state["batch_size"], state["steps"]


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")


def _correction(batch_size: int | None) -> int:
    """All data are their own population; of a batch the variance is an estimate."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return 1 if batch_size is None else 0


def _along(moments: GradientMoments, correction: int, per_tensor: bool) -> Tensor:
    """Variance of the inner products with the mean; float64, as it goes with the fourth power of a gradient."""
    moments.degrees(correction)
    products = moments.products.double() if per_tensor else moments.products.double().sum(1)
    return products.var(0, correction=correction)


def _judged(
    moments: GradientMoments,
    batch_size: int | None,
    variance: Tensor,
    bound: Tensor,
    square: Tensor,
    shown: Tensor | None = None,
) -> BatchTest:
    """`variance / b <= bound`, read off the device at once."""
    told = torch.stack([variance, bound, square, variance if shown is None else shown]).tolist()
    if not all(map(math.isfinite, told[2:])):
        raise FloatingPointError(f"gradients must be finite, got |g|^2 = {told[2]} and a variance of {told[3]}")
    needed = told[0] / told[1] if told[1] else math.inf if told[0] else 0.0
    return BatchTest(needed <= (batch_size or moments.samples), needed, told[3], told[2])
