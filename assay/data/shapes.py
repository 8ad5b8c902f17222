"""Pictures of shapes on a ground, made from a seed, with the class of every pixel.

Each picture has one to four shapes, later ones over earlier ones. What a shape is tells its class, a disc, a box or a
triangle, and whether it is plain or striped; place, size, angle and colours are random and tell nothing. The ground is
of one pale colour that changes slowly, and everything has noise.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CLASSES = ("ground", "disc", "box", "triangle", "striped disc", "striped box", "striped triangle")
SHAPES = 4  # at most
NOISE = 0.1  # standard deviation
TILT = 0.4  # at most, in radians


def draw_shapes(
    pictures: int, side: int, generator: torch.Generator
) -> tuple[Float[Tensor, "pictures 3 side side"], Int64[Tensor, "pictures side side"]]:
    """Make pictures.

    Args:
        pictures: how many.
        side: pixels along each axis; shapes are a third to two thirds of it wide.
        generator: of all that is drawn.

    Returns:
        red, green and blue, about [-1, 1]; and classes, positions in `CLASSES`.
    """

    def uniform(low: int | float, high: int | float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(pictures, *shape, generator=generator)

    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(axis, axis, indexing="ij")
    slope = uniform(-0.2, 0.2, 2, 3, 1, 1)
    x = uniform(-0.3, 0.3, 3, 1, 1) + slope[:, 0] * down + slope[:, 1] * across
    y = torch.zeros(pictures, side, side, dtype=torch.int64)
    count = torch.randint(1, SHAPES + 1, (pictures,), generator=generator)
    for k in range(SHAPES):
        kind = torch.randint(1, len(CLASSES), (pictures,), generator=generator)
        size = uniform(0.35, 0.65, 1, 1)
        middle, angle = uniform(-0.75, 0.75, 2, 1, 1), uniform(-TILT, TILT, 1, 1)
        v, u = (down - middle[:, 0]) / size, (across - middle[:, 1]) / size
        v, u = angle.cos() * v - angle.sin() * u, angle.sin() * v + angle.cos() * u  # in the shape's own axes
        inside = torch.stack(
            [
                u**2 + v**2 < 1,
                (u.abs() < 1) & (v.abs() < 0.7),
                (v < 0.6) & (v > 3**0.5 * u.abs() - 1.2),  # equilateral, about its middle
            ],
            1,
        )
        here = inside[torch.arange(pictures), (kind - 1) % 3] & (k < count)[:, None, None]
        stripes = (u * 3 * math.pi + uniform(0.0, 2 * math.pi, 1, 1)).sin() > 0
        other = (stripes & (kind > 3)[:, None, None])[:, None]
        colours = uniform(-1.0, 1.0, 2, 3, 1, 1)
        x = torch.where(here[:, None], torch.where(other, colours[:, 0], colours[:, 1]), x)
        y = torch.where(here, kind[:, None, None], y)
    return x + NOISE * torch.randn(x.shape, generator=generator), y
