"""What holds for every loss of two views."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import distributed as dist
from torch import nn

import tests.losses.two_view_oracle as oracle
from assay.losses import similarity
from assay.losses.decoupled_contrastive import DecoupledContrastiveLoss, WeightedDecoupledContrastiveLoss
from assay.losses.hard_contrastive import HardContrastiveLoss, HardSimpleContrastiveLoss, SimpleContrastiveLoss
from assay.losses.info_nce import InfoNCELoss
from assay.trials.memory import TensorMemory
from tests.ranks import on_two_ranks


@pytest.fixture(autouse=True, params=["in place", "plain"])
def path(request, monkeypatch):
    """Both ways of pooling, whatever the size."""
    monkeypatch.setattr(similarity, "SMALL", 0 if request.param == "in place" else 2**40)
    return request.param


def draw(batch, dim=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, dim, generator=g, dtype=dtype)
    return z, z + 0.7 * torch.randn(batch, dim, generator=g, dtype=dtype)


def k_of(z1, alpha):
    return math.ceil(round(alpha * 2 * (len(z1) - 1), 9))


LOSSES = {
    "info-nce": (lambda **o: InfoNCELoss(0.2, **o), lambda a, b: oracle.info_nce(a, b, 0.2)),
    "dcl": (lambda **o: DecoupledContrastiveLoss(0.2, **o), lambda a, b: oracle.dcl(a, b, 0.2)),
    "dclw": (
        lambda **o: WeightedDecoupledContrastiveLoss(0.2, 0.5, **o),
        lambda a, b: oracle.dcl(a, b, 0.2, 2 * oracle.vmf_weights(a, b, 0.5)),
    ),
    "hard": (
        lambda **o: HardContrastiveLoss(0.5, 0.3, **o),
        lambda a, b: oracle.hard(a, b, 0.5, k_of(a, 0.3)),
    ),
    "hard simple": (
        lambda **o: HardSimpleContrastiveLoss(alpha=0.3, **o),
        lambda a, b: oracle.hard_simple(a, b, 1 / k_of(a, 0.3), k_of(a, 0.3)),
    ),
    "simple": (
        lambda **o: SimpleContrastiveLoss(0.1, **o),
        lambda a, b: oracle.hard_simple(a, b, 0.1, None),
    ),
}
CHUNKED = [name for name in LOSSES if name != "simple"]  # which has no matrix to cut


def gradients(loss, z1, z2):
    z = [t.detach().clone().requires_grad_() for t in (z1, z2)]
    value = loss(*z)
    return value.detach(), *torch.autograd.grad(value.sum(), z)


@pytest.mark.parametrize("name", LOSSES)
@given(batch=st.integers(2, 7), dim=st.integers(2, 6), seed=st.integers(0, 1000))
@settings(
    max_examples=8,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it is the same for all examples
)
def test_each_anchor_has_the_value_of_the_definition(name, batch, dim, seed):
    make, by_hand = LOSSES[name]
    z1, z2 = draw(batch, dim, seed)
    found = make(reduction="none")(z1, z2)
    np.testing.assert_allclose(found, by_hand(z1, z2), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(make()(z1, z2), found.mean())
    torch.testing.assert_close(make(reduction="sum")(z1, z2), found.sum())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_gradients(name, chunk_size):
    if chunk_size is not None and name not in CHUNKED:
        pytest.skip("it has no matrix to cut")
    options = {} if chunk_size is None else {"chunk_size": chunk_size}
    if name == "dclw":
        options["detach_weights"] = False  # finite differences see through a detached one
    z1, z2 = draw(4)
    # tau large enough for finite differences, and no ties near the threshold
    assert torch.autograd.gradcheck(LOSSES[name][0](**options), (z1.requires_grad_(), z2.requires_grad_()))


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 14, 100])
def test_a_chunked_loss_is_the_plain_one(name, chunk_size):
    z1, z2 = draw(7)
    make = LOSSES[name][0]
    for found, want in zip(gradients(make(chunk_size=chunk_size), z1, z2), gradients(make(), z1, z2), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name):
    for options in ({}, {"chunk_size": 4}):
        if options and name not in CHUNKED:
            continue
        if name == "dclw":
            options["detach_weights"] = False
        z = [v.requires_grad_() for v in draw(3, 3)]
        assert torch.autograd.gradgradcheck(LOSSES[name][0](**options), z)


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_images_and_the_length_of_embeddings_do_not_matter(name):
    z1, z2 = draw(6)
    loss = LOSSES[name][0]()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    lengths = torch.rand(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    torch.testing.assert_close(loss(z1[order], z2[order]), loss(z1, z2))
    torch.testing.assert_close(loss(z1 * lengths, z2 * lengths.flip(0)), loss(z1, z2))
    torch.testing.assert_close(loss(z2, z1), loss(z1, z2))


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_have_length_one_may_be_taken_as_they_are(name):
    z1, z2 = (nn.functional.normalize(z) for z in draw(6))
    make = LOSSES[name][0]
    torch.testing.assert_close(make(normalize=False)(z1, z2), make()(z1, z2))


@pytest.mark.parametrize("name", LOSSES)
def test_embeddings_that_are_all_equal_or_zero_give_finite_values_and_gradients(name):
    for z in (torch.ones(5, 3), torch.zeros(5, 3)):
        for found in gradients(LOSSES[name][0](), z, z.clone()):
            assert found.isfinite().all()


@pytest.mark.parametrize("name", CHUNKED)
@pytest.mark.parametrize("temperature", [1e-3, 1e4])
def test_extreme_temperatures_stay_finite_in_float32(name, temperature):
    loss = LOSSES[name][0]()
    if not hasattr(loss, "temperature"):
        pytest.skip("it has no temperature")
    loss.temperature = temperature
    z1, z2 = draw(6, dtype=torch.float32)
    found, exact = gradients(loss, z1, z2), gradients(loss, z1.double(), z2.double())
    for single, double in zip(found, exact, strict=True):
        assert single.isfinite().all()
        scale = double.abs().max()
        torch.testing.assert_close(single.double() / scale, double / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_under_autocast_too(name, dtype):
    loss = LOSSES[name][0]()
    z1, z2 = (z.to(dtype) for z in draw(16, 8, dtype=torch.float32))
    want = gradients(loss, z1.float(), z2.float())
    found = gradients(loss, z1, z2)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == dtype
    torch.testing.assert_close(found[0], want[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1].float(), want[1], rtol=1e-2, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        within = gradients(loss, z1.float(), z2.float())
    for a, b in zip(within, want, strict=True):
        torch.testing.assert_close(a, b)  # to float32's rounding: paths may differ


@pytest.mark.parametrize("name", CHUNKED)
def test_no_more_than_one_matrix_of_similarities_is_alive(name, path):
    if path == "plain":
        pytest.skip("it is for small matrices alone")
    batch = 512
    z1, z2 = draw(batch, 16, dtype=torch.float32)
    matrix = 4 * (2 * batch) ** 2
    for loss, most in ((LOSSES[name][0](), 1.5), (LOSSES[name][0](chunk_size=64), 0.35)):
        memory = TensorMemory()
        with memory:
            gradients(loss, z1, z2)
        assert memory.peak < most * matrix


def test_the_simple_loss_needs_no_matrix():
    batch = 512
    z1, z2 = draw(batch, 16, dtype=torch.float32)
    memory = TensorMemory()
    with memory:
        gradients(SimpleContrastiveLoss(), z1, z2)
    assert memory.peak < 0.25 * 4 * (2 * batch) ** 2


def _on_a_rank(rank):
    z1, z2 = draw(6)
    part = slice(3 * rank, 3 * rank + 3)
    return {name: gradients(make(gather=True), z1[part], z2[part]) for name, (make, _) in LOSSES.items()}


def test_two_processes_gather_to_the_loss_and_the_gradients_of_one_with_the_joined_batch(tmp_path, path):
    if path == "plain":
        pytest.skip("other processes take the path of the size")
    ranks = on_two_ranks(_on_a_rank, tmp_path)
    for name, (make, _) in LOSSES.items():
        value, *views = gradients(make(), *draw(6))
        found = [rank[name] for rank in ranks]
        torch.testing.assert_close((found[0][0] + found[1][0]) / 2, value)
        for view, want in enumerate(views, 1):  # as DistributedDataParallel does, the mean over processes
            torch.testing.assert_close(torch.cat([rank[view] for rank in found]) / 2, want)


def test_without_a_group_of_processes_there_is_nothing_to_gather():
    assert not dist.is_initialized()
    z1, z2 = draw(4)
    torch.testing.assert_close(InfoNCELoss(gather=True)(z1, z2), InfoNCELoss()(z1, z2))


@pytest.mark.parametrize("name", LOSSES)
def test_a_state_dict_is_empty_and_a_copy_the_same(name):
    loss = LOSSES[name][0]()
    assert loss.state_dict() == {}
    z1, z2 = draw(4)
    assert torch.equal(copy.deepcopy(loss)(z1, z2), loss(z1, z2))


@pytest.mark.skipif(hasattr(InfoNCELoss.forward, "__wrapped__"), reason="the checks of shapes break the graph")
@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_graph_break(name, path):
    if path == "plain":
        pytest.skip("a compiled loss has one path")
    torch._dynamo.reset()
    z1, z2 = draw(6)
    loss = LOSSES[name][0]()
    wanted = gradients(loss, z1, z2)
    for chunk_size in (None, 5):
        loss.chunk_size = chunk_size
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        for found, want in zip(gradients(compiled, z1, z2), wanted, strict=True):
            torch.testing.assert_close(found, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", LOSSES)
def test_cuda_equals_the_cpu(name):
    z1, z2 = draw(9)
    loss = LOSSES[name][0]()
    for found, want in zip(gradients(loss, z1.cuda(), z2.cuda()), gradients(loss, z1, z2), strict=True):
        torch.testing.assert_close(found.cpu(), want)


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_image_and_views_that_do_not_fit_are_refused(name):
    loss = LOSSES[name][0]()
    z1, z2 = draw(4)
    with pytest.raises(ValueError, match="at least two images, or there are no negatives, got 1"):
        loss(z1[:1], z2[:1])
    if hasattr(InfoNCELoss.forward, "__wrapped__"):
        return  # the checks of shapes speak first
    with pytest.raises(ValueError, match=r"one shape \[batch, dim\], got \[4, 5\] and \[3, 5\]"):
        loss(z1, z2[:3])
    with pytest.raises(ValueError, match=r"one shape \[batch, dim\], got \[5\] and \[5\]"):
        loss(z1[0], z2[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoNCELoss(0.0), r"temperature must be positive and finite, got 0\.0"),
        (lambda: DecoupledContrastiveLoss(math.inf), "temperature must be positive and finite, got inf"),
        (lambda: WeightedDecoupledContrastiveLoss(math.nan), "temperature must be positive and finite, got nan"),
        (lambda: WeightedDecoupledContrastiveLoss(sigma=0.0), r"sigma must be positive, got 0\.0"),
        (lambda: HardContrastiveLoss(-1.0), r"temperature must be positive and finite, got -1\.0"),
        (lambda: HardContrastiveLoss(alpha=0.0), r"alpha must lie in \(0, 1\], got 0\.0"),
        (lambda: HardSimpleContrastiveLoss(alpha=1.5), r"alpha must lie in \(0, 1\], got 1\.5"),
        (lambda: HardSimpleContrastiveLoss(num_hard=0), "num_hard must be positive, got 0"),
        (lambda: InfoNCELoss(chunk_size=0), "chunk_size must be positive, got 0"),
        (lambda: InfoNCELoss(reduction="max"), "reduction must be one of mean, sum, none, got 'max'"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
