"""The learner on quadratics, whose optimum is known, and its bookkeeping."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.optim.curvature_rate import CurvatureRate, optimal_heavy_ball


class Quadratic(nn.Module):
    """Its loss is sum_i x_i w_i^2 / 2, the x being the eigenvalues."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.ones(size, dtype=torch.float64))

    def forward(self, x):
        return (x * self.w.square()).sum(1) / 2


def value(outputs, targets):
    return outputs.mean()


def batch(eigenvalues):
    return [(torch.tensor([eigenvalues], dtype=torch.float64), torch.zeros(1))]


def learner(size=3, lr=0.01, **given):
    model = Quadratic(size)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.0)
    draw = torch.Generator().manual_seed(0)
    return model, sgd, CurvatureRate(sgd, model, value, **{"fraction": 1.0, "generator": draw} | given)


@pytest.mark.parametrize(("smallest", "largest"), [(0.1, 5.0), (1.0, 3.0)])
def test_errors_fall_at_the_root_of_the_momentum(smallest, largest):
    lr, momentum = optimal_heavy_ball(largest, smallest)
    eigenvalues = torch.linspace(smallest, largest, 9, dtype=torch.float64)
    w = torch.ones(9, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=lr, momentum=momentum)
    sizes = []
    for _ in range(200):
        w.grad = eigenvalues * w.detach()
        sgd.step()
        sizes.append(float(w.detach().norm()))
    # the ends have a double root: errors go as k rho^(k/2)
    assert sizes[199] / sizes[99] == pytest.approx(2 * momentum**50, rel=0.1)


def test_equal_eigenvalues_need_no_momentum_and_a_bound_gives_way_smoothly():
    assert optimal_heavy_ball(4.0, 4.0) == (pytest.approx(0.25), 0.0)
    lr, momentum = optimal_heavy_ball(4.0, 0.0, momentum_max=0.81)
    assert (lr, momentum) == (pytest.approx(1.9**2 / 4), pytest.approx(0.81))
    assert optimal_heavy_ball(1.0, 0.0).lr < 2 * (1 + 0.99)
    for smallest, largest in ((2.0, 1.0), (-1.0, 1.0), (0.0, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="0 <= smallest <= largest"):
            optimal_heavy_ball(largest, smallest)


def test_it_learns_the_optimum_of_a_quadratic_and_reaches_its_minimum():
    model, sgd, schedule = learner(lambda_min="smallest_positive")
    data = batch([4.0, 1.0, 0.25])
    schedule.step(data)
    lr, momentum = optimal_heavy_ball(4.0, 0.25)
    assert sgd.param_groups[0]["lr"] == pytest.approx(lr)
    assert sgd.param_groups[0]["momentum"] == pytest.approx(momentum)
    for _ in range(100):
        sgd.zero_grad()
        value(model(data[0][0]), None).backward()
        sgd.step()
    assert float(model.w.detach().norm()) < 1e-15**0.5


def test_the_bulk_is_where_most_eigenvalues_are_and_negative_ones_count_by_size():
    _, _, schedule = learner(6)
    schedule.step(batch([9.0, -0.5, -0.5, -0.5, -0.5, 2.0]))
    assert schedule.largest == pytest.approx(9.0)
    assert schedule.smallest == pytest.approx(0.5)


def test_eigenvalues_are_averaged_with_their_past_every_so_many_epochs():
    _, sgd, schedule = learner(2, every=2, average=0.25, lambda_min="smallest_positive")
    schedule.step(batch([4.0, 1.0]))
    schedule.step(lambda: pytest.fail("it is not time to measure"))
    schedule.step(lambda: batch([8.0, 3.0]))
    assert schedule.largest == pytest.approx(0.25 * 4 + 0.75 * 8)
    assert schedule.smallest == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert sgd.param_groups[0]["lr"] == pytest.approx(optimal_heavy_ball(7.0, 2.5).lr)


def test_a_groups_weight_decay_adds_to_its_eigenvalues_and_tensor_rates_stay_tensors():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "weight_decay": 0.5}]
    lr = torch.tensor(0.1)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    schedule = CurvatureRate(sgd, model, F.cross_entropy, fraction=0.2)
    schedule.step([(torch.randn(8, 3), torch.arange(8) % 3)])
    for group, decay in zip(sgd.param_groups, (0.0, 0.5), strict=True):
        want = optimal_heavy_ball(schedule.largest + decay, schedule.smallest + decay)
        assert float(group["lr"]) == pytest.approx(0.2 * want.lr)
        assert group["momentum"] == pytest.approx(want.momentum)
    assert isinstance(sgd.param_groups[0]["lr"], torch.Tensor)


@pytest.mark.parametrize(
    ("eigenvalues", "said"), [([-1.0, -2.0], "no eigenvalue is positive"), ([math.inf, 1.0], "not finite")]
)
def test_where_nothing_is_usable_the_settings_stay_with_a_warning(eigenvalues, said):
    _, sgd, schedule = learner(2)
    with pytest.warns(UserWarning, match=said):
        schedule.step(batch(eigenvalues))
    assert (sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]) == (0.01, 0.0)


def test_a_loss_that_is_wrong_is_no_matter_of_a_warning():
    model = Quadratic(2)
    schedule = CurvatureRate(torch.optim.SGD(model.parameters(), momentum=0.9), model, lambda outputs, targets: outputs)
    with pytest.raises(ValueError, match="loss must be a scalar"):
        schedule.step(2 * batch([4.0, 1.0]))


def test_it_goes_on_where_a_saved_one_stood():
    _, _, schedule = learner(2, every=2)
    schedule.step(batch([4.0, 1.0]))
    state = schedule.state_dict()
    _, sgd, again = learner(2, every=2)
    again.load_state_dict(state)
    again.step(lambda: pytest.fail("it is not time to measure"))
    again.step(batch([8.0, 3.0]))
    schedule.step(batch([8.0, 3.0]))
    schedule.step(batch([8.0, 3.0]))
    assert (again.largest, again.smallest) == (pytest.approx(schedule.largest), pytest.approx(schedule.smallest))
    assert sgd.param_groups[0]["lr"] == pytest.approx(optimal_heavy_ball(again.largest, again.smallest).lr)


def test_bad_input_is_refused():
    for given in ({"every": 0}, {"steps": 0}, {"momentum_max": 1.0}, {"average": 1.0}, {"fraction": 0.0}):
        with pytest.raises(ValueError, match=next(iter(given))):
            learner(**given)
    model = Quadratic(2)
    for bad in (
        torch.optim.Adam(model.parameters()),
        torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True),
        torch.optim.SGD(model.parameters(), momentum=0.9, dampening=0.1),
    ):
        with pytest.raises(ValueError, match="plain heavy-ball momentum"):
            CurvatureRate(bad, model, value)
