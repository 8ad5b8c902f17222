"""The head's embedding keeps inner products, whatever its bases have learnt, and is what the official code makes."""

import copy

import numpy as np
import pytest
import torch

from assay.losses.backward_compatible import BT2Loss
from assay.nn.basis_transformation import BasisTransformation, BT2Head


def features(batch=6, size=14, seed=0, dtype=torch.float64):
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def head(old=6, new=8, classes=3, seed=0, **options):
    torch.manual_seed(seed)
    made = BT2Head(old, new, classes, **({"added_dim": 4} | options)).double()
    for basis in (made.new_basis, made.old_basis):
        exact(basis)
    return made


def exact(basis):
    """It was made in float32, and is orthonormal to that many bits only."""
    with torch.no_grad():
        basis.weight = torch.linalg.qr(basis.weight).Q


def identity(weight):
    return (weight.double() @ weight.double().T - torch.eye(len(weight), dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize("how", ["matrix_exp", "cayley", "householder"])
def test_a_basis_stays_orthonormal_in_training(how):
    torch.manual_seed(0)
    basis = BasisTransformation(7, orthogonal_map=how).double()
    exact(basis)
    start = basis.weight.detach().clone()
    assert identity(start) < 1e-12
    optimizer = torch.optim.Adam(basis.parameters(), lr=0.1)
    x, y = features(20, 7), features(20, 7, seed=1)
    losses = []
    for _ in range(40):
        loss = (basis(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert identity(basis.weight.detach()) < 1e-12
    assert losses[-1] < losses[0]
    assert (basis.weight - start).abs().max() > 0.1
    torch.testing.assert_close(basis(x).norm(dim=1), x.norm(dim=1))


def test_its_gradient_is_right():
    torch.manual_seed(0)
    basis = BasisTransformation(4).double()
    (raw,) = basis.parameters()
    x = features(3, 4)

    def value(a):
        return torch.func.functional_call(basis, {next(iter(dict(basis.named_parameters()))): a}, x)

    assert torch.autograd.gradcheck(value, raw.detach().clone().requires_grad_())


def test_a_basis_may_start_from_a_given_matrix():
    wanted = torch.linalg.qr(features(5, 5)).Q
    basis = BasisTransformation(5).double()
    basis.weight = wanted
    torch.testing.assert_close(basis.weight, wanted)
    torch.testing.assert_close(basis(features(2, 5)), features(2, 5) @ wanted.T)


def test_inner_products_are_those_of_the_added_part_and_of_the_feature():
    model, v = head(scale=1.7), features()
    output = model(v)
    added = torch.nn.functional.normalize(model.old(v.relu())[:, :4], dim=1)
    wanted = added @ added.T + 1.7**2 * output.feature @ output.feature.T
    torch.testing.assert_close(output.embedding @ output.embedding.T, wanted)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.full((6,), (1 + 1.7**2) ** 0.5, dtype=torch.float64))
    assert torch.equal(output.embedding[:, :6], output.compatible)
    torch.testing.assert_close(output.feature, v[:, :8] / v[:, :8].norm(dim=1, keepdim=True))
    torch.testing.assert_close(output.logits, output.feature @ model.readout.weight.T)


def test_the_feature_can_be_had_back_from_the_embedding():
    model, v = head(scale=2.0), features()
    output = model(v)
    r = torch.cat([output.compatible @ model.old_basis.weight, output.embedding[:, 6:]], 1)
    torch.testing.assert_close(r[:, 4:] @ model.new_basis.weight / 2.0, output.feature)


@pytest.mark.parametrize(("old", "new", "added"), [(6, 8, 0), (6, 6, 0), (8, 5, 4), (8, 5, 3), (3, 9, 3), (6, 2, 4)])
def test_any_sizes_that_fit_are_good(old, new, added):
    """Where d + n_add = d_old, an edge at which slices from the end go wrong."""
    output = head(old, new, added_dim=added)(features(4, old + new))
    assert output.compatible.shape == (4, old)
    assert output.embedding.shape == (4, new + added)
    wanted = 2.0**2 + (1 if added else 0)
    torch.testing.assert_close(output.embedding.square().sum(1), torch.full((4,), wanted, dtype=torch.float64))


def test_without_added_dimensions_the_embedding_is_the_feature_turned():
    model, v = head(added_dim=0, scale=3.0), features()
    turned = 3.0 * model(v).feature @ model.new_basis.weight.T
    turned = torch.cat([turned[:, :6] @ model.old_basis.weight.T, turned[:, 6:]], 1)
    torch.testing.assert_close(model(v).embedding, turned)


def test_with_a_small_scale_the_added_part_ranks():
    model, v = head(scale=1e-6), features()
    added = torch.nn.functional.normalize(model.old(v.relu())[:, :4], dim=1)
    output = model(v)
    torch.testing.assert_close(output.embedding @ output.embedding.T, added @ added.T, rtol=0, atol=1e-9)


def test_a_batch_of_one_keeps_its_axis():
    assert head()(features(1)).embedding.shape == (1, 12)


def test_zero_features_stay_finite():
    model = head()
    v = torch.zeros(2, 14, dtype=torch.float64, requires_grad=True)
    output = model(v)
    output.embedding.sum().backward()
    assert output.embedding.isfinite().all()
    assert v.grad.isfinite().all()


def test_under_autocast_the_bases_stay_orthonormal():
    torch.manual_seed(0)
    model = BT2Head(6, 8, 3, added_dim=4)
    v = features(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(v)
        output.embedding.square().sum().backward()
    assert output.embedding.dtype == torch.float32
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.full((6,), 5**0.5))
    assert identity(model.old_basis.weight.detach()) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_the_same_on_a_gpu():
    model, v = head(), features()
    wanted = model(v).embedding
    torch.testing.assert_close(model.cuda()(v.cuda()).embedding.cpu(), wanted)


def test_its_state_goes_round():
    model, v = head(), features()
    other = head(seed=1)
    assert not torch.equal(other(v).embedding, model(v).embedding)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(v).embedding, model(v).embedding, rtol=0, atol=1e-12)


def test_heads_can_be_chained_over_generations():
    """A new generation's old vectors are the last one's embeddings, normalised: d_old grows by what was added."""
    sizes, old = [], 4
    for generation in range(3):
        model = head(old, 5, added_dim=2, seed=generation)
        embedding = model(features(3, old + 5, seed=generation)).embedding
        sizes.append(embedding.shape[1])
        old = embedding.shape[1]
        if old > 5 + 2:
            break
    assert sizes == [7, 7, 7]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"old": 0}, "must be positive, got 0, 8 and 3"),
        ({"classes": 0}, "must be positive"),
        ({"added_dim": 7}, "added_dim must lie in 0..6, the old model's dimensions, got 7"),
        ({"added_dim": -1}, "got -1"),
        ({"old": 12, "added_dim": 3}, "new_dim \\+ added_dim must be at least old_dim, 12, got 8 \\+ 3"),
        ({"scale": 0.0}, "scale must be positive"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        head(**options)


def test_a_basis_has_a_dimension():
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        BasisTransformation(0)


def test_reference_vectors(vectors):
    found = np.load(vectors / "bt2.npz", allow_pickle=False)
    data = {name: torch.from_numpy(found[name]) for name in found.files if found[name].dtype.kind != "U"}
    new, old, added, scale, classes = data["cfg"].tolist()
    model = BT2Head(int(old), int(new), int(classes), added_dim=int(added), scale=scale).double()
    with torch.no_grad():
        model.old.weight.copy_(data["fc3_w"])
        model.old.bias.copy_(data["fc3_b"])
        model.readout.weight.copy_(data["fc_out_w"])
    model.new_basis.weight, model.old_basis.weight = data["basis_p"], data["basis_old"]
    output = model(data["features"])
    for mine, theirs in zip(output, ("logits", "bct_feature", "feature", "new_feature"), strict=True):
        torch.testing.assert_close(mine, data[theirs], rtol=0, atol=1e-9)
    lambda_new, lambda_influence, lambda_old = data["lambdas"].tolist()
    loss = BT2Loss(
        data["pseudo_classifier"], lambda_new=lambda_new, lambda_influence=lambda_influence, lambda_old=lambda_old
    )(output, data["y"], data["phi_old"], data["phi_new"])
    torch.testing.assert_close(loss, data["loss"], rtol=0, atol=1e-9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(model.old.weight.detach(), data["fc3_w_after"], rtol=0, atol=1e-9)
    torch.testing.assert_close(model.readout.weight.detach(), data["fc_out_w_after"], rtol=0, atol=1e-9)
    torch.testing.assert_close(model.new_basis.weight.detach(), data["basis_p_after"], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.old_basis.weight.detach(), data["basis_old_after"], rtol=0, atol=1e-6)
