"""Networks of AlexNet's kind with batch norm: convolutions, then hidden layers, on images of one size.

    convolution, (max pooling 3x3 stride 2,) batch norm, ReLU;  ...;  linear, batch norm, ReLU, dropout;  ...;  linear

No layer has a bias ahead of its batch norm, which would take it away again.

Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks" (2012); batch
norm as in Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Convolution(NamedTuple):
    """One convolution of `outputs` channels and size x size weights; `pool` then takes every second place, roughly."""

    outputs: int
    size: int
    stride: int = 1
    padding: int = 0
    pool: bool = False


class AlexNet(nn.Module):
    """Convolutions and hidden layers, each with batch norm and ReLU.

    Args:
        convolutions: in order.
        hidden: widths of the hidden layers.
        classes: logits.
        image: channels, height and width of the input.
        dropout: rate, in [0, 1), after each hidden layer.

    Raises:
        ValueError: a number is out of range, or the image is too small for the convolutions.
    """

    def __init__(
        self,
        convolutions: Sequence[Convolution],
        hidden: Sequence[int],
        classes: int,
        *,
        image: tuple[int, int, int],
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be positive, got {classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.image = image
        channels, *sides = image
        features: list[nn.Module] = []
        for outputs, size, stride, padding, pool in convolutions:
            features.append(nn.Conv2d(channels, outputs, size, stride, padding, bias=False))
            sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
            if pool:
                features.append(nn.MaxPool2d(3, stride=2))
                sides = [(side - 3) // 2 + 1 for side in sides]
            features += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
            if min(sides) < 1:
                raise ValueError(f"image must be large enough for the convolutions, got {image}")
        head: list[nn.Module] = []
        widths = (channels * sides[0] * sides[1], *hidden)
        for inputs, outputs in pairwise(widths):
            head += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.features = nn.Sequential(*features)
        self.head = nn.Sequential(*head, nn.Linear(widths[-1], classes))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: the images are not of the shape that the network is for.
        """
        if x.shape[1:] != self.image:
            raise ValueError(f"x must be [batch, {', '.join(map(str, self.image))}], got {list(x.shape)}")
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits
