import pytest
import torch

from assay.data.views import GREY, color_jitter, random_resized_crop


def draw(batch=6, channels=3, size=9):
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_whole_picture_is_left_as_it_is_but_for_its_shape():
    x = draw(200)
    found = random_resized_crop(x, chance(), scale=(1.0, 1.0), flip=False)
    # one side is whole, the other 3/4 to 1 of the picture; where neither is cut nothing changes
    ramp = torch.arange(9.0).expand(200, 1, 9, 9)
    spans = random_resized_crop(ramp, chance(), scale=(1.0, 1.0), flip=False)
    width = (spans[..., -1] - spans[..., 0]).mean((1, 2)) / 8
    assert width.max() <= 1 + 1e-5
    assert width.min() > 0.7
    assert (width > 0.99).float().mean() > 0.3
    assert found.shape == x.shape


def test_crops_of_a_ramp_are_stretched_parts_of_it_within_the_scale():
    across = torch.arange(64.0).expand(500, 1, 64, 64)
    down = across.mT
    spans = []
    for ramp, line in ((across, lambda x: x[:, 0, 32]), (down, lambda x: x[:, 0, :, 32])):
        found = line(random_resized_crop(ramp, chance(), scale=(0.2, 0.5), flip=False))
        steps = found.diff(dim=1)[:, 1:-1]  # the outermost pixels see beyond the edge
        torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps), rtol=0, atol=1e-2)
        assert found.min() > -0.51
        assert found.max() < 63.51
        spans.append(steps.mean(1))
    area = spans[0] * spans[1]  # the same draws, as the generators are equal
    assert area.min() > 0.15  # a side that is too long is cut
    assert area.max() < 0.51
    ratio = spans[0] / spans[1]
    assert ratio.min() > 0.74
    assert ratio.max() < 1.34


def test_half_of_the_crops_are_mirrored():
    ramp = torch.arange(16.0).expand(1000, 1, 16, 16)
    found = random_resized_crop(ramp, chance())
    mirrored = (found[:, 0, 8, -1] < found[:, 0, 8, 0]).float().mean()
    assert mirrored == pytest.approx(0.5, abs=0.06)


def test_colours_stay_levels_and_without_change_they_stay_themselves():
    x = draw()
    found = color_jitter(x, chance())
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.allclose(found, x, atol=0.05)
    torch.testing.assert_close(color_jitter(x, chance(), jittered=0.0, greyed=0.0), x)
    torch.testing.assert_close(color_jitter(x, chance(), strength=0.0, hue=0.0, greyed=0.0), x)


def test_greyed_pictures_are_their_grey_levels():
    x = draw()
    found = color_jitter(x, chance(), jittered=0.0, greyed=1.0)
    grey = (x * GREY[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(found, grey.expand_as(x))


def test_the_stated_shares_are_jittered_and_greyed():
    x = draw(2000, size=2)
    found = color_jitter(x, chance())
    grey = (found - found[:, :1]).abs().amax((1, 2, 3)) < 1e-5
    assert grey.float().mean() == pytest.approx(0.2, abs=0.03)
    same = (found - x).abs().amax((1, 2, 3)) < 1e-5
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.03)


def test_a_hue_turned_by_a_third_swaps_the_colours_and_leaves_greys():
    from assay.data.views import _turned

    third = torch.full((1, 1, 1), 2 * torch.pi / 3)
    swapped = _turned(third)[0] @ torch.tensor([[0.9, 0.1, 0.4], [0.5, 0.5, 0.5]]).T
    torch.testing.assert_close(swapped.T, torch.tensor([[0.4, 0.9, 0.1], [0.5, 0.5, 0.5]]))


def test_grey_pictures_change_in_brightness_and_contrast_alone():
    x = draw(4, 1) * 0.3 + 0.3
    found = color_jitter(x, chance(), jittered=1.0)
    for before, after in zip(x.flatten(1), found.flatten(1), strict=True):  # a line of the levels
        slope = (after - after.mean()) @ (before - before.mean()) / (before - before.mean()).square().sum()
        torch.testing.assert_close(after - after.mean(), slope * (before - before.mean()), rtol=0, atol=1e-5)
        assert 0.36 - 1e-5 <= slope <= 1.96 + 1e-5


def test_equal_generators_give_equal_views():
    x = draw()
    for view in (random_resized_crop, color_jitter):
        assert torch.equal(view(x, chance(3)), view(x, chance(3)))
        assert not torch.equal(view(x, chance(3)), view(x, chance(4)))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"scale must be a range in \(0, 1\], got \(0\.5, 0\.2\)"):
        random_resized_crop(draw(), chance(), scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="one or three channels, got 2"):
        color_jitter(draw(channels=2), chance())
    with pytest.raises(ValueError, match=r"strength must lie in \[0, 1\], got 2\.0"):
        color_jitter(draw(), chance(), strength=2.0)
