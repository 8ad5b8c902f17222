import pytest
import torch

from assay.models.fpn import FPNSegmenter, Pyramid


def test_every_pixel_has_logits_whatever_the_picture_s_sides():
    model = FPNSegmenter(5, channels=1, width=4)
    assert model(torch.randn(2, 1, 16, 48)).shape == (2, 5, 16, 48)
    assert [name for name, _ in model.named_children()] == ["backbone", "neck", "head"]


def test_the_pyramid_adds_each_coarse_level_to_the_finer_one_pixel_by_pixel():
    neck = Pyramid([1, 1, 1], 1)
    for layer in neck.lateral:
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.dirac_(neck.smooth.weight)
    torch.nn.init.zeros_(neck.smooth.bias)
    levels = [torch.randn(1, 1, side, side) for side in (8, 4, 2)]
    want = levels[0].clone()
    for i in range(8):
        for j in range(8):
            want[..., i, j] += levels[1][..., i // 2, j // 2] + levels[2][..., i // 4, j // 4]
    torch.testing.assert_close(neck(levels), want)


def test_a_pixel_sees_the_whole_of_a_small_picture_and_all_parameters_take_part():
    model = FPNSegmenter(3, width=4).eval()
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(x)[0, :, 16, 16].sum().backward()
    assert (x.grad[0].abs().sum(0) > 0).float().mean() > 0.5
    model.zero_grad()
    model(x).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("options", [{"classes": 0}, {"channels": 0}, {"width": 0}])
def test_what_is_not_positive_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive, got 0"):
        FPNSegmenter(**({"classes": 3} | options))
