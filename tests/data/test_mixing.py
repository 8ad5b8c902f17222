import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import nn

from assay.data.mixing import (
    Box,
    CutMix,
    Cutout,
    FeatureCutMix,
    MixedTarget,
    Mixup,
    cutmix_box,
    draw_lam,
    gaussian_box,
    mixed_cross_entropy,
    mixed_loss,
    paste,
    random_box,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def paste_slowly(x, perm, boxes):
    """Pixel by pixel."""
    mixed = x.clone()
    for i, box in enumerate(boxes):
        for row in range(box.top, box.bottom):
            for column in range(box.left, box.right):
                mixed[i, ..., row, column] = x[perm[i], ..., row, column]
    return mixed


def test_reference_boxes(vectors):
    for row in np.load(vectors / "cutmix.npz")["boxes"]:
        size, center, lam = (int(row[0]), int(row[1])), (int(row[3]), int(row[4])), float(row[2])
        box = cutmix_box(size, lam, center)
        assert [box.top, box.left, box.bottom, box.right] == row[5:9].tolist()
        assert box.kept(size) == pytest.approx(row[9], rel=0, abs=1e-12)


def test_reference_batch(vectors):
    data = {k: torch.from_numpy(np.atleast_1d(v)) for k, v in np.load(vectors / "cutmix.npz").items() if k != "about"}
    x, y, perm = data["x"], data["y"], data["perm"]
    box = cutmix_box(tuple(x.shape[2:]), data["lam_drawn"].item(), tuple(data["center"].tolist()))
    mixed = paste(x, perm, box)
    assert torch.equal(mixed, data["mixed"])
    weight = data["weight"].requires_grad_()
    loss = mixed_cross_entropy(mixed.flatten(1) @ weight, MixedTarget(y, y[perm], box.kept(tuple(x.shape[2:]))))
    assert loss.item() == pytest.approx(data["loss"].item(), rel=0, abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], data["dweight"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (1, 9), (9, 1), (1, 1)])
def test_boxes_lie_in_the_image_and_lam_counts_the_pixels_outside(size):
    g = generator()
    for _ in range(200):
        lam = draw_lam(0.7, g)
        box = random_box(size, lam, g)
        assert 0 <= box.top <= box.bottom <= size[0]
        assert 0 <= box.left <= box.right <= size[1]
        mask = np.ones(size)
        mask[box.top : box.bottom, box.left : box.right] = 0
        assert box.kept(size) == pytest.approx(mask.mean())
        assert box.kept(size) >= lam - 1e-12


def test_lam_of_one_is_an_empty_box_and_lam_of_zero_in_the_middle_the_whole_image():
    assert cutmix_box((8, 6), 1.0, (3, 3)).kept((8, 6)) == 1
    assert cutmix_box((8, 6), 0.0, (4, 3)) == Box(0, 8, 0, 6)


@pytest.mark.parametrize(("lam", "center"), [(-0.1, (0, 0)), (1.1, (0, 0)), (0.5, (8, 0)), (0.5, (0, -1))])
def test_boxes_refuse_what_is_out_of_range(lam, center):
    with pytest.raises(ValueError, match=r"lam must lie|center must lie"):
        cutmix_box((8, 8), lam, center)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_lam_is_beta_distributed(alpha):
    g = generator()
    drawn = [draw_lam(alpha, g) for _ in range(500)]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_mean_kept_area_is_that_of_quadrature():
    # along one side the part inside of a box of length r around a uniform centre is r - r^2 / 4
    pasted, _ = integrate.quad(lambda lam: (math.sqrt(1 - lam) - (1 - lam) / 4) ** 2, 0, 1)
    g, size, draws = generator(), (400, 400), 3000
    kept = np.array([random_box(size, draw_lam(1.0, g), g).kept(size) for _ in range(draws)])
    assert kept.mean() == pytest.approx(1 - pasted, abs=4 * kept.std() / math.sqrt(draws) + 2 / 400)
    assert kept.mean() > 0.5


def test_gaussian_boxes_are_centred_and_a_fixed_lam_gives_boxes_of_one_size():
    g = generator()
    boxes = [gaussian_box(0.0)((32, 32), 0.75, g) for _ in range(3)]
    assert boxes == [Box(8, 24, 8, 24)] * 3
    boxes = [gaussian_box(0.1)((100, 100), 0.96, g) for _ in range(500)]
    centres = np.array([(b.top + b.bottom) / 2 for b in boxes])
    assert centres.mean() == pytest.approx(50, abs=2)
    assert centres.std() == pytest.approx(10, rel=0.15)
    far = [gaussian_box(5.0)((10, 10), 0.5, g) for _ in range(50)]
    assert all(0 <= b.top <= b.bottom <= 10 for b in far)
    with pytest.raises(ValueError, match="std must be finite and not negative, got -1"):
        gaussian_box(-1.0)


@pytest.mark.parametrize("shape", [(5, 3, 6, 9), (5, 6, 9), (5, 2, 3, 6, 9), (5, 3, 1, 9)])
def test_outside_the_box_nothing_changes_and_inside_is_the_partner(shape):
    x, perm = images(*shape), torch.tensor([3, 4, 0, 2, 1])
    before = x.clone()
    box = Box(0, min(4, shape[-2]), 2, 7)
    assert torch.equal(paste(x, perm, box), paste_slowly(x, perm, [box] * 5))
    boxes = [Box(0, 1, 0, 9), Box(0, 0, 3, 5), box, Box(0, 1, 8, 9), Box(0, shape[-2], 0, 9)]
    assert torch.equal(paste(x, perm, boxes), paste_slowly(x, perm, boxes))
    assert torch.equal(x, before)


def test_gradients_flow_through_kept_and_pasted_pixels_only():
    x = images(3, 2, 4, 4).requires_grad_()
    perm = torch.tensor([1, 2, 0])
    paste(x, perm, Box(1, 3, 0, 2))[0].sum().backward()
    want = torch.zeros(3, 2, 4, 4)
    want[0] = 1
    want[0, :, 1:3, :2] = 0
    want[1, :, 1:3, :2] = 1
    assert torch.equal(x.grad, want)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_type_and_layout_are_kept(dtype):
    x = (50 * images(4, 3, 6, 6).abs()).to(dtype).contiguous(memory_format=torch.channels_last)
    mixed, _ = CutMix(generator=generator())(x, torch.arange(4))
    assert mixed.dtype == dtype
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    if dtype.is_floating_point:
        blended, _ = Mixup(generator=generator())(x, torch.arange(4))
        assert blended.dtype == dtype
        assert blended.is_contiguous(memory_format=torch.channels_last)


def test_the_draws_are_lam_permutation_and_centre_in_this_order():
    x, y = images(5, 3, 8, 8), torch.arange(5)
    mixed, target = CutMix(alpha=1.0, generator=generator(4))(x, y)
    g = generator(4)
    lam = torch.rand((), generator=g, dtype=torch.float64).item()
    perm = torch.randperm(5, generator=g)
    center = torch.randint(8, (), generator=g).item(), torch.randint(8, (), generator=g).item()
    box = cutmix_box((8, 8), lam, center)
    assert torch.equal(mixed, paste(x, perm, box))
    assert torch.equal(target.y_b, y[perm])
    assert target.lam == box.kept((8, 8))


@pytest.mark.parametrize("kind", [CutMix, Mixup, Cutout])
@pytest.mark.parametrize("off", [{"prob": 0.0}, {"alpha": 0.0}])
def test_off_returns_the_batch_itself_and_draws_nothing(kind, off):
    g = generator()
    before = g.get_state()
    x, y = images(4, 3, 6, 6), torch.arange(4)
    got = kind(**off, generator=g)(x, y)
    assert got[0] is x
    assert got[1] is y
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("kind", [CutMix, Mixup, Cutout])
def test_a_batch_is_mixed_with_the_given_probability(kind):
    mix, x, y = kind(prob=0.3, generator=generator()), images(2, 1, 2, 2), torch.arange(2)
    share = np.mean([mix(x, y)[0] is not x for _ in range(600)])
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 600))


def test_a_batch_of_one_meets_itself():
    x, y = images(1, 3, 8, 8), torch.tensor([2])
    for seed in range(5):
        mixed, target = CutMix(generator=generator(seed))(x, y)
        assert torch.equal(mixed, x)
        assert torch.equal(target.soft(3), torch.tensor([[0.0, 0.0, 1.0]]))


def test_each_sample_may_have_a_box_of_its_own():
    x, y = images(6, 1, 8, 8), torch.arange(6)
    mixed, target = CutMix(per_sample=True, generator=generator())(x, y)
    changed = (mixed != x).any(1).double().mean((1, 2))
    fixed = target.y_b == y
    torch.testing.assert_close(changed[~fixed], 1 - target.lam[~fixed])
    assert len(set(target.lam.tolist())) > 1


def test_dense_targets_are_pasted_like_the_image():
    x = images(5, 1, 8, 8)
    mask = (x[:, 0] > 0).long()
    mixed, pasted = CutMix(dense=True, generator=generator())(x, mask)
    assert torch.equal(pasted, (mixed[:, 0] > 0).long())
    with pytest.raises(ValueError, match=r"maps of the image's size \(8, 8\) for dense=True"):
        CutMix(dense=True)(x, torch.arange(5))


def test_mixup_blends_by_lam_and_cutout_zeroes_cutmixs_box():
    x, y = images(5, 3, 8, 8), torch.arange(5)
    blended, target = Mixup(generator=generator(2))(x, y)
    partner = torch.tensor([y.tolist().index(b) for b in target.y_b.tolist()])
    torch.testing.assert_close(blended, target.lam * x + (1 - target.lam) * x[partner])
    cut, same = Cutout(lam=0.75, box=gaussian_box(0.0))(x, y)
    assert same is y
    assert (cut[..., 2:6, 2:6] == 0).all()
    assert (cut == 0).sum() == 5 * 3 * 16
    with pytest.raises(TypeError, match=r"floating type to be blended, got torch\.uint8"):
        Mixup()(x.to(torch.uint8), y)


@pytest.mark.parametrize("kind", [CutMix, Mixup, Cutout, partial(FeatureCutMix, nn.Identity())])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -1.0}, "alpha must be finite and not negative, got -1"),
        ({"prob": 1.5}, r"prob must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize("kind", [CutMix, Cutout])
def test_what_is_no_batch_of_images_is_refused(kind):
    with pytest.raises(ValueError, match=r"lam must lie in \[0, 1\], got 2"):
        kind(lam=2.0)
    for shape in [(4, 3), (4, 3, 0, 2)]:
        with pytest.raises(ValueError, match="must be a batch of images"):
            kind()(torch.zeros(shape), torch.zeros(4))


# The loss -----------------------------------------------------------------------------------------------------------


def a_target(lam):
    return MixedTarget(torch.tensor([0, 1, 2, 2]), torch.tensor([2, 2, 0, 1]), lam)


LAMS = [0.3, 0.0, 1.0, torch.tensor([0.1, 0.5, 1.0, 0.0], dtype=torch.float64)]


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_is_that_of_the_soft_label(lam, reduction):
    logits, target = images(4, 3), a_target(lam)
    want = F.cross_entropy(logits, target.soft(3), reduction=reduction)
    torch.testing.assert_close(mixed_cross_entropy(logits, target, reduction), want)


def test_soft_labels_are_the_mixture():
    a, b = F.one_hot(torch.tensor([0, 1, 2, 2])), F.one_hot(torch.tensor([2, 2, 0, 1]))
    torch.testing.assert_close(a_target(0.3).soft(3), 0.3 * a + 0.7 * b)
    each = torch.tensor([0.1, 0.5, 1.0, 0.0])[:, None]
    torch.testing.assert_close(a_target(LAMS[3]).soft(3), each * a + (1 - each) * b)


def test_label_variants_take_the_larger_part_or_both_in_equal_parts():
    assert [a_target(lam).larger().lam for lam in (0.3, 0.5, 0.7)] == [0, 1, 1]
    assert a_target(0.3).complete().lam == 0.5
    assert a_target(LAMS[3]).larger().lam.tolist() == [0, 1, 1, 0]
    assert a_target(LAMS[3]).complete().lam.tolist() == [0.5] * 4


def test_with_class_weights_the_loss_is_a_mixture_of_two_weighted_means():
    logits, target, weight = images(4, 3), a_target(0.3), torch.tensor([1.0, 2.0, 5.0])
    criterion = nn.CrossEntropyLoss(weight)
    want = 0.3 * criterion(logits, target.y_a) + 0.7 * criterion(logits, target.y_b)
    torch.testing.assert_close(mixed_loss(partial(F.cross_entropy, weight=weight), logits, target), want)


def test_multi_label_targets_mix_too():
    logits, a, b = images(4, 3), torch.eye(4)[:, :3], torch.ones(4, 3)
    got = mixed_loss(F.binary_cross_entropy_with_logits, logits, MixedTarget(a, b, 0.25))
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, 0.25 * a + 0.75 * b))


def test_plain_targets_have_the_plain_loss_bit_for_bit():
    logits, y = images(4, 3), torch.tensor([0, 1, 2, 2])
    assert torch.equal(mixed_cross_entropy(logits, y), F.cross_entropy(logits, y))


def test_a_target_of_no_weight_may_have_an_infinite_loss():
    logits = torch.tensor([[0.0, -math.inf]])
    assert mixed_cross_entropy(logits, MixedTarget(torch.tensor([0]), torch.tensor([1]), 1.0)) == 0


# On features ----------------------------------------------------------------------------------------------------------


def test_feature_cutmix_mixes_a_layers_output_as_cutmix_mixes_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    x, y = images(5, 3, 8, 8), torch.tensor([3, 1, 4, 1, 5])
    plain = model(x)
    with FeatureCutMix(model[0], generator=generator(1)) as features:
        mixed, target = model(x), features.target(y)
    want, want_target = CutMix(generator=generator(1))(plain.view(5, 4, 6, 6), y)
    assert torch.equal(mixed, want.flatten(1))
    assert torch.equal(target.y_b, want_target.y_b)
    assert target.lam == want_target.lam
    assert torch.equal(model(x), plain)


def test_feature_cutmix_does_nothing_in_evaluation_or_when_off():
    layer, y = nn.Conv2d(3, 4, 3), torch.arange(5)
    x = images(5, 3, 8, 8)
    plain = layer(x)
    with FeatureCutMix(layer, prob=0.0) as features:
        assert torch.equal(layer(x), plain)
        assert features.target(y) is y
    with FeatureCutMix(layer.eval()) as features:
        assert torch.equal(layer(x), plain)
        with pytest.raises(RuntimeError, match="no batch has passed"):
            features.target(y)


def test_feature_cutmix_refuses_targets_of_another_batch_or_twice():
    layer = nn.Identity()
    with FeatureCutMix(layer) as features:
        layer(images(5, 3, 8, 8))
        with pytest.raises(ValueError, match="batch's length 5, got 4"):
            features.target(torch.arange(4))
        features.target(torch.arange(5))
        with pytest.raises(RuntimeError, match="no batch has passed"):
            features.target(torch.arange(5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("per_sample", [False, True])
def test_cuda_mixes_as_the_cpu_does(per_sample):
    x, y = images(5, 3, 8, 8), torch.arange(5)
    mixed, target = CutMix(per_sample=per_sample, generator=generator())(x, y)
    there, other = CutMix(per_sample=per_sample, generator=generator())(x.cuda(), y.cuda())
    assert torch.equal(there.cpu(), mixed)
    assert torch.equal(other.soft(5).cpu(), target.soft(5))
