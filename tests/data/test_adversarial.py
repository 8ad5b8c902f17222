import pytest
import torch
from torch import nn

from assay.data.adversarial import PGD


def pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(*shape, seed=5):
    """A linear objective whose gradient is known: sum of w * x."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w, lambda x: (x * w).flatten(1).sum(1)


def same(outputs):
    return outputs


@pytest.mark.parametrize("start", ["uniform", "gaussian", "zero"])
def test_linf_reaches_the_corner_that_is_best_for_a_linear_objective(start):
    x = 0.3 + 0.4 * pictures(5, 3, 4, 4)  # the ball lies inside of [0, 1]
    w, f = linear(3, 4, 4)
    found = PGD(0.1, steps=10, start=start)(f, x, same, seeded())
    torch.testing.assert_close(found, x + 0.1 * w.sign())


@pytest.mark.parametrize("start", ["uniform", "gaussian", "zero"])
def test_l2_reaches_the_point_of_the_sphere_that_is_best(start):
    x = 0.4 + 0.2 * pictures(5, 6)
    w, f = linear(6)
    found = PGD(0.3, steps=40, step_size=0.1, norm="l2", start=start)(f, x, same, seeded())
    torch.testing.assert_close(found, x + 0.3 * w / w.norm(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_never_leaves_the_ball_nor_the_pixels(norm, start, steps):
    x = pictures(6, 1, 5, 5)
    x[0], x[1] = 0, 1
    _, f = linear(1, 5, 5)
    found = PGD(0.2, steps, step_size=0.5, norm=norm, start=start)(f, x, same, seeded())
    assert found.min() >= 0
    assert found.max() <= 1
    change = (found - x).flatten(1)
    lengths = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (lengths <= 0.2 + 1e-12).all()
    assert (lengths > 0).any()


def test_epsilon_is_in_pixels_whatever_the_normalisation():
    pixels = pictures(4, 3, 5, 5)
    mean, std = (0.2, 0.5, 0.3), (0.1, 0.4, 2.0)
    m, s = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    _, f = linear(3, 5, 5)
    for norm in ("linf", "l2"):
        plain = PGD(0.1, 5, norm=norm)(f, pixels, same, seeded())
        found = PGD(0.1, 5, norm=norm, mean=mean, std=std)(lambda x: f(x * s + m), (pixels - m) / s, same, seeded())
        torch.testing.assert_close(found * s + m, plain)


def test_uniform_starts_fill_the_ball():
    x = torch.full((4000, 2), 0.5, dtype=torch.float64)
    for norm, share in (("linf", 0.25), ("l2", 0.25)):  # of the area, the ball of half the radius has a quarter
        change = PGD(0.2, 0, norm=norm)(lambda x: x, x, same, seeded()) - x
        lengths = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert (lengths < 0.1).double().mean().item() == pytest.approx(share, abs=0.03)
        assert change.mean(0).abs().max() < 0.01


def test_restarts_keep_the_best_of_each_sample():
    # two peaks: which one is climbed depends on the start
    x = torch.full((200, 1), 0.5, dtype=torch.float64)

    def peaks(at):
        d = (at - 0.5)[:, 0]
        return torch.where(d > 0, 2 * d, -d)

    once = peaks(PGD(0.2, 10)(same, x, peaks, seeded()))
    often = peaks(PGD(0.2, 10, restarts=12)(same, x, peaks, seeded()))
    assert 0.3 < (once > 0.3).double().mean() < 0.7
    torch.testing.assert_close(often, torch.full_like(often, 0.4))


@pytest.mark.parametrize(("mode", "sees"), [("eval", False), ("train", True), ("as is", True)])
def test_the_network_is_attacked_in_the_mode_asked_for_and_put_back(mode, sees):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3)).double()
    x = pictures(4, 1, 5, 5)
    model(x)
    model[3].eval()
    before = model[1].running_mean.clone()
    seen = []
    model[1].register_forward_hook(lambda m, i, o: seen.append(m.training))
    PGD(0.1, 2, mode=mode)(model, x, lambda h: h.sum(1), seeded())
    assert seen == [sees] * 2
    assert [m.training for m in model] == [True, True, True, False]
    assert torch.equal(model[1].running_mean, before) != sees


def test_parameters_get_no_gradients_and_the_attack_works_without_grad():
    model = nn.Linear(4, 3).double()
    x = pictures(5, 4)
    with torch.no_grad():
        found = PGD(0.1, 3)(model, x, lambda h: h[:, 0], seeded())
    assert not found.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert (model(found)[:, 0] > model(x)[:, 0]).all()


def test_the_generator_alone_decides():
    model, x = nn.Linear(4, 3).double(), pictures(5, 4)
    a, b, c = (PGD(0.1, 0)(model, x, lambda h: h[:, 0], seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(PGD(0.0, 5)(model, x, lambda h: h[:, 0], seeded()), x)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_flat_objective_stays_finite(norm):
    x = pictures(3, 4)
    found = PGD(0.1, 3, norm=norm, start="zero")(lambda at: 0 * at, x, lambda h: h.sum(1))
    torch.testing.assert_close(found, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_generator_on_the_cpu_serves_cuda():
    x = pictures(3, 4)
    found = PGD(0.1, 0)(lambda at: at, x.cuda(), same, seeded()).cpu()
    torch.testing.assert_close(found, PGD(0.1, 0)(lambda at: at, x, same, seeded()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be at least 0 and finite, got -1.0"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"restarts": 0}, "restarts at least 1"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"std": (1.0, 0.0)}, "std must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**{"epsilon": 0.1} | settings)


@pytest.mark.skipif(hasattr(PGD.__call__, "__wrapped__"), reason="the checks of types refuse them first")
@pytest.mark.parametrize("name", ["norm", "start", "mode"])
def test_unknown_words_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'l1'"):
        PGD(0.1, **{name: "l1"})


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one value a sample"):
        PGD(0.1)(same, pictures(3, 4), lambda h: h)
    with pytest.raises(ValueError, match="x must be a batch of a floating type"):
        PGD(0.1)(same, torch.ones(3, 4, dtype=torch.long), lambda h: h)
    with pytest.raises(ValueError, match="one value a channel"):
        PGD(0.1, mean=(0.0, 0.0))(same, pictures(3, 4, 2, 2), lambda h: h)
