"""Random crops and flips of a whole batch at once."""

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


def random_crop_flip(
    x: Shaped[Tensor, "batch channels height width"], generator: torch.Generator, padding: int = 4
) -> Shaped[Tensor, "batch channels height width"]:
    """Pad each image with zeros, crop it back to its size at a random place, and mirror it with probability 1/2.

    Args:
        x: images; normalised ones, so that zero is the mean level.
        generator: of the places and the mirroring.
        padding: pixels on each side, at least 0.

    Returns:
        images of the same shape and dtype.

    Raises:
        ValueError: `padding` is negative.

    Source: He et al., "Deep residual learning for image recognition" (2016), section 4.2.
    """
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    batch, channels, height, width = x.shape
    place = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=generator.device).to(x.device)
    mirrored = torch.randint(2, (batch,), generator=generator, device=generator.device).to(x.device).bool()
    across = torch.arange(width, device=x.device)
    rows = place[0, :, None] + torch.arange(height, device=x.device)
    columns = place[1, :, None] + torch.where(mirrored[:, None], across.flip(0), across)
    padded = nn.functional.pad(x, (padding,) * 4)
    return padded[
        torch.arange(batch, device=x.device)[:, None, None, None],
        torch.arange(channels, device=x.device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
