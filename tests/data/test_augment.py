from itertools import product

import pytest
import torch

from assay.data.augment import random_crop_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_result_is_a_crop_of_its_padded_image_or_the_mirror_of_one() -> None:
    padding, height, width = 2, 5, 6
    x = torch.arange(1.0, 1 + 300 * 2 * height * width).view(300, 2, height, width)
    found = random_crop_flip(x, generator(), padding)
    places = set()
    for image, result in zip(x, found, strict=True):
        padded = torch.zeros(2, height + 2 * padding, width + 2 * padding)
        padded[:, padding : padding + height, padding : padding + width] = image
        matches = []
        for top, left in product(range(2 * padding + 1), repeat=2):
            crop = padded[:, top : top + height, left : left + width]
            matches += [
                (top, left, mirrored)
                for mirrored in (False, True)
                if crop.equal(result.flip(2) if mirrored else result)
            ]
        assert len(matches) == 1
        places.update(matches)
    assert len(places) == 2 * (2 * padding + 1) ** 2  # every place and both directions occur


def test_half_of_the_images_are_mirrored_where_there_is_no_padding() -> None:
    x = torch.randn(2000, 1, 3, 3, generator=generator(1))
    found = random_crop_flip(x, generator(), padding=0)
    mirrored = (found == x.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(found[~mirrored], x[~mirrored])
    assert abs(int(mirrored.sum()) - 1000) < 5 * 500**0.5  # five standard deviations of a fair coin


def test_equal_generators_give_equal_results_and_a_generator_moves_on() -> None:
    x = torch.randn(50, 3, 8, 8, generator=generator(1))
    one, two = generator(), generator()
    first = random_crop_flip(x, one)
    assert torch.equal(first, random_crop_flip(x, two))
    assert not torch.equal(first, random_crop_flip(x, one))


def test_dtype_and_contiguity_are_kept() -> None:
    for dtype in (torch.uint8, torch.float64):
        found = random_crop_flip(torch.ones(4, 3, 8, 8, dtype=dtype), generator())
        assert found.dtype == dtype
        assert found.is_contiguous()


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="padding must not be negative, got -1"):
        random_crop_flip(torch.zeros(1, 1, 2, 2), generator(), padding=-1)
