"""A small convolutional network with batch norm, for grey images of 8x8 (digits) to 28x28 (Fashion-MNIST)."""

from jaxtyping import Float
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """3x3 convolutions that each halve the image, with batch norm and ReLU; mean over places; linear.

    Args:
        classes: logits.
        width: channels of the first convolution; each next one has twice as many.
        depth: convolutions.
        channels: of the input.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, classes: int = 10, *, width: int = 32, depth: int = 2, channels: int = 1) -> None:
        super().__init__()
        for name, value in (("classes", classes), ("width", width), ("depth", depth), ("channels", channels)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        layers: list[nn.Module] = []
        inputs = channels
        for outputs in (width * 2**i for i in range(depth)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.readout = nn.Linear(inputs, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.readout(self.features(x).mean(dim=(2, 3)))
        return logits
