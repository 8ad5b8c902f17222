"""Wide residual networks for small images, with the batch norm after each convolution, as in the first ResNets.

    depth = 6 n + 4;  stage s of three has n blocks of 16 * widen * 2^s channels and halves the image (s > 0)

The depth counts convolutions: the first, of 16 channels, 6 n in the blocks, and a 1x1 one at the head of each stage
(where widen is 1, the first stage needs none).

Source: Zagoruyko and Komodakis, "Wide residual networks" (2016), section 2, but for the order within a block, which is
that of Hoffer, Hubara, Soudry, "Train longer, generalize better" (NIPS 2017).
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from assay.models.resnet import BasicBlock


class WideResNet(nn.Module):
    """A wide residual network of basic blocks; by default WResNet16-4.

    Args:
        depth: convolutions, 6 n + 4: 10, 16, 22, 28, ...
        widen: factor on the widths 16, 32, 64 of the stages.
        classes: logits.
        channels: of the input.

    Raises:
        ValueError: `depth` is not 6 n + 4 with n at least 1, or another number is not positive.
    """

    def __init__(self, depth: int = 16, widen: int = 4, classes: int = 10, *, channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, ...), got {depth}")
        for name, value in (("widen", widen), ("classes", classes), ("channels", channels)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs in (16 * widen, 32 * widen, 64 * widen):
            for block in range((depth - 4) // 6):
                stride = 2 if blocks and block == 0 else 1
                blocks.append(BasicBlock(inputs, outputs, stride, shortcut="B"))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.readout = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.blocks(relu(self.bn(self.conv(x))))
        logits: Tensor = self.readout(x.mean(dim=(2, 3)))
        return logits
