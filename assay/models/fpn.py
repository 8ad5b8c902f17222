"""A small network that gives every pixel a class: backbone, feature pyramid and head.

Sources: Lin et al., "Feature pyramid networks for object detection" (2017), section 3; Kirillov et al., "Panoptic
feature pyramid networks" (2019), section 3, of whose head the finest level alone is kept.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate


class FPNSegmenter(nn.Module):
    """`backbone`, four convolutions with batch norm that each halve the picture; `neck`, which brings their features to
    one width and adds the coarse to the finer ones; `head`, a convolution and the classes, at half the resolution and
    then enlarged.

    Args:
        classes: logits a pixel.
        channels: of the pictures, whose sides must be multiples of 16.
        width: channels of the first convolution and of the pyramid; the other convolutions have two to four times that.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        for name, value in (("classes", classes), ("channels", channels), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.backbone = Backbone([channels, *widths])
        self.neck = Pyramid(widths, width)
        self.head = nn.Sequential(convolution(width, width, 1), nn.Conv2d(width, classes, 1))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes height width"]:
        logits = self.head(self.neck(self.backbone(x)))
        return interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution with batch norm and ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Backbone(nn.Module):
    """Convolutions that halve the picture, of which each gives its features, the finest first."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(convolution(inputs, outputs, 2) for inputs, outputs in pairwise(widths))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Pyramid(nn.Module):
    """The finest level of a feature pyramid.

    Args:
        inputs: channels of the levels, the finest first, each half as fine as the one before.
        outputs: channels.
    """

    def __init__(self, inputs: list[int], outputs: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in inputs)
        self.smooth = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> Float[Tensor, "batch outputs height width"]:
        lateral = [layer(level) for layer, level in zip(self.lateral, levels, strict=True)]
        y = lateral[-1]
        for finer in lateral[-2::-1]:
            y = finer + interpolate(y, scale_factor=2.0, mode="nearest")
        smoothed: Tensor = self.smooth(y)
        return smoothed
