"""The networks on which "Train longer, generalize better" measured large batches.

`assay.optim.regime` has the regime of each, under the same name.

Source: Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017), experiments.
"""

from torch import nn

from assay.models.alexnet import AlexNet, Convolution
from assay.models.mlp import MLP
from assay.models.resnet import ResNet
from assay.models.wide_resnet import WideResNet


def f1(classes: int = 10) -> MLP:
    """F1, for MNIST: five hidden layers of 512 with batch norm."""
    return MLP([28 * 28, *[512] * 5, classes], batch_norm=True)


def resnet44(classes: int = 10) -> ResNet:
    """ResNet-44, for CIFAR: three stages of seven blocks, 16, 32 and 64 channels wide.

    The paper leaves the shortcuts open: they have no parameters, as He et al.'s own for CIFAR.

    Raises:
        ValueError: `classes` is not positive.
    """
    if classes < 1:
        raise ValueError(f"classes must be positive, got {classes}")
    model = ResNet(44, classes, shortcut="A")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def wresnet16_4(classes: int = 100) -> WideResNet:
    """WResNet16-4, for CIFAR: three stages of two blocks, 64, 128 and 256 channels wide."""
    return WideResNet(16, 4, classes)


def shallow_cifar(classes: int = 10) -> AlexNet:
    """C1 and C3, for CIFAR: two convolutions, hidden layers of 384 and 192.

    The paper leaves the paddings open: the convolutions keep the size, the poolings leave 15 and 7 pixels of 32.
    """
    convolution = Convolution(64, 5, padding=2, pool=True)
    return AlexNet([convolution, convolution], [384, 192], classes, image=(3, 32, 32))


def alexnet_bn(classes: int = 1000) -> AlexNet:
    """AlexNet with batch norm, for ImageNet.

    The paper leaves the widths open: they are those of the one tower of Krizhevsky, "One weird trick for parallelizing
    convolutional neural networks" (2014), as torchvision has it.
    """
    convolutions = [
        Convolution(64, 11, stride=4, padding=2, pool=True),
        Convolution(192, 5, padding=2, pool=True),
        Convolution(384, 3, padding=1),
        Convolution(256, 3, padding=1),
        Convolution(256, 3, padding=1, pool=True),
    ]
    return AlexNet(convolutions, [4096, 4096], classes, image=(3, 224, 224))
