import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn.multi_sample_dropout import (
    MultiSampleDropout,
    RandomFlip,
    RandomShift,
    multi_sample_dropout_loss,
    multi_sample_loss,
    to_multi_sample_dropout,
)

DROPOUTS = [nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), nn.Dropout1d(0.3), nn.AlphaDropout(0.2)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Dropout2d(0.1), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3),
    )  # fmt: skip


def data(n=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 6, 6, generator=g), torch.randint(3, (n,), generator=g)


class Recorded(nn.Module):
    """A dropout that keeps the masks it drew."""

    def forward(self, z):
        self.mask = (torch.rand(z.shape) < 0.5).to(z) / 0.5
        return z * self.mask


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_one_sample_is_plain_dropout_to_the_bit(dropout):
    z, y = torch.randn(6, 4, 3), torch.randint(3, (6,))
    head = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    torch.manual_seed(1)
    want = F.cross_entropy(head(dropout(z.clone())), y)
    torch.manual_seed(1)
    got = multi_sample_loss(F.cross_entropy, head(MultiSampleDropout(dropout, 1)(z)), y)
    assert torch.equal(got, want)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_every_copy_has_a_mask_of_its_own(dropout):
    z = torch.randn(6, 40, 3)
    copies = MultiSampleDropout(dropout, 4)(z).view(4, 6, 40, 3)
    assert all(not torch.equal(copies[i], copies[j]) for i in range(4) for j in range(i))
    if isinstance(dropout, nn.Dropout1d):
        zero = (copies == 0).all(-1)
        assert torch.equal(zero, (copies == 0).any(-1))
        torch.testing.assert_close(copies[~zero], z.expand_as(copies)[~zero] / 0.7)
    if isinstance(dropout, nn.Dropout):
        assert ((copies == 0) | (copies == 2 * z)).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_stacked_form_is_the_loop_over_samples_with_the_same_masks(reduction):
    backbone, dropout = nn.Linear(4, 6).double(), Recorded()
    head = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(3, (7,))
    stack = MultiSampleDropout(dropout, 3)
    got = multi_sample_loss(F.cross_entropy, head(stack(backbone(x))), y, reduction)
    parameters = [*backbone.parameters(), *head.parameters()]
    gradients = torch.autograd.grad(got.sum(), parameters)
    total = 0
    means = [torch.zeros_like(p) for p in parameters]
    for mask in dropout.mask.chunk(3):
        loss = F.cross_entropy(head(backbone(x) * mask), y, reduction=reduction)
        for mean, g in zip(means, torch.autograd.grad(loss.sum(), parameters), strict=True):
            mean += g / 3
        total = total + loss / 3
    torch.testing.assert_close(got, total)
    torch.testing.assert_close(list(gradients), means)


def test_mean_over_masks_is_the_closed_form_and_its_variance_falls_as_one_over_m():
    torch.manual_seed(0)
    p, draws = 0.3, 4000
    z, w, y = torch.randn(3, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64), torch.randn(3)
    want = ((y - z @ w) ** 2 + p / (1 - p) * (z**2 @ w**2)).mean().item()

    def losses(samples):  # `draws` independent values of the M-sample loss
        rows = MultiSampleDropout(nn.Dropout(p), samples * draws)(z).view(draws, samples, 3, 6)
        return ((y - rows @ w) ** 2).mean((1, 2))

    one, eight = losses(1), losses(8)
    for values in (one, eight):
        assert values.mean().item() == pytest.approx(want, abs=4 * values.std().item() / math.sqrt(draws))
    assert (one.var() / eight.var()).item() == pytest.approx(8, rel=0.15)


def test_averaged_losses_are_never_below_the_loss_of_averaged_logits():
    logits, y = torch.randn(8 * 5, 3), torch.randint(3, (5,))
    averaged = F.cross_entropy(logits.view(8, 5, 3).mean(0), y)
    assert multi_sample_loss(F.cross_entropy, logits, y) > averaged


@pytest.mark.parametrize("samples", [1, 8])
def test_evaluation_does_not_depend_on_the_number_of_samples(samples):
    model, (x, _) = network().eval(), data()
    want = model(x)
    assert torch.equal(to_multi_sample_dropout(model, samples)(x), want)


def test_without_dropout_every_number_of_samples_gives_the_plain_loss():
    z, y, head = torch.randn(6, 4), torch.randint(3, (6,)), nn.Linear(4, 3)
    got = multi_sample_dropout_loss(z, y, head, dropout=nn.Dropout(0.0), num_samples=8)
    assert torch.equal(got, F.cross_entropy(head(z), y))


CRITERIA = {
    "label smoothing": (lambda o, y, reduction: F.cross_entropy(o, y, label_smoothing=0.1, reduction=reduction), int),
    "class weights": (
        lambda o, y, reduction: F.cross_entropy(o, y, weight=torch.tensor([1.0, 2.0, 7.0]), reduction=reduction),
        int,
    ),
    "soft targets": (F.cross_entropy, float),
    "a tuple of heads": (lambda o, y, reduction: F.cross_entropy(o[0], y, reduction=reduction) + o[1].mean(), tuple),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_other_losses_are_averaged_too(name):
    criterion, kind = CRITERIA[name]
    logits, y = torch.randn(4 * 6, 3, dtype=torch.float64), torch.randint(3, (6,))
    if kind is float:
        y = torch.rand(6, 3, dtype=torch.float64).softmax(-1)
    if name == "class weights":
        logits = logits.float()
    outputs = (logits, logits**2) if kind is tuple else logits
    parts = zip(*(t.chunk(4) for t in outputs), strict=True) if kind is tuple else logits.chunk(4)
    want = torch.stack([criterion(part, y, reduction="mean") for part in parts]).mean()
    torch.testing.assert_close(multi_sample_loss(criterion, outputs, y), want)


def test_sequences_of_targets_and_nested_targets_keep_their_shape():
    logits, y = torch.randn(2 * 4, 3, 7), torch.randint(3, (4, 7))
    got = multi_sample_loss(F.cross_entropy, logits, y, "none")
    assert got.shape == (4, 7)
    torch.testing.assert_close(got, sum(F.cross_entropy(part, y, reduction="none") for part in logits.chunk(2)) / 2)

    def criterion(outputs, target, reduction):
        return target["weight"] * F.cross_entropy(outputs, target["y"], reduction=reduction)

    torch.testing.assert_close(multi_sample_loss(criterion, logits, {"y": y, "weight": 3.0}), 3 * got.mean())


def test_half_precision_losses_are_averaged_in_float32():
    logits, y = torch.randn(8 * 4, 3).bfloat16(), torch.randint(3, (4,))
    got = multi_sample_loss(F.cross_entropy, logits, y, "none")
    each = F.cross_entropy(logits, y.repeat(8), reduction="none").view(8, 4)
    assert torch.equal(got, each.float().mean(0))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk_size", [1, 3, 8, 20])
def test_chunks_of_samples_give_the_loss_and_gradients_of_their_masks(reduction, chunk_size):
    dropout, masks = Recorded(), []
    z, y = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randint(3, (5,))
    head = nn.Linear(4, 3).double()
    handle = dropout.register_forward_hook(lambda m, a, out: masks.append(m.mask))
    settings = {"dropout": dropout, "num_samples": 8, "chunk_size": chunk_size, "reduction": reduction}
    loss = multi_sample_dropout_loss(z, y, head, **settings)
    handle.remove()
    rows = torch.cat(masks)
    assert len(rows) == 8 * 5
    want = sum(F.cross_entropy(head(z * mask), y, reduction=reduction) for mask in rows.chunk(8)) / 8
    torch.testing.assert_close(loss, want)
    inputs = (z, *head.parameters())
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), inputs), torch.autograd.grad(want.sum(), inputs))


def test_features_are_computed_once():
    model, (x, y) = to_multi_sample_dropout(network(), 8), data()
    rows = []
    for layer in (model[0], model[5], model[8]):
        layer.register_forward_hook(lambda m, a, out: rows.append(len(out)))
    multi_sample_loss(F.cross_entropy, model(x), y).backward()
    assert rows == [5, 40, 40]


def test_surgery_begins_at_the_first_dropout_of_the_tail_and_keeps_state_and_optimizer():
    model = network()
    keys, parameters = list(model.state_dict()), list(map(id, model.parameters()))
    assert to_multi_sample_dropout(model, 4) is model
    assert [i for i, m in enumerate(model) if isinstance(m, MultiSampleDropout)] == [4]
    assert list(model.state_dict()) == keys
    assert list(map(id, model.parameters())) == parameters
    network().load_state_dict(model.state_dict())


def test_surgery_takes_a_named_dropout_and_again_changes_the_number_only():
    model = to_multi_sample_dropout(network(), 4, layer="7")
    dropout, layers = model[7].dropout, list(model.modules())
    to_multi_sample_dropout(model, 4, layer="7")
    assert list(model.modules()) == layers
    to_multi_sample_dropout(model, 6, layer="7")
    assert model[7].num_samples == 6
    assert model[7].dropout is dropout
    model = to_multi_sample_dropout(to_multi_sample_dropout(network(), 4), 2)
    assert model(data()[0]).shape == (10, 3)


def test_surgery_passes_over_a_dropout_that_drops_nothing():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.0), nn.Linear(3, 3), nn.Dropout(0.2), nn.Linear(3, 2))
    assert isinstance(to_multi_sample_dropout(model)[3], MultiSampleDropout)


def test_surgery_does_not_reach_into_attention():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1)
    with pytest.raises(ValueError, match="dropout with p > 0 in its tail"):
        to_multi_sample_dropout(nn.Sequential(nn.Dropout(0.1), nn.MultiheadAttention(8, 2), nn.Linear(8, 2)))
    model = nn.Sequential(encoder, nn.LayerNorm(8), nn.Dropout(0.1), nn.Linear(8, 2))
    assert isinstance(to_multi_sample_dropout(model)[2], MultiSampleDropout)


def test_surgery_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="dropout with p > 0 in its tail"):
        to_multi_sample_dropout(nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 1, 1), nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"layer must name a dropout of the model, got '5'; it has \['1', '4', '7'\]"):
        to_multi_sample_dropout(network(), layer="5")
    with pytest.raises(ValueError, match="no BatchNorm may come after the dropout '1', got '2'"):
        to_multi_sample_dropout(network(), layer="1")
    shared = nn.Dropout(0.5)
    with pytest.raises(ValueError, match="must stand in one place"):
        to_multi_sample_dropout(nn.Sequential(shared, nn.Linear(2, 2), shared, nn.Linear(2, 2)))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_samples must be a positive whole number, got 0"):
        MultiSampleDropout(nn.Dropout(0.5), 0)
    with pytest.raises((ValueError, TypeError), match="num_samples"):
        MultiSampleDropout(nn.Dropout(0.5), 2.5)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\), got 1"):
        MultiSampleDropout(nn.Dropout(1.0))
    with pytest.raises(ValueError, match="chunk_size must be positive, got 0"):
        multi_sample_dropout_loss(torch.ones(2, 2), torch.zeros(2).long(), nn.Linear(2, 2), chunk_size=0)
    with pytest.raises(ValueError, match="whole multiple of the target's 4 rows, got 6"):
        multi_sample_loss(F.cross_entropy, torch.ones(6, 2), torch.zeros(4).long())
    with pytest.raises(ValueError, match="target must hold a tensor"):
        multi_sample_loss(F.cross_entropy, torch.ones(6, 2), 3)
    with pytest.raises(ValueError, match="reach must be positive, got 0"):
        RandomShift(0)


def test_autocast_trains():
    model, (x, y) = to_multi_sample_dropout(network(), 4), data()
    with torch.autocast("cpu", torch.bfloat16):
        loss = multi_sample_loss(F.cross_entropy, model(x), y)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(hasattr(multi_sample_loss, "__wrapped__"), reason="the checks of shapes break the graph")
def test_compiles_without_a_graph_break():
    model, (x, y) = to_multi_sample_dropout(network(), 4), data()
    other = copy.deepcopy(model)

    @torch.compile(backend="eager", fullgraph=True)
    def step(x, y):
        return multi_sample_loss(F.cross_entropy, model(x), y)

    torch.manual_seed(0)
    got = step(x, y)
    torch.manual_seed(0)
    assert torch.equal(got, multi_sample_loss(F.cross_entropy, other(x), y))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trains_on_cuda():
    model, (x, y) = to_multi_sample_dropout(network(), 4).cuda(), data()
    multi_sample_loss(F.cross_entropy, model(x.cuda()), y.cuda()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_flips_mirror_about_half_of_the_rows():
    z = torch.randn(400, 2, 3)
    torch.manual_seed(0)
    flipped = RandomFlip()(z)
    same, mirrored = ((flipped == want).all(-1).all(-1) for want in (z, z.flip(-1)))
    assert (same | mirrored).all()
    assert 150 < mirrored.sum() < 250
    assert RandomFlip().eval()(z) is z


def test_shifts_move_rows_by_up_to_their_reach_and_zeros_in():
    z = torch.randn(300, 2, 4, 3)
    torch.manual_seed(0)
    shifted = RandomShift(1)(z)
    seen = set()
    for before, after in zip(z, shifted, strict=True):
        fits = []
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                moved = torch.zeros_like(before)
                for row in range(4):
                    for column in range(3):
                        if 0 <= row + dy < 4 and 0 <= column + dx < 3:
                            moved[:, row, column] = before[:, row + dy, column + dx]
                if torch.equal(moved, after):
                    fits.append((dy, dx))
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == 9
    assert RandomShift(1).eval()(z) is z


def test_flips_and_shifts_make_samples_differ():
    z = torch.randn(6, 2, 4, 4)
    copies = MultiSampleDropout(nn.Sequential(RandomFlip(), RandomShift(2)), 3)(z).view(3, *z.shape)
    assert not torch.equal(copies[0], copies[1])
