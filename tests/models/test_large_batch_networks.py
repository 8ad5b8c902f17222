"""The networks of "Train longer, generalize better", counted and measured by hand."""

import pytest
import torch
from torch import nn

from assay.models.alexnet import AlexNet, Convolution
from assay.models.large_batch import alexnet_bn, f1, resnet44, shallow_cifar, wresnet16_4
from assay.models.wide_resnet import WideResNet
from assay.nn.ghost_batch_norm import GhostBatchNorm, to_ghost_batch_norm

NETWORKS = {  # the image of each, and how many layers of batch norm it has
    f1: ((1, 28, 28), 5),
    resnet44: ((3, 32, 32), 1 + 3 * 7 * 2),
    wresnet16_4: ((3, 32, 32), 16),
    shallow_cifar: ((3, 32, 32), 4),
    alexnet_bn: ((3, 224, 224), 7),
}
NAMES = [make.__name__ for make in NETWORKS]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def empty(make, *args) -> nn.Module:
    """The network without memory behind its weights."""
    with torch.device("meta"):
        return make(*args)


def shapes(model: nn.Module, x: torch.Tensor, kinds: tuple[type, ...]) -> list[tuple[int, ...]]:
    """Of what each layer of these kinds gives out, without the batch."""
    found: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda m, args, out: found.append(tuple(out.shape[1:])))
    model(x)
    return found


@pytest.mark.parametrize("classes", [10, 7])
def test_f1_has_the_parameters_counted_by_hand(classes):
    assert count(f1(classes)) == 784 * 512 + 4 * 512 * 512 + 5 * 2 * 512 + 512 * classes + classes


@pytest.mark.parametrize("classes", [10, 7])
def test_resnet44_has_the_parameters_counted_by_hand(classes):
    convolutions = 3 * 16 + 14 * 16 * 16 + (16 * 32 + 13 * 32 * 32) + (32 * 64 + 13 * 64 * 64)
    norms = 2 * (16 + 14 * 16 + 14 * 32 + 14 * 64)
    assert count(resnet44(classes)) == 9 * convolutions + norms + 64 * classes + classes


@pytest.mark.parametrize("classes", [10, 100])
def test_wresnet16_4_has_the_parameters_counted_by_hand(classes):
    wide = 3 * 16 + (16 * 64 + 3 * 64**2) + (64 * 128 + 3 * 128**2) + (128 * 256 + 3 * 256**2)
    narrow = 16 * 64 + 64 * 128 + 128 * 256
    norms = 2 * (16 + 5 * 64 + 5 * 128 + 5 * 256)
    assert count(wresnet16_4(classes)) == 9 * wide + narrow + norms + 256 * classes + classes


def test_wresnet16_4_has_16_convolutions_and_the_size_known_for_it():
    model = wresnet16_4(10)
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 16
    assert round(count(model) / 1e6, 2) == 2.75  # as published for WRN-16-4 on CIFAR-10


@pytest.mark.parametrize("classes", [10, 100])
def test_shallow_net_has_the_parameters_counted_by_hand(classes):
    convolutions = 25 * 3 * 64 + 25 * 64 * 64
    hidden = 64 * 7 * 7 * 384 + 384 * 192
    assert count(shallow_cifar(classes)) == convolutions + hidden + 2 * (64 + 64 + 384 + 192) + 192 * classes + classes


@pytest.mark.parametrize("classes", [1000, 7])
def test_alexnet_is_torchvisions_with_two_numbers_a_channel_in_place_of_a_bias(classes):
    channels = 64 + 192 + 384 + 256 + 256 + 4096 + 4096
    fewer = (1000 - classes) * (4096 + 1)
    assert count(empty(alexnet_bn, classes)) == 61_100_840 - channels + 2 * channels - fewer


@pytest.mark.parametrize("make", NETWORKS, ids=NAMES)
def test_classes_are_honoured(make):
    image, _ = NETWORKS[make]
    model = empty(make, 7)
    assert model(torch.empty(2, *image, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("make", NETWORKS, ids=NAMES)
def test_every_normalisation_can_be_made_a_ghost(make):
    image, layers = NETWORKS[make]
    model = to_ghost_batch_norm(empty(make), 2)
    assert sum(isinstance(module, GhostBatchNorm) for module in model.modules()) == layers
    assert model(torch.empty(4, *image, device="meta")).shape[0] == 4


@pytest.mark.parametrize(("make", "widths"), [(resnet44, (16, 32, 64)), (wresnet16_4, (64, 128, 256))])
def test_the_second_and_third_stage_halve_the_image(make, widths):
    blocks = (type(make().blocks[0]),)
    found = shapes(empty(make), torch.empty(2, 3, 32, 32, device="meta"), blocks)
    n = len(found) // 3
    assert n == {resnet44: 7, wresnet16_4: 2}[make]
    assert found == [(width, side, side) for width, side in zip(widths, (32, 16, 8), strict=True) for _ in range(n)]


def test_the_first_convolution_of_wresnet16_4_has_16_channels():
    assert wresnet16_4().conv.weight.shape == (16, 3, 3, 3)


def test_the_shallow_net_leaves_15_and_7_pixels():
    found = shapes(empty(shallow_cifar), torch.empty(2, 3, 32, 32, device="meta"), (nn.Conv2d, nn.MaxPool2d))
    assert found == [(64, 32, 32), (64, 15, 15), (64, 15, 15), (64, 7, 7)]


def test_alexnets_images_shrink_as_they_are_known_to():
    found = shapes(empty(alexnet_bn), torch.empty(2, 3, 224, 224, device="meta"), (nn.Conv2d, nn.MaxPool2d))
    assert [s[0] for s in found] == [64, 64, 192, 192, 384, 256, 256, 256]
    assert [s[1] for s in found] == [s[2] for s in found] == [55, 27, 27, 13, 13, 13, 13, 6]


@pytest.mark.parametrize("make", [shallow_cifar, alexnet_bn])
def test_layers_follow_in_the_papers_order(make):
    model = empty(make)
    kinds = "".join(type(module).__name__[0] for module in model.features)  # Conv2d, MaxPool2d, BatchNorm2d, ReLU
    assert kinds == {shallow_cifar: "CMBRCMBR", alexnet_bn: "CMBRCMBRCBRCBRCMBR"}[make]
    assert "".join(type(module).__name__[0] for module in model.head) == "LBRDLBRDL"
    assert [module.p for module in model.head if isinstance(module, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("make", [resnet44, wresnet16_4])
def test_convolutions_start_by_fan_out_and_norms_at_one(make):
    torch.manual_seed(0)
    for module in make().modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            relative = module.weight.std().item() / (2 / fan_out) ** 0.5
            assert relative == pytest.approx(1, abs=6 / (2 * module.weight.numel()) ** 0.5)  # six standard errors
            assert module.bias is None
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))


def test_a_block_whose_branch_is_zero_is_the_relu_of_its_projection():
    block = wresnet16_4().blocks[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 16, 4, 4)
    weights = block.shortcut[0].weight[:, :, 0, 0]
    want = torch.einsum("oi,bihw->bohw", weights, x).relu() / (1 + 1e-5) ** 0.5  # statistics as at the start
    torch.testing.assert_close(block(x), want)


@pytest.mark.parametrize("make", [f1, resnet44, wresnet16_4, shallow_cifar])
def test_a_step_reaches_every_parameter(make):
    torch.manual_seed(0)
    image, _ = NETWORKS[make]
    model = make(3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, *image)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("make", [f1, resnet44, wresnet16_4, shallow_cifar, alexnet_bn])
def test_no_classes_are_refused(make):
    with pytest.raises(ValueError, match=r"must be (at least two )?positive"):
        empty(make, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WideResNet(14), r"depth must be 6 n \+ 4 \(10, 16, 22, ...\), got 14"),
        (lambda: WideResNet(4), "got 4"),
        (lambda: WideResNet(16, 0), "widen must be positive, got 0"),
        (lambda: AlexNet([], [4], 2, image=(1, 2, 2), dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (lambda: AlexNet([Convolution(4, 5)], [4], 2, image=(1, 4, 8)), r"large enough .*, got \(1, 4, 8\)"),
        (lambda: AlexNet([Convolution(4, 5), Convolution(4, 1, padding=3)], [], 2, image=(1, 4, 4)), "large enough"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"x must be \[batch, 3, 32, 32\], got \[2, 3, 28, 28\]"):
        shallow_cifar()(torch.zeros(2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"x must be \[batch, 3, 224, 224\], got \[2, 1, 224, 224\]"):
        empty(alexnet_bn)(torch.empty(2, 1, 224, 224, device="meta"))
