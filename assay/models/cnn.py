"""Small convolutional networks with batch norm, for grey images of 8x8 (digits) to 28x28 (Fashion-MNIST)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class PlainCNN(nn.Module):
    """3x3 convolutions, each with batch norm and ReLU; mean over places; linear.

    Args:
        widths: channels of each convolution.
        strides: of each, 2 to halve the image.
        classes: logits.
        channels: of the input.

    Raises:
        ValueError: a number is not positive, or there are not as many strides as widths.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], *, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        if len(widths) != len(strides) or not widths:
            raise ValueError(f"widths and strides must be as many, got {len(widths)} and {len(strides)}")
        if min(*widths, *strides, classes, channels) < 1:
            raise ValueError(
                f"all must be positive, got widths {list(widths)}, strides {list(strides)}, classes {classes} and "
                f"channels {channels}"
            )
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, stride in zip(widths, strides, strict=True):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.readout = nn.Linear(inputs, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.readout(self.features(x).mean(dim=(2, 3)))
        return logits


class SmallCNN(PlainCNN):
    """A `PlainCNN` whose convolutions each halve the image and double the channels.

    Args:
        classes: logits.
        width: channels of the first convolution; each next one has twice as many.
        depth: convolutions.
        channels: of the input.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, classes: int = 10, *, width: int = 32, depth: int = 2, channels: int = 1) -> None:
        for name, value in (("classes", classes), ("width", width), ("depth", depth), ("channels", channels)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        super().__init__([width * 2**i for i in range(depth)], [2] * depth, classes=classes, channels=channels)
