"""The CIFAR residual networks: a 3x3 convolution, three stages of n basic blocks, mean over places, linear.

    depth = 6 n + 2;  stage s has width * 2^s channels and halves the image (s > 0)

Source: He et al., "Deep residual learning for image recognition" (2016), section 4.2; initialisation from He et al.,
"Delving deep into rectifiers" (2015), eq. 10.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from assay.nn.affine import BatchNormInit, init_batchnorm_
from assay.nn.random_features import WeightInit, init_weights_

Shortcut = Literal["A", "B"]


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))

    Args:
        inputs: channels that come in.
        outputs: channels that go out, at least as many.
        stride: of the first convolution.
        shortcut: where the shape changes: `A` takes every stride-th pixel and appends zero channels, without
            parameters; `B` is a 1x1 convolution with batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            if shortcut == "A":
                self.shortcut = ZeroPaddedShortcut(stride, outputs - inputs)
            else:
                projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        y = relu(self.bn1(self.conv1(x)))
        return relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class ZeroPaddedShortcut(nn.Module):
    """Every stride-th pixel, and `extra` channels of zeros after those that are there."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class ResNet(nn.Module):
    """A residual network for small images.

    Args:
        depth: layers with weights, 6 n + 2: 8, 14, 20, 32, 44, ...
        classes: logits.
        width: channels of the first stage.
        shortcut: `A` (the paper's, for CIFAR) or `B`, see `BasicBlock`.
        channels: of the input.

    Raises:
        ValueError: `depth` is not 6 n + 2 with n at least 1, or `shortcut` is neither.
    """

    def __init__(
        self, depth: int = 20, classes: int = 10, *, width: int = 16, shortcut: Shortcut = "A", channels: int = 3
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, ...), got {depth}")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' or 'B', got {shortcut!r}")
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(inputs, width * 2**stage, stride, shortcut))
                inputs = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.readout = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.blocks(relu(self.bn(self.conv(x))))
        logits: Tensor = self.readout(x.mean(dim=(2, 3)))
        return logits


def cifar_resnet(
    depth: int = 14, classes: int = 10, *, width: int = 16, channels: int = 3,
    weight_init: WeightInit = "kaiming_normal", batchnorm_init: BatchNormInit = "uniform",
) -> ResNet:  # fmt: skip
    """The ResNet whose random features are studied: projection shortcuts, and a start to choose.

    Args:
        depth: 14, 20, 32, 56, 110, 218, 434 and 866 in the paper.
        classes: logits.
        width: channels of the first stage.
        channels: of the input.
        weight_init: of convolutions and the readout, as in `assay.nn.random_features.init_weights_`.
        batchnorm_init: as in `assay.nn.affine.init_batchnorm_`.

    Raises:
        ValueError: `depth` is not 6 n + 2 with n at least 1, or an initialisation is unknown.

    Source: Frankle, Schwab, Morcos, "Training BatchNorm and Only BatchNorm" (ICLR 2021), section 3.
    """
    model = ResNet(depth, classes, width=width, shortcut="B", channels=channels)
    init_weights_(model, weight_init)
    init_batchnorm_(model, batchnorm_init)
    return model
