"""Random views of pictures, a whole batch at once: a part of them brought to full size, and other colours.

Source: Chen et al., "A simple framework for contrastive learning of visual representations" (2020), appendix A; Wu et
al., "Unsupervised feature learning via non-parametric instance discrimination" (2018).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

GREY = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue in a grey level (ITU-R BT.601)


def random_resized_crop(
    x: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    flip: bool = True,
) -> Float[Tensor, "batch channels height width"]:
    """A rectangle of each picture, drawn by area and shape, stretched to the picture's size; and half of them mirrored.

    Args:
        x: pictures.
        generator: of the rectangles and the mirroring.
        scale: least and largest share of the area, in (0, 1].
        flip: mirror with probability 1/2.

    Returns:
        pictures of the same shape, interpolated bilinearly.

    Raises:
        ValueError: `scale` is no range in (0, 1].

    Source: Szegedy et al., "Going deeper with convolutions" (2015), section 6: shapes are 3:4 to 4:3, even in their
    logarithm. A side that would be longer than the picture's is cut to it, where others draw anew.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be a range in (0, 1], got {scale}")
    area, shape, *place = torch.rand(4, len(x), generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    ratio = ((2 * shape - 1) * math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    # of the picture's coordinates, which go from -1 to 1
    across, down = ((2 * p - 1) * (1 - size) for p, size in zip(place, (width, height), strict=True))
    if flip:
        width = width * (1 - 2 * torch.randint(2, (len(x),), generator=generator))
    zero = torch.zeros_like(width)
    affine = torch.stack([width, zero, across, zero, height, down], 1).view(-1, 2, 3).to(x)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def color_jitter(
    x: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
    *,
    strength: float = 0.4,
    hue: float = 0.1,
    jittered: float = 0.8,
    greyed: float = 0.2,
) -> Float[Tensor, "batch channels height width"]:
    """Brightness, contrast and, in colour, saturation and hue of each picture, changed at random; some made grey.

    Args:
        x: levels in [0, 1]; red, green and blue, or grey alone.
        generator: of all that is drawn.
        strength: brightness, contrast and saturation are multiplied by 1 - strength to 1 + strength; in [0, 1].
        hue: largest turn of the colours either way, in whole turns.
        jittered: share of the pictures that are changed so.
        greyed: share of those in colour that are made grey.

    Returns:
        levels in [0, 1], of the same shape.

    Raises:
        ValueError: pictures have neither one nor three channels, or `strength` is out of range.

    Source: Chen et al. 2020, appendix A. The order of the changes is fixed here, and a hue is turned about the axis of
    greys, so that all but the contrast is one matrix a picture.
    """
    batch, channels = x.shape[:2]
    if channels not in (1, 3):
        raise ValueError(f"x must have one or three channels, got {channels}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    chosen, grey, turn, *factors = torch.rand(6, batch, generator=generator)
    changed = chosen < jittered
    brightness, contrast, saturation = (
        torch.where(changed, 1 + strength * (2 * u - 1), 1.0)[:, None, None].to(x) for u in factors
    )
    if channels == 3:
        saturation = saturation * (grey >= greyed)[:, None, None].to(x)
        angle = torch.where(changed, 2 * math.pi * hue * (2 * turn - 1), 0.0)[:, None, None].to(x)
        to_grey = GREY.to(x).expand(3, 3)
        mix = saturation * _turned(angle) + (1 - saturation) * to_grey
        x = ((brightness * mix) @ x.flatten(2)).view_as(x)
        level = (GREY.to(x) @ x.flatten(2)).mean(1)[:, None, None, None]
    else:
        x = brightness[..., None] * x
        level = x.mean((1, 2, 3), keepdim=True)
    return (level + contrast[..., None] * (x - level)).clamp_(0, 1)


def _turned(angle: Tensor) -> Tensor:
    """The matrix that turns colours about the axis of greys by `angle` [batch, 1, 1]."""
    axis = torch.full((3, 3), 1 / 3).to(angle)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]).to(angle) / math.sqrt(3)
    return axis + angle.cos() * (torch.eye(3).to(angle) - axis) + angle.sin() * cross
