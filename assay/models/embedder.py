"""Networks whose output is a point to be searched for, beside the logits that train it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from assay.nn.basis_transformation import BT2Head, BT2Output


class Embedded(NamedTuple):
    """Logits [batch, classes] and the embedding [batch, dim], of unit norm, that they are linear in."""

    logits: Float[Tensor, "batch classes"]
    embedding: Float[Tensor, "batch dim"]


class Embedder(nn.Module):
    """Backbone, linear map, unit norm; logits without bias.

    Args:
        backbone: gives [batch, width].
        width: of its features.
        dim: of the embedding.
        classes: logits.
    """

    def __init__(self, backbone: nn.Module, width: int, dim: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.width, self.dim, self.classes = backbone, width, dim, classes
        self.project = nn.Linear(width, dim)
        self.readout = nn.Linear(dim, classes, bias=False)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Embedded:
        features = self.project(self.backbone(x))
        embedding = normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)
        return Embedded(self.readout(embedding), embedding)


class BT2Embedder(nn.Module):
    """Backbone, linear map to a `BT2Head`'s features, and the head.

    The official ResNet ends in a ReLU, so that its features are not negative; here they may be.
    """

    def __init__(self, backbone: nn.Module, width: int, head: BT2Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.project = nn.Linear(width, head.new_dim + head.old_dim)
        self.head = head

    def forward(self, x: Float[Tensor, "batch ..."]) -> BT2Output:
        found: BT2Output = self.head(self.project(self.backbone(x)))
        return found


def mlp_backbone(inputs: int, width: int = 128) -> nn.Sequential:
    """Two hidden layers of `width` with ReLU; inputs of any shape are flattened."""
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


def cnn_backbone(width: int = 16, channels: int = 1) -> nn.Sequential:
    """Two convolutions that halve the image, with batch norm and ReLU; mean over places: 2 `width` features."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
