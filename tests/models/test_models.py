import pytest
import torch
from torch import nn

from assay.models.cnn import SmallCNN
from assay.models.mlp import MLP
from assay.models.resnet import ResNet
from assay.models.transformer import Transformer


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def resnet_count(depth: int, width: int, classes: int, projection: bool) -> int:
    """Weights of 3x3 convolutions, two numbers a normalised channel, the readout; by hand."""
    n = (depth - 2) // 6
    total, inputs = 3 * 9 * width + 2 * width, width
    for outputs in (width, 2 * width, 4 * width):
        for block in range(n):
            total += 9 * (inputs if block == 0 else outputs) * outputs + 9 * outputs**2 + 4 * outputs
            if projection and block == 0 and inputs != outputs:
                total += inputs * outputs + 2 * outputs
        inputs = outputs
    return total + inputs * classes + classes


@pytest.mark.parametrize("depth", [8, 20, 32, 44])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_resnet_has_the_parameters_of_the_paper(depth: int, shortcut: str) -> None:
    assert count(ResNet(depth, 10, shortcut=shortcut)) == resnet_count(depth, 16, 10, shortcut == "B")
    assert count(ResNet(depth, 7, width=4, shortcut=shortcut)) == resnet_count(depth, 4, 7, shortcut == "B")


def test_resnet_20_32_and_44_have_the_sizes_that_the_paper_prints() -> None:
    assert count(ResNet(20)) == 269_722
    assert [round(count(ResNet(depth)) / 1e6, 2) for depth in (20, 32, 44)] == [0.27, 0.46, 0.66]  # table 6


def test_shortcut_a_is_every_second_pixel_and_zeros() -> None:
    block = ResNet(8, width=4).blocks[1]
    x = torch.randn(2, 4, 8, 8)
    found = block.shortcut(x)
    assert found.shape == (2, 8, 4, 4)
    for channel in range(8):
        for row in range(4):
            for column in range(4):
                wanted = x[:, channel, 2 * row, 2 * column] if channel < 4 else torch.zeros(2)
                assert torch.equal(found[:, channel, row, column], wanted)


def test_a_block_whose_branch_is_zero_is_its_shortcut() -> None:
    block = ResNet(8, width=4).blocks[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_resnet_convolutions_start_as_he_et_al_say() -> None:
    torch.manual_seed(0)
    for module in ResNet(20).modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            fan_in = module.in_channels * 9
            relative = module.weight.std().item() / (2 / fan_in) ** 0.5
            assert relative == pytest.approx(1, abs=6 / (2 * module.weight.numel()) ** 0.5)  # six standard errors


@pytest.mark.parametrize(
    ("model", "shape", "outputs"),
    [
        (ResNet(8), (2, 3, 32, 32), (2, 10)),
        (ResNet(14, 5, width=8, channels=1), (2, 1, 28, 28), (2, 5)),
        (SmallCNN(), (2, 1, 8, 8), (2, 10)),
        (SmallCNN(3, width=4, depth=3), (2, 1, 28, 28), (2, 3)),
        (MLP((64, 32, 10), batch_norm=True), (2, 1, 8, 8), (2, 10)),
        (MLP((7, 3)), (2, 7), (2, 3)),
    ],
)
def test_outputs_have_one_row_a_sample(model: nn.Module, shape: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    assert model(torch.randn(shape)).shape == outputs


def test_small_cnn_and_mlp_have_the_parameters_counted_by_hand() -> None:
    assert count(SmallCNN(10, width=32, depth=2)) == 9 * 32 + 64 + 9 * 32 * 64 + 128 + 64 * 10 + 10
    assert count(MLP((64, 32, 10))) == 64 * 32 + 32 + 32 * 10 + 10
    assert count(MLP((64, 32, 10), batch_norm=True)) == 64 * 32 + 2 * 32 + 32 * 10 + 10


def test_image_models_have_batch_norm_to_act_on() -> None:
    for model in (SmallCNN(), ResNet(8)):
        assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_transformer_has_the_parameters_counted_by_hand() -> None:
    width, depth, context = 24, 3, 10
    block = 4 * width + (3 * width**2 + 3 * width) + (width**2 + width) + (8 * width**2 + 5 * width)
    rest = 256 * width + context * width + 2 * width
    sizes = {"context": context, "width": width, "depth": depth, "heads": 2}
    assert count(Transformer(**sizes, tied=True)) == depth * block + rest
    assert count(Transformer(**sizes)) == depth * block + rest + 256 * width


def test_later_bytes_do_not_change_earlier_logits() -> None:
    torch.manual_seed(0)
    model = Transformer(context=16, width=32, depth=2, heads=4).double().eval()
    tokens = torch.randint(256, (3, 16))
    before = model(tokens)
    for place in (1, 7, 15):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % 256
        after = model(changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert (after[:, place:] - before[:, place:]).abs().amax(dim=(0, 2)).min() > 1e-6


def test_a_prefix_gets_the_logits_of_the_whole() -> None:
    torch.manual_seed(0)
    model = Transformer(context=16, width=32, depth=2, heads=4).double()
    tokens = torch.randint(256, (2, 16))
    torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5])


def test_attention_is_the_softmax_of_scaled_products_over_the_past() -> None:
    torch.manual_seed(0)
    attention = Transformer(width=8, depth=1, heads=2).blocks[0].attention.double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    q, k, v = attention.qkv(x)[0].split(8, dim=1)
    mixed = torch.zeros(5, 8, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            scores = torch.stack([q[t, head] @ k[s, head] / 2 for s in range(t + 1)])
            mixed[t, head] = torch.softmax(scores, 0) @ v[: t + 1, head]
    torch.testing.assert_close(attention(x)[0], attention.out(mixed))


def test_transformer_starts_as_gpt_2_does() -> None:
    torch.manual_seed(0)
    depth = 8
    model = Transformer(width=128, depth=depth)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    for block in model.blocks:
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.03)
        for added in (block.attention.out, block.down):
            assert added.weight.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.03)
            assert not added.bias.any()
    logits = model(torch.randint(256, (4, 100)))
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(256, (400,)))
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item(), abs=0.2)  # a uniform guesser, nearly


def test_a_tied_readout_is_the_embedding_itself() -> None:
    model = Transformer(tied=True)
    assert model.readout.weight is model.embedding.weight


@pytest.mark.parametrize(
    "make", [lambda: ResNet(8), SmallCNN, lambda: MLP((4, 5, 3)), lambda: Transformer(width=16, depth=1)]
)
def test_equal_seeds_give_equal_weights(make) -> None:
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(torch.cat([p.flatten() for p in make().parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(18), r"depth must be 6 n \+ 2 \(8, 14, 20, ...\), got 18"),
        (lambda: ResNet(2), "got 2"),
        (lambda: SmallCNN(depth=0), "depth must be positive, got 0"),
        (lambda: MLP((5,)), r"at least two positive numbers, got \[5\]"),
        (lambda: Transformer(width=10, heads=3), "width must be a multiple of heads, got width 10 and 3 heads"),
        (lambda: Transformer(context=4)(torch.zeros(1, 5, dtype=torch.long)), "at most 4 long, the context, got 5"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="shortcut"):  # TypeError where the tests check types
        ResNet(8, shortcut="C")
