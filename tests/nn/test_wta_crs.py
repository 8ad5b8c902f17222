"""Layers that sample, against exact ones, the formula for given rows, and the mean of many draws."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import assay.nn.wta_crs as wta_crs
from assay.analysis.saved_activations import SavedActivations, like_cuda
from assay.models.t5 import T5Block
from assay.models.transformer import Transformer
from assay.nn.column_row_sampling import Rows
from assay.nn.gradient_norm_cache import GradientNormCache
from assay.nn.packed_masks import to_packed_masks
from assay.nn.product import Product
from assay.nn.wta_crs import WTACRSLinear, WTACRSProduct, to_wta_crs

CHECKED = hasattr(WTACRSLinear.forward, "__wrapped__")  # by jaxtyping


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def pair(features=6, out=4, dtype=torch.float64, **settings):
    """A layer that samples and the plain one with its parameters."""
    torch.manual_seed(0)
    ours, plain = (
        WTACRSLinear(features, out, dtype=dtype, **settings),
        nn.Linear(features, out, dtype=dtype),
    )
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def gradients(layer, *inputs, upstream=9):
    y = layer(*inputs)
    found = torch.autograd.grad(y, (*inputs, *layer.parameters()), draw(*y.shape, seed=upstream, dtype=y.dtype))
    return [y, *found]


def means(layer, count, *inputs):
    """The mean gradients of `count` backward passes and the standard errors of these."""
    runs = [gradients(layer, *inputs)[1:] for _ in range(count)]
    found = [torch.stack(parts) for parts in zip(*runs, strict=True)]
    return [(g.mean(0), g.std(0) / count**0.5) for g in found]


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_reference_vectors(vectors, case, monkeypatch):
    data = np.load(vectors / "wta-crs.npz", allow_pickle=False)

    def get(name):
        return torch.from_numpy(data[f"{case}_{name}"])

    winners, draws = get("k")[2:].tolist()
    x, p, sto = get("x").requires_grad_(), get("prob"), get("sto_idx")
    det = get("det_idx") if winners else sto[:0]
    scale = (1 - p[det].sum()) / (p[sto] * draws)
    given = Rows(torch.cat([det, sto]), torch.cat([torch.ones(winners, dtype=p.dtype), scale]))
    monkeypatch.setattr(wta_crs, "choose_rows", lambda *_: given)
    ratio, least = get("cfg").tolist()
    layer, _ = pair(*reversed(get("weight").shape), ratio=ratio, min_rows=int(least))
    layer.load_state_dict({"weight": get("weight"), "bias": get("bias")})
    y = layer(x)
    found = (y, *torch.autograd.grad(y, (x, layer.weight, layer.bias), get("grad_out")))
    for got, name in zip(found, ("y", "grad_x", "grad_w", "grad_b"), strict=True):
        torch.testing.assert_close(got.detach(), get(name), rtol=0, atol=1e-10)


def test_all_but_the_gradient_of_the_weight_is_exact():
    ours, plain = pair(ratio=0.2, min_rows=1)
    x = draw(3, 7, 6)
    y, dx, dw, db = gradients(ours, x)
    for got, want in zip((y, dx, db), [gradients(plain, x)[i] for i in (0, 1, 3)], strict=True):
        torch.testing.assert_close(got, want)
    assert not torch.allclose(dw, gradients(plain, x)[2])


@pytest.mark.parametrize("estimator", ["wta", "crs"])
@pytest.mark.parametrize("cached", [True, False])
def test_the_mean_gradient_of_a_weight_is_the_exact_one(estimator, cached):
    cache = GradientNormCache() if cached else None
    ours, plain = pair(ratio=0.3, min_rows=1, estimator=estimator, cache=cache)
    x = draw(2, 10, 6)
    want = gradients(plain, x)[2]
    torch.manual_seed(1)
    if cached:
        with cache.batch(torch.tensor([4, 1])):
            gradients(ours, x, upstream=2)  # norms of other gradients are good enough for the law
        with cache.batch(torch.tensor([4, 1])):
            _, (got, error), _ = means(ours, 500, x)
    else:
        _, (got, error), _ = means(ours, 500, x)
    assert ((got - want).abs() < 4.5 * error).all()


def test_the_top_k_miss_the_exact_gradient_on_average():
    ours, plain = pair(ratio=0.3, min_rows=1, estimator="topk")
    x = draw(2, 10, 6)
    assert torch.equal(gradients(ours, x)[2], gradients(ours, x)[2])
    assert not torch.allclose(gradients(ours, x)[2], gradients(plain, x)[2], rtol=0.1)


@pytest.mark.parametrize("shapes", [((2, 3, 12, 5), (2, 3, 5, 14)), ((12, 5), (5, 14))])
def test_the_mean_gradients_of_a_product_are_the_exact_ones(shapes):
    a, b = (draw(*shape, seed=i) for i, shape in enumerate(shapes))
    ours = WTACRSProduct(ratio=0.4, min_rows=1)
    torch.testing.assert_close(ours(a, b), a @ b)
    torch.manual_seed(1)
    for (got, error), want in zip(means(ours, 300, a, b), gradients(Product(), a, b)[1:], strict=True):
        assert ((got - want).abs() < 5 * error + 1e-12).all()  # 858 entries
        assert error.max() > 0


def test_a_product_draws_by_the_norms_of_both_sides_of_its_gradient():
    cache = GradientNormCache()
    ours = WTACRSProduct(ratio=0.3, min_rows=1, cache=cache, key="p")
    a, b = draw(2, 3, 6, 5), draw(2, 3, 5, 8, seed=1)
    with cache.batch(torch.tensor([0, 2])):
        y = ours(a, b)
        g = draw(*y.shape, seed=3)
        y.backward(g)
    state = cache.state_dict()
    for name, norms in (("p.rows", g.norm(dim=3)), ("p.columns", g.norm(dim=2))):
        torch.testing.assert_close(state[name][[0, 2]].double(), norms.flatten(1), rtol=4e-3, atol=0)  # of bfloat16


def test_the_cache_learns_the_norms_of_the_gradients_of_each_sample():
    cache = GradientNormCache()
    ours, _ = pair(min_rows=1, cache=cache, key="layer")
    with cache.batch(torch.tensor([5, 0])):
        y = ours(draw(2, 7, 6))
    g = draw(2, 7, 4, seed=3)
    y.backward(g)
    torch.testing.assert_close(cache.state_dict()["layer"][[5, 0]].double(), g.norm(dim=2), rtol=4e-3, atol=0)


def test_with_known_norms_the_estimate_is_nearer():
    """Where few gradients matter, knowing which makes nearly all of them winners."""
    errors = {}
    for cached in (True, False):
        cache = GradientNormCache()
        ours, plain = pair(ratio=0.25, min_rows=1, cache=cache if cached else None)
        x, g = draw(2, 20, 6), draw(2, 20, 4, seed=3).detach()
        g[:, ::5] *= 1000
        want = torch.autograd.grad(plain(x), plain.weight, g)[0]
        for _ in range(2):
            with cache.batch(torch.arange(2)):
                got = torch.autograd.grad(ours(x), ours.weight, g)[0]
        errors[cached] = ((got - want).norm() / want.norm()).item()
    assert 10 * errors[True] < errors[False]


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.eval(),
        lambda layer: layer.weight.requires_grad_(False),
        lambda layer: setattr(layer, "ratio", 1.0),
        lambda layer: setattr(layer, "min_rows", 21),
    ],
)
def test_what_is_not_to_be_sampled_is_torchs_own(change):
    ours, _ = pair(ratio=0.2, min_rows=1)
    assert type(ours(draw(3, 7, 6)).grad_fn).__name__ == "_LinearBackward"
    change(ours)
    assert type(ours(draw(3, 7, 6)).grad_fn).__name__ != "_LinearBackward"


def test_rows_that_are_samples_are_not_sampled():
    ours, plain = pair(ratio=0.2, min_rows=1)
    for got, want in zip(gradients(ours, draw(30, 6)), gradients(plain, draw(30, 6)), strict=True):
        assert torch.equal(got, want)


def test_the_gradients_of_exact_layers_pass_gradcheck():
    product = WTACRSProduct(ratio=1.0)
    assert torch.autograd.gradcheck(product, (draw(2, 3, 4), draw(2, 4, 5)))
    ours, _ = pair(ratio=0.5, min_rows=1)
    ours.weight.requires_grad_(False)
    assert torch.autograd.gradcheck(ours, draw(2, 4, 6))


def test_the_gradient_of_the_input_passes_gradcheck_while_the_weights_is_sampled():
    ours, _ = pair(ratio=0.5, min_rows=1)
    assert torch.autograd.gradcheck(lambda x: ours(x), draw(2, 4, 6))


def test_inputs_of_zeros_give_zeros():
    ours, _ = pair(ratio=0.2, min_rows=1)
    dw = gradients(ours, torch.zeros(3, 7, 6, dtype=torch.float64, requires_grad=True))[2]
    assert torch.equal(dw, torch.zeros_like(dw))


def test_a_second_derivative_is_refused():
    ours, _ = pair(ratio=0.2, min_rows=1)
    (dx,) = torch.autograd.grad(ours(draw(3, 7, 6)).square().sum(), ours.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_a_kept_row_takes_the_bytes_of_its_numbers_an_index_and_a_weight():
    ours, _ = pair(features=64, out=8, dtype=torch.float32, ratio=0.1)
    x = draw(4, 50, 64, dtype=torch.float32)
    with SavedActivations(ours) as saved:
        y = ours(x)
    del y
    assert saved.bytes == 20 * (64 * 4 + 8 + 8)


@pytest.mark.parametrize(("ratio", "times"), [(0.3, 2.7), (0.1, 2.7)])
def test_a_block_of_t5_base_keeps_two_point_seven_times_less(ratio, times):
    """Counted as on a GPU, where the baseline keeps less than here: 128 tokens, dropout 0.1."""
    x = draw(2, 128, 768, dtype=torch.float32)

    def kept(block):
        with SavedActivations(block) as saved:
            y = block(x)
        del y
        return saved.bytes

    torch.manual_seed(0)
    plain = like_cuda(T5Block())
    treated = to_wta_crs(like_cuda(to_packed_masks(T5Block())), ratio)
    assert kept(plain) / kept(treated) >= times


def test_autocast_gives_what_torchs_layers_give_under_it():
    ours, plain = pair(features=16, dtype=torch.float32, ratio=0.5, min_rows=1)
    x = draw(3, 8, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, dx, dw, db = gradients(ours, x)
        want = gradients(plain, x)
        product = WTACRSProduct(ratio=0.5, min_rows=1)(x, x.mT)
    assert y.dtype == product.dtype == torch.bfloat16
    assert dw.dtype == torch.float32
    for got, exact in zip((y, dx, db), (want[0], want[1], want[3]), strict=True):
        torch.testing.assert_close(got, exact)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_draws_the_same_rows_again(reentrant):
    x, found = draw(3, 7, 6), []
    for checkpointed in (False, True):
        cache = GradientNormCache()
        ours, _ = pair(ratio=0.3, min_rows=1, cache=cache)
        for seed in range(2):  # without, then with norms that are known
            torch.manual_seed(seed)
            ours.zero_grad()
            with cache.batch(torch.arange(3)):
                y = checkpoint(ours, x, use_reentrant=reentrant) if checkpointed else ours(x)
                y.square().sum().backward()
            found.append(ours.weight.grad)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])


@pytest.mark.skipif(CHECKED, reason="shapes cannot be checked inside a compiler")
def test_compiled_layers_sample_in_one_graph():
    torch.compiler.reset()
    ours, plain = pair(ratio=0.3, min_rows=1, dtype=torch.float32)
    x = draw(3, 7, 6, dtype=torch.float32)
    y, dx, dw, db = gradients(torch.compile(ours, fullgraph=True, backend="aot_eager"), x)
    want = gradients(plain, x)
    for got, exact in zip((y, dx, db), (want[0], want[1], want[3]), strict=True):
        torch.testing.assert_close(got, exact)
    assert dw.isfinite().all()
    assert not torch.allclose(dw, want[2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu():
    cache = GradientNormCache()
    ours, plain = pair(ratio=0.3, min_rows=1, cache=cache)
    ours, plain, x = ours.cuda(), plain.cuda(), draw(2, 10, 6).detach().cuda().requires_grad_()
    upstream = draw(2, 10, 4, seed=9).detach().cuda()
    found = []
    for _ in range(2500):
        with cache.batch(torch.arange(2, device="cuda")):
            found.append(torch.autograd.grad(ours(x), ours.weight, upstream)[0])
    each = torch.stack(found)
    want = torch.autograd.grad(plain(x), plain.weight, upstream)[0]
    assert ((each.mean(0) - want).abs() < 4.5 * each.std(0) / 50).all()


def test_state_dicts_go_both_ways():
    ours, plain = pair(cache=GradientNormCache())
    assert list(ours.state_dict()) == list(plain.state_dict())
    nn.Linear(6, 4, dtype=torch.float64).load_state_dict(ours.state_dict())


def kinds(model):
    return {name for name, layer in model.named_modules() if isinstance(layer, WTACRSLinear | WTACRSProduct)}


def test_surgery_treats_a_transformer_of_ours_and_training_it_goes_on():
    torch.manual_seed(0)
    model = Transformer(vocabulary=11, context=16, width=16, depth=1, heads=2, tied=True)
    optimizer, plain = torch.optim.Adam(model.parameters(), lr=0.01), copy.deepcopy(model)
    cache = GradientNormCache()
    to_wta_crs(model, 0.3, cache=cache)
    names = {f"blocks.0.{name}" for name in ("attention.qkv", "attention.out", "up", "down")}
    assert kinds(model) == names | {"readout"}
    assert model.readout.weight is model.embedding.weight
    tokens = torch.randint(11, (6, 16), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(tokens), plain(tokens))
    losses = []
    for _ in range(30):
        with cache.batch(torch.arange(6)):
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert set(cache.state_dict()) == names | {"readout"}


def test_surgery_reaches_products_and_leaves_out_what_it_is_told_to():
    block = to_wta_crs(T5Block(16, 2, 8, 32), 0.1, exclude="attention.qkv", min_rows=2)
    assert kinds(block) == {"attention.o", "attention.scores", "attention.context", "wi", "wo"}
    assert block.wo.ratio == 0.1
    layers = list(block.modules())
    assert list(to_wta_crs(block, 0.1, exclude="attention.qkv", min_rows=2).modules()) == layers
    assert to_wta_crs(block, 0.5).wo.ratio == 0.5


def hugging_face(kind):
    transformers = pytest.importorskip("transformers", reason="the Python package transformers is not installed")
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=31, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
            dropout_rate=0.0,
        )  # fmt: skip
        return transformers.T5ForConditionalGeneration(config)
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_surgery_treats_a_model_of_hugging_face(kind):
    model = hugging_face(kind)
    plain, cache = copy.deepcopy(model), GradientNormCache()
    linear = {name for name, layer in plain.named_modules() if isinstance(layer, nn.Linear)}
    to_wta_crs(model, 0.2, min_rows=1, cache=cache)
    assert kinds(model) == linear
    assert list(model.state_dict()) == list(plain.state_dict())
    tokens = torch.randint(1, 31, (4, 12), generator=torch.Generator().manual_seed(1))
    labels = tokens if kind == "t5" else torch.tensor([0, 1, 1, 0])
    model.train(), plain.train()
    sizes = []
    for network in (model, plain):
        with cache.batch(torch.arange(4)), SavedActivations(network) as saved:
            loss = network(input_ids=tokens, labels=labels).loss
        sizes.append(saved.bytes)
        loss.backward()
        losses = loss.item() if network is model else (losses, loss.item())
    assert losses[0] == pytest.approx(losses[1])
    assert sizes[0] < sizes[1]
    exact = {"bert.pooler.dense", "classifier"} if kind == "bert" else set()
    assert set(cache.state_dict()) == linear - exact
    for name in linear:
        mine, theirs = (network.get_submodule(name).weight.grad for network in (model, plain))
        assert mine.isfinite().all()
        assert torch.allclose(mine, theirs, atol=1e-7) == (name in exact), name


def test_the_block_of_t5_is_hugging_faces():
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Block as Theirs

    torch.manual_seed(0)
    theirs = Theirs(T5Config(d_model=16, d_kv=8, d_ff=32, num_heads=2, dropout_rate=0.0)).eval()
    ours = T5Block(16, 2, 8, 32, dropout=0.0)
    state = {name.replace("layer.", ""): value for name, value in theirs.state_dict().items()}
    attention = {n: state[f"0.SelfAttention.{n}.weight"] for n in "qkvo"}
    ours.load_state_dict(
        {
            "norm1.weight": state["0.layer_norm.weight"],
            "attention.qkv.weight": torch.cat([attention[n] for n in "qkv"]),
            "attention.o.weight": attention["o"],
            "norm2.weight": state["1.layer_norm.weight"],
            "wi.weight": state["1.DenseReluDense.wi.weight"],
            "wo.weight": state["1.DenseReluDense.wo.weight"],
        }
    )
    x, bias = draw(2, 5, 16, dtype=torch.float32), draw(1, 2, 5, 5, seed=1, dtype=torch.float32)
    torch.testing.assert_close(ours(x, bias), theirs(x, position_bias=bias)[0])


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: WTACRSLinear(3, 3, ratio=0.0), r"ratio must lie in \(0, 1\], got 0"),
        (lambda: WTACRSLinear(3, 3, ratio=1.5), r"ratio must lie in \(0, 1\], got 1.5"),
        (lambda: WTACRSLinear(3, 3, min_rows=0), "min_rows must be positive, got 0"),
        (lambda: to_wta_crs(nn.Sequential(nn.Conv2d(1, 1, 1))), "must hold a linear layer, got Sequential"),
        (lambda: to_wta_crs(nn.Sequential(Own(3, 3))), "layer '0' is a Own, want Linear or Product; exclude it"),
    ],
)
def test_what_cannot_be_is_refused(act, says):
    with pytest.raises(ValueError, match=says):
        act()


def test_factors_of_other_batches_are_refused():
    wants = r"a and b must agree|'b'"
    with pytest.raises((ValueError, TypeError), match=wants):  # TypeError where the tests check types
        WTACRSProduct()(draw(2, 40, 3), draw(1, 3, 40))
