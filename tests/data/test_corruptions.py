import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from assay.data.corruptions import CORRUPTIONS, HELD_OUT, _disc, corrupt

NOISY = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"}
SHAPES = [(40, 1, 8, 8), (20, 1, 28, 28), (20, 3, 32, 32), (10, 3, 17, 24)]


def pictures(shape, seed=0):
    """Smooth ones with an edge, from black to white."""
    samples, channels, height, width = shape
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.zeros(shape)
    for _ in range(3):
        fy, fx, phase = rng.uniform(-2, 2, (3, samples, channels, 1, 1))
        waves += np.sin(2 * np.pi * (fy * y / height + fx * x / width) + phase)
    waves += 2 * (x > rng.uniform(0, width, (samples, 1, 1, 1)))
    low, high = waves.min((1, 2, 3), keepdims=True), waves.max((1, 2, 3), keepdims=True)
    return np.rint((waves - low) / (high - low) * 255).astype(np.uint8)


def apply(name, images, severity=3, seed=0):
    return corrupt(images, name, severity, np.random.default_rng(seed))


def psnr(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_damage_grows_with_severity(name, shape):
    images = pictures(shape)
    found = [psnr(images, apply(name, images, severity)) for severity in range(1, 6)]
    assert all(later < earlier for earlier, later in pairwise(found))
    assert found[0] - found[-1] > 2


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_of_the_same_shape_is_given_and_the_pictures_stay(name, shape):
    images = pictures(shape)
    before = images.copy()
    found = apply(name, images)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(images, before)
    assert not np.shares_memory(found, images)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_alone_decides_and_only_noise_draws_from_it(name):
    images = pictures((8, 3, 16, 16))
    assert np.array_equal(apply(name, images, seed=1), apply(name, images, seed=1))
    assert np.array_equal(apply(name, images, seed=1), apply(name, images, seed=2)) is (name not in NOISY)
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    corrupt(images, name, 3, generator)
    assert (generator.bit_generator.state == before) is (name not in NOISY)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOISY])
def test_what_is_without_noise_treats_each_picture_alone(name):
    images = pictures((6, 3, 16, 16))
    each = np.concatenate([apply(name, images[i : i + 1]) for i in range(6)])
    assert np.array_equal(apply(name, images), each)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_no_pictures_give_no_pictures(name):
    assert apply(name, np.zeros((0, 3, 8, 8), np.uint8)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "sigma"),
    [("gaussian_noise", 0.12 * 255), ("speckle_noise", 0.25 * 255 * 0.4), ("shot_noise", 255 * (0.4 / 25) ** 0.5)],
)
def test_noise_has_the_mean_and_deviation_of_its_law(name, sigma):
    level = round(0.4 * 255)
    noise = apply(name, np.full((50, 1, 32, 32), level, np.uint8), 2).astype(float) - level
    assert noise.mean() == pytest.approx(0, abs=4 * sigma / noise.size**0.5)
    assert noise.std() == pytest.approx(sigma, rel=0.02)


def test_impulses_are_as_many_black_as_white_ones():
    found = apply("impulse_noise", np.full((50, 1, 32, 32), 99, np.uint8), 3)
    for level, share in ((0, 0.05), (255, 0.05), (99, 0.9)):
        assert (found == level).mean() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("name", ["shot_noise", "speckle_noise", "gamma"])
def test_black_stays_black_where_there_is_no_light(name):
    assert not apply(name, np.zeros((2, 1, 8, 8), np.uint8), 5).any()


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "contrast", "pixelate"])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_a_picture_of_one_level_stays_as_it_is(name, level):
    images = np.full((2, 3, 16, 16), level, np.uint8)
    assert np.array_equal(apply(name, images, 5), images)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur"])
def test_blur_of_a_point_is_symmetric_and_keeps_its_light(name):
    images = np.zeros((1, 1, 17, 17), np.uint8)
    images[0, 0, 8, 8] = 255
    found = apply(name, images, 3)[0, 0].astype(int)
    for other in (found.T, found[::-1], found[:, ::-1]):
        assert np.array_equal(found, other)
    assert found.sum() == pytest.approx(255, abs=0.5 * np.count_nonzero(found))


@pytest.mark.parametrize("radius", [0.5, 0.8, 1.5, 3.3])
def test_a_disc_covers_pixels_by_area(radius):
    shares = _disc(radius)
    assert shares.sum() == pytest.approx(1)
    middle = len(shares) // 2
    whole = shares[middle, middle]
    inner = 1 if radius >= 0.75 else shares[middle, middle] * np.pi * radius**2
    assert whole == pytest.approx(inner / (np.pi * radius**2), rel=0.03)


def test_light_follows_its_formula():
    images = np.array([[[[0, 100], [200, 255]]]], np.uint8)
    assert apply("brightness", images, 2).ravel().tolist() == [51, 151, 251, 255]
    mean = 555 / 4
    want = [round(mean + 0.1 * (v - mean)) for v in (0, 100, 200, 255)]
    assert apply("contrast", images, 5).ravel().tolist() == want
    assert apply("gamma", images, 2).ravel().tolist() == [round(255 * (v / 255) ** 1.8) for v in (0, 100, 200, 255)]


def test_pixels_become_the_means_of_their_blocks():
    images = pictures((2, 3, 8, 12))
    found = apply("pixelate", images, 3)  # half as many along each axis
    blocks = images.reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    np.testing.assert_allclose(found, blocks.repeat(2, 2).repeat(2, 3), atol=0.5001)


def test_jpeg_is_pillows():
    image = pictures((1, 3, 16, 16))
    file = io.BytesIO()
    Image.fromarray(image[0].transpose(1, 2, 0)).save(file, "JPEG", quality=15)
    assert np.array_equal(apply("jpeg", image, 3)[0], np.asarray(Image.open(file)).transpose(2, 0, 1))


def test_some_kinds_are_held_out():
    assert set(HELD_OUT) < set(CORRUPTIONS)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_out_of_range_is_refused(severity):
    with pytest.raises(ValueError, match=f"severity must be a whole number from 1 to 5, got {severity}"):
        apply("contrast", pictures((1, 1, 8, 8)), severity)


def test_what_is_no_corruption_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of gaussian_noise, .* got 'fog'"):
        apply("fog", pictures((1, 1, 8, 8)))


@pytest.mark.skipif(hasattr(corrupt, "__wrapped__"), reason="the checks of shapes refuse it first")
@pytest.mark.parametrize(
    "images", [np.zeros((1, 1, 8, 8)), np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)]
)
def test_what_are_no_pictures_is_refused(images):
    with pytest.raises(ValueError, match="images must be uint8"):
        apply("contrast", images)
