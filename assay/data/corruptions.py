"""Corrupted copies of pictures: what may befall them between training and use, each at severities 1 to 5.

    shifted = corrupt(images, "gaussian_noise", severity=3, generator=np.random.default_rng(0))

The kinds follow the common-corruptions benchmark. Its levels are for photographs of 224 pixels; the strengths below are
ours, with lengths in shares of the picture's side, so that 8 pixels and 224 are harmed alike. Figures are therefore not
comparable with the benchmark's own.

As there, some kinds are held out: settings may be chosen on them, and are then judged on the others.

Source: Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations" (ICLR
2019), section 3.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8

SEVERITIES = range(1, 6)

Images = UInt8[np.ndarray, "samples channels height width"]
Light = Float[np.ndarray, "samples channels height width"]  # float32 in [0, 1]


def corrupt(images: Images, name: str, severity: int, generator: np.random.Generator) -> Images:
    """A corrupted copy of each picture.

    Args:
        images: uint8 [samples, channels, height, width], grey (1 channel) or RGB (3).
        name: one of `CORRUPTIONS`.
        severity: 1 (slight) to 5.
        generator: of the noise; kinds without noise leave it as it is.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: there is no such corruption or severity, or `images` are something else.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"name must be one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be a whole number from 1 to 5, got {severity}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "images must be uint8 [samples, channels, height, width] with 1 or 3 channels, "
            f"got {images.dtype} {list(images.shape)}"
        )
    return CORRUPTIONS[name](images, severity, generator)


def _light(images: Images) -> Light:
    return images.astype(np.float32) / 255


def _levels(x: Light) -> Images:
    levels: Images = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return levels


# Noise ------------------------------------------------------------------------------------------------------------


def gaussian_noise(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Normal noise on every value."""
    sigma = (0.08, 0.12, 0.18, 0.27, 0.4)[severity - 1]
    x = _light(images)
    return _levels(x + sigma * generator.standard_normal(x.shape, np.float32))


def shot_noise(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Poisson noise, of a sensor that counts few photons; black stays black."""
    photons = (60, 25, 12, 6, 3)[severity - 1]
    return _levels((generator.poisson(_light(images) * photons) / photons).astype(np.float32))


def impulse_noise(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Salt and pepper: a share of the values is black or white."""
    share = (0.03, 0.06, 0.1, 0.17, 0.27)[severity - 1]
    drawn = generator.random(images.shape, np.float32)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 255, images)).astype(np.uint8)


def speckle_noise(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Normal noise in proportion to the light."""
    sigma = (0.15, 0.25, 0.35, 0.5, 0.7)[severity - 1]
    x = _light(images)
    return _levels(x + sigma * x * generator.standard_normal(x.shape, np.float32))


# Blur -------------------------------------------------------------------------------------------------------------


def defocus_blur(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Each point spread over a disc, as by a lens out of focus."""
    from scipy.ndimage import convolve

    share = (0.03, 0.045, 0.06, 0.08, 0.11)[severity - 1]
    disc = _disc(0.5 + share * min(images.shape[2:]))  # one of half a pixel would change nothing
    return _levels(convolve(_light(images), disc[None, None], mode="nearest"))


def _disc(radius: float, parts: int = 16) -> Float[np.ndarray, "size size"]:
    """The share of each pixel that a disc covers, divided by its area; `parts` points a pixel along each axis."""
    reach = int(np.ceil(radius - 0.5))
    size = 2 * reach + 1
    along = (np.arange(size * parts) + 0.5) / parts - size / 2
    inside = (along[:, None] ** 2 + along**2 <= radius**2).reshape(size, parts, size, parts).sum((1, 3))
    shares: np.ndarray = (inside / inside.sum()).astype(np.float32)
    return shares


def gaussian_blur(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Each point spread normally."""
    from scipy.ndimage import gaussian_filter

    share = (0.01, 0.02, 0.03, 0.045, 0.065)[severity - 1]
    sigma = 0.3 + share * min(images.shape[2:])  # below that even the next pixel has no weight
    return _levels(gaussian_filter(_light(images), sigma, axes=(2, 3), mode="nearest"))


# Light ------------------------------------------------------------------------------------------------------------


def brightness(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """As much light added everywhere."""
    return _levels(_light(images) + np.float32((0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]))


def contrast(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Drawn towards the picture's mean level."""
    kept = np.float32((0.6, 0.45, 0.3, 0.2, 0.1)[severity - 1])
    x = _light(images)
    mean = x.mean((1, 2, 3), keepdims=True)
    return _levels(mean + kept * (x - mean))


def gamma(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Darkened by a power of the light."""
    return _levels(_light(images) ** np.float32((1.4, 1.8, 2.4, 3.2, 4.5)[severity - 1]))


# Storage ----------------------------------------------------------------------------------------------------------


def pixelate(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Each block of pixels becomes its mean."""
    share = (0.75, 0.6, 0.5, 0.4, 0.3)[severity - 1]
    x = _light(images)
    for axis in (2, 3):
        size = x.shape[axis]
        block = np.arange(size) * max(round(share * size), 1) // size
        sizes = np.bincount(block)
        sums = np.add.reduceat(x, np.cumsum(sizes) - sizes, axis)
        means = sums / sizes.reshape(-1, *[1] * (3 - axis))
        x = np.take(means, block, axis).astype(np.float32)
    return _levels(x)


def jpeg(images: Images, severity: int, generator: np.random.Generator) -> Images:
    """Compressed with loss."""
    from PIL import Image

    quality = (40, 25, 15, 10, 6)[severity - 1]
    found = np.empty_like(images)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        levels = np.asarray(Image.open(file))
        found[i] = levels if levels.ndim == 2 else levels.transpose(2, 0, 1)
    return found


_KINDS = (
    gaussian_noise, shot_noise, impulse_noise, defocus_blur, brightness, contrast, pixelate, jpeg,
    speckle_noise, gaussian_blur, gamma,
)  # fmt: skip
CORRUPTIONS: Mapping[str, Callable[[Images, int, np.random.Generator], Images]] = {k.__name__: k for k in _KINDS}
HELD_OUT = ("speckle_noise", "gaussian_blur", "gamma")  # to choose settings by
